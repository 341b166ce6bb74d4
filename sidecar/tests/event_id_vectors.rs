//! The event ids that the Python services give to 300 records, and ours.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use crds::config::EventIdRule;
use serde::Deserialize;
use sidecar::event_id::{Basis, Scratch, identify};
use sidecar::record::{Record, TopicPartition};

#[derive(Deserialize)]
struct Vector {
    b64: String,
    id: String,
    /// `data` or `raw`: which of the two the id is the hash of.
    rule: String,
}

fn record(value: Vec<u8>) -> Record {
    let origin = TopicPartition { topic: Arc::from("essays"), partition: 3 };
    Record { origin, offset: 7, timestamp: Some(9), key: None, value: Some(Bytes::from(value)), headers: Vec::new() }
}

#[test]
fn all_vectors_have_the_same_id_here() {
    let mut scratch = Scratch::default();
    let mut wrong = Vec::new();
    let mut count = 0;
    for (i, line) in include_str!("vectors/event-ids.jsonl").lines().enumerate() {
        count += 1;
        let vector: Vector = serde_json::from_str(line).unwrap();
        let record = record(STANDARD.decode(&vector.b64).unwrap());
        let identity = identify(&record, &EventIdRule::Data, &mut scratch);
        // An empty value has no bytes to tell it by: there the sidecar takes the place, where the services take no bytes.
        let id = match record.value.as_deref() {
            Some([]) => Basis::Raw(&[]).id(&record),
            _ => identity.id,
        };
        if id.to_string() != vector.id || identity.fallback != (vector.rule == "raw") {
            wrong.push((i + 1, vector.b64));
        }
    }
    assert_eq!(count, 300);
    assert!(wrong.is_empty(), "{} of {count} differ (line, record): {wrong:?}", wrong.len());
}

#[test]
fn a_reused_scratch_changes_nothing() {
    let mut reused = Scratch::default();
    for line in include_str!("vectors/event-ids.jsonl").lines().rev() {
        let vector: Vector = serde_json::from_str(line).unwrap();
        let record = record(STANDARD.decode(&vector.b64).unwrap());
        let fresh = identify(&record, &EventIdRule::Data, &mut Scratch::default());
        assert_eq!(identify(&record, &EventIdRule::Data, &mut reused), fresh);
    }
}
