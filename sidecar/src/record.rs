//! Decides what a record is: what Kafka holds, and where it came from. Pure.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: i32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// A record's place in its partition.
pub type Offset = i64;

/// One record as Kafka holds it. A clone shares the bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Where it stands.
    pub origin: TopicPartition,
    /// Its place there.
    pub offset: Offset,
    /// The broker's or the producer's time in milliseconds since the epoch, if any.
    pub timestamp: Option<i64>,
    /// The record's key.
    pub key: Option<Bytes>,
    /// The record's value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// The record's headers in order; names may repeat.
    pub headers: Vec<Header>,
}

impl Record {
    /// The last header of that name with a value, as Kafka clients agree on for repeated names.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.iter().rev().find(|h| h.name == name).and_then(|h| h.value.as_ref())
    }

    /// Bytes this record keeps in memory, roughly.
    #[must_use]
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|h| h.name.len() + h.value.as_ref().map_or(0, Bytes::len)).sum();
        self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len) + headers
    }
}

/// A record header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value; Kafka allows none.
    pub value: Option<Bytes>,
}
