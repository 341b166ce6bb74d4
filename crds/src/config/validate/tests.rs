//! Configurations in, mistakes out. The sidecar tests the same of whole files, field by field.

use serde_json::{Value, json};

use super::*;

/// A small configuration, with these fields in place of its own.
fn config(fields: Value) -> SidecarConfig {
    let mut whole = json!({
        "version": 1,
        "group": "essays",
        "topics": ["orders.v1"],
        "kafka": {"bootstrapServers": "kafka-0:9092, kafka-1:9092"},
        "redis": {"url": "redis://redis:6379"},
    });
    for (name, value) in fields.as_object().unwrap() {
        whole[name] = value.clone();
    }
    serde_json::from_value(whole).unwrap()
}

fn told(fields: Value) -> Vec<String> {
    config(fields).problems().iter().map(ToString::to_string).collect()
}

#[test]
fn files_that_are_not_there_are_no_mistake() {
    let file = |name: &str| format!("/nowhere/{name}");
    let fields = json!({
        "kafka": {
            "bootstrapServers": "kafka:9093",
            "tls": {"caFile": file("ca.crt"), "certificateFile": file("tls.crt"), "keyFile": file("tls.key")},
            "sasl": {"mechanism": "SCRAM-SHA-512", "usernameFile": file("username"), "passwordFile": file("password")},
            "properties": {"fetch.max.byte": "librdkafka alone knows that there is none"},
        },
        "redis": {"urlFile": file("url"), "passwordFile": file("redis"), "caFile": file("redis-ca.crt")},
        "admin": {"drainTokenFile": file("token")},
        "stateDir": "/nowhere",
        "pausedFile": file("paused"),
    });
    assert_eq!(told(fields), [""; 0]);
}

#[test]
fn all_mistakes_are_told_in_a_fixed_order_and_without_secrets() {
    let fields = json!({
        "topics": ["a b", "orders.v1", "orders.v1"],
        "delivery": {"path": "events", "maxAttempts": 3},
        "redis": {"url": "redis://:hunter2@redis"},
        "kafka": {"bootstrapServers": "kafka", "properties": {"acks": "1", "group.id": "mine", "session.timeout.ms": "30000"}},
        "session": {"ttl": "1m"},
    });
    let told = told(fields);
    let fields: Vec<&str> = told.iter().filter_map(|told| told.split(": ").next()).collect();
    let expected = [
        "topics[0]",
        "topics[2]",
        "session.ttl",
        "session.ttl",
        "kafka.bootstrapServers",
        "kafka.properties.acks",
        "kafka.properties.group.id",
        "redis.url",
        "delivery.path",
        "delivery.deadLetterTopic",
    ];
    assert_eq!(fields, expected);
    assert!(told.iter().all(|told| told.contains("; for example: ")), "{told:?}");
    assert!(!told.concat().contains("hunter2"), "{told:?}");
}

#[test]
fn values_side_by_side_are_kept_apart_where_prefixes_are_compared() {
    let prefix = |prefix: &str, group: &str| told(json!({"keyPrefix": prefix, "group": group})).concat();
    assert!(
        prefix("idempotency:{group}{type}", "session")
            .starts_with("keyPrefix: gives keys that begin as session.prefix")
    );
    assert!(
        prefix("idempotency:{group}%{type}", "session")
            .starts_with("keyPrefix: gives keys that begin as session.prefix")
    );
    assert_eq!(prefix("idempotency:{group}{type}", "sessions"), "");
}

#[test]
fn the_shortest_claim_counts_and_none_is_below_an_hour() {
    let hours = |fields: Value| config(fields).claim_ttl().as_secs() / 3600;
    assert_eq!(hours(json!({})), 24);
    assert_eq!(hours(json!({"ttlOverrides": {"A": "2h", "B": "48h"}})), 2);
    assert_eq!(hours(json!({"ttl": "1s"})), 1);
}
