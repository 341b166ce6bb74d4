//! Decides what librdkafka says to the properties a user sets, and what the configuration's other fields mean as properties. No I/O.

use crds::Secret;
use crds::config::{KafkaConfig, Problems, SaslMechanism};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, DefaultConsumerContext};
use rdkafka::error::KafkaError;

/// Notes a property that is unknown to librdkafka, or has a value that librdkafka does not take.
pub(super) fn check(name: &str, value: &str, problems: &mut Problems) {
    let native = ClientConfig::new().set(name, value).create_native_config();
    if let Err(KafkaError::ClientConfig(_, wrong, ..)) = native {
        let like = "kafka.properties: {fetch.max.bytes: \"52428800\"}";
        problems.add_like(format!("kafka.properties.{name}"), format!("librdkafka refuses it: {wrong}"), like);
    }
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
    use super::*;

    fn told(name: &str, value: &str) -> String {
        let mut problems = Problems::default();
        check(name, value, &mut problems);
        problems.0.iter().map(ToString::to_string).collect()
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
}
