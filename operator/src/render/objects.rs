//! Decides what stands for the cluster in `operator render`: Secrets and ConfigMaps out of a file, or placeholders. Pure.

use std::collections::BTreeMap;

use crds::v1alpha1::IdempotentConsumer;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Resource, ResourceExt};
use serde_json::Value;

use super::{ByName, Error, decode, decode_secret};
use crate::controller::build::secret_name;
use crate::controller::dereference::{Kind, Lookup, Reference, SidecarSecret};
use crate::controller::validate::named;

/// Stands for a text that only a cluster knows.
const PLACEHOLDER: &str = "placeholder";
/// Stands for a value that a consumer names: text that passes for a certificate and its key, too.
const VALUE: &str = "placeholder\n-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n";
/// Stands for the uid of a consumer that is in no cluster.
const UID: &str = "00000000-0000-0000-0000-000000000000";

/// Secrets and ConfigMaps out of a file.
pub(super) struct Objects {
    secrets: ByName<BTreeMap<String, ByteString>>,
    config_maps: ByName<BTreeMap<String, Vec<u8>>>,
}

impl Objects {
    /// Takes Secrets and ConfigMaps; other documents are passed over.
    pub(super) fn of(documents: Vec<Value>) -> Result<Self, Error> {
        let mut objects = Self { secrets: BTreeMap::new(), config_maps: BTreeMap::new() };
        for document in documents {
            match document.get("kind").and_then(Value::as_str) {
                Some("Secret") => {
                    let secret = decode_secret(&document)?;
                    let texts = secret.string_data.clone().unwrap_or_default();
                    let mut data = secret.data.clone().unwrap_or_default();
                    data.extend(texts.into_iter().map(|(key, text)| (key, ByteString(text.into_bytes()))));
                    objects.secrets.insert(place(&secret), data);
                }
                Some("ConfigMap") => {
                    let map: ConfigMap = decode(&document)?;
                    let texts =
                        map.data.clone().unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes()));
                    let bytes =
                        map.binary_data.clone().unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0));
                    objects.config_maps.insert(place(&map), texts.chain(bytes).collect());
                }
                _ => {}
            }
        }
        Ok(objects)
    }

    fn lookup(&self, namespace: &str, Reference { kind, name, key }: &Reference) -> Lookup {
        let value = match kind {
            Kind::Secret => find(&self.secrets, namespace, name).map(|data| data.get(key).map(|value| value.0.clone())),
            Kind::ConfigMap => find(&self.config_maps, namespace, name).map(|data| data.get(key).cloned()),
        };
        match value {
            None => Lookup::NoObject,
            Some(None) => Lookup::NoKey,
            Some(Some(value)) => Lookup::Value(value),
        }
    }
}

fn place(object: &impl Resource) -> (Option<String>, String) {
    (object.namespace(), object.name_any())
}

/// The object of that name: in that namespace, else one that names no namespace.
fn find<'a, T>(objects: &'a ByName<T>, namespace: &str, name: &str) -> Option<&'a T> {
    objects.get(&(Some(namespace.to_owned()), name.to_owned())).or_else(|| objects.get(&(None, name.to_owned())))
}

/// Fills in what a consumer in a cluster always has.
pub(super) fn complete(consumer: &mut IdempotentConsumer) {
    consumer.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    consumer.metadata.uid.get_or_insert_with(|| UID.to_owned());
}

/// What the consumer names, out of the file; without one, values that pass for what they stand for.
pub(super) fn values(consumer: &IdempotentConsumer, objects: Option<&Objects>) -> BTreeMap<Reference, Lookup> {
    let namespace = consumer.namespace().unwrap_or_default();
    let found = |reference: &Reference| match objects {
        Some(objects) => objects.lookup(&namespace, reference),
        None => Lookup::Value(stand_in(consumer, reference)),
    };
    named(consumer)
        .into_iter()
        .map(|reference| (found(&reference), reference))
        .map(|(found, reference)| (reference, found))
        .collect()
}

fn stand_in(consumer: &IdempotentConsumer, reference: &Reference) -> Vec<u8> {
    let redis = &consumer.spec.redis;
    let is_url = redis.url_from.as_ref().is_some_and(|from| {
        reference.kind == Kind::Secret
            && (&from.secret_key_ref.name, &from.secret_key_ref.key) == (&reference.name, &reference.key)
    });
    match (is_url, redis.tls.is_some()) {
        (false, _) => VALUE.into(),
        (true, true) => format!("rediss://{PLACEHOLDER}:6379").into(),
        (true, false) => format!("redis://{PLACEHOLDER}:6379").into(),
    }
}

/// The consumer's own secret, out of the file or a placeholder.
pub(super) fn secret(consumer: &IdempotentConsumer, objects: Option<&Objects>) -> SidecarSecret {
    let (namespace, name) = (consumer.namespace().unwrap_or_default(), secret_name(&consumer.name_any()));
    let data = objects.and_then(|objects| find(&objects.secrets, &namespace, &name));
    data.and_then(SidecarSecret::from_data)
        .unwrap_or_else(|| SidecarSecret { token: PLACEHOLDER.to_owned(), salt: PLACEHOLDER.to_owned() })
}
