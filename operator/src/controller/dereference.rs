//! Decides nothing: looks up what a resource names and what runs already. I/O (the API server, through caches).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crds::v1alpha1::IdempotentConsumer;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::core::DynamicObject;
use kube::{Api, Client, ResourceExt};

use super::build::{self, ChildKind};
use super::key::Key;
use super::memory::Remembered;
use super::store::Stores;
use super::validate;
use crate::kube_error::words;

mod rival;

pub use rival::rival;

/// What kind of object a resource names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        })
    }
}

/// A key of an object in the consumer's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// Secret or ConfigMap.
    pub kind: Kind,
    /// Name of the object.
    pub name: String,
    /// The key in it.
    pub key: String,
}

/// What was found at a [`Reference`].
#[derive(Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The value.
    Value(Vec<u8>),
    /// There is no such object.
    NoObject,
    /// The object has no such key.
    NoKey,
}

/// A value may be a Secret's, so that it is never shown.
impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Value(_) => "Value([secret])",
            Self::NoObject => "NoObject",
            Self::NoKey => "NoKey",
        })
    }
}

/// What the operator keeps in the Secret `<name>-sidecar`, made once for each consumer.
#[derive(Clone, PartialEq, Eq)]
pub struct SidecarSecret {
    /// What `/drain` asks for. It stands in the pod spec too, and permits nothing else.
    pub token: String,
    /// Key of the digest of referenced values: without it, nobody who sees the digest on a pod can try values against it.
    pub salt: String,
}

impl fmt::Debug for SidecarSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SidecarSecret([secret])")
    }
}

/// Another consumer that is in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// `<namespace>/<name>`.
    pub consumer: String,
    /// What it consumes.
    pub topics: Vec<String>,
}

/// What of the consumer's Deployment is there, as far as it decides how to go on. The texts are annotations that the operator wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// Digest of what the user asked for ([`crate::controller::build::annotation::INPUT`]).
    pub input: String,
    /// Digest of what claims stand on ([`crate::controller::build::annotation::IDENTITY`]).
    pub identity: String,
    /// What the operator brought to it ([`crate::controller::build::annotation::REVISION`]).
    pub revision: String,
    /// Image of the sidecar.
    pub sidecar_image: String,
    /// It replaces all pods at once.
    pub recreates: bool,
    /// Every pod is of the newest revision and available.
    pub complete: bool,
    /// What its pods need and is not there as they know it: the next pod would not start, or would not drain.
    pub broken: Option<&'static str>,
}

/// Everything that was looked up for one consumer.
#[derive(Clone, Debug)]
pub struct References {
    /// What the spec names, and what was found there.
    pub values: BTreeMap<Reference, Lookup>,
    /// The consumer's own secret, made anew if there was none.
    pub secret: SidecarSecret,
    /// An older consumer of the same group at the same Kafka with other topics.
    pub rival: Option<Rival>,
    /// The consumer's Deployment, if there is one.
    pub running: Option<Running>,
    /// What claims of its pods stand on ([`crate::controller::build::annotation::IDENTITY`]), each with the name of a pod. Those that
    /// end count until they have, since they have deliveries under way; no count of a Deployment's has them.
    pub pods: BTreeMap<String, String>,
}

/// What could not be looked up; it may be there all the same.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not answer as it should.
    #[error("the {kind} `{name}` can't be read: {}", words(source))]
    Read {
        /// Secret or ConfigMap.
        kind: Kind,
        /// Its name.
        name: String,
        /// What happened.
        source: Box<kube::Error>,
    },
    /// The API server did not answer as it should.
    #[error("the Deployment `{name}` can't be read: {}", words(source))]
    Deployment {
        /// Its name.
        name: String,
        /// What happened.
        source: Box<kube::Error>,
    },
}

/// The keys of an object that a consumer names, as they were in one version of it.
#[derive(Clone)]
pub struct Fetched {
    uid: Option<String>,
    version: Option<String>,
    /// Each key that was asked for, `None` where the object has none of that name.
    data: BTreeMap<String, Option<Vec<u8>>>,
}

/// It may be a Secret's.
impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetched").field("version", &self.version).finish_non_exhaustive()
    }
}

/// Names of the keys in the consumer's own Secret.
const TOKEN: &str = "token";
const SALT: &str = "salt";

/// Looks up everything that a consumer names, and what runs for it. From memory, but for what has changed there.
///
/// # Errors
/// The API server does not answer.
pub async fn dereference(
    client: &Client,
    stores: &Stores,
    key: &Key,
    consumer: &IdempotentConsumer,
    memory: &mut Remembered,
) -> Result<References, Error> {
    let named = validate::named(consumer);
    let objects: BTreeSet<(Kind, String)> = named.iter().map(|named| (named.kind, named.name.clone())).collect();
    let keys = objects.iter().map(|(kind, name)| (*kind, Key::new(&key.namespace, name))).collect();
    stores.named_by.note(key, keys);
    memory.values.retain(|object, _| objects.contains(object));
    for (kind, name) in objects {
        refresh(client, stores, &key.namespace, (kind, name), &named, memory).await?;
    }
    let values =
        named.into_iter().map(|named| (lookup(&named, memory), named)).map(|(found, named)| (named, found)).collect();
    let secret = sidecar_secret(client, stores, key, consumer, memory).await?;
    stores.rivalled.note(key);
    let rival = rival(consumer, stores.consumers.store().state().iter().filter_map(|other| other.0.as_ref().ok()));
    if rival.is_none() {
        stores.rivalled.forget(key);
    }
    let live = deployment(client, stores, key, memory).await?;
    let running = live
        .filter(|live| is_owned(live, consumer))
        .map(|live| Running { broken: broken(stores, key, &live, &secret), ..super::deployment::running(&live) });
    let pods = identities(&stores.pods.of(key));
    Ok(References { values, secret, rival, running, pods })
}

/// What the pods of a Deployment need, and is gone.
fn broken(stores: &Stores, key: &Key, live: &DynamicObject, secret: &SidecarSecret) -> Option<&'static str> {
    let gone = |kind: ChildKind, by: &str| {
        let name = super::deployment::template_annotation(live, by);
        name.is_some_and(|name| stores.children(kind).get(&Key::new(&key.namespace, name)).is_none())
    };
    if gone(ChildKind::ConfigMap, build::annotation::CONFIG) {
        return Some("the ConfigMap with their configuration is gone");
    }
    if gone(ChildKind::Secret, build::annotation::FILES) {
        return Some("the Secret with copies of what the spec names is gone");
    }
    let token = super::deployment::drain_token(live);
    token.is_some_and(|token| token != secret.token).then_some("the token with which they ask for a drain is another")
}

/// What claims of pods stand on that have not ended, each with the name of one of them.
fn identities(pods: &[Arc<Pod>]) -> BTreeMap<String, String> {
    let ended = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    let there = pods.iter().filter(|pod| !ended(pod));
    there
        .filter_map(|pod| Some((pod.annotations().get(build::annotation::IDENTITY)?.clone(), pod.name_any())))
        .collect()
}

fn lookup(named: &Reference, memory: &Remembered) -> Lookup {
    match memory.values.get(&(named.kind, named.name.clone())) {
        None => Lookup::NoObject,
        Some(fetched) => fetched.data.get(&named.key).cloned().flatten().map_or(Lookup::NoKey, Lookup::Value),
    }
}

/// Reads an object where the watch has shown another version of it than was read last.
async fn refresh(
    client: &Client,
    stores: &Stores,
    namespace: &str,
    (kind, name): (Kind, String),
    named: &[Reference],
    memory: &mut Remembered,
) -> Result<(), Error> {
    let key = Key::new(namespace, &name);
    let shown = match kind {
        Kind::Secret => stores.secrets.get(&key).map(|meta| (meta.uid(), meta.resource_version())),
        Kind::ConfigMap => stores.config_maps.get(&key).map(|meta| (meta.uid(), meta.resource_version())),
    };
    let Some((uid, version)) = shown else {
        memory.values.remove(&(kind, name));
        return Ok(());
    };
    let wanted: BTreeSet<&str> =
        named.iter().filter(|one| one.kind == kind && one.name == name).map(|one| one.key.as_str()).collect();
    let known = memory.values.get(&(kind, name.clone()));
    let current = |known: &Fetched| known.uid == uid && known.version == version;
    if known.is_some_and(|known| current(known) && wanted.iter().all(|key| known.data.contains_key(*key))) {
        return Ok(());
    }
    let read = |source| Error::Read { kind, name: name.clone(), source: Box::new(source) };
    let data = fetch(client, namespace, kind, &name).await.map_err(read)?;
    match data {
        None => memory.values.remove(&(kind, name)),
        Some(mut data) => {
            let data = wanted.into_iter().map(|key| (key.to_owned(), data.remove(key))).collect();
            memory.values.insert((kind, name), Fetched { uid, version, data })
        }
    };
    Ok(())
}

async fn fetch(
    client: &Client,
    namespace: &str,
    kind: Kind,
    name: &str,
) -> Result<Option<BTreeMap<String, Vec<u8>>>, kube::Error> {
    let bytes = |data: Option<BTreeMap<String, ByteString>>| {
        data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0))
    };
    Ok(match kind {
        Kind::Secret => {
            let secret = Api::<Secret>::namespaced(client.clone(), namespace).get_opt(name).await?;
            secret.map(|secret| bytes(secret.data).collect())
        }
        Kind::ConfigMap => {
            let map = Api::<ConfigMap>::namespaced(client.clone(), namespace).get_opt(name).await?;
            map.map(|map| {
                let texts = map.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
                texts.chain(bytes(map.binary_data)).collect()
            })
        }
    })
}

/// The Deployment as it is, also while the store is behind our own write: how to go on is decided by it.
async fn deployment(
    client: &Client,
    stores: &Stores,
    key: &Key,
    memory: &Remembered,
) -> Result<Option<Arc<DynamicObject>>, Error> {
    let (kind, ledger) = (ChildKind::Deployment, &memory.ledger);
    let shown = stores.children(kind).get(key);
    if shown.is_none() && ledger.knows(kind, &key.name) {
        // It was made, and is not shown yet, or is gone.
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), &key.namespace, &kind.resource());
        let live = api.get_opt(&key.name).await;
        let live = live.map_err(|source| Error::Deployment { name: key.name.clone(), source: Box::new(source) })?;
        return Ok(live.map(Arc::new));
    }
    Ok(ledger.live(kind, &key.name, shown))
}

/// The consumer's own secret: as it is in the cluster, else as it was generated before, else generated.
async fn sidecar_secret(
    client: &Client,
    stores: &Stores,
    key: &Key,
    consumer: &IdempotentConsumer,
    memory: &mut Remembered,
) -> Result<SidecarSecret, Error> {
    let name = build::secret_name(&key.name);
    let secrets = stores.children(ChildKind::Secret);
    let mut live: Option<Arc<DynamicObject>> = secrets.get(&Key::new(&key.namespace, &name));
    if live.is_none() && memory.secret.is_none() {
        // The store may be behind, and with it a predecessor's secret that pods already know.
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), &key.namespace, &ChildKind::Secret.resource());
        let read = |source| Error::Read { kind: Kind::Secret, name: name.clone(), source: Box::new(source) };
        live = api.get_opt(&name).await.map_err(read)?.map(Arc::new);
    }
    let data = live
        .filter(|live| is_owned(live, consumer))
        .and_then(|live| live.as_ref().clone().try_parse::<Secret>().ok())
        .and_then(|secret| secret.data)
        .unwrap_or_default();
    let kept = |name: &str| {
        data.get(name).and_then(|value| String::from_utf8(value.0.clone()).ok()).filter(|text| !text.is_empty())
    };
    let before = memory.secret.take();
    let secret = SidecarSecret {
        token: kept(TOKEN).or_else(|| before.as_ref().map(|secret| secret.token.clone())).unwrap_or_else(random_text),
        salt: kept(SALT).or_else(|| before.as_ref().map(|secret| secret.salt.clone())).unwrap_or_else(random_text),
    };
    memory.secret = Some(secret.clone());
    Ok(secret)
}

/// 32 bytes that nobody guesses, in hex.
fn random_text() -> String {
    rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The object belongs to the consumer, by its controller's uid.
#[must_use]
pub fn is_owned(object: &DynamicObject, consumer: &IdempotentConsumer) -> bool {
    consumer.metadata.uid.as_deref().is_some_and(|uid| is_owned_by(object, uid))
}

/// The object's controller has that uid.
#[must_use]
pub fn is_owned_by(object: &DynamicObject, uid: &str) -> bool {
    object.owner_references().iter().any(|owner| owner.controller == Some(true) && owner.uid == uid)
}

impl SidecarSecret {
    /// The secret that a Secret's data holds, if it is whole.
    #[must_use]
    pub fn from_data(data: &BTreeMap<String, ByteString>) -> Option<Self> {
        let text = |name: &str| String::from_utf8(data.get(name)?.0.clone()).ok();
        Some(Self { token: text(TOKEN)?, salt: text(SALT)? })
    }
}
