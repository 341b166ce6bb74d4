//! A topic in simulated time: records, committed offsets, and who holds which partition.

use std::sync::Arc;

use sidecar::event_id::{EventId, Identity};
use sidecar::kafka::Arrival;
use sidecar::record::{Record, TopicPartition};

pub(crate) struct Broker {
    /// Events by partition and offset.
    pub(crate) log: Vec<Vec<usize>>,
    pub(crate) committed: Vec<i64>,
    pub(crate) owner: Vec<Option<usize>>,
    /// Who gets a partition once its owner has given it up.
    pub(crate) heir: Vec<Option<usize>>,
    pub(crate) epoch: Vec<u64>,
}

impl Broker {
    pub(crate) fn new(log: Vec<Vec<usize>>) -> Self {
        let partitions = log.len();
        Self {
            log,
            committed: vec![0; partitions],
            owner: vec![None; partitions],
            heir: vec![None; partitions],
            epoch: vec![0; partitions],
        }
    }

    pub(crate) fn place(partition: usize) -> TopicPartition {
        TopicPartition { topic: "t".into(), partition: i32::try_from(partition).unwrap() }
    }

    pub(crate) fn end(&self, partition: usize) -> i64 {
        i64::try_from(self.log[partition].len()).unwrap()
    }

    pub(crate) fn is_done(&self) -> bool {
        (0..self.log.len()).all(|partition| self.committed[partition] == self.end(partition))
    }

    pub(crate) fn arrival(&self, partition: usize, offset: i64) -> Arrival {
        let event = self.log[partition][usize::try_from(offset).unwrap()];
        let record = Record {
            origin: Self::place(partition),
            offset,
            timestamp: None,
            key: Some(vec![u8::try_from(event % 7).unwrap()].into()),
            value: Some(event.to_string().into()),
            headers: Vec::new(),
        };
        let mut id = [0; 32];
        id[..8].copy_from_slice(&(event as u64).to_be_bytes());
        let identity =
            Identity { id: EventId(id), fallback: false, event_type: "".into(), fingerprint: None, cloud_event: None };
        Arrival { record: Arc::new(record), identity: Arc::new(identity) }
    }
}
