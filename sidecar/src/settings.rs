//! Decides what the sidecar runs with: file, environment and mounted Secrets in, checked settings out. Reads files, binds no port.

use std::fmt;
use std::time::Duration;

use crds::config::{ClaimCommand, SidecarConfig, Topology};

/// A value that never reaches a log, a metric or an error.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a value.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Everything the sidecar runs with, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configuration as written, validated.
    pub config: SidecarConfig,
    /// What the Redis store needs, with the Secrets read.
    pub redis: RedisSettings,
    /// What librdkafka needs, with the Secrets read.
    pub kafka: KafkaSettings,
    /// The token that `/drain` asks for.
    pub drain_token: Option<Secret>,
}

/// What the Redis store needs.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// URLs: one, or several nodes or sentinels.
    pub urls: Vec<Secret>,
    /// ACL user, where it is not in the URL.
    pub username: Option<Secret>,
    /// Password, where it is not in the URL.
    pub password: Option<Secret>,
    /// Authorities to trust, PEM; `None` means the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// Client certificate and key, PEM.
    pub client_pem: Option<(Vec<u8>, Secret)>,
    /// How the servers stand together.
    pub topology: Topology,
    /// Name of the master set, for [`Topology::Sentinel`].
    pub sentinel_master: Option<String>,
    /// How a claim is written.
    pub claim_command: ClaimCommand,
    /// How long one round trip may take.
    pub timeout: Duration,
}

/// What librdkafka needs, beside what the sidecar sets itself.
#[derive(Clone, Debug)]
pub struct KafkaSettings {
    /// librdkafka properties from the configuration: bootstrap servers, TLS, SASL, further ones. Secrets among them.
    pub properties: Vec<(String, Secret)>,
    /// The consumer group.
    pub group: String,
    /// The topics.
    pub topics: Vec<String>,
}
