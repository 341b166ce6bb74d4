//! Decides what the demo's topic holds: envelopes as the four Python services write them, some of them twice. I/O to publish.

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::json;

use super::TOPIC;
use crate::args::DemoArgs;

/// A record of the demo's topic: which event it means, where it goes, what it holds.
#[derive(Clone, Debug)]
pub(super) struct DemoRecord {
    pub(super) event: u32,
    pub(super) partition: i32,
    pub(super) value: String,
}

/// The records in the order of publication. A duplicate repeats an earlier event under a new envelope, in any partition.
pub(super) fn records(args: &DemoArgs, seed: u64) -> Vec<DemoRecord> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut unique = 0;
    (0..args.events)
        .map(|_| {
            let again = unique > 0 && rng.random_ratio(u32::from(args.duplicates), 100);
            let event = if again { rng.random_range(0..unique) } else { unique };
            unique += u32::from(!again);
            DemoRecord {
                event,
                partition: i32::from(rng.random_range(0..args.partitions)),
                value: envelope(event, rng.random()),
            }
        })
        .collect()
}

fn envelope(event: u32, correlation: u128) -> String {
    json!({
        "event_id": format!("demo-{event}"),
        "event_type": "huleedu.essay.spellcheck.completed.v1",
        "event_timestamp": "2026-01-01T00:00:00Z",
        "source_service": "demo",
        "correlation_id": format!("{correlation:032x}"),
        "data": {"essay": event, "status": "completed", "metadata": {"entity": {"entity_type": "essay"}}},
    })
    .to_string()
}

/// Publishes the records. Gives the end of each partition.
pub(super) async fn publish(bootstrap: &str, records: &[DemoRecord]) -> Result<Vec<i64>> {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .set("linger.ms", "5")
        .create()?;
    let mut ends = Vec::new();
    for chunk in records.chunks(1_000) {
        let sends = chunk.iter().map(|record| {
            let out = FutureRecord::<(), str>::to(TOPIC).partition(record.partition).payload(&record.value);
            producer.send(out, std::time::Duration::from_secs(10))
        });
        for delivery in try_join_all(sends).await.map_err(|(error, _)| error)? {
            let partition = usize::try_from(delivery.partition).context("partition")?;
            if ends.len() <= partition {
                ends.resize(partition + 1, 0);
            }
            ends[partition] = delivery.offset + 1;
        }
    }
    Ok(ends)
}
