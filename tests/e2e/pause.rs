//! Shows that `spec.paused` stops the flow and keeps the pods.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use harness::cluster::{Space, trial_within};
use harness::wait::{patiently, throughout};
use libtest_mimic::Trial;
use serde_json::json;

pub(crate) fn tests() -> Vec<Trial> {
    vec![trial_within(
        Duration::from_secs(300),
        "pause::a_paused_consumer_keeps_its_pods_and_delivers_nothing",
        a_paused_consumer_keeps_its_pods_and_delivers_nothing,
    )]
}

/// The kubelet brings the switch to the pods within about a minute.
const KUBELET: Duration = Duration::from_secs(110);

async fn a_paused_consumer_keeps_its_pods_and_delivers_nothing(space: Arc<Space>) -> anyhow::Result<()> {
    let topic = space.topic("in", 2).await?;
    space.apply(&space.consumer("app", &topic).await?).await?;
    space.rolled_out("app", 1).await?;
    let mut published = space.publish(&topic, 40, 2).await?;
    space.settled("app", &topic).await?;
    let (pod, containers) = (space.pod("app").await?, space.containers("app").await?);

    space.change("app", json!({"spec": {"paused": true}})).await?;
    paused(&space, &pod, true).await;
    let before = space.ledger.count();
    published.extend(space.publish(&topic, 40, 2).await?);
    throughout("nothing flows", Duration::from_secs(4), async || match space.ledger.count() {
        now if now == before => Ok(()),
        now => Err(format!("{now} effects, {before} before")),
    })
    .await;

    space.change("app", json!({"spec": {"paused": false}})).await?;
    paused(&space, &pod, false).await;
    space.settled("app", &topic).await?;
    space.ledger.check(&published).assert_each_once();
    ensure!(space.containers("app").await? == containers, "the pods are others: {:?}", space.containers("app").await?);
    Ok(())
}

/// Waits until the pod's sidecar says so.
async fn paused(space: &Space, pod: &str, wanted: bool) {
    patiently(format!("the sidecar says paused={wanted}"), KUBELET, async || {
        let status = space.sidecar_status(pod).await?;
        ensure!(status.paused == wanted, "paused={}", status.paused);
        Ok(())
    })
    .await;
}
