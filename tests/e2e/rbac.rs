//! Shows that the operator's permissions are enough, and that none is too much: by what the API server's audit log saw it do.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use crds::conditions::SPEC_VALID;
use harness::cluster::audit::Audit;
use harness::cluster::operator::{self, Install, USER};
use harness::cluster::{SOON, Space, helm, kubectl, trial, trial_within};
use harness::wait::patiently;
use kube::core::DynamicObject;
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, ResourceExt};
use libtest_mimic::{Arguments, Trial};
use serde_json::{Value, json};

/// What is seen beside other tests.
pub(crate) fn tests() -> Vec<Trial> {
    vec![trial("rbac::children_that_nobody_asks_for_are_deleted", children_that_nobody_asks_for_are_deleted)]
}

/// The last of all: what has been done by then is what the operator does.
pub(crate) fn last(args: &Arguments) -> Vec<Trial> {
    let whole = args.filter.is_none() && args.skip.is_empty();
    vec![
        trial("rbac::a_consumer_that_cannot_be_read_says_so", a_consumer_that_cannot_be_read_says_so),
        trial_within(
            Duration::from_secs(60),
            "rbac::every_permission_is_used_and_none_is_lacking",
            move |_| async move { every_permission_is_used_and_none_is_lacking(whole).await },
        ),
    ]
}

const KINDS: [(&str, &str, &str); 5] = [
    ("", "v1", "Secret"),
    ("", "v1", "ConfigMap"),
    ("", "v1", "Service"),
    ("policy", "v1", "PodDisruptionBudget"),
    ("apps", "v1", "Deployment"),
];

/// As a version of the operator would leave them that had another idea of what a consumer needs.
async fn children_that_nobody_asks_for_are_deleted(space: Arc<Space>) -> anyhow::Result<()> {
    let topic = space.topic("in", 1).await?;
    let mut consumer = space.consumer("app", &topic).await?;
    consumer["spec"]["replicas"] = 0.into();
    space.apply(&consumer).await?;
    space.ready("app").await;
    let uid = space.get("app").await?.uid().context("a uid")?;
    let metadata = |owner: Value| {
        json!({
            "name": "stray",
            "labels": {crds::CONSUMER_LABEL: "app", "stray": "yes"},
            "ownerReferences": [owner],
        })
    };
    let owner = json!({
        "apiVersion": "idempotency.dev/v1alpha1", "kind": "IdempotentConsumer", "name": "app", "uid": uid, "controller": true,
    });
    let selector = json!({"matchLabels": {"stray": "yes"}});
    let template = json!({
        "metadata": {"labels": {"stray": "yes"}},
        "spec": {"containers": [{"name": "none", "image": "none"}]},
    });
    for (group, version, kind) in KINDS {
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        let mut stray = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata(owner.clone())});
        stray["spec"] = match kind {
            "Service" => json!({"clusterIP": "None", "selector": {"stray": "yes"}}),
            "PodDisruptionBudget" => json!({"selector": selector}),
            "Deployment" => json!({"replicas": 0, "selector": selector, "template": template}),
            _ => Value::Null,
        };
        space.kubectl_apply(&stray).await?;
    }
    for (group, version, kind) in KINDS {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let api = Api::<DynamicObject>::namespaced_with(space.client.clone(), &space.namespace, &resource);
        patiently(format!("the stray {kind} is gone"), SOON, async || {
            let left = api.get_opt("stray").await?;
            ensure!(left.is_none(), "it is there");
            Ok(())
        })
        .await;
    }
    Ok(())
}

/// A definition from another time lets something through that this operator cannot read.
async fn a_consumer_that_cannot_be_read_says_so(space: Arc<Space>) -> anyhow::Result<()> {
    let mut definition = serde_json::to_value(crds::v1alpha1::crd()?)?;
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = json!({
        "type": "object",
        "properties": {
            "spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        },
    });
    // As Helm, which puts it right below: of another it would not take the field over.
    let args = ["apply", "--server-side", "--force-conflicts", "--field-manager=helm", "--filename=-"];
    kubectl(&args, &definition.to_string()).await?;
    let consumer = json!({
        "apiVersion": "idempotency.dev/v1alpha1",
        "kind": "IdempotentConsumer",
        "metadata": {"name": "odd"},
        "spec": {"topics": 5},
    });
    patiently("the API server takes it", SOON, async || space.kubectl_apply(&consumer).await).await;
    // As it is read here, it could not be: the condition is asked for as text.
    let condition = format!("--output=jsonpath={{.status.conditions[?(@.type==\"{SPEC_VALID}\")].reason}}");
    patiently("it says so", SOON, async || {
        let said = space.kubectl(&["get", "icon", "odd", &condition]).await?;
        ensure!(said == "Undecodable", "`{said}`");
        Ok(())
    })
    .await;
    space.kubectl(&["delete", "icon", "odd"]).await?;
    // The release puts the definition right.
    operator::install(&space.client, &Install::default()).await
}

/// Asked for by an admission plugin, and not in a request.
const NOT_LOGGED: [&str; 1] = ["update idempotentconsumers/finalizers"];
/// What every account may do, to learn what it may.
const EVERYBODY: [&str; 1] = ["create selfsubjectaccessreviews"];

async fn every_permission_is_used_and_none_is_lacking(whole: bool) -> anyhow::Result<()> {
    let requests = Audit::whole()?.by(USER)?;
    ensure!(!requests.is_empty(), "the operator asked for nothing");
    let refused = requests.iter().filter(|request| request.lacks_permission());
    let refused: BTreeSet<_> = refused.map(|request| (request.what(), request.uri.clone())).collect();
    ensure!(refused.is_empty(), "{refused:?}");

    let used: BTreeSet<String> = requests
        .iter()
        .filter(|request| !request.object_ref.resource.is_empty())
        .flat_map(|request| {
            let created = request.creates().then(|| format!("create {}", request.object_ref.resource));
            created.into_iter().chain([request.what()])
        })
        .filter(|what| !EVERYBODY.contains(&what.as_str()))
        .collect();
    let granted = granted().await?;
    let beyond: Vec<_> = used.difference(&granted).collect();
    ensure!(beyond.is_empty(), "it does what the chart does not grant: {beyond:?}");
    let idle: Vec<_> = granted.difference(&used).filter(|what| !NOT_LOGGED.contains(&what.as_str())).collect();
    eprintln!(
        "rbac: {} permissions are granted, {} requests used {} of them",
        granted.len(),
        requests.len(),
        used.len()
    );
    // A part of the tests uses a part of the permissions.
    ensure!(!whole || idle.is_empty(), "granted, and never used: {idle:?}");
    Ok(())
}

/// What the chart grants, as `verb resource`.
async fn granted() -> anyhow::Result<BTreeSet<String>> {
    let chart = helm::chart().to_string_lossy().into_owned();
    let text = helm(&["template", operator::RELEASE, &chart, "--show-only=templates/rbac.yaml"], "").await?;
    let args = ["create", "--dry-run=client", "--output=json", "--filename=-"];
    let objects = kubectl(&args, &text).await?;
    let objects = serde_json::Deserializer::from_str(&objects).into_iter::<Value>().collect::<Result<Vec<_>, _>>()?;
    let mut granted = BTreeSet::new();
    let items = objects.iter().flat_map(|one| match one["items"].as_array() {
        Some(items) => items.iter().collect(),
        None => vec![one],
    });
    for rule in items.filter_map(|object| object["rules"].as_array()).flatten() {
        let texts = |name: &str| rule[name].as_array().into_iter().flatten().filter_map(Value::as_str);
        granted.extend(
            texts("resources").flat_map(|resource| texts("verbs").map(move |verb| format!("{verb} {resource}"))),
        );
    }
    ensure!(granted.len() > 30, "{granted:?}");
    Ok(granted)
}
