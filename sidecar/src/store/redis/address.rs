//! Decides which servers the settings name, and how to sign in there: settings in, connection parameters out. Pure.

use std::fmt;
use std::sync::Arc;

use crds::config::Topology;
use redis::io::tcp::TcpSettings;
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo,
    RedisError, TlsCertificates,
};

use super::ConfigError;
use crate::settings::{RedisSettings, Secret};

/// How to sign in, the same at every server.
#[derive(Clone)]
pub(super) struct Access {
    redis: RedisConnectionInfo,
    certificates: Option<TlsCertificates>,
    secrets: Arc<[Secret]>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Access")
    }
}

/// One server's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Address {
    /// Host, port, and whether over TLS.
    Tcp { host: Arc<str>, port: u16, tls: bool },
    /// A socket file.
    Unix(Arc<std::path::Path>),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Address {
    /// The server named `host:port` by this one in a redirection; an empty host means this server's own.
    pub(super) fn sibling(&self, named: &str) -> Option<Self> {
        let (host, port) = named.rsplit_once(':')?;
        self.at(host, port.parse().ok()?)
    }

    /// The server at `host` and `port`, spoken to as this one is; an empty host means this server's own.
    pub(super) fn at(&self, host: &str, port: u16) -> Option<Self> {
        let Self::Tcp { host: own, tls, .. } = self else { return None };
        let host = match host.trim_start_matches('[').trim_end_matches(']') {
            "" => Arc::clone(own),
            "?" => return None,
            host => host.into(),
        };
        Some(Self::Tcp { host, port, tls: *tls })
    }
}

impl Access {
    /// A client for one server. Connects nowhere.
    pub(super) fn client(&self, address: &Address) -> Result<Client, String> {
        self.build(address, self.redis.clone()).map_err(|error| self.text(&error))
    }

    /// The same without user, password and database, for sentinels that ask for none.
    pub(super) fn anonymous(&self, address: &Address) -> Result<Client, String> {
        self.build(address, RedisConnectionInfo::default()).map_err(|error| self.text(&error))
    }

    /// The same with user and password and without the database: sentinels have none.
    pub(super) fn sentinel(&self, address: &Address) -> Result<Client, String> {
        self.build(address, self.redis.clone().set_db(0)).map_err(|error| self.text(&error))
    }

    pub(super) fn has_password(&self) -> bool {
        self.redis.password().is_some()
    }

    fn build(&self, address: &Address, redis: RedisConnectionInfo) -> Result<Client, RedisError> {
        let addr = match address {
            Address::Tcp { host, port, tls: false } => ConnectionAddr::Tcp(host.to_string(), *port),
            Address::Tcp { host, port, tls: true } => {
                ConnectionAddr::TcpTls { host: host.to_string(), port: *port, insecure: false, tls_params: None }
            }
            Address::Unix(path) => ConnectionAddr::Unix(path.to_path_buf()),
        };
        let tls = matches!(addr, ConnectionAddr::TcpTls { .. });
        // Without TCP_NODELAY the tail of each pipeline waits for the server's delayed acknowledgement.
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = addr.into_connection_info()?.set_redis_settings(redis).set_tcp_settings(tcp);
        match &self.certificates {
            Some(certificates) if tls => Client::build_with_tls(info, certificates.clone()),
            _ => Client::open(info),
        }
    }

    /// An error as text, with whatever signs us in struck out: a server may repeat our arguments in its error.
    pub(super) fn text(&self, error: &RedisError) -> String {
        self.redact(error.to_string())
    }

    /// A server's text with whatever signs us in struck out.
    pub(super) fn redact(&self, text: String) -> String {
        self.secrets.iter().fold(text, |text, secret| text.replace(secret.expose(), "[secret]"))
    }
}

/// The servers that the settings name, and how to sign in there.
pub(super) fn read(settings: &RedisSettings) -> Result<(Vec<Address>, Access), ConfigError> {
    if settings.urls.is_empty() {
        return Err(ConfigError::NoUrl);
    }
    let mut parsed = Vec::with_capacity(settings.urls.len());
    for (index, url) in settings.urls.iter().enumerate() {
        let info = url.expose().into_connection_info().map_err(|error| ConfigError::Url {
            index,
            // Only the crate's fixed texts: the detail could repeat a part of the URL.
            reason: error.category().to_owned(),
        })?;
        parsed.push((address(index, &info)?, info));
    }
    let redis = sign_in(settings, &parsed[0].1);
    check_topology(settings, &parsed)?;
    let secrets = [redis.password(), redis.username()].into_iter().flatten();
    let secrets = secrets.filter(|secret| !secret.is_empty() && *secret != "default").map(Secret::new).collect();
    let access = Access { redis, certificates: certificates(settings), secrets };
    let addresses: Vec<_> = parsed.into_iter().map(|(address, _)| address).collect();
    if let Some(tls) = addresses.iter().find(|address| matches!(address, Address::Tcp { tls: true, .. })) {
        access.client(tls).map_err(ConfigError::Tls)?;
    }
    Ok((addresses, access))
}

fn address(index: usize, info: &ConnectionInfo) -> Result<Address, ConfigError> {
    match info.addr() {
        ConnectionAddr::Tcp(host, port) => Ok(Address::Tcp { host: host.as_str().into(), port: *port, tls: false }),
        ConnectionAddr::TcpTls { insecure: true, .. } => Err(ConfigError::Insecure { index }),
        ConnectionAddr::TcpTls { host, port, .. } => {
            Ok(Address::Tcp { host: host.as_str().into(), port: *port, tls: true })
        }
        ConnectionAddr::Unix(path) => Ok(Address::Unix(path.as_path().into())),
        _ => Err(ConfigError::Url { index, reason: "an address of an unknown kind".to_owned() }),
    }
}

/// User, password and database: of the first URL, overridden by the settings of their own.
fn sign_in(settings: &RedisSettings, first: &ConnectionInfo) -> RedisConnectionInfo {
    let redis = first.redis_settings().clone();
    // `CLIENT SETINFO` would be one more command for an ACL to allow.
    let mut redis = redis.set_skip_set_lib_name().set_protocol(ProtocolVersion::RESP2);
    if let Some(username) = &settings.username {
        redis = redis.set_username(username.expose());
    }
    if let Some(password) = &settings.password {
        redis = redis.set_password(password.expose());
    }
    redis
}

fn certificates(settings: &RedisSettings) -> Option<TlsCertificates> {
    let client_tls = settings.client_pem.as_ref().map(|(certificate, key)| ClientTlsConfig {
        client_cert: certificate.clone(),
        client_key: key.expose().as_bytes().to_vec(),
    });
    let root_cert = settings.ca_pem.clone();
    (client_tls.is_some() || root_cert.is_some()).then_some(TlsCertificates { client_tls, root_cert })
}

fn check_topology(settings: &RedisSettings, parsed: &[(Address, ConnectionInfo)]) -> Result<(), ConfigError> {
    let first = &parsed[0].1;
    let socket = parsed.iter().any(|(address, _)| matches!(address, Address::Unix(_)));
    match settings.topology {
        Topology::Standalone if parsed.len() > 1 => Err(ConfigError::SeveralUrls { count: parsed.len() }),
        Topology::Standalone => Ok(()),
        Topology::Sentinel | Topology::Cluster if socket => Err(ConfigError::Socket),
        Topology::Sentinel if settings.sentinel_master.is_none() => Err(ConfigError::NoSentinelMaster),
        Topology::Cluster if first.redis_settings().db() != 0 => Err(ConfigError::ClusterDatabase),
        Topology::Sentinel | Topology::Cluster => Ok(()),
    }
}
