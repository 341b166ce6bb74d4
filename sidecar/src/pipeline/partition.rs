//! Decides what becomes of partitions: assigned, committed, revoked, lost. Pure.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::{Effect, Phase, Pipeline};
use crate::clock::Time;
use crate::kafka::CommitRequest;
use crate::record::{Offset, TopicPartition};
use crate::watermark::Watermark;

/// A partition that this sidecar holds.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) place: TopicPartition,
    /// Which assignment it is: records of an earlier one don't count.
    pub(super) epoch: u64,
    pub(super) watermark: Watermark,
    /// The queues of its records by record key; under `None` the queue of the partition, or of records without a key.
    pub(super) queues: HashMap<Option<Bytes>, usize>,
    /// Entries from delivery to settlement.
    pub(super) busy: usize,
    pub(super) revoking: bool,
    /// Its topic was deleted and created again: its offsets mean nothing any more.
    void: bool,
    /// A copy of a record was refused for good: nothing moves until it is taken.
    pub(super) halted: bool,
    /// The broker's end of the partition.
    pub(super) end: Option<Offset>,
    /// Where the group stands by what the broker says: that is the watermark until a record is read.
    stands: Option<Offset>,
    /// What was asked to be committed last; at first, where reading began.
    requested: Option<Offset>,
    /// What is known to be committed.
    committed: Option<Offset>,
}

impl Partition {
    fn new(place: TopicPartition, epoch: u64) -> Self {
        Self {
            place,
            epoch,
            watermark: Watermark::default(),
            queues: HashMap::new(),
            busy: 0,
            revoking: false,
            void: false,
            halted: false,
            end: None,
            stands: None,
            requested: None,
            committed: None,
        }
    }

    pub(super) const fn is_stopped(&self) -> bool {
        self.revoking || self.halted
    }

    /// Reading began at this offset, if none was read before: up to here nothing needs a commit.
    pub(super) fn first_offset(&mut self, offset: Offset) {
        self.requested.get_or_insert(offset);
        self.committed.get_or_insert(offset);
    }

    /// The offset that is due to be committed.
    pub(super) fn commit(&self) -> Option<Offset> {
        self.watermark.committable().filter(|offset| !self.void && Some(*offset) > self.requested)
    }

    /// The lowest offset not settled, as far as it is known.
    pub(super) fn watermark(&self) -> Option<Offset> {
        self.watermark.committable().or(self.stands)
    }

    fn request(&self, offset: Offset) -> CommitRequest {
        CommitRequest { partition: self.place.clone(), epoch: self.epoch, offset }
    }

    /// Everything settled is known to be committed, or is of no use to commit.
    pub(super) fn is_committed(&self) -> bool {
        self.void || self.watermark.committable() <= self.committed
    }
}

/// Partitions that are to be given up as soon as nothing of theirs is under way.
#[derive(Debug)]
pub(super) struct Revocation {
    pub(super) partitions: Vec<usize>,
    pub(super) deadline: Time,
}

impl Pipeline {
    /// Partitions were assigned.
    pub fn assigned(&mut self, places: Vec<TopicPartition>, epoch: u64) {
        self.tally.assigned += 1;
        for place in places {
            let at = self.partitions.insert(Partition::new(place.clone(), epoch));
            self.by_place.insert(place, at);
        }
    }

    /// Partitions are to be given up: [`Effect::FinishRevoke`] follows, once what is under way is settled, or after the drain
    /// time-out.
    pub fn revoked(&mut self, places: &[TopicPartition], now: Time) {
        self.tally.revoked += 1;
        let partitions = self.stop(places, now);
        self.revocations.push(Revocation { partitions, deadline: now + self.config.drain_timeout });
    }

    /// Partitions are another's already: nothing is committed.
    pub fn lost(&mut self, places: &[TopicPartition], now: Time) {
        self.tally.lost += 1;
        for at in self.stop(places, now) {
            self.give_up(at);
        }
    }

    /// A topic was deleted and created again: what is under way of the old one settles, nothing more of it starts, and no
    /// offset of it is committed.
    pub fn recreated(&mut self, topic: &str, now: Time) {
        let places: Vec<TopicPartition> =
            self.by_place.keys().filter(|place| &*place.topic == topic).cloned().collect();
        for at in self.stop(&places, now) {
            self.partitions[at].void = true;
        }
    }

    /// An offset was committed.
    pub fn committed(&mut self, place: &TopicPartition, offset: Offset) {
        self.tally.commits += 1;
        self.findings.commit_failed = None;
        if let Some(partition) = self.partition_mut(place) {
            partition.committed = partition.committed.max(Some(offset));
        }
    }

    /// An offset was not committed: the next commit tries again.
    pub fn commit_failed(&mut self, place: &TopicPartition, error: &str) {
        self.tally.commits_failed += 1;
        self.findings.commit_failed = Some(format!("{place}: {error}"));
        if let Some(partition) = self.partition_mut(place) {
            partition.requested = partition.committed;
        }
    }

    /// The broker's end of a partition, and where the group stands there, for the lag.
    pub fn extent_of(&mut self, place: &TopicPartition, end: Offset, committed: Option<Offset>) {
        if let Some(partition) = self.partition_mut(place) {
            partition.end = Some(end);
            partition.stands = committed;
        }
    }

    pub(super) fn commit(&mut self, now: Time) {
        // At a standstill every commit may be the last one; what just failed has to wait all the same.
        let eager = !self.flow.is_running() && self.findings.commit_failed.is_none();
        if now < self.commit_due && !eager {
            return;
        }
        let mut requests = Vec::new();
        for (_, partition) in &mut self.partitions {
            if let Some(offset) = partition.commit().filter(|_| !partition.revoking) {
                partition.requested = Some(offset);
                requests.push(partition.request(offset));
            }
        }
        if !requests.is_empty() {
            self.commit_due = now + self.config.commit_every;
            self.effects.push(Effect::Commit(requests));
        }
    }

    pub(super) fn finish_revocations(&mut self, now: Time) {
        if self.revocations.is_empty() {
            return;
        }
        let stuck: HashMap<usize, usize> =
            self.partitions.iter().map(|(at, _)| (at, self.stuck_copies(Some(at)))).collect();
        let still = |at: &usize| self.partitions[*at].busy == stuck.get(at).copied().unwrap_or(0);
        let ready = |revocation: &mut Revocation| now >= revocation.deadline || revocation.partitions.iter().all(still);
        let finished: Vec<Revocation> = self.revocations.extract_if(.., ready).collect();
        for revocation in finished {
            let mut partitions = Vec::new();
            let mut commits = Vec::new();
            for at in revocation.partitions {
                let partition = &self.partitions[at];
                if let Some(offset) = partition.watermark.committable().filter(|_| !partition.is_committed()) {
                    commits.push(partition.request(offset));
                }
                partitions.push(partition.place.clone());
                self.give_up(at);
            }
            self.effects.push(Effect::FinishRevoke { partitions, commits });
        }
    }

    fn partition_mut(&mut self, place: &TopicPartition) -> Option<&mut Partition> {
        self.by_place.get(place).and_then(|at| self.partitions.get_mut(*at))
    }

    /// Stops partitions: what is not under way is given back and forgotten.
    fn stop(&mut self, places: &[TopicPartition], now: Time) -> Vec<usize> {
        self.follow_verdicts(now);
        let stopped: Vec<usize> = places.iter().filter_map(|place| self.by_place.get(place).copied()).collect();
        for at in &stopped {
            self.partitions[*at].revoking = true;
        }
        let going: HashSet<usize> = stopped.iter().copied().collect();
        let queues: Vec<usize> =
            self.queues.iter().filter(|(_, q)| going.contains(&q.partition)).map(|(at, _)| at).collect();
        for queue in &queues {
            self.withdraw_undelivered(*queue, now);
        }
        // Once for all: with a queue for each record there are tens of thousands.
        let gone = |at: &usize| self.queues.get(*at).is_none_or(|queue| going.contains(&queue.partition));
        self.touched.retain(|at| !gone(at));
        self.starved.retain(|at| !gone(at));
        self.deliverable.retain(|at| !gone(at));
        for queue in queues {
            self.dissolve(queue);
        }
        self.follow_verdicts(now);
        stopped
    }

    /// Drops a queue that stands in no list any more: entries under way go on without it, the others are forgotten, to be read again by the next owner.
    fn dissolve(&mut self, at: usize) {
        let queue = self.queues.remove(at);
        self.partitions[queue.partition].queues.remove(&queue.key);
        for ticket in queue.entries {
            let entry = &mut self.entries[ticket];
            entry.queue = None;
            if matches!(entry.phase, Phase::Queued) {
                let (place, bytes) = (entry.record.origin.clone(), entry.record.size());
                self.entries.remove(ticket);
                self.make_room(place, self.partitions[queue.partition].epoch, 1, bytes);
            } else {
                self.forget_if_gone(ticket);
            }
        }
    }

    /// Forgets a partition. What is under way goes on and settles, without an offset to pass.
    fn give_up(&mut self, at: usize) {
        let partition = self.partitions.remove(at);
        self.by_place.remove(&partition.place);
        // It may be lost while it is being revoked.
        for revocation in &mut self.revocations {
            revocation.partitions.retain(|revoked| *revoked != at);
        }
        for (_, entry) in &mut self.entries {
            if entry.partition == Some(at) {
                entry.partition = None;
            }
        }
    }
}
