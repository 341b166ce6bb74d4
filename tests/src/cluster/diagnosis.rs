//! Decides what a failed test shows of the cluster: resources, events, and the containers' logs, as files in its folder. I/O.

use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, LogParams};
use kube::{Api, Client};

use super::{kubectl, operator};

/// Lines of each container's log.
const LINES: i64 = 200;

/// Writes it all down. What can't be had is left out: the failure itself is told elsewhere.
pub async fn write(client: &Client, namespace: &str, dir: &Path) {
    let ask = async |args: &[&str]| kubectl(args, "").await.unwrap_or_else(|e| format!("{e:#}"));
    let mut text = String::new();
    for (what, more) in [
        ("icon,deployments,replicasets,pods,poddisruptionbudgets,configmaps", vec!["--output=wide"]),
        ("events", vec!["--sort-by=.lastTimestamp"]),
        ("icon", vec!["--output=jsonpath={range .items[*]}{.metadata.name}{\": \"}{.status}{\"\\n\"}{end}"]),
    ] {
        let args = [vec!["get", what, "--namespace", namespace], more].concat();
        text += &ask(&args).await;
        text.push('\n');
    }
    let _ = std::fs::write(dir.join("1-cluster.log"), text);
    logs(client, namespace, "2", dir).await;
    logs(client, operator::NAMESPACE, "3-operator", dir).await;
}

async fn logs(client: &Client, namespace: &str, prefix: &str, dir: &Path) {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let Ok(pods) = api.list(&ListParams::default()).await else { return };
    for pod in pods {
        let name = pod.metadata.name.unwrap_or_default();
        let spec = pod.spec.unwrap_or_default();
        let containers = spec.init_containers.into_iter().flatten().chain(spec.containers);
        for container in containers {
            for previous in [false, true] {
                let params = LogParams {
                    container: Some(container.name.clone()),
                    tail_lines: Some(LINES),
                    previous,
                    timestamps: true,
                    ..LogParams::default()
                };
                let Ok(text) = api.logs(&name, &params).await else { continue };
                let which = if previous { "-previous" } else { "" };
                let _ = std::fs::write(dir.join(format!("{prefix}-{name}-{}{which}.log", container.name)), text);
            }
        }
    }
}
