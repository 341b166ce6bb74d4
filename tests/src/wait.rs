//! Decides how a test waits: for a condition, looked at again and again, never for a span of time. I/O: the clock.

use std::fmt::{Debug, Display};
use std::time::{Duration, Instant};

/// The pause between two looks.
pub const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What a look at a condition can return.
pub trait Look {
    /// What is known once the condition holds.
    type Value;

    /// The value when the condition holds, else the state it is in, for the failure text.
    ///
    /// # Errors
    /// The condition does not hold yet.
    fn holds(self) -> Result<Self::Value, String>;
}

impl Look for bool {
    type Value = ();

    fn holds(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("false".into()) }
    }
}

impl<T> Look for Option<T> {
    type Value = T;

    fn holds(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing there".into())
    }
}

impl<T, E: Display> Look for Result<T, E> {
    type Value = T;

    fn holds(self) -> Result<T, String> {
        // The alternate form shows the causes of an anyhow error too.
        self.map_err(|e| format!("{e:#}"))
    }
}

/// Looks until the condition holds, and returns what it found.
///
/// # Panics
/// It did not hold within `deadline`: the text says what was waited for and the last state seen.
pub async fn eventually<L: Look>(what: impl Display, deadline: Duration, mut look: impl AsyncFnMut() -> L) -> L::Value {
    let start = Instant::now();
    let mut last = String::from("not looked at once: the first look did not return");
    loop {
        let left = deadline.saturating_sub(start.elapsed());
        match tokio::time::timeout(left.max(LOOK_AGAIN), look()).await.map(Look::holds) {
            Ok(Ok(value)) => return value,
            Ok(Err(state)) => last = state,
            Err(_) => panic!("{what}: not within {deadline:?}; the last look hung; before it: {last}"),
        }
        assert!(start.elapsed() < deadline, "{what}: not within {deadline:?}; last state: {last}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Looks for as long as `span` and fails as soon as the condition does not hold: for what must *not* happen.
///
/// # Panics
/// It stopped holding.
pub async fn always(what: impl Display, span: Duration, mut look: impl AsyncFnMut() -> Result<(), String>) {
    let start = Instant::now();
    while start.elapsed() < span {
        if let Err(state) = look().await {
            panic!("{what}: held only for {:?}: {state}", start.elapsed());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Text for a failed comparison: what was wanted and what is there.
///
/// # Errors
/// They differ.
pub fn equal<T: PartialEq + Debug>(got: &T, wanted: &T) -> Result<(), String> {
    if got == wanted { Ok(()) } else { Err(format!("{got:?}, wanted {wanted:?}")) }
}
