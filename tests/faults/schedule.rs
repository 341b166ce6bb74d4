//! Decides which faults happen when: a seed in, a schedule out. Pure.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::kind::Kind;

/// One fault to inject.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// Which pod, where it strikes one.
    pub(crate) pod: usize,
    /// How long it lasts.
    pub(crate) span: Duration,
    /// The pause after it.
    pub(crate) pause: Duration,
    /// Chooses what else there is to choose.
    pub(crate) seed: u64,
}

/// Faults without end, in one lane: one after another. Every kind comes before one comes again.
#[derive(Debug)]
pub(crate) struct Lane {
    rng: StdRng,
    pods: usize,
    kinds: Vec<Kind>,
    left: Vec<Kind>,
}

impl Lane {
    pub(crate) fn new(seed: u64, pods: usize, kinds: &[Kind]) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), pods, kinds: kinds.to_vec(), left: Vec::new() }
    }
}

impl Iterator for Lane {
    type Item = Fault;

    fn next(&mut self) -> Option<Fault> {
        if self.left.is_empty() {
            self.left.clone_from(&self.kinds);
            self.left.shuffle(&mut self.rng);
        }
        let kind = self.left.pop()?;
        let (least, most) = kind.span();
        let mut millis = |least: u64, most: u64| Duration::from_millis(self.rng.random_range(least..=most));
        // Now and then there is time to come to rest between two, so that not everything happens in the wake of something else.
        let (span, pause) = (millis(least, most), millis(200, 3_500));
        Some(Fault { kind, span, pause, pod: self.rng.random_range(0..self.pods), seed: self.rng.random() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_repeats_itself_and_leaves_no_kind_out() {
        let (kinds, lane) = (Kind::all(), |seed| Lane::new(seed, 3, &Kind::all()));
        let first: Vec<Fault> = lane(7).take(kinds.len()).collect();
        assert_eq!(first, lane(7).take(kinds.len()).collect::<Vec<_>>());
        assert_ne!(first, lane(8).take(kinds.len()).collect::<Vec<_>>());
        assert!(kinds.iter().all(|kind| first.iter().any(|fault| fault.kind == *kind)));
    }
}
