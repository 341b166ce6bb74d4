//! Decides what the topic holds: envelopes as the four services write them, and where their duplicates stand. Pure.

use harness::publish::Raw;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Share of the records that repeat an earlier event.
pub(crate) const DUPLICATES: f64 = 0.3;
/// A near duplicate repeats one of so many events before it, as a producer's retry does.
const NEAR: usize = 50;
/// A far one repeats one of so many, as a restarted producer does.
const FAR: usize = 20_000;
/// Different record keys.
const KEYS: usize = 1_000;
/// Bytes of one record's value.
const SIZE: usize = 1_024;

/// What was planned.
#[derive(Debug)]
pub(crate) struct Events {
    /// In the order in which they are produced.
    pub(crate) records: Vec<Raw>,
    /// Different events; they are numbered from 0.
    pub(crate) unique: usize,
}

/// `count` records. The share of duplicates is the same everywhere in them, so that a part is like the whole; half of them
/// are near and half are far, half in the partition of the first and half in another.
pub(crate) fn events(count: usize, partitions: i32, seed: u64) -> Events {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut home: Vec<i32> = Vec::new();
    let mut records = Vec::with_capacity(count);
    for _ in 0..count {
        let (number, partition) = if !home.is_empty() && rng.random_bool(DUPLICATES) {
            let most = if rng.random_bool(0.5) { NEAR } else { FAR };
            let number = home.len() - rng.random_range(1..=most.min(home.len()));
            let other = (home[number] + rng.random_range(1..partitions)) % partitions;
            (number, if rng.random_bool(0.5) { home[number] } else { other })
        } else {
            let partition = rng.random_range(0..partitions);
            home.push(partition);
            (home.len() - 1, partition)
        };
        let key = format!("batch-{}", number % KEYS);
        records.push(Raw::new(envelope(number)).to(partition).key(key));
    }
    Events { records, unique: home.len() }
}

/// One event's envelope, the same each time: the result of a spell check. `data.sequence` is its number.
fn envelope(number: usize) -> Vec<u8> {
    let id = |kind: u32| format!("{kind:08x}-0000-4000-8000-{number:012x}");
    let (event, correlation, essay, batch, text) = (id(1), id(2), id(3), id(4), id(5));
    let at = format!("2026-01-01T00:{:02}:{:02}.{:06}Z", number / 60 % 60, number % 60, number % 1_000_000);
    let start = format!(
        r#"{{"event_id":"{event}","event_type":"huleedu.essay.spellcheck.completed.v1","event_timestamp":"{at}","source_service":"spell-checker-service","correlation_id":"{correlation}","data":{{"sequence":{number},"event_name":"essay.spellcheck.completed","status":"spellchecked_success","metadata":{{"entity":{{"entity_type":"essay","entity_id":"{essay}","parent_id":"{batch}"}},"processing_stage":"completed","started_at":"{at}","completed_at":"{at}"}},"original_text_storage_id":"{text}","corrections_made":{},"confidence":{},"storage_metadata":{{"references":{{"corrected_text":{{"default":"{text}"}}}}}},"feedback":"Rättat på svenska: "#,
        number % 40,
        1.0 / (1.0 + (number % 100) as f64),
    );
    let end = r#""}}"#;
    let mut text = start.into_bytes();
    text.resize(SIZE - end.len(), b'x');
    text.extend_from_slice(end.as_bytes());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_like_the_whole() {
        let Events { records, unique } = events(20_000, 12, 1);
        assert!((0.69..0.71).contains(&(unique as f64 / records.len() as f64)), "{unique}");
        let number = |raw: &Raw| {
            let value: serde_json::Value = serde_json::from_slice(raw.value.as_ref().unwrap()).unwrap();
            value["data"]["sequence"].as_u64().unwrap()
        };
        let part: std::collections::HashSet<_> = records[..2_000].iter().map(number).collect();
        assert!((1_330..1_470).contains(&part.len()), "{}", part.len());
        assert!(records.iter().all(|raw| raw.value.as_ref().unwrap().len() == SIZE));
    }
}
