//! The stores under test, each with a back door to look at its keys.

use std::fmt;
use std::time::Duration;

use crds::config::{ClaimCommand, Topology};
use harness::redis::{Certificates, RedisCluster, RedisSentinel, RedisServer, wait_until};
use redis::Value;
use sidecar::settings::{RedisSettings, Secret};
use sidecar::store::memory::MemoryStore;
use sidecar::store::redis::RedisStore;
use sidecar::store::{ClaimStore, Op, Replies, Reply, StoreError};

/// What the limited user may touch; all keys of the contract begin so.
const PREFIX: &str = "idempotency:test:";
/// Generous: these tests are about answers, not about time, and the machine may be busy.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Memory,
    Redis,
    Script,
    TlsAcl,
    Sentinel,
    Cluster,
}

impl Kind {
    pub(super) const ALL: [Self; 6] =
        [Self::Memory, Self::Redis, Self::Script, Self::TlsAcl, Self::Sentinel, Self::Cluster];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Redis => "redis",
            Self::Script => "redis_script",
            Self::TlsAcl => "redis_tls_acl",
            Self::Sentinel => "redis_sentinel",
            Self::Cluster => "redis_cluster",
        })
    }
}

pub(super) struct Subject {
    store: Box<dyn ClaimStore>,
    behind: Behind,
}

enum Behind {
    Memory(MemoryStore),
    Server(RedisServer),
    Sentinel(RedisSentinel),
    Cluster(RedisCluster),
}

/// Settings for one URL, with nothing else set.
pub(super) fn settings(url: impl Into<String>) -> RedisSettings {
    RedisSettings {
        urls: vec![Secret::new(url)],
        username: None,
        password: None,
        ca_pem: None,
        client_pem: None,
        topology: Topology::Standalone,
        sentinel_master: None,
        claim_command: ClaimCommand::Auto,
        timeout: TIMEOUT,
    }
}

/// Settings for the limited user over TLS.
pub(super) fn tls_settings(server: &RedisServer, certificates: &Certificates) -> RedisSettings {
    let read = |path: &std::path::Path| std::fs::read(path).unwrap();
    RedisSettings {
        username: Some(Secret::new("sidecar")),
        password: Some(Secret::new("correct horse")),
        ca_pem: Some(read(&certificates.ca)),
        client_pem: Some((
            read(&certificates.client_cert),
            Secret::new(String::from_utf8(read(&certificates.client_key)).unwrap()),
        )),
        ..settings(server.rediss_url().unwrap())
    }
}

/// The rule in the documentation of `RedisStore`, word for word.
pub(super) fn limited_user(server: &RedisServer) {
    let pattern = format!("~{PREFIX}*");
    let rule = ["ACL", "SETUSER", "sidecar", "on", ">correct horse", "resetkeys", &pattern, "resetchannels", "-@all"];
    let commands = ["+set", "+get", "+del", "+exists", "+eval", "+evalsha"];
    server.command::<Value>(&[&rule[..], &commands[..]].concat()).unwrap();
}

impl Subject {
    pub(super) fn start(kind: Kind) -> Self {
        match kind {
            Kind::Memory => {
                let memory = MemoryStore::new();
                Self { store: Box::new(memory.clone()), behind: Behind::Memory(memory) }
            }
            Kind::Redis => {
                let server = RedisServer::start().unwrap();
                Self::redis(&settings(server.url()), Behind::Server(server))
            }
            Kind::Script => {
                let server = RedisServer::start().unwrap();
                let script = RedisSettings { claim_command: ClaimCommand::Script, ..settings(server.url()) };
                Self::redis(&script, Behind::Server(server))
            }
            Kind::TlsAcl => {
                let certificates = Certificates::generate().unwrap();
                let server = RedisServer::with_tls(&certificates, &[]).unwrap();
                limited_user(&server);
                Self::redis(&tls_settings(&server, &certificates), Behind::Server(server))
            }
            Kind::Sentinel => {
                let sentinel = RedisSentinel::start().unwrap();
                let settings = RedisSettings {
                    topology: Topology::Sentinel,
                    sentinel_master: Some(RedisSentinel::MASTER.to_owned()),
                    ..settings(sentinel.url())
                };
                Self::redis(&settings, Behind::Sentinel(sentinel))
            }
            Kind::Cluster => {
                let cluster = RedisCluster::start().unwrap();
                let settings = RedisSettings { topology: Topology::Cluster, ..settings(cluster.nodes[0].url()) };
                Self::redis(&settings, Behind::Cluster(cluster))
            }
        }
    }

    fn redis(settings: &RedisSettings, behind: Behind) -> Self {
        Self { store: Box::new(RedisStore::new(settings).unwrap()), behind }
    }

    pub(super) fn key(&self, name: &str) -> String {
        format!("{PREFIX}{name}")
    }

    pub(super) async fn all(&self, ops: Vec<Op>) -> Replies {
        self.store.apply(ops).await
    }

    pub(super) async fn one(&self, op: Op) -> Result<Reply, StoreError> {
        self.store.apply(vec![op]).await.remove(0)
    }

    /// Runs a command on the key past the store.
    fn command(&self, key: &str, args: &[&str]) -> Value {
        let server = match &self.behind {
            Behind::Memory(_) => panic!("the memory store takes no commands"),
            Behind::Server(server) => server,
            Behind::Sentinel(sentinel) => &sentinel.servers[0],
            Behind::Cluster(cluster) => &cluster.nodes[cluster.owner(key).unwrap()],
        };
        server.command(args).unwrap()
    }

    pub(super) fn get(&self, key: &str) -> Option<Vec<u8>> {
        match &self.behind {
            Behind::Memory(memory) => memory.get(key).map(|value| value.to_vec()),
            _ => redis::from_redis_value(self.command(key, &["GET", key])).unwrap(),
        }
    }

    pub(super) fn ttl(&self, key: &str) -> Option<Duration> {
        if let Behind::Memory(memory) = &self.behind {
            return memory.ttl(key);
        }
        let millis: i64 = redis::from_redis_value(self.command(key, &["PTTL", key])).unwrap();
        assert_ne!(millis, -1, "{key} lives for ever");
        u64::try_from(millis).ok().map(Duration::from_millis)
    }

    /// Puts a list at the key; false for a store that has no types.
    pub(super) fn make_list(&self, key: &str) -> bool {
        if matches!(self.behind, Behind::Memory(_)) {
            return false;
        }
        self.command(key, &["DEL", key]);
        self.command(key, &["RPUSH", key, "element"]);
        true
    }

    /// Waits until the key has expired.
    pub(super) async fn gone(&self, key: &str) {
        wait_until("the key to expire", || Ok(self.get(key).is_none())).unwrap();
    }
}
