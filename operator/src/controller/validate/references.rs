//! Decides whether what a consumer names is there and usable: Secrets' and ConfigMaps' values in, mistakes out. Pure; repeats no value.

use std::collections::BTreeMap;

use crds::config::{Problems, RedisConfig, redis_url};
use crds::v1alpha1::IdempotentConsumerSpec;

use super::super::dereference::{Lookup, Reference};
use super::translate::{field_of_file, of_secret};
use super::{Mistake, NamedFile, Reason};

/// Notes what is absent or unusable.
pub(super) fn check(files: &[NamedFile], values: &BTreeMap<Reference, Lookup>, mistakes: &mut Vec<Mistake>) {
    for NamedFile { path, source } in files {
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

/// The URL in a Secret: what is wrong with it, and what it has to do with the fields beside it.
pub(super) fn redis(
    spec: &IdempotentConsumerSpec,
    config: &RedisConfig,
    values: &BTreeMap<Reference, Lookup>,
    problems: &mut Problems,
    mistakes: &mut Vec<Mistake>,
) {
    let Some(source) = spec.redis.url_from.as_ref().map(of_secret) else { return };
    let Some(Lookup::Value(value)) = values.get(&source) else { return };
    let Some(list) = std::str::from_utf8(value).ok().filter(|list| !list.trim().is_empty()) else { return };
    match redis_url::parse(list.trim_end_matches(['\r', '\n']), spec.redis.topology) {
        Err(wrong) => mistakes.push(Mistake {
            reason: Reason::InvalidReference,
            field: "spec.redis.urlFrom".into(),
            message: format!("the URL in it {wrong}"),
        }),
        Ok(urls) => urls.agree("the URL in redis.urlFrom", config, problems),
    }
}
