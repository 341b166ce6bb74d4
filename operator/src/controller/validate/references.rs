//! Decides whether what a consumer names is there and usable: Secrets' and ConfigMaps' values in, mistakes out. Pure; repeats no value.

use std::collections::BTreeMap;

use crds::config::redis_url;
use crds::v1alpha1::IdempotentConsumerSpec;

use super::super::dereference::{Lookup, Reference};
use super::translate::{field_of_file, of_secret};
use super::{Mistake, MountedFile, Reason};

/// Notes what is absent or unusable.
pub(super) fn check(
    spec: &IdempotentConsumerSpec,
    files: &[MountedFile],
    values: &BTreeMap<Reference, Lookup>,
    mistakes: &mut Vec<Mistake>,
) {
    for MountedFile { path, source } in files {
        let Reference { kind, name, key } = source;
        let (reason, message) = match values.get(source) {
            Some(Lookup::Value(value)) => match unusable(path, value) {
                Some(wrong) => (Reason::InvalidReference, format!("the key `{key}` of the {kind} `{name}` {wrong}")),
                None => continue,
            },
            Some(Lookup::NoKey) => {
                (Reason::ReferenceNotFound, format!("the {kind} `{name}` has no key `{key}`: add it, or name another"))
            }
            Some(Lookup::NoObject) | None => (
                Reason::ReferenceNotFound,
                format!("there is no {kind} `{name}` in this namespace: create it with the key `{key}`"),
            ),
        };
        mistakes.push(Mistake { reason, field: field_of_file(path), message });
    }
    redis(spec, values, mistakes);
}

/// What is wrong with a value by itself. The sidecar looks closer, and would not start; a certificate is left to it.
fn unusable(path: &str, value: &[u8]) -> Option<&'static str> {
    let Ok(text) = std::str::from_utf8(value) else { return Some("is not UTF-8") };
    let pem = |label: &str| (!text.contains(label)).then_some("holds no PEM of the kind that is needed here");
    match path.rsplit('/').next() {
        _ if text.trim().is_empty() => Some("is empty"),
        Some("ca.crt" | "tls.crt") => pem("-----BEGIN CERTIFICATE-----"),
        Some("tls.key") => pem("PRIVATE KEY-----"),
        _ => None,
    }
}

/// The URL in a Secret, and what it has to do with the fields beside it.
fn redis(spec: &IdempotentConsumerSpec, values: &BTreeMap<Reference, Lookup>, mistakes: &mut Vec<Mistake>) {
    let Some(source) = spec.redis.url_from.as_ref().map(of_secret) else { return };
    let Some(Lookup::Value(value)) = values.get(&source) else { return };
    let Ok(list) = std::str::from_utf8(value) else { return };
    let field = "spec.redis.urlFrom";
    let mut tell = |message: String| {
        mistakes.push(Mistake { reason: Reason::InvalidReference, field: field.into(), message });
    };
    match redis_url::parse(list.trim_end_matches(['\r', '\n']), spec.redis.topology) {
        Err(wrong) => tell(format!("the URL in it {wrong}")),
        Ok(urls) => {
            if urls.username && spec.redis.username_from.is_some() {
                tell("the URL in it names a user, and usernameFrom does: one of the two".into());
            }
            if urls.password && spec.redis.password_from.is_some() {
                tell("the URL in it holds a password, and passwordFrom does: one of the two".into());
            }
            if !urls.tls && spec.redis.tls.is_some() {
                tell("the URL in it asks for no TLS, and redis.tls is set: a URL that does begins with rediss://".into());
            }
        }
    }
}
