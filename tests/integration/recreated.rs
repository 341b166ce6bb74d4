//! Shows what becomes of a topic that is deleted and created again under a running sidecar, or between two. I/O.

use std::time::Duration;

use anyhow::ensure;
use harness::app::complete;
use harness::env::{Env, trial};
use harness::flow::{Flow, SOON};
use harness::process::how;
use harness::rig::condition;
use harness::wait::{equal, eventually};
use libtest_mimic::Trial;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};

/// Kafka's metadata is looked at each 10 s.
const NOTICED: Duration = Duration::from_secs(40);

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        trial("recreated::a_shorter_topic_is_read_from_its_beginning", |env| read_from_its_beginning(env, 60, 10)),
        trial("recreated::a_longer_topic_is_read_from_its_beginning", |env| read_from_its_beginning(env, 20, 120)),
        trial(
            "recreated::an_offset_of_the_old_topic_counts_for_nothing",
            an_offset_of_the_old_topic_counts_for_nothing,
        ),
    ]
}

/// The sidecar is stopped meanwhile, so that it finds the new topic already filled: past its position, or not up to it.
async fn read_from_its_beginning(env: Env, before: usize, after: usize) -> anyhow::Result<()> {
    let kafka = env.kafka().await?;
    let mut flow = Flow::new(env, 2, complete()).await?;
    let mut sidecar = flow.sidecar("sidecar").await?;
    flow.publish_unique(before).await?;
    flow.settled().await;
    sidecar.pause()?;
    kafka.delete_topic(&flow.topic).await?;
    let gone = || kafka.create_topic(&flow.topic, 2, &[]);
    eventually("the name is free again", SOON, async || gone().await.map_err(|error| error.to_string())).await;
    flow.publish_unique(after).await?;
    sidecar.resume()?;
    let ended = sidecar.wait(NOTICED).await;
    ensure!(ended.code() == Some(69), "{}", how(ended));
    ensure!(sidecar.log().contains("was deleted and created again"), "it does not say why");
    sidecar.restart().await?;
    let all = before + after;
    eventually("every event", SOON, async || equal(&flow.app.ledger().len(), &all)).await;
    flow.app.ledger().check(&flow.published).assert_each_once();
    let ends = flow.offsets.ends(&flow.topic).await?;
    eventually("the new topic's offsets", SOON, async || {
        equal(&flow.offsets.committed(&flow.topic).await.unwrap_or_default(), &ends)
    })
    .await;
    flow.publish_unique(10).await?;
    flow.settled_each_once().await;
    Ok(())
}

/// As a sidecar leaves it that died before it noticed.
async fn an_offset_of_the_old_topic_counts_for_nothing(env: Env) -> anyhow::Result<()> {
    let kafka = env.kafka().await?;
    let mut flow = Flow::new(env, 1, complete()).await?;
    flow.publish_unique(20).await?;
    let mut list = TopicPartitionList::new();
    let mut entry = list.add_partition(&flow.topic, 0);
    entry.set_offset(Offset::Offset(15))?;
    entry.set_metadata("topic-id=xGmLBwoJRn6vJYGr2rJ0Xw");
    let client: BaseConsumer = kafka.client_config().set("group.id", &flow.config.group).create()?;
    client.commit(&list, CommitMode::Sync)?;
    let sidecar = flow.sidecar("sidecar").await?;
    eventually("every event", SOON, async || equal(&flow.app.ledger().len(), &20)).await;
    flow.settled_each_once().await;
    let status = sidecar.status().await?;
    let found = condition(&status, "OffsetsInRange").map(|found| (found.status, found.message.clone()));
    ensure!(found.as_ref().is_some_and(|(ok, why)| !ok && why.contains("another topic")), "{found:?}");
    Ok(())
}
