//! Decides how much may be read ahead: a bound in records for each partition, and one in bytes for all. No I/O; readers wait here.
//!
//! Half of the bytes is divided evenly, so that a partition whose head is stuck can't starve the others; the other half goes
//! to whoever comes first. A reader takes after it has read, so each can pass the byte bound by one batch (256 KiB) or one record.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::lock;
use crate::record::TopicPartition;

/// What is held in memory at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Records of one partition that are read and not yet released.
    pub max_records: usize,
    /// Bytes of records that are read and not yet released, in all partitions together.
    pub max_bytes: usize,
}

/// Counts what was read and not yet released.
///
/// # Guarantees
/// - A partition that holds nothing may always read.
/// - A release under an assignment that is over is ignored.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    parts: HashMap<TopicPartition, Part>,
    /// Bytes above the partitions' reserves, together.
    common: usize,
    /// Readers that wait.
    blocked: usize,
}

#[derive(Debug)]
struct Part {
    epoch: u64,
    records: usize,
    bytes: usize,
    blocked: bool,
    wake: Arc<Notify>,
}

impl Budget {
    /// Bounds of zero count as one.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let limits = Limits { max_records: limits.max_records.max(1), max_bytes: limits.max_bytes.max(2) };
        Self { limits, state: Mutex::default() }
    }

    /// Gives back room: `records` when they are settled, `bytes` when they are handed over. Either may be zero.
    pub fn release(&self, partition: &TopicPartition, epoch: u64, records: usize, bytes: usize) {
        let mut state = lock(&self.state);
        let reserve = self.reserve(&state);
        let Some(part) = state.parts.get_mut(partition).filter(|p| p.epoch == epoch) else { return };
        let before = part.bytes;
        part.records = part.records.saturating_sub(records);
        part.bytes = part.bytes.saturating_sub(bytes);
        let freed = before.saturating_sub(reserve) - part.bytes.saturating_sub(reserve);
        state.common = state.common.saturating_sub(freed);
        if state.blocked > 0 {
            self.wake(&mut state, reserve);
        }
    }

    /// Records and bytes held now, in all partitions.
    #[must_use]
    pub fn held(&self) -> (usize, usize) {
        let state = lock(&self.state);
        state.parts.values().fold((0, 0), |(records, bytes), p| (records + p.records, bytes + p.bytes))
    }

    /// Opens a partition's account under a new assignment.
    pub(super) fn open(&self, partition: TopicPartition, epoch: u64) {
        let mut state = lock(&self.state);
        let part = Part { epoch, records: 0, bytes: 0, blocked: false, wake: Arc::default() };
        if state.parts.insert(partition, part).is_some_and(|p| p.blocked) {
            state.blocked -= 1;
        }
        self.recount(&mut state);
    }

    /// Forgets a partition that is not ours any more.
    pub(super) fn forget(&self, partition: &TopicPartition) {
        let mut state = lock(&self.state);
        if state.parts.remove(partition).is_some_and(|p| p.blocked) {
            state.blocked -= 1;
        }
        self.recount(&mut state);
        let reserve = self.reserve(&state);
        self.wake(&mut state, reserve);
    }

    /// Counts what was read.
    pub(super) fn take(&self, partition: &TopicPartition, epoch: u64, records: usize, bytes: usize) {
        let mut state = lock(&self.state);
        let reserve = self.reserve(&state);
        let Some(part) = state.parts.get_mut(partition).filter(|p| p.epoch == epoch) else { return };
        let before = part.bytes.saturating_sub(reserve);
        part.records += records;
        part.bytes += bytes;
        let taken = part.bytes.saturating_sub(reserve) - before;
        state.common += taken;
    }

    /// Waits until the partition may read, and says how many records; `None` when the assignment is over.
    pub(super) async fn room(&self, partition: &TopicPartition, epoch: u64) -> Option<usize> {
        loop {
            let wake = {
                let mut state = lock(&self.state);
                let reserve = self.reserve(&state);
                let common_free = state.common < self.common_max();
                let part = state.parts.get_mut(partition).filter(|p| p.epoch == epoch)?;
                if part.records < self.limits.max_records && (part.bytes < reserve || common_free) {
                    return Some(self.limits.max_records - part.records);
                }
                let wake = Arc::clone(&part.wake);
                if !part.blocked {
                    part.blocked = true;
                    state.blocked += 1;
                }
                wake
            };
            // `notify_one` leaves a permit where nobody waits yet, so a release between the two is not missed.
            wake.notified().await;
        }
    }

    fn common_max(&self) -> usize {
        self.limits.max_bytes / 2
    }

    fn reserve(&self, state: &State) -> usize {
        (self.limits.max_bytes / 2 / state.parts.len().max(1)).max(1)
    }

    /// A change in the number of partitions changes every reserve.
    fn recount(&self, state: &mut State) {
        let reserve = self.reserve(state);
        state.common = state.parts.values().map(|p| p.bytes.saturating_sub(reserve)).sum();
    }

    /// Wakes readers that have a quarter of their bound free again: one at a time would cost a wake-up a record.
    fn wake(&self, state: &mut State, reserve: usize) {
        let records = self.limits.max_records - self.limits.max_records.div_ceil(4);
        let common = state.common <= self.common_max() - self.common_max().div_ceil(4);
        for part in state.parts.values_mut() {
            if part.blocked && part.records <= records && (part.bytes <= reserve / 2 || common) {
                part.blocked = false;
                state.blocked -= 1;
                part.wake.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn tp(partition: i32) -> TopicPartition {
        TopicPartition { topic: "t".into(), partition }
    }

    fn budget(max_records: usize, max_bytes: usize, partitions: i32) -> Budget {
        let budget = Budget::new(Limits { max_records, max_bytes });
        for p in 0..partitions {
            budget.open(tp(p), 1);
        }
        budget
    }

    fn room(budget: &Budget, partition: i32) -> Option<Option<usize>> {
        budget.room(&tp(partition), 1).now_or_never()
    }

    #[test]
    fn records_bound_each_partition_by_itself() {
        let b = budget(8, 1 << 20, 2);
        b.take(&tp(0), 1, 8, 8);
        assert_eq!(room(&b, 0), None);
        assert_eq!(room(&b, 1), Some(Some(8)));
        b.release(&tp(0), 1, 2, 0);
        assert_eq!(room(&b, 0), Some(Some(2)));
    }

    #[test]
    fn a_stuck_partition_does_not_starve_another() {
        let b = budget(1000, 1000, 2);
        b.take(&tp(0), 1, 1, 5000);
        assert_eq!(room(&b, 0), None);
        assert!(matches!(room(&b, 1), Some(Some(_))), "its reserve is its own");
        b.take(&tp(1), 1, 1, 250);
        assert_eq!(room(&b, 1), None, "the common half is used up by the other");
        b.release(&tp(0), 1, 0, 5000);
        assert!(matches!(room(&b, 1), Some(Some(_))));
        assert_eq!(b.held(), (2, 250));
    }

    #[test]
    fn an_old_assignment_neither_releases_nor_reads() {
        let b = budget(2, 100, 1);
        b.take(&tp(0), 1, 2, 10);
        b.open(tp(0), 2);
        b.take(&tp(0), 2, 2, 10);
        b.release(&tp(0), 1, 2, 10);
        assert_eq!(b.held(), (2, 10));
        assert_eq!(room(&b, 0), Some(None));
        b.forget(&tp(0));
        assert_eq!(b.held(), (0, 0));
    }

    #[tokio::test]
    async fn a_waiting_reader_is_woken() {
        let b = Arc::new(budget(4, 1 << 20, 1));
        b.take(&tp(0), 1, 4, 4);
        let waiting = tokio::spawn({
            let b = Arc::clone(&b);
            async move { b.room(&tp(0), 1).await }
        });
        while lock(&b.state).blocked == 0 {
            tokio::task::yield_now().await;
        }
        b.release(&tp(0), 1, 1, 1);
        assert_eq!(waiting.await.unwrap(), Some(1));
    }
}
