//! Decides whether the Kafka part of a configuration makes sense. Pure; never repeats the value of a property that is refused, nor a server.

use super::super::{KafkaConfig, Problems, kafka_properties};
use super::both;

/// `property` is asked about each further property that is not refused by its name.
pub(super) fn validate(kafka: &KafkaConfig, property: &dyn Fn(&str, &str, &mut Problems), problems: &mut Problems) {
    let several = kafka.bootstrap_servers.contains(',');
    for (index, server) in kafka.bootstrap_servers.split(',').map(str::trim).enumerate() {
        if let Err(wrong) = bootstrap_server(server) {
            let which = if several { format!("server {} of the list ", index + 1) } else { String::new() };
            problems.add("kafka.bootstrapServers", format!("{which}{wrong}"));
        }
    }
    if let Some(tls) = &kafka.tls {
        both("kafka.tls", tls.certificate_file.is_some(), tls.key_file.is_some(), problems);
    }
    for (name, value) in &kafka.properties {
        match kafka_properties::reserved(name) {
            Some(reason) => {
                let field = format!("kafka.properties.{name}");
                problems.add_like(field, format!("is refused: {reason}"), "leave it out");
            }
            None => property(name, value, problems),
        }
    }
}

/// `host:port`, with an IPv6 address in brackets. What is wrong is told without the text: a URL in its place may hold a password.
fn bootstrap_server(text: &str) -> Result<(), &'static str> {
    if text.contains("://") || text.contains('@') {
        return Err("is a URL or names a user: here stands host:port alone, and who signs in stands in kafka.sasl");
    }
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// What is told of a property; what is not refused by name is told as `asked`.
    fn told(name: &str, value: &str) -> String {
        let kafka = KafkaConfig {
            bootstrap_servers: "kafka:9092".to_owned(),
            tls: None,
            sasl: None,
            properties: [(name.to_owned(), value.to_owned())].into(),
        };
        let mut problems = Problems::default();
        validate(&kafka, &|name, _, problems| problems.add(name, "asked"), &mut problems);
        problems.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_what_is_not_refused_by_name_is_asked_about() {
        assert!(told("fetch.max.bytes", "1").starts_with("fetch.max.bytes: asked; "));
        assert!(!told("acks", "1").contains("asked"));
    }

    #[test]
    fn reserved_names_are_unique_and_refused_with_a_reason() {
        let reserved = kafka_properties::RESERVED;
        let names: BTreeSet<_> = reserved.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), reserved.len());
        for name in names.into_iter().copied().chain(["sasl.password", "sasl.oauthbearer.config", "rebalance_cb"]) {
            let told = told(name, "hunter2");
            assert!(told.starts_with(&format!("kafka.properties.{name}: is refused: ")), "{told}");
            assert!(!told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn a_server_that_is_a_url_is_refused_and_not_repeated() {
        let config = |servers: &str| KafkaConfig {
            bootstrap_servers: servers.to_owned(),
            tls: None,
            sasl: None,
            properties: BTreeMap::new(),
        };
        for servers in
            ["SASL_SSL://user:hunter2@kafka:9092", "user:hunter2@kafka:9092", "kafka:9092,hunter2", "hunter2 :1"]
        {
            let mut problems = Problems::default();
            validate(&config(servers), &|_, _, _| {}, &mut problems);
            let told: String = problems.0.iter().map(ToString::to_string).collect();
            assert!(told.starts_with("kafka.bootstrapServers: ") && !told.contains("hunter2"), "{told}");
        }
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
