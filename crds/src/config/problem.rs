//! Decides how a mistake in the configuration is told: the field, what is wrong, an example of a right value. Pure.

use std::fmt;

/// One mistake in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field, for example `delivery.backoff.min`.
    pub field: String,
    /// What is wrong with it. Holds no Secret's value.
    pub wrong: String,
    /// A right value, as it would stand in the file.
    pub example: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; for example: {}", self.field, self.wrong, self.example)
    }
}

/// The mistakes found so far, all of which are told at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Notes a mistake; the example is the field's usual one.
    pub fn add(&mut self, field: impl Into<String>, wrong: impl Into<String>) {
        let field = field.into();
        let example = example(&field).unwrap_or("see docs/reference/sidecar-config.md");
        self.0.push(Problem { wrong: wrong.into(), example: example.to_owned(), field });
    }

    /// Notes a mistake, with an example of its own.
    pub fn add_like(&mut self, field: impl Into<String>, wrong: impl Into<String>, example: impl Into<String>) {
        self.0.push(Problem { field: field.into(), wrong: wrong.into(), example: example.into() });
    }
}

/// A right value for the field at `path`, in YAML; every field of the configuration has one (tested against its schema).
#[must_use]
pub fn example(path: &str) -> Option<&'static str> {
    let known = match path.split('[').next()? {
        "." => EXAMPLE,
        "version" => "1",
        "group" => "essay-lifecycle",
        "topics" => "[orders.v1]",
        "ttl" => "24h",
        "ttlOverrides" => "{OrderCreated: 48h}",
        "eventId" => "{rule: Data}",
        "eventId.rule" => "Data",
        "eventId.header" => "ce_id",
        "eventId.fields" => "[/event_id, /event_type]",
        "keyPrefix" => "\"idempotency:{group}:{topic}:{type}:\"",
        "doneValues" => "[processed]",
        "paused" => "false",
        "pausedFile" => "/etc/idempotency/flow/paused",
        "session" => "{ttl: 10s}",
        "session.prefix" => "\"idempotency:session:\"",
        "session.ttl" => "10s",
        "kafka" => "{bootstrapServers: \"kafka:9092\"}",
        "kafka.bootstrapServers" => "\"kafka-0:9092,kafka-1:9092\"",
        "kafka.tls" => "{caFile: /etc/idempotency/kafka/ca.crt}",
        "kafka.tls.caFile" => "/etc/idempotency/kafka/ca.crt",
        "kafka.tls.certificateFile" => "/etc/idempotency/kafka/tls.crt",
        "kafka.tls.keyFile" => "/etc/idempotency/kafka/tls.key",
        "kafka.sasl" => {
            "{mechanism: SCRAM-SHA-512, usernameFile: /etc/idempotency/kafka/username, \
             passwordFile: /etc/idempotency/kafka/password}"
        }
        "kafka.sasl.mechanism" => "SCRAM-SHA-512",
        "kafka.sasl.usernameFile" => "/etc/idempotency/kafka/username",
        "kafka.sasl.passwordFile" => "/etc/idempotency/kafka/password",
        "kafka.properties" => "{fetch.max.bytes: \"52428800\"}",
        "redis" => "{url: \"redis://redis:6379\"}",
        "redis.url" => "\"redis://redis:6379\"",
        "redis.urlFile" => "/etc/idempotency/redis/url",
        "redis.usernameFile" => "/etc/idempotency/redis/username",
        "redis.passwordFile" => "/etc/idempotency/redis/password",
        "redis.caFile" => "/etc/idempotency/redis/ca.crt",
        "redis.certificateFile" => "/etc/idempotency/redis/tls.crt",
        "redis.keyFile" => "/etc/idempotency/redis/tls.key",
        "redis.topology" => "Standalone",
        "redis.sentinelMaster" => "mymaster",
        "redis.claimCommand" => "Auto",
        "redis.failurePolicy" => "Open",
        "redis.timeout" => "250ms",
        "delivery" => "{path: /events, timeout: 60s}",
        "delivery.socket" => "/run/idempotency/app.sock",
        "delivery.port" => "8080",
        "delivery.path" => "/events",
        "delivery.timeout" => "60s",
        "delivery.ordering" => "Partition",
        "delivery.concurrency" => "64",
        "delivery.batch" => "{maxEvents: 100}",
        "delivery.batch.maxEvents" => "100",
        "delivery.backoff" => "{min: 100ms, max: 30s}",
        "delivery.backoff.min" => "100ms",
        "delivery.backoff.max" => "30s",
        "delivery.maxAttempts" => "10",
        "delivery.deadLetterTopic" => "orders.v1.dead-letters",
        "delivery.duplicatesTopic" => "orders.v1.duplicates",
        "delivery.appDownTimeout" => "60s",
        "delivery.buffer" => "{maxRecords: 4096, maxBytes: 67108864}",
        "delivery.buffer.maxRecords" => "4096",
        "delivery.buffer.maxBytes" => "67108864",
        "admin" => "{bind: \"[::]:9464\"}",
        "admin.bind" => "\"[::]:9464\"",
        "admin.drainTokenFile" => "/etc/idempotency/drain/token",
        "drainTimeout" => "30s",
        "stateDir" => "/run/idempotency",
        other => return map_example(other),
    };
    Some(known)
}

/// The smallest configuration that is complete.
const EXAMPLE: &str = "{version: 1, group: essay-lifecycle, topics: [orders.v1], kafka: {bootstrapServers: \"kafka:9092\"}, \
                       redis: {url: \"redis://redis:6379\"}}";

/// Values of the two free maps.
fn map_example(path: &str) -> Option<&'static str> {
    if path.starts_with("ttlOverrides.") {
        Some("48h")
    } else if path.starts_with("kafka.properties.") {
        Some("\"52428800\"")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Every field of the schema, with `$ref` followed.
    fn fields(root: &Value, schema: &Value, path: &str, found: &mut Vec<String>) {
        if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
            let target = root.pointer(name.trim_start_matches('#')).unwrap();
            return fields(root, target, path, found);
        }
        for branch in ["anyOf", "oneOf", "allOf"] {
            for part in schema.get(branch).and_then(Value::as_array).into_iter().flatten() {
                fields(root, part, path, found);
            }
        }
        for (name, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            fields(root, inner, &path, found);
            found.push(path);
        }
    }

    #[test]
    fn every_field_has_an_example_that_is_yaml() {
        let (_, schema) = &crate::generate::artifacts()[0];
        let schema: Value = serde_json::from_str(schema).unwrap();
        let mut found = Vec::new();
        fields(&schema, &schema, "", &mut found);
        assert!(found.len() > 50, "{found:?}");
        for field in found {
            let example = example(&field).unwrap_or_else(|| panic!("no example for {field}"));
            serde_saphyr::from_str::<Value>(example).unwrap_or_else(|e| panic!("{field}: {e}"));
        }
    }
}
