//! Decides what sidecars are told, and how it is stored: configuration, files, switches, token. Pure.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::super::validate::{MountedFile, Validated};
use super::{Child, ChildKind, Whose, child, child_of, config_prefix, files_prefix, path, secret_name};

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

/// Copies of the values that the spec names, in a Secret that is never written again: a mounted Secret of the user's would change under
/// pods that run, and those that start later would work with another Redis than those beside them.
pub(super) fn files(consumer: &Validated) -> Option<Child> {
    let digest = consumer.files_digest.as_ref()?;
    let name = format!("{}{}", files_prefix(&consumer.name), digest.get(..10).unwrap_or(digest));
    let contents = |file: &MountedFile| (key(&file.path), ByteString(file.contents.clone()));
    let data: BTreeMap<String, ByteString> = consumer.files.iter().map(contents).collect();
    Some(child(consumer, ChildKind::Secret, name, &[], json!({"type": "Opaque", "immutable": true, "data": data})))
}

/// The key of a file in the Secret, whose keys have no slash.
pub(super) fn key(path: &str) -> String {
    path.replace('/', ".")
}

pub(super) fn secret(consumer: &Validated) -> Child {
    let base64 = |text: &str| ByteString(text.as_bytes().to_vec());
    let rest = json!({
        "type": "Opaque",
        "data": {"token": base64(&consumer.secret.token), "salt": base64(&consumer.secret.salt)},
    });
    child(consumer, ChildKind::Secret, secret_name(&consumer.name), &[], rest)
}
