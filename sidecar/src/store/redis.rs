//! Decides how claims live in Redis: standalone, behind sentinels, or in a cluster. Does network I/O, once first asked.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crds::config::{ClaimCommand, Topology};
use redis::{Pipeline, Value};
use tokio::time::Instant;

use super::{ClaimStore, Op, Replies, StoreError};
use crate::settings::RedisSettings;

mod address;
mod cluster;
mod command;
mod exchange;
mod link;
mod sentinel;

use cluster::Cluster;
use exchange::{Outcome, exchange};
use link::{Changes, Link, Target};
use sentinel::Sentinels;

/// What is wrong with the Redis settings. No text repeats a part of a URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is no URL at all.
    #[error("redis.url: missing; for example `redis://redis:6379`")]
    NoUrl,
    /// A URL can't be read.
    #[error("redis.url: URL number {} can't be read ({reason}); for example `redis://redis:6379`", .index + 1)]
    Url {
        /// Which one, from 0.
        index: usize,
        /// Why.
        reason: String,
    },
    /// A URL asks for TLS that trusts anybody.
    #[error("redis.url: URL number {} ends in `#insecure`, which trusts any server; set redis.caFile instead", .index + 1)]
    Insecure {
        /// Which one, from 0.
        index: usize,
    },
    /// A standalone server has one URL.
    #[error("redis.url: {count} URLs, but redis.topology is `Standalone`; set `Cluster` or `Sentinel`")]
    SeveralUrls {
        /// How many there are.
        count: usize,
    },
    /// A socket file leads to one server only.
    #[error("redis.url: a socket file goes with redis.topology `Standalone` only; for example `redis://redis:6379`")]
    Socket,
    /// The sentinels must be asked for a master by name.
    #[error("redis.sentinelMaster: missing, and redis.topology is `Sentinel`; for example `mymaster`")]
    NoSentinelMaster,
    /// A cluster has no databases.
    #[error("redis.url: a Redis Cluster has database 0 only; for example `redis://redis:6379`")]
    ClusterDatabase,
    /// Authorities, client certificate or key can't be used.
    #[error("TLS: {0}; PEM is expected, as in `-----BEGIN CERTIFICATE-----`")]
    Tls(String),
}

/// What the server says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// Its version; `None` where it can't be reached or the user may not ask (`INFO`).
    pub version: Option<String>,
    /// Its `maxmemory-policy`; in a cluster the first that may evict, of all masters. `None` as above.
    pub eviction_policy: Option<String>,
}

impl Inspection {
    /// May the server drop keys before their TTL ends? `None` where it doesn't say.
    #[must_use]
    pub fn may_evict(&self) -> Option<bool> {
        self.eviction_policy.as_ref().map(|policy| policy != "noeviction")
    }
}

/// Claims in Redis.
///
/// # Guarantees
/// - The contract of [`ClaimStore`]. Its bound: `timeout` to wait for a connection, where there is none, and `timeout` for
///   the answers. An operation that no connection took ends as `NotSent`; one that was handed to a connection, and not
///   answered, as `Unanswered`, also where the connection turns out to have been closed by the server long before.
/// - No operation is repeated unless a server surely did not apply it: it lacks the script, doesn't know `SET … NX GET`,
///   or redirects to another node.
/// - A connection that did not answer in time is given up. One attempt to connect at a time; nothing connects before the
///   first operation.
/// - With sentinels, a master in whose place they name another is left within about a second.
/// - Errors name servers, never a password, a user or a URL.
///
/// One connection a server: a second one was worth a tenth in `benches/store.rs`, where `SET … NX GET` also beat the script,
/// and `SET … NX` followed by a `GET` of what was refused, which is not atomic besides.
///
/// # Assumptions
/// - Redis 2.6.12 or later. `SET … NX GET` needs 7.0; before that, or when told to, a Lua script claims.
/// - The user may run, on its keys, what this rule gives; a script is checked against the keys and commands it uses:
///   `ACL SETUSER sidecar on >… resetkeys ~<keyPrefix>* ~<sessionPrefix>* resetchannels -@all +set +get +del +exists +eval +evalsha`
///   (`SET … GET` reads, so a key pattern must allow both). Besides: `+info` where the eviction policy should be checked;
///   `+select` for a database other than 0; Sentinel `+role` (without it a master is told by its first write); Cluster
///   `+cluster|slots +asking`. On the sentinels: `+sentinel|get-master-addr-by-name`.
#[derive(Debug)]
pub struct RedisStore {
    route: Route,
    changes: Changes,
    timeout: Duration,
}

#[derive(Debug)]
enum Route {
    One(Arc<Link>),
    Cluster(Box<Cluster>),
}

impl RedisStore {
    /// A store that connects when first asked.
    ///
    /// # Errors
    /// Where the settings can't be right; no connection is made to find out.
    pub fn new(settings: &RedisSettings) -> Result<Self, ConfigError> {
        let (mut addresses, access) = address::read(settings)?;
        let script_only = settings.claim_command == ClaimCommand::Script;
        let changes = Changes::default();
        let link = |target, access| Route::One(Link::new(target, access, script_only, changes.clone()));
        let route = match settings.topology {
            Topology::Standalone => link(Target::Server(addresses.remove(0)), access),
            Topology::Sentinel => {
                let name = settings.sentinel_master.clone().ok_or(ConfigError::NoSentinelMaster)?;
                link(Target::Master(Sentinels::new(addresses, name)), access)
            }
            Topology::Cluster => {
                Route::Cluster(Box::new(Cluster::new(addresses, access, script_only, changes.clone())))
            }
        };
        Ok(Self { route, changes, timeout: settings.timeout })
    }

    /// What the server, or each master of a cluster, says about itself; empty where it says nothing within the time-out.
    pub async fn inspect(&self) -> Inspection {
        let deadline = Instant::now() + self.timeout;
        let links = match &self.route {
            Route::One(link) => vec![Arc::clone(link)],
            Route::Cluster(cluster) => cluster.masters(deadline).await.unwrap_or_default(),
        };
        let mut whole = Inspection::default();
        for link in links {
            let one = inspect_one(&link, self.timeout).await;
            whole.version = whole.version.or(one.version.clone());
            if whole.may_evict() != Some(true) && one.eviction_policy.is_some() {
                whole.eviction_policy = one.eviction_policy;
            }
        }
        whole
    }
}

async fn inspect_one(link: &Arc<Link>, timeout: Duration) -> Inspection {
    let mut pipeline = Pipeline::new();
    pipeline.cmd("INFO").arg("server").cmd("INFO").arg("memory");
    let Ok(live) = link.live(Instant::now() + timeout).await else { return Inspection::default() };
    let values = link.round_trip(&live, &pipeline, Instant::now() + timeout).await.unwrap_or_default();
    let text: String = values.iter().map(info_text).collect();
    let field = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(|value| value.trim().to_owned())
    };
    Inspection { version: field("redis_version"), eviction_policy: field("maxmemory_policy") }
}

fn info_text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    }
}

impl ClaimStore for RedisStore {
    fn apply(&self, ops: Vec<Op>) -> Pin<Box<dyn Future<Output = Replies> + Send + '_>> {
        Box::pin(async move {
            if ops.is_empty() {
                return Vec::new();
            }
            match &self.route {
                Route::One(link) => self.apply_to(link, &ops).await,
                Route::Cluster(cluster) => cluster.apply(&ops, self.timeout).await,
            }
        })
    }

    fn changes(&self) -> u64 {
        self.changes.count()
    }
}

impl RedisStore {
    async fn apply_to(&self, link: &Arc<Link>, ops: &[Op]) -> Replies {
        let live = match link.live(Instant::now() + self.timeout).await {
            Ok(live) => live,
            Err(error) => return vec![Err(error); ops.len()],
        };
        let chosen: Vec<_> = ops.iter().collect();
        let deadline = Instant::now() + self.timeout;
        let outcomes = exchange(link, &live, &chosen, false, deadline).await;
        outcomes.into_iter().map(answer).collect()
    }
}

/// A server outside a cluster that redirects is one that belongs to a cluster.
fn answer(outcome: Outcome) -> Result<crate::store::Reply, StoreError> {
    match outcome {
        Outcome::Answer(answer) => answer,
        Outcome::Moved(_) | Outcome::Ask(_) => Err(StoreError::Refused(
            "the server is a node of a Redis Cluster: set redis.topology to `Cluster`".to_owned(),
        )),
    }
}
