//! Decides what moves in one queue: claims ahead of the head, and nothing behind a head that waits. Pure.

use std::collections::VecDeque;

use bytes::Bytes;
use crds::config::Ordering;

use super::{CLAIMS_AHEAD, Phase, Pipeline, Ticket};
use crate::clock::Time;
use crate::gate::{Stance, Wanted};
use crate::record::Record;

/// Records that wait for each other: of a partition, of a key, or one alone.
#[derive(Debug)]
pub(super) struct Queue {
    /// The partition it belongs to.
    pub(super) partition: usize,
    /// The record key whose queue it is, with [`Ordering::Key`].
    pub(super) key: Option<Bytes>,
    /// Its entries in order.
    pub(super) entries: VecDeque<Ticket>,
    /// So many entries from the front have been asked for at the gate, or are past it.
    pub(super) requested: usize,
    /// A delivery from it is under way.
    pub(super) delivering: bool,
    /// It stands in the list of deliverable queues.
    pub(super) listed: bool,
    /// It stands in the list of queues that wait until fewer claims run ahead.
    pub(super) starved: bool,
    /// It stands in the list of queues that may have something to move.
    pub(super) touched: bool,
}

impl Pipeline {
    /// The queue in which a record of that partition waits.
    pub(super) fn queue_for(&mut self, partition: usize, record: &Record) -> usize {
        let key = match self.config.ordering {
            Ordering::Unordered => return self.new_queue(partition, None),
            Ordering::Partition => None,
            Ordering::Key => record.key.clone(),
        };
        if let Some(queue) = self.partitions[partition].queues.get(&key) {
            return *queue;
        }
        let queue = self.new_queue(partition, key.clone());
        self.partitions[partition].queues.insert(key, queue);
        queue
    }

    fn new_queue(&mut self, partition: usize, key: Option<Bytes>) -> usize {
        self.queues.insert(Queue {
            partition,
            key,
            entries: VecDeque::new(),
            requested: 0,
            delivering: false,
            listed: false,
            starved: false,
            touched: false,
        })
    }

    /// Moves what can move in a queue.
    pub(super) fn pump(&mut self, at: usize, now: Time) {
        self.pop_passed(at);
        let Some(&head) = self.queues[at].entries.front() else { return self.drop_queue(at) };
        if !self.flow.is_running() || self.partitions[self.queues[at].partition].is_stopped() {
            return;
        }
        if self.queues[at].requested == 0 && !self.request_next(at, now) {
            return;
        }
        if self.waits(head) {
            return self.withdraw_from(at, 1, now);
        }
        while self.queues[at].requested < self.queues[at].entries.len().min(self.window()) {
            if !self.request_next(at, now) {
                break;
            }
        }
        self.list_if_deliverable(at);
    }

    /// Does this entry wait without moving by itself? Then its queue may hold nothing behind it.
    pub(super) fn waits(&self, ticket: Ticket) -> bool {
        let entry = &self.entries[ticket];
        matches!(entry.phase, Phase::Requested { .. })
            && !matches!(self.gate.stance(ticket, &entry.key), Stance::Claiming | Stance::Moving)
    }

    /// Gives up every claim, and every wish for one, from the entry at `from` on.
    pub(super) fn withdraw_from(&mut self, at: usize, from: usize, now: Time) {
        let upto = self.queues[at].entries.len();
        // Back to front: what is given up is not handed to a later entry of the same queue first.
        for place in (from..upto).rev() {
            let ticket = self.queues[at].entries[place];
            match &self.entries[ticket].phase {
                Phase::Requested { .. } => {
                    let key = self.entries[ticket].key.clone();
                    self.gate.withdraw(ticket, &key, now);
                    self.set_phase(ticket, Phase::Queued);
                }
                Phase::Claimed(_) => {
                    if let Phase::Claimed(claim) = self.set_phase(ticket, Phase::Queued) {
                        self.gate.give_back(claim, now);
                    }
                }
                _ => {}
            }
        }
        let queue = &mut self.queues[at];
        queue.requested = queue.requested.min(from);
    }

    /// Gives up every claim of every queue, but not what is under delivery.
    pub(super) fn withdraw_all(&mut self, now: Time) {
        let queues: Vec<usize> = self.queues.iter().map(|(at, _)| at).collect();
        for at in queues {
            self.withdraw_undelivered(at, now);
        }
    }

    /// The same for one queue.
    pub(super) fn withdraw_undelivered(&mut self, at: usize, now: Time) {
        self.absorb_verdicts(now);
        let under_way = |ticket: &&Ticket| {
            let phase = &self.entries[**ticket].phase;
            phase.passed() || matches!(phase, Phase::Delivering(_))
        };
        let from = self.queues[at].entries.iter().take_while(under_way).count();
        self.withdraw_from(at, from, now);
    }

    /// Lets every queue move that can.
    pub(super) fn touch_all(&mut self) {
        let queues: Vec<usize> = self.queues.iter().map(|(at, _)| at).collect();
        for at in queues {
            self.touch(at);
        }
    }

    /// Claims for the queues that had to wait until fewer claims run ahead.
    pub(super) fn claim_for_starved(&mut self, now: Time) {
        while self.ahead < self.ahead_most
            && let Some(at) = self.starved.pop_front()
        {
            if let Some(queue) = self.queues.get_mut(at).filter(|queue| queue.starved) {
                queue.starved = false;
                self.touch(at);
                self.follow_verdicts(now);
            }
        }
    }

    /// Drops an empty queue. A partition's own queue stays with it.
    pub(super) fn drop_queue(&mut self, at: usize) {
        if self.config.ordering == Ordering::Partition {
            return;
        }
        let queue = self.queues.remove(at);
        if queue.starved {
            self.starved.retain(|starved| *starved != at);
        }
        if queue.listed {
            self.deliverable.retain(|listed| *listed != at);
        }
        if self.config.ordering == Ordering::Key {
            self.partitions[queue.partition].queues.remove(&queue.key);
        }
    }

    fn window(&self) -> usize {
        match self.config.ordering {
            Ordering::Partition => CLAIMS_AHEAD.max(2 * self.config.batch),
            // The bound over all queues keeps claims few; a key's next record is claimed while its first is delivered.
            Ordering::Key => 8,
            Ordering::Unordered => 1,
        }
    }

    /// Asks the gate for the next entry of a queue. False if too many claims run ahead.
    fn request_next(&mut self, at: usize, now: Time) -> bool {
        let next = self.queues[at].requested;
        let ticket = self.queues[at].entries[next];
        if matches!(self.entries[ticket].phase, Phase::Queued) {
            if self.ahead >= self.ahead_most {
                if !self.queues[at].starved {
                    self.queues[at].starved = true;
                    self.starved.push_back(at);
                }
                return false;
            }
            self.set_phase(ticket, Phase::Requested { waiting: false });
            let entry = &self.entries[ticket];
            let wanted = Wanted { fingerprint: entry.identity.fingerprint, terms: entry.terms, past: entry.past };
            self.gate.request(ticket, &entry.key, wanted, now);
            let waiting = self.waits(ticket);
            self.set_phase(ticket, Phase::Requested { waiting });
        }
        self.queues[at].requested += 1;
        true
    }

    /// Takes from the front what is past the app.
    fn pop_passed(&mut self, at: usize) {
        while let Some(&head) = self.queues[at].entries.front()
            && self.entries[head].phase.passed()
        {
            let queue = &mut self.queues[at];
            queue.entries.pop_front();
            queue.requested = queue.requested.saturating_sub(1);
            self.entries[head].queue = None;
            self.forget_if_gone(head);
        }
    }

    fn list_if_deliverable(&mut self, at: usize) {
        let queue = &self.queues[at];
        let Some(head) = queue.entries.front() else { return };
        if !queue.delivering && !queue.listed && matches!(self.entries[*head].phase, Phase::Claimed(_)) {
            self.queues[at].listed = true;
            self.deliverable.push_back(at);
        }
    }
}
