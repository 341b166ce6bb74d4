//! Decides what goes to the app in one request, and what follows from its outcomes. Pure.

use crds::config::Ordering;
use crds::status::Protection;

use super::copy::Kind;
use super::{Effect, Phase, Pipeline, Ticket};
use crate::claim::Claim;
use crate::clock::Time;
use crate::deliver::Parcel;
use crate::gate::{self, Stance};
use crate::outcome::{self, Outcome, Reason};

/// One request under way.
#[derive(Debug)]
pub(super) struct Delivery {
    /// Its events in order.
    entries: Vec<Ticket>,
    /// The queues they come from; each delivers one at a time.
    queues: Vec<usize>,
}

impl Pipeline {
    /// The app has answered, or has not: the outcomes of a request's events, in their order.
    pub fn delivered(&mut self, id: usize, mut outcomes: Vec<Outcome>, now: Time) {
        self.follow_verdicts(now);
        let Some(delivery) = self.deliveries.try_remove(id) else { return };
        for queue in delivery.queues {
            if let Some(found) = self.queues.get_mut(queue) {
                found.delivering = false;
            }
            self.touch(queue);
        }
        let together = delivery.entries.len();
        let whole = failed_as_a_whole(&outcomes);
        if self.config.ordering == Ordering::Partition {
            outcomes = outcome::in_order(outcomes);
        }
        if whole {
            self.halve(&delivery.entries, &outcomes);
        } else if together > 1 {
            self.set_apart(&delivery.entries, &outcomes);
        }
        for (ticket, outcome) in delivery.entries.into_iter().zip(outcomes) {
            if let Phase::Delivering(claim) = self.set_phase(ticket, Phase::Settling) {
                self.follow_outcome(ticket, claim, outcome, !whole, now);
            }
        }
        self.follow_verdicts(now);
    }

    /// Starts what can be started.
    pub(super) fn start_deliveries(&mut self, now: Time) {
        while self.flow.is_running()
            && self.deliveries.len() < self.config.concurrency
            && let Some(queue) = self.deliverable.pop_front()
        {
            self.queues[queue].listed = false;
            let mut starting = Starting::default();
            self.take_from(queue, &mut starting, now);
            if self.config.ordering != Ordering::Partition {
                self.fill(&mut starting, now);
            }
            self.send(starting);
        }
    }

    /// Takes the heads of further queues into the same request.
    fn fill(&mut self, starting: &mut Starting, now: Time) {
        let mut unfit = Vec::new();
        while starting.has_room(self.config.batch)
            && let Some(queue) = self.deliverable.pop_front()
        {
            let head = self.queues[queue].entries.front();
            if head.is_some_and(|head| !starting.fits(self.entries[*head].batch_cap)) {
                unfit.push(queue);
                continue;
            }
            self.queues[queue].listed = false;
            self.take_from(queue, starting, now);
        }
        // They keep their place before those that came later.
        for queue in unfit.into_iter().rev() {
            self.deliverable.push_front(queue);
        }
    }

    /// Takes what one queue can give: its head, or with a batch in partition order the claimed run behind it too.
    fn take_from(&mut self, queue: usize, starting: &mut Starting, now: Time) {
        if self.partitions[self.queues[queue].partition].is_stopped() {
            return;
        }
        let most = if self.config.ordering == Ordering::Partition { self.config.batch } else { 1 };
        if most > 1 && self.worth_waiting(queue, most) {
            return;
        }
        let (mut place, mut taken) = (0, 0);
        while starting.has_room(self.config.batch)
            && taken < most
            && let Some(&ticket) = self.queues[queue].entries.get(place)
        {
            place += 1;
            match &self.entries[ticket].phase {
                // A duplicate inside the run: it is past the app already.
                phase if phase.passed() => continue,
                Phase::Claimed(_) if starting.fits(self.entries[ticket].batch_cap) => {}
                _ => break,
            }
            if !self.start_one(ticket, starting, now) {
                break;
            }
            taken += 1;
        }
        if starting.queue_of_last == Some(queue) {
            starting.queues.push(queue);
            self.queues[queue].delivering = true;
        }
    }

    /// The run of claimed events could grow at once: the answer to the next one's claim is on its way.
    fn worth_waiting(&self, queue: usize, most: usize) -> bool {
        let entries = &self.queues[queue].entries;
        let end = entries.iter().take(most).position(|ticket| {
            let phase = &self.entries[*ticket].phase;
            !phase.passed() && !matches!(phase, Phase::Claimed(_))
        });
        let Some(next) = end.and_then(|at| entries.get(at)) else { return false };
        let entry = &self.entries[*next];
        matches!(entry.phase, Phase::Requested { .. }) && self.gate.stance(*next, &entry.key) == Stance::Claiming
    }

    fn start_one(&mut self, ticket: Ticket, starting: &mut Starting, now: Time) -> bool {
        let Phase::Claimed(claim) = self.set_phase(ticket, Phase::Requested { waiting: false }) else { return false };
        let Some(started) = self.gate.start(claim, now) else { return false };
        let protection = gate::protection(started.gated, self.covers(now));
        let entry = &self.entries[ticket];
        let attempt = started.claim.attempt();
        starting.parcels.push(Parcel {
            record: entry.record.clone(),
            identity: entry.identity.clone(),
            idempotency_key: entry.key.text().clone(),
            attempt,
            protection,
        });
        starting.take(ticket, entry.batch_cap, entry.queue);
        let partition = entry.partition;
        self.count_start(attempt, protection);
        self.note_decision(ticket, "deliver", Some(attempt));
        self.set_phase(ticket, Phase::Delivering(started.claim));
        self.busy += 1;
        if let Some(at) = partition {
            self.partitions[at].busy += 1;
        }
        true
    }

    fn count_start(&mut self, attempt: u32, protection: Protection) {
        self.counters.redeliveries += u64::from(attempt > 1);
        let count = match protection {
            Protection::Full => &mut self.tally.delivered_full,
            Protection::Local => &mut self.tally.delivered_local,
            Protection::None => &mut self.tally.delivered_none,
        };
        *count += 1;
        self.counters.unprotected += u64::from(protection != Protection::Full);
    }

    fn send(&mut self, starting: Starting) {
        if starting.entries.is_empty() {
            return;
        }
        self.tally.batches += 1;
        self.tally.batched_events += starting.entries.len() as u64;
        let id = self.deliveries.insert(Delivery { entries: starting.entries, queues: starting.queues });
        self.effects.push(Effect::Deliver { id, parcels: starting.parcels });
    }

    /// `own` if the outcome is the event's own, and not that of the whole batch it was in.
    fn follow_outcome(&mut self, ticket: Ticket, claim: Claim, outcome: Outcome, own: bool, now: Time) {
        match outcome {
            Outcome::Completed => {
                self.note_decision(ticket, "completed", Some(claim.attempt()));
                self.counters.completed += 1;
                let fingerprint = self.entries[ticket].identity.fingerprint;
                self.gate.complete(claim, fingerprint, now);
            }
            Outcome::Rejected(reason) => {
                self.note_decision(ticket, "rejected", Some(claim.attempt()));
                self.counters.rejected += 1;
                self.reject(ticket, claim, &reason, Kind::Rejected, now);
            }
            Outcome::Failed { reason, retry_after, sent } => {
                self.note_decision(ticket, "failed", Some(claim.attempt()));
                if let Reason::NotSent(why) = &reason {
                    return self.unsent(ticket, claim, why, now);
                }
                self.counters.failed += 1;
                let reached = self.gate.requests(&claim).max(self.entries[ticket].requests) + u32::from(sent);
                self.entries[ticket].requests = reached;
                // Who stood behind a failed event is not to blame, nor is anyone while a whole batch failed: it is halved first.
                if own && reason != Reason::BehindFailed && self.config.max_attempts.is_some_and(|most| reached >= most)
                {
                    return self.reject(ticket, claim, &reason, Kind::Exhausted, now);
                }
                self.fail(ticket, claim, &reason, retry_after, sent, now);
            }
        }
    }

    /// The request never left: the app is down. That is no attempt, and nothing backs off.
    fn unsent(&mut self, ticket: Ticket, claim: Claim, why: &str, now: Time) {
        self.app_is_down(why, now);
        self.come_again(ticket, claim, false, now, now);
    }

    fn fail(
        &mut self,
        ticket: Ticket,
        claim: Claim,
        reason: &Reason,
        retry_after: Option<std::time::Duration>,
        sent: bool,
        now: Time,
    ) {
        let mut not_before = now;
        if *reason != Reason::BehindFailed {
            let entry = &mut self.entries[ticket];
            entry.failures = entry.failures.saturating_add(1);
            let jitter = f64::from(self.rng.next_u32()) / f64::from(u32::MAX);
            not_before = now + outcome::backoff(entry.failures, &self.config.backoff, retry_after, jitter);
        }
        tracing::info!(
            topic = %self.entries[ticket].record.origin.topic,
            partition = self.entries[ticket].record.origin.partition,
            offset = self.entries[ticket].offset,
            attempt = claim.attempt(),
            %reason,
            "a delivery failed; the event comes again"
        );
        self.come_again(ticket, claim, sent, not_before, now);
    }

    /// Gives the event back, to be delivered again: from here, or from wherever its partition is by then.
    fn come_again(&mut self, ticket: Ticket, claim: Claim, sent: bool, not_before: Time, now: Time) {
        let past = &mut self.entries[ticket].past;
        past.not_before = not_before;
        if sent {
            past.attempt = past.attempt.max(claim.attempt());
        }
        self.not_busy(ticket);
        let Some(queue) = self.entries[ticket].queue else {
            self.gate.release(claim, sent, not_before, false, now);
            return self.drop_orphan(ticket);
        };
        if self.flow.is_running() && !self.partitions[self.queues[queue].partition].is_stopped() {
            self.set_phase(ticket, Phase::Requested { waiting: true });
            self.gate.release(claim, sent, not_before, true, now);
        } else {
            self.set_phase(ticket, Phase::Queued);
            self.gate.release(claim, sent, not_before, false, now);
            self.queues[queue].requested = 0;
        }
        self.touch(queue);
    }

    /// An entry without a queue comes again elsewhere. While its partition is still here, it is neither settled nor under way.
    fn drop_orphan(&mut self, ticket: Ticket) {
        let entry = self.entries.remove(ticket);
        if let Some(at) = entry.partition {
            self.make_room(entry.record.origin.clone(), self.partitions[at].epoch, 1, entry.record.size());
        }
    }

    pub(super) fn not_busy(&mut self, ticket: Ticket) {
        self.busy -= 1;
        if let Some(at) = self.entries[ticket].partition {
            self.partitions[at].busy -= 1;
        }
    }

    /// What failed by its own result, among others, goes alone from now on.
    fn set_apart(&mut self, entries: &[Ticket], outcomes: &[Outcome]) {
        for (ticket, outcome) in entries.iter().zip(outcomes) {
            if matches!(outcome, Outcome::Failed { reason, .. } if *reason != Reason::BehindFailed) {
                self.entries[*ticket].batch_cap = 1;
            }
        }
    }

    /// A batch that fails as a whole is halved, until the event that breaks it stands alone. One that never left was not broken by
    /// any of its events.
    fn halve(&mut self, entries: &[Ticket], outcomes: &[Outcome]) {
        if matches!(outcomes, [Outcome::Failed { reason: Reason::NotSent(_), .. }, ..]) {
            return;
        }
        let half = (entries.len() / 2).max(1);
        for ticket in entries {
            self.entries[*ticket].batch_cap = half;
        }
    }
}

/// Several events failed and all alike: the answer told none of them apart.
fn failed_as_a_whole(outcomes: &[Outcome]) -> bool {
    match outcomes {
        [first @ Outcome::Failed { .. }, rest @ ..] => !rest.is_empty() && rest.iter().all(|outcome| outcome == first),
        _ => false,
    }
}

/// A request in the making.
#[derive(Debug, Default)]
struct Starting {
    entries: Vec<Ticket>,
    queues: Vec<usize>,
    parcels: Vec<Parcel>,
    /// The smallest cap of those taken.
    cap: Option<usize>,
    queue_of_last: Option<usize>,
}

impl Starting {
    fn has_room(&self, most: usize) -> bool {
        self.entries.len() < self.cap.unwrap_or(most).min(most)
    }

    /// Would an event with that cap go into this request?
    fn fits(&self, cap: usize) -> bool {
        self.entries.len() < cap
    }

    fn take(&mut self, ticket: Ticket, cap: usize, queue: Option<usize>) {
        self.entries.push(ticket);
        self.cap = Some(self.cap.map_or(cap, |smallest| smallest.min(cap)));
        self.queue_of_last = queue;
    }
}
