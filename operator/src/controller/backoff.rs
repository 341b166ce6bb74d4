//! Decides how long to wait before trying again. Pure: chance is a parameter.

use std::time::Duration;

/// The first pause after a failure.
const FIRST: Duration = Duration::from_millis(500);
/// No pause after a failure is longer.
const LONGEST: Duration = Duration::from_secs(60);
/// The first pause after the API server has refused what was asked for: it will again, unless a policy changes.
const FIRST_REFUSED: Duration = Duration::from_secs(10);
/// No pause after a refusal is longer.
const LONGEST_REFUSED: Duration = Duration::from_secs(300);
/// How often the sidecars are asked.
const ASK: Duration = Duration::from_secs(10);

/// The pause after so many failures in a row; `chance` is from 0 to 1.
#[must_use]
pub fn after_failure(failures: u32, chance: f64) -> Duration {
    grown(FIRST, LONGEST, failures, chance)
}

/// The pause after so many refusals in a row.
#[must_use]
pub fn after_refusal(refusals: u32, chance: f64) -> Duration {
    grown(FIRST_REFUSED, LONGEST_REFUSED, refusals, chance)
}

/// When one that can't be carried out is looked at again, though nothing has changed that is known of.
#[must_use]
pub fn after_mistake(chance: f64) -> Duration {
    LONGEST_REFUSED.mul_f64(0.9 + chance.clamp(0.0, 1.0) / 5.0)
}

/// When the sidecars are asked again: every ten seconds, a second more or less, so that consumers don't march in step.
#[must_use]
pub fn until_asked(chance: f64) -> Duration {
    ASK - Duration::from_secs(1) + Duration::from_secs(2).mul_f64(chance.clamp(0.0, 1.0))
}

/// Doubled each time, and from a half to the whole of it.
fn grown(first: Duration, longest: Duration, times: u32, chance: f64) -> Duration {
    let doubled = 1_u32.checked_shl(times.saturating_sub(1).min(16)).unwrap_or(u32::MAX);
    first.saturating_mul(doubled).min(longest).mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let pauses: Vec<_> = (1..=9).map(|n| after_failure(n, 1.0).as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(after_failure(u32::MAX, 0.0), LONGEST / 2);
        assert_eq!(after_refusal(20, 1.0), LONGEST_REFUSED);
    }

    #[test]
    fn sidecars_are_asked_every_ten_seconds_or_so() {
        assert_eq!((until_asked(0.0).as_secs(), until_asked(1.0).as_secs()), (9, 11));
    }
}
