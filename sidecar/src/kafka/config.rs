//! Decides librdkafka's properties: the user's, and over them those that the promises stand on. Pure, but for creating the client.

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError as RdError;

use super::KafkaError;
use crate::settings::{KafkaSettings, Secret};

/// librdkafka's own default.
const DEFAULT_RECEIVE_MAX: usize = 100_000_000;
/// The highest value that librdkafka takes for `message.max.bytes`.
const MESSAGE_MAX: usize = 1_000_000_000;
/// Room for the headers that a dead letter has and its record had not.
const HEADER_ROOM: usize = 65_536;

/// Properties of the consumer.
pub(super) fn consumer(settings: &KafkaSettings) -> ClientConfig {
    let mut config = ClientConfig::new();
    // What a user may change. A partition has a queue of its own, so the bound on prefetched bytes is one for each
    // partition; a reader that found its queue full must be fed again at once (the default pause of 1 s halves throughput).
    config
        // A member hears by its heartbeats that partitions are to change hands: so long may a handover wait for each.
        .set("heartbeat.interval.ms", "1000")
        .set("queued.max.messages.kbytes", "1024")
        .set("queued.min.messages", "10000")
        .set("fetch.queue.backoff.ms", "5")
        // A topic or partition that appears is joined at the next refresh, whoever else asked about it before.
        .set("topic.metadata.refresh.interval.ms", "10000")
        .set("reconnect.backoff.max.ms", "2000");
    user(&mut config, settings);
    // Only a debug line tells a topic's id (see `incarnation`). These come with metadata, not with records.
    let debug = value(settings, "debug").map_or_else(|| "metadata".to_owned(), |more| format!("{more},metadata"));
    config
        .set("debug", debug)
        .set("group.id", &settings.group)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "earliest")
        .set("allow.auto.create.topics", "false")
        .set("statistics.interval.ms", "5000")
        .set_log_level(RDKafkaLogLevel::Debug);
    config
}

/// Properties of the producer. It takes whatever the consumer can have read.
pub(super) fn producer(settings: &KafkaSettings) -> ClientConfig {
    let mut config = ClientConfig::new();
    let received =
        value(settings, "receive.message.max.bytes").and_then(|v| v.parse().ok()).unwrap_or(DEFAULT_RECEIVE_MAX);
    config
        .set("message.max.bytes", received.saturating_add(HEADER_ROOM).min(MESSAGE_MAX).to_string())
        .set("linger.ms", "5")
        .set("message.timeout.ms", "30000")
        .set("queue.buffering.max.kbytes", "262144")
        .set("reconnect.backoff.max.ms", "2000");
    user(&mut config, settings);
    config
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("allow.auto.create.topics", "false")
        .set_log_level(RDKafkaLogLevel::Info);
    config
}

/// Everything the user set; what may not be set was refused with the configuration.
fn user(config: &mut ClientConfig, settings: &KafkaSettings) {
    for (name, value) in &settings.properties {
        config.set(name, value.expose());
    }
}

fn value<'a>(settings: &'a KafkaSettings, name: &str) -> Option<&'a str> {
    settings.properties.iter().rev().find(|(n, _)| n == name).map(|(_, v)| Secret::expose(v))
}

/// librdkafka quotes the value it refuses; that of a secret property must not get out.
pub(super) fn creation_error(error: RdError, settings: &KafkaSettings) -> KafkaError {
    let hide = |mut text: String| {
        for (name, value) in &settings.properties {
            if is_secret(name) && !value.expose().is_empty() {
                text = text.replace(value.expose(), "[hidden]");
            }
        }
        text
    };
    match error {
        RdError::ClientConfig(_, message, property, _) => KafkaError::Property { property, message: hide(message) },
        other => KafkaError::Client(hide(other.to_string())),
    }
}

fn is_secret(property: &str) -> bool {
    ["password", "pem", "secret", "token", "oauthbearer", "assertion", "jaas"]
        .iter()
        .any(|word| property.contains(word))
        || property == "sasl.username"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(properties: &[(&str, &str)]) -> KafkaSettings {
        KafkaSettings {
            properties: properties.iter().map(|(n, v)| ((*n).to_owned(), Secret::new(*v))).collect(),
            group: "g".into(),
            topics: vec!["t".into()],
        }
    }

    #[test]
    fn our_properties_win() {
        let s = settings(&[
            ("bootstrap.servers", "k:9092"),
            ("enable.auto.commit", "true"),
            ("session.timeout.ms", "9000"),
            ("receive.message.max.bytes", "5000"),
        ]);
        let c = consumer(&s);
        assert_eq!(c.get("enable.auto.commit"), Some("false"));
        assert_eq!(c.get("session.timeout.ms"), Some("9000"));
        assert_eq!(c.get("bootstrap.servers"), Some("k:9092"));
        assert_eq!(producer(&s).get("message.max.bytes"), Some("70536"));
    }

    #[test]
    fn every_property_of_ours_is_known_to_librdkafka() {
        let s = settings(&[("bootstrap.servers", "k:9092")]);
        consumer(&s).create_native_config().unwrap();
        producer(&s).create_native_config().unwrap();
    }

    #[test]
    fn a_refused_property_is_named_and_a_secret_stays_hidden() {
        let s = settings(&[("no.such.property", "x")]);
        let error = creation_error(consumer(&s).create_native_config().err().unwrap(), &s).to_string();
        assert!(error.contains("no.such.property"), "{error}");
        let s = settings(&[("ssl.key.pem", "TOP-SECRET")]);
        let refused = RdError::ClientConfig(
            rdkafka::types::RDKafkaConfRes::RD_KAFKA_CONF_INVALID,
            "Invalid value \"TOP-SECRET\"".into(),
            "ssl.key.pem".into(),
            "TOP-SECRET".into(),
        );
        let error = creation_error(refused, &s);
        assert!(!format!("{error} {error:?}").contains("TOP-SECRET"), "{error:?}");
    }
}
