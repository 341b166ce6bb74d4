//! Shows what CEL can't see: each mistake becomes a condition with reason, field and fix, and an event, and leaves what runs untouched.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use crds::conditions::{READY, SPEC_VALID};
use harness::cluster::{SOON, Space, trial, trial_within};
use harness::wait::throughout;
use libtest_mimic::Trial;
use serde_json::{Value, json};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        trial_within(
            Duration::from_secs(200),
            "bad_references::a_secret_is_absent_comes_changes_and_goes",
            a_secret_is_absent_comes_changes_and_goes,
        ),
        trial(
            "bad_references::two_consumers_of_one_group_want_different_topics",
            two_consumers_of_one_group_want_different_topics,
        ),
        trial("bad_references::the_api_server_refuses_the_template", the_api_server_refuses_the_template),
        trial_within(Duration::from_secs(200), "bad_references::a_name_is_taken", a_name_is_taken),
    ]
}

/// The condition says which mistake, where and what to do, and so does an event.
async fn refused(space: &Space, name: &str, reason: &str, words: &[&str]) -> anyhow::Result<()> {
    let condition = space.condition(name, SPEC_VALID, "False", SOON).await;
    ensure!(condition.reason == reason, "{reason} is expected: {condition:?}");
    for word in words {
        ensure!(condition.message.contains(word), "`{word}` is not in {condition:?}");
    }
    // The event says the same, also where another mistake with that reason was told before.
    space.event_that(name, reason, |message| words.iter().all(|word| message.contains(word))).await;
    Ok(())
}

async fn untouched(space: &Space, name: &str) -> anyhow::Result<()> {
    let before = space.containers(name).await?;
    throughout("what runs is untouched", Duration::from_secs(4), async || {
        let now = space.containers(name).await.map_err(|e| e.to_string())?;
        if now == before { Ok(()) } else { Err(format!("{now:?}, before {before:?}")) }
    })
    .await;
    Ok(())
}

async fn a_secret_is_absent_comes_changes_and_goes(space: Arc<Space>) -> anyhow::Result<()> {
    let topic = space.topic("in", 1).await?;
    let mut consumer = space.consumer("app", &topic).await?;
    let redis = consumer["spec"]["redis"]["url"].clone();
    consumer["spec"]["redis"] = json!({"urlFrom": {"secretKeyRef": {"name": "redis", "key": "url"}}});
    space.apply(&consumer).await?;
    refused(&space, "app", "ReferenceNotFound", &["spec.redis.urlFrom", "redis"]).await?;
    space.condition("app", READY, "False", SOON).await;

    // The key is missing, then it is there.
    let secret = |key: &str, url: &Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "redis"}, "stringData": {key: url}});
    space.kubectl_apply(&secret("other", &redis)).await?;
    refused(&space, "app", "ReferenceNotFound", &["spec.redis.urlFrom", "url"]).await?;
    space.kubectl(&["delete", "secret", "redis"]).await?;
    space.kubectl_apply(&secret("url", &redis)).await?;
    space.rolled_out("app", 1).await?;
    let published = space.publish(&topic, 20, 1).await?;
    space.settled("app", &topic).await?;
    let first = space.pod("app").await?;

    // Another value is another pod.
    space.kubectl_apply(&secret("url", &format!("{}/1", redis.as_str().unwrap_or_default()).into())).await?;
    harness::wait::patiently("another pod", SOON, async || {
        let pods = space.pods("app").await?;
        ensure!(!pods.contains(&first) && pods.len() == 1, "{pods:?}");
        Ok(())
    })
    .await;
    space.rolled_out("app", 1).await?;

    // It goes: the pods stay.
    space.kubectl(&["delete", "secret", "redis"]).await?;
    refused(&space, "app", "ReferenceNotFound", &["spec.redis.urlFrom"]).await?;
    untouched(&space, "app").await?;
    // Others can take their place: they read a copy.
    let last = space.pod("app").await?;
    space.kubectl(&["delete", "pod", &last, "--wait=false"]).await?;
    harness::wait::patiently("another pod that works", SOON, async || {
        let pods = space.pods("app").await?;
        ensure!(!pods.contains(&last) && pods.len() == 1, "{pods:?}");
        Ok(())
    })
    .await;
    space.condition("app", READY, "True", SOON).await;
    space.ledger.check(&published).assert_each_once();
    Ok(())
}

async fn two_consumers_of_one_group_want_different_topics(space: Arc<Space>) -> anyhow::Result<()> {
    let (one, other) = (space.topic("one", 1).await?, space.topic("other", 1).await?);
    let group = space.name("group");
    let mut elder = space.consumer("elder", &one).await?;
    elder["spec"]["group"] = group.clone().into();
    space.apply(&elder).await?;
    space.rolled_out("elder", 1).await?;
    let mut younger = space.consumer("younger", &other).await?;
    younger["spec"]["group"] = group.into();
    space.apply(&younger).await?;
    refused(&space, "younger", "GroupConflict", &["spec.group", "elder"]).await?;
    untouched(&space, "elder").await?;
    ensure!(space.pods("younger").await?.is_empty(), "the younger one runs");
    // The elder goes, and the younger has its place.
    space.kubectl(&["delete", "icon", "elder"]).await?;
    space.rolled_out("younger", 1).await?;
    Ok(())
}

async fn the_api_server_refuses_the_template(space: Arc<Space>) -> anyhow::Result<()> {
    let topic = space.topic("in", 1).await?;
    let consumer = space.consumer("app", &topic).await?;
    space.apply(&consumer).await?;
    space.rolled_out("app", 1).await?;
    let mut wrong = consumer.clone();
    wrong["spec"]["template"]["spec"]["containers"][0]["ports"] = json!([{"containerPort": 99_999}]);
    space.apply(&wrong).await?;
    refused(&space, "app", "TemplateRefused", &["containerPort"]).await?;
    untouched(&space, "app").await?;
    // A field that no pod has is a mistake too, not silently dropped.
    let mut misspelt = consumer.clone();
    misspelt["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = json!("Never");
    space.apply(&misspelt).await?;
    refused(&space, "app", "TemplateRefused", &["imagePullPolice"]).await?;
    untouched(&space, "app").await?;
    space.apply(&consumer).await?;
    space.condition("app", SPEC_VALID, "True", SOON).await;
    space.rolled_out("app", 1).await?;
    Ok(())
}

async fn a_name_is_taken(space: Arc<Space>) -> anyhow::Result<()> {
    let topic = space.topic("in", 1).await?;
    let theirs = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "app-metrics", "labels": {"is": "theirs"}},
        "spec": {"clusterIP": "None", "ports": [{"port": 80}]},
    });
    space.kubectl_apply(&theirs).await?;
    space.apply(&space.consumer("app", &topic).await?).await?;
    refused(&space, "app", "NameConflict", &["app-metrics"]).await?;
    let kept = space.kubectl(&["get", "service", "app-metrics", "--output=jsonpath={.metadata.labels}"]).await?;
    ensure!(kept == "{\"is\":\"theirs\"}", "somebody else's object was changed: {kept}");
    space.kubectl(&["delete", "service", "app-metrics"]).await?;
    space.condition("app", SPEC_VALID, "True", Duration::from_secs(90)).await;
    space.rolled_out("app", 1).await?;
    Ok(())
}
