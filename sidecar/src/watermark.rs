//! Decides up to where a partition may be committed: received and settled offsets in, the lowest unsettled one out. Pure.
//!
//! Only offsets that were received count, so that gaps (compaction, aborted transactions) are harmless. What is committed
//! is always the next offset to read: never past an unsettled record, and one past the last record when all are settled.

use std::collections::VecDeque;

use crate::record::Offset;

/// The records of one partition between reading and committing.
#[derive(Debug, Default)]
pub struct Watermark {
    /// Received offsets in order, each with whether it is settled. The front one is never settled.
    pending: VecDeque<(Offset, bool)>,
    /// One past the highest offset received.
    next: Option<Offset>,
}

/// An offset that the watermark can't take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatermarkError {
    /// The offset is not above all that were received: it was read twice.
    #[error("offset {0} was received out of order")]
    OutOfOrder(Offset),
    /// The offset was never received, or is settled already.
    #[error("offset {0} is not open")]
    NotOpen(Offset),
}

impl Watermark {
    /// Takes note of a record that was read.
    ///
    /// # Errors
    /// [`WatermarkError::OutOfOrder`]: it, or a later one, was read before.
    pub fn receive(&mut self, offset: Offset) -> Result<(), WatermarkError> {
        if self.next.is_some_and(|next| offset < next) {
            return Err(WatermarkError::OutOfOrder(offset));
        }
        self.pending.push_back((offset, false));
        self.next = Some(offset.saturating_add(1));
        Ok(())
    }

    /// Takes note of a record that is settled. True if the committable offset moved.
    ///
    /// # Errors
    /// [`WatermarkError::NotOpen`]: there is no such unsettled record.
    pub fn settle(&mut self, offset: Offset) -> Result<bool, WatermarkError> {
        let found = self.pending.binary_search_by_key(&offset, |(o, _)| *o);
        let slot = found.ok().and_then(|at| self.pending.get_mut(at)).filter(|(_, settled)| !settled);
        let Some(slot) = slot else { return Err(WatermarkError::NotOpen(offset)) };
        slot.1 = true;
        let mut moved = false;
        while self.pending.front().is_some_and(|(_, settled)| *settled) {
            self.pending.pop_front();
            moved = true;
        }
        Ok(moved)
    }

    /// The offset to commit: the lowest unsettled one, or one past the last; `None` before anything was received.
    #[must_use]
    pub fn committable(&self) -> Option<Offset> {
        self.pending.front().map(|(offset, _)| *offset).or(self.next)
    }

    /// Records received from the watermark on, settled or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Everything received is settled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_received_means_nothing_to_commit() {
        assert_eq!(Watermark::default().committable(), None);
    }

    #[test]
    fn stands_at_the_lowest_unsettled_record_and_passes_gaps() {
        let mut watermark = Watermark::default();
        for offset in [3, 4, 9] {
            watermark.receive(offset).unwrap();
        }
        assert_eq!(watermark.settle(4), Ok(false));
        assert_eq!(watermark.committable(), Some(3));
        assert_eq!(watermark.settle(3), Ok(true));
        assert_eq!(watermark.committable(), Some(9));
        assert_eq!(watermark.settle(9), Ok(true));
        assert_eq!(watermark.committable(), Some(10));
    }

    #[test]
    fn refuses_what_was_read_twice_or_settled_twice() {
        let mut watermark = Watermark::default();
        watermark.receive(5).unwrap();
        assert_eq!(watermark.receive(5), Err(WatermarkError::OutOfOrder(5)));
        assert_eq!(watermark.settle(6), Err(WatermarkError::NotOpen(6)));
        watermark.receive(6).unwrap();
        watermark.settle(6).unwrap();
        assert_eq!(watermark.settle(6), Err(WatermarkError::NotOpen(6)));
    }

    proptest! {
        #[test]
        fn never_passes_an_unsettled_record(gaps in prop::collection::vec(1i64..5, 1..60), order in any::<u64>()) {
            let offsets: Vec<i64> = gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).collect();
            let mut watermark = Watermark::default();
            for offset in &offsets {
                watermark.receive(*offset).unwrap();
            }
            let mut open = offsets.clone();
            let mut seed = order;
            while !open.is_empty() {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = usize::try_from(seed >> 33).unwrap() % open.len();
                watermark.settle(open.remove(at)).unwrap();
                let expected = open.iter().min().copied().unwrap_or(offsets[offsets.len() - 1] + 1);
                prop_assert_eq!(watermark.committable(), Some(expected));
            }
        }
    }
}
