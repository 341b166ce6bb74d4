//! Decides what is remembered of each consumer between two reconciles. No I/O; nothing here outlives the process.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, PoisonError};

use crds::v1alpha1::IdempotentConsumerStatus;
use tokio::sync::Mutex;

use super::apply::Ledger;
use super::dereference::{Fetched, Kind, SidecarSecret};
use super::events::Told;
use super::key::Key;

/// What is remembered of one consumer.
#[derive(Default)]
pub struct Remembered {
    /// What was applied, and what came of it.
    pub ledger: Ledger,
    /// Its own secret as it was generated, until the store shows it: two reconciles never generate different ones.
    pub secret: Option<SidecarSecret>,
    /// What was found in the Secrets and ConfigMaps that it names.
    pub values: HashMap<(Kind, String), Fetched>,
    /// The status written last.
    pub status: Option<Written>,
    /// Reconciles that failed in a row.
    pub failures: u32,
    /// Pods whose sidecars were not heard the last time.
    pub missed: BTreeSet<String>,
    /// The most partitions that its sidecars were seen to hold together.
    pub partitions: i64,
    /// There are more pods than partitions, and that was told.
    pub crowded: bool,
    /// Its namespace is being deleted: nothing is left to do for it.
    pub namespace_ends: bool,
    /// The events that were told.
    pub told: Told,
}

/// A status that was written while the store showed another.
#[derive(Clone, Debug)]
pub struct Written {
    /// The version of the consumer that the store showed then: as long as it shows it, its status is an old one.
    pub before: Option<String>,
    /// What was written.
    pub status: IdempotentConsumerStatus,
}

/// It holds Secrets' values.
impl fmt::Debug for Remembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remembered").field("failures", &self.failures).finish_non_exhaustive()
    }
}

type Shared = Arc<Mutex<Remembered>>;

/// What is remembered of all consumers.
#[derive(Debug, Default)]
pub struct Memory {
    consumers: std::sync::Mutex<HashMap<Key, (String, Shared)>>,
}

impl Memory {
    /// What is remembered of a consumer; nothing, where another of that name was before.
    pub fn of(&self, key: &Key, uid: &str) -> Shared {
        let mut consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        match consumers.get(key) {
            Some((known, shared)) if known == uid => Arc::clone(shared),
            _ => {
                let shared = Shared::default();
                consumers.insert(key.clone(), (uid.to_owned(), Arc::clone(&shared)));
                shared
            }
        }
    }

    /// How often reconciling it has failed in a row, this time included.
    pub fn failed(&self, key: &Key) -> u32 {
        let consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody else has it: the reconcile that failed has ended, and there is one at a time.
        consumers
            .get(key)
            .and_then(|(_, shared)| {
                shared.try_lock().ok().map(|mut memory| {
                    memory.failures = memory.failures.saturating_add(1);
                    memory.failures
                })
            })
            .unwrap_or(1)
    }

    /// Forgets consumers that are gone; their keys.
    pub fn retain(&self, there: impl Fn(&Key) -> bool) -> Vec<Key> {
        let mut consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<Key> = consumers.keys().filter(|key| !there(key)).cloned().collect();
        for key in &gone {
            consumers.remove(key);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_consumer_of_the_same_name_starts_afresh() {
        let (memory, key) = (Memory::default(), Key::new("ns", "a"));
        memory.of(&key, "1").try_lock().unwrap().crowded = true;
        assert!(memory.of(&key, "1").try_lock().unwrap().crowded);
        assert!(!memory.of(&key, "2").try_lock().unwrap().crowded);
        assert_eq!((memory.failed(&key), memory.failed(&key)), (1, 2));
        assert_eq!(memory.retain(|_| false), [key]);
    }
}
