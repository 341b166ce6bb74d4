//! Decides whether a consumer can be carried out: resource and what it names in, a checked one out, or what is wrong, where, and the
//! fix. Pure.

use std::fmt;

use crds::config::SidecarConfig;
use crds::v1alpha1::{IdempotentConsumer, SidecarSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Map, Value};

use super::dereference::{Kind, Reference, References, SidecarSecret};
use super::rollout::Plan;

/// What the operator brings to every consumer.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// Image of the sidecar, where the consumer names none.
    pub sidecar_image: String,
    /// The operator's version.
    pub version: String,
}

/// A file that the sidecar reads: a key of a Secret or ConfigMap, mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedFile {
    /// Its path below the folder of mounted files, for example `redis/password`.
    pub path: String,
    /// What it holds.
    pub source: Reference,
}

/// A consumer that can be carried out. Only [`validate`] makes one.
#[derive(Clone, Debug)]
pub struct Validated {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) owner: OwnerReference,
    pub(super) replicas: i32,
    pub(super) paused: bool,
    /// What the sidecar is told, with the paths of mounted files in it.
    pub(super) config: SidecarConfig,
    pub(super) files: Vec<MountedFile>,
    pub(super) secret: SidecarSecret,
    pub(super) sidecar: SidecarSpec,
    pub(super) sidecar_image: String,
    /// The template as a pod's metadata and spec; containers and names that inject relies on are there.
    pub(super) template: Template,
    pub(super) digests: Digests,
    pub(super) plan: Plan,
}

/// The user's pod template, looked through.
#[derive(Clone, Debug)]
pub struct Template {
    pub(super) metadata: crds::v1alpha1::TemplateMetadata,
    pub(super) spec: Map<String, Value>,
    /// Index of the app among the containers.
    pub(super) app: usize,
}

/// By what a roll-out is decided; see [`super::rollout`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    pub(super) input: String,
    pub(super) identity: String,
    pub(super) revision: String,
}

/// Why a consumer can't be carried out, as one word in its condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A field's value makes no sense, by itself or beside another's.
    InvalidSpec,
    /// A Secret or ConfigMap that the spec names is absent, or has no such key.
    ReferenceNotFound,
    /// What a Secret or ConfigMap holds is unusable.
    InvalidReference,
    /// An older consumer has the same group and other topics.
    GroupConflict,
    /// The pod template can't take the sidecar.
    InvalidTemplate,
}

impl Reason {
    /// As it stands in the condition.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidSpec => "InvalidSpec",
            Self::ReferenceNotFound => "ReferenceNotFound",
            Self::InvalidReference => "InvalidReference",
            Self::GroupConflict => "GroupConflict",
            Self::InvalidTemplate => "InvalidTemplate",
        }
    }
}

/// One mistake: where, what, and what to do. Holds no Secret's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Kind of mistake.
    pub reason: Reason,
    /// Path of the field, for example `spec.redis.urlFrom`.
    pub field: String,
    /// What is wrong, and the fix.
    pub message: String,
}

/// All that is wrong with a consumer; at least one mistake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Invalid {
    /// The mistakes, in the order of the fields.
    pub mistakes: Vec<Mistake>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            let between = if index > 0 { "; " } else { "" };
            write!(f, "{between}{}: {}", mistake.field, mistake.message)?;
        }
        Ok(())
    }
}

/// The keys of Secrets and ConfigMaps that a consumer names, for dereferencing; each once.
#[must_use]
pub fn named(consumer: &IdempotentConsumer) -> Vec<Reference> {
    let _ = (consumer, Kind::Secret);
    unimplemented_yet()
}

/// The consumer's group: as given, or `<namespace>.<name>`.
#[must_use]
pub fn group(consumer: &IdempotentConsumer) -> String {
    let _ = consumer;
    unimplemented_yet()
}

/// Checks a consumer against everything that CEL can't see. `upgrade` lets one that another operator rolled out be rolled by this one.
///
/// # Errors
/// All mistakes at once.
pub fn validate(
    consumer: &IdempotentConsumer,
    references: &References,
    defaults: &Defaults,
    upgrade: bool,
) -> Result<Validated, Invalid> {
    let _ = (consumer, references, defaults, upgrade);
    unimplemented_yet()
}

impl Validated {
    /// What becomes of the pods.
    #[must_use]
    pub fn plan(&self) -> Plan {
        self.plan
    }
}

fn unimplemented_yet<T>() -> T {
    std::process::abort()
}
