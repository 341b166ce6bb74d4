//! Decides which librdkafka properties a user may set, and what those that matter to the sidecar say. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

const OFFSETS: &str = "the sidecar commits the watermark itself, so that no unsettled event is ever passed";
const NEVER_SKIP: &str = "the sidecar starts at the earliest record and reads committed ones: nothing may be skipped";
const MEMBERSHIP: &str = "the sidecar gives partitions back in order, which stands on its own kind of membership";
const PRODUCER: &str =
    "dead letters and copies are written with acks=all and idempotence, or they would be lost or doubled";
const TOPICS: &str = "a topic that is missing is reported, not created";
const CALLBACKS: &str = "the sidecar reads it for its own metrics and logs";
const SECRETS: &str = "a secret or another way to log in must not stand in this file";
const CALLBACK_TYPES: &str = "it can't be set by text";
const CODE: &str = "the sidecar loads no foreign code";

/// Properties that are refused by name, and why.
pub const RESERVED: &[(&str, &str)] = &[
    ("bootstrap.servers", "use kafka.bootstrapServers"),
    ("metadata.broker.list", "use kafka.bootstrapServers"),
    ("group.id", "use group"),
    ("group.instance.id", MEMBERSHIP),
    ("group.protocol", MEMBERSHIP),
    ("group.protocol.type", MEMBERSHIP),
    ("group.remote.assignor", MEMBERSHIP),
    ("partition.assignment.strategy", MEMBERSHIP),
    ("enable.auto.commit", OFFSETS),
    ("auto.commit.enable", OFFSETS),
    ("auto.commit.interval.ms", OFFSETS),
    ("enable.auto.offset.store", OFFSETS),
    ("offset.store.method", OFFSETS),
    ("offset.store.path", OFFSETS),
    ("offset.store.sync.interval.ms", OFFSETS),
    ("auto.offset.reset", NEVER_SKIP),
    ("isolation.level", NEVER_SKIP),
    ("enable.partition.eof", NEVER_SKIP),
    ("topic.blacklist", NEVER_SKIP),
    ("allow.auto.create.topics", TOPICS),
    ("acks", PRODUCER),
    ("request.required.acks", PRODUCER),
    ("enable.idempotence", PRODUCER),
    ("enable.gapless.guarantee", PRODUCER),
    ("transactional.id", PRODUCER),
    ("max.in.flight", PRODUCER),
    ("max.in.flight.requests.per.connection", PRODUCER),
    ("retries", PRODUCER),
    ("message.send.max.retries", PRODUCER),
    ("queuing.strategy", PRODUCER),
    (
        "message.max.bytes",
        "the producer's limit follows receive.message.max.bytes, so that what was read can be dead-lettered",
    ),
    ("test.mock.num.brokers", "the embedded broker is for `sidecar demo` only"),
    ("test.mock.broker.rtt", "the embedded broker is for `sidecar demo` only"),
    ("delivery.report.only.error", PRODUCER),
    ("statistics.interval.ms", CALLBACKS),
    ("enabled_events", CALLBACKS),
    ("log.queue", CALLBACKS),
    ("log_level", "use the environment variable IDEMPOTENCY_LOG, for example `info,librdkafka=debug`"),
    ("internal.termination.signal", CALLBACKS),
    ("security.protocol", "use kafka.tls and kafka.sasl"),
    ("ssl.ca.location", "use kafka.tls.caFile"),
    ("ssl.certificate.location", "use kafka.tls.certificateFile"),
    ("ssl.key.location", "use kafka.tls.keyFile"),
    ("ssl.key.password", SECRETS),
    ("ssl.keystore.location", "use kafka.tls.certificateFile and kafka.tls.keyFile"),
    ("ssl.keystore.password", SECRETS),
    ("ssl.ca.pem", "use kafka.tls.caFile"),
    ("ssl.certificate.pem", "use kafka.tls.certificateFile"),
    ("ssl.key.pem", SECRETS),
    ("ssl_ca", "use kafka.tls.caFile"),
    ("ssl_certificate", "use kafka.tls.certificateFile"),
    ("ssl_key", SECRETS),
    ("ssl.engine.location", CODE),
    ("ssl.engine.id", CODE),
    ("ssl.providers", CODE),
    ("plugin.library.paths", CODE),
    ("interceptors", CODE),
    ("enable.sasl.oauthbearer.unsecure.jwt", SECRETS),
];

/// Why a property is refused, if it is.
#[must_use]
pub fn reserved(name: &str) -> Option<&'static str> {
    if let Some((_, reason)) = RESERVED.iter().find(|(reserved, _)| *reserved == name) {
        return Some(reason);
    }
    match name {
        "sasl.username" => Some("use kafka.sasl.usernameFile"),
        "sasl.password" => Some("use kafka.sasl.passwordFile"),
        "sasl.mechanism" | "sasl.mechanisms" => Some("use kafka.sasl.mechanism"),
        _ if name.starts_with("sasl.") => Some("kafka.sasl takes PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512 only"),
        _ if name.ends_with("_cb") || name == "opaque" => Some(CALLBACK_TYPES),
        _ => None,
    }
}

/// How long Kafka believes a silent member alive: what is set, or 15 s, or half as long again as our own sessions live.
///
/// Kafka's own default, 45 s, is how long partitions of a dead member stand still. It is so long since being taken for dead is dear for most
/// clients; here nothing comes twice by it (docs/adr/0017-session-timeout.md).
#[must_use]
pub fn session_timeout(properties: &BTreeMap<String, String>, ttl: Duration) -> Duration {
    let default = (ttl * 3 / 2).max(Duration::from_secs(15));
    millis(properties, "session.timeout.ms", u64::try_from(default.as_millis()).unwrap_or(u64::MAX))
}

/// How long a member may go without a poll, and so a revoke may take.
#[must_use]
pub fn max_poll_interval(properties: &BTreeMap<String, String>) -> Duration {
    millis(properties, "max.poll.interval.ms", 300_000)
}

fn millis(properties: &BTreeMap<String, String>, name: &str, default: u64) -> Duration {
    Duration::from_millis(properties.get(name).and_then(|v| v.trim().parse().ok()).unwrap_or(default))
}
