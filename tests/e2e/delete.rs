//! Shows what a consumer leaves behind, and what it keeps while it lives: children, ConfigMaps of older revisions.

use std::sync::Arc;

use anyhow::{Context, ensure};
use harness::cluster::{SOON, Space, images, kubectl, trial};
use harness::process::built;
use harness::wait::patiently;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use libtest_mimic::Trial;
use serde_json::json;

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        trial("delete::children_go_and_nothing_hangs", children_go_and_nothing_hangs),
        trial("delete::render_prints_what_was_applied", render_prints_what_was_applied),
        trial(
            "delete::a_rolled_back_deployment_finds_its_configuration",
            a_rolled_back_deployment_finds_its_configuration,
        ),
    ]
}

const KINDS_OF_CHILDREN: &str = "deployments,secrets,services,poddisruptionbudgets,configmaps";
/// The generation stays where the spec does; the resource version tells of any write, but changes with a Deployment's status too.
const VERSIONS: &str = "--output=jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.generation} {.spec} {.data} {.metadata.labels} {.metadata.annotations}{'\\n'}{end}";
const KINDS: &str = "deployments,replicasets,pods,secrets,services,endpointslices,poddisruptionbudgets,configmaps";

async fn children_go_and_nothing_hangs(space: Arc<Space>) -> anyhow::Result<()> {
    let topic = space.topic("in", 1).await?;
    let before = names(&space).await?;
    space.apply(&space.consumer("app", &topic).await?).await?;
    space.rolled_out("app", 1).await?;
    let children = names(&space).await?;
    ensure!(children.len() >= before.len() + 8, "{children:?}");
    ensure!(space.get("app").await?.metadata.finalizers.is_none(), "a finalizer would hang where no operator runs");
    space.kubectl(&["delete", "icon", "app", "--wait", "--timeout=20s"]).await?;
    patiently("the children are gone", SOON, async || {
        let left: Vec<_> = names(&space).await?.into_iter().filter(|name| !before.contains(name)).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await;
    Ok(())
}

/// `operator render --references` prints what the operator wrote: an apply of it by the same manager changes nothing.
async fn render_prints_what_was_applied(space: Arc<Space>) -> anyhow::Result<()> {
    let topic = space.topic("in", 1).await?;
    let mut consumer = space.consumer("app", &topic).await?;
    let redis = consumer["spec"]["redis"]["url"].clone();
    consumer["spec"]["redis"] = json!({"urlFrom": {"secretKeyRef": {"name": "redis", "key": "url"}}});
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "redis"}, "stringData": {"url": redis}});
    space.kubectl_apply(&secret).await?;
    space.apply(&consumer).await?;
    space.rolled_out("app", 1).await?;
    let versions = || async { space.kubectl(&["get", KINDS_OF_CHILDREN, VERSIONS]).await };
    let before = versions().await?;

    let (file, references) = (space.dir().join("consumer.yaml"), space.dir().join("references.yaml"));
    std::fs::write(&file, space.kubectl(&["get", "icon", "app", "--output=yaml"]).await?)?;
    std::fs::write(&references, space.kubectl(&["get", "secrets,configmaps", "--output=yaml"]).await?)?;
    let output = tokio::process::Command::new(built("operator")?)
        .args(["render", "--sidecar-image", &images::sidecar(), "--file"])
        .arg(&file)
        .arg("--references")
        .arg(&references)
        .output()
        .await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rendered = String::from_utf8(output.stdout)?;
    ensure!(rendered.matches("\nkind: ").count() >= 6, "{rendered}");
    let manager = format!("--field-manager={}", crds::FIELD_MANAGER);
    kubectl(&["apply", "--server-side", &manager, "--namespace", &space.namespace, "--filename=-"], &rendered).await?;
    let after = versions().await?;
    ensure!(before == after, "applying what was rendered changes something:\n{before}\n{after}\n{rendered}");
    Ok(())
}

async fn a_rolled_back_deployment_finds_its_configuration(space: Arc<Space>) -> anyhow::Result<()> {
    let topic = space.topic("in", 1).await?;
    space.apply(&space.consumer("app", &topic).await?).await?;
    space.rolled_out("app", 1).await?;
    let first = configuration(&space).await?;
    space.change("app", json!({"spec": {"ttl": "2h"}})).await?;
    space.rolled_out("app", 1).await?;
    let second = configuration(&space).await?;
    ensure!(first != second, "a change of the ttl is a change of the configuration");
    for name in [&first, &second] {
        space.api::<ConfigMap>().get(name).await.with_context(|| format!("ConfigMap {name}"))?;
    }
    // Somebody rolls back by hand. The operator puts it right, and no pod waits for a ConfigMap meanwhile.
    let before = space.api::<Deployment>().get("app").await?.metadata.generation;
    space.kubectl(&["rollout", "undo", "deployment/app"]).await?;
    patiently("the operator's word stands", SOON, async || {
        let (now, generation) =
            (configuration(&space).await?, space.api::<Deployment>().get("app").await?.metadata.generation);
        ensure!(now == second && generation >= before.map(|before| before + 2), "{now} of generation {generation:?}");
        Ok(())
    })
    .await;
    space.rolled_out("app", 1).await?;
    let events = space.kubectl(&["get", "events", "--field-selector=reason=FailedMount"]).await?;
    ensure!(!events.contains("-config-"), "{events}");

    // A ConfigMap goes with the last ReplicaSet that names it.
    let sets = space.api::<ReplicaSet>().list(&ListParams::default()).await?;
    let old = sets.items.iter().find(|set| serde_json::to_string(set).is_ok_and(|text| text.contains(&first)));
    let old = old.and_then(|set| set.metadata.name.clone()).context("a ReplicaSet names the first ConfigMap")?;
    space.kubectl(&["delete", "replicaset", &old]).await?;
    space.gone::<ConfigMap>(&first, SOON).await;
    space.api::<ConfigMap>().get(&second).await?;
    Ok(())
}

/// Name of the ConfigMap that new pods read.
async fn configuration(space: &Space) -> anyhow::Result<String> {
    let deployment = space.api::<Deployment>().get("app").await?;
    let template = deployment.spec.template.metadata.context("metadata")?;
    let annotations = template.annotations.context("annotations")?;
    annotations.get("idempotency.dev/config").cloned().context("an annotation that names the configuration")
}

async fn names(space: &Space) -> anyhow::Result<Vec<String>> {
    let text = space.kubectl(&["get", KINDS, "--output=name"]).await?;
    // That one comes by itself, a moment after the namespace.
    Ok(text.lines().filter(|name| !name.ends_with("/kube-root-ca.crt")).map(str::to_owned).collect())
}
