//! Decides whether the promise was kept: what was published, what took effect, what was committed and when, and what went wrong, in;
//! losses, second effects by window, and broken promises out. Pure.

use std::collections::BTreeMap;

use harness::ledger::Published;

use crate::app::Entry;
use crate::history::{History, Moment, SENT_BEFORE};
use crate::kind::{Kind, Window};

/// How many of each fault of ours are told in full.
const TOLD: usize = 5;

/// What was committed, by partition, and when that was read at the latest.
pub(crate) type Committed = (u64, BTreeMap<i32, i64>);

/// Everything that is known at the end of a round.
#[derive(Debug)]
pub(crate) struct Evidence {
    pub(crate) published: Published,
    /// What took effect, with the number of the pod.
    pub(crate) effects: Vec<(usize, Entry)>,
    /// Events in the dead-letter topic, and when they came there, in milliseconds since the epoch.
    pub(crate) dead: Vec<(String, u64)>,
    pub(crate) commits: Vec<Committed>,
    pub(crate) history: History,
}

/// What came of a round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) records: usize,
    pub(crate) events: usize,
    pub(crate) effects: usize,
    pub(crate) rejected: usize,
    pub(crate) lost: Vec<String>,
    pub(crate) second: BTreeMap<(Window, Option<Kind>), usize>,
    pub(crate) outside: Vec<String>,
    pub(crate) past: Vec<String>,
    pub(crate) unknown: Vec<String>,
    /// Effects at times when nothing had been wrong for a while.
    pub(crate) quiet: usize,
    pub(crate) samples: usize,
    pub(crate) recoveries: Vec<Recovery>,
}

/// How long after a kill a partition flowed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recovery {
    pub(crate) kind: Kind,
    pub(crate) millis: u64,
}

impl Verdict {
    /// Nothing was lost, and nothing came twice without a window.
    pub(crate) fn is_kept(&self) -> bool {
        self.lost.is_empty() && self.outside.is_empty() && self.past.is_empty() && self.unknown.is_empty()
    }

    /// Adds another round's.
    pub(crate) fn add(&mut self, other: Self) {
        self.records += other.records;
        self.events += other.events;
        self.effects += other.effects;
        self.rejected += other.rejected;
        self.quiet += other.quiet;
        self.samples += other.samples;
        self.lost.extend(other.lost);
        self.outside.extend(other.outside);
        self.past.extend(other.past);
        self.unknown.extend(other.unknown);
        self.recoveries.extend(other.recoveries);
        for (of, count) in other.second {
            *self.second.entry(of).or_default() += count;
        }
    }

    /// What is wrong, for people.
    pub(crate) fn wrongs(&self) -> String {
        let lists = [
            ("lost", &self.lost),
            ("a second effect outside every window", &self.outside),
            ("committed past an unsettled record", &self.past),
            ("an effect of nothing that was published", &self.unknown),
        ];
        let mut text = String::new();
        for (what, list) in lists {
            for one in list.iter().take(TOLD) {
                text.push_str(&format!("{what}: {one}\n"));
            }
            if list.len() > TOLD {
                text.push_str(&format!("{what}: {} more\n", list.len() - TOLD));
            }
        }
        text
    }
}

/// Judges a round.
pub(crate) fn check(evidence: &Evidence) -> Verdict {
    let mut effects: BTreeMap<&str, Vec<Moment>> = BTreeMap::new();
    for (pod, entry) in &evidence.effects {
        effects.entry(entry.effect.event.as_str()).or_default().push(Moment {
            pod: *pod,
            at: entry.effect.at,
            attempt: entry.effect.attempt,
            full: entry.effect.protection == "full",
            answered: entry.answered,
        });
    }
    let mut settled: BTreeMap<&str, u64> = BTreeMap::new();
    for (event, at) in &evidence.dead {
        settled.entry(event).and_modify(|first| *first = (*first).min(*at)).or_insert(*at);
    }
    let mut verdict = Verdict {
        records: evidence.published.records(),
        events: evidence.published.unique(),
        effects: evidence.effects.len(),
        rejected: settled.len(),
        samples: evidence.commits.len(),
        quiet: evidence.effects.iter().filter(|(_, entry)| evidence.history.is_quiet(entry.effect.at)).count(),
        ..Verdict::default()
    };
    for (event, moments) in &mut effects {
        moments.sort_by_key(|moment| moment.at);
        settled.entry(event).and_modify(|first| *first = (*first).min(moments[0].at)).or_insert(moments[0].at);
        if !evidence.published.events.contains_key(*event) {
            verdict.unknown.push(format!("{event}: {moments:?}"));
        }
        second(event, moments, &evidence.history, &mut verdict);
    }
    for event in evidence.published.events.keys().filter(|event| !settled.contains_key(event.as_str())) {
        verdict.lost.push(format!("{event}, published at {:?}", evidence.published.events[event]));
    }
    past(evidence, &settled, &mut verdict);
    verdict.recoveries = recoveries(evidence);
    verdict
}

fn second(event: &str, moments: &[Moment], history: &History, verdict: &mut Verdict) {
    let mut highest = moments[0].attempt;
    for pair in moments.windows(2) {
        let window = history.window(&pair[0], &pair[1], highest);
        match window {
            Some(window) => *verdict.second.entry(window).or_default() += 1,
            None => verdict.outside.push(format!("{event}: {:?} then {:?}", pair[0], pair[1])),
        }
        // Who has forgotten an event counts from the beginning.
        let forgotten = matches!(window, Some((Window::Away | Window::DataLoss, _)));
        highest = if forgotten { pair[1].attempt } else { highest.max(pair[1].attempt) };
    }
}

/// Below a committed offset every record was settled by then: its event had its effect, or was a dead letter.
fn past(evidence: &Evidence, settled: &BTreeMap<&str, u64>, verdict: &mut Verdict) {
    let mut partitions: BTreeMap<i32, Vec<(i64, &str)>> = BTreeMap::new();
    for (event, places) in &evidence.published.events {
        for (_, partition, offset) in places {
            partitions.entry(*partition).or_default().push((*offset, event));
        }
    }
    for (partition, mut records) in partitions {
        records.sort_unstable();
        // For each record, the time from which on all up to it were settled, and the one that took longest.
        let mut latest = (0, "");
        let settled_up_to: Vec<(i64, u64, &str)> = records
            .iter()
            .map(|(offset, event)| {
                let at = settled.get(event).copied().unwrap_or(u64::MAX);
                latest = latest.max((at, *event));
                (*offset, latest.0, latest.1)
            })
            .collect();
        for (read, committed) in &evidence.commits {
            let Some(committed) = committed.get(&partition) else { continue };
            let below = settled_up_to.partition_point(|(offset, ..)| offset < committed);
            let Some((_, at, event)) = below.checked_sub(1).and_then(|last| settled_up_to.get(last)) else { continue };
            if at > read {
                verdict.past.push(format!(
                    "partition {partition}: {committed} was read at {read}, and {event} settled at {at}"
                ));
            }
        }
    }
}

/// From each kill that nothing else got mixed up with, until every partition that the killed one held flowed again. What its app had already is
/// no sign of that.
fn recoveries(evidence: &Evidence) -> Vec<Recovery> {
    let mut by_partition: BTreeMap<i32, Vec<(u64, usize)>> = BTreeMap::new();
    for (pod, entry) in &evidence.effects {
        by_partition.entry(entry.effect.partition).or_default().push((entry.effect.at, *pod));
    }
    by_partition.values_mut().for_each(|effects| effects.sort_unstable());
    let kills =
        evidence.history.faults.iter().filter(|fault| {
            matches!(fault.kind, Kind::KillSidecar | Kind::KillPod)
                && !evidence.history.faults.iter().any(|other| {
                    other != *fault && other.start <= fault.start + 8_000 && fault.start <= other.end + 3_000
                })
        });
    kills
        .filter_map(|kill| {
            let flows_again = by_partition.values().filter_map(|effects| {
                let after = effects.partition_point(|(at, _)| *at <= kill.start);
                let (last, pod) = effects[..after].last()?;
                let held = Some(*pod) == kill.pod && *last + 1_000 >= kill.start;
                let again = effects.partition_point(|(at, _)| *at <= kill.start + SENT_BEFORE);
                held.then(|| effects.get(again).map(|(at, _)| at - kill.start)).flatten()
            });
            Some(Recovery { kind: kill.kind, millis: flows_again.max()? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use harness::ledger::Effect;

    use super::*;
    use crate::history::Interval;

    fn entry(event: &str, at: u64, attempt: u32) -> (usize, Entry) {
        let effect = Effect {
            event: event.into(),
            key: "k".into(),
            attempt,
            protection: "full".into(),
            topic: "t".into(),
            partition: 0,
            offset: 0,
            at,
        };
        (0, Entry { effect, answered: true })
    }

    fn evidence(effects: Vec<(usize, Entry)>) -> Evidence {
        let mut published = Published::default();
        for (offset, event) in ["a", "b", "a"].iter().enumerate() {
            published.add(*event, "t", 0, offset as i64);
        }
        Evidence { published, effects, dead: Vec::new(), commits: Vec::new(), history: History::default() }
    }

    #[test]
    fn all_once_is_kept() {
        let mut evidence = evidence(vec![entry("a", 10, 1), entry("b", 20, 1)]);
        evidence.commits = vec![(15, [(0, 1)].into()), (25, [(0, 3)].into())];
        let verdict = check(&evidence);
        assert!(verdict.is_kept(), "{verdict:?}");
        assert_eq!((verdict.records, verdict.events, verdict.effects), (3, 2, 2));
    }

    #[test]
    fn after_a_loss_of_writes_attempts_count_from_the_beginning() {
        let mut wrong = entry("a", 30_100, 1);
        wrong.1.answered = false;
        let mut evidence = evidence(vec![entry("a", 10_000, 2), wrong, entry("a", 30_200, 2), entry("b", 10, 1)]);
        evidence.history.faults = vec![Interval { kind: Kind::Flush, pod: None, start: 20_000, end: 20_000 }];
        let verdict = check(&evidence);
        assert!(verdict.is_kept(), "{verdict:?}");
        let windows: Vec<Window> = verdict.second.keys().map(|(window, _)| *window).collect();
        assert_eq!(windows, [Window::Answer, Window::DataLoss]);
        evidence.history.faults.clear();
        assert_eq!(check(&evidence).outside.len(), 2, "without it, none of them is told");
    }

    #[test]
    fn a_lost_event_a_second_effect_and_a_commit_too_far_are_seen() {
        let mut evidence = evidence(vec![entry("a", 10, 1), entry("a", 30, 1)]);
        evidence.commits = vec![(25, [(0, 2)].into())];
        let verdict = check(&evidence);
        assert_eq!((verdict.lost.len(), verdict.outside.len(), verdict.past.len()), (1, 1, 1), "{verdict:?}");
        evidence.dead = vec![("b".into(), 24)];
        let verdict = check(&evidence);
        assert_eq!((verdict.lost.len(), verdict.past.len(), verdict.rejected), (0, 0, 1), "a dead letter settles");
    }
}
