//! Measures what one event costs the loop that decides: gate and pipeline alone, against a map that answers at once.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crds::config::{FailurePolicy, Ordering};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use sha2::{Digest, Sha256};
use sidecar::clock::Time;
use sidecar::event_id::{EventId, Identity};
use sidecar::gate::{Gate, GateConfig};
use sidecar::kafka::Arrival;
use sidecar::outcome::Outcome;
use sidecar::pipeline::{Effect, Pipeline, PipelineConfig};
use sidecar::record::{Record, TopicPartition};
use sidecar::store::{Op, Reply};

const PARTITIONS: i32 = 12;
const RECORDS: i64 = 1_000;

fn config(ordering: Ordering, batch: usize) -> PipelineConfig {
    PipelineConfig {
        group: "bench".into(),
        key_prefix: "idempotency:{group}:{topic}:{type}:".into(),
        ttl: Duration::from_secs(86_400),
        ttl_overrides: Default::default(),
        ordering,
        concurrency: 64,
        batch,
        backoff: Default::default(),
        max_attempts: None,
        dead_letter_topic: None,
        duplicates_topic: None,
        app_down_timeout: Duration::from_secs(60),
        drain_timeout: Duration::from_secs(30),
        commit_every: Duration::from_millis(250),
        paused: false,
    }
}

fn arrivals() -> Vec<(TopicPartition, Vec<Arrival>)> {
    (0..PARTITIONS)
        .map(|partition| {
            let place = TopicPartition { topic: "bench".into(), partition };
            let arrival = |offset: i64| {
                // Three in ten mean an event that came before.
                let event = if offset % 10 < 3 { offset / 2 } else { offset };
                let record = Record {
                    origin: place.clone(),
                    offset,
                    timestamp: None,
                    key: None,
                    value: Some(Bytes::from_static(b"{}")),
                    headers: Vec::new(),
                };
                let id = EventId(Sha256::digest(format!("{partition}/{event}")).into());
                let identity =
                    Identity { id, fallback: false, event_type: "event".into(), fingerprint: None, cloud_event: None };
                Arrival { record: Arc::new(record), identity: Arc::new(identity) }
            };
            (place.clone(), (0..RECORDS).map(arrival).collect())
        })
        .collect()
}

/// A store that answers at once.
fn answer(store: &mut HashMap<Arc<str>, Bytes>, op: Op) -> Reply {
    match op {
        Op::SetIfAbsent { key, value, .. } => match store.get(&key) {
            Some(present) => Reply::Present(present.clone()),
            None => {
                store.insert(key, value);
                Reply::Applied
            }
        },
        Op::Set { key, value, .. } | Op::CompareAndSet { key, value, .. } | Op::SetIfPresent { key, value, .. } => {
            store.insert(key, value);
            Reply::Applied
        }
        Op::Delete { key } | Op::CompareAndDelete { key, .. } => {
            store.remove(&key);
            Reply::Applied
        }
        Op::Exists { .. } => Reply::Refused,
    }
}

fn run(config: PipelineConfig, records: &[(TopicPartition, Vec<Arrival>)]) -> u64 {
    let gate = GateConfig {
        policy: FailurePolicy::Open,
        session_prefix: "session:".into(),
        session_ttl: Duration::from_secs(10),
        done_values: Vec::new(),
        longest_ttl: Duration::from_secs(86_400),
    };
    let now = Time::at(Duration::from_secs(1_000));
    let gate = Gate::new(gate, Vec::new(), Gate::random_ids(), now);
    let mut pipeline = Pipeline::new(config, gate, SmallRng::seed_from_u64(1), now);
    let mut store = HashMap::new();
    pipeline.start();
    pipeline.app_accepts(now);
    for (epoch, (place, arrivals)) in (1..).zip(records) {
        pipeline.assigned(vec![place.clone()], epoch);
        for chunk in arrivals.chunks(64) {
            pipeline.arrived(place, epoch, chunk.to_vec());
        }
    }
    loop {
        pipeline.advance(now);
        let ops = pipeline.gate().take_ops();
        let effects = pipeline.take_effects();
        if ops.is_empty() && effects.is_empty() {
            break;
        }
        let answers = ops.into_iter().map(|(token, op)| (token, Ok(answer(&mut store, op)))).collect();
        pipeline.gate().answered(answers, now);
        for effect in effects {
            if let Effect::Deliver { id, parcels } = effect {
                pipeline.delivered(id, vec![Outcome::Completed; parcels.len()], now);
            }
        }
    }
    let counters = *pipeline.counters();
    assert_eq!(counters.received, counters.completed + counters.duplicates, "everything has come through");
    counters.received
}

fn bench(c: &mut Criterion) {
    let records = arrivals();
    let mut group = c.benchmark_group("pipeline");
    group.sample_size(20);
    group.throughput(Throughput::Elements(u64::try_from(RECORDS).unwrap() * u64::try_from(PARTITIONS).unwrap()));
    for (name, ordering, batch) in [
        ("partition", Ordering::Partition, 1),
        ("partition in batches of 100", Ordering::Partition, 100),
        ("unordered", Ordering::Unordered, 1),
    ] {
        group.bench_function(name, |b| b.iter(|| black_box(run(config(ordering, batch), &records))));
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
