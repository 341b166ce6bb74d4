//! Shows that the chart is sound before anything is installed: lint, wrong values, and every manifest of every combination of switches
//! as the API server sees it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use harness::cluster::operator::NAMESPACE;
use harness::cluster::{Space, helm, kubectl, trial, trial_within};
use harness::in_repo;
use libtest_mimic::Trial;
use serde_json::{Value, json};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        trial_within(
            Duration::from_secs(300),
            "chart_manifests::the_api_server_takes_every_manifest_of_every_combination",
            the_api_server_takes_every_manifest_of_every_combination,
        ),
        trial("chart_manifests::lint_finds_nothing", lint_finds_nothing),
        trial("chart_manifests::a_wrong_value_is_refused_by_its_name", a_wrong_value_is_refused_by_its_name),
    ]
}

fn chart() -> String {
    helm::chart().to_string_lossy().into_owned()
}

async fn lint_finds_nothing(_: Arc<Space>) -> anyhow::Result<()> {
    let example = in_repo("examples/huleedu/values.yaml").to_string_lossy().into_owned();
    for values in [&[][..], &["--values", &example]] {
        let said = helm(&[&["lint", "--strict", &chart()], values].concat(), "").await?;
        ensure!(said.contains("0 chart(s) failed") && !said.contains("[WARNING]"), "{values:?}: {said}");
    }
    Ok(())
}

async fn a_wrong_value_is_refused_by_its_name(_: Arc<Space>) -> anyhow::Result<()> {
    for (wrong, key) in [
        (json!({"operator": {"replcas": 3}}), "replcas"),
        (json!({"operators": {}}), "operators"),
        (json!({"operator": {"replicas": "three"}}), "/operator/replicas"),
        (json!({"operator": {"upgradeConsumers": "Sometimes"}}), "/operator/upgradeConsumers"),
        (json!({"operator": {"upgradeConcurrency": 0}}), "/operator/upgradeConcurrency"),
        (json!({"operator": {"namespaces": ["Not A Name"]}}), "/operator/namespaces"),
        (json!({"sidecar": {"redisUrl": "http://redis"}}), "/sidecar/redisUrl"),
        (json!({"sidecar": {"image": {"digest": "latest"}}}), "/sidecar/image/digest"),
        (json!({"redis": {"password": "hunter2"}}), "password"),
        (json!({"metrics": {"serviceMonitor": true}}), "/metrics/serviceMonitor"),
    ] {
        let said = match helm(&["template", "x", &chart(), "--values=-"], &wrong.to_string()).await {
            Ok(_) => anyhow::bail!("{wrong} is taken"),
            Err(error) => format!("{error:#}"),
        };
        ensure!(said.contains("schema") && said.contains(key), "{wrong}: {said}");
        ensure!(!said.contains("hunter2"), "a value is repeated: {said}");
    }
    Ok(())
}

/// What can be on or off, and what it says when it is not as by default.
fn switches(namespace: &str) -> Vec<Value> {
    vec![
        json!({"crds": {"enabled": false}}),
        json!({"rbac": {"create": false}, "serviceAccount": {"create": false}}),
        json!({"operator": {"namespaces": [NAMESPACE, namespace]}}),
        json!({"operator": {"podDisruptionBudget": {"enabled": false}}}),
        json!({"metrics": {"serviceMonitor": {"enabled": true, "labels": {"release": "prometheus"}}}}),
        json!({"metrics": {"podMonitor": {"enabled": true}, "dashboard": {"enabled": true, "annotations": {"folder": "Kafka"}}}}),
        json!({"networkPolicy": {"enabled": true, "metricsFrom": [{"namespaceSelector": {}}], "redisFrom": [{"podSelector": {}}]}}),
        json!({"redis": {"enabled": true}}),
        json!({"redis": {"persistence": {"enabled": true, "storageClass": "fast"}}}),
        // Everything that is passed on as it is.
        json!({
            "imageRegistry": "mirror.example", "imagePullSecrets": [{"name": "pull"}],
            "sidecar": {"resources": {"limits": {"memory": "1Gi"}}},
            "operator": {
                "podLabels": {"team": "a"}, "podAnnotations": {"b": "c"}, "nodeSelector": {"disk": "ssd"}, "replicas": 1,
                "tolerations": [{"key": "k", "operator": "Exists"}], "priorityClassName": "system-cluster-critical",
                "affinity": {"nodeAffinity": {}},
            },
        }),
    ]
}

/// Renders this many charts at once.
const AT_ONCE: usize = 2;

async fn the_api_server_takes_every_manifest_of_every_combination(space: Arc<Space>) -> anyhow::Result<()> {
    let definitions = in_repo("tests/e2e/manifests/monitors.yaml");
    let definitions = definitions.to_str().context("a path in UTF-8")?;
    kubectl(&["apply", "--server-side", "--filename", definitions], "").await?;
    for name in ["servicemonitors", "podmonitors"] {
        let name = format!("crd/{name}.monitoring.coreos.com");
        kubectl(&["wait", "--for=condition=Established", "--timeout=30s", &name], "").await?;
    }
    let switches = switches(&space.namespace);
    let combinations = 1_usize << switches.len();
    // Most manifests are the same in most combinations: each different one is tried out once.
    let rendered = stream::iter(0..combinations)
        .map(|which| {
            let mut values = json!({});
            for (_, switch) in switches.iter().enumerate().filter(|(n, _)| which & (1 << n) != 0) {
                harness::cluster::consumer::merge(&mut values, switch.clone());
            }
            async move {
                let args = ["template", "dry-run", &chart(), "--namespace", NAMESPACE, "--values=-"];
                helm(&args, &values.to_string()).await
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_fold(BTreeSet::new(), |mut all, text| async move {
            all.extend(text.split("\n---\n").map(|one| one.trim_start_matches("---\n").to_owned()));
            Ok(all)
        })
        .await?;
    let manifests: Vec<String> = rendered.into_iter().filter(|one| one.contains("\nkind: ")).collect();
    let kinds: BTreeSet<&str> =
        manifests.iter().filter_map(|one| one.lines().find_map(|line| line.strip_prefix("kind: "))).collect();
    eprintln!(
        "chart: {combinations} combinations give {} different manifests of {} kinds",
        manifests.len(),
        kinds.len()
    );
    ensure!(kinds.len() >= 15, "{kinds:?}");
    for some in manifests.chunks(40) {
        let args =
            ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "--filename=-"];
        let said = kubectl(&args, &some.join("\n---\n")).await?;
        ensure!(said.lines().filter(|line| line.contains("(server dry run)")).count() == some.len(), "{said}");
    }
    Ok(())
}
