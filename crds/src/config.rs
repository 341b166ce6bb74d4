//! Decides what the sidecar can be told: its configuration file, field by field, and what would be refused. Pure.
//!
//! The file is strict (an unknown field is an error) and versioned. Secrets never stand in it: it names files that hold them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;

pub mod kafka_properties;
mod problem;
pub mod redis_url;
mod validate;

pub use problem::{Problem, Problems, example};
pub use validate::validate;

/// The version of the file's format that this code reads and writes.
pub const VERSION: u32 = 1;

/// Everything the sidecar is told: one consumer group, its topics, the Redis that gates them, the app behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SidecarConfig {
    /// Version of this file's format: 1.
    pub version: u32,
    /// Kafka consumer group. It is part of the default key prefix, so that two groups each see every event.
    pub group: String,
    /// Topics to consume; at least one, each once, by Kafka's rules for their names.
    pub topics: Vec<String>,
    /// How long a settled event is remembered, 1s to 10 years. A duplicate that comes later is delivered again.
    #[serde(default = "default::ttl")]
    pub ttl: Duration,
    /// `ttl` by event type, where it differs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ttl_overrides: BTreeMap<String, Duration>,
    /// How an event is told from another.
    #[serde(default)]
    pub event_id: EventIdRule,
    /// Template of the Redis keys, over `{group}`, `{topic}` and `{type}`; the event id follows it. In what they are filled
    /// with, `:`, `%` and what follows the placeholder are escaped. Must not begin as `session.prefix` does.
    #[serde(default = "default::key_prefix")]
    pub key_prefix: String,
    /// Values that mean "done" in Redis beside `1` and `1:<fingerprint>`, for services that write another. None begins with
    /// `c:`, which marks a claim.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done_values: Vec<String>,
    /// Stops the flow and keeps everything else as it is.
    #[serde(default)]
    pub paused: bool,
    /// File that says `true` or `false`: stops and resumes the flow while the sidecar runs; an absolute path. Read every second;
    /// while there is no such file `paused` counts, and anything else in it changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_file: Option<PathBuf>,
    /// The lives of sidecars, by which a dead one's claims are told.
    #[serde(default)]
    pub session: SessionConfig,
    /// Where the records come from.
    pub kafka: KafkaConfig,
    /// Where events are gated.
    pub redis: RedisConfig,
    /// How the app is reached, and what follows from its answers.
    #[serde(default)]
    pub delivery: DeliveryConfig,
    /// The HTTP endpoint for probes, metrics and drain.
    #[serde(default)]
    pub admin: AdminConfig,
    /// How long deliveries under way are waited for when partitions are revoked, on drain and on SIGTERM. Below Kafka's
    /// `max.poll.interval.ms` (5m).
    #[serde(default = "default::drain_timeout")]
    pub drain_timeout: Duration,
    /// Folder that outlives a restart of the container (the pod's emptyDir), an absolute path. The sessions of a predecessor
    /// are ended from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<PathBuf>,
}

/// How an event is told from another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "rule", deny_unknown_fields)]
pub enum EventIdRule {
    /// SHA-256 of the envelope's `data` member in canonical JSON; of the raw value where there is none.
    #[default]
    Data,
    /// SHA-256 of the raw value.
    Record,
    /// A record header, for example `ce_id`; the raw value where it is missing.
    Header {
        /// Name of the record header.
        header: String,
    },
    /// JSON pointers into the envelope, hashed with their names; the raw value where one is missing.
    Fields {
        /// JSON pointers (RFC 6901), for example `/event_id`.
        fields: Vec<String>,
    },
}

/// The lives of sidecars.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct SessionConfig {
    /// Prefix of the session keys in Redis; the same for all sidecars that share event keys.
    pub prefix: String,
    /// How long a sidecar is believed alive after its last renewal, 1s to 30s. Below Kafka's `session.timeout.ms`, which is 15s or half as long again.
    pub ttl: Duration,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self { prefix: "idempotency:session:".into(), ttl: Duration::from_secs(10) }
    }
}

/// Where the records come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct KafkaConfig {
    /// Comma-separated list of `host:port`.
    pub bootstrap_servers: String,
    /// Encrypt the connection; absent means plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<KafkaTls>,
    /// Authenticate by SASL; absent means none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<KafkaSasl>,
    /// Further librdkafka properties. Those that the sidecar's promises stand on are refused by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
}

/// TLS towards Kafka.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct KafkaTls {
    /// PEM file of the authorities to trust; absent means the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    /// PEM file of the client certificate's key, without a passphrase.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

/// SASL towards Kafka.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct KafkaSasl {
    /// The mechanism.
    pub mechanism: SaslMechanism,
    /// File that holds the user name.
    pub username_file: PathBuf,
    /// File that holds the password.
    pub password_file: PathBuf,
}

/// SASL mechanisms that librdkafka speaks without further libraries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SaslMechanism {
    /// User name and password as they are: readable on the way without TLS, which is warned of.
    #[serde(rename = "PLAIN")]
    Plain,
    /// Salted challenge-response with SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// Salted challenge-response with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

/// Where events are gated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RedisConfig {
    /// `redis://` or `rediss://` (TLS) URL without a password; one of `url` and `urlFile` is required. Several nodes of a
    /// cluster or several sentinels are separated by commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// File that holds the URL, for one with a password in it (special characters percent-encoded).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_file: Option<PathBuf>,
    /// File that holds the user name (ACL), where it is not in the URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username_file: Option<PathBuf>,
    /// File that holds the password, where it is not in the URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// PEM file of the authorities to trust for `rediss://`; absent means the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client certificate, where the server wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    /// PEM file of the client certificate's key, without a passphrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// How the servers stand together.
    #[serde(default)]
    pub topology: Topology,
    /// Name of the master set that the sentinels watch; needed with topology `Sentinel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentinel_master: Option<String>,
    /// How a claim is written.
    #[serde(default)]
    pub claim_command: ClaimCommand,
    /// What happens to events while Redis is away.
    #[serde(default)]
    pub failure_policy: FailurePolicy,
    /// How long one round trip may take before it counts as an error, 10ms to 10s. At most a quarter of `session.ttl`.
    #[serde(default = "default::redis_timeout")]
    pub timeout: Duration,
}

/// How the Redis servers stand together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Topology {
    /// One server, or a proxy that looks like one.
    #[default]
    Standalone,
    /// The URL names sentinels; they name the master.
    Sentinel,
    /// The URL names nodes of a Redis Cluster.
    Cluster,
}

/// How a claim is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClaimCommand {
    /// `SET NX GET` where the server knows it (Redis 7), else the script.
    #[default]
    Auto,
    /// Always the Lua script that older servers need.
    Script,
}

/// What happens to events while Redis is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailurePolicy {
    /// Deliver them, and say so to the app: availability first.
    #[default]
    Open,
    /// Wait until Redis is back: no second delivery, no progress.
    Closed,
}

/// How the app is reached, and what follows from its answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct DeliveryConfig {
    /// Unix socket on which the app listens: an absolute path of less than 108 bytes.
    pub socket: PathBuf,
    /// Loopback port on which the app listens instead of the socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Path of the request; begins with `/`.
    pub path: String,
    /// How long the app may take for one request. At most a quarter of the shortest claim, which lives max(ttl, 1h).
    pub timeout: Duration,
    /// What must wait for what.
    pub ordering: Ordering,
    /// Requests under way at once, at most; 1 to 10000.
    pub concurrency: usize,
    /// Events in one request.
    pub batch: BatchConfig,
    /// Pause after a failed delivery, growing from `min` to `max`.
    pub backoff: BackoffConfig,
    /// Requests for one event after which it goes to the dead-letter topic; absent means never. Needs `deadLetterTopic`. Only
    /// requests count that this sidecar has sent: where a partition changes hands, its new owner begins to count anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// Topic for rejected and exhausted events; none of `topics`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_topic: Option<String>,
    /// Topic that gets a copy of every skipped record; none of `topics`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicates_topic: Option<String>,
    /// How long the app may be down before the consumer group is left, 1s to 24h.
    pub app_down_timeout: Duration,
    /// What is held in memory at most.
    pub buffer: BufferConfig,
}

impl Default for DeliveryConfig {
    fn default() -> Self {
        Self {
            socket: "/run/idempotency/app.sock".into(),
            port: None,
            path: "/".into(),
            timeout: Duration::from_secs(60),
            ordering: Ordering::default(),
            concurrency: 64,
            batch: BatchConfig::default(),
            backoff: BackoffConfig::default(),
            max_attempts: None,
            dead_letter_topic: None,
            duplicates_topic: None,
            app_down_timeout: Duration::from_secs(60),
            buffer: BufferConfig::default(),
        }
    }
}

/// What must wait for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Ordering {
    /// One at a time in a partition, in its order.
    #[default]
    Partition,
    /// One at a time for each record key, in the partition's order; records without a key are one queue per partition.
    Key,
    /// Nothing waits for anything.
    Unordered,
}

/// Events in one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct BatchConfig {
    /// Events in one request at most, 1 to 10000; above 1 the request is a CloudEvents batch.
    pub max_events: usize,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self { max_events: 1 }
    }
}

/// Pause after a failed delivery: full jitter, doubled each time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct BackoffConfig {
    /// The first pause, 1ms or more; not above `max`.
    pub min: Duration,
    /// No pause is longer, unless the app asks for it by `Retry-After`; at most 1h.
    pub max: Duration,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self { min: Duration::from_millis(100), max: Duration::from_secs(30) }
    }
}

/// What is held in memory at most.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct BufferConfig {
    /// Records of one partition that are read and not yet settled; at least `batch.maxEvents`.
    pub max_records: usize,
    /// Bytes of record values that are read and not yet handed over, in all partitions together; at least 1048576 (1 MiB).
    pub max_bytes: usize,
}

impl Default for BufferConfig {
    fn default() -> Self {
        Self { max_records: 4096, max_bytes: 64 << 20 }
    }
}

/// The HTTP endpoint for probes, metrics and drain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct AdminConfig {
    /// IP address and port to listen on: `[::]` is every address of either family, also where there is only IPv4. Port 0 takes a free
    /// one and logs it.
    pub bind: String,
    /// File that holds the token which `/drain` asks for; absent means none is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_token_file: Option<PathBuf>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { bind: "[::]:9464".into(), drain_token_file: None }
    }
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
}
