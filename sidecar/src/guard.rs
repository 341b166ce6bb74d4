//! Decides which panics are expected: those of foreign code that is known to panic on strange input. Pure, but for the thread's flag.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`; `None` where it panics. Its panic ends nothing, unlike any other ([`crate::logging::exit_on_panic`]).
pub fn survive<T>(f: impl FnOnce() -> T) -> Option<T> {
    let before = EXPECTED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(f));
    EXPECTED.set(before);
    done.ok()
}

/// A panic in this thread, now, is one that [`survive`] waits for.
#[must_use]
pub fn is_expected() -> bool {
    EXPECTED.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_inside_is_expected_and_one_outside_is_not() {
        assert_eq!(survive(is_expected), Some(true));
        assert!(!is_expected());
        assert_eq!(survive(|| -> u8 { panic!("strange input") }), None);
        assert!(!is_expected());
    }
}
