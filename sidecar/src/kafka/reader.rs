//! Decides how one partition's records become arrivals: copied out of librdkafka once, identified, sent in batches. I/O.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt};
use rdkafka::consumer::stream_consumer::StreamPartitionQueue;
use rdkafka::error::KafkaResult;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use tokio::task::JoinHandle;

use super::context::Context;
use super::{Arrival, Budget, Events, Identify, KafkaEvent};
use crate::record::{Header, Offset, Record, TopicPartition};

/// Records in one event at most.
const BATCH: usize = 64;
/// Bytes in one event, passed by one record at most.
const BATCH_BYTES: usize = 256 << 10;
/// Stands in for a header name that is not UTF-8.
const UNREADABLE: &str = "\u{fffd}";

/// A partition's queue, and what its records are read with.
pub(super) struct Reader {
    pub(super) partition: TopicPartition,
    pub(super) epoch: u64,
    pub(super) queue: StreamPartitionQueue<Context>,
    pub(super) budget: Arc<Budget>,
    pub(super) events: Events,
}

impl Reader {
    /// Reads until the assignment is over or the task is aborted. The queue is closed when the task has ended.
    pub(super) fn spawn(self, identify: &Identify) -> JoinHandle<()> {
        let identify = identify();
        tokio::spawn(async move {
            let alarm = Alarm { partition: self.partition.clone(), events: self.events.clone() };
            self.run(identify).await;
            drop(alarm);
        })
    }

    async fn run(self, mut identify: Box<dyn FnMut(&Record) -> crate::event_id::Identity + Send>) {
        let mut stream = self.queue.stream();
        let mut next = Offset::MIN;
        while let Some(room) = self.budget.room(&self.partition, self.epoch).await {
            let room = room.min(BATCH);
            let mut arrivals = Vec::new();
            let mut bytes = 0;
            let mut message = stream.next().await;
            while let Some(read) = message.take() {
                if let Some(record) = self.decode(read, &mut next) {
                    bytes += record.size();
                    let identity = Arc::new(identify(&record));
                    arrivals.push(Arrival { record: Arc::new(record), identity });
                }
                if arrivals.len() < room && bytes < BATCH_BYTES {
                    message = stream.next().now_or_never().flatten();
                }
            }
            if arrivals.is_empty() {
                continue;
            }
            self.budget.take(&self.partition, self.epoch, arrivals.len(), bytes);
            let event = KafkaEvent::Records { partition: self.partition.clone(), epoch: self.epoch, arrivals };
            if self.events.send(event).is_err() {
                return;
            }
            // A full queue is always ready; others want this thread too.
            tokio::task::yield_now().await;
        }
    }

    fn decode(&self, read: KafkaResult<BorrowedMessage<'_>>, next: &mut Offset) -> Option<Record> {
        match read {
            // A pause (ours, or librdkafka's own at each rebalance) rewinds to the last record that it saw us take; if we
            // took one at that very moment, it comes again.
            Ok(message) if message.offset() < *next => None,
            Ok(message) => {
                *next = message.offset() + 1;
                Some(copy(&self.partition, &message))
            }
            Err(error) => {
                let message = error.to_string();
                let _ = self.events.send(KafkaEvent::Problem { partition: Some(self.partition.clone()), message });
                None
            }
        }
    }
}

/// A reader that panics would leave its partition without one.
struct Alarm {
    partition: TopicPartition,
    events: Events,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.events.send(KafkaEvent::Fatal(format!("the reader of {} panicked", self.partition)));
        }
    }
}

/// Copies a record out of librdkafka's memory: key, value and header values into one allocation.
fn copy(origin: &TopicPartition, message: &BorrowedMessage<'_>) -> Record {
    let names = message.headers().map(header_names).unwrap_or_default();
    let values = |i: usize, name: &Option<String>| -> Option<&[u8]> {
        name.as_ref().and_then(|_| message.headers()).and_then(|h| h.try_get(i)).and_then(|h| h.value)
    };
    let size = message.key_len()
        + message.payload_len()
        + names.iter().enumerate().map(|(i, n)| values(i, n).map_or(0, <[u8]>::len)).sum::<usize>();
    let mut buffer = BytesMut::with_capacity(size);
    let mut bytes = |part: Option<&[u8]>| -> Option<Bytes> {
        part.map(|part| {
            buffer.extend_from_slice(part);
            buffer.split().freeze()
        })
    };
    Record {
        origin: origin.clone(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis(),
        key: bytes(message.key()),
        value: bytes(message.payload()),
        headers: names
            .into_iter()
            .enumerate()
            .map(|(i, name)| Header {
                value: bytes(values(i, &name)),
                name: name.unwrap_or_else(|| UNREADABLE.to_owned()),
            })
            .collect(),
    }
}

/// The header names, `None` for one that is not UTF-8: rdkafka panics there, and no record may stop the sidecar.
fn header_names<H: Headers>(headers: &H) -> Vec<Option<String>> {
    let name = |i| headers.try_get(i).map(|h| h.key.to_owned());
    (0..headers.count()).map(|i| catch_unwind(AssertUnwindSafe(|| name(i))).ok().flatten()).collect()
}

#[cfg(test)]
mod tests {
    use rdkafka::message::Header as RdHeader;

    use super::*;

    struct Poisoned;

    impl Headers for Poisoned {
        fn count(&self) -> usize {
            3
        }

        fn try_get(&self, i: usize) -> Option<RdHeader<'_, &[u8]>> {
            assert_ne!(i, 1, "rdkafka panics on a name that is not UTF-8");
            Some(RdHeader { key: "name", value: None })
        }
    }

    #[test]
    fn a_header_name_that_is_not_utf8_does_not_stop_the_reader() {
        assert_eq!(header_names(&Poisoned), [Some("name".to_owned()), None, Some("name".to_owned())]);
    }
}
