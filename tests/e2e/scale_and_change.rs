//! Shows that pods come, go and are replaced while events flow, and that nothing is lost and nothing comes twice.

use std::sync::Arc;
use std::time::Duration;

use harness::cluster::{Mode, Space, Stream, images, trial_within};
use libtest_mimic::Trial;
use serde_json::json;

pub(crate) fn tests() -> Vec<Trial> {
    vec![trial_within(
        Duration::from_secs(240),
        "scale_and_change::pods_come_go_and_are_replaced_while_events_flow",
        pods_come_go_and_are_replaced_while_events_flow,
    )]
}

async fn pods_come_go_and_are_replaced_while_events_flow(space: Arc<Space>) -> anyhow::Result<()> {
    let topic = space.topic("in", 2).await?;
    space.ledger.behave(Mode::Work(10));
    let mut consumer = space.consumer("app", &topic).await?;
    space.apply(&consumer).await?;
    space.rolled_out("app", 1).await?;
    let stream = Stream::start(&space, &topic, 2);

    space.kubectl(&["scale", "icon/app", "--replicas=3"]).await?;
    space.rolled_out("app", 3).await?;
    let warning = space.event("app", "MoreReplicasThanPartitions").await;
    assert!(warning.contains("3 replicas") && warning.contains("2 partitions"), "{warning}");

    // A field of the sidecar's, then one of the app's. Each replaces the pods.
    space.change("app", json!({"spec": {"ttl": "12h"}})).await?;
    space.rolled_out("app", 3).await?;
    consumer["spec"]["ttl"] = "12h".into();
    consumer["spec"]["replicas"] = 3.into();
    consumer["spec"]["template"]["spec"]["containers"][0]["image"] = images::next(&images::app()).into();
    space.apply(&consumer).await?;
    space.rolled_out("app", 3).await?;

    space.kubectl(&["scale", "icon/app", "--replicas=1"]).await?;
    space.rolled_out("app", 1).await?;
    let published = stream.stop().await?;
    space.settled("app", &topic).await?;
    assert!(published.unique() > 200, "events flowed all the time: {}", published.unique());
    space.ledger.check(&published).assert_each_once();
    Ok(())
}
