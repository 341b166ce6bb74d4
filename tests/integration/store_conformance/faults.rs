//! What can go wrong between the store and Redis, each on a real server: the answer must say whether the operation may
//! have been applied, and the store must come back by itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crds::config::{ClaimCommand, Topology};
use futures_util::future::join_all;
use harness::proxy::{Action, Proxy};
use harness::redis::{Certificates, RedisCluster, RedisSentinel, RedisServer, wait_until};
use libtest_mimic::Trial;
use redis::Value;
use sidecar::settings::{RedisSettings, Secret};
use sidecar::store::redis::{Inspection, RedisStore};
use sidecar::store::{ClaimStore, Op, Reply, StoreError};

use super::subject::{limited_user, settings, tls_settings};
use super::{bytes, claim, put, remove, renew, swap, trial};

/// The store's time-out where a test runs into it on purpose.
const SHORT: Duration = Duration::from_millis(250);
/// How much longer than its time-outs a call may take on a busy machine.
const SLACK: Duration = Duration::from_secs(2);

pub(super) fn tests() -> Vec<Trial> {
    macro_rules! list {
        ($($name:ident),* $(,)?) => {
            vec![$(trial(format!("store::faults::{}", stringify!($name)), $name)),*]
        };
    }
    list![
        a_frozen_server_leaves_operations_unanswered,
        a_server_frozen_from_the_start_is_not_reached,
        a_killed_server_is_found_again,
        a_closed_port_refuses_at_once,
        scripts_are_sent_again_when_forgotten,
        a_lost_reply_is_not_repeated,
        a_lost_request_is_not_repeated,
        a_swallowed_reply_costs_the_connection,
        a_request_held_on_its_way_may_apply_later,
        an_older_server_is_spoken_to_by_script,
        a_replica_refuses,
        a_full_server_refuses,
        a_loading_server_refuses,
        a_wrong_password_is_never_told,
        an_unknown_authority_is_refused,
        a_limited_user_is_refused_elsewhere,
        the_eviction_policy_is_read,
        a_cluster_node_taken_for_a_server_says_so,
        moving_slots_are_followed,
        a_lost_cluster_node_leaves_the_others,
        a_failover_is_followed,
    ]
}

fn store(settings: &RedisSettings) -> RedisStore {
    RedisStore::new(settings).unwrap()
}

fn short(url: impl Into<String>) -> RedisSettings {
    RedisSettings { timeout: SHORT, ..settings(url) }
}

async fn one(store: &RedisStore, op: Op) -> Result<Reply, StoreError> {
    store.apply(vec![op]).await.remove(0)
}

fn is_unanswered<T>(reply: &Result<T, StoreError>) -> bool {
    matches!(reply, Err(StoreError::Unanswered(_)))
}

fn is_not_sent<T>(reply: &Result<T, StoreError>) -> bool {
    matches!(reply, Err(StoreError::NotSent(_)))
}

fn refusal<T: std::fmt::Debug>(reply: Result<T, StoreError>) -> String {
    match reply {
        Err(StoreError::Refused(text)) => text,
        other => panic!("expected a refusal: {other:?}"),
    }
}

/// Asks until the store answers.
async fn recovers(store: &RedisStore) {
    let started = Instant::now();
    loop {
        match one(store, put("recovered", "yes", Duration::from_secs(9))).await {
            Ok(reply) => return assert_eq!(reply, Reply::Applied),
            Err(error) => assert!(started.elapsed() < Duration::from_secs(30), "did not recover: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn holds(server: &RedisServer, key: &str) -> Option<String> {
    server.command(&["GET", key]).unwrap()
}

async fn a_frozen_server_leaves_operations_unanswered() {
    let server = RedisServer::start().unwrap();
    let store = store(&short(server.url()));
    recovers(&store).await;
    server.freeze().unwrap();
    let started = Instant::now();
    let replies = store.apply(vec![claim("a", "1"), claim("b", "1")]).await;
    let took = started.elapsed();
    assert!(replies.len() == 2 && replies.iter().all(is_unanswered), "{replies:?}");
    assert!(took >= SHORT && took < SHORT + SLACK, "{took:?}");
    // The frozen connection serves nobody any more; a new one is accepted by the kernel alone, and gets no further.
    assert!(is_not_sent(&one(&store, claim("c", "1")).await) || is_unanswered(&one(&store, claim("c", "1")).await));
    server.thaw().unwrap();
    recovers(&store).await;
}

async fn a_server_frozen_from_the_start_is_not_reached() {
    let server = RedisServer::start().unwrap();
    // With a password to present, the frozen server can't be taken for one that is connected.
    server.command::<Value>(&["ACL", "SETUSER", "me", "on", ">pw", "~*", "+@all"]).unwrap();
    let with_user =
        RedisSettings { username: Some(Secret::new("me")), password: Some(Secret::new("pw")), ..short(server.url()) };
    let store = store(&with_user);
    let connections = || -> u64 {
        let info: String = server.command(&["INFO", "stats"]).unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix("total_connections_received:")).unwrap();
        line.trim().parse().unwrap()
    };
    let before = connections();
    server.freeze().unwrap();
    let started = Instant::now();
    let replies = join_all((0..64).map(|i| one(&store, claim(&format!("k{i}"), "1")))).await;
    assert!(replies.iter().all(is_not_sent), "{replies:?}");
    assert!(started.elapsed() < SHORT + SLACK);
    server.thaw().unwrap();
    recovers(&store).await;
    // One of the test's own just now, one or two of the store: 64 waiting operations share one attempt.
    let made = connections() - before;
    assert!(made <= 3, "{made} connections");
    assert!((0..64).all(|i| holds(&server, &format!("k{i}")).is_none()), "what was not sent is not applied");
}

async fn a_killed_server_is_found_again() {
    let mut server = RedisServer::start().unwrap();
    let store = store(&short(server.url()));
    recovers(&store).await;
    for _ in 0..2 {
        server.kill().unwrap();
        let first = one(&store, claim("a", "1")).await;
        assert!(is_unanswered(&first) || is_not_sent(&first), "{first:?}");
        let started = Instant::now();
        for _ in 0..20 {
            assert!(is_not_sent(&one(&store, claim("a", "1")).await));
        }
        assert!(started.elapsed() < SLACK, "an absent server is told at once");
        let changes = store.changes();
        server.restart().unwrap();
        recovers(&store).await;
        assert!(store.changes() == changes && changes > 0, "each loss is told once");
        // The scripts went with the process.
        assert_eq!(one(&store, swap("recovered", "yes", "again")).await, Ok(Reply::Applied));
    }
}

async fn a_closed_port_refuses_at_once() {
    let mut server = RedisServer::start().unwrap();
    server.kill().unwrap();
    let store = store(&settings(server.url()));
    let started = Instant::now();
    let reply = one(&store, claim("a", "1")).await;
    assert!(is_not_sent(&reply), "{reply:?}");
    assert!(reply.unwrap_err().to_string().contains(&server.port().to_string()), "the error names the server");
    assert!(started.elapsed() < SLACK);
}

async fn scripts_are_sent_again_when_forgotten() {
    let server = RedisServer::start().unwrap();
    for claim_command in [ClaimCommand::Auto, ClaimCommand::Script] {
        let store = store(&RedisSettings { claim_command, ..settings(server.url()) });
        for round in 0..2 {
            server.command::<Value>(&["FLUSHALL"]).unwrap();
            server.command::<Value>(&["SCRIPT", "FLUSH"]).unwrap();
            let value = round.to_string();
            assert_eq!(one(&store, claim("k", &value)).await, Ok(Reply::Applied));
            server.command::<Value>(&["SCRIPT", "FLUSH"]).unwrap();
            // All three scripts in one call, the plain commands between them in their places.
            let ops = vec![
                claim("k", "other"),
                swap("k", "wrong", "x"),
                put("plain", "v", Duration::from_secs(60)),
                remove("k", "wrong"),
                renew("absent", "v"),
            ];
            let present = Reply::Present(Bytes::from(value));
            let expected = [present, Reply::Refused, Reply::Applied, Reply::Refused, Reply::Refused].map(Ok);
            assert_eq!(store.apply(ops).await, expected);
        }
    }
}

/// A store that reaches the server through a proxy.
async fn through_proxy(server: &RedisServer) -> (Proxy, RedisStore) {
    let proxy = Proxy::start(server.port()).await.unwrap();
    let store = store(&short(proxy.url()));
    recovers(&store).await;
    (proxy, store)
}

async fn a_lost_reply_is_not_repeated() {
    let server = RedisServer::start().unwrap();
    let (proxy, store) = through_proxy(&server).await;
    proxy.once("lost", Action::LoseReply);
    let replies = store.apply(vec![claim("before", "1"), claim("lost", "1"), claim("after", "1")]).await;
    assert!(replies[1..].iter().all(is_unanswered), "{replies:?}");
    assert_eq!(holds(&server, "lost").as_deref(), Some("1"), "it was applied");
    // A repeated compare-and-set would say "refused", though the first one was applied. The server holds the script.
    recovers(&store).await;
    assert_eq!(one(&store, swap("lost", "1", "2")).await, Ok(Reply::Applied));
    let answered = proxy.answered();
    proxy.once("EVALSHA", Action::LoseReply);
    let reply = one(&store, swap("lost", "2", "3")).await;
    assert!(is_unanswered(&reply), "{reply:?}");
    assert_eq!(holds(&server, "lost").as_deref(), Some("3"));
    assert_eq!(proxy.answered(), answered + 1);
}

async fn a_lost_request_is_not_repeated() {
    let server = RedisServer::start().unwrap();
    let (proxy, store) = through_proxy(&server).await;
    proxy.once("lost", Action::LoseRequest);
    assert!(is_unanswered(&one(&store, claim("lost", "1")).await));
    recovers(&store).await;
    assert_eq!(holds(&server, "lost"), None);
    assert_eq!(one(&store, claim("lost", "2")).await, Ok(Reply::Applied));
}

async fn a_swallowed_reply_costs_the_connection() {
    let server = RedisServer::start().unwrap();
    let (proxy, store) = through_proxy(&server).await;
    proxy.once("swallowed", Action::SwallowReply);
    let started = Instant::now();
    assert!(is_unanswered(&one(&store, claim("swallowed", "1")).await));
    assert!(started.elapsed() >= SHORT);
    // The old connection swallows for ever: only a new one can answer.
    assert_eq!(one(&store, claim("swallowed", "2")).await, Ok(Reply::Present(bytes("1"))));
}

async fn a_request_held_on_its_way_may_apply_later() {
    let server = RedisServer::start().unwrap();
    let (proxy, store) = through_proxy(&server).await;
    proxy.once("held", Action::HoldRequest);
    assert!(is_unanswered(&one(&store, claim("held", "1")).await));
    recovers(&store).await;
    assert_eq!(holds(&server, "held"), None);
    proxy.release();
    server.wait_for(&["GET", "held"], "1").unwrap();
    assert_eq!(one(&store, claim("held", "2")).await, Ok(Reply::Present(bytes("1"))));
}

async fn an_older_server_is_spoken_to_by_script() {
    let server = RedisServer::start().unwrap();
    let (proxy, store) = through_proxy(&server).await;
    // What Redis 6 says to it.
    let unknown = |request: &[u8]| request.windows(4).any(|w| w == b"\nNX\r") && request.ends_with(b"GET\r\n");
    proxy.on(unknown, Action::Answer("-ERR syntax error\r\n"), usize::MAX);
    let ops = || vec![claim("a", "1"), put("b", "v", Duration::from_secs(60)), claim("c", "1")];
    assert_eq!(store.apply(ops()).await, [Reply::Applied, Reply::Applied, Reply::Applied].map(Ok));
    assert_eq!(proxy.fired_so_far(), 2);
    let present = Reply::Present(bytes("1"));
    assert_eq!(store.apply(ops()).await, [present.clone(), Reply::Applied, present].map(Ok));
    assert_eq!(proxy.fired_so_far(), 2, "not asked again on this connection");
}

async fn a_replica_refuses() {
    let master = RedisServer::start().unwrap();
    let server = RedisServer::with(&["--replicaof", &format!("127.0.0.1 {}", master.port())]).unwrap();
    server.wait_for(&["INFO", "replication"], "master_link_status:up").unwrap();
    let store = store(&settings(server.url()));
    for op in [claim("k", "1"), put("k", "1", SLACK), renew("k", "1"), Op::Delete { key: "k".into() }] {
        assert!(refusal(one(&store, op.clone()).await).contains("READONLY"), "{op:?}");
    }
    assert_eq!(one(&store, Op::Exists { key: "k".into() }).await, Ok(Reply::Refused), "a replica may be read");
    server.command::<Value>(&["REPLICAOF", "NO", "ONE"]).unwrap();
    recovers(&store).await;
    server.command::<Value>(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]).unwrap();
    server.wait_for(&["INFO", "replication"], "role:slave").unwrap();
    let reply = one(&store, swap("recovered", "yes", "no")).await;
    assert!(matches!(&reply, Err(StoreError::Refused(_)) | Ok(Reply::Refused)), "{reply:?}");
}

async fn a_full_server_refuses() {
    let server = RedisServer::start().unwrap();
    let store = store(&settings(server.url()));
    assert_eq!(one(&store, claim("k", "1")).await, Ok(Reply::Applied));
    server.command::<Value>(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    for op in [claim("new", "1"), put("k", "2", SLACK), renew("k", "2"), swap("k", "1", "2")] {
        assert!(refusal(one(&store, op.clone()).await).contains("OOM"), "{op:?}");
    }
    assert_eq!(holds(&server, "k").as_deref(), Some("1"), "what was refused was not applied");
    assert_eq!(one(&store, Op::Delete { key: "k".into() }).await, Ok(Reply::Applied));
    server.command::<Value>(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    recovers(&store).await;
}

async fn a_loading_server_refuses() {
    let slow = ["--enable-debug-command", "yes", "--loading-process-events-interval-bytes", "1024"];
    let server = Arc::new(RedisServer::with(&[&slow[..], &["--key-load-delay", "1000"]].concat()).unwrap());
    server.command::<Value>(&["DEBUG", "POPULATE", "2000", "key", "100"]).unwrap();
    let store = store(&settings(server.url()));
    recovers(&store).await;
    let reload = tokio::task::spawn_blocking({
        let server = Arc::clone(&server);
        move || server.command::<Value>(&["DEBUG", "RELOAD"])
    });
    let seen = loop {
        match one(&store, put("k", "v", Duration::from_secs(60))).await {
            Err(StoreError::Refused(text)) => break text,
            other => assert_eq!(other, Ok(Reply::Applied)),
        }
        assert!(!reload.is_finished(), "the server loaded without saying so");
    };
    assert!(seen.starts_with("LOADING"), "{seen}");
    reload.await.unwrap().unwrap();
    recovers(&store).await;
}

async fn a_wrong_password_is_never_told() {
    let server = RedisServer::start().unwrap();
    server.command::<Value>(&["ACL", "SETUSER", "somebody", "on", ">right", "~*", "+@all"]).unwrap();
    let port = server.port();
    let urls = [
        format!("redis://somebody:hunter2@127.0.0.1:{port}"),
        format!("redis://:hunter2@127.0.0.1:{port}"),
        format!("redis://nobody:hunter2@127.0.0.1:{port}"),
    ];
    for url in urls {
        let store = store(&settings(url.clone()));
        let reply = one(&store, claim("k", "1")).await;
        assert!(is_not_sent(&reply), "{reply:?}");
        let told = format!("{reply:?} {} {store:?}", reply.clone().unwrap_err());
        assert!(!told.contains("hunter2") && !told.contains("somebody") && !told.contains("nobody"), "{told}");
    }
    // A server may repeat what it was told in any of its errors.
    server.command::<Value>(&["ACL", "SETUSER", "somebody", "on", ">hunter2", "~*", "+@all"]).unwrap();
    let proxy = Proxy::start(port).await.unwrap();
    proxy.once("EXISTS", Action::Answer("-ERR somebody said: AUTH somebody hunter2\r\n"));
    let (username, password) = (Some(Secret::new("somebody")), Some(Secret::new("hunter2")));
    let store = store(&RedisSettings { username, password, ..settings(proxy.url()) });
    let told = refusal(one(&store, Op::Exists { key: "k".into() }).await);
    assert_eq!(told, "ERR [secret] said: AUTH [secret] [secret]");
}

async fn an_unknown_authority_is_refused() {
    let (ours, theirs) = (Certificates::generate().unwrap(), Certificates::generate().unwrap());
    let server = RedisServer::with_tls(&ours, &[]).unwrap();
    limited_user(&server);
    let right = tls_settings(&server, &ours);
    assert_eq!(one(&store(&right), claim("idempotency:test:k", "1")).await, Ok(Reply::Applied));
    let wrong_ca = RedisSettings { ca_pem: tls_settings(&server, &theirs).ca_pem, ..right.clone() };
    let reply = one(&store(&wrong_ca), claim("idempotency:test:k", "1")).await;
    assert!(is_not_sent(&reply) && format!("{reply:?}").contains("certificate"), "{reply:?}");
    let mixed = right.client_pem.clone().zip(tls_settings(&server, &theirs).client_pem).map(|(a, b)| (a.0, b.1));
    let told = RedisStore::new(&RedisSettings { client_pem: mixed, ..right.clone() }).unwrap_err().to_string();
    assert!(told.contains("don't go together"), "{told}");
    let no_client = RedisSettings { client_pem: None, ..right };
    let reply = one(&store(&no_client), claim("idempotency:test:k", "1")).await;
    assert!(is_not_sent(&reply), "the server asks for a certificate: {reply:?}");
}

async fn a_limited_user_is_refused_elsewhere() {
    let server = RedisServer::start().unwrap();
    limited_user(&server);
    let user = RedisSettings {
        username: Some(Secret::new("sidecar")),
        password: Some(Secret::new("correct horse")),
        ..settings(server.url())
    };
    let store = store(&user);
    for op in [claim("elsewhere", "1"), swap("elsewhere", "1", "2"), put("elsewhere", "1", SLACK)] {
        let told = refusal(one(&store, op.clone()).await);
        assert!(told.contains("permission"), "{op:?}: {told}");
        assert!(!told.contains("correct horse"));
    }
    assert_eq!(holds(&server, "elsewhere"), None);
    assert_eq!(store.inspect().await, Inspection::default(), "it may not ask");
    server.command::<Value>(&["ACL", "SETUSER", "sidecar", "+info"]).unwrap();
    assert_eq!(store.inspect().await.may_evict(), Some(false));
}

async fn the_eviction_policy_is_read() {
    let mut server = RedisServer::start().unwrap();
    let store = store(&short(server.url()));
    let found = store.inspect().await;
    assert!(found.version.as_ref().is_some_and(|version| version.contains('.')), "{found:?}");
    assert_eq!((found.eviction_policy.as_deref(), found.may_evict()), (Some("noeviction"), Some(false)));
    server.command::<Value>(&["CONFIG", "SET", "maxmemory-policy", "volatile-ttl"]).unwrap();
    assert_eq!(store.inspect().await.may_evict(), Some(true));
    server.kill().unwrap();
    assert_eq!(store.inspect().await.may_evict(), None);
}

async fn a_cluster_node_taken_for_a_server_says_so() {
    let cluster = RedisCluster::start().unwrap();
    let store = store(&settings(cluster.nodes[0].url()));
    let elsewhere = (0..).map(|i| format!("k{i}")).find(|key| cluster.owner(key).unwrap() != 0).unwrap();
    assert!(refusal(one(&store, claim(&elsewhere, "1")).await).contains("`Cluster`"));
}

fn cluster_settings(cluster: &RedisCluster) -> RedisSettings {
    RedisSettings { topology: Topology::Cluster, ..settings(cluster.nodes[0].url()) }
}

async fn moving_slots_are_followed() {
    let cluster = RedisCluster::start().unwrap();
    let store = store(&cluster_settings(&cluster));
    let key = "moving";
    assert_eq!(one(&store, claim(key, "1")).await, Ok(Reply::Applied));
    let slot = cluster.nodes[0].command::<u16>(&["CLUSTER", "KEYSLOT", key]).unwrap().to_string();
    let (from, to) = (cluster.owner(key).unwrap(), (cluster.owner(key).unwrap() + 1) % 3);
    let (from_id, to_id) = (cluster.id(from).unwrap(), cluster.id(to).unwrap());
    let (from, to) = (&cluster.nodes[from], &cluster.nodes[to]);
    to.command::<Value>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]).unwrap();
    from.command::<Value>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).unwrap();
    from.command::<Value>(&["MIGRATE", "127.0.0.1", &to.port().to_string(), key, "0", "5000"]).unwrap();
    // ASK: the old node still serves the slot, and the key has gone already. Scripts go along.
    assert_eq!(one(&store, claim(key, "2")).await, Ok(Reply::Present(bytes("1"))));
    assert_eq!(one(&store, swap(key, "1", "2")).await, Ok(Reply::Applied));
    assert_eq!(one(&store, claim("{moving}new", "1")).await, Ok(Reply::Applied));
    for node in [to, from] {
        node.command::<Value>(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]).unwrap();
    }
    wait_until("both nodes to know of the move", || {
        let moved = from.command::<Value>(&["EXISTS", key]).is_err();
        Ok(moved && to.command::<Value>(&["EXISTS", key]).is_ok())
    })
    .unwrap();
    // MOVED, and then the new map.
    for _ in 0..3 {
        let ops = vec![claim(key, "3"), claim("elsewhere", "1"), claim("{moving}new", "3")];
        let replies = store.apply(ops).await;
        assert_eq!((&replies[0], &replies[2]), (&Ok(Reply::Present(bytes("2"))), &Ok(Reply::Present(bytes("1")))));
    }
    assert_eq!(store.changes(), 0, "a slot that moves takes its keys along");
}

async fn a_lost_cluster_node_leaves_the_others() {
    let mut cluster = RedisCluster::start().unwrap();
    for node in &cluster.nodes {
        node.command::<Value>(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]).unwrap();
    }
    // The settings name the first node only; it is the one that goes.
    let store = store(&RedisSettings { timeout: SHORT * 8, ..cluster_settings(&cluster) });
    let keys: Vec<_> = (0..30).map(|i| format!("k{i}")).collect();
    let owners: Vec<_> = keys.iter().map(|key| cluster.owner(key).unwrap()).collect();
    let puts = || keys.iter().map(|key| put(key, "v", Duration::from_secs(60))).collect::<Vec<_>>();
    assert!(store.apply(puts()).await.iter().all(|reply| *reply == Ok(Reply::Applied)));
    cluster.nodes[0].kill().unwrap();
    for _ in 0..3 {
        for (reply, owner) in store.apply(puts()).await.iter().zip(&owners) {
            let lost = is_unanswered(reply) || is_not_sent(reply);
            assert!(if *owner == 0 { lost } else { *reply == Ok(Reply::Applied) }, "{owner}: {reply:?}");
        }
    }
}

async fn a_failover_is_followed() {
    let sentinel = RedisSentinel::start().unwrap();
    let store = store(&RedisSettings {
        topology: Topology::Sentinel,
        sentinel_master: Some(RedisSentinel::MASTER.to_owned()),
        ..settings(sentinel.url())
    });
    assert_eq!(one(&store, claim("before", "1")).await, Ok(Reply::Applied));
    assert_eq!(holds(&sentinel.servers[0], "before").as_deref(), Some("1"));
    assert_eq!(store.changes(), 0, "the first server takes nobody's place");
    sentinel.fail_over().unwrap();
    recovers(&store).await;
    assert!(store.changes() > 0, "the new master may lack what the old one said it had");
    assert_eq!(holds(&sentinel.servers[1], "recovered").as_deref(), Some("yes"), "it is the new master that was asked");
    let unknown = RedisSettings {
        topology: Topology::Sentinel,
        sentinel_master: Some("other".to_owned()),
        ..settings(sentinel.url())
    };
    let reply = one(&self::store(&unknown), claim("k", "1")).await;
    assert!(is_not_sent(&reply) && format!("{reply:?}").contains("no such master"), "{reply:?}");
}
