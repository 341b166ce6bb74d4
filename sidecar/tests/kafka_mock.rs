//! The Kafka client against librdkafka's mock cluster: order, rebalances, commits, bounds, dead letters, missing topics.

#![allow(clippy::unwrap_used, reason = "helpers of a test crate stand outside of its test functions")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::message::{Header as RdHeader, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, TopicPartitionList};
use sidecar::dead_letter::{DeadLetter, Verdict};
use sidecar::event_id::{EventId, Identity};
use sidecar::kafka::mock::EmbeddedBroker;
use sidecar::kafka::{Closed, CommitRequest, Consumer, Identify, KafkaEvent, Limits, OutRecord, Producer};
use sidecar::record::{Header, Record, TopicPartition};
use sidecar::settings::{KafkaSettings, Secret};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const DEADLINE: Duration = Duration::from_secs(90);
const TOPIC: &str = "events";
const WIDE: Limits = Limits { max_records: 1 << 20, max_bytes: 1 << 30 };

fn settings(broker: &EmbeddedBroker, topics: &[&str]) -> KafkaSettings {
    KafkaSettings {
        properties: vec![
            ("bootstrap.servers".into(), Secret::new(broker.bootstrap_servers())),
            ("heartbeat.interval.ms".into(), Secret::new("500")),
            ("session.timeout.ms".into(), Secret::new("6000")),
        ],
        group: "group".into(),
        topics: topics.iter().map(|t| (*t).to_owned()).collect(),
    }
}

/// What the records mean does not matter here; that they were asked about does.
fn identify() -> Identify {
    Arc::new(|| {
        Box::new(|record: &Record| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&record.offset.to_be_bytes());
            Identity { id: EventId(id), fallback: false, event_type: "".into(), fingerprint: None, cloud_event: None }
        })
    })
}

fn tp(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition { topic: topic.into(), partition }
}

/// One member, and everything it has told.
struct Member {
    consumer: Option<Consumer>,
    events: UnboundedReceiver<KafkaEvent>,
    held: HashMap<TopicPartition, u64>,
    records: BTreeMap<TopicPartition, Vec<Arc<Record>>>,
    revoked: Vec<TopicPartition>,
    /// Next offset of each partition, where a test takes `records` away.
    last: HashMap<TopicPartition, i64>,
    committed: HashMap<TopicPartition, i64>,
    problems: Vec<String>,
    topics: Option<(Vec<String>, usize)>,
    brokers: Option<(bool, String)>,
    left: usize,
    lost: usize,
    resets: Vec<String>,
    /// Give room back for what arrives.
    release: bool,
}

impl Member {
    fn new(settings: &KafkaSettings, limits: Limits) -> Self {
        let (sender, events) = unbounded_channel();
        let consumer = Consumer::new(settings, limits, identify(), sender).unwrap();
        Self {
            consumer: Some(consumer),
            events,
            held: HashMap::new(),
            records: BTreeMap::new(),
            revoked: Vec::new(),
            last: HashMap::new(),
            committed: HashMap::new(),
            problems: Vec::new(),
            topics: None,
            brokers: None,
            left: 0,
            lost: 0,
            resets: Vec::new(),
            release: true,
        }
    }

    async fn joined(settings: &KafkaSettings, limits: Limits) -> Self {
        let member = Self::new(settings, limits);
        member.consumer().join().await.unwrap();
        member
    }

    fn consumer(&self) -> &Consumer {
        self.consumer.as_ref().unwrap()
    }

    fn count(&self) -> usize {
        self.records.values().map(Vec::len).sum()
    }

    fn take(&mut self, event: KafkaEvent) {
        match event {
            KafkaEvent::Assigned { partitions, epoch } => {
                for p in partitions {
                    assert!(self.held.insert(p, epoch).is_none(), "assigned twice");
                }
            }
            KafkaEvent::Records { partition, epoch, arrivals } => {
                assert_eq!(self.held.get(&partition), Some(&epoch), "records of an assignment that is over");
                assert!(!self.revoked.contains(&partition), "records after Revoked");
                for a in arrivals {
                    assert_eq!(a.record.origin, partition);
                    assert_eq!(a.identity.id.0[..8], a.record.offset.to_be_bytes());
                    if self.release {
                        self.consumer().budget().release(&partition, epoch, 1, a.record.size());
                    }
                    self.records.entry(partition.clone()).or_default().push(a.record);
                }
            }
            KafkaEvent::Revoked(partitions) => self.revoked.extend(partitions),
            KafkaEvent::Lost(partitions) => {
                self.lost += 1;
                for p in partitions {
                    self.held.remove(&p);
                }
            }
            KafkaEvent::Left => self.left += 1,
            KafkaEvent::Committed { partition, offset, .. } => {
                self.committed.insert(partition, offset);
            }
            KafkaEvent::CommitFailed { partition, error, .. } => self.problems.push(format!("{partition}: {error}")),
            KafkaEvent::Topics { missing, partitions } => self.topics = Some((missing, partitions)),
            KafkaEvent::Brokers { up, message } => self.brokers = Some((up, message)),
            KafkaEvent::Problem { message, .. } => self.problems.push(message),
            KafkaEvent::Fatal(message) | KafkaEvent::Recreated { message, .. } => panic!("fatal: {message}"),
            KafkaEvent::OffsetReset { partition, message } => self.resets.push(format!("{partition}: {message}")),
            KafkaEvent::Lag(_) => {}
        }
    }

    async fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let end = tokio::time::Instant::now() + DEADLINE;
        while !done(self) {
            let Ok(event) = tokio::time::timeout_at(end, self.events.recv()).await else {
                panic!(
                    "no {what} in time: holds {}, revoked {}, {} records, topics {:?}, brokers {:?}, problems {:?}",
                    self.held.len(),
                    self.revoked.len(),
                    self.count(),
                    self.topics,
                    self.brokers,
                    self.problems
                );
            };
            self.take(event.unwrap());
        }
    }

    /// Takes what is there.
    fn drain(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.take(event);
        }
    }

    fn watermarks(&self, of: &[TopicPartition]) -> Vec<CommitRequest> {
        let last = |p: &TopicPartition| {
            let read = self.records.get(p).and_then(|r| r.last()).map(|r| r.offset + 1);
            read.or_else(|| self.last.get(p).copied())
        };
        let request = |p: &TopicPartition| {
            Some(CommitRequest { partition: p.clone(), epoch: *self.held.get(p)?, offset: last(p)? })
        };
        of.iter().filter_map(request).collect()
    }

    async fn finish(&mut self) {
        let revoked = std::mem::take(&mut self.revoked);
        self.consumer().finish_revoke(revoked.clone(), self.watermarks(&revoked)).await;
        for p in revoked {
            self.held.remove(&p);
        }
    }

    async fn close(&mut self) {
        let closed = self.consumer.take().unwrap().close(Duration::from_secs(20)).await;
        assert_eq!(closed, Closed::Left);
    }

    /// Each offset once and in order, partition by partition.
    fn offsets(&self) -> BTreeMap<i32, Vec<i64>> {
        self.records.iter().map(|(p, r)| (p.partition, r.iter().map(|r| r.offset).collect())).collect()
    }
}

fn producer(broker: &EmbeddedBroker) -> FutureProducer {
    ClientConfig::new().set("bootstrap.servers", broker.bootstrap_servers()).set("linger.ms", "5").create().unwrap()
}

/// Writes `count` records to each partition; every fifth is a tombstone.
async fn produce(broker: &EmbeddedBroker, topic: &str, partitions: i32, from: usize, count: usize, size: usize) {
    let producer = producer(broker);
    let value = vec![b'v'; size];
    let mut sent = Vec::new();
    for i in from..from + count {
        for p in 0..partitions {
            let key = format!("{p}-{i}");
            let headers = OwnedHeaders::new()
                .insert(RdHeader { key: "n", value: Some(&key) })
                .insert(RdHeader { key: "n", value: Some("again") })
                .insert(RdHeader::<&[u8]> { key: "none", value: None });
            let mut record = FutureRecord::to(topic).partition(p).key(&key).headers(headers);
            record.payload = (i % 5 != 4).then_some(&value);
            sent.push(producer.send_result(record).map_err(|(e, _)| e).unwrap());
        }
    }
    for s in sent {
        s.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_comes_once_in_order_and_whole() {
    let broker = EmbeddedBroker::start(&[(TOPIC, 6)]).unwrap();
    produce(&broker, TOPIC, 6, 0, 500, 100).await;
    let mut member = Member::joined(&settings(&broker, &[TOPIC]), WIDE).await;
    member.until("3000 records", |m| m.count() >= 3000).await;
    for (p, offsets) in member.offsets() {
        assert_eq!(offsets, (0..500).collect::<Vec<_>>(), "partition {p}");
    }
    for (p, records) in &member.records {
        for (i, r) in records.iter().enumerate() {
            let key = Bytes::from(format!("{}-{i}", p.partition));
            assert_eq!(r.key.as_ref(), Some(&key));
            assert_eq!(r.value.as_ref().map(Bytes::len), (i % 5 != 4).then_some(100));
            assert!(r.timestamp.is_some());
            let header = |name: &str, value: Option<&Bytes>| Header { name: name.into(), value: value.cloned() };
            let again = Bytes::from_static(b"again");
            assert_eq!(r.headers, [header("n", Some(&key)), header("n", Some(&again)), header("none", None)]);
        }
    }
    assert_eq!(member.topics, Some((vec![], 6)));
    assert_eq!(member.brokers, Some((true, String::new())));
    member.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoke_waits_for_the_pipeline_and_costs_no_record() {
    let broker = EmbeddedBroker::start(&[(TOPIC, 6)]).unwrap();
    let settings = settings(&broker, &[TOPIC]);
    produce(&broker, TOPIC, 6, 0, 50, 100).await;
    let mut a = Member::joined(&settings, WIDE).await;
    a.until("six partitions and their records", |m| m.held.len() == 6 && m.count() == 300).await;
    let mut b = Member::joined(&settings, WIDE).await;
    a.until("a revoke", |m| !m.revoked.is_empty()).await;
    assert!(a.revoked.len() < 6, "cooperative: some stay");
    let revoked: HashSet<_> = a.revoked.iter().cloned().collect();

    // Longer than the session time-out: the member must stay alive, and the others must wait.
    let pending = Instant::now();
    while pending.elapsed() < Duration::from_secs(8) {
        let _ = tokio::time::timeout(Duration::from_millis(100), async {
            let event = a.events.recv().await.unwrap();
            a.take(event);
        })
        .await;
        b.drain();
        assert!(b.held.keys().all(|p| !revoked.contains(p)), "given away before it was finished");
    }
    assert_eq!(a.lost, 0);
    a.finish().await;
    b.until("the revoked partitions", |m| m.held.len() == revoked.len()).await;
    assert_eq!(b.held.keys().cloned().collect::<HashSet<_>>(), revoked);

    produce(&broker, TOPIC, 6, 50, 50, 100).await;
    let kept = 6 - revoked.len();
    a.until("the rest of its own", |m| m.count() == 300 + kept * 50).await;
    b.until("the rest of the others", |m| m.count() == revoked.len() * 50).await;
    for (member, from) in [(&a, 0), (&b, 50)] {
        for p in member.held.keys() {
            assert_eq!(member.offsets()[&p.partition], (from..100).collect::<Vec<_>>(), "{p}");
        }
    }
    b.close().await;
    a.until("the partitions back", |m| m.held.len() == 6).await;
    a.close().await;
}

/// Every rebalance makes librdkafka rewind to what it saw us take. Records flow all the while, two members, both committing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rebalances_under_load_lose_nothing_and_repeat_nothing() {
    const EACH: usize = 4000;
    let broker = EmbeddedBroker::start(&[(TOPIC, 4)]).unwrap();
    let mut settings = settings(&broker, &[TOPIC]);
    settings.properties.push(("session.timeout.ms".into(), Secret::new("3000")));
    let limits = Limits { max_records: 100, max_bytes: 1 << 20 };
    let feed = async {
        for from in (0..EACH).step_by(20) {
            produce(&broker, TOPIC, 4, from, 20, 50).await;
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    };
    let flow = async {
        let mut seen: BTreeMap<(i32, i64), usize> = BTreeMap::new();
        let mut stay = Member::joined(&settings, limits).await;
        let mut guest = Member::new(&settings, limits);
        let mut visits = 0;
        let mut present = false;
        let end = Instant::now() + DEADLINE;
        loop {
            for member in [&mut stay, &mut guest] {
                if let Ok(event) = tokio::time::timeout(Duration::from_millis(1), member.events.recv()).await {
                    member.take(event.unwrap());
                    member.drain();
                }
                if !member.revoked.is_empty() {
                    member.finish().await;
                }
                for r in std::mem::take(&mut member.records).into_values().flatten() {
                    *seen.entry((r.origin.partition, r.offset)).or_default() += 1;
                    let epoch = member.held[&r.origin];
                    let request = CommitRequest { partition: r.origin.clone(), epoch, offset: r.offset + 1 };
                    member.consumer().commit(vec![request]);
                    member.last.insert(r.origin.clone(), r.offset + 1);
                }
            }
            if !present && guest.held.is_empty() && visits < 3 {
                guest.consumer().join().await.unwrap();
                present = true;
            } else if present && guest.held.len() == 2 {
                guest.consumer().leave();
                (present, visits) = (false, visits + 1);
            }
            if visits == 3 && seen.len() == 4 * EACH {
                break;
            }
            assert!(Instant::now() < end, "{visits} visits, {} records: {:?}", seen.len(), stay.problems);
        }
        let twice: Vec<_> = seen.iter().filter(|(_, n)| **n != 1).collect();
        assert!(twice.is_empty(), "{} came twice: {:?}", twice.len(), twice.first());
        assert_eq!((stay.lost, guest.lost), (0, 0));
        stay.close().await;
        guest.close().await;
    };
    tokio::join!(feed, flow);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_outlives_the_member_and_only_ours_is_committed() {
    let broker = EmbeddedBroker::start(&[(TOPIC, 2)]).unwrap();
    let settings = settings(&broker, &[TOPIC]);
    produce(&broker, TOPIC, 2, 0, 100, 10).await;
    let mut first = Member::joined(&settings, WIDE).await;
    first.until("200 records", |m| m.count() == 200).await;
    let epoch = first.held[&tp(TOPIC, 0)];
    let request = |partition, epoch, offset| CommitRequest { partition: tp(TOPIC, partition), epoch, offset };
    first.consumer().commit(vec![request(1, epoch + 1, 99), request(7, epoch, 5)]);
    first.consumer().commit(vec![request(0, epoch, 60)]);
    first.until("the commit", |m| m.committed.get(&tp(TOPIC, 0)) == Some(&60)).await;
    assert_eq!(first.committed.len(), 1, "another epoch's or a foreign partition was committed");
    first.close().await;

    let mut second = Member::joined(&settings, WIDE).await;
    second.until("the rest", |m| m.count() == 140).await;
    assert_eq!(second.offsets()[&0], (60..100).collect::<Vec<_>>());
    assert_eq!(second.offsets()[&1], (0..100).collect::<Vec<_>>());
    second.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_left_and_joined_ten_times() {
    let broker = EmbeddedBroker::start(&[(TOPIC, 3)]).unwrap();
    let settings = settings(&broker, &[TOPIC]);
    let mut member = Member::new(&settings, WIDE);
    for round in 0..10 {
        produce(&broker, TOPIC, 3, round * 10, 10, 10).await;
        member.consumer().join().await.unwrap();
        let all = (round + 1) * 30;
        member.until("a round's records", |m| m.count() == all).await;
        member.consumer().leave();
        member.until("the revoke", |m| m.revoked.len() == 3).await;
        member.finish().await;
        member.until("the leave", |m| m.left > round).await;
    }
    for offsets in member.offsets().values() {
        assert_eq!(*offsets, (0..100).collect::<Vec<_>>(), "committed at each leave, so nothing comes twice");
    }
    member.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_budget_stops_reading_and_nothing_is_lost() {
    let broker = EmbeddedBroker::start(&[(TOPIC, 2), ("small", 1)]).unwrap();
    produce(&broker, TOPIC, 2, 0, 2000, 1000).await;
    let limits = Limits { max_records: 300, max_bytes: 1 << 30 };
    let mut member = Member::joined(&settings(&broker, &[TOPIC, "small"]), limits).await;
    member.release = false;
    member.until("a full budget", |m| m.count() == 600).await;
    // Polls of the group's queue go on: an empty partition is still served.
    produce(&broker, "small", 1, 0, 1, 10).await;
    member.until("the other topic", |m| m.records.contains_key(&tp("small", 0))).await;
    assert_eq!(member.count(), 601, "read past the bound");
    assert_eq!(member.consumer().budget().held().0, 601);
    let held = member.held.clone();
    for (p, epoch) in &held {
        let size = member.records[p].iter().map(|r| r.size()).sum();
        member.consumer().budget().release(p, *epoch, member.records[p].len(), size);
    }
    member.release = true;
    member.until("the rest", |m| m.count() == 4001).await;
    for (p, offsets) in member.offsets() {
        assert!(offsets.iter().copied().eq(0..offsets.len() as i64), "partition {p}");
    }
    member.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_are_bounded_too() {
    let broker = EmbeddedBroker::start(&[(TOPIC, 2)]).unwrap();
    produce(&broker, TOPIC, 2, 0, 200, 10_000).await;
    let limits = Limits { max_records: 10_000, max_bytes: 400_000 };
    let mut member = Member::joined(&settings(&broker, &[TOPIC]), limits).await;
    member.release = false;
    let full = |m: &Member| m.consumer().budget().held().1 >= 400_000;
    member.until("a full budget", full).await;
    let bound = 400_000 + 2 * ((256 << 10) + 10_000);
    assert!(member.consumer().budget().held().1 <= bound, "{:?}", member.consumer().budget().held());
    member.drain();
    let mut given = HashMap::new();
    while member.count() < 400 {
        for (p, records) in &member.records {
            let done = given.entry(p.clone()).or_insert(0);
            let size = records[*done..].iter().map(|r| r.size()).sum();
            member.consumer().budget().release(p, member.held[p], records.len() - *done, size);
            *done = records.len();
        }
        let before = member.count();
        member.until("more records", |m| m.count() > before).await;
        assert!(member.consumer().budget().held().1 <= bound);
    }
    assert!(member.offsets().values().all(|o| o.iter().copied().eq(0..200)));
    member.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_partition_is_silent_and_comes_back_whole() {
    let broker = EmbeddedBroker::start(&[(TOPIC, 2)]).unwrap();
    produce(&broker, TOPIC, 2, 0, 100, 10).await;
    let mut member = Member::joined(&settings(&broker, &[TOPIC]), WIDE).await;
    member.until("200 records", |m| m.count() == 200).await;
    member.consumer().pause(&[tp(TOPIC, 0)]).unwrap();
    produce(&broker, TOPIC, 2, 100, 100, 10).await;
    member.until("the other partition", |m| m.records[&tp(TOPIC, 1)].len() == 200).await;
    assert_eq!(member.records[&tp(TOPIC, 0)].len(), 100);
    member.consumer().resume(&[tp(TOPIC, 0)]).unwrap();
    member.until("all", |m| m.count() == 400).await;
    assert!(member.offsets().values().all(|o| o.iter().copied().eq(0..200)));
    member.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_with_an_open_revoke_leaves_at_once() {
    let broker = EmbeddedBroker::start(&[(TOPIC, 4)]).unwrap();
    let settings = settings(&broker, &[TOPIC]);
    let mut a = Member::joined(&settings, WIDE).await;
    a.until("four partitions", |m| m.held.len() == 4).await;
    let mut b = Member::joined(&settings, WIDE).await;
    a.until("a revoke", |m| !m.revoked.is_empty()).await;
    a.close().await;
    b.until("all partitions", |m| m.held.len() == 4).await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_goes_round() {
    let broker = EmbeddedBroker::start(&[(TOPIC, 1), ("dead", 1)]).unwrap();
    let settings = settings(&broker, &["dead"]);
    let original = Record {
        origin: tp(TOPIC, 3),
        offset: 5_000_000_000,
        timestamp: Some(17),
        key: Some(Bytes::from_static(b"\xff")),
        value: None,
        headers: vec![Header { name: "ce_id".into(), value: Some(Bytes::from_static(b"\0\x80")) }],
    };
    let letter = DeadLetter {
        origin: original.origin.clone(),
        offset: original.offset,
        timestamp: original.timestamp,
        group: "group".into(),
        event_id: EventId([7; 32]),
        idempotency_key: "p:07".into(),
        reason: "HTTP 422".into(),
        attempts: 1,
        outcome: Verdict::Rejected,
    };
    let producer = Producer::new(settings.clone());
    producer.send("dead", letter.wrap(&original)).await.unwrap();
    let mut member = Member::joined(&settings, WIDE).await;
    member.until("the dead letter", |m| m.count() == 1).await;
    let read = &member.records[&tp("dead", 0)][0];
    assert_eq!((&read.key, &read.value), (&original.key, &original.value));
    assert_eq!(read.headers[0], original.headers[0]);
    assert_eq!(DeadLetter::from_headers(&read.headers), Ok(letter));
    member.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_too_large_is_refused_for_good_and_an_absent_broker_is_not() {
    let broker = EmbeddedBroker::start(&[("dead", 1)]).unwrap();
    let mut settings = settings(&broker, &["dead"]);
    settings.properties.push(("message.max.bytes".into(), Secret::new("2000")));
    settings.properties.push(("message.timeout.ms".into(), Secret::new("1000")));
    let producer = Producer::new(settings);
    let record = |size| OutRecord { key: None, value: Some(vec![0; size].into()), headers: vec![] };
    let error = producer.send("dead", record(5000)).await.unwrap_err();
    assert!(error.permanent, "{error}");
    producer.send("dead", record(100)).await.unwrap();
    broker.down().unwrap();
    let error = producer.send("dead", record(100)).await.unwrap_err();
    assert!(!error.permanent, "{error}");
    broker.up().unwrap();
    let end = Instant::now() + DEADLINE;
    while let Err(error) = producer.send("dead", record(100)).await {
        assert!(Instant::now() < end && !error.permanent, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_topic_is_named_and_found_when_it_is_there() {
    let broker = EmbeddedBroker::start(&[(TOPIC, 2)]).unwrap();
    let mut member = Member::joined(&settings(&broker, &[TOPIC, "later"]), WIDE).await;
    member.until("the missing topic", |m| m.topics == Some((vec!["later".into()], 2))).await;
    broker.create_topic("later", 1).unwrap();
    produce(&broker, "later", 1, 0, 10, 10).await;
    member.until("the topic", |m| m.topics == Some((vec![], 3))).await;
    member.until("its records", |m| m.records.get(&tp("later", 0)).is_some_and(|r| r.len() == 10)).await;
    member.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_whose_only_topic_is_missing_starts_when_it_is_there() {
    let broker = EmbeddedBroker::start(&[]).unwrap();
    let mut member = Member::joined(&settings(&broker, &["later"]), WIDE).await;
    member.until("the missing topic", |m| m.topics == Some((vec!["later".into()], 0))).await;
    broker.create_topic("later", 1).unwrap();
    produce(&broker, "later", 1, 0, 10, 10).await;
    member.until("its records", |m| m.count() == 10).await;
    member.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_are_told_down_and_up_and_records_go_on() {
    let broker = EmbeddedBroker::start(&[(TOPIC, 1)]).unwrap();
    produce(&broker, TOPIC, 1, 0, 10, 10).await;
    let mut member = Member::joined(&settings(&broker, &[TOPIC]), WIDE).await;
    member.until("ten records", |m| m.count() == 10).await;
    broker.down().unwrap();
    member.until("brokers down", |m| matches!(&m.brokers, Some((false, why)) if why.contains("refused"))).await;
    broker.up().unwrap();
    member.until("brokers up", |m| matches!(m.brokers, Some((true, _)))).await;
    produce(&broker, TOPIC, 1, 10, 10, 10).await;
    member.until("twenty records", |m| m.records.values().flatten().any(|r| r.offset == 19)).await;
    member.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offset_out_of_range_is_told() {
    let broker = EmbeddedBroker::start(&[(TOPIC, 1)]).unwrap();
    let settings = settings(&broker, &[TOPIC]);
    produce(&broker, TOPIC, 1, 0, 10, 10).await;
    let mut first = Member::joined(&settings, WIDE).await;
    first.until("ten records", |m| m.count() == 10).await;
    let epoch = first.held[&tp(TOPIC, 0)];
    first.consumer().commit(vec![CommitRequest { partition: tp(TOPIC, 0), epoch, offset: 1000 }]);
    first.until("the commit", |m| !m.committed.is_empty()).await;
    first.close().await;

    let mut second = Member::joined(&settings, WIDE).await;
    second.until("the reset", |m| !m.resets.is_empty()).await;
    assert!(second.resets[0].starts_with(&format!("{}: ", tp(TOPIC, 0))), "{:?}", second.resets);
    second.until("everything again", |m| m.offsets().get(&0).is_some_and(|o| o.ends_with(&[8, 9]))).await;
    second.close().await;
}

/// The broker keeps 5 MiB: what a slow reader has not fetched by then is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_in_the_middle_starts_a_new_assignment() {
    let broker = EmbeddedBroker::start(&[(TOPIC, 1)]).unwrap();
    let mut settings = settings(&broker, &[TOPIC]);
    settings.properties.push(("queued.max.messages.kbytes".into(), Secret::new("64")));
    produce(&broker, TOPIC, 1, 0, 2_000, 1_000).await;
    let mut member = Member::new(&settings, Limits { max_records: 10, max_bytes: 1 << 20 });
    member.release = false;
    member.consumer().join().await.unwrap();
    member.until("a few records", |m| m.count() >= 10).await;
    let (place, before) = (tp(TOPIC, 0), member.held[&tp(TOPIC, 0)]);
    let old = CommitRequest { partition: place.clone(), epoch: before, offset: 10 };
    produce(&broker, TOPIC, 1, 2_000, 10_000, 1_000).await;

    member.release = true;
    member.drain();
    member.consumer().budget().release(&place, before, member.count(), 1 << 20);
    member.until("a new assignment", |m| m.held.get(&place).is_some_and(|epoch| *epoch > before)).await;
    assert_eq!((member.lost, member.resets.len()), (1, 1), "{:?}", member.resets);
    let first = member.count();
    member.until("the last record", |m| m.records[&place].last().is_some_and(|r| r.offset == 11_999)).await;
    let again = member.offsets()[&0][first..].to_vec();
    assert_eq!(again, (again[0]..12_000).collect::<Vec<_>>(), "each once, and in order");
    assert!(again[0] > 2_000, "{}", again[0]);

    let new = CommitRequest { partition: place.clone(), epoch: member.held[&place], offset: 11_000 };
    member.consumer().commit(vec![old]);
    member.consumer().commit(vec![new]);
    member.until("the commit", |m| !m.committed.is_empty()).await;
    assert_eq!(member.committed[&place], 11_000, "nothing of the old assignment is committed");
    member.close().await;
}

/// What is committed for the group, and the note that stands with it.
fn noted(broker: &EmbeddedBroker) -> (i64, String) {
    let client = plain_client(broker);
    let mut list = TopicPartitionList::new();
    list.add_partition(TOPIC, 0);
    let list = client.committed_offsets(list, Duration::from_secs(10)).unwrap();
    let element = &list.elements()[0];
    (element.offset().to_raw().unwrap(), element.metadata().to_owned())
}

fn plain_client(broker: &EmbeddedBroker) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.bootstrap_servers()).set("group.id", "group").create().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offset_that_was_committed_in_another_topic_of_that_name_counts_for_nothing() {
    let broker = EmbeddedBroker::start(&[(TOPIC, 1)]).unwrap();
    let settings = settings(&broker, &[TOPIC]);
    produce(&broker, TOPIC, 1, 0, 10, 10).await;
    let mut list = TopicPartitionList::new();
    let mut entry = list.add_partition(TOPIC, 0);
    entry.set_offset(rdkafka::Offset::Offset(8)).unwrap();
    entry.set_metadata("topic-id=xGmLBwoJRn6vJYGr2rJ0Xw");
    plain_client(&broker).commit(&list, CommitMode::Sync).unwrap();
    let mut first = Member::joined(&settings, WIDE).await;
    first
        .until("all records", |m| m.offsets().get(&0).is_some_and(|o| o.ends_with(&(0..10).collect::<Vec<_>>())))
        .await;
    assert!(first.resets[0].contains("another topic"), "{:?}", first.resets);
    let epoch = first.held[&tp(TOPIC, 0)];
    first.consumer().commit(vec![CommitRequest { partition: tp(TOPIC, 0), epoch, offset: 6 }]);
    first.until("the commit", |m| !m.committed.is_empty()).await;
    first.close().await;
    let (offset, note) = noted(&broker);
    assert!(offset == 6 && note.starts_with("topic-id=") && note.len() > 20, "{offset} {note}");

    let mut second = Member::joined(&settings, WIDE).await;
    second.until("the rest", |m| m.count() == 4).await;
    let epoch = second.held[&tp(TOPIC, 0)];
    second.consumer().commit(vec![CommitRequest { partition: tp(TOPIC, 0), epoch, offset: 7 }]);
    second.until("the commit", |m| !m.committed.is_empty()).await;
    assert_eq!((second.resets.len(), second.lost), (0, 0), "it is the same topic: {:?}", second.resets);
    second.close().await;
    assert_eq!(noted(&broker), (7, note));
}
