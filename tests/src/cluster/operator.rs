//! Decides how tests install, upgrade, kill and question the operator. I/O.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::helm::{chart, helm, values};
use super::{images, kubectl};
use crate::wait::patiently;

/// Its namespace.
pub const NAMESPACE: &str = "idempotent-consumer";
/// Its Helm release.
pub const RELEASE: &str = "idempotent-consumer";
/// How the API server's audit log calls it.
pub const USER: &str = "system:serviceaccount:idempotent-consumer:idempotent-consumer-operator";
/// Consumers that it rolls at once for an upgrade.
pub const UPGRADE_CONCURRENCY: usize = 2;
/// Its Deployment.
const DEPLOYMENT: &str = "idempotent-consumer-operator";
/// Its lease.
const LEASE: &str = "idempotent-consumer-operator";
/// Label of its pods.
const LABEL: &str = "app.kubernetes.io/component=operator";
/// How long it may take to start, or to be replaced.
const START: Duration = Duration::from_secs(90);

/// How it is installed.
#[derive(Clone, Debug, PartialEq)]
pub struct Install {
    /// Its image.
    pub image: String,
    /// The image of the sidecar that it gives by default.
    pub sidecar_image: String,
    /// `OnChange`, or `Rolling`.
    pub upgrade: &'static str,
    /// What else the chart is told.
    pub values: Value,
    /// The chart's folder.
    pub chart: PathBuf,
}

impl Default for Install {
    fn default() -> Self {
        Self {
            image: images::operator(),
            sidecar_image: images::sidecar(),
            upgrade: "OnChange",
            values: json!({}),
            chart: chart(),
        }
    }
}

/// Makes its namespace, under Pod Security `restricted`.
///
/// # Errors
/// It was refused.
pub async fn make_namespace(client: &Client) -> anyhow::Result<()> {
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    });
    let all: Api<Namespace> = Api::all(client.clone());
    all.patch(NAMESPACE, &PatchParams::apply("e2e"), &Patch::Apply(namespace)).await?;
    Ok(())
}

/// Installs the chart, or upgrades it, and waits until it is rolled out and one of its pods leads.
///
/// # Errors
/// Helm failed.
///
/// # Panics
/// It is not rolled out within a minute and a half.
pub async fn install(client: &Client, install: &Install) -> anyhow::Result<()> {
    let chart = install.chart.to_str().context("a path in UTF-8")?;
    let values = values(install).to_string();
    helm(&["upgrade", "--install", RELEASE, chart, "--namespace", NAMESPACE, "--values=-"], &values).await?;
    let name = "crd/idempotentconsumers.idempotency.dev";
    kubectl(&["wait", "--for=condition=Established", "--timeout=30s", name], "").await?;
    rolled_out(client).await;
    leader(client).await;
    Ok(())
}

/// Ends its pods and waits for that; everything else of the release stays. Whoever takes its permissions away while it runs makes it ask
/// for what it may not do any more.
///
/// # Errors
/// Helm failed.
///
/// # Panics
/// They have not ended within a minute and a half.
pub async fn stop(client: &Client) -> anyhow::Result<()> {
    let chart = chart();
    let chart = chart.to_str().context("a path in UTF-8")?;
    let none = "--set=operator.replicas=0";
    helm(&["upgrade", RELEASE, chart, "--namespace", NAMESPACE, "--reuse-values", none], "").await?;
    ended(client).await;
    Ok(())
}

/// Waits until none of its pods is left.
///
/// # Panics
/// One is, after a minute and a half.
pub async fn ended(client: &Client) {
    patiently("the operator's pods have ended", START, async || {
        let left = pods(client).await?.len();
        ensure!(left == 0, "{left} pods");
        Ok(())
    })
    .await;
}

/// Takes the release away.
///
/// # Errors
/// Helm failed.
///
/// # Panics
/// Its pods have not ended within a minute and a half.
pub async fn uninstall(client: &Client) -> anyhow::Result<()> {
    stop(client).await?;
    helm(&["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait"], "").await?;
    Ok(())
}

/// Waits until all its pods are of the newest revision and available, and no other is left.
///
/// # Panics
/// They are not within a minute and a half.
pub async fn rolled_out(client: &Client) {
    let api: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    patiently("the operator is rolled out", START, async || {
        let deployment = api.get(DEPLOYMENT).await?;
        let wanted = deployment.spec.replicas.unwrap_or(1);
        let status = deployment.status.unwrap_or_default();
        let all = [status.updated_replicas, status.available_replicas, status.replicas];
        let seen = status.observed_generation == deployment.metadata.generation;
        ensure!(seen && all.iter().all(|n| n.unwrap_or(0) == wanted), "updated, available, all: {all:?} of {wanted}");
        Ok(())
    })
    .await;
}

/// Its pods.
///
/// # Errors
/// They can't be listed.
pub async fn pods(client: &Client) -> anyhow::Result<Vec<Pod>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    Ok(api.list(&ListParams::default().labels(LABEL)).await?.items)
}

/// The most memory that the leading operator's process has had, in bytes.
///
/// # Errors
/// Its process is not among those that are seen here.
pub async fn peak_memory(client: &Client) -> anyhow::Result<u64> {
    let leader = leader(client).await;
    let pods = pods(client).await?;
    let pod = pods.into_iter().find(|pod| pod.metadata.name.as_deref() == Some(leader.as_str())).context("its pod")?;
    let uid = pod.metadata.uid.context("a pod has a uid")?;
    for process in std::fs::read_dir("/proc")?.flatten() {
        let read = |file: &str| std::fs::read_to_string(process.path().join(file)).unwrap_or_default();
        // With the cgroupfs driver the uid stands in the path as it is, with systemd's with underscores.
        let is_of_pod = [&uid, &uid.replace('-', "_")].iter().any(|uid| read("cgroup").contains(uid.as_str()));
        if is_of_pod && read("comm").trim() == "operator" {
            let status = read("status");
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
            return Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024);
        }
    }
    anyhow::bail!("no process of pod {leader} is seen from here: the cluster must run on this machine")
}

/// The pod that leads, once one of those that are there does.
///
/// # Panics
/// None does within a minute and a half.
pub async fn leader(client: &Client) -> String {
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    patiently("a pod of the operator leads", START, async || {
        let lease = leases.get(LEASE).await?;
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        let pods = pods(client).await?;
        let alive = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let mut names = alive.filter_map(|pod| pod.metadata.name.clone());
        names.find(|name| holder.contains(name.as_str())).with_context(|| format!("the lease is held by `{holder}`"))
    })
    .await
}
