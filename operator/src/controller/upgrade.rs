//! Decides which consumers are rolled out anew by another operator, a few at a time. Pure bookkeeping.

use std::collections::{BTreeMap, BTreeSet};

use super::key::Key;

/// What becomes of consumers that another operator rolled out, or this one with another default sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Upgrade {
    /// They stay until their spec changes: upgrading the operator restarts no app.
    #[default]
    #[value(name = "OnChange")]
    OnChange,
    /// They are rolled, a few at a time.
    #[value(name = "Rolling")]
    Rolling,
}

/// How a roll ended, or did not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Pods are being replaced.
    UnderWay,
    /// All pods are new and available.
    Complete,
    /// It is stuck, or was refused.
    Failed,
}

/// Who may be rolled now.
///
/// # Guarantees
/// - No more than the limit are given a slot at once; those found under way after a restart of the operator count, too.
/// - One that failed does not keep the others from being rolled, nor take a slot again before its spec changes.
#[derive(Debug)]
pub struct Slots {
    limit: usize,
    held: BTreeSet<Key>,
    waiting: BTreeSet<Key>,
    /// Those that failed, by the generation of their spec.
    failed: BTreeMap<Key, Option<i64>>,
    begun: bool,
}

impl Slots {
    /// That many at a time, one at least.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            held: BTreeSet::new(),
            waiting: BTreeSet::new(),
            failed: BTreeMap::new(),
            begun: false,
        }
    }

    /// Takes in, once, the rolls that are found under way after a start of the operator: before anybody is given a slot.
    pub fn begin(&mut self, under_way: impl FnOnce() -> Vec<Key>) {
        if !self.begun {
            self.begun = true;
            self.held.extend(under_way());
        }
    }

    /// An outdated consumer asks to be rolled.
    pub fn ask(&mut self, key: &Key, generation: Option<i64>) -> bool {
        if self.held.contains(key) {
            return true;
        }
        match self.failed.get(key) {
            Some(failed) if *failed == generation => return false,
            Some(_) => _ = self.failed.remove(key),
            None => {}
        }
        if self.held.len() >= self.limit {
            self.waiting.insert(key.clone());
            return false;
        }
        self.waiting.remove(key);
        self.held.insert(key.clone())
    }

    /// Tells how a consumer that is not outdated stands; who may ask now.
    pub fn tell(&mut self, key: &Key, generation: Option<i64>, progress: Progress) -> Vec<Key> {
        self.waiting.remove(key);
        match progress {
            Progress::UnderWay => {
                // After a restart of the operator, nobody knows any more who was given a slot.
                self.held.insert(key.clone());
                return Vec::new();
            }
            Progress::Complete => _ = self.failed.remove(key),
            Progress::Failed if self.held.contains(key) => _ = self.failed.insert(key.clone(), generation),
            Progress::Failed => {}
        }
        self.free(key)
    }

    /// The consumer is gone; who may ask now.
    pub fn forget(&mut self, key: &Key) -> Vec<Key> {
        self.waiting.remove(key);
        self.failed.remove(key);
        self.free(key)
    }

    /// It holds a slot.
    #[must_use]
    pub fn holds(&self, key: &Key) -> bool {
        self.held.contains(key)
    }

    /// How many hold a slot, wait for one, and have failed.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.held.len(), self.waiting.len(), self.failed.len())
    }

    fn free(&mut self, key: &Key) -> Vec<Key> {
        if !self.held.remove(key) {
            return Vec::new();
        }
        let room = self.limit.saturating_sub(self.held.len());
        self.waiting.iter().take(room).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("ns", name)
    }

    #[test]
    fn no_more_than_the_limit_are_rolled_at_once() {
        let mut slots = Slots::new(2);
        assert!(slots.ask(&key("a"), Some(1)) && slots.ask(&key("b"), Some(1)));
        assert!(!slots.ask(&key("c"), Some(1)) && !slots.ask(&key("d"), Some(1)));
        assert!(slots.ask(&key("a"), Some(1)), "it has its slot already");
        assert!(slots.tell(&key("a"), Some(1), Progress::UnderWay).is_empty());
        assert_eq!(slots.tell(&key("a"), Some(1), Progress::Complete), [key("c")]);
        assert!(slots.ask(&key("c"), Some(1)));
        assert_eq!(slots.counts(), (2, 1, 0));
    }

    #[test]
    fn one_that_fails_frees_its_slot_and_waits_for_another_spec() {
        let mut slots = Slots::new(1);
        assert!(slots.ask(&key("a"), Some(1)) && !slots.ask(&key("b"), Some(1)));
        assert_eq!(slots.tell(&key("a"), Some(1), Progress::Failed), [key("b")]);
        assert!(!slots.ask(&key("a"), Some(1)));
        assert!(slots.ask(&key("b"), Some(1)));
        assert!(!slots.ask(&key("a"), Some(2)), "no room");
        slots.tell(&key("b"), Some(1), Progress::Complete);
        assert!(slots.ask(&key("a"), Some(2)));
    }

    #[test]
    fn rolls_under_way_at_the_start_count_before_anybody_asks() {
        let mut slots = Slots::new(1);
        slots.begin(|| vec![key("a")]);
        slots.begin(|| panic!("once"));
        assert!(!slots.ask(&key("b"), Some(1)));
        assert_eq!(slots.tell(&key("a"), Some(1), Progress::Complete), [key("b")]);
    }

    #[test]
    fn rolls_found_under_way_count() {
        let mut slots = Slots::new(1);
        slots.tell(&key("a"), Some(1), Progress::UnderWay);
        assert!(!slots.ask(&key("b"), Some(1)));
        assert_eq!(slots.forget(&key("a")), [key("b")]);
    }
}
