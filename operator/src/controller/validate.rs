//! Decides whether a consumer can be carried out: resource and what it names in, a checked one out, or what is wrong, where, and the
//! fix. Pure.

use std::fmt;

use crds::config::{Problems, SidecarConfig};
use crds::v1alpha1::{IdempotentConsumer, IdempotentConsumerSpec, Resources, SidecarSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};

use super::dereference::{Lookup, Reference, References, Rival, SidecarSecret};
use super::rollout::{self, Plan};

mod digests;
mod references;
mod template;
mod translate;

pub use digests::Digests;
pub use template::Template;

/// What the operator brings to every consumer.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    /// Image of the sidecar, where the consumer names none.
    pub sidecar_image: String,
    /// The operator's version.
    pub version: String,
    /// URL of the Redis, where the consumer names none.
    pub redis_url: Option<String>,
    /// Compute resources of the sidecar, where the consumer says nothing.
    pub sidecar_resources: Resources,
}

impl Defaults {
    /// What the operator brings to every consumer, in a word: it stands on Deployments.
    #[must_use]
    pub fn revision(&self) -> String {
        let mut revision = format!("{}, {}", self.version, self.sidecar_image);
        for setting in [self.redis_url.clone(), serde_json::to_string(&self.sidecar_resources).ok()] {
            if let Some(setting) = setting.filter(|setting| setting != "{}") {
                revision.push_str(", ");
                revision.push_str(&setting);
            }
        }
        revision
    }

    /// The consumer, with what it leaves to the operator.
    fn complete(&self, consumer: &IdempotentConsumer) -> IdempotentConsumer {
        let mut consumer = consumer.clone();
        let IdempotentConsumerSpec { redis, sidecar, .. } = &mut consumer.spec;
        if redis.url.is_none() && redis.url_from.is_none() {
            redis.url.clone_from(&self.redis_url);
        }
        sidecar.resources = sidecar.resources.or(&self.sidecar_resources).or(&Resources::built_in());
        consumer
    }
}

/// A file that the sidecar reads, and where what it holds stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFile {
    /// Its path below the folder of mounted files, for example `redis/password`.
    pub path: String,
    /// A key of a Secret or ConfigMap.
    pub source: Reference,
}

/// A file that the sidecar reads, with what it holds.
#[derive(Clone, PartialEq, Eq)]
pub struct MountedFile {
    /// Its path below the folder of mounted files, for example `redis/password`.
    pub path: String,
    /// What it holds.
    pub contents: Vec<u8>,
}

/// It may hold a Secret's value.
impl fmt::Debug for MountedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MountedFile").field("path", &self.path).finish_non_exhaustive()
    }
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
    /// Keyed digest of the values that the spec names.
    pub(super) references: String,
    /// Keyed digest of the files; `None` where there are none.
    pub(super) files_digest: Option<String>,
    pub(super) digests: Digests,
    pub(super) plan: Plan,
    /// Why a Deployment is rolled that would be kept.
    pub(super) heals: Option<&'static str>,
    /// A pod of a Deployment that is gone, whose claims new pods would not see.
    pub(super) old_pod: Option<String>,
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

/// The keys of Secrets and ConfigMaps that a consumer names, each once.
#[must_use]
pub fn named(consumer: &IdempotentConsumer) -> Vec<Reference> {
    let mut references: Vec<Reference> = translate::files(&consumer.spec).into_iter().map(|file| file.source).collect();
    references.sort();
    references.dedup();
    references
}

/// The consumer's group: as given, or `<namespace>.<name>`, which no other consumer in the cluster has.
#[must_use]
pub fn group(consumer: &IdempotentConsumer) -> String {
    match &consumer.spec.group {
        Some(group) => group.clone(),
        None => {
            format!("{}.{}", consumer.metadata.namespace.as_deref().unwrap_or("default"), consumer.name_any())
        }
    }
}

/// Whether that is the consumer's group; asked of every consumer, so that nothing is made for it.
#[must_use]
pub fn is_group(consumer: &IdempotentConsumer, group: &str) -> bool {
    match &consumer.spec.group {
        Some(own) => own == group,
        None => {
            let namespace = consumer.metadata.namespace.as_deref().unwrap_or("default");
            let name = consumer.metadata.name.as_deref().unwrap_or_default();
            group.strip_prefix(namespace).and_then(|rest| rest.strip_prefix('.')) == Some(name)
        }
    }
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
    let asked = &consumer.spec;
    let consumer = &defaults.complete(consumer);
    let spec = &consumer.spec;
    let config = translate::config(consumer);
    let files = translate::files(spec);
    let mut mistakes = Vec::new();
    references::check(&files, &references.values, &mut mistakes);
    let mut problems = Problems(config.problems());
    references::redis(spec, &config.redis, &references.values, &mut problems, &mut mistakes);
    mistakes.extend(problems.0.into_iter().map(translate::mistake));
    if let Some(rival) = &references.rival {
        mistakes.push(conflict(&config.group, rival));
    }
    let template = template::check(spec, &mut mistakes);
    if !mistakes.is_empty() {
        return Err(Invalid { mistakes });
    }
    let sidecar_image = spec.sidecar.image.clone().unwrap_or_else(|| defaults.sidecar_image.clone());
    let digests = digests::of(asked, spec, references, defaults);
    let files = contents(files, references);
    let plan = rollout::plan(digests.wanted(), references.running.as_ref(), &references.pods, upgrade);
    let old_pod = rollout::old_pod(digests.wanted(), &references.pods).filter(|_| references.running.is_none());
    Ok(Validated {
        name: consumer.name_any(),
        namespace: consumer.metadata.namespace.clone().unwrap_or_else(|| "default".into()),
        owner: owner(consumer),
        replicas: spec.replicas,
        paused: spec.paused,
        config,
        files_digest: digests::files(&files, &references.secret),
        files,
        secret: references.secret.clone(),
        sidecar: spec.sidecar.clone(),
        sidecar_image,
        template,
        references: digests::references(&references.values, &references.secret),
        heals: heals(&digests, references, plan),
        old_pod: old_pod.map(ToOwned::to_owned),
        digests,
        plan,
    })
}

/// The files with what they hold, all of which is there by now.
fn contents(files: Vec<NamedFile>, references: &References) -> Vec<MountedFile> {
    let with = |NamedFile { path, source }| match references.values.get(&source) {
        Some(Lookup::Value(value)) => Some(MountedFile { path, contents: value.clone() }),
        _ => None,
    };
    files.into_iter().filter_map(with).collect()
}

/// Why a Deployment that another operator rolled out is not kept.
fn heals(digests: &Digests, references: &References, plan: Plan) -> Option<&'static str> {
    let running = references.running.as_ref().filter(|_| plan != Plan::Keep)?;
    running.broken.filter(|_| rollout::is_outdated(digests.wanted(), running))
}

/// Another consumer of the group would be given partitions of topics that it does not consume, and the other way round.
fn conflict(group: &str, rival: &Rival) -> Mistake {
    Mistake {
        reason: Reason::GroupConflict,
        field: "spec.group".into(),
        message: format!(
            "the group `{group}` at this Kafka is that of {} already, which consumes other topics ({}): choose another group, or the \
             same topics",
            rival.consumer,
            rival.topics.join(", ")
        ),
    }
}

/// Children go when their consumer goes; only this owner may change them.
pub(super) fn owner(consumer: &IdempotentConsumer) -> OwnerReference {
    OwnerReference {
        api_version: IdempotentConsumer::api_version(&()).into_owned(),
        kind: IdempotentConsumer::kind(&()).into_owned(),
        name: consumer.name_any(),
        uid: consumer.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

impl Validated {
    /// What becomes of the pods.
    #[must_use]
    pub const fn plan(&self) -> Plan {
        self.plan
    }

    /// Why the Deployment is rolled, though the user asks for nothing new.
    #[must_use]
    pub fn heals(&self) -> Option<&'static str> {
        self.heals
    }

    /// A pod that must end before the Deployment is made.
    #[must_use]
    pub fn old_pod(&self) -> Option<&str> {
        self.old_pod.as_deref()
    }

    /// The Kafka consumer group.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.config.group
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_known_without_making_its_name() {
        let consumer = |namespace: &str, name: &str, group: Option<&str>| -> IdempotentConsumer {
            serde_json::from_value(serde_json::json!({
                "apiVersion": "idempotency.dev/v1alpha1", "kind": "IdempotentConsumer",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {
                    "group": group, "topics": ["t"], "kafka": {"bootstrapServers": "k:1"}, "redis": {"url": "redis://r"},
                    "template": {"spec": {"containers": []}},
                },
            }))
            .unwrap()
        };
        let all = [
            consumer("ns", "a", None),
            consumer("ns", "b", None),
            consumer("ns.a", "b", None),
            consumer("ns", "a.b", None),
            consumer("other", "c", Some("ns.a")),
            consumer("other", "d", Some("mine")),
        ];
        for (one, other) in all.iter().flat_map(|one| all.iter().map(move |other| (one, other))) {
            assert_eq!(is_group(one, &group(other)), group(one) == group(other), "{} {}", group(one), group(other));
        }
    }
}
