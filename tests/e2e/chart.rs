//! Shows the chart's life: installed, tested, upgraded, bound to a namespace, uninstalled, installed without Helm; and that no app
//! notices.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use crds::v1alpha1::IdempotentConsumer;
use harness::cluster::audit::Audit;
use harness::cluster::operator::{self, Install, NAMESPACE, RELEASE};
use harness::cluster::{Mode, SOON, Space, Stream, helm, images, kubectl, trial_within};
use harness::in_repo;
use harness::wait::throughout;
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use libtest_mimic::Trial;
use serde_json::json;

/// They run alone: the operator is another after each step.
pub(crate) fn tests() -> Vec<Trial> {
    vec![
        trial_within(
            Duration::from_secs(300),
            "chart::helm_test_publishes_an_event_and_sees_it",
            helm_test_publishes_an_event_and_sees_it,
        ),
        trial_within(
            Duration::from_secs(300),
            "chart::an_upgrade_keeps_every_pod_and_an_uninstall_every_consumer",
            an_upgrade_keeps_every_pod_and_an_uninstall_every_consumer,
        ),
        trial_within(Duration::from_secs(240), "chart::it_can_be_bound_to_namespaces", it_can_be_bound_to_namespaces),
        trial_within(Duration::from_secs(240), "chart::it_is_installed_without_helm", it_is_installed_without_helm),
    ]
}

async fn helm_test() -> anyhow::Result<String> {
    helm(&["test", RELEASE, "--namespace", NAMESPACE, "--timeout=200s", "--logs"], "").await
}

async fn helm_test_publishes_an_event_and_sees_it(space: Arc<Space>) -> anyhow::Result<()> {
    // With nothing beside it: no Kafka, and no Redis, so that the sidecar's own memory is all there is.
    let said = helm_test().await?;
    ensure!(said.contains("was published, and delivered: attempt 1, protection local"), "{said}");
    // With the chart's own Redis, which consumers get that name none, and a Kafka.
    let (kafka, topic) = (space.kafka().await?.bootstrap(), space.topic("in", 1).await?);
    let values = json!({
        "redis": {"enabled": true},
        "tests": {"kafka": {"bootstrapServers": kafka, "topic": topic}},
    });
    operator::install(&space.client, &Install { values, ..Install::default() }).await?;
    let redis = format!("statefulset/{RELEASE}-redis");
    kubectl(&["rollout", "status", &redis, "--namespace", NAMESPACE, "--timeout=60s"], "").await?;
    let said = helm_test().await?;
    ensure!(said.contains("was published, and delivered: attempt 1, protection full"), "{said}");
    operator::install(&space.client, &Install::default()).await
}

/// What marks the definition of the newer chart.
const MARK: &str = "idempotency.dev/e2e";

async fn an_upgrade_keeps_every_pod_and_an_uninstall_every_consumer(space: Arc<Space>) -> anyhow::Result<()> {
    let topic = space.topic("in", 2).await?;
    space.ledger.behave(Mode::Work(20));
    space.apply(&space.consumer("app", &topic).await?).await?;
    space.rolled_out("app", 1).await?;
    let containers = space.containers("app").await?;
    let stream = Stream::start(&space, &topic, 2);

    let newer = Install {
        image: images::next(&images::operator()),
        sidecar_image: images::next(&images::sidecar()),
        chart: newer_chart(space.dir())?,
        ..Install::default()
    };
    operator::install(&space.client, &newer).await?;
    let mark = kubectl(&["get", "crd", DEFINITION, "--output=jsonpath={.metadata.annotations}"], "").await?;
    ensure!(mark.contains(MARK), "the definition is not upgraded: {mark}");
    let listed = helm(&["list", "--namespace", NAMESPACE], "").await?;
    ensure!(listed.contains("99.0.0"), "{listed}");
    space.until::<IdempotentConsumer>("is called outdated", "app", SOON, crate::operator_life::outdated).await;
    ensure!(space.containers("app").await? == containers, "the upgrade touched the app");

    operator::uninstall(&space.client).await?;
    let seen = space.ledger.count();
    throughout("the app works on", Duration::from_secs(5), async || {
        let now = space.containers("app").await.map_err(|e| e.to_string())?;
        if now == containers { Ok(()) } else { Err(format!("{now:?}, before {containers:?}")) }
    })
    .await;
    space.ledger.wait_for(seen + 40, SOON).await;
    space.get("app").await?;

    // The same release finds all of it again.
    operator::install(&space.client, &Install::default()).await?;
    space.change("app", json!({"spec": {"replicas": 2}})).await?;
    space.rolled_out("app", 2).await?;
    let published = stream.stop().await?;
    space.settled("app", &topic).await?;
    space.ledger.check(&published).assert_each_once();
    let now = space.containers("app").await?;
    ensure!(
        containers.iter().all(|(name, restarts)| now.get(name) == Some(restarts)),
        "{now:?}, before {containers:?}"
    );
    Ok(())
}

const DEFINITION: &str = "idempotentconsumers.idempotency.dev";

/// The chart, as a later version of it might be.
fn newer_chart(folder: &Path) -> anyhow::Result<std::path::PathBuf> {
    let newer = folder.join("idempotent-consumer");
    copy(&helm::chart(), &newer)?;
    let version = concat!("ersion: ", env!("CARGO_PKG_VERSION"));
    edit(&newer.join("Chart.yaml"), version, "ersion: 99.0.0")?;
    edit(&newer.join("files/crd.yaml"), "  annotations:\n", &format!("  annotations:\n    {MARK}: newer\n"))?;
    Ok(newer)
}

fn edit(file: &Path, from: &str, to: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file)?;
    ensure!(text.contains(from), "{} has no `{from}`", file.display());
    std::fs::write(file, text.replacen(from, to, 1))?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let (entry, target) = (entry?.path(), to);
        let target = target.join(entry.file_name().context("a name")?);
        if entry.is_dir() {
            copy(&entry, &target)?;
        } else {
            std::fs::copy(&entry, &target)?;
        }
    }
    Ok(())
}

async fn it_can_be_bound_to_namespaces(space: Arc<Space>) -> anyhow::Result<()> {
    operator::stop(&space.client).await?;
    let audit = Audit::from_now()?;
    let values = json!({"operator": {"namespaces": [space.namespace, NAMESPACE]}});
    operator::install(&space.client, &Install { values, ..Install::default() }).await?;
    let roles = kubectl(&["get", "clusterroles,clusterrolebindings", "--output=name"], "").await?;
    ensure!(!roles.contains("idempotent-consumer"), "{roles}");
    let topic = space.topic("in", 1).await?;
    space.ledger.behave(Mode::Complete);
    space.apply(&space.consumer("app", &topic).await?).await?;
    space.rolled_out("app", 1).await?;
    let published = space.publish(&topic, 100, 1).await?;
    space.settled("app", &topic).await?;
    space.ledger.check(&published).assert_each_once();
    let said = helm_test().await?;
    ensure!(said.contains("was published, and delivered"), "{said}");
    let refused: Vec<_> =
        audit.by(operator::USER)?.into_iter().filter(|r| r.lacks_permission()).map(|r| r.uri).collect();
    ensure!(refused.is_empty(), "{refused:?}");
    operator::stop(&space.client).await?;
    operator::install(&space.client, &Install::default()).await
}

async fn it_is_installed_without_helm(space: Arc<Space>) -> anyhow::Result<()> {
    let topic = space.topic("in", 1).await?;
    space.ledger.behave(Mode::Complete);
    operator::uninstall(&space.client).await?;
    let (file, values) = (space.dir().join("install.yaml"), space.dir().join("values.json"));
    std::fs::write(&values, helm::values(&Install::default()).to_string())?;
    let output =
        tokio::process::Command::new(in_repo("scripts/install-manifest")).arg("--values").arg(&values).output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let manifest = String::from_utf8(output.stdout)?;
    ensure!(!manifest.contains("helm.sh/hook"), "what only Helm runs is among it: {manifest}");
    std::fs::write(&file, &manifest)?;
    let file = file.to_str().context("a path in UTF-8")?;
    // As the README says. The definition is Helm's as yet.
    kubectl(&["apply", "--server-side", "--force-conflicts", "--filename", file], "").await?;
    operator::rolled_out(&space.client).await;
    operator::leader(&space.client).await;
    space.apply(&space.consumer("app", &topic).await?).await?;
    space.rolled_out("app", 1).await?;
    let published = space.publish(&topic, 100, 1).await?;
    space.settled("app", &topic).await?;
    space.ledger.check(&published).assert_each_once();

    kubectl(&["scale", "deployment/idempotent-consumer-operator", "--replicas=0", "--namespace", NAMESPACE], "")
        .await?;
    operator::ended(&space.client).await;
    let rest: Vec<_> = manifest.split("\n---\n").filter(|one| !is_kept(one)).collect();
    kubectl(&["delete", "--filename=-", "--wait"], &rest.join("\n---\n")).await?;
    let all: Api<Deployment> = Api::namespaced(space.client.clone(), NAMESPACE);
    ensure!(all.get_opt("idempotent-consumer-operator").await?.is_none(), "the operator is there yet");
    operator::install(&space.client, &Install::default()).await
}

fn is_kept(manifest: &str) -> bool {
    ["Namespace", "CustomResourceDefinition"].iter().any(|kind| manifest.contains(&format!("\nkind: {kind}\n")))
}
