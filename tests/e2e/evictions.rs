//! Shows that a node can be drained and a consumer scaled to nothing and back under load: nothing is lost and nothing comes twice.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use harness::cluster::{Mode, SOON, START, Space, Stream, trial_within};
use harness::wait::patiently;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::EvictParams;
use libtest_mimic::Trial;

pub(crate) fn tests() -> Vec<Trial> {
    vec![trial_within(
        Duration::from_secs(240),
        "evictions::pods_are_evicted_and_scaled_to_nothing_and_back_while_events_flow",
        pods_are_evicted_and_scaled_to_nothing_and_back_while_events_flow,
    )]
}

async fn pods_are_evicted_and_scaled_to_nothing_and_back_while_events_flow(space: Arc<Space>) -> anyhow::Result<()> {
    let topic = space.topic("in", 4).await?;
    space.ledger.behave(Mode::Work(10));
    let mut consumer = space.consumer("app", &topic).await?;
    consumer["spec"]["replicas"] = 2.into();
    space.apply(&consumer).await?;
    space.rolled_out("app", 2).await?;
    let stream = Stream::start(&space, &topic, 4);
    space.ledger.wait_for(40, SOON).await;

    // As `kubectl drain` does: it asks for each pod, and asks again where the budget forbids it yet.
    let pods: Api<Pod> = space.api();
    for pod in space.pods("app").await? {
        patiently(format!("{pod} is evicted"), START, async || match pods.evict(&pod, &EvictParams::default()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(()),
            Err(kube::Error::Api(answer)) if answer.code == 429 => Err(answer.message.clone()),
            Err(error) => Err(error.to_string()),
        })
        .await;
    }
    space.rolled_out("app", 2).await?;

    space.kubectl(&["scale", "icon/app", "--replicas=0"]).await?;
    patiently("no pod", START, async || {
        let pods = space.all_pods("app").await?;
        ensure!(pods.is_empty(), "{} are there", pods.len());
        Ok(())
    })
    .await;
    let before = space.ledger.count();
    space.kubectl(&["scale", "icon/app", "--replicas=2"]).await?;
    space.rolled_out("app", 2).await?;
    space.ledger.wait_for(before + 60, SOON).await;

    let published = stream.stop().await?;
    space.settled("app", &topic).await?;
    space.ledger.check(&published).assert_each_once();
    let status = space.get("app").await?.status.context("it has a status")?;
    let events = status.events.context("it has counts")?;
    ensure!(events.duplicates > 0, "no duplicate came: {events:?}");
    Ok(())
}
