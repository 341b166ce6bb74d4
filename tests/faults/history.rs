//! Decides which windows were open for an event, from what was done and when. Pure.

use crate::kind::{Kind, Window};

/// How long after the effect its answer may take to be settled, with nothing else wrong, in milliseconds. On two cores, beside a broker
/// that starts: generous, and yet far below the time between two copies of an event that have nothing to do with each other.
const SETTLES: u64 = 5_000;
/// How long the app may take for an answer before it counts as none.
pub(crate) const ANSWERS: u64 = 2_000;
/// How long after Redis is back until what was completed meanwhile is written back, and every sidecar has a session again.
const WRITTEN_BACK: u64 = 15_000;
/// How long after a session's end its owner may still be unaware of it, or its request on the wire.
const UNAWARE: u64 = 8_000;

/// How long after a sidecar's death what it had sent to the app may take effect.
pub(crate) const SENT_BEFORE: u64 = 500;
/// How long after Redis has lost writes an event may take effect that was claimed before.
const CLAIMED_BEFORE: u64 = 4_000;

/// A fault, and when it was, in milliseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interval {
    pub(crate) kind: Kind,
    /// Which pod it struck; `None` struck all, or what they share.
    pub(crate) pod: Option<usize>,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// An effect, as far as it decides which window it fell in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) pod: usize,
    pub(crate) at: u64,
    pub(crate) attempt: u32,
    /// Redis gated it.
    pub(crate) full: bool,
    /// The app answered that it did it.
    pub(crate) answered: bool,
}

/// Everything that went wrong.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) faults: Vec<Interval>,
    /// With policy `Open` events flow without Redis; with `Closed` that is no window.
    pub(crate) open: bool,
}

impl History {
    /// The window in which an event took effect again, and the fault that opened it; `None` if none was open. `highest` is the highest
    /// attempt so far.
    pub(crate) fn window(&self, before: &Moment, again: &Moment, highest: u32) -> Option<(Window, Option<Kind>)> {
        // In these, the attempt tells the app.
        if again.attempt > highest {
            if !before.answered {
                return Some((Window::Answer, None));
            }
            let silenced = |fault: &Interval| {
                fault.kind.silences_app() && fault.strikes(before.pod) && fault.overlaps(before.at, before.at + ANSWERS)
            };
            if let Some(fault) = self.find(silenced) {
                return Some((Window::Answer, Some(fault)));
            }
            if let Some(fault) = self.find(|fault| self.died(fault, before, again)) {
                return Some((Window::Death, Some(fault)));
            }
            let ended = |fault: &Interval| {
                let strikes = fault.strikes(before.pod) || fault.strikes(again.pod);
                fault.kind.ends_session() && strikes && fault.overlaps(before.at.saturating_sub(UNAWARE), again.at)
            };
            if let Some(fault) = self.find(ended) {
                return Some((Window::Session, Some(fault)));
            }
        }
        let lost = |fault: &Interval| {
            fault.kind.loses_writes() && fault.overlaps(before.at.saturating_sub(CLAIMED_BEFORE), again.at)
        };
        if let Some(fault) = self.find(lost) {
            return Some((Window::DataLoss, Some(fault)));
        }
        let away = |fault: &Interval| {
            // A lost request alone makes Redis no absentee, unless the sidecar says that it took it for one.
            let hides = fault.kind.hides_redis() || (!again.full || !before.full) && fault.kind.loses_messages();
            hides && fault.start <= again.at && before.at <= fault.end + WRITTEN_BACK
        };
        if self.open
            && let Some(fault) = self.find(away)
        {
            return Some((Window::Away, Some(fault)));
        }
        None
    }

    /// The sidecar that had the effect's answer died before it could settle it: soon after, or while it could not.
    fn died(&self, death: &Interval, before: &Moment, again: &Moment) -> bool {
        let sent = before.at.saturating_sub(SENT_BEFORE);
        let died = death.kind.ends_sidecar() && death.strikes(before.pod) && death.overlaps(sent, again.at);
        let unsettled = death.start <= before.at + SETTLES
            || self.faults.iter().any(|fault| {
                (fault.kind.hides_redis() || fault.kind.ends_session()) && fault.overlaps(before.at, death.start)
            });
        died && unsettled
    }

    fn find(&self, open: impl Fn(&Interval) -> bool) -> Option<Kind> {
        self.faults.iter().find(|fault| open(fault)).map(|fault| fault.kind)
    }

    /// Was nothing wrong at that time, and some seconds before?
    pub(crate) fn is_quiet(&self, at: u64) -> bool {
        !self.faults.iter().any(|fault| fault.overlaps(at.saturating_sub(WRITTEN_BACK), at))
    }
}

impl Interval {
    fn strikes(&self, pod: usize) -> bool {
        self.pod.is_none_or(|struck| struck == pod)
    }

    fn overlaps(&self, start: u64, end: u64) -> bool {
        self.start <= end && start <= self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(pod: usize, at: u64, attempt: u32) -> Moment {
        Moment { pod, at, attempt, full: true, answered: true }
    }

    fn history(kind: Kind, pod: Option<usize>, start: u64, end: u64) -> History {
        History { faults: vec![Interval { kind, pod, start, end }], open: true }
    }

    #[test]
    fn without_a_fault_there_is_no_window() {
        let history = History { open: true, ..History::default() };
        assert_eq!(history.window(&moment(0, 1_000, 1), &moment(1, 2_000, 2), 1), None);
        let unanswered = Moment { answered: false, ..moment(0, 1_000, 1) };
        assert_eq!(history.window(&unanswered, &moment(1, 2_000, 2), 1), Some((Window::Answer, None)));
        assert_eq!(history.window(&unanswered, &moment(1, 2_000, 1), 1), None, "the app was not told");
    }

    #[test]
    fn a_death_opens_one_for_its_own_pod_and_for_a_short_time() {
        let killed = history(Kind::KillSidecar, Some(0), 101_000, 101_000);
        let window = |pod, at, attempt| killed.window(&moment(pod, at, 1), &moment(1, 110_000, attempt), 1);
        assert_eq!(window(0, 100_500, 2), Some((Window::Death, Some(Kind::KillSidecar))));
        assert_eq!(window(1, 100_500, 2), None, "another's death");
        assert_eq!(window(0, 90_000, 2), None, "it was settled long before");
        assert_eq!(window(0, 101_200, 2), Some((Window::Death, Some(Kind::KillSidecar))), "the app had it already");
        assert_eq!(window(0, 102_500, 2), None, "it was dead already");
        assert_eq!(window(0, 100_500, 1), None, "the app was not told");
    }

    #[test]
    fn redis_away_is_a_window_only_where_events_flow_without_it() {
        let mut away = history(Kind::KillRedis, None, 100_000, 103_000);
        let again = Moment { full: false, ..moment(1, 102_000, 1) };
        let window = |history: &History| history.window(&moment(0, 101_000, 1), &again, 1);
        assert_eq!(window(&away), Some((Window::Away, Some(Kind::KillRedis))));
        assert_eq!(
            away.window(&moment(0, 101_000, 1), &moment(1, 300_000, 1), 1),
            Some((Window::Away, Some(Kind::KillRedis)))
        );
        assert_eq!(away.window(&moment(0, 150_000, 1), &moment(1, 300_000, 1), 1), None, "Redis was back");
        away.open = false;
        assert_eq!(window(&away), None);
    }

    #[test]
    fn a_lost_reply_opens_none_by_itself() {
        let lost = history(Kind::LoseReplies, Some(1), 100_000, 100_500);
        assert_eq!(lost.window(&moment(0, 100_000, 1), &moment(1, 100_200, 1), 1), None);
        assert_eq!(lost.window(&moment(0, 100_000, 1), &moment(1, 100_200, 2), 1), None);
    }
}
