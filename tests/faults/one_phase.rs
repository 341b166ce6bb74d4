//! Decides what a one-phase gate does: `SET NX` before the work, as hand-written decorators do. It is what the harness must see lose
//! events. I/O.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use crds::config::{EventIdRule, SidecarConfig};
use harness::kafka::{client_config, record_of};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use redis::AsyncCommands;
use sidecar::event_id::{Scratch, identify};
use sidecar::record::Record;
use tokio::net::UnixStream;

/// What it is told: the sidecar's file, of which it reads the places.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    #[arg(long)]
    config: PathBuf,
}

/// How long an event is remembered, in seconds.
const TTL: u64 = 86_400;

/// Consumes until it is killed, or something fails: then it starts again, as a service in a container does.
pub(crate) async fn consume(settings: Settings) -> anyhow::Result<()> {
    let config: SidecarConfig = serde_json::from_str(&std::fs::read_to_string(settings.config)?)?;
    let client = redis::Client::open(config.redis.url.clone().unwrap_or_default())?;
    let mut redis = client.get_multiplexed_async_connection().await?;
    let mut kafka = client_config(&config.kafka.bootstrap_servers);
    for (name, value) in &config.kafka.properties {
        kafka.set(name, value);
    }
    kafka.set("group.id", &config.group).set("auto.offset.reset", "earliest").set("enable.auto.commit", "false");
    let consumer: StreamConsumer = kafka.create()?;
    let topics: Vec<&str> = config.topics.iter().map(String::as_str).collect();
    consumer.subscribe(&topics)?;
    let mut scratch = Scratch::default();
    loop {
        let message = consumer.recv().await?;
        let record = record_of(&message);
        let key = format!("seen:{}", identify(&record, &EventIdRule::Data, &mut scratch).id);
        let options = redis::SetOptions::default()
            .conditional_set(redis::ExistenceCheck::NX)
            .with_expiration(redis::SetExpiry::EX(TTL));
        let first: Option<String> = redis.set_options(&key, "1", options).await?;
        if first.is_some() {
            while !deliver(&config, &record, &key).await {
                // The decorator takes the key away and lets the record come again.
                let _: () = redis.del(&key).await?;
                tokio::time::sleep(Duration::from_millis(50)).await;
                let _: () = redis.set_ex(&key, "1", TTL).await?;
            }
        }
        consumer.commit_message(&message, CommitMode::Async)?;
    }
}

/// Whether the app has answered that it is done with it.
async fn deliver(config: &SidecarConfig, record: &Record, key: &str) -> bool {
    let asked = tokio::time::timeout(config.delivery.timeout.get(), post(config, record, key)).await;
    matches!(asked, Ok(Ok(text)) if !text.contains("RETRY"))
}

async fn post(config: &SidecarConfig, record: &Record, key: &str) -> anyhow::Result<String> {
    let stream = UnixStream::connect(&config.delivery.socket).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::post(&config.delivery.path)
        .header("host", "app")
        .header("ce-specversion", "1.0")
        .header("ce-id", key)
        .header("ce-type", "any")
        .header("ce-source", "/one-phase")
        .header("idempotency-key", key)
        .header("idempotency-attempt", 1)
        .header("idempotency-protection", "full")
        .header("kafka-topic", &*record.origin.topic)
        .header("kafka-partition", record.origin.partition)
        .header("kafka-offset", record.offset)
        .body(Full::new(record.value.clone().unwrap_or_default()))?;
    let answer = sender.send_request(request).await?;
    anyhow::ensure!(answer.status().is_success(), "{}", answer.status());
    Ok(String::from_utf8_lossy(&answer.into_body().collect().await?.to_bytes()).into_owned())
}
