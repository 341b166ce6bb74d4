//! Decides when the store counts as away: errors and time-outs in a row in, open or closed out. Pure.

use std::time::Duration;

use crate::clock::Time;

/// A circuit breaker: an outage adds no wait per event, only one probe a second.
#[derive(Debug)]
pub struct Breaker {
    errors: u32,
    /// When the last of them was.
    failed_at: Option<Time>,
    open_since: Option<Time>,
}

impl Breaker {
    /// Errors in a row that open it.
    pub const THRESHOLD: u32 = 5;
    /// How often an open breaker lets a probe through.
    pub const PROBE_EVERY: Duration = Duration::from_secs(1);
    /// After so long without another, errors no longer count as in a row. What fails is tried again each second.
    pub const IN_A_ROW: Duration = Duration::from_secs(10);

    /// A closed breaker.
    #[must_use]
    pub const fn new() -> Self {
        Self { errors: 0, failed_at: None, open_since: None }
    }

    /// The store counts as away.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.open_since.is_some()
    }

    /// Takes note of a round trip that failed. True if that opens the breaker.
    pub fn failed(&mut self, now: Time) -> bool {
        self.errors = self.errors.saturating_add(1);
        self.failed_at = Some(now);
        if self.errors >= Self::THRESHOLD && self.open_since.is_none() {
            self.open_since = Some(now);
            return true;
        }
        false
    }

    /// Takes note of a round trip that was answered; `heals` if with it what failed last. An answer to something else says
    /// nothing about that. An open breaker is closed by a probe alone.
    pub fn answered(&mut self, heals: bool, now: Time) {
        let long_ago = self.failed_at.is_some_and(|at| now.since(at) >= Self::IN_A_ROW);
        if self.open_since.is_none() && (heals || long_ago) {
            self.errors = 0;
        }
    }

    /// Takes note of a probe that was answered. True if that closes the breaker.
    pub fn probed(&mut self) -> bool {
        self.errors = 0;
        self.open_since.take().is_some()
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_five_errors_in_a_row_and_only_then() {
        let mut breaker = Breaker::new();
        for _ in 0..4 {
            assert!(!breaker.failed(Time::default()));
        }
        breaker.answered(true, Time::default());
        for _ in 0..4 {
            assert!(!breaker.failed(Time::default()));
        }
        assert!(!breaker.is_open());
        assert!(breaker.failed(Time::default()));
        assert!(breaker.is_open());
    }

    #[test]
    fn an_answer_to_something_else_heals_nothing_but_time_does() {
        let (start, mut breaker) = (Time::default(), Breaker::new());
        for _ in 0..4 {
            assert!(!breaker.failed(start));
            breaker.answered(false, start);
        }
        breaker.answered(false, start + Breaker::IN_A_ROW);
        for _ in 0..4 {
            assert!(!breaker.failed(start + Breaker::IN_A_ROW));
        }
        assert!(breaker.failed(start + Breaker::IN_A_ROW));
    }

    #[test]
    fn only_a_probe_closes_it() {
        let mut breaker = Breaker::new();
        for _ in 0..5 {
            breaker.failed(Time::default());
        }
        breaker.answered(true, Time::default());
        assert!(breaker.is_open(), "a reply that was under way says nothing");
        assert!(breaker.probed());
        assert!(!breaker.is_open());
    }
}
