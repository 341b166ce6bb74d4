//! Decides by which digests a roll-out is decided. Pure. They are stable: another version of the operator computes the same ones.

use std::collections::BTreeMap;

use crds::v1alpha1::{IdempotentConsumer, IdempotentConsumerSpec};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::super::dereference::{Lookup, Reference, References, SidecarSecret};
use super::super::rollout::Wanted;
use super::Defaults;
use super::translate::of_secret;

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

pub(super) fn of(consumer: &IdempotentConsumer, references: &References, defaults: &Defaults) -> Digests {
    let spec = &consumer.spec;
    let asked = json!([asked(spec), self::references(&references.values, &references.secret)]);
    Digests { input: digest(&asked), identity: digest(&identity(spec, references)), revision: defaults.revision() }
}

/// The spec without what changes no pod, and without what is as by default: a field that a later version adds changes no digest of a
/// consumer that does not set it. (A default never changes within one version of the API, or this would not hold.)
fn asked(spec: &IdempotentConsumerSpec) -> Value {
    let mut asked = serde_json::to_value(spec).unwrap_or_default();
    let mut defaults = serde_json::to_value(smallest(spec)).unwrap_or_default();
    for value in [&mut asked, &mut defaults] {
        if let Some(spec) = value.as_object_mut() {
            spec.remove("replicas");
            spec.remove("paused");
        }
    }
    without(asked, &defaults)
}

/// A spec with the same required parts, and everything else as by default.
fn smallest(spec: &IdempotentConsumerSpec) -> Option<IdempotentConsumerSpec> {
    serde_json::from_value(json!({
        "topics": [], "kafka": {"bootstrapServers": ""}, "redis": {}, "template": {"spec": {}}, "group": spec.group,
    }))
    .ok()
}

/// `value` without the members that `defaults` has too.
fn without(value: Value, defaults: &Value) -> Value {
    match (value, defaults) {
        (Value::Object(members), Value::Object(defaults)) => {
            let kept = members.into_iter().filter_map(|(name, member)| match defaults.get(&name) {
                Some(default) if *default == member => None,
                Some(default) => Some((name, without(member, default))),
                None => Some((name, member)),
            });
            Value::Object(kept.collect::<Map<_, _>>())
        }
        (value, _) => value,
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
    let mut hash = Sha256::new();
    // The length of each part stands before it, so that no two lists of parts give the same bytes.
    let mut add = |part: &[u8]| {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    };
    add(secret.salt.as_bytes());
    for (reference, lookup) in values {
        add(reference.kind.to_string().as_bytes());
        add(reference.name.as_bytes());
        add(reference.key.as_bytes());
        if let Lookup::Value(value) = lookup {
            add(value);
        }
    }
    hex(&hash.finalize())
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
