//! Decides when a record is copied to another topic before it passes: dead letters and skipped duplicates. Pure.

use std::sync::Arc;
use std::time::Duration;

use super::{Effect, Phase, Pipeline, Ticket};
use crate::claim::Claim;
use crate::clock::Time;
use crate::dead_letter::{DeadLetter, Verdict as Fate};
use crate::kafka::ProduceError;
use crate::outcome::{self, Reason};

/// Pause before a copy that the broker refused for good is tried again: somebody may have raised the topic's limit.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// Why an event will not come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The app rejected it.
    Rejected,
    /// It failed `maxAttempts` times.
    Exhausted,
}

/// A copy that is being written.
#[derive(Debug)]
pub(super) struct Copy {
    ticket: Ticket,
    /// The claim that is settled once the copy is written; none for a duplicate.
    claim: Option<Claim>,
    topic: Arc<str>,
    about: DeadLetter,
    tries: u32,
    /// The broker has refused it for good.
    refused: bool,
    /// It is to be tried again then; `None` while it is on its way.
    pub(super) retry_at: Option<Time>,
}

impl Pipeline {
    /// A copy was written, or was not.
    pub fn copied(&mut self, id: usize, result: Result<(), ProduceError>, now: Time) {
        self.follow_verdicts(now);
        let Some(copy) = self.copies.get_mut(id) else { return };
        let ticket = copy.ticket;
        match result {
            Ok(()) => {
                let copy = self.copies.remove(id);
                self.resume_partition(ticket);
                match copy.claim {
                    Some(claim) => {
                        self.counters.dead_letters += 1;
                        self.set_phase(ticket, Phase::Settling);
                        let fingerprint = self.entries[ticket].identity.fingerprint;
                        self.gate.complete(claim, fingerprint, now);
                    }
                    None => {
                        self.tally.duplicates_copied += 1;
                        self.settled(ticket);
                    }
                }
            }
            Err(error) => {
                copy.tries = copy.tries.saturating_add(1);
                let jitter = f64::from(self.rng.next_u32()) / f64::from(u32::MAX);
                let pause = outcome::backoff(copy.tries, &self.config.backoff, None, jitter);
                copy.retry_at = Some(now + if error.permanent { REFUSED_PAUSE } else { pause });
                copy.refused = error.permanent;
                if let Some(claim) = &copy.claim {
                    self.gate.stall(claim);
                }
                self.findings.copies_refused = Some((copy.topic.clone(), error.message));
                if error.permanent {
                    self.halt_partition(ticket, now);
                }
            }
        }
        self.follow_verdicts(now);
    }

    /// The event will not come again. Its claim is settled, after the dead letter where one is set.
    pub(super) fn reject(&mut self, ticket: Ticket, claim: Claim, reason: &Reason, kind: Kind, now: Time) {
        let fate = match kind {
            Kind::Rejected => Fate::Rejected,
            Kind::Exhausted => Fate::Failed,
        };
        match self.config.dead_letter_topic.clone() {
            Some(topic) => {
                let attempts = self.gate.requests(&claim).max(self.entries[ticket].requests).max(1);
                self.copy(ticket, Some(claim), topic, fate, reason.to_string(), attempts);
            }
            None => {
                let fingerprint = self.entries[ticket].identity.fingerprint;
                self.gate.complete(claim, fingerprint, now);
            }
        }
    }

    /// The event is done already: its record passes, after the copy where one is set.
    pub(super) fn skip(&mut self, ticket: Ticket, suspect: bool) {
        self.note_decision(ticket, if suspect { "skip (suspect)" } else { "skip" }, None);
        self.counters.duplicates += 1;
        self.counters.suspects += u64::from(suspect);
        self.touch_queue_of(ticket);
        match self.config.duplicates_topic.clone() {
            Some(topic) => {
                let fate = if suspect { Fate::Suspect } else { Fate::Duplicate };
                self.busy += 1;
                if let Some(at) = self.entries[ticket].partition {
                    self.partitions[at].busy += 1;
                }
                self.copy(ticket, None, topic, fate, "the event was settled before".to_owned(), 0);
            }
            None => self.pass_offset(ticket),
        }
    }

    pub(super) fn retry_copies(&mut self, now: Time) {
        let due = |copy: &Copy| copy.retry_at.is_some_and(|at| now >= at);
        let ids: Vec<usize> = self.copies.iter().filter(|(_, copy)| due(copy)).map(|(id, _)| id).collect();
        for id in ids {
            self.copies[id].retry_at = None;
            self.write_copy(id);
        }
    }

    fn copy(
        &mut self,
        ticket: Ticket,
        claim: Option<Claim>,
        topic: Arc<str>,
        fate: Fate,
        reason: String,
        attempts: u32,
    ) {
        self.set_phase(ticket, Phase::Copying);
        let entry = &self.entries[ticket];
        let about = DeadLetter {
            origin: entry.record.origin.clone(),
            offset: entry.offset,
            timestamp: entry.record.timestamp,
            group: self.config.group.clone(),
            event_id: entry.identity.id,
            idempotency_key: entry.key.text().to_string(),
            outcome: fate,
            reason,
            attempts,
        };
        let id = self.copies.insert(Copy { ticket, claim, topic, about, tries: 0, refused: false, retry_at: None });
        self.write_copy(id);
    }

    fn write_copy(&mut self, id: usize) {
        let copy = &self.copies[id];
        let record = self.entries[copy.ticket].record.clone();
        let (topic, about) = (copy.topic.clone(), Box::new(copy.about.clone()));
        self.effects.push(Effect::Copy { id, topic, record, about });
    }

    /// Copies that the broker refuses, of that partition or of all: nothing is under way for them.
    pub(super) fn stuck_copies(&self, partition: Option<usize>) -> usize {
        let stuck = |copy: &Copy| {
            copy.refused
                && copy.retry_at.is_some()
                && partition.is_none_or(|at| self.entries[copy.ticket].partition == Some(at))
        };
        self.copies.iter().filter(|(_, copy)| stuck(copy)).count()
    }

    /// Nothing moves in its partition, and nothing is held there that another could deliver.
    fn halt_partition(&mut self, ticket: Ticket, now: Time) {
        let Some(at) = self.entries[ticket].partition else { return };
        self.partitions[at].halted = true;
        for queue in self.queues_of(at) {
            self.withdraw_undelivered(queue, now);
        }
    }

    fn resume_partition(&mut self, ticket: Ticket) {
        if self.copies.iter().all(|(_, copy)| copy.tries == 0) {
            self.findings.copies_refused = None;
        }
        let Some(at) = self.entries[ticket].partition else { return };
        if self.copies.iter().any(|(_, copy)| copy.refused && self.entries[copy.ticket].partition == Some(at)) {
            return;
        }
        if std::mem::take(&mut self.partitions[at].halted) {
            for queue in self.queues_of(at) {
                self.touch(queue);
            }
        }
    }

    fn queues_of(&self, partition: usize) -> Vec<usize> {
        self.queues.iter().filter(|(_, queue)| queue.partition == partition).map(|(at, _)| at).collect()
    }
}
