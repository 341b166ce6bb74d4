//! Decides what sidecars are told, and how it is stored: configuration, switches, token. Pure.

use serde_json::json;
use sha2::{Digest, Sha256};

use super::super::validate::Validated;
use super::{Child, ChildKind, Whose, child, child_of, config_prefix, path, secret_name};

/// The configuration. Its name holds the digest of its contents, so that pods of another revision keep theirs, and a change rolls the pods.
pub(super) fn config(consumer: &Validated) -> Child {
    // A configuration of these types can always be written; an empty file would be refused by the sidecar, loudly.
    let text = serde_saphyr::to_string(&consumer.config).unwrap_or_default();
    let digest: String = Sha256::digest(&text).iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    let name = format!("{}{digest}", config_prefix(&consumer.name));
    child(consumer, ChildKind::ConfigMap, name, &[], json!({"immutable": true, "data": {path::CONFIG_FILE: text}}))
}

/// What reaches running pods without touching them: the kubelet follows a mounted ConfigMap.
pub(super) fn switches(whose: &Whose<'_>, paused: bool) -> Child {
    let rest = json!({"data": {"paused": paused.to_string()}});
    child_of(whose, ChildKind::ConfigMap, switches_name(whose.name), &[], rest)
}

pub(super) fn switches_name(name: &str) -> String {
    format!("{name}-switches")
}

pub(super) fn secret(consumer: &Validated) -> Child {
    let base64 = |text: &str| k8s_openapi::ByteString(text.as_bytes().to_vec());
    let rest = json!({
        "type": "Opaque",
        "data": {"token": base64(&consumer.secret.token), "salt": base64(&consumer.secret.salt)},
    });
    child(consumer, ChildKind::Secret, secret_name(&consumer.name), &[], rest)
}
