//! Decides by which digests a roll-out is decided. Pure. They are stable: another version of the operator computes the same ones.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crds::v1alpha1::IdempotentConsumerSpec;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::super::dereference::{Lookup, Reference, References, SidecarSecret};
use super::super::rollout::Wanted;
use super::translate::of_secret;
use super::{Defaults, MountedFile};

/// By what a roll-out is decided; see [`super::super::rollout`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    pub(in crate::controller) input: String,
    pub(in crate::controller) identity: String,
    pub(in crate::controller) revision: String,
}

impl Digests {
    pub(super) fn wanted(&self) -> Wanted<'_> {
        Wanted { input: &self.input, identity: &self.identity, revision: &self.revision }
    }
}

/// `spec` is what was `asked` for, with what it leaves to the operator.
pub(super) fn of(
    asked: &IdempotentConsumerSpec,
    spec: &IdempotentConsumerSpec,
    references: &References,
    defaults: &Defaults,
) -> Digests {
    let asked = json!([self::asked(asked), self::references(&references.values, &references.secret)]);
    Digests { input: digest(&asked), identity: digest(&identity(spec, references)), revision: defaults.revision() }
}

/// The spec without what changes no pod, and without what is as by default: a field that a later version adds changes no digest of a
/// consumer that does not set it. (A default never changes within one version of the API, or this would not hold.)
fn asked(spec: &IdempotentConsumerSpec) -> Value {
    let mut asked = serde_json::to_value(spec).unwrap_or_default();
    if let Some(spec) = asked.as_object_mut() {
        spec.remove("replicas");
        spec.remove("paused");
    }
    without_defaults(asked, &SCHEMA)
}

/// Schema of the spec, with the defaults that the API server fills in.
static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let definition = crds::v1alpha1::crd().ok().and_then(|definition| serde_json::to_value(definition).ok());
    let schema = definition.as_ref().and_then(|whole| whole.pointer("/spec/versions/0/schema/openAPIV3Schema"));
    schema.and_then(|schema| schema.pointer("/properties/spec")).cloned().unwrap_or_default()
});

/// `value` without the members that are as their schema's default, nor absent ones; also within objects that have no default.
fn without_defaults(value: Value, schema: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let schema_of =
                |name: &str| schema.pointer("/properties").and_then(|of| of.get(name)).unwrap_or(&Value::Null);
            let kept = members.into_iter().filter_map(|(name, member)| {
                let schema = schema_of(&name);
                let unsaid =
                    schema.get("default").map_or(member.is_null() && !schema.is_null(), |default| *default == member);
                (!unsaid).then(|| (name, without_defaults(member, schema)))
            });
            Value::Object(kept.collect::<Map<_, _>>())
        }
        Value::Array(items) => {
            let of = schema.get("items").unwrap_or(&Value::Null);
            items.into_iter().map(|item| without_defaults(item, of)).collect()
        }
        plain => plain,
    }
}

/// What claims stand on: pods that differ in it would not see each other's. A password is no part of it, so that rotating one replaces
/// the pods one after another.
fn identity(spec: &IdempotentConsumerSpec, references: &References) -> Value {
    let from = spec.redis.url_from.as_ref().map(of_secret);
    let secret = match from.and_then(|source| references.values.get(&source)) {
        Some(Lookup::Value(value)) => Some(String::from_utf8_lossy(value).into_owned()),
        _ => None,
    };
    let servers: Vec<String> = spec
        .redis
        .url
        .as_ref()
        .or(secret.as_ref())
        .map_or_else(Vec::new, |list| list.split(',').map(|url| server(url.trim())).collect());
    json!({
        "eventId": spec.event_id,
        "keyPrefix": spec.key_prefix,
        "sessionPrefix": spec.session.prefix,
        "redis": servers,
        "sentinelMaster": spec.redis.sentinel_master,
    })
}

/// Host, port and database of a URL.
fn server(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.rsplit_once('@').map_or(rest, |(_, host)| host).trim_end_matches('/').to_owned()
}

/// Keyed digest of the values that a spec names; empty where it names none.
pub(super) fn references(values: &BTreeMap<Reference, Lookup>, secret: &SidecarSecret) -> String {
    if values.is_empty() {
        return String::new();
    }
    let mut keyed = Keyed::with(secret);
    for (reference, lookup) in values {
        keyed.add(reference.kind.to_string().as_bytes());
        keyed.add(reference.name.as_bytes());
        keyed.add(reference.key.as_bytes());
        if let Lookup::Value(value) = lookup {
            keyed.add(value);
        }
    }
    keyed.hex()
}

/// Keyed digest of files and what they hold; `None` where there are none.
pub(super) fn files(files: &[MountedFile], secret: &SidecarSecret) -> Option<String> {
    let mut keyed = Keyed::with(secret);
    for MountedFile { path, contents } in files {
        keyed.add(path.as_bytes());
        keyed.add(contents);
    }
    (!files.is_empty()).then(|| keyed.hex())
}

/// A digest of secrets, against which nobody can try values who does not know the consumer's salt.
struct Keyed(Sha256);

impl Keyed {
    fn with(secret: &SidecarSecret) -> Self {
        let mut keyed = Self(Sha256::new());
        keyed.add(secret.salt.as_bytes());
        keyed
    }

    /// The length of each part stands before it, so that no two lists of parts give the same bytes.
    fn add(&mut self, part: &[u8]) {
        self.0.update(part.len().to_be_bytes());
        self.0.update(part);
    }

    fn hex(self) -> String {
        hex(&self.0.finalize())
    }
}

/// Digest of a JSON value, whatever the order of its members.
fn digest(value: &Value) -> String {
    let mut text = String::new();
    canonical(value, &mut text);
    hex(&Sha256::digest(text))
}

fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(members) => {
            out.push('{');
            for (name, member) in members.iter().collect::<BTreeMap<_, _>>() {
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                canonical(member, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        plain => out.push_str(&plain.to_string()),
    }
}

/// The first 128 bits, in hex: short enough for an annotation that people read.
fn hex(digest: &[u8]) -> String {
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_a_later_version_adds_changes_no_digest_of_who_does_not_set_it() {
        let schema = json!({"properties": {
            "tls": {"properties": {"ca": {}, "added": {"default": "Strict"}, "deep": {"properties": {"n": {"default": 1}}}}},
            "list": {"items": {"properties": {"added": {"default": true}}}},
            "template": {"x-kubernetes-preserve-unknown-fields": true},
        }});
        let without = |value: Value| without_defaults(value, &schema);
        let before = json!({"tls": {"ca": "a", "deep": {}}, "list": [{"name": "x"}], "template": {"added": "Strict", "none": null}});
        let mut after = before.clone();
        after["tls"]["added"] = "Strict".into();
        after["tls"]["deep"]["n"] = 1.into();
        after["list"][0]["added"] = true.into();
        assert_eq!(without(after.clone()), without(before.clone()));
        assert_eq!(
            without(before.clone()),
            before,
            "an object that was set stays, and what has no schema stays as it is"
        );
        after["tls"]["added"] = "Loose".into();
        assert_ne!(without(after), without(before));
    }

    #[test]
    fn there_is_a_schema() {
        assert!(SCHEMA.pointer("/properties/ttl/default").is_some(), "every digest would change with every new field");
    }
}
