//! Tests of single situations of the pipeline, with a store that answers at once and an app that is played by hand.

use std::collections::HashSet;

use bytes::Bytes;
use crds::config::FailurePolicy;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use uuid::Uuid;

use super::*;
use crate::claim::SessionId;
use crate::event_id::EventId;
use crate::gate::{GateConfig, Token};
use crate::kafka::ProduceError;
use crate::outcome::{Outcome, Reason};
use crate::store::{Op, Reply, StoreError};

fn place(partition: i32) -> TopicPartition {
    TopicPartition { topic: "t".into(), partition }
}

fn failed(reason: Reason) -> Outcome {
    let sent = !matches!(reason, Reason::NotSent(_));
    Outcome::Failed { reason, retry_after: None, sent }
}

fn refused() -> ProduceError {
    ProduceError { permanent: true, message: "too large".into() }
}

/// A request to the app: its id, and its events.
#[derive(Debug)]
struct Request {
    id: usize,
    events: Vec<u8>,
    attempts: Vec<u32>,
}

struct Rig {
    pipeline: Pipeline,
    now: Time,
    store: HashMap<String, Bytes>,
    requests: Vec<Request>,
    copies: Vec<(usize, u8)>,
    others: Vec<Effect>,
}

impl Rig {
    fn new(change: impl FnOnce(&mut PipelineConfig)) -> Self {
        let gate = GateConfig {
            policy: FailurePolicy::Open,
            session_prefix: "s:".into(),
            session_ttl: Duration::from_secs(10),
            done_values: Vec::new(),
            longest_ttl: Duration::from_secs(86_400),
        };
        let mut config = PipelineConfig {
            group: "g".into(),
            key_prefix: "k:".into(),
            ttl: Duration::from_secs(86_400),
            ttl_overrides: BTreeMap::new(),
            ordering: Ordering::Partition,
            concurrency: 8,
            batch: 1,
            backoff: BackoffConfig::default(),
            max_attempts: None,
            dead_letter_topic: Some("dead".into()),
            duplicates_topic: None,
            app_down_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
            commit_every: Duration::from_millis(250),
            paused: false,
        };
        change(&mut config);
        let now = Time::at(Duration::from_secs(1_000));
        let mut given = 0;
        let fresh = move || {
            given += 1;
            SessionId::new(Uuid::from_u128(given))
        };
        let pipeline = Pipeline::new(config, Gate::new(gate, Vec::new(), fresh, now), SmallRng::seed_from_u64(1), now);
        let store = HashMap::new();
        let mut rig = Self { pipeline, now, store, requests: Vec::new(), copies: Vec::new(), others: Vec::new() };
        rig.pipeline.start();
        rig.pipeline.app_accepts(now);
        rig.settle_down();
        rig
    }

    fn apply(&mut self, op: &Op) -> Result<Reply, StoreError> {
        let key = op.key().to_string();
        let there = self.store.get(&key).cloned();
        let value = match op {
            Op::SetIfAbsent { value, .. } => match there {
                Some(found) => return Ok(Reply::Present(found)),
                None => value,
            },
            Op::CompareAndSet { expect, value, .. } if there.as_ref() == Some(expect) => value,
            Op::SetIfPresent { value, .. } if there.is_some() => value,
            Op::Set { value, .. } => value,
            Op::CompareAndDelete { expect, .. } if there.as_ref() != Some(expect) => return Ok(Reply::Refused),
            Op::CompareAndDelete { .. } | Op::Delete { .. } => {
                self.store.remove(&key);
                return Ok(Reply::Applied);
            }
            Op::Exists { .. } if there.is_some() => return Ok(Reply::Applied),
            _ => return Ok(Reply::Refused),
        };
        self.store.insert(key, value.clone());
        Ok(Reply::Applied)
    }

    fn settle_down(&mut self) {
        for _ in 0..50 {
            self.pipeline.advance(self.now);
            for effect in self.pipeline.take_effects() {
                self.take(effect);
            }
            let ops = self.pipeline.gate().take_ops();
            if ops.is_empty() {
                return;
            }
            let answers: Vec<(Token, _)> = ops.into_iter().map(|(token, op)| (token, self.apply(&op))).collect();
            self.pipeline.gate().answered(answers, self.now);
        }
        panic!("it does not come to rest");
    }

    fn take(&mut self, effect: Effect) {
        match effect {
            Effect::Deliver { id, parcels } => {
                let events = parcels.iter().map(|parcel| parcel.record.value.as_ref().unwrap()[0]).collect();
                let attempts = parcels.iter().map(|parcel| parcel.attempt).collect();
                self.requests.push(Request { id, events, attempts });
            }
            Effect::Copy { id, record, .. } => self.copies.push((id, record.value.as_ref().unwrap()[0])),
            other => self.others.push(other),
        }
    }

    /// Lets time pass in small steps.
    fn pass(&mut self, millis: u64) {
        for _ in 0..millis / 100 {
            self.now = self.now + Duration::from_millis(100);
            self.settle_down();
        }
    }

    /// Records of these events, with their event as the record's key.
    fn arrive(&mut self, partition: i32, first: i64, events: &[u8]) {
        let arrivals = events.iter().zip(first..).map(|(event, offset)| Arrival {
            record: Arc::new(Record {
                origin: place(partition),
                offset,
                timestamp: None,
                key: Some(vec![*event].into()),
                value: Some(vec![*event].into()),
                headers: Vec::new(),
            }),
            identity: Arc::new(Identity {
                id: EventId([*event; 32]),
                fallback: false,
                event_type: "".into(),
                fingerprint: None,
                cloud_event: None,
            }),
        });
        self.pipeline.arrived(&place(partition), 1, arrivals.collect());
        self.settle_down();
    }

    fn assign(&mut self, partitions: &[i32]) {
        self.pipeline.assigned(partitions.iter().map(|partition| place(*partition)).collect(), 1);
    }

    /// The next request, with these events.
    fn request(&mut self, events: &[u8]) -> Request {
        assert!(!self.requests.is_empty(), "nothing is delivered");
        let request = self.requests.remove(0);
        assert_eq!(request.events, events);
        request
    }

    fn answer(&mut self, request: &Request, outcomes: Vec<Outcome>) {
        self.pipeline.delivered(request.id, outcomes, self.now);
        self.settle_down();
    }

    fn copied(&mut self, event: u8, result: Result<(), ProduceError>) {
        let at = self.copies.iter().position(|(_, copied)| *copied == event).expect("a copy");
        let (id, _) = self.copies.remove(at);
        self.pipeline.copied(id, result, self.now);
        self.settle_down();
    }

    fn at_rest(&self) {
        assert_eq!((self.pipeline.ahead, self.pipeline.busy), (0, 0));
        assert!(self.pipeline.partitions.iter().all(|(_, partition)| partition.busy == 0));
        assert!(self.pipeline.entries.is_empty() && self.pipeline.copies.is_empty());
        assert!(self.pipeline.deliveries.is_empty() && self.pipeline.gate.is_idle());
    }

    fn claims(&self) -> HashSet<String> {
        let claims = self.store.iter().filter(|(_, value)| value.starts_with(b"c:") && !value.starts_with(b"c:-"));
        claims.map(|(key, _)| key.clone()).collect()
    }
}

#[test]
fn while_a_revoked_partition_waits_nothing_is_due_at_once() {
    let mut rig = Rig::new(|_| {});
    rig.assign(&[0]);
    rig.arrive(0, 0, &[1, 2, 3]);
    for event in [1, 2] {
        let request = rig.request(&[event]);
        rig.answer(&request, vec![Outcome::Completed]);
    }
    // The first was committed at once; the second is to be with the revocation.
    rig.pipeline.revoked(&[place(0)], rig.now);
    rig.settle_down();
    rig.now = rig.now + Duration::from_secs(1);
    rig.settle_down();
    let due = rig.pipeline.next_due().unwrap();
    assert!(due > rig.now, "else the loop turns without a pause until the delivery ends");
    let third = rig.request(&[3]);
    rig.answer(&third, vec![Outcome::Completed]);
    let finished = rig.others.iter().find_map(|effect| match effect {
        Effect::FinishRevoke { commits, .. } => Some(commits[0].offset),
        _ => None,
    });
    assert_eq!(finished, Some(3));
    rig.at_rest();
}

#[test]
fn partitions_lost_while_they_are_revoked_are_given_up_once() {
    let mut rig = Rig::new(|_| {});
    rig.assign(&[0, 1]);
    rig.arrive(0, 0, &[1]);
    rig.arrive(1, 0, &[2]);
    rig.pipeline.revoked(&[place(0), place(1)], rig.now);
    rig.settle_down();
    rig.pipeline.lost(&[place(0)], rig.now);
    rig.settle_down();
    let requests = std::mem::take(&mut rig.requests);
    for request in requests {
        rig.answer(&request, vec![Outcome::Completed]);
    }
    rig.pass(31_000);
    let given_back: Vec<TopicPartition> = rig
        .others
        .iter()
        .flat_map(|effect| match effect {
            Effect::FinishRevoke { partitions, .. } => partitions.clone(),
            _ => Vec::new(),
        })
        .collect();
    assert_eq!(given_back, [place(1)]);
    rig.at_rest();
}

#[test]
fn a_partition_that_a_refused_copy_stops_holds_no_claims() {
    for ordering in [Ordering::Partition, Ordering::Key, Ordering::Unordered] {
        let mut rig = Rig::new(|config| (config.ordering, config.concurrency) = (ordering, 2));
        rig.assign(&[0, 1]);
        rig.arrive(0, 0, &[1, 2, 3, 4, 5]);
        let first = rig.request(&[1]);
        let beside = (ordering != Ordering::Partition).then(|| rig.request(&[2]));
        rig.answer(&first, vec![Outcome::Rejected(Reason::Drop)]);
        let third = (ordering == Ordering::Partition).then(|| rig.request(&[2])).or_else(|| Some(rig.request(&[3])));
        rig.copied(1, Err(refused()));
        // What is under way may fail yet: it is not claimed again here.
        for request in third.into_iter().chain(beside) {
            rig.answer(&request, vec![failed(Reason::TimedOut)]);
        }
        rig.pass(10_000);
        assert!(rig.requests.is_empty(), "{ordering:?}: the partition is stopped");
        assert_eq!(rig.claims().len(), 1, "{ordering:?}: only what is being copied is held: {:?}", rig.claims());
        // Another partition has the same events: they are delivered there.
        rig.arrive(1, 0, &[5]);
        let elsewhere = rig.request(&[5]);
        rig.answer(&elsewhere, vec![Outcome::Completed]);
        rig.pass(30_000);
        rig.copied(1, Ok(()));
        let mut settled = 0;
        for _ in 0..20 {
            for request in std::mem::take(&mut rig.requests) {
                settled += request.events.len();
                rig.answer(&request, vec![Outcome::Completed]);
            }
            rig.pass(1_000);
        }
        assert_eq!(settled, 3, "{ordering:?}: 2, 3 and 4");
        rig.at_rest();
    }
}

#[test]
fn a_partition_stays_stopped_until_its_last_refused_copy_is_taken() {
    let mut rig = Rig::new(|config| (config.ordering, config.concurrency) = (Ordering::Unordered, 2));
    rig.assign(&[0]);
    rig.arrive(0, 0, &[1, 2, 3]);
    let (first, second) = (rig.request(&[1]), rig.request(&[2]));
    rig.pipeline.delivered(first.id, vec![Outcome::Rejected(Reason::Drop)], rig.now);
    rig.pipeline.delivered(second.id, vec![Outcome::Rejected(Reason::Drop)], rig.now);
    for effect in rig.pipeline.take_effects() {
        rig.take(effect);
    }
    rig.copied(1, Err(refused()));
    rig.copied(2, Err(refused()));
    rig.requests.clear();
    rig.pass(31_000);
    rig.copied(1, Ok(()));
    assert!(rig.requests.is_empty(), "the other copy is still refused");
    rig.copied(2, Ok(()));
    let third = rig.request(&[3]);
    rig.answer(&third, vec![Outcome::Completed]);
    rig.at_rest();
}

#[test]
fn an_event_that_takes_the_app_down_with_it_becomes_a_dead_letter_too() {
    let mut rig = Rig::new(|config| config.max_attempts = Some(3));
    rig.assign(&[0]);
    rig.arrive(0, 0, &[1]);
    for attempt in 1..=3 {
        let request = rig.request(&[1]);
        assert_eq!(request.attempts, [attempt]);
        rig.answer(&request, vec![failed(Reason::Broken("the connection broke".into()))]);
        if attempt < 3 {
            rig.pass(70_000);
            let retry = rig.request(&[1]);
            rig.answer(&retry, vec![failed(Reason::NotSent("refused".into()))]);
            rig.pass(1_000);
            rig.pipeline.app_accepts(rig.now);
            rig.settle_down();
        }
    }
    rig.copied(1, Ok(()));
    rig.at_rest();
    assert_eq!(rig.pipeline.counters().dead_letters, 1);
}

#[test]
fn only_the_event_that_breaks_its_batch_becomes_a_dead_letter() {
    for ordering in [Ordering::Partition, Ordering::Unordered] {
        let mut rig = Rig::new(|config| {
            (config.ordering, config.batch, config.concurrency) = (ordering, 8, 1);
            config.max_attempts = Some(2);
        });
        rig.assign(&[0]);
        rig.arrive(0, 0, &[1, 2, 3, 4, 5, 6, 7]);
        let mut done = HashSet::new();
        for _ in 0..400 {
            for request in std::mem::take(&mut rig.requests) {
                let broken = request.events.contains(&4);
                done.extend(request.events.iter().filter(|_| !broken));
                let outcome = if broken { failed(Reason::Status(500)) } else { Outcome::Completed };
                rig.answer(&request, vec![outcome; request.events.len()]);
            }
            rig.pass(1_000);
        }
        assert_eq!(rig.copies.iter().map(|(_, event)| *event).collect::<Vec<_>>(), [4], "{ordering:?}");
        assert_eq!(done, HashSet::from([1, 2, 3, 5, 6, 7]));
        rig.copied(4, Ok(()));
        rig.at_rest();
    }
}

#[test]
fn a_drain_tells_whether_kafka_has_taken_the_offsets() {
    for taken in [true, false] {
        let mut rig = Rig::new(|config| config.drain_timeout = Duration::from_secs(2));
        rig.assign(&[0]);
        rig.arrive(0, 0, &[1]);
        let request = rig.request(&[1]);
        rig.answer(&request, vec![Outcome::Completed]);
        rig.pipeline.drain(false, rig.now);
        rig.settle_down();
        if taken {
            rig.pipeline.committed(&place(0), 1);
        }
        rig.pass(2_500);
        let told = rig.others.iter().find_map(|effect| match effect {
            Effect::Drained { remaining, committed, .. } => Some((*remaining, *committed)),
            _ => None,
        });
        assert_eq!(told, Some((0, taken)));
    }
}

#[test]
fn a_pause_ends_what_is_under_way_and_holds_nothing_else() {
    for ordering in [Ordering::Partition, Ordering::Key, Ordering::Unordered] {
        let mut rig = Rig::new(|config| (config.ordering, config.concurrency) = (ordering, 1));
        rig.assign(&[0]);
        rig.arrive(0, 0, &[1, 2, 3, 4]);
        let first = rig.request(&[1]);
        rig.pipeline.pause(true, rig.now);
        rig.settle_down();
        assert_eq!(rig.claims().len(), 1, "{ordering:?}: only what is under delivery is held: {:?}", rig.claims());
        rig.answer(&first, vec![Outcome::Completed]);
        let committed = |rig: &Rig, upto: i64| {
            let commits = |effect: &Effect| matches!(effect, Effect::Commit(all) if all[0].offset == upto);
            rig.others.iter().any(commits)
        };
        assert!(committed(&rig, 1), "{ordering:?}");
        // What comes meanwhile waits too.
        rig.arrive(0, 4, &[5]);
        rig.pipeline.pause(true, rig.now);
        rig.pass(120_000);
        assert!(rig.requests.is_empty() && rig.claims().is_empty(), "{ordering:?}: {:?}", rig.claims());
        let leaves = |effect: &Effect| matches!(effect, Effect::Leave | Effect::FinishRevoke { .. });
        assert!(!rig.others.iter().any(leaves) && rig.pipeline.status(rig.now).partitions.len() == 1, "{ordering:?}");
        rig.pipeline.pause(false, rig.now);
        rig.settle_down();
        let mut delivered: Vec<u8> = Vec::new();
        while let Some(request) = rig.requests.pop() {
            assert_eq!(request.attempts, [1]);
            delivered.extend(&request.events);
            rig.answer(&request, vec![Outcome::Completed]);
        }
        if ordering != Ordering::Partition {
            delivered.sort_unstable();
        }
        assert_eq!(delivered, [2, 3, 4, 5], "{ordering:?}");
        rig.pass(1_000);
        assert!(committed(&rig, 5), "{ordering:?}");
        rig.at_rest();
    }
}

#[test]
fn a_failed_delivery_waits_for_the_end_of_a_pause() {
    let mut rig = Rig::new(|_| {});
    rig.assign(&[0]);
    rig.arrive(0, 0, &[1, 2]);
    let first = rig.request(&[1]);
    rig.pipeline.pause(true, rig.now);
    rig.answer(&first, vec![failed(Reason::Status(500))]);
    rig.pass(120_000);
    assert!(rig.requests.is_empty() && rig.claims().is_empty(), "{:?}", rig.claims());
    rig.pipeline.pause(false, rig.now);
    rig.settle_down();
    assert_eq!(rig.request(&[1]).attempts, [2]);
}

#[test]
fn a_pause_and_a_drain_each_stop_the_flow_by_themselves() {
    let mut rig = Rig::new(|config| config.paused = true);
    rig.assign(&[0]);
    rig.arrive(0, 0, &[1]);
    rig.pipeline.drain(false, rig.now);
    rig.settle_down();
    rig.pipeline.pause(false, rig.now);
    rig.settle_down();
    assert!(rig.requests.is_empty(), "drained");
    rig.pipeline.pause(true, rig.now);
    rig.pipeline.app_accepts(rig.now);
    rig.pass(1_000);
    assert!(rig.requests.is_empty() && rig.claims().is_empty(), "paused");
    rig.pipeline.pause(false, rig.now);
    rig.settle_down();
    rig.request(&[1]);
}

#[test]
fn an_app_that_goes_after_a_drain_is_seen_to_be_down() {
    let mut rig = Rig::new(|_| {});
    rig.assign(&[0]);
    rig.pipeline.drain(false, rig.now);
    rig.settle_down();
    rig.pipeline.app_unreachable("nobody listens", rig.now);
    let app = rig.pipeline.findings(rig.now).into_iter().find(|finding| finding.about == "AppUp").unwrap();
    assert!(!app.healthy && app.message.contains("nobody listens"), "{app:?}");
    rig.pipeline.app_accepts(rig.now);
    rig.arrive(0, 0, &[1]);
    rig.request(&[1]);
}

#[test]
fn a_batch_that_was_not_sent_is_not_halved() {
    let mut rig = Rig::new(|config| config.batch = 8);
    rig.assign(&[0]);
    rig.arrive(0, 0, &[1, 2, 3, 4]);
    let request = rig.request(&[1, 2, 3, 4]);
    rig.answer(&request, vec![failed(Reason::NotSent("refused".into())); 4]);
    rig.pipeline.app_accepts(rig.now);
    rig.settle_down();
    let request = rig.request(&[1, 2, 3, 4]);
    assert_eq!(request.attempts, [1; 4]);
}

#[test]
fn a_drained_sidecar_goes_on_if_the_app_stays_but_not_at_once() {
    let mut rig = Rig::new(|_| {});
    rig.assign(&[0]);
    rig.arrive(0, 0, &[1, 2]);
    rig.pipeline.drain(false, rig.now);
    let first = rig.request(&[1]);
    rig.answer(&first, vec![Outcome::Completed]);
    assert!(!rig.others.iter().any(|effect| matches!(effect, Effect::Drained { .. })), "the commit is not answered");
    rig.pipeline.committed(&place(0), 1);
    rig.settle_down();
    assert!(rig.others.iter().any(|effect| matches!(effect, Effect::Drained { remaining: 0, .. })));
    assert!(rig.others.iter().any(|effect| matches!(effect, Effect::WatchApp { restarted: true })));
    rig.pass(59_000);
    assert!(rig.requests.is_empty() && rig.claims().is_empty());
    rig.pass(2_000);
    rig.request(&[2]);
}

#[test]
fn an_app_that_restarts_while_it_is_drained_gets_events_as_soon_as_the_drain_is_over() {
    let mut rig = Rig::new(|_| {});
    rig.assign(&[0]);
    rig.arrive(0, 0, &[1, 2]);
    rig.others.clear();
    rig.pipeline.drain(false, rig.now);
    rig.settle_down();
    assert!(rig.others.iter().any(|effect| matches!(effect, Effect::WatchApp { restarted: true })), "from now on");
    rig.pipeline.app_accepts(rig.now);
    rig.settle_down();
    let first = rig.request(&[1]);
    assert!(rig.requests.is_empty(), "not before everything is settled");
    rig.answer(&first, vec![Outcome::Completed]);
    rig.pipeline.committed(&place(0), 1);
    rig.settle_down();
    assert!(rig.others.iter().any(|effect| matches!(effect, Effect::Drained { remaining: 0, .. })));
    rig.request(&[2]);
}

#[test]
fn a_drain_waits_for_no_copy_that_the_broker_refuses() {
    let mut rig = Rig::new(|_| {});
    rig.assign(&[0]);
    rig.arrive(0, 0, &[1]);
    let request = rig.request(&[1]);
    rig.answer(&request, vec![Outcome::Rejected(Reason::Drop)]);
    rig.copied(1, Err(refused()));
    rig.pipeline.drain(false, rig.now);
    rig.settle_down();
    assert!(rig.others.iter().any(|effect| matches!(effect, Effect::Drained { remaining: 1, .. })), "at once");
    rig.pipeline.revoked(&[place(0)], rig.now);
    rig.settle_down();
    assert!(rig.others.iter().any(|effect| matches!(effect, Effect::FinishRevoke { .. })), "at once");
}

#[test]
fn of_a_topic_that_was_created_again_nothing_is_committed_and_nothing_starts() {
    let mut rig = Rig::new(|_| {});
    rig.assign(&[0]);
    rig.arrive(0, 0, &[1, 2]);
    let under_way = rig.request(&[1]);
    rig.others.clear();
    rig.pipeline.recreated("t", rig.now);
    rig.pipeline.drain(true, rig.now);
    rig.settle_down();
    rig.answer(&under_way, vec![Outcome::Completed]);
    let drained = |effect: &Effect| matches!(effect, Effect::Drained { remaining: 0, unwritten: 0, committed: true });
    assert!(rig.others.iter().any(drained), "{:?}", rig.others);
    rig.pipeline.revoked(&[place(0)], rig.now);
    rig.settle_down();
    let commits = rig.others.iter().any(|effect| match effect {
        Effect::Commit(_) => true,
        Effect::FinishRevoke { commits, .. } => !commits.is_empty(),
        _ => false,
    });
    assert!(!commits && rig.requests.is_empty() && rig.claims().is_empty(), "{:?}", rig.others);
    rig.at_rest();
}

#[test]
fn a_commit_that_fails_is_reported_and_not_tried_at_every_turn() {
    let mut rig = Rig::new(|_| {});
    rig.assign(&[0]);
    rig.arrive(0, 0, &[1]);
    let request = rig.request(&[1]);
    rig.answer(&request, vec![Outcome::Completed]);
    rig.pipeline.app_unreachable("nobody listens", rig.now);
    let health =
        |rig: &Rig| rig.pipeline.findings(rig.now).into_iter().find(|f| f.about == "OffsetsCommitted").unwrap();
    for _ in 0..5 {
        rig.others.clear();
        let commits = |rig: &Rig| rig.others.iter().filter(|effect| matches!(effect, Effect::Commit(_))).count();
        rig.pipeline.commit_failed(&place(0), "not authorized");
        rig.settle_down();
        assert_eq!(commits(&rig), 0, "not at once");
        rig.pass(300);
        assert_eq!(commits(&rig), 1);
        assert!(health(&rig).message.contains("not authorized"));
    }
    rig.pipeline.committed(&place(0), 1);
    assert!(health(&rig).healthy);
}

#[test]
fn what_was_told_of_kafka_heals_when_it_is_not_told_again() {
    let mut rig = Rig::new(|_| {});
    rig.pipeline.problem(None, "a hiccup".into(), rig.now);
    rig.pipeline.offset_reset(Some(&place(0)), "out of range", rig.now);
    let sick = |rig: &Rig| -> Vec<&str> {
        let findings = rig.pipeline.findings(rig.now).into_iter();
        let kafka = ["KafkaAccepts", "OffsetsInRange"];
        findings.filter(|f| !f.healthy && kafka.contains(&f.about)).map(|f| f.about).collect()
    };
    assert_eq!(sick(&rig), ["OffsetsInRange", "KafkaAccepts"]);
    rig.now = rig.now + Duration::from_secs(61);
    assert_eq!(sick(&rig), ["OffsetsInRange"]);
    rig.now = rig.now + Duration::from_secs(3_600);
    assert!(sick(&rig).is_empty());
}

/// Its queue is given up while the app is down, and the gate forgets it; the app asked for this pause.
#[test]
fn a_pause_and_an_attempt_outlive_the_queue_s_claims() {
    let mut rig = Rig::new(|_| {});
    rig.assign(&[0]);
    rig.arrive(0, 0, &[1]);
    let request = rig.request(&[1]);
    let reason = Reason::Status(503);
    rig.answer(&request, vec![Outcome::Failed { reason, retry_after: Some(Duration::from_secs(20)), sent: true }]);
    rig.pipeline.app_unreachable("nobody listens", rig.now);
    rig.settle_down();
    rig.store.retain(|key, _| key.starts_with("s:"));
    rig.pipeline.app_accepts(rig.now);
    rig.pass(15_000);
    assert!(rig.requests.is_empty(), "Retry-After holds");
    rig.pass(15_000);
    assert_eq!(rig.request(&[1]).attempts, [2], "the store has forgotten that it was sent; the sidecar has not");
}

#[test]
fn long_event_types_fill_no_memory() {
    let mut rig = Rig::new(|config| config.key_prefix = "{type}:".into());
    let record = Record {
        origin: place(0),
        offset: 0,
        timestamp: None,
        key: None,
        value: Some(Bytes::from_static(b"1")),
        headers: Vec::new(),
    };
    let mut key_of = |event_type: &str| {
        let (id, event_type) = (EventId([1; 32]), event_type.into());
        let identity = Identity { id, fallback: false, event_type, fingerprint: None, cloud_event: None };
        rig.pipeline.key_of(&record, &identity).0
    };
    let long = "x".repeat(LONGEST_TYPE + 1);
    assert_eq!(key_of(&long), key_of(&long));
    assert_ne!(key_of(&long), key_of("short"));
    let kept: usize = rig.pipeline.prefixes.keys().map(|(_, event_type)| event_type.len()).sum();
    assert_eq!(kept, "short".len());
}

#[test]
fn an_event_that_is_another_sidecars_for_long_is_told() {
    let mut rig = Rig::new(|_| {});
    rig.assign(&[0]);
    let holder = SessionId::new(Uuid::from_u128(77));
    rig.store.insert(format!("k:{}", EventId([1; 32])), crate::claim::claim_value(holder, 1));
    rig.store.insert(format!("s:{holder}"), Bytes::from_static(b"1"));
    rig.arrive(0, 0, &[1]);
    let told =
        |rig: &Rig| rig.pipeline.findings(rig.now).into_iter().find(|finding| finding.about == "EventsMove").unwrap();
    rig.pass(100_000);
    assert!(told(&rig).healthy);
    rig.pass(30_000);
    let finding = told(&rig);
    assert!(!finding.healthy && !finding.essential && finding.message.contains(&holder.to_string()), "{finding:?}");
    rig.store.clear();
    rig.pass(2_000);
    assert!(told(&rig).healthy);
}
