//! Decides whether the process kills itself at a step of the way, for tests of faults. Without the feature `fail-points`, which no
//! release has, it is nothing. I/O with it: reads the environment, ends the process.

use crate::store::Op;

/// Names the step and how often it is passed before: `done.sent:20` dies the twentieth time.
pub const VARIABLE: &str = "IDEMPOTENCY_FAIL_POINT";

/// The steps, in the order of a record's way.
pub const STEPS: [&str; 8] = [
    "claim.unsent",
    "claim.answered",
    "delivery.unsent",
    "delivery.answered",
    "done.unsent",
    "done.answered",
    "commit.unsent",
    "commit.answered",
];

/// Passes a step; the process may not come back from it.
#[cfg(feature = "fail-points")]
pub(crate) fn pass(step: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    static CHOSEN: OnceLock<Option<(String, usize)>> = OnceLock::new();
    static PASSED: AtomicUsize = AtomicUsize::new(0);
    let chosen = CHOSEN.get_or_init(|| {
        let text = std::env::var(VARIABLE).ok()?;
        let (step, times) = text.split_once(':')?;
        Some((step.to_owned(), times.parse().ok()?))
    });
    let Some((_, times)) = chosen.as_ref().filter(|(chosen, _)| chosen == step) else { return };
    if PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *times {
        // Not `exit`: nothing of ours runs any more, as when the kernel kills it.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        std::thread::park();
    }
}

/// Passes a step.
#[cfg(not(feature = "fail-points"))]
#[inline]
pub(crate) const fn pass(_step: &str) {}

/// The steps that a round trip to the store is.
#[cfg(feature = "fail-points")]
pub(crate) struct RoundTrip {
    claims: bool,
    settles: bool,
}

#[cfg(feature = "fail-points")]
impl RoundTrip {
    pub(crate) fn of(ops: &[Op]) -> Self {
        Self {
            claims: ops.iter().any(|op| matches!(op, Op::SetIfAbsent { .. })),
            settles: ops.iter().any(|op| matches!(op, Op::Set { .. })),
        }
    }

    pub(crate) fn unsent(&self) {
        self.pass("claim.unsent", "done.unsent");
    }

    pub(crate) fn answered(&self) {
        self.pass("claim.answered", "done.answered");
    }

    fn pass(&self, claim: &str, done: &str) {
        if self.claims {
            pass(claim);
        }
        if self.settles {
            pass(done);
        }
    }
}

/// The steps that a round trip to the store is.
#[cfg(not(feature = "fail-points"))]
pub(crate) struct RoundTrip;

#[cfg(not(feature = "fail-points"))]
#[allow(clippy::unused_self, reason = "as with the feature")]
impl RoundTrip {
    #[inline]
    pub(crate) const fn of(_ops: &[Op]) -> Self {
        Self
    }

    #[inline]
    pub(crate) const fn unsent(&self) {}

    #[inline]
    pub(crate) const fn answered(&self) {}
}
