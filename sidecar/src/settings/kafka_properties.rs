//! Decides which librdkafka properties a user may set, and what the configuration's other fields mean as properties. No I/O.

use std::collections::BTreeMap;
use std::time::Duration;

use crds::config::{KafkaConfig, SaslMechanism};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, DefaultConsumerContext};
use rdkafka::error::KafkaError;

use super::Secret;
use super::problem::Problems;

const OFFSETS: &str = "the sidecar commits the watermark itself, so that no unsettled event is ever passed";
const NEVER_SKIP: &str = "the sidecar starts at the earliest record and reads committed ones: nothing may be skipped";
const MEMBERSHIP: &str = "the sidecar gives partitions back in order, which stands on its own kind of membership";
const PRODUCER: &str =
    "dead letters and copies are written with acks=all and idempotence, or they would be lost or doubled";
const TOPICS: &str = "a topic that is missing is reported, not created";
const CALLBACKS: &str = "the sidecar reads it for its own metrics and logs";
const SECRETS: &str = "a secret or another way to log in must not stand in this file";
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

const CALLBACK_TYPES: &str = "it can't be set by text";

/// Notes each property that is refused, unknown to librdkafka, or has a value that librdkafka does not take.
pub(super) fn check(properties: &BTreeMap<String, String>, problems: &mut Problems) {
    for (name, value) in properties {
        let field = format!("kafka.properties.{name}");
        if let Some(reason) = reserved(name) {
            problems.add_like(field, format!("is refused: {reason}"), "leave it out");
            continue;
        }
        let native = ClientConfig::new().set(name, value).create_native_config();
        if let Err(KafkaError::ClientConfig(_, wrong, ..)) = native {
            let like = "kafka.properties: {fetch.max.bytes: \"52428800\"}";
            problems.add_like(field, format!("librdkafka refuses it: {wrong}"), like);
        }
    }
}

/// How long Kafka believes a silent member alive.
pub(super) fn session_timeout(properties: &BTreeMap<String, String>) -> Duration {
    millis(properties, "session.timeout.ms", 45_000)
}

/// How long a member may go without a poll, and so a revoke may take.
pub(super) fn max_poll_interval(properties: &BTreeMap<String, String>) -> Duration {
    millis(properties, "max.poll.interval.ms", 300_000)
}

fn millis(properties: &BTreeMap<String, String>, name: &str, default: u64) -> Duration {
    Duration::from_millis(properties.get(name).and_then(|v| v.trim().parse().ok()).unwrap_or(default))
}

/// `host:port`, with an IPv6 address in brackets.
pub(super) fn bootstrap_server(text: &str) -> Result<(), &'static str> {
    let (host, port) = text.rsplit_once(':').ok_or("has no port")?;
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err("has no port from 1 to 65535");
    }
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let right = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')),
    };
    if right { Ok(()) } else { Err("has no host name or address before the port") }
}

/// The properties that the configuration's fields mean, with the user's own ones last.
pub(super) fn properties(
    config: &KafkaConfig,
    username: Option<Secret>,
    password: Option<Secret>,
) -> Vec<(String, Secret)> {
    let mut all: Vec<(String, Secret)> = Vec::new();
    let mut set = |name: &str, value: Secret| all.push((name.to_owned(), value));
    let servers: Vec<&str> = config.bootstrap_servers.split(',').map(str::trim).collect();
    set("bootstrap.servers", Secret::new(servers.join(",")));
    let protocol = match (&config.tls, &config.sasl) {
        (None, None) => "plaintext",
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    set("security.protocol", Secret::new(protocol));
    if let Some(tls) = &config.tls {
        let files = [
            ("ssl.ca.location", &tls.ca_file),
            ("ssl.certificate.location", &tls.certificate_file),
            ("ssl.key.location", &tls.key_file),
        ];
        for (name, file) in files {
            if let Some(file) = file {
                set(name, Secret::new(file.to_string_lossy()));
            }
        }
    }
    if let Some(sasl) = &config.sasl {
        set("sasl.mechanism", Secret::new(mechanism(sasl.mechanism)));
        if let Some(username) = username {
            set("sasl.username", username);
        }
        if let Some(password) = password {
            set("sasl.password", password);
        }
    }
    for (name, value) in &config.properties {
        set(name, Secret::new(value));
    }
    all
}

fn mechanism(mechanism: SaslMechanism) -> &'static str {
    match mechanism {
        SaslMechanism::Plain => "PLAIN",
        SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
        SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
    }
}

/// Builds a client without a broker, which contacts nobody: librdkafka checks what only shows together (a certificate
/// and its key, two time-outs).
pub(super) fn check_together(properties: &[(String, Secret)], problems: &mut Problems) {
    let mut client = ClientConfig::new();
    for (name, value) in properties.iter().filter(|(name, _)| name != "bootstrap.servers") {
        client.set(name, value.expose());
    }
    client.set("group.id", "settings-check");
    let built: Result<BaseConsumer<DefaultConsumerContext>, _> = client.create();
    let wrong = match built {
        Ok(_) => return,
        Err(KafkaError::ClientCreation(wrong) | KafkaError::ClientConfig(_, wrong, ..)) => wrong,
        Err(other) => other.to_string(),
    };
    problems.add_like("kafka", format!("librdkafka refuses it: {wrong}"), "{bootstrapServers: \"kafka:9092\"}");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn told(name: &str, value: &str) -> String {
        let mut problems = Problems::default();
        check(&BTreeMap::from([(name.to_owned(), value.to_owned())]), &mut problems);
        problems.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn reserved_names_are_unique_and_refused_with_a_reason() {
        let names: BTreeSet<_> = RESERVED.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), RESERVED.len());
        for name in names.into_iter().copied().chain(["sasl.password", "sasl.oauthbearer.config", "rebalance_cb"]) {
            let told = told(name, "hunter2");
            assert!(told.starts_with(&format!("kafka.properties.{name}: is refused: ")), "{told}");
            assert!(!told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn librdkafka_knows_the_rest() {
        assert_eq!(told("fetch.max.bytes", "1000000"), "");
        assert_eq!(told("session.timeout.ms", "6000"), "");
        assert_eq!(told("compression.codec", "zstd"), "");
        assert!(told("fetch.max.byte", "1").contains("No such configuration property"));
        assert!(told("fetch.max.bytes", "many").contains("kafka.properties.fetch.max.bytes: librdkafka refuses it"));
        assert!(told("session.timeout.ms", "0").contains("refuses"));
    }

    #[test]
    fn what_only_shows_together_is_found() {
        let set = |pairs: &[(&str, &str)]| {
            let all: Vec<_> = pairs.iter().map(|(n, v)| ((*n).to_owned(), Secret::new(*v))).collect();
            let mut problems = Problems::default();
            check_together(&all, &mut problems);
            problems.0.iter().map(ToString::to_string).collect::<String>()
        };
        assert_eq!(set(&[("session.timeout.ms", "6000")]), "");
        let told = set(&[("session.timeout.ms", "60000"), ("max.poll.interval.ms", "10000")]);
        assert!(told.starts_with("kafka: librdkafka refuses it: ") && told.contains("max.poll.interval.ms"), "{told}");
    }

    #[test]
    fn servers_have_host_and_port() {
        for text in ["kafka:9092", "10.0.0.1:1", "[::1]:9092", "kafka-0.kafka_x.svc:65535"] {
            assert_eq!(bootstrap_server(text), Ok(()), "{text}");
        }
        for text in
            ["", "kafka", ":9092", "kafka:", "kafka:0", "kafka:70000", "a b:1", "[x]:1", "::1:9092", "SSL://k:1"]
        {
            assert!(bootstrap_server(text).is_err(), "{text}");
        }
    }
}
