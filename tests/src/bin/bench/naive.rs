//! Decides what a naive gate in Rust does: one await after another. The second baseline. I/O.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use crds::config::EventIdRule;
use harness::kafka::{client_config, record_of};
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use redis::AsyncCommands;
use sidecar::event_id::{Scratch, identify};

use crate::app::Client;

/// How long an event is remembered, in seconds.
const TTL: u64 = 86_400;

/// Where everything is.
#[derive(Debug, Args)]
pub(crate) struct Naive {
    #[arg(long)]
    kafka: String,
    #[arg(long)]
    topic: String,
    #[arg(long)]
    group: String,
    #[arg(long)]
    redis: String,
    #[arg(long)]
    socket: PathBuf,
}

/// Consumes until SIGTERM, then prints what it has counted.
pub(crate) async fn consume(args: Naive) -> anyhow::Result<()> {
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut redis = redis::Client::open(args.redis)?.get_multiplexed_async_connection().await?;
    let mut app = Client::connect(args.socket).await?;
    let consumer: StreamConsumer = client_config(&args.kafka)
        .set("group.id", &args.group)
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .create()?;
    consumer.subscribe(&[&args.topic])?;
    let mut scratch = Scratch::default();
    let (mut delivered, mut duplicates) = (0_u64, 0_u64);
    loop {
        let message = tokio::select! {
            biased;
            _ = terminated.recv() => break,
            message = consumer.recv() => message?,
        };
        let record = record_of(&message);
        let id = identify(&record, &EventIdRule::Data, &mut scratch).id;
        let key = format!("naive:{id}");
        let options = redis::SetOptions::default()
            .conditional_set(redis::ExistenceCheck::NX)
            .with_expiration(redis::SetExpiry::EX(TTL));
        let first: Option<String> = redis.set_options(&key, "1", options).await?;
        if first.is_none() {
            duplicates += 1;
        } else if let Err(error) = app.post(record.value.unwrap_or_default()).await {
            let _: () = redis.del(&key).await?;
            return Err(error).context("the app failed");
        } else {
            delivered += 1;
        }
        consumer.commit_message(&message, CommitMode::Async)?;
    }
    println!("{}", serde_json::json!({"delivered": delivered, "duplicates": duplicates}));
    Ok(())
}
