//! Decides what is published while faults happen: events at a steady rate, 30 % of all records duplicates, near ones and late ones. I/O.

use std::time::Duration;

use harness::ledger::Published;
use harness::publish::{Plan, Publisher, Raw};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::world::{PARTITIONS, TOPIC};

/// How often records are published.
const EVERY: Duration = Duration::from_millis(500);
/// Share of all records that repeat one of the last few, and share that repeat any earlier one.
const NEAR: f64 = 0.2;
const LATE: f64 = 0.1;
/// Earlier records that are remembered for late duplicates.
const REMEMBERED: usize = 20_000;

/// Publishes until it is told to stop; everything that the broker acknowledged.
pub(crate) async fn publish(
    bootstrap: String,
    rate: f64,
    seed: u64,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<Published> {
    let publisher = Publisher::new(&bootstrap)?;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut published = Published { seed: Some(seed), ..Published::default() };
    let mut earlier: Vec<Raw> = Vec::new();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (started, mut sent) = (Instant::now(), 0.0);
    for chunk in 0_u64.. {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
        // What a broker that was away has held up is made up for.
        let due = (started.elapsed().as_secs_f64() * rate - sent).clamp(1.0, rate * 5.0);
        let unique = (due * (1.0 - NEAR - LATE)).ceil();
        let plan = Plan {
            duplicates: NEAR / (1.0 - LATE),
            keys: 50,
            fresh_envelopes: chunk % 2 == 0,
            seed: seed.wrapping_add(chunk.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            ..Plan::new(unique as usize, PARTITIONS)
        };
        let mut records = plan.records();
        let late = (due * LATE).round() as usize;
        for _ in 0..late {
            if let Some(copy) = earlier.choose(&mut rng).cloned() {
                let at = rng.random_range(0..=records.len());
                records.insert(at, copy.to(rng.random_range(0..PARTITIONS)));
            }
        }
        sent += records.len() as f64;
        remember(&mut earlier, &records, &mut rng);
        published.extend(publisher.send_all(TOPIC, records).await?);
    }
    Ok(published)
}

fn remember(earlier: &mut Vec<Raw>, records: &[Raw], rng: &mut StdRng) {
    for record in records {
        if earlier.len() < REMEMBERED {
            earlier.push(record.clone());
        } else {
            let place = rng.random_range(0..earlier.len());
            earlier[place] = record.clone();
        }
    }
}
