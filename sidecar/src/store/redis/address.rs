//! Decides which servers the settings name, and how to sign in there: settings in, connection parameters out. Pure.

use std::fmt;
use std::sync::Arc;

use crds::config::Topology;
use redis::io::tcp::TcpSettings;
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo,
    RedisError, TlsCertificates,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

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
    check_tls(settings)?;
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

/// Reads what the crate would read only when it connects, and an empty file not at all.
fn check_tls(settings: &RedisSettings) -> Result<(), ConfigError> {
    let certificates = |pem: &[u8], what: &str| {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        match read {
            Ok(found) if found.is_empty() => Err(ConfigError::Tls(format!("there is no certificate in {what}"))),
            Ok(found) => Ok(found),
            Err(_) => Err(ConfigError::Tls(format!("{what} can't be read"))),
        }
    };
    let mut roots = RootCertStore::empty();
    if let Some(pem) = &settings.ca_pem {
        for authority in certificates(pem, "redis.caFile")? {
            roots.add(authority).map_err(|error| ConfigError::Tls(format!("redis.caFile: {error}")))?;
        }
    }
    if let Some((pem, key)) = &settings.client_pem {
        let chain = certificates(pem, "redis.certificateFile")?;
        let no_key = |_| ConfigError::Tls("redis.keyFile holds no private key that can be read".to_owned());
        let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(no_key)?;
        let config = ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key);
        config.map_err(|error| ConfigError::Tls(format!("certificate and key don't go together: {error}")))?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crds::config::ClaimCommand;

    use super::*;
    use crate::store::redis::RedisStore;

    fn settings(topology: Topology, urls: &[&str]) -> RedisSettings {
        RedisSettings {
            urls: urls.iter().map(|url| Secret::new(*url)).collect(),
            username: None,
            password: None,
            ca_pem: None,
            client_pem: None,
            topology,
            sentinel_master: None,
            claim_command: ClaimCommand::Auto,
            timeout: Duration::from_millis(250),
        }
    }

    fn error(settings: &RedisSettings) -> ConfigError {
        RedisStore::new(settings).unwrap_err()
    }

    #[test]
    fn each_mistake_names_its_field_and_no_secret() {
        use Topology::{Cluster, Sentinel, Standalone};
        let wrong = [
            (settings(Standalone, &[]), ConfigError::NoUrl, "redis.url"),
            (
                settings(Standalone, &["redis://a", "redis://b"]),
                ConfigError::SeveralUrls { count: 2 },
                "redis.topology",
            ),
            (settings(Standalone, &["rediss://a/#insecure"]), ConfigError::Insecure { index: 0 }, "redis.caFile"),
            (settings(Cluster, &["unix:///redis.sock"]), ConfigError::Socket, "redis.topology"),
            (settings(Cluster, &["redis://a/1"]), ConfigError::ClusterDatabase, "redis.url"),
            (settings(Sentinel, &["redis://a"]), ConfigError::NoSentinelMaster, "redis.sentinelMaster"),
        ];
        for (settings, expected, field) in wrong {
            assert_eq!(error(&settings), expected);
            assert!(expected.to_string().contains(field));
        }
        for url in
            ["", "hunter2", "http://u:hunter2@a", "redis://u:hunter2@a:port", "redis://u:hunter2@a/x", "redis://"]
        {
            let error = error(&settings(Standalone, &["redis://fine", url]));
            let told = format!("{error} {error:?}");
            assert!(told.contains("URL number 2 can't be read") && !told.contains("hunter2"), "{url}: {told}");
        }
    }

    #[test]
    fn authorities_and_keys_are_read_at_the_start() {
        let wrong = RedisSettings { ca_pem: Some(b"no".to_vec()), ..settings(Topology::Standalone, &["rediss://a"]) };
        assert!(matches!(error(&wrong), ConfigError::Tls(_)));
        let key = (b"no".to_vec(), Secret::new("hunter2"));
        let wrong = RedisSettings { client_pem: Some(key), ..settings(Topology::Standalone, &["rediss://a"]) };
        let told = error(&wrong).to_string();
        assert!(told.contains("no certificate in redis.certificateFile") && !told.contains("hunter2"), "{told}");
    }

    #[test]
    fn settings_of_their_own_override_the_url() {
        let mut both = settings(Topology::Standalone, &["redis://u:p@a/3"]);
        both.password = Some(Secret::new("q"));
        let (addresses, access) = read(&both).unwrap();
        assert_eq!(addresses[0].to_string(), "a:6379");
        let redis = (access.redis.username(), access.redis.password(), access.redis.db());
        assert_eq!(redis, (Some("u"), Some("q"), 3));
        assert_eq!(access.redact("u said q".to_owned()), "[secret] said [secret]");
    }

    #[test]
    fn siblings_are_spoken_to_alike() {
        let tls = Address::Tcp { host: "a".into(), port: 1, tls: true };
        let at = |host: &str, port| Some(Address::Tcp { host: host.into(), port, tls: true });
        assert_eq!(tls.sibling("b:2"), at("b", 2));
        assert_eq!(tls.sibling(":2"), at("a", 2));
        assert_eq!(tls.sibling("::1:2"), at("::1", 2));
        assert_eq!(at("::1", 2).unwrap().to_string(), "[::1]:2");
        assert_eq!(tls.sibling("?:2"), None);
        assert_eq!(tls.sibling("b"), None);
    }
}
