//! Shows that the operator's own life touches no app: killed, upgraded, led by another. What is changed meanwhile is applied.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use crds::v1alpha1::IdempotentConsumer;
use harness::cluster::operator::{self, Install};
use harness::cluster::{Mode, SOON, Space, Stream, condition, images, trial_within};
use harness::wait::{patiently, throughout};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use libtest_mimic::Trial;
use serde_json::json;

/// They run alone: others would notice that the operator is away.
pub(crate) fn tests() -> Vec<Trial> {
    vec![
        trial_within(
            Duration::from_secs(200),
            "operator_life::it_is_killed_and_no_app_notices",
            it_is_killed_and_no_app_notices,
        ),
        trial_within(
            Duration::from_secs(300),
            "operator_life::it_is_upgraded_and_apps_follow_when_told",
            it_is_upgraded_and_apps_follow_when_told,
        ),
    ]
}

async fn it_is_killed_and_no_app_notices(space: Arc<Space>) -> anyhow::Result<()> {
    let topic = space.topic("in", 2).await?;
    space.ledger.behave(Mode::Work(20));
    space.apply(&space.consumer("app", &topic).await?).await?;
    idle(&space, "other").await?;
    space.rolled_out("app", 1).await?;
    let containers = space.containers("app").await?;
    let stream = Stream::start(&space, &topic, 2);

    // The leader alone, without a chance to step down.
    let leader = operator::leader(&space.client).await;
    kill(&leader).await?;
    follows(&space, "other", "2h").await?;
    ensure!(operator::leader(&space.client).await != leader, "another leads");
    // All of it: what changes meanwhile is applied when it is back.
    for pod in operator::pods(&space.client).await? {
        kill(&pod.metadata.name.context("a pod has a name")?).await?;
    }
    follows(&space, "other", "3h").await?;
    operator::rolled_out(&space.client).await;

    let published = stream.stop().await?;
    space.settled("app", &topic).await?;
    space.ledger.check(&published).assert_each_once();
    ensure!(space.containers("app").await? == containers, "the app was touched: {:?}", space.containers("app").await?);
    Ok(())
}

async fn it_is_upgraded_and_apps_follow_when_told(space: Arc<Space>) -> anyhow::Result<()> {
    let topic = space.topic("in", 2).await?;
    space.ledger.behave(Mode::Work(20));
    let names = ["app-1", "app-2", "app-3", "app-4"];
    for name in names {
        // One topic, four groups: each processes every event, and the first alone keeps a ledger.
        let mut consumer = space.consumer(name, &topic).await?;
        if name != "app-1" {
            consumer["spec"]["template"]["spec"]["containers"][0]["env"] = json!([]);
        }
        space.apply(&consumer).await?;
    }
    for name in names {
        space.rolled_out(name, 1).await?;
    }
    let before = containers(&space, &names).await?;
    let stream = Stream::start(&space, &topic, 2);
    let old = images::sidecar();
    let next =
        Install { image: images::next(&images::operator()), sidecar_image: images::next(&old), ..Install::default() };

    // Another operator, another sidecar: pods stay, and the status says so.
    operator::install(&space.client, &next).await?;
    for name in names {
        space.until::<IdempotentConsumer>("is called outdated", name, SOON, outdated).await;
    }
    throughout("no pod is touched", Duration::from_secs(5), async || {
        let now = containers(&space, &names).await.map_err(|e| e.to_string())?;
        if now == before { Ok(()) } else { Err(format!("{now:?}, before {before:?}")) }
    })
    .await;

    // A number of pods is none of the pods' spec; another field is.
    space.change("app-4", json!({"spec": {"replicas": 2}})).await?;
    space.rolled_out("app-4", 2).await?;
    ensure!(
        sidecars(&space, "app-4").await? == [old.clone(), old.clone()],
        "scaling gives the sidecar that the others have"
    );
    space.change("app-1", json!({"spec": {"ttl": "12h"}})).await?;
    space.rolled_out("app-1", 1).await?;
    ensure!(sidecars(&space, "app-1").await? == [next.sidecar_image.clone()], "a changed spec gets the new sidecar");

    // Told to: the others follow, a few at a time.
    let first = space.containers("app-1").await?;
    let rolling = Install { upgrade: "Rolling", ..next.clone() };
    let (most, installed) =
        tokio::join!(most_at_once(&space, &next.sidecar_image), operator::install(&space.client, &rolling));
    installed?;
    let most = most?;
    for name in ["app-2", "app-3", "app-4"] {
        patiently(format!("{name} has the new sidecar"), SOON * 2, async || {
            let images = sidecars(&space, name).await?;
            ensure!(images.iter().all(|image| *image == next.sidecar_image), "{images:?}");
            Ok(())
        })
        .await;
    }
    ensure!(
        most <= operator::UPGRADE_CONCURRENCY,
        "{most} were rolled at once, {} are allowed",
        operator::UPGRADE_CONCURRENCY
    );
    ensure!(space.containers("app-1").await? == first, "one that is up to date was touched");

    let published = stream.stop().await?;
    space.settled("app-1", &topic).await?;
    space.ledger.check(&published).assert_each_once();
    operator::install(&space.client, &Install::default()).await
}

/// How many consumers were rolled at once at most, until all of them have that sidecar.
async fn most_at_once(space: &Space, sidecar: &str) -> anyhow::Result<usize> {
    let api = space.api::<Deployment>();
    let mut most = 0;
    patiently("all are rolled", SOON * 3, async || {
        let all = api.list(&ListParams::default()).await?.items;
        let incomplete = |deployment: &&Deployment| {
            let status = deployment.status.clone().unwrap_or_default();
            let wanted = deployment.spec.replicas.unwrap_or(1);
            let all = [status.updated_replicas, status.available_replicas, status.replicas];
            status.observed_generation != deployment.metadata.generation || all.iter().any(|n| n.unwrap_or(0) != wanted)
        };
        let under_way = all.iter().filter(incomplete).count();
        most = most.max(under_way);
        let new = all
            .iter()
            .filter(|deployment| serde_json::to_string(deployment).is_ok_and(|text| text.contains(sidecar)))
            .count();
        ensure!(under_way == 0 && new == all.len(), "{under_way} under way, {new} of {} new", all.len());
        Ok(())
    })
    .await;
    Ok(most)
}

/// Another operator has rolled it out, and its status says so.
pub(crate) fn outdated(consumer: &IdempotentConsumer) -> Result<(), String> {
    match condition(consumer, crds::conditions::PROGRESSING) {
        Some(progressing) if progressing.reason == "Outdated" => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

async fn containers(space: &Space, names: &[&str]) -> anyhow::Result<BTreeMap<String, i32>> {
    let mut all = BTreeMap::new();
    for name in names {
        all.extend(space.containers(name).await?);
    }
    Ok(all)
}

/// Images of the sidecars in a consumer's pods.
async fn sidecars(space: &Space, name: &str) -> anyhow::Result<Vec<String>> {
    let pods = space.all_pods(name).await?.into_iter().filter_map(|pod| pod.spec);
    let containers = pods.flat_map(|spec| spec.init_containers.unwrap_or_default());
    Ok(containers.filter(|c| c.name == crds::SIDECAR_CONTAINER).filter_map(|c| c.image).collect())
}

/// A consumer without pods.
async fn idle(space: &Space, name: &str) -> anyhow::Result<()> {
    let topic = space.topic(name, 1).await?;
    let mut consumer = space.consumer(name, &topic).await?;
    consumer["spec"]["replicas"] = 0.into();
    space.apply(&consumer).await?;
    space.ready(name).await;
    Ok(())
}

/// A change reaches the Deployment, whoever leads then.
async fn follows(space: &Space, name: &str, ttl: &str) -> anyhow::Result<()> {
    space.change(name, json!({"spec": {"ttl": ttl}})).await?;
    space.condition(name, crds::conditions::READY, "True", Duration::from_secs(90)).await;
    Ok(())
}

async fn kill(pod: &str) -> anyhow::Result<()> {
    let force = ["delete", "pod", pod, "--force", "--grace-period=0"];
    harness::cluster::kubectl(&[&force[..], &["--namespace", operator::NAMESPACE]].concat(), "").await?;
    let api: Api<Pod> = Api::namespaced(harness::cluster::client().await?, operator::NAMESPACE);
    patiently(format!("{pod} is gone"), SOON, async || {
        let left = api.get_opt(pod).await?;
        ensure!(left.is_none(), "it is there");
        Ok(())
    })
    .await;
    Ok(())
}
