//! Measures ways to claim in Redis, on a `redis-server` of its own (from PATH; Debian package `redis-server`):
//! `cargo bench -p idempotent-consumer-sidecar --bench store`. Rounds are interleaved, medians printed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crds::config::{ClaimCommand, Topology};
use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Script, Value};
use sidecar::settings::{RedisSettings, Secret};
use sidecar::store::redis::RedisStore;
use sidecar::store::{ClaimStore, Op, Reply};

const OPS: usize = 30_000;
const ROUNDS: usize = 7;
/// Three in ten keys are there already.
const PRESENT: fn(usize) -> bool = |index| index % 10 < 3;
const TTL: u64 = 3600;
const SCRIPT: &str = "local v = redis.call('GET', KEYS[1]) if v then return v end \
                      redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2]) return false";

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start() -> (Server, String) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--lazyfree-lazy-user-flush", "no"]);
    let child = command.stdout(Stdio::null()).spawn().expect("redis-server in PATH: apt-get install redis-server");
    (Server(child), format!("redis://127.0.0.1:{port}"))
}

fn key(index: usize) -> String {
    format!("idempotency:bench:topic:type:{index:064x}")
}

/// Sends batches one after another over one connection, as one of the ways to claim.
async fn raw(way: &str, batch: usize, connection: &mut MultiplexedConnection) {
    let sha = Script::new(SCRIPT);
    for first in (0..OPS).step_by(batch) {
        let keys: Vec<_> = (first..(first + batch).min(OPS)).map(key).collect();
        let mut pipeline = Pipeline::with_capacity(batch * 2);
        for key in &keys {
            match way {
                "SET NX GET" => pipeline.cmd("SET").arg(key).arg("c:me:1").arg("EX").arg(TTL).arg("NX").arg("GET"),
                "script" => {
                    pipeline.cmd("EVALSHA").arg(sha.get_hash()).arg(1).arg(key).arg("c:me:1").arg(TTL);
                    &mut pipeline
                }
                _ => pipeline.cmd("SET").arg(key).arg("c:me:1").arg("EX").arg(TTL).arg("NX"),
            };
            if way == "SET NX, GET at once" {
                pipeline.cmd("GET").arg(key);
            }
        }
        let values = connection.send_packed_commands(&pipeline, 0, pipeline.len()).await.unwrap();
        if way == "SET NX, GET of refused" {
            let mut second = Pipeline::new();
            let refused = keys.iter().zip(&values).filter(|(_, value)| **value == Value::Nil);
            refused.for_each(|(key, _)| {
                second.cmd("GET").arg(key);
            });
            connection.send_packed_commands(&second, 0, second.len()).await.unwrap();
        }
    }
}

/// The same through the store, `callers` at a time over `stores` connections.
async fn through(stores: &[Arc<RedisStore>], callers: usize, batch: usize) {
    let chunk = OPS / callers;
    join_all((0..callers).map(|caller| {
        let store = Arc::clone(&stores[caller % stores.len()]);
        tokio::spawn(async move {
            for first in (caller * chunk..(caller + 1) * chunk).step_by(batch) {
                let ops = (first..(first + batch).min((caller + 1) * chunk)).map(|index| Op::SetIfAbsent {
                    key: key(index).into(),
                    value: Bytes::from_static(b"c:me:1"),
                    ttl: Duration::from_secs(TTL),
                });
                for reply in store.apply(ops.collect()).await {
                    assert!(matches!(reply, Ok(Reply::Applied | Reply::Present(_))), "{reply:?}");
                }
            }
        })
    }))
    .await;
}

async fn prepare(connection: &mut MultiplexedConnection) {
    let mut pipeline = Pipeline::new();
    pipeline.cmd("FLUSHALL").cmd("SCRIPT").arg("LOAD").arg(SCRIPT);
    for index in (0..OPS).filter(|index| PRESENT(*index)) {
        pipeline.cmd("SET").arg(key(index)).arg("1").arg("EX").arg(TTL);
    }
    connection.send_packed_commands(&pipeline, 0, pipeline.len()).await.unwrap();
}

fn store(url: &str) -> Arc<RedisStore> {
    let settings = RedisSettings {
        urls: vec![Secret::new(url)],
        username: None,
        password: None,
        ca_pem: None,
        client_pem: None,
        topology: Topology::Standalone,
        sentinel_master: None,
        claim_command: ClaimCommand::Auto,
        timeout: Duration::from_secs(10),
    };
    Arc::new(RedisStore::new(&settings).unwrap())
}

#[tokio::main]
async fn main() {
    let (_server, url) = start();
    let client = redis::Client::open(url.as_str()).unwrap();
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let mut connection = loop {
        match client.get_multiplexed_async_connection_with_config(&config).await {
            Ok(connection) => break connection,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let stores = [store(&url), store(&url)];
    let ways = ["SET NX GET", "SET NX, GET of refused", "SET NX, GET at once", "script"];
    let through_stores = ["store, 1 connection, 4 callers", "store, 2 connections, 4 callers", "store, 1 caller"];
    let cases: Vec<(&str, usize)> =
        ways.iter().chain(&through_stores).flat_map(|way| [(*way, 64), (*way, 256)]).collect();
    let mut taken = vec![Vec::new(); cases.len()];
    for _ in 0..ROUNDS {
        for ((way, batch), taken) in cases.iter().zip(&mut taken) {
            prepare(&mut connection).await;
            let started = Instant::now();
            match *way {
                "store, 1 connection, 4 callers" => through(&stores[..1], 4, *batch).await,
                "store, 2 connections, 4 callers" => through(&stores, 4, *batch).await,
                "store, 1 caller" => through(&stores[..1], 1, *batch).await,
                way => raw(way, *batch, &mut connection).await,
            }
            taken.push(started.elapsed());
        }
    }
    for ((way, batch), mut taken) in cases.into_iter().zip(taken) {
        taken.sort();
        let rate = |taken: Duration| OPS as f64 / taken.as_secs_f64() / 1000.0;
        let (median, best) = (rate(taken[ROUNDS / 2]), rate(taken[0]));
        println!("{way:32} batch {batch:3}: {median:6.0} k claims/s (best {best:.0})");
    }
}
