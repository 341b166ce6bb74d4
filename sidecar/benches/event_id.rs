//! Time of one event id: a 1 KiB envelope as the services write it, and its parts.
#![allow(missing_docs, clippy::expect_used, reason = "criterion's macros write items without docs; a bench may stop")]

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use crds::config::EventIdRule;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sha2::{Digest, Sha256};
use sidecar::canonical::Reader;
use sidecar::event_id::{Scratch, identify};
use sidecar::record::{Record, TopicPartition};

/// An envelope with numbers, nesting, some non-ASCII text and keys out of order, padded to 1 KiB.
fn envelope() -> Vec<u8> {
    let head = r#"{"event_id": "0a3c4f5e-7a15-4c7e-9c60-1f7a5c3d1b22", "event_type": "huleedu.essay.spellcheck.completed.v1", "event_timestamp": "2025-11-23T10:08:00.123456Z", "source_service": "spellchecker_service", "correlation_id": "5f0c9a52-91f7-4d5f-8ee8-6a3d0a9a4f10", "data": {"event_name": "essay.spellcheck.completed", "entity_id": "essay-000042", "entity_type": "essay", "parent_id": "batch-7", "status": "completed_success", "system_metadata": {"timestamp": "2025-11-23T10:07:59Z", "processing_stage": "completed", "started_at": "2025-11-23T10:07:41.52Z", "error_info": {}}, "corrections_made": 17, "confidence": 0.9375, "durations_ms": [12, 48.25, 3, 1.5e-7], "language": "sv", "title": "Vår första uppsats på högskolan", "storage": {"original": "essays/42/original.txt", "corrected": "essays/42/corrected.txt", "bytes": 18734}, "text": ""#;
    let tail = r#""}, "version": 1}"#;
    let mut text = head.to_owned();
    while text.len() + tail.len() < 1024 {
        text.push_str("det var en gång ");
    }
    text.push_str(tail);
    text.into_bytes()
}

fn event_id(c: &mut Criterion) {
    let value = envelope();
    let origin = TopicPartition { topic: Arc::from("essays"), partition: 3 };
    let record = Record {
        origin,
        offset: 7,
        timestamp: None,
        key: None,
        value: Some(Bytes::from(value.clone())),
        headers: vec![],
    };
    let mut group = c.benchmark_group("event_id");
    group.throughput(Throughput::Bytes(value.len() as u64));
    let mut scratch = Scratch::default();
    group.bench_function("identify/data", |b| {
        b.iter(|| identify(black_box(&record), &EventIdRule::Data, &mut scratch));
    });
    let fields = EventIdRule::Fields { fields: vec!["/event_id".into(), "/event_type".into()] };
    group.bench_function("identify/fields", |b| b.iter(|| identify(black_box(&record), &fields, &mut scratch)));
    group.bench_function("identify/record", |b| {
        b.iter(|| identify(black_box(&record), &EventIdRule::Record, &mut scratch));
    });
    let (mut reader, mut buffer) = (Reader::default(), Vec::new());
    group.bench_function("canonical", |b| {
        b.iter(|| {
            let document = reader.read(black_box(&value)).expect("the envelope is valid");
            document.canonical(document.span(), &mut buffer).len()
        });
    });
    group.bench_function("sha256", |b| b.iter(|| Sha256::digest(black_box(&value))));
    group.finish();
}

criterion_group!(benches, event_id);
criterion_main!(benches);
