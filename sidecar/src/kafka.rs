//! Decides nothing about events: reads records out of Kafka, commits watermarks, writes dead letters. I/O.
//!
//! One [`Consumer`] is one member of one group. What happens is told by [`KafkaEvent`]s on one channel, in an order that
//! holds for each partition: `Assigned`, then `Records`, then `Revoked` or `Lost`; no `Records` of an assignment follows its end.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::event_id::Identity;
use crate::record::{Offset, Record, TopicPartition};

mod budget;
mod commit;
mod config;
mod consumer;
mod context;
mod group;
mod incarnation;
mod lookup;
pub mod mock;
pub mod producer;
mod reader;
mod topics;

pub use budget::{Budget, Limits};
pub use consumer::{Closed, Consumer};
pub use producer::{OutRecord, ProduceError, Producer};

/// Makes one function for each reader that finds what a record means; it runs in the reader's task, beside the pipeline.
pub type Identify = Arc<dyn Fn() -> Box<dyn FnMut(&Record) -> Identity + Send> + Send + Sync>;

/// A record that was read, and what it means.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The record.
    pub record: Arc<Record>,
    /// What it means.
    pub identity: Arc<Identity>,
}

/// A watermark to commit: the next offset to read after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitRequest {
    /// The partition.
    pub partition: TopicPartition,
    /// The assignment under which it was worked out. A request of an older assignment is skipped without an answer.
    pub epoch: u64,
    /// The lowest offset that is not settled.
    pub offset: Offset,
}

/// How far a partition reaches, and how far the group has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The partition.
    pub partition: TopicPartition,
    /// The last stable offset: one above the last record that can be read.
    pub end: Offset,
    /// What the group has committed, if anything.
    pub committed: Option<Offset>,
}

/// What the consumer tells the pipeline.
#[derive(Clone, Debug)]
pub enum KafkaEvent {
    /// Partitions are ours from now on. Each assignment has a number of its own, growing from 1.
    Assigned {
        /// The partitions.
        partitions: Vec<TopicPartition>,
        /// Number of the assignment.
        epoch: u64,
    },
    /// Records of one partition in order, each once in an epoch; offsets may have gaps.
    Records {
        /// The partition.
        partition: TopicPartition,
        /// The assignment under which they were read.
        epoch: u64,
        /// The records, at least one.
        arrivals: Vec<Arrival>,
    },
    /// Kafka asks for these partitions. They stay ours until [`Consumer::finish_revoke`] gives them back.
    Revoked(Vec<TopicPartition>),
    /// These partitions are not ours any more; nothing of them can be committed.
    Lost(Vec<TopicPartition>),
    /// After [`Consumer::leave`]: no partition is held.
    Left,
    /// The broker has this watermark.
    Committed {
        /// The partition.
        partition: TopicPartition,
        /// The assignment of the request.
        epoch: u64,
        /// The offset.
        offset: Offset,
    },
    /// The broker may not have this watermark: commit it or a later one again.
    CommitFailed {
        /// The partition.
        partition: TopicPartition,
        /// The assignment of the request.
        epoch: u64,
        /// The offset.
        offset: Offset,
        /// What the broker or librdkafka said.
        error: String,
    },
    /// Which topics there are; told at first and at each change.
    Topics {
        /// Configured topics that do not exist.
        missing: Vec<String>,
        /// Partitions of the others together.
        partitions: usize,
    },
    /// Whether a broker can be used; told at first and at each change, and again when the reason changes.
    Brokers {
        /// A broker answers.
        up: bool,
        /// If not: what librdkafka says, without secrets.
        message: String,
    },
    /// How far assigned partitions reach, as the last fetches saw them: lag is the end minus the watermark.
    Lag(Vec<Extent>),
    /// Reading starts again at the earliest record: the committed offset was out of range, or another topic's of that name, or
    /// the log was cut off. Records were lost, or come again. Where the partition was being read, `Lost` and `Assigned` follow.
    OffsetReset {
        /// The partition.
        partition: TopicPartition,
        /// librdkafka's words.
        message: String,
    },
    /// A topic of ours was deleted and created again: what was read and not settled is another topic's. Nothing more can be
    /// committed for it, and this client is of no use for it any more: the process must end, and start again.
    Recreated {
        /// The topic.
        topic: String,
        /// What happened, in words.
        message: String,
    },
    /// Something does not work and is tried again: a topic that may not be read, a group that speaks another protocol.
    Problem {
        /// The partition concerned, if it is one.
        partition: Option<TopicPartition>,
        /// What is wrong.
        message: String,
    },
    /// The client is of no use any more: the process must end, and start again.
    Fatal(String),
}

/// Where [`KafkaEvent`]s go.
pub type Events = tokio::sync::mpsc::UnboundedSender<KafkaEvent>;

/// Why a client could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// librdkafka refuses a property. The text names it, and never shows the value of a secret one.
    #[error("kafka property `{property}`: {message}")]
    Property {
        /// The property's name.
        property: String,
        /// librdkafka's words.
        message: String,
    },
    /// The client could not be created, for example because a certificate can't be read.
    #[error("kafka client: {0}")]
    Client(String),
    /// The consumer is closed.
    #[error("the Kafka consumer is closed")]
    Closed,
    /// librdkafka refused a call.
    #[error("kafka: {0}")]
    Call(String),
}

/// A poisoned lock guards plain data here: what a panicking holder left is still true.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
