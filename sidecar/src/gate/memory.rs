//! Decides what the sidecar itself remembers: ids it has settled lately, and those that wait to be written back. Pure.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::claim::Key;
use crate::clock::Time;
use crate::event_id::Fingerprint;

/// Ids that this sidecar has settled lately: the gate of last resort while the store is away.
#[derive(Debug)]
pub struct RecentIds {
    capacity: usize,
    until: HashMap<u128, (Time, Option<Fingerprint>)>,
    order: VecDeque<(u128, Time)>,
    /// Until then something is missing that gave way before its time.
    gap_until: Time,
}

impl RecentIds {
    /// A memory of so many ids.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity, until: HashMap::new(), order: VecDeque::new(), gap_until: Time::default() }
    }

    /// Remembers a settled event until its TTL ends; the oldest gives way.
    pub fn insert(&mut self, key: &Key, fingerprint: Option<Fingerprint>, until: Time) {
        while self.order.len() >= self.capacity {
            let Some((digest, until)) = self.order.pop_front() else { break };
            // A later insertion of the same id stands further behind in the order.
            if self.until.get(&digest).is_some_and(|(at, _)| *at == until) {
                self.until.remove(&digest);
                self.gap_until = self.gap_until.max(until);
            }
        }
        self.until.insert(key.digest(), (until, fingerprint));
        self.order.push_back((key.digest(), until));
    }

    /// Was this event settled here, and is that still to be remembered? Gives its fingerprint.
    #[must_use]
    pub fn get(&self, key: &Key, now: Time) -> Option<Option<Fingerprint>> {
        self.until.get(&key.digest()).filter(|(until, _)| now < *until).map(|(_, fingerprint)| *fingerprint)
    }

    /// Nothing gave way that would still have to be remembered.
    #[must_use]
    pub fn is_whole(&self, now: Time) -> bool {
        now >= self.gap_until
    }

    /// How many are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.until.len()
    }

    /// Nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.until.is_empty()
    }
}

/// An event that was settled while the store was away.
#[derive(Clone, Debug, PartialEq)]
pub struct Unwritten {
    /// Its key.
    pub key: Key,
    /// The value that says done.
    pub value: Bytes,
    /// The envelope's fingerprint in it.
    pub fingerprint: Option<Fingerprint>,
    /// How long it is to be remembered, counted from `since`.
    pub ttl: Duration,
    /// When it was settled.
    pub since: Time,
}

/// Settled events that the store doesn't know yet. They count as done here, and are written when it returns.
#[derive(Debug)]
pub struct WriteBack {
    capacity: usize,
    queue: VecDeque<Unwritten>,
    /// Those on the wire or in the queue, by digest; the number of entries for each.
    waiting: HashMap<u128, (usize, Option<Fingerprint>)>,
    overflow: u64,
}

impl WriteBack {
    /// A queue for so many.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity, queue: VecDeque::new(), waiting: HashMap::new(), overflow: 0 }
    }

    /// Queues one; the oldest gives way when the queue is full, and is counted.
    pub fn push(&mut self, unwritten: Unwritten) {
        if self.queue.len() >= self.capacity
            && let Some(oldest) = self.queue.pop_front()
        {
            self.written(&oldest);
            self.overflow += 1;
        }
        let entry = self.waiting.entry(unwritten.key.digest()).or_insert((0, unwritten.fingerprint));
        entry.0 += 1;
        self.queue.push_back(unwritten);
    }

    /// Takes up to `most` to be written, without those whose TTL is over. Each is given back by [`WriteBack::written`] or
    /// [`WriteBack::failed`].
    pub fn take(&mut self, most: usize, now: Time) -> Vec<Unwritten> {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(next) = self.queue.pop_front()
        {
            if now.since(next.since) < next.ttl {
                taken.push(next);
            } else {
                self.written(&next);
            }
        }
        taken
    }

    /// It is in the store now.
    pub fn written(&mut self, unwritten: &Unwritten) {
        let digest = unwritten.key.digest();
        if let Some((count, _)) = self.waiting.get_mut(&digest) {
            *count -= 1;
            if *count == 0 {
                self.waiting.remove(&digest);
            }
        }
    }

    /// It could not be written: it waits behind the others, which may lie on another node.
    pub fn failed(&mut self, unwritten: Unwritten) {
        self.queue.push_back(unwritten);
    }

    /// Does this event wait to be written? Then it is done. Gives its fingerprint.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Option<Fingerprint>> {
        self.waiting.get(&key.digest()).map(|(_, fingerprint)| *fingerprint)
    }

    /// How many wait, those on the wire with them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// None waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many gave way since the start.
    #[must_use]
    pub const fn overflow(&self) -> u64 {
        self.overflow
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::KeyPrefix;
    use crate::event_id::EventId;

    fn key(n: u8) -> Key {
        KeyPrefix::render("p:", "g", "t", "").key(&EventId([n; 32]))
    }

    fn at(secs: u64) -> Time {
        Time::at(Duration::from_secs(secs))
    }

    fn unwritten(n: u8) -> Unwritten {
        let (value, ttl) = (Bytes::from_static(b"1"), Duration::from_secs(60));
        Unwritten { key: key(n), value, fingerprint: None, ttl, since: at(0) }
    }

    #[test]
    fn recent_ids_forget_the_oldest_and_what_has_expired() {
        let mut recent = RecentIds::new(2);
        for n in 1..=3 {
            recent.insert(&key(n), None, at(10));
        }
        assert_eq!(recent.get(&key(1), at(0)), None);
        assert!(!recent.is_whole(at(9)) && recent.is_whole(at(10)), "what gave way is missing until its time is over");
        assert_eq!(recent.get(&key(2), at(0)), Some(None));
        assert_eq!(recent.get(&key(3), at(10)), None);
    }

    #[test]
    fn a_repeated_id_is_not_forgotten_with_its_first_mention() {
        let mut recent = RecentIds::new(2);
        recent.insert(&key(1), None, at(10));
        recent.insert(&key(1), None, at(20));
        recent.insert(&key(2), None, at(20));
        assert_eq!(recent.get(&key(1), at(15)), Some(None));
    }

    #[test]
    fn what_waits_counts_as_done_until_it_is_written() {
        let mut queue = WriteBack::new(10);
        queue.push(unwritten(1));
        let taken = queue.take(10, at(1));
        assert_eq!(queue.get(&key(1)), Some(None), "also while on the wire");
        queue.failed(taken[0].clone());
        assert_eq!(queue.take(10, at(1)), taken);
        queue.written(&taken[0]);
        assert!(queue.is_empty());
    }

    #[test]
    fn what_could_not_be_written_holds_up_no_other() {
        let mut queue = WriteBack::new(10);
        queue.push(unwritten(1));
        queue.push(unwritten(2));
        let stuck = queue.take(1, at(1));
        queue.failed(stuck[0].clone());
        assert_eq!(queue.take(1, at(1)), [unwritten(2)]);
    }

    #[test]
    fn overflow_drops_the_oldest_and_counts_it() {
        let mut queue = WriteBack::new(2);
        for n in 1..=3 {
            queue.push(unwritten(n));
        }
        assert_eq!((queue.overflow(), queue.get(&key(1)), queue.len()), (1, None, 2));
    }

    #[test]
    fn what_has_outlived_its_ttl_is_not_written() {
        let mut queue = WriteBack::new(2);
        queue.push(unwritten(1));
        assert!(queue.take(10, at(60)).is_empty());
        assert!(queue.is_empty());
    }
}
