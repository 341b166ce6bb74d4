//! Decides what a test's consumer looks like, before the test changes what it is about. Pure.

use serde_json::{Value, json};

use super::images;

/// A consumer of one topic with the ledger app in its pods, in a group named after namespace and name, that notices dead members soon.
#[must_use]
pub fn consumer(name: &str, topic: &str, kafka: &str, redis: &str, ledger: &str) -> Value {
    json!({
        "apiVersion": "idempotency.dev/v1alpha1",
        "kind": "IdempotentConsumer",
        "metadata": {"name": name},
        "spec": {
            "topics": [topic],
            "session": {"ttl": "2s"},
            "kafka": {
                "bootstrapServers": kafka,
                "properties": {"session.timeout.ms": "5000", "heartbeat.interval.ms": "500"},
            },
            "redis": {"url": redis},
            "delivery": {"backoff": {"min": "20ms", "max": "500ms"}},
            "drainTimeout": "10s",
            "sidecar": {"resources": {"requests": {"cpu": "10m", "memory": "32Mi"}}},
            "template": pod_template(ledger),
        },
    })
}

/// The ledger app as a pod that Pod Security `restricted` lets through.
#[must_use]
pub fn pod_template(ledger: &str) -> Value {
    json!({
        "spec": {
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "app",
                "image": images::app(),
                "imagePullPolicy": "IfNotPresent",
                "env": [
                    {"name": "LEDGER_SERVER", "value": ledger},
                    {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                ],
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
            }],
        },
    })
}

/// Puts `changes` over a document, as a JSON merge patch does: objects are merged, `null` removes, the rest replaces.
pub fn merge(document: &mut Value, changes: Value) {
    let Value::Object(changes) = changes else {
        *document = changes;
        return;
    };
    if !document.is_object() {
        *document = json!({});
    }
    for (name, change) in changes {
        if change.is_null() {
            document.as_object_mut().expect("an object").remove(&name);
        } else {
            merge(&mut document[&name], change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_is_a_merge_patch() {
        let mut document = json!({"a": {"b": 1, "c": 2}, "l": [1]});
        merge(&mut document, json!({"a": {"b": null, "d": {"e": 3}}, "l": []}));
        assert_eq!(document, json!({"a": {"c": 2, "d": {"e": 3}}, "l": []}));
    }
}
