//! Decides which server is the master: asks all sentinels at once and checks what they name. Does network I/O.

use std::fmt;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::{ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::time::timeout;

use super::address::{Access, Address};
use super::link::{Live, connect};

/// The sentinels, and the master set to ask them for.
///
/// The crate's own sentinel client takes their answers in the order of the URLs, so that one sentinel that swallows
/// packets holds up all the others for longer than an operation may take; hence this one.
#[derive(Debug)]
pub(super) struct Sentinels {
    addresses: Vec<Address>,
    master: String,
}

impl Sentinels {
    pub(super) fn new(addresses: Vec<Address>, master: String) -> Self {
        Self { addresses, master }
    }

    /// Connects to the first server named by any sentinel that says of itself that it is a master.
    pub(super) async fn connect_to_master(&self, access: &Access) -> Result<Live, String> {
        let mut asked: FuturesUnordered<_> = self.addresses.iter().map(|sentinel| self.ask(access, sentinel)).collect();
        let mut tried: Vec<Address> = Vec::new();
        let mut why = Vec::new();
        while let Some(named) = asked.next().await {
            match named {
                Ok(address) if tried.contains(&address) => {}
                Ok(address) => {
                    match check(access, &address).await {
                        Ok(live) => return Ok(live),
                        Err(wrong) => why.push(format!("{address}: {wrong}")),
                    }
                    tried.push(address);
                }
                Err(silent) => why.push(silent),
            }
        }
        Err(format!("no master `{}`: {}", self.master, why.join("; ")))
    }

    /// Do the sentinels that answer within that time name another server than this one, which says of itself that it is a
    /// master? Not while one of them names this one: they learn of a failover one after the other, and one server may have
    /// several names.
    pub(super) async fn name_another(&self, access: &Access, current: &Address, limit: Duration) -> bool {
        let asked = self.addresses.iter().map(|sentinel| timeout(limit, self.ask(access, sentinel)));
        let named: Vec<Address> = join_all(asked).await.into_iter().flatten().flatten().collect();
        if named.contains(current) {
            return false;
        }
        for other in &named {
            if matches!(timeout(limit, check(access, other)).await, Ok(Ok(_))) {
                return true;
            }
        }
        false
    }

    async fn ask(&self, access: &Access, sentinel: &Address) -> Result<Address, String> {
        self.ask_inner(access, sentinel).await.map_err(|why| format!("sentinel {sentinel}: {why}"))
    }

    async fn ask_inner(&self, access: &Access, sentinel: &Address) -> Result<Address, String> {
        let mut connection = match connect(access, &access.sentinel(sentinel)?).await {
            Ok(connection) => connection,
            // Sentinels often ask for no password where the servers do, and refuse one.
            Err(_) if access.has_password() => connect(access, &access.anonymous(sentinel)?).await?,
            Err(why) => return Err(why),
        };
        let mut cmd = redis::cmd("SENTINEL");
        cmd.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.master);
        let named: Option<(String, u16)> = cmd.query_async(&mut connection).await.map_err(|e| access.text(&e))?;
        let (host, port) = named.ok_or("it knows no such master")?;
        sentinel.at(&host, port).ok_or_else(|| "it names a server without an address".to_owned())
    }
}

impl fmt::Display for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "master `{}`", self.master)
    }
}

/// Connects to a server and asks whether it is a master: a sentinel may still name the old one.
async fn check(access: &Access, address: &Address) -> Result<Live, String> {
    let mut connection = connect(access, &access.client(address)?).await?;
    let role: Result<Value, RedisError> = redis::cmd("ROLE").query_async(&mut connection).await;
    let live = Live::new(connection, address.clone());
    match role {
        Ok(Value::Array(role)) => match role.first() {
            Some(Value::BulkString(role)) if role == b"master" => Ok(live),
            _ => Err("it is not a master".to_owned()),
        },
        // Without the right to ask, the first write tells: a replica answers READONLY.
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => Ok(live),
        Err(error) => Err(access.text(&error)),
        Ok(_) => Err("it does not say whether it is a master".to_owned()),
    }
}
