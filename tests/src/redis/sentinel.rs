//! Starts a Redis master, its replica and a sentinel for tests, and makes the replica the master in the ways that lose writes.
//! Does process and network I/O.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use redis::Value;

use super::{RedisServer, free_port, program, wait_until};

/// A master, a replica, and one sentinel that decides alone.
#[derive(Debug)]
pub struct RedisSentinel {
    /// The two servers; the first is the master at the start.
    pub servers: [RedisServer; 2],
    sentinel: RedisServer,
}

impl RedisSentinel {
    /// The name of the master set.
    pub const MASTER: &'static str = "claims";

    /// Starts all three, and waits until the sentinel knows the replica.
    ///
    /// # Errors
    /// As [`RedisServer::start`].
    pub fn start() -> Result<Self> {
        Self::with(&[], Duration::from_secs(2))
    }

    /// As [`RedisSentinel::start`], with options for both servers, and with how long a master may be silent until it is taken for dead.
    ///
    /// # Errors
    /// As [`RedisServer::start`].
    pub fn with(options: &[&str], silence: Duration) -> Result<Self> {
        let master = RedisServer::with(options)?;
        let port = master.port().to_string();
        let follows = format!("127.0.0.1 {port}");
        let replica = RedisServer::with(&[options, &["--replicaof", &follows]].concat())?;
        replica.wait_for(&["INFO", "replication"], "master_link_status:up")?;
        let mut sentinel = RedisServer {
            dir: tempfile::tempdir()?,
            port: free_port()?,
            tls_port: None,
            args: Vec::new(),
            child: None,
        };
        sentinel.spawn_sentinel(master.port(), silence)?;
        let set = Self { servers: [master, replica], sentinel };
        set.sentinel_knows_replica(1)?;
        Ok(set)
    }

    /// The sentinel's URL.
    #[must_use]
    pub fn url(&self) -> String {
        self.sentinel.url()
    }

    /// The index of the server that the sentinel names as the master.
    ///
    /// # Errors
    /// The sentinel doesn't answer, or names another.
    pub fn master(&self) -> Result<usize> {
        let address: Vec<String> = self.sentinel.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Self::MASTER])?;
        let named = |server: &RedisServer| address.last().is_some_and(|port| *port == server.port().to_string());
        self.servers.iter().position(named).with_context(|| format!("the sentinel names {address:?}"))
    }

    /// Makes the replica the master, and waits until both servers know. The old master learns it some 10 s later, and loses what was
    /// written to it meanwhile.
    ///
    /// # Errors
    /// Where that doesn't happen in 30 s.
    pub fn fail_over(&self) -> Result<()> {
        self.promote()?;
        self.wait_until_whole()
    }

    /// Makes the replica a master, and waits until it and the sentinel know; the old one takes itself for the master yet.
    ///
    /// # Errors
    /// As [`RedisSentinel::fail_over`].
    pub fn promote(&self) -> Result<()> {
        let replica = 1 - self.master()?;
        // Refused until the sentinel has seen the replica well.
        wait_until("SENTINEL FAILOVER to be accepted", || {
            Ok(self.sentinel.command::<Value>(&["SENTINEL", "FAILOVER", Self::MASTER]).is_ok())
        })?;
        self.wait_for_master(replica)
    }

    /// The replica hears nothing of what is written from now on, though clients are told that it is done: until the master starts anew.
    ///
    /// # Errors
    /// The master doesn't answer.
    pub fn stop_replication(&self) -> Result<()> {
        let master = &self.servers[self.master()?];
        master.command::<Value>(&["ACL", "SETUSER", "default", "-psync", "-sync"])?;
        master.command::<Value>(&["CLIENT", "KILL", "TYPE", "replica"]).map(|_| ())
    }

    /// Kills the master, waits until the replica has its place, and starts it again: as the new one's replica, since it would take itself for
    /// a master until the sentinel says so, some 10 s later.
    ///
    /// # Errors
    /// Where that doesn't happen in 30 s.
    pub fn lose_master(&mut self) -> Result<()> {
        let old = self.master()?;
        self.servers[old].kill()?;
        self.wait_for_master(1 - old)?;
        self.servers[old].restart()?;
        let port = self.servers[1 - old].port().to_string();
        self.servers[old].command::<Value>(&["REPLICAOF", "127.0.0.1", &port]).map(|_| ())
    }

    /// Waits until each server has its place: the sentinel's master takes itself for one, and the other follows it.
    ///
    /// # Errors
    /// Where that doesn't happen in 30 s.
    pub fn wait_until_whole(&self) -> Result<()> {
        wait_until("a master and its replica", || {
            let Ok(master) = self.master() else { return Ok(false) };
            let says = |server: usize, text: &str| {
                let info = self.servers[server].command::<String>(&["INFO", "replication"]);
                info.is_ok_and(|info| info.contains(text))
            };
            let port = format!("master_port:{}", self.servers[master].port());
            let follows = says(1 - master, &port) && says(1 - master, "master_link_status:up");
            Ok(says(master, "role:master") && follows)
        })
    }

    fn wait_for_master(&self, server: usize) -> Result<()> {
        self.servers[server].wait_for(&["INFO", "replication"], "role:master")?;
        wait_until("the sentinel to name the new master", || Ok(self.master().is_ok_and(|master| master == server)))
    }

    fn sentinel_knows_replica(&self, replica: usize) -> Result<()> {
        let address = format!("127.0.0.1:{}", self.servers[replica].port());
        self.sentinel.wait_for(&["SENTINEL", "REPLICAS", Self::MASTER], &address)
    }
}

impl RedisServer {
    fn spawn_sentinel(&mut self, master: u16, silence: Duration) -> Result<()> {
        let name = RedisSentinel::MASTER;
        let silence = silence.as_millis();
        // It tries again after twice the time-out.
        let config = format!(
            "port {}\nbind 127.0.0.1\ndir {}\nlogfile redis.log\nsentinel monitor {name} 127.0.0.1 {master} 1\n\
             sentinel down-after-milliseconds {name} {silence}\nsentinel failover-timeout {name} {}\n",
            self.port,
            self.dir.path().display(),
            silence * 2,
        );
        let path = self.dir.path().join("sentinel.conf");
        std::fs::write(&path, config)?;
        let mut command = Command::new(program("redis-server", "redis-server")?);
        command.arg(path).arg("--sentinel").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().context("start redis-server as a sentinel")?);
        self.wait_until_up()
    }
}
