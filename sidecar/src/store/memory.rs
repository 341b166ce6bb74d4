//! Decides nothing of its own: keeps claims in this process, with the same contract as Redis. The embedded default of the demo, the
//! reference in tests. No I/O; reads the clock it is given.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{ClaimStore, Op, Replies, Reply, StoreError};
use crate::clock::Time;
use bytes::Bytes;

/// Expired keys removed with each operation, at most: clean-up never costs a call more than its own size.
const SWEEP_PER_OP: usize = 2;

/// What goes wrong with one operation, on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is applied, and its answer is lost: [`StoreError::Unanswered`].
    LoseReply,
    /// It is lost on the way, never applied: [`StoreError::Unanswered`].
    LoseRequest,
    /// It is applied this much later than it was answered with [`StoreError::Unanswered`].
    ApplyLater(Duration),
    /// It never left: [`StoreError::NotSent`].
    NotSent,
    /// The store refuses it with this text, and doesn't apply it: [`StoreError::Refused`].
    Error(String),
}

type Clock = Arc<dyn Fn() -> Time + Send + Sync>;
type Hook = Arc<dyn Fn(&Op) -> Option<Fault> + Send + Sync>;

/// A claim store in memory. Clones share the same keys.
///
/// # Guarantees
/// - The contract of [`ClaimStore`], TTLs included: an expired key is never seen, removed or not.
/// - Memory is bounded by the keys that live: each operation removes a few expired ones.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Mutex<Shared>>,
    clock: Clock,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::with_clock(Time::now)
    }
}

#[derive(Default)]
struct Shared {
    table: Table,
    away: bool,
    latency: Duration,
    hook: Option<Hook>,
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = self.lock();
        f.debug_struct("MemoryStore").field("keys", &shared.table.entries.len()).field("away", &shared.away).finish()
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store whose TTLs run by that clock.
    #[must_use]
    pub fn with_clock(clock: impl Fn() -> Time + Send + Sync + 'static) -> Self {
        Self { shared: Arc::default(), clock: Arc::new(clock) }
    }

    /// Lets the store go away (`false`) or come back (`true`). While it is away every operation ends with
    /// [`StoreError::NotSent`]; those under way when it goes end with [`StoreError::Unanswered`] and are not applied.
    pub fn set_available(&self, available: bool) {
        self.lock().away = !available;
    }

    /// How long each call takes before it is applied, from now on.
    pub fn set_latency(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// Asks `hook` about each operation what goes wrong with it; `None` means nothing. The hook must not call this store.
    pub fn set_faults(&self, hook: impl Fn(&Op) -> Option<Fault> + Send + Sync + 'static) {
        self.lock().hook = Some(Arc::new(hook));
    }

    /// Nothing goes wrong from now on.
    pub fn clear_faults(&self) {
        self.lock().hook = None;
    }

    /// Loses every key, as `FLUSHALL` does.
    pub fn flush(&self) {
        self.lock().table = Table::default();
    }

    /// What the key holds.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Bytes> {
        let now = (self.clock)();
        self.lock().table.get(key, now).cloned()
    }

    /// How long the key lives on.
    #[must_use]
    pub fn ttl(&self, key: &str) -> Option<Duration> {
        let now = (self.clock)();
        let shared = self.lock();
        shared.table.entries.get(key).filter(|entry| entry.expires > now).map(|entry| entry.expires.since(now))
    }

    /// How many keys are held, those that expired and are not yet removed among them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().table.entries.len()
    }

    /// Is no key held?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A panic in a hook can't leave the table half-changed: each change is one step, so a poisoned lock is still good.
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply_now(&self, op: &Op) -> Reply {
        let now = (self.clock)();
        self.lock().table.apply(op, now)
    }

    fn run(&self, op: &Op, hook: Option<&Hook>) -> Result<Reply, StoreError> {
        match hook.and_then(|hook| hook(op)) {
            None => Ok(self.apply_now(op)),
            Some(Fault::LoseReply) => {
                self.apply_now(op);
                Err(StoreError::Unanswered("the reply was lost on purpose".to_owned()))
            }
            Some(Fault::LoseRequest) => Err(StoreError::Unanswered("the request was lost on purpose".to_owned())),
            Some(Fault::ApplyLater(delay)) => {
                let (store, op) = (self.clone(), op.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    store.apply_now(&op);
                });
                Err(StoreError::Unanswered("the request was held up on purpose".to_owned()))
            }
            Some(Fault::NotSent) => Err(StoreError::NotSent("kept back on purpose".to_owned())),
            Some(Fault::Error(text)) => Err(StoreError::Refused(text)),
        }
    }
}

impl ClaimStore for MemoryStore {
    fn apply(&self, ops: Vec<Op>) -> Pin<Box<dyn Future<Output = Replies> + Send + '_>> {
        Box::pin(async move {
            let (away, latency) = {
                let shared = self.lock();
                (shared.away, shared.latency)
            };
            if away {
                return vec![Err(StoreError::NotSent("the memory store is switched off".to_owned())); ops.len()];
            }
            if !latency.is_zero() {
                tokio::time::sleep(latency).await;
            }
            let (away, hook) = {
                let shared = self.lock();
                (shared.away, shared.hook.clone())
            };
            if away {
                return vec![Err(StoreError::Unanswered("the memory store was switched off".to_owned())); ops.len()];
            }
            ops.iter().map(|op| self.run(op, hook.as_ref())).collect()
        })
    }
}

struct Entry {
    value: Bytes,
    expires: Time,
    /// Together with `expires` the entry's place in the order of expiry.
    serial: u64,
}

#[derive(Default)]
struct Table {
    entries: HashMap<Arc<str>, Entry>,
    /// Exactly one place for each entry, soonest first.
    expiry: BTreeMap<(Time, u64), Arc<str>>,
    serial: u64,
}

impl Table {
    fn apply(&mut self, op: &Op, now: Time) -> Reply {
        self.sweep(now);
        match op {
            Op::SetIfAbsent { key, value, ttl } => match self.get(key, now) {
                Some(present) => Reply::Present(present.clone()),
                None => self.put(key, value, *ttl, now),
            },
            Op::SetIfPresent { key, value, ttl } => match self.get(key, now) {
                Some(_) => self.put(key, value, *ttl, now),
                None => Reply::Refused,
            },
            Op::CompareAndSet { key, expect, value, ttl } => match self.get(key, now) {
                Some(present) if present == expect => self.put(key, value, *ttl, now),
                _ => Reply::Refused,
            },
            Op::CompareAndDelete { key, expect } => match self.get(key, now) {
                Some(present) if present == expect => {
                    self.remove(key);
                    Reply::Applied
                }
                _ => Reply::Refused,
            },
            Op::Set { key, value, ttl } => self.put(key, value, *ttl, now),
            Op::Delete { key } => {
                self.remove(key);
                Reply::Applied
            }
            Op::Exists { key } => match self.get(key, now) {
                Some(_) => Reply::Applied,
                None => Reply::Refused,
            },
        }
    }

    fn get(&self, key: &str, now: Time) -> Option<&Bytes> {
        self.entries.get(key).filter(|entry| entry.expires > now).map(|entry| &entry.value)
    }

    fn put(&mut self, key: &Arc<str>, value: &Bytes, ttl: Duration, now: Time) -> Reply {
        self.remove(key);
        self.serial += 1;
        let expires = now + ttl;
        self.expiry.insert((expires, self.serial), Arc::clone(key));
        self.entries.insert(Arc::clone(key), Entry { value: value.clone(), expires, serial: self.serial });
        Reply::Applied
    }

    fn remove(&mut self, key: &str) {
        if let Some(entry) = self.entries.remove(key) {
            self.expiry.remove(&(entry.expires, entry.serial));
        }
    }

    fn sweep(&mut self, now: Time) {
        for _ in 0..SWEEP_PER_OP {
            match self.expiry.first_entry() {
                Some(first) if first.key().0 <= now => {
                    let key = first.remove();
                    self.entries.remove(&key);
                }
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn set(key: &str, ttl: u64) -> Op {
        Op::Set { key: key.into(), value: Bytes::from_static(b"v"), ttl: Duration::from_secs(ttl) }
    }

    /// A store, and the seconds that its clock shows.
    fn store_with_clock() -> (MemoryStore, Arc<AtomicU64>) {
        let seconds = Arc::new(AtomicU64::new(1));
        let shown = seconds.clone();
        let store = MemoryStore::with_clock(move || Time::at(Duration::from_secs(shown.load(Ordering::SeqCst))));
        (store, seconds)
    }

    #[tokio::test]
    async fn expired_keys_are_removed_a_few_with_each_operation() {
        let (store, seconds) = store_with_clock();
        store.apply((0..1000).map(|i| set(&format!("k{i}"), 1)).collect()).await;
        seconds.fetch_add(2, Ordering::SeqCst);
        assert_eq!(store.len(), 1000);
        store.apply(vec![set("a", 1)]).await;
        assert_eq!(store.len(), 999, "two go, one comes");
        store.apply((0..1000).map(|_| set("a", 1)).collect()).await;
        assert_eq!(store.len(), 1);
    }

    #[tokio::test]
    async fn a_renewed_key_has_one_place_in_the_order_of_expiry() {
        let (store, seconds) = store_with_clock();
        store.apply((1..500).map(|ttl| set("k", ttl)).collect()).await;
        assert_eq!(store.lock().table.expiry.len(), 1);
        seconds.fetch_add(498, Ordering::SeqCst);
        assert!(store.get("k").is_some());
        assert_eq!(store.ttl("k"), Some(Duration::from_secs(1)));
        seconds.fetch_add(1, Ordering::SeqCst);
        assert_eq!(store.get("k"), None);
    }

    #[tokio::test]
    async fn faults_say_what_happened_to_the_operation() {
        for (fault, applied) in [
            (Fault::LoseReply, true),
            (Fault::LoseRequest, false),
            (Fault::NotSent, false),
            (Fault::Error("OOM".to_owned()), false),
        ] {
            let store = MemoryStore::new();
            let scripted = fault.clone();
            store.set_faults(move |op| (&**op.key() == "k").then(|| scripted.clone()));
            let replies = store.apply(vec![set("k", 60), set("other", 60)]).await;
            assert!(replies[0].is_err(), "{fault:?}");
            assert_eq!(replies[1], Ok(Reply::Applied));
            assert_eq!(store.get("k").is_some(), applied, "{fault:?}");
        }
    }

    #[tokio::test]
    async fn a_late_operation_is_applied_after_its_answer() {
        let store = MemoryStore::new();
        store.set_faults(|_| Some(Fault::ApplyLater(Duration::from_millis(20))));
        assert!(matches!(store.apply(vec![set("k", 60)]).await[0], Err(StoreError::Unanswered(_))));
        assert_eq!(store.get("k"), None);
        let applied = async {
            while store.get("k").is_none() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), applied).await.unwrap();
    }

    #[tokio::test]
    async fn a_store_that_goes_away_leaves_calls_under_way_unanswered() {
        let store = MemoryStore::new();
        store.set_latency(Duration::from_millis(100));
        let under_way = tokio::spawn({
            let store = store.clone();
            async move { store.apply(vec![set("k", 60)]).await }
        });
        tokio::task::yield_now().await;
        store.set_available(false);
        assert!(matches!(under_way.await.unwrap()[0], Err(StoreError::Unanswered(_))));
        assert!(matches!(store.apply(vec![set("k", 60)]).await[0], Err(StoreError::NotSent(_))));
        store.set_available(true);
        assert_eq!(store.apply(vec![set("k", 60)]).await, vec![Ok(Reply::Applied)]);
    }
}
