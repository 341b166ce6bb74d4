//! Decides nothing: looks up what a resource names and what runs already. I/O (the API server, through caches).

use std::collections::BTreeMap;
use std::fmt;

/// What kind of object a resource names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
}
