//! Shows what becomes of events when pods and containers are killed: none is lost, and one that comes again says so.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use harness::cluster::{Mode, SOON, Space, Stream, ToApp, trial_within};
use harness::wait::patiently;
use libtest_mimic::Trial;
use serde_json::json;

pub(crate) fn tests() -> Vec<Trial> {
    vec![trial_within(
        Duration::from_secs(200),
        "kills::a_pod_a_sidecar_and_an_app_are_killed_while_events_flow",
        a_pod_a_sidecar_and_an_app_are_killed_while_events_flow,
    )]
}

async fn a_pod_a_sidecar_and_an_app_are_killed_while_events_flow(space: Arc<Space>) -> anyhow::Result<()> {
    let topic = space.topic("in", 4).await?;
    space.ledger.behave(Mode::Work(10));
    let mut consumer = space.consumer("app", &topic).await?;
    consumer["spec"]["replicas"] = 2.into();
    // The app then sees the sidecar's process, and kills it when the harness asks.
    consumer["spec"]["template"]["spec"]["shareProcessNamespace"] = json!(true);
    space.apply(&consumer).await?;
    space.rolled_out("app", 2).await?;
    let stream = Stream::start(&space, &topic, 4);
    space.ledger.wait_for(40, SOON).await;

    let pod = space.pods("app").await?.remove(0);
    space.kubectl(&["delete", "pod", &pod, "--force", "--grace-period=0"]).await?;
    space.rolled_out("app", 2).await?;
    flows(&space).await;

    for (container, order) in [("idempotency-sidecar", ToApp::KillSidecar), ("app", ToApp::Die)] {
        let pod = space.pods("app").await?.remove(0);
        let before = space.containers("app").await?;
        space.ledger.order(&pod, &order)?;
        let killed = format!("{pod}/{container}");
        patiently(format!("{killed} was restarted"), SOON, async || {
            let now = space.containers("app").await?;
            let restarted: Vec<_> = now.iter().filter(|(name, count)| before.get(*name) != Some(*count)).collect();
            ensure!(!restarted.is_empty(), "{now:?}");
            ensure!(restarted.iter().all(|(name, _)| **name == killed), "others too: {restarted:?}");
            Ok(())
        })
        .await;
        space.rolled_out("app", 2).await?;
        flows(&space).await;
    }

    let published = stream.stop().await?;
    space.settled("app", &topic).await?;
    let check = space.ledger.check(&published);
    check.assert_none_lost();
    check.second_deliveries_only_with_attempt_above_one();
    Ok(())
}

/// Events go on taking effect.
async fn flows(space: &Space) {
    space.ledger.wait_for(space.ledger.count() + 60, SOON).await;
}
