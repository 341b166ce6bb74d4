//! Shows the order in which a pod ends, and that one which was asked to drain and lives on goes on working.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use harness::cluster::consumer::merge;
use harness::cluster::{Mode, SOON, Space, Stream, ToApp, What, trial, trial_within};
use harness::wait::patiently;
use k8s_openapi::api::apps::v1::Deployment;
use libtest_mimic::Trial;
use serde_json::{Value, json};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        trial(
            "lifecycle::a_deleted_pods_app_is_not_ended_before_the_sidecar_has_drained",
            a_deleted_pods_app_is_not_ended_before_the_sidecar_has_drained,
        ),
        trial_within(
            Duration::from_secs(180),
            "lifecycle::a_liveness_failure_does_not_stop_the_flow",
            a_liveness_failure_does_not_stop_the_flow,
        ),
        trial("lifecycle::the_apps_own_pre_stop_stays", the_apps_own_pre_stop_stays),
    ]
}

/// Port of the app's liveness probe.
const LIVE: u16 = 8080;

/// The app's container, changed.
fn app(consumer: &mut Value, changes: Value) {
    merge(&mut consumer["spec"]["template"]["spec"]["containers"][0], changes);
}

async fn a_deleted_pods_app_is_not_ended_before_the_sidecar_has_drained(space: Arc<Space>) -> anyhow::Result<()> {
    let topic = space.topic("in", 1).await?;
    space.ledger.behave(Mode::Work(3_000));
    space.apply(&space.consumer("app", &topic).await?).await?;
    space.rolled_out("app", 1).await?;
    let pod = space.pod("app").await?;
    let published = space.publish(&topic, 2, 1).await?;
    let of_pod = || space.ledger.entries().into_iter().filter(|entry| entry.pod == pod).map(|entry| entry.what);
    let begun = patiently("work has begun", SOON, async || {
        of_pod().find_map(|what| match what {
            What::Begun { event, .. } => Some(event),
            _ => None,
        })
    })
    .await;
    space.kubectl(&["delete", "pod", &pod, "--wait=false"]).await?;
    patiently("the app has got SIGTERM", SOON, async || of_pod().any(|what| what == What::Terminated)).await;

    let all: Vec<_> = of_pod().collect();
    let place = |wanted: &dyn Fn(&What) -> bool| all.iter().position(wanted);
    let effect = place(&|what| matches!(what, What::Effects(effects) if effects.iter().any(|e| e.event == begun)));
    let terminated = place(&|what| *what == What::Terminated).context("it was just seen")?;
    ensure!(
        effect.is_some_and(|effect| effect < terminated),
        "SIGTERM came before the event under way was done: {all:?}"
    );
    ensure!(terminated == all.len() - 1, "something came after SIGTERM: {all:?}");
    space.ledger.behave(Mode::Complete);
    space.rolled_out("app", 1).await?;
    space.settled("app", &topic).await?;
    space.ledger.check(&published).assert_each_once();
    Ok(())
}

async fn a_liveness_failure_does_not_stop_the_flow(space: Arc<Space>) -> anyhow::Result<()> {
    let topic = space.topic("in", 2).await?;
    space.ledger.behave(Mode::Work(10));
    let mut consumer = space.consumer("app", &topic).await?;
    let probe = json!({"httpGet": {"path": "/", "port": LIVE}, "periodSeconds": 1, "failureThreshold": 2});
    app(&mut consumer, json!({"args": ["--live-port", LIVE.to_string()], "livenessProbe": probe}));
    space.apply(&consumer).await?;
    space.rolled_out("app", 1).await?;
    let pod = space.pod("app").await?;
    let stream = Stream::start(&space, &topic, 2);
    space.ledger.wait_for(40, SOON).await;

    // More than once: the second time, the sidecar has drained and gone on already.
    for times in 1..=2 {
        space.ledger.order(&pod, &ToApp::Live(false))?;
        patiently("the app was restarted", Duration::from_secs(60), async || {
            let containers = space.containers("app").await?;
            let is = containers.get(&format!("{pod}/app")).copied();
            ensure!(is == Some(times), "{containers:?}");
            Ok(())
        })
        .await;
        patiently("the app is back", SOON, async || space.ledger.pods().contains(&pod)).await;
        space.ledger.wait_for(space.ledger.count() + 60, SOON).await;
    }
    ensure!(space.pod("app").await? == pod, "the pod is another");
    let sidecar = space.containers("app").await?.get(&format!("{pod}/idempotency-sidecar")).copied();
    ensure!(sidecar == Some(0), "the sidecar was restarted");
    let published = stream.stop().await?;
    space.settled("app", &topic).await?;
    let check = space.ledger.check(&published);
    check.assert_none_lost();
    check.second_deliveries_only_with_attempt_above_one();
    Ok(())
}

async fn the_apps_own_pre_stop_stays(space: Arc<Space>) -> anyhow::Result<()> {
    let topic = space.topic("in", 1).await?;
    let mut consumer = space.consumer("app", &topic).await?;
    let own = json!({"httpGet": {"path": "/goodbye", "port": LIVE, "scheme": "HTTP"}});
    app(&mut consumer, json!({"args": ["--live-port", LIVE.to_string()], "lifecycle": {"preStop": own}}));
    space.apply(&consumer).await?;
    space.rolled_out("app", 1).await?;
    let deployment = serde_json::to_value(space.api::<Deployment>().get("app").await?)?;
    let pre_stop = |list: &str| deployment.pointer(&format!("/spec/template/spec/{list}/0/lifecycle/preStop")).cloned();
    ensure!(pre_stop("containers").as_ref() == Some(&own), "{:?}", pre_stop("containers"));
    let drain = pre_stop("initContainers").context("the sidecar has a preStop")?;
    ensure!(drain.pointer("/httpGet/path") == Some(&json!("/drain")), "{drain}");

    let stream = Stream::start(&space, &topic, 1);
    space.ledger.wait_for(40, SOON).await;
    let pod = space.pod("app").await?;
    space.kubectl(&["delete", "pod", &pod, "--wait=false"]).await?;
    space.rolled_out("app", 1).await?;
    space.ledger.wait_for(space.ledger.count() + 60, SOON).await;
    let published = stream.stop().await?;
    space.settled("app", &topic).await?;
    let check = space.ledger.check(&published);
    check.assert_none_lost();
    check.second_deliveries_only_with_attempt_above_one();
    Ok(())
}
