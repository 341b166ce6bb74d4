//! Decides what a user can ask for and is told: the resource `IdempotentConsumer`, v1alpha1. Pure types; `rules` holds their CEL.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;
use crate::config::{
    BackoffConfig, BatchConfig, BufferConfig, ClaimCommand, FailurePolicy, Ordering, SaslMechanism, SessionConfig,
    Topology,
};

mod definition;
mod rules;
mod template;

pub use definition::crd;
pub use template::{PodTemplate, TemplateMetadata};

/// Runs an app behind Kafka so that it processes each event effectively once: the operator adds a sidecar to the app's pods,
/// which consumes the topics, gates each event in Redis, and hands first-time events to the app over a local socket.
#[derive(CustomResource, JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "idempotency.dev",
    version = "v1alpha1",
    kind = "IdempotentConsumer",
    plural = "idempotentconsumers",
    shortname = "icon",
    category = "all",
    namespaced,
    status = "IdempotentConsumerStatus",
    derive = "PartialEq",
    doc = "Runs an app behind Kafka so that it processes each event effectively once: the operator adds a sidecar to the app's pods, which consumes the topics, gates each event in Redis, and hands first-time events to the app over a local socket.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    )
)]
#[schemars(extend("x-kubernetes-validations" = [rules::group_stays(), rules::timeout_within_claim(), rules::redis_timeout_within_session(), rules::not_consumed("deadLetterTopic"), rules::not_consumed("duplicatesTopic"), rules::container_exists()]))]
#[serde(rename_all = "camelCase")]
pub struct IdempotentConsumerSpec {
    /// Topics to consume, each once. A topic that does not exist yet is waited for.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 249), regex(pattern = "^[a-zA-Z0-9._-]+$")))]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub topics: Vec<String>,
    /// Kafka consumer group, which can't be changed later. Default: `<namespace>.<name>`. It is part of the default key prefix, so that
    /// two groups each process every event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub group: Option<String>,
    /// How long a settled event is remembered, 1s to 10 years. A duplicate that comes later is delivered again.
    #[serde(default = "default::ttl")]
    #[schemars(extend("x-kubernetes-validations" = [rules::between("1s", "87600h")]))]
    pub ttl: Duration,
    /// `ttl` by event type (the CloudEvents type, the `event_type` header or envelope member), where it differs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    #[schemars(extend("x-kubernetes-validations" = [rules::overrides()]))]
    pub ttl_overrides: BTreeMap<String, Duration>,
    /// How an event is told from another. A change replaces all pods at once, since old and new ones would not see each other's claims.
    #[serde(default)]
    pub event_id: EventIdSpec,
    /// Template of the Redis keys, over `{group}`, `{topic}` and `{type}`; the event id follows it. Consumers given one prefix without
    /// placeholders share it, and the first to complete an event wins. A change replaces all pods at once.
    #[serde(default = "default::key_prefix")]
    #[schemars(length(min = 1, max = 255))]
    #[schemars(extend("x-kubernetes-validations" = [rules::key_prefix()]))]
    pub key_prefix: String,
    /// Values that mean "done" in Redis beside `1`, for services that share the prefix and write another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 255)))]
    #[schemars(extend("x-kubernetes-validations" = [rules::done_values()]))]
    pub done_values: Vec<String>,
    /// Stops the flow and keeps the pods as they are. The pods follow within about a minute.
    #[serde(default)]
    pub paused: bool,
    /// The lives of sidecars, by which a dead one's claims are told.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-validations" = [rules::session_ttl()]))]
    pub session: SessionConfig,
    /// Where the records come from.
    pub kafka: KafkaSpec,
    /// Where events are gated.
    #[serde(default)]
    pub redis: RedisSpec,
    /// How the app is reached, and what follows from its answers.
    #[serde(default)]
    pub delivery: DeliverySpec,
    /// How long deliveries under way are waited for when partitions are revoked and when a pod ends; below 5m. The pod's grace period
    /// is made long enough for it.
    #[serde(default = "default::drain_timeout")]
    #[schemars(extend("x-kubernetes-validations" = [rules::between("0s", "299s")]))]
    pub drain_timeout: Duration,
    /// The sidecar's container.
    #[serde(default)]
    pub sidecar: SidecarSpec,
    /// Pods to run; more than there are partitions stand idle. Set by `kubectl scale`, HPA and KEDA as well.
    #[serde(default = "default::replicas")]
    #[schemars(range(min = 0, max = 10000))]
    pub replicas: i32,
    /// The app: an ordinary pod template, as in a Deployment.
    pub template: PodTemplate,
}

/// How an event is told from another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [rules::event_id_header(), rules::event_id_fields()]))]
pub struct EventIdSpec {
    /// `Data`: the envelope's `data` member in canonical JSON. `Record`: the raw value. `Header`: a record header. `Fields`: members of
    /// the envelope.
    pub rule: EventIdRuleName,
    /// Name of the record header, for example `ce_id`; with rule `Header`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub header: Option<String>,
    /// JSON pointers into the envelope, for example `/event_id`; with rule `Fields`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 255), regex(pattern = "^/")))]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub fields: Option<Vec<String>>,
}

/// The rules by which an event is told from another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EventIdRuleName {
    /// SHA-256 of the envelope's `data` member in canonical JSON; of the raw value where there is none.
    #[default]
    Data,
    /// SHA-256 of the raw value.
    Record,
    /// A record header; the raw value where it is missing.
    Header,
    /// Members of the envelope, hashed with their names; the raw value where one is missing.
    Fields,
}

/// A key of a Secret in the consumer's namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretSource {
    /// The Secret and its key. A change of the value rolls the pods.
    pub secret_key_ref: KeyRef,
}

/// A key of a Secret or of a ConfigMap in the consumer's namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rules::one_of("secretKeyRef", "configMapKeyRef")]))]
pub struct FileSource {
    /// A Secret and its key. A change of the value rolls the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRef>,
    /// A ConfigMap and its key. A change of the value rolls the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyRef>,
}

/// An object in the consumer's namespace, and one of its keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct KeyRef {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in it.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// Where the records come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaSpec {
    /// Comma-separated list of `host:port`.
    #[schemars(length(min = 1, max = 4096))]
    #[schemars(extend("x-kubernetes-validations" = [rules::bootstrap_servers()]))]
    pub bootstrap_servers: String,
    /// Encrypt the connection; absent means plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,
    /// Authenticate by SASL; absent means none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<SaslSpec>,
    /// Further librdkafka properties, each value a text. Those that the sidecar's promises stand on are refused by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub properties: BTreeMap<String, String>,
}

/// TLS towards a server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [rules::certificate_and_key()]))]
pub struct TlsSpec {
    /// PEM of the authorities to trust; absent means those that the sidecar's image brings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_from: Option<FileSource>,
    /// PEM of the client certificate, where the server wants one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_from: Option<FileSource>,
    /// PEM of the client certificate's key, without a passphrase.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_from: Option<SecretSource>,
}

/// SASL towards Kafka.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SaslSpec {
    /// The mechanism.
    pub mechanism: SaslMechanism,
    /// The user name.
    pub username_from: SecretSource,
    /// The password.
    pub password_from: SecretSource,
}

/// Where events are gated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [rules::at_most_one("url", "urlFrom"), rules::sentinel_master(), rules::redis_user()]))]
pub struct RedisSpec {
    /// `redis://` or `rediss://` (TLS) URL without a password; several nodes of a cluster or several sentinels are separated by commas.
    /// Not set beside `urlFrom`. Default of the two: the operator's setting at the last roll-out, if it has one. A change of it replaces
    /// all pods at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    #[schemars(extend("x-kubernetes-validations" = [rules::redis_url(), rules::redis_url_has_no_password()]))]
    pub url: Option<String>,
    /// The URL in a Secret, for one with a password in it (special characters percent-encoded).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_from: Option<SecretSource>,
    /// The user name (ACL), where it is not in the URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username_from: Option<SecretSource>,
    /// The password, where it is not in the URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_from: Option<SecretSource>,
    /// Certificates for `rediss://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,
    /// How the servers stand together.
    #[serde(default)]
    pub topology: Topology,
    /// Name of the master set that the sentinels watch; with topology `Sentinel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub sentinel_master: Option<String>,
    /// How a claim is written.
    #[serde(default)]
    pub claim_command: ClaimCommand,
    /// What happens to events while Redis is away. `Open`: deliver them, and say so to the app. `Closed`: wait.
    #[serde(default)]
    pub failure_policy: FailurePolicy,
    /// How long one round trip may take before it counts as an error, 10ms to 10s; at most a quarter of `session.ttl`.
    #[serde(default = "default::redis_timeout")]
    #[schemars(extend("x-kubernetes-validations" = [rules::between("10ms", "10s")]))]
    pub timeout: Duration,
}

impl Default for RedisSpec {
    fn default() -> Self {
        Self {
            url: None,
            url_from: None,
            username_from: None,
            password_from: None,
            tls: None,
            topology: Topology::default(),
            sentinel_master: None,
            claim_command: ClaimCommand::default(),
            failure_policy: FailurePolicy::default(),
            timeout: default::redis_timeout(),
        }
    }
}

/// How the app is reached, and what follows from its answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [rules::attempts_need_dead_letters(), rules::buffer_holds_a_batch()]))]
pub struct DeliverySpec {
    /// Container of the template that is the app. Default: the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub container: Option<String>,
    /// Port on which the app listens, on the pod's loopback address, instead of the unix socket that `$IDEMPOTENCY_SOCKET` names.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// Path of the request.
    #[schemars(length(min = 1, max = 1024), regex(pattern = "^/[^#\\s]*$"))]
    pub path: String,
    /// How long the app may take for one request. At most a quarter of the shortest time that a claim lives, which is max(ttl, 1h).
    #[schemars(extend("x-kubernetes-validations" = [rules::between("1ms", "21900h")]))]
    pub timeout: Duration,
    /// What must wait for what. `Partition`: one at a time in a partition. `Key`: one at a time for each record key. `Unordered`: nothing.
    pub ordering: Ordering,
    /// Requests under way at once in one pod.
    #[schemars(range(min = 1, max = 10000))]
    pub concurrency: i32,
    /// Events in one request.
    #[schemars(extend("x-kubernetes-validations" = [rules::batch()]))]
    pub batch: BatchConfig,
    /// Pause after a failed delivery, growing from `min` to `max`.
    #[schemars(extend("x-kubernetes-validations" = [rules::backoff()]))]
    pub backoff: BackoffConfig,
    /// Requests for one event after which it goes to the dead-letter topic; absent means never. Needs `deadLetterTopic`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_attempts: Option<i32>,
    /// Topic for rejected and exhausted events; none of `topics`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249), regex(pattern = "^[a-zA-Z0-9._-]+$"))]
    pub dead_letter_topic: Option<String>,
    /// Topic that gets a copy of every skipped record; none of `topics`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249), regex(pattern = "^[a-zA-Z0-9._-]+$"))]
    pub duplicates_topic: Option<String>,
    /// How long the app may be down before its pod leaves the consumer group, 1s to 24h.
    #[schemars(extend("x-kubernetes-validations" = [rules::between("1s", "24h")]))]
    pub app_down_timeout: Duration,
    /// What a sidecar holds in memory at most.
    #[schemars(extend("x-kubernetes-validations" = [rules::buffer()]))]
    pub buffer: BufferConfig,
}

impl Default for DeliverySpec {
    fn default() -> Self {
        let sidecar = crate::config::DeliveryConfig::default();
        Self {
            container: None,
            port: None,
            path: sidecar.path,
            timeout: sidecar.timeout,
            ordering: sidecar.ordering,
            concurrency: 64,
            batch: sidecar.batch,
            backoff: sidecar.backoff,
            max_attempts: None,
            dead_letter_topic: None,
            duplicates_topic: None,
            app_down_timeout: sidecar.app_down_timeout,
            buffer: sidecar.buffer,
        }
    }
}

/// The sidecar's container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SidecarSpec {
    /// Image. Default: the operator's setting at the last roll-out; upgrading the operator alone does not change it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,
    /// When the image is pulled. Default: Kubernetes' own rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// Log filter, for example `info` or `info,sidecar::gate=debug`. Default: `info`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub log_level: Option<String>,
    /// Port of the probes, metrics and drain. Change it where the app wants this one.
    #[schemars(range(min = 1, max = 65535))]
    pub admin_port: i32,
    /// Compute resources. What is not set is the operator's setting at the last roll-out: 50m of a core and 64Mi are reserved, 512Mi of
    /// memory are the limit, where it says nothing else. An HPA by utilisation computes with what is reserved.
    #[serde(skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
}

impl Default for SidecarSpec {
    fn default() -> Self {
        Self {
            image: None,
            image_pull_policy: None,
            log_level: None,
            admin_port: 9464,
            resources: Resources::default(),
        }
    }
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagePullPolicy {
    /// At every start of a container.
    Always,
    /// When the node has none.
    IfNotPresent,
    /// Never: the node must have it.
    Never,
}

/// Compute resources of the sidecar.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    /// What is reserved.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 16))]
    pub requests: Option<BTreeMap<String, IntOrString>>,
    /// What is not exceeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 16))]
    pub limits: Option<BTreeMap<String, IntOrString>>,
}

impl Resources {
    /// What the sidecar gets where neither its consumer nor the operator's setting says anything.
    #[must_use]
    pub fn built_in() -> Self {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), IntOrString::String((*value).to_owned()))).collect()
        };
        Self { requests: Some(map(&[("cpu", "50m"), ("memory", "64Mi")])), limits: Some(map(&[("memory", "512Mi")])) }
    }

    /// These, and `others` for what is not set.
    #[must_use]
    pub fn or(&self, others: &Self) -> Self {
        let either = |ours: &Option<_>, others: &Option<_>| ours.as_ref().or(others.as_ref()).cloned();
        Self { requests: either(&self.requests, &others.requests), limits: either(&self.limits, &others.limits) }
    }

    /// Nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What the operator found and did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct IdempotentConsumerStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Progressing`, `Protected` and `SpecValid`.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Pods there are.
    pub replicas: i32,
    /// Pods that are ready.
    pub ready_replicas: i32,
    /// Pods of the newest revision.
    pub updated_replicas: i32,
    /// Label selector of the pods, for HPA and KEDA.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Kafka consumer group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Image of the sidecar that was rolled out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sidecar_image: Option<String>,
    /// What the sidecars of the pods there are count, each since it started; written once a minute at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<EventCounts>,
}

/// What the sidecars of the pods there are count, each since it started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EventCounts {
    /// When they were asked, RFC 3339.
    pub observed_at: String,
    /// Sidecars that answered.
    pub sidecars: i32,
    /// Partitions that they hold.
    pub partitions: i64,
    /// Records read.
    pub received: i64,
    /// Events that the app completed.
    pub completed: i64,
    /// Events that the app rejected.
    pub rejected: i64,
    /// Records skipped since their event was done.
    pub duplicates: i64,
    /// Duplicates whose envelope names another event.
    pub suspects: i64,
    /// Events written to the dead-letter topic.
    pub dead_letters: i64,
    /// Deliveries with an attempt above 1.
    pub redeliveries: i64,
    /// Deliveries under less than full protection.
    pub unprotected: i64,
    /// Records in the topics that are not yet settled, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
}

mod default {
    use crate::Duration;

    pub(super) const fn ttl() -> Duration {
        Duration::from_secs(86_400)
    }

    pub(super) fn key_prefix() -> String {
        "idempotency:{group}:{topic}:{type}:".into()
    }

    pub(super) const fn drain_timeout() -> Duration {
        Duration::from_secs(30)
    }

    pub(super) const fn redis_timeout() -> Duration {
        Duration::from_millis(250)
    }

    pub(super) const fn replicas() -> i32 {
        1
    }
}
