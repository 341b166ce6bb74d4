//! Decides how a test waits: for a condition, looked at again and again, never for a span of time. I/O: the clock.

use std::fmt::{Debug, Display};
use std::future::Future;
use std::panic::Location;
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
/// It did not hold within `deadline`: the text says what was waited for, where in the test, and the last state seen.
#[track_caller]
pub fn eventually<L: Look>(
    what: impl Display,
    deadline: Duration,
    look: impl AsyncFnMut() -> L,
) -> impl Future<Output = L::Value> {
    // Here and not in the async part, which has no caller.
    let place = Location::caller();
    async move {
        let found = look_until(deadline, LOOK_AGAIN, look).await;
        found.unwrap_or_else(|last| panic!("{what}: not within {deadline:?} ({place}); {last}"))
    }
}

/// As [`eventually`], for conditions that are dear to look at, such as those that the API server is asked for.
///
/// # Panics
/// It did not hold within `deadline`.
#[track_caller]
pub fn patiently<L: Look>(
    what: impl Display,
    deadline: Duration,
    look: impl AsyncFnMut() -> L,
) -> impl Future<Output = L::Value> {
    let place = Location::caller();
    async move {
        let found = look_until(deadline, LOOK_AGAIN * 10, look).await;
        found.unwrap_or_else(|last| panic!("{what}: not within {deadline:?} ({place}); {last}"))
    }
}

async fn look_until<L: Look>(
    deadline: Duration,
    pause: Duration,
    mut look: impl AsyncFnMut() -> L,
) -> Result<L::Value, String> {
    let start = Instant::now();
    let mut last = String::from("none");
    loop {
        let left = deadline.saturating_sub(start.elapsed());
        match tokio::time::timeout(left.max(LOOK_AGAIN), look()).await.map(Look::holds) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(state)) => last = state,
            Err(_) => return Err(format!("the last look did not return; last state before: {last}")),
        }
        if start.elapsed() >= deadline {
            return Err(format!("last state: {last}"));
        }
        tokio::time::sleep(pause).await;
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

/// As [`always`], for conditions that are dear to look at.
///
/// # Panics
/// It stopped holding.
pub async fn throughout(what: impl Display, span: Duration, mut look: impl AsyncFnMut() -> Result<(), String>) {
    let start = Instant::now();
    while start.elapsed() < span {
        if let Err(state) = look().await {
            panic!("{what}: held only for {:?}: {state}", start.elapsed());
        }
        tokio::time::sleep(LOOK_AGAIN * 25).await;
    }
}

/// Text for a failed comparison: what was wanted and what is there.
///
/// # Errors
/// They differ.
pub fn equal<T: PartialEq + Debug>(got: &T, wanted: &T) -> Result<(), String> {
    if got == wanted { Ok(()) } else { Err(format!("{got:?}, wanted {wanted:?}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn returns_what_it_found_once_it_is_there() {
        let mut looks = 0;
        let found = eventually("third look", Duration::from_secs(5), async || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err("not yet") }
        });
        assert_eq!(found.await, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "src/wait.rs")]
    async fn names_the_place_of_the_wait() {
        eventually("never", LOOK_AGAIN, async || false).await;
    }

    #[tokio::test]
    #[should_panic(expected = "last state before: none")]
    async fn a_look_that_hangs_meets_the_deadline() {
        eventually("never", LOOK_AGAIN, async || std::future::pending::<bool>().await).await;
    }
}
