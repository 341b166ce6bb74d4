//! Decides what time it is: a clock that runs on while the machine sleeps. The one place that reads it; `Time` itself is pure.

use std::ops::Add;
use std::time::Duration;

/// A moment on `CLOCK_BOOTTIME`: it neither jumps nor stops while the machine is suspended, so that a session that ran out
/// during a sleep is known to have run out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(Duration);

impl Time {
    /// A moment so long after boot; for tests and simulations.
    #[must_use]
    pub const fn at(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    /// The moment it is now.
    #[must_use]
    pub fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let secs = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
        Self(Duration::new(secs, nanos))
    }

    /// How long after `earlier`; zero if it is not after.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}
