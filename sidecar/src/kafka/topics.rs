//! Decides which configured topics are missing: asks the brokers for metadata, often while something is missing. I/O.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::types::RDKafkaRespErr;

use super::context::Context;
use super::{Events, KafkaEvent};

/// Between two looks while all is well.
const STEADY: Duration = Duration::from_secs(60);
/// Between two looks while a topic is missing or no broker answers: at first, and at last.
const HURRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// How long a broker may take for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What one look showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Found {
    missing: Vec<String>,
    partitions: usize,
}

/// Looks until it is aborted.
pub(super) async fn run(consumer: Arc<StreamConsumer<Context>>, topics: Vec<String>, events: Events) {
    let mut told = None;
    let mut pause = HURRY.0;
    loop {
        let (c, t) = (Arc::clone(&consumer), topics.clone());
        let looked = tokio::task::spawn_blocking(move || look(&c, &t)).await.ok().and_then(Result::ok);
        let well = looked.as_ref().is_some_and(|f| f.missing.is_empty());
        if let Some(found) = looked {
            consumer.context().brokers.up();
            if told.as_ref() != Some(&found) {
                told = Some(found.clone());
                pause = HURRY.0;
                let _ = events.send(KafkaEvent::Topics { missing: found.missing, partitions: found.partitions });
            }
        }
        if well {
            pause = HURRY.0;
            steady(&consumer).await;
        } else {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(HURRY.1);
        }
    }
}

/// Waits for the next look; cut short when the brokers go away, since only a look shows that they are back.
async fn steady(consumer: &StreamConsumer<Context>) {
    let end = tokio::time::Instant::now() + STEADY;
    while tokio::time::Instant::now() < end && consumer.context().brokers.is_up() {
        tokio::time::sleep(HURRY.0).await;
    }
}

/// Asks for each topic alone: a cluster can hold thousands of others.
fn look(consumer: &StreamConsumer<Context>, topics: &[String]) -> rdkafka::error::KafkaResult<Found> {
    let mut found = Found::default();
    for topic in topics {
        let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT)?;
        let Some(known) = metadata.topics().iter().find(|t| t.name() == topic) else {
            found.missing.push(topic.clone());
            continue;
        };
        match known.error() {
            Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => found.missing.push(topic.clone()),
            // Not allowed, no leader yet: `recv` reports it; the topic may well exist.
            _ => found.partitions += known.partitions().len(),
        }
    }
    Ok(found)
}
