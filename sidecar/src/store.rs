//! Decides what a claim store must do: a few single-key operations, each with a definite or an unknown end. Trait only.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub mod memory;
pub mod redis;

/// One operation on one key. No operation spans two keys, so that a Redis Cluster can serve them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Write `value` where there is nothing. [`Reply::Applied`], or [`Reply::Present`] with what is there.
    SetIfAbsent {
        /// The key.
        key: Arc<str>,
        /// What to write.
        value: Bytes,
        /// How long it lives, in whole seconds or more precisely.
        ttl: Duration,
    },
    /// Write `value` only where there is something (renewal never creates). [`Reply::Applied`] or [`Reply::Refused`].
    SetIfPresent {
        /// The key.
        key: Arc<str>,
        /// What to write.
        value: Bytes,
        /// How long it lives.
        ttl: Duration,
    },
    /// Replace exactly `expect` by `value`. [`Reply::Applied`] or [`Reply::Refused`].
    CompareAndSet {
        /// The key.
        key: Arc<str>,
        /// What must be there.
        expect: Bytes,
        /// What to write instead.
        value: Bytes,
        /// How long it lives.
        ttl: Duration,
    },
    /// Delete the key if it holds exactly `expect`. [`Reply::Applied`] or [`Reply::Refused`].
    CompareAndDelete {
        /// The key.
        key: Arc<str>,
        /// What must be there.
        expect: Bytes,
    },
    /// Write `value`, whatever is there, of whatever type. [`Reply::Applied`].
    Set {
        /// The key.
        key: Arc<str>,
        /// What to write.
        value: Bytes,
        /// How long it lives.
        ttl: Duration,
    },
    /// Delete the key. [`Reply::Applied`], or [`Reply::Refused`] where there was none.
    Delete {
        /// The key.
        key: Arc<str>,
    },
    /// Is there such a key? [`Reply::Applied`] means yes, [`Reply::Refused`] no.
    Exists {
        /// The key.
        key: Arc<str>,
    },
}

impl Op {
    /// The key it works on.
    #[must_use]
    pub fn key(&self) -> &Arc<str> {
        match self {
            Self::SetIfAbsent { key, .. }
            | Self::SetIfPresent { key, .. }
            | Self::CompareAndSet { key, .. }
            | Self::CompareAndDelete { key, .. }
            | Self::Set { key, .. }
            | Self::Delete { key }
            | Self::Exists { key } => key,
        }
    }
}

/// What the store answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It was done, or, for [`Op::Exists`], there is such a key.
    Applied,
    /// It was not done, since the key did not hold what the operation asks for.
    Refused,
    /// [`Op::SetIfAbsent`] found this value.
    Present(Bytes),
}

/// Why there is no answer. Only [`StoreError::Unanswered`] leaves open whether the operation was applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The request may have left, and no answer came (time-out, broken connection): it may still be applied, now or later.
    #[error("no answer from the store: {0}")]
    Unanswered(String),
    /// The request never left: no connection.
    #[error("the store can't be reached: {0}")]
    NotSent(String),
    /// The server answered with an error (`OOM`, `READONLY`, `LOADING`, `NOPERM`…): surely not applied.
    #[error("the store refused: {0}")]
    Refused(String),
    /// The key holds another type than a string: surely not applied; only this key is concerned.
    #[error("the Redis key `{0}` holds another type than a string: delete it, or choose another keyPrefix")]
    WrongType(Arc<str>),
}

/// One answer for each operation, in their order.
pub type Replies = Vec<Result<Reply, StoreError>>;

/// Where claims live.
///
/// # Guarantees
/// - `apply` gives exactly one answer for each operation, in order, within the store's own time-out.
/// - Operations of one call may be applied in any order and interleaved with other calls; each single one is atomic.
/// - An operation answered with anything but [`StoreError::Unanswered`] is never applied after its answer.
///
/// # Assumptions
/// - A caller that needs one operation after another waits for the first one's answer.
pub trait ClaimStore: Send + Sync + 'static {
    /// Applies the operations in one round trip where possible.
    fn apply(&self, ops: Vec<Op>) -> Pin<Box<dyn Future<Output = Replies> + Send + '_>>;

    /// How often so far another server may have taken the place of one that answered, as far as can be seen: it may lack the last writes.
    fn changes(&self) -> u64 {
        0
    }
}
