//! Decides nothing: claims in this process, with Redis's contract. No I/O; reads tokio's clock, which a test can pause.
//!
//! The embedded default of the demo, and the reference in tests.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{ClaimStore, Op, Replies, Reply, StoreError};

/// Expired keys removed with each operation, at most: clean-up never costs a call more than its own size.
const SWEEP_PER_OP: usize = 2;
/// Beyond every TTL in use; stands in where a TTL is too long for the clock.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

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

type Hook = Arc<dyn Fn(&Op) -> Option<Fault> + Send + Sync>;

/// A claim store in memory. Clones share the same keys.
///
/// # Guarantees
/// - The contract of [`ClaimStore`], TTLs included: an expired key is never seen, removed or not.
/// - Memory is bounded by the keys that live: each operation removes a few expired ones.
#[derive(Clone, Default)]
pub struct MemoryStore {
    shared: Arc<Mutex<Shared>>,
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
        self.lock().table.get(key, Instant::now()).cloned()
    }

    /// How long the key lives on.
    #[must_use]
    pub fn ttl(&self, key: &str) -> Option<Duration> {
        let now = Instant::now();
        let shared = self.lock();
        shared.table.entries.get(key).filter(|entry| entry.expires > now).map(|entry| entry.expires - now)
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

    fn run(&self, op: &Op, hook: Option<&Hook>) -> Result<Reply, StoreError> {
        match hook.and_then(|hook| hook(op)) {
            None => Ok(self.lock().table.apply(op, Instant::now())),
            Some(Fault::LoseReply) => {
                self.lock().table.apply(op, Instant::now());
                Err(StoreError::Unanswered("the reply was lost on purpose".to_owned()))
            }
            Some(Fault::LoseRequest) => Err(StoreError::Unanswered("the request was lost on purpose".to_owned())),
            Some(Fault::ApplyLater(delay)) => {
                let (store, op) = (self.clone(), op.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    store.lock().table.apply(&op, Instant::now());
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
    expires: Instant,
    /// Together with `expires` the entry's place in the order of expiry.
    serial: u64,
}

#[derive(Default)]
struct Table {
    entries: HashMap<Arc<str>, Entry>,
    /// Exactly one place for each entry, soonest first.
    expiry: BTreeMap<(Instant, u64), Arc<str>>,
    serial: u64,
}

impl Table {
    fn apply(&mut self, op: &Op, now: Instant) -> Reply {
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
                let there = self.get(key, now).is_some();
                self.remove(key);
                if there { Reply::Applied } else { Reply::Refused }
            }
            Op::Exists { key } => match self.get(key, now) {
                Some(_) => Reply::Applied,
                None => Reply::Refused,
            },
        }
    }

    fn get(&self, key: &str, now: Instant) -> Option<&Bytes> {
        self.entries.get(key).filter(|entry| entry.expires > now).map(|entry| &entry.value)
    }

    fn put(&mut self, key: &Arc<str>, value: &Bytes, ttl: Duration, now: Instant) -> Reply {
        self.remove(key);
        self.serial += 1;
        let expires = now.checked_add(ttl).unwrap_or_else(|| now + FAR);
        self.expiry.insert((expires, self.serial), Arc::clone(key));
        self.entries.insert(Arc::clone(key), Entry { value: value.clone(), expires, serial: self.serial });
        Reply::Applied
    }

    fn remove(&mut self, key: &str) {
        if let Some(entry) = self.entries.remove(key) {
            self.expiry.remove(&(entry.expires, entry.serial));
        }
    }

    fn sweep(&mut self, now: Instant) {
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
    use futures_util::FutureExt;

    use super::*;

    fn set(key: &str, ttl: u64) -> Op {
        Op::Set { key: key.into(), value: Bytes::from_static(b"v"), ttl: Duration::from_secs(ttl) }
    }

    #[test]
    fn expired_keys_are_removed_a_few_with_each_operation() {
        let (mut table, start) = (Table::default(), Instant::now());
        for i in 0..1000 {
            table.apply(&set(&format!("k{i}"), 1), start);
        }
        let later = start + Duration::from_secs(2);
        assert_eq!(table.entries.len(), 1000);
        table.apply(&set("a", 1), later);
        assert_eq!(table.entries.len(), 999, "two go, one comes");
        for _ in 0..1000 {
            table.apply(&set("a", 1), later);
        }
        assert_eq!((table.entries.len(), table.expiry.len()), (1, 1));
    }

    #[test]
    fn a_renewed_key_has_one_place_in_the_order_of_expiry_and_ends_on_time() {
        let (mut table, start) = (Table::default(), Instant::now());
        for ttl in 1..500 {
            table.apply(&set("k", ttl), start);
        }
        assert_eq!(table.expiry.len(), 1);
        assert!(table.get("k", start + Duration::from_millis(498_999)).is_some());
        assert_eq!(table.get("k", start + Duration::from_secs(499)), None);
        let renewal = Op::SetIfPresent { key: "k".into(), value: Bytes::new(), ttl: Duration::from_secs(1) };
        assert_eq!(table.apply(&renewal, start + Duration::from_secs(499)), Reply::Refused);
        table.apply(&Op::Delete { key: "k".into() }, start);
        assert!(table.expiry.is_empty());
    }

    #[test]
    fn a_ttl_beyond_the_clock_is_only_long() {
        let mut table = Table::default();
        assert_eq!(table.apply(&set("k", u64::MAX), Instant::now()), Reply::Applied);
        assert!(table.get("k", Instant::now()).is_some());
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
            let unanswered = matches!(replies[0], Err(StoreError::Unanswered(_)));
            assert_eq!(unanswered, matches!(fault, Fault::LoseReply | Fault::LoseRequest), "{fault:?}");
            assert!(replies[0].is_err(), "{fault:?}");
            assert_eq!(replies[1], Ok(Reply::Applied));
            assert_eq!(store.get("k").is_some(), applied, "{fault:?}");
            store.clear_faults();
            assert_eq!(store.apply(vec![set("k", 60)]).await, vec![Ok(Reply::Applied)]);
        }
    }

    #[tokio::test]
    async fn a_held_up_operation_applies_after_its_answer() {
        let store = MemoryStore::new();
        store.set_faults(|_| Some(Fault::ApplyLater(Duration::from_millis(20))));
        assert!(matches!(store.apply(vec![set("k", 60)]).await[0], Err(StoreError::Unanswered(_))));
        assert_eq!(store.get("k"), None);
        while store.get("k").is_none() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_store_that_goes_away_leaves_calls_under_way_unanswered() {
        let store = MemoryStore::new();
        store.set_latency(Duration::from_millis(50));
        let mut under_way = store.apply(vec![set("k", 60)]);
        // Polled once: past the first look at whether the store is there.
        assert!(under_way.as_mut().now_or_never().is_none());
        store.set_available(false);
        assert!(matches!(under_way.await[0], Err(StoreError::Unanswered(_))));
        assert!(matches!(store.apply(vec![set("k", 60)]).await[0], Err(StoreError::NotSent(_))));
        store.set_available(true);
        assert_eq!(store.apply(vec![set("k", 60)]).await, vec![Ok(Reply::Applied)]);
    }
}
