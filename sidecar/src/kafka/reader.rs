//! Decides how one partition's records become arrivals: copied out of librdkafka once, identified, sent in batches. I/O.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt};
use rdkafka::consumer::stream_consumer::StreamPartitionQueue;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::error::KafkaResult;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use tokio::task::JoinHandle;

use super::context::Context;
use super::{Arrival, Budget, Events, Identify, KafkaEvent};
use crate::event_id::EventId;
use crate::guard;
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
    pub(super) consumer: Arc<StreamConsumer<Context>>,
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
        let mut taken = Taken::default();
        while let Some(room) = self.budget.room(&self.partition, self.epoch).await {
            let room = room.min(BATCH);
            let mut arrivals = Vec::new();
            let mut bytes = 0;
            let mut message = stream.next().await;
            while let Some(read) = message.take() {
                if let Some(record) = self.decode(read) {
                    let identity = Arc::new(identify(&record));
                    match taken.place(&record, identity.id) {
                        Place::Next => {
                            bytes += record.size();
                            arrivals.push(Arrival { record: Arc::new(record), identity });
                        }
                        Place::Repeat => {}
                        // The group task gives this reader a successor. What was read before stands.
                        Place::Other => {
                            self.send(arrivals, bytes);
                            return self.consumer.context().was_cut(&self.partition, record.offset);
                        }
                    }
                }
                if arrivals.len() < room && bytes < BATCH_BYTES {
                    message = stream.next().now_or_never().flatten();
                }
            }
            if arrivals.is_empty() {
                continue;
            }
            if !self.send(arrivals, bytes) {
                return;
            }
            // A full queue is always ready; others want this thread too.
            tokio::task::yield_now().await;
        }
    }

    /// False when nobody listens any more.
    fn send(&self, arrivals: Vec<Arrival>, bytes: usize) -> bool {
        if arrivals.is_empty() {
            return true;
        }
        self.budget.take(&self.partition, self.epoch, arrivals.len(), bytes);
        let event = KafkaEvent::Records { partition: self.partition.clone(), epoch: self.epoch, arrivals };
        self.events.send(event).is_ok()
    }

    fn decode(&self, read: KafkaResult<BorrowedMessage<'_>>) -> Option<Record> {
        match read {
            Ok(message) => Some(copy(&self.partition, &message)),
            Err(error) => {
                let message = error.to_string();
                let _ = self.events.send(KafkaEvent::Problem { partition: Some(self.partition.clone()), message });
                None
            }
        }
    }
}

/// What was taken last in this assignment.
#[derive(Debug, Default)]
struct Taken {
    next: Option<Offset>,
    last: VecDeque<(Offset, Option<i64>, EventId)>,
}

/// Where a record stands by those taken before.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// Behind them.
    Next,
    /// It is one of them.
    Repeat,
    /// Another one had its offset, or it is too long ago to tell: this is not the log that was read.
    Other,
}

impl Taken {
    /// librdkafka repeats what it did not see us take: a pause (its own, at each rebalance) rewinds to the last record that it
    /// saw, and we may have taken one more at that very moment.
    const REMEMBERED: usize = 64;

    fn place(&mut self, record: &Record, id: EventId) -> Place {
        let found = (record.offset, record.timestamp, id);
        if self.next.is_some_and(|next| record.offset < next) {
            return if self.last.contains(&found) { Place::Repeat } else { Place::Other };
        }
        self.next = Some(record.offset.saturating_add(1));
        if self.last.len() >= Self::REMEMBERED {
            self.last.pop_front();
        }
        self.last.push_back(found);
        Place::Next
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
    (0..headers.count()).map(|i| guard::survive(|| name(i)).flatten()).collect()
}

#[cfg(test)]
mod tests {
    use rdkafka::message::Header as RdHeader;

    use super::*;

    fn at(offset: Offset, timestamp: i64) -> Record {
        let origin = TopicPartition { topic: "t".into(), partition: 0 };
        Record { origin, offset, timestamp: Some(timestamp), key: None, value: None, headers: Vec::new() }
    }

    #[test]
    fn a_repeat_is_told_from_another_record_under_its_offset() {
        let id = EventId([1; 32]);
        let mut taken = Taken::default();
        for offset in [3, 4, 9] {
            assert_eq!(taken.place(&at(offset, offset), id), Place::Next);
        }
        assert_eq!(taken.place(&at(9, 9), id), Place::Repeat);
        assert_eq!(taken.place(&at(4, 4), id), Place::Repeat);
        assert_eq!(taken.place(&at(9, 10), id), Place::Other, "written later");
        assert_eq!(taken.place(&at(9, 9), EventId([2; 32])), Place::Other, "another event");
        assert_eq!(taken.place(&at(5, 5), id), Place::Other, "there was none");
        assert_eq!(taken.place(&at(10, 10), id), Place::Next);
        for offset in 11..100 {
            taken.place(&at(offset, offset), id);
        }
        assert_eq!(taken.place(&at(10, 10), id), Place::Other, "too long ago to tell");
        assert!(taken.last.len() <= Taken::REMEMBERED);
    }

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
