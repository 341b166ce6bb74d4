//! Decides what shall be in the cluster for a consumer: a validated one in, its children out. Pure, and can't fail.

use k8s_openapi::Resource;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;

use super::validate::Validated;

/// Names of the annotations that the operator writes, and reads again at the next reconcile.
pub mod annotation {
    /// On the Deployment: digest of what the user asked for.
    pub const INPUT: &str = "idempotency.dev/input";
    /// On the Deployment: digest of what claims stand on.
    pub const IDENTITY: &str = "idempotency.dev/identity";
    /// On the Deployment: the operator's version and the sidecar image, with which it was rolled out.
    pub const REVISION: &str = "idempotency.dev/revision";
    /// On the Deployment and its pods: image of the sidecar.
    pub const SIDECAR_IMAGE: &str = "idempotency.dev/sidecar-image";
    /// On pods (and so on ReplicaSets): name of the ConfigMap that their sidecars read.
    pub const CONFIG: &str = "idempotency.dev/config";
    /// On pods: digest of the Secrets' and ConfigMaps' values that the spec names, so that a change rolls the pods.
    pub const REFERENCES: &str = "idempotency.dev/references";
}

/// What a child is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChildKind {
    /// Holds the drain token.
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
        match self {
            Self::Secret => of::<Secret>("secrets"),
            Self::ConfigMap => of::<ConfigMap>("configmaps"),
            Self::Service => of::<Service>("services"),
            Self::PodDisruptionBudget => of::<PodDisruptionBudget>("poddisruptionbudgets"),
            Self::Deployment => of::<Deployment>("deployments"),
        }
    }
}

/// One child as it shall be: exactly the fields that the operator owns.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    /// What it is.
    pub kind: ChildKind,
    /// Its name, in the consumer's namespace.
    pub name: String,
    /// The whole manifest, with `apiVersion`, `kind` and `metadata`.
    pub manifest: Value,
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
    /// All but the Deployment, in the order in which they are applied. Without the configuration where the Deployment is kept, since
    /// that one names its own.
    pub children: Vec<Child>,
    /// The Deployment, applied last.
    pub deployment: DeploymentChange,
    /// Name of the ConfigMap with the configuration, where it is among the children. Others are pruned once no ReplicaSet names them.
    pub config: Option<String>,
    /// Label selector of the pods.
    pub selector: String,
}

/// Says what shall be in the cluster.
#[must_use]
pub fn build(consumer: &Validated) -> DesiredState {
    let _ = consumer;
    std::process::abort()
}

/// Name of the Secret with the drain token and the salt of the consumer `name`.
#[must_use]
pub fn secret_name(name: &str) -> String {
    format!("{name}-sidecar")
}
