//! Decides what shall be in the cluster for a consumer: a validated one in, its children out. Pure, and can't fail.

use std::collections::BTreeMap;
use std::fmt;

use crds::v1alpha1::IdempotentConsumer;
use crds::{CONSUMER_LABEL, FIELD_MANAGER};
use k8s_openapi::Resource;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use super::rollout::Plan;
use super::validate::{self, Validated};

mod config;
mod inject;

/// Names of the annotations that the operator writes, and reads again at the next reconcile.
pub mod annotation {
    /// On the Deployment: digest of what the user asked for.
    pub const INPUT: &str = "idempotency.dev/input";
    /// On the Deployment and its pods: digest of what claims stand on. Pods of another one are waited for.
    pub const IDENTITY: &str = "idempotency.dev/identity";
    /// On the Deployment: the operator's version and the sidecar image, with which it was rolled out.
    pub const REVISION: &str = "idempotency.dev/revision";
    /// On the Deployment: image of the sidecar.
    pub const SIDECAR_IMAGE: &str = "idempotency.dev/sidecar-image";
    /// On pods (and so on ReplicaSets): name of the ConfigMap that their sidecars read.
    pub const CONFIG: &str = "idempotency.dev/config";
    /// On pods (and so on ReplicaSets): name of the Secret with copies of what the spec names.
    pub const FILES: &str = "idempotency.dev/files";
    /// On pods: digest of the Secrets' and ConfigMaps' values that the spec names, so that a change rolls the pods.
    pub const REFERENCES: &str = "idempotency.dev/references";
}

/// Where things are in a pod. The sidecar's file names them, and the pod template mounts them.
pub(in crate::controller) mod path {
    /// Folder of the socket, shared with the app.
    pub(in crate::controller) const RUN: &str = "/run/idempotency";
    /// The socket.
    pub(in crate::controller) const SOCKET: &str = "/run/idempotency/app.sock";
    /// Folder of what outlives a restart of the sidecar's container.
    pub(in crate::controller) const STATE: &str = "/var/lib/idempotency";
    /// Folder of the configuration.
    pub(in crate::controller) const CONFIG: &str = "/etc/idempotency/config";
    /// The configuration's file in it.
    pub(in crate::controller) const CONFIG_FILE: &str = "sidecar.yaml";
    /// Folder of the switches that reach running pods.
    pub(in crate::controller) const SWITCHES: &str = "/etc/idempotency/switches";
    /// The switch that stops the flow.
    pub(in crate::controller) const PAUSED: &str = "/etc/idempotency/switches/paused";
    /// Folder of files out of Secrets and ConfigMaps.
    pub(in crate::controller) const FILES: &str = "/etc/idempotency/files";
    /// The drain token, among those files.
    pub(in crate::controller) const DRAIN_TOKEN: &str = "drain/token";

    /// Path of a file out of a Secret or ConfigMap.
    pub(in crate::controller) fn file(name: &str) -> String {
        format!("{FILES}/{name}")
    }
}

/// Names of the volumes that are added to a pod.
pub(in crate::controller) mod volume {
    /// What all of them begin with.
    pub(in crate::controller) const PREFIX: &str = "idempotency-";
    /// The socket's folder.
    pub(in crate::controller) const RUN: &str = "idempotency-run";
    /// What outlives a restart of the sidecar's container.
    pub(in crate::controller) const STATE: &str = "idempotency-state";
    /// The configuration.
    pub(in crate::controller) const CONFIG: &str = "idempotency-config";
    /// The switches that reach running pods.
    pub(in crate::controller) const SWITCHES: &str = "idempotency-switches";
    /// Files out of Secrets and ConfigMaps.
    pub(in crate::controller) const FILES: &str = "idempotency-files";
}

/// Environment variables that are set.
pub(in crate::controller) mod variable {
    /// For the app: where to listen.
    pub(in crate::controller) const SOCKET: &str = "IDEMPOTENCY_SOCKET";
    /// For the sidecar: what to log.
    pub(in crate::controller) const LOG: &str = "IDEMPOTENCY_LOG";
}

/// What a child is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChildKind {
    /// Holds the drain token, or copies of the values that the spec names.
    Secret,
    /// Holds what sidecars are told: the configuration, or the switch that pauses them.
    ConfigMap,
    /// Names the pods' metrics port.
    Service,
    /// Bounds voluntary disruptions.
    PodDisruptionBudget,
    /// Runs the pods.
    Deployment,
}

impl ChildKind {
    /// All kinds, in the order in which they are applied: the Deployment last, when all that it names is there.
    pub const ALL: [Self; 5] =
        [Self::Secret, Self::ConfigMap, Self::Service, Self::PodDisruptionBudget, Self::Deployment];

    /// How the API server calls it.
    #[must_use]
    pub fn resource(self) -> ApiResource {
        fn of<K: Resource>(plural: &str) -> ApiResource {
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(K::GROUP, K::VERSION, K::KIND), plural)
        }
        let of = match self {
            Self::Secret => of::<Secret>,
            Self::ConfigMap => of::<ConfigMap>,
            Self::Service => of::<Service>,
            Self::PodDisruptionBudget => of::<PodDisruptionBudget>,
            Self::Deployment => of::<Deployment>,
        };
        of(self.plural())
    }

    /// Its name in paths and permissions.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Secret => "secrets",
            Self::ConfigMap => "configmaps",
            Self::Service => "services",
            Self::PodDisruptionBudget => "poddisruptionbudgets",
            Self::Deployment => "deployments",
        }
    }
}

/// One child as it shall be: exactly the fields that the operator owns.
#[derive(Clone, PartialEq)]
pub struct Child {
    /// What it is.
    pub kind: ChildKind,
    /// Its name, in the consumer's namespace.
    pub name: String,
    /// The whole manifest, with `apiVersion`, `kind` and `metadata`.
    pub manifest: Value,
}

/// The manifest may be a Secret's.
impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child").field("kind", &self.kind).field("name", &self.name).finish_non_exhaustive()
    }
}

/// What becomes of the Deployment.
#[derive(Clone, Debug, PartialEq)]
pub enum DeploymentChange {
    /// It is applied.
    Apply(Child),
    /// Only the number of pods follows ([`super::rollout::Plan::Keep`]).
    Replicas {
        /// Name of the Deployment.
        name: String,
        /// Pods to run.
        replicas: i32,
    },
}

/// Everything that shall be in the cluster for one consumer.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredState {
    /// All but the Deployment, in the order in which they are applied. Without the configuration and the files where the Deployment is
    /// kept, since that one names its own.
    pub children: Vec<Child>,
    /// The Deployment, applied last.
    pub deployment: DeploymentChange,
    /// Label selector of the pods.
    pub selector: String,
}

/// Says what shall be in the cluster.
#[must_use]
pub fn build(consumer: &Validated) -> DesiredState {
    let (config, files) = (config::config(consumer), config::files(consumer));
    let reads = Reads { config: config.name.clone(), files: files.as_ref().map(|files| files.name.clone()) };
    let mut children = vec![config::secret(consumer), config::switches(&Whose::of(consumer), consumer.paused)];
    let keep = consumer.plan == Plan::Keep;
    if !keep {
        children.push(config);
        children.extend(files);
    }
    children.extend([service(consumer), budget(consumer)]);
    let deployment = if keep {
        DeploymentChange::Replicas { name: consumer.name.clone(), replicas: consumer.replicas }
    } else {
        DeploymentChange::Apply(deployment(consumer, &reads))
    };
    DesiredState { children, deployment, selector: selector(&consumer.name) }
}

/// What the pods of one revision read, and no other's: it is never written again, and named by its contents.
struct Reads {
    /// Name of the ConfigMap with the configuration.
    config: String,
    /// Name of the Secret with copies of what the spec names, where it names something.
    files: Option<String>,
}

/// Name of the Secret with the drain token and the salt of the consumer `name`.
#[must_use]
pub fn secret_name(name: &str) -> String {
    format!("{name}-sidecar")
}

/// What the names of a consumer's ConfigMaps with a configuration begin with.
#[must_use]
pub fn config_prefix(name: &str) -> String {
    format!("{name}-config-")
}

/// What the names of a consumer's Secrets with copies of what its spec names begin with.
#[must_use]
pub fn files_prefix(name: &str) -> String {
    format!("{name}-files-")
}

/// Label selector of a consumer's pods.
#[must_use]
pub fn selector(name: &str) -> String {
    format!("{CONSUMER_LABEL}={name}")
}

/// The switches of a consumer that can't be carried out as a whole: they touch no pod, and stopping the flow is for emergencies.
#[must_use]
pub fn switches(consumer: &IdempotentConsumer) -> Child {
    let (name, namespace) = (consumer.name_any(), consumer.namespace().unwrap_or_else(|| "default".into()));
    let owner = validate::owner(consumer);
    config::switches(&Whose { name: &name, namespace: &namespace, owner: &owner }, consumer.spec.paused)
}

/// Whom a child belongs to.
struct Whose<'a> {
    name: &'a str,
    namespace: &'a str,
    owner: &'a OwnerReference,
}

impl<'a> Whose<'a> {
    fn of(consumer: &'a Validated) -> Self {
        Self { name: &consumer.name, namespace: &consumer.namespace, owner: &consumer.owner }
    }
}

/// A child of the consumer.
fn child(consumer: &Validated, kind: ChildKind, name: String, annotations: &[(&str, &str)], rest: Value) -> Child {
    child_of(&Whose::of(consumer), kind, name, annotations, rest)
}

/// A child, with what every child has.
fn child_of(consumer: &Whose<'_>, kind: ChildKind, name: String, annotations: &[(&str, &str)], rest: Value) -> Child {
    let resource = kind.resource();
    let mut metadata = json!({
        "name": name,
        "namespace": consumer.namespace,
        "labels": {
            CONSUMER_LABEL: consumer.name,
            "app.kubernetes.io/instance": consumer.name,
            "app.kubernetes.io/managed-by": FIELD_MANAGER,
        },
        "ownerReferences": [consumer.owner],
    });
    if !annotations.is_empty() {
        metadata["annotations"] = json!(annotations.iter().copied().collect::<BTreeMap<_, _>>());
    }
    let mut manifest = json!({"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata});
    if let (Some(manifest), Value::Object(rest)) = (manifest.as_object_mut(), rest) {
        manifest.extend(rest);
    }
    Child { kind, name, manifest }
}

/// Headless, and with pods that are not ready: Prometheus wants to see those most of all.
fn service(consumer: &Validated) -> Child {
    let rest = json!({
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": true,
            "selector": {CONSUMER_LABEL: consumer.name},
            "ports": [{
                "name": "metrics",
                "port": consumer.sidecar.admin_port,
                "targetPort": consumer.sidecar.admin_port,
                "protocol": "TCP",
            }],
        },
    });
    child(consumer, ChildKind::Service, format!("{}-metrics", consumer.name), &[], rest)
}

/// One pod after another: each eviction is a rebalance. A pod that is not ready may always go, or a node could never be drained.
fn budget(consumer: &Validated) -> Child {
    let rest = json!({
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": {CONSUMER_LABEL: consumer.name}},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    });
    child(consumer, ChildKind::PodDisruptionBudget, consumer.name.clone(), &[], rest)
}

fn deployment(consumer: &Validated, reads: &Reads) -> Child {
    let strategy = if consumer.plan == Plan::Recreate {
        json!({"type": "Recreate", "rollingUpdate": null})
    } else {
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
    };
    let rest = json!({
        "spec": {
            "replicas": consumer.replicas,
            "selector": {"matchLabels": {CONSUMER_LABEL: consumer.name}},
            "strategy": strategy,
            "template": inject::inject(consumer, reads),
        },
    });
    let digests = &consumer.digests;
    let annotations = [
        (annotation::INPUT, digests.input.as_str()),
        (annotation::IDENTITY, &digests.identity),
        (annotation::REVISION, &digests.revision),
        (annotation::SIDECAR_IMAGE, &consumer.sidecar_image),
    ];
    child(consumer, ChildKind::Deployment, consumer.name.clone(), &annotations, rest)
}
