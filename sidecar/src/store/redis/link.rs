//! Decides when to connect to one server and when to give its connection up. Does network I/O.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Pipeline, Value};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::address::{Access, Address};
use super::sentinel::Sentinels;
use crate::store::StoreError;

/// After a failed attempt to connect, nobody tries again for this long: a refused connection costs a system call an
/// operation otherwise.
const PAUSE: Duration = Duration::from_millis(50);
/// An attempt to connect may outlive the operations that wait for it, by this much: name, TCP, TLS and sign-in take
/// several round trips.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// How often the sentinels are asked whether the master is still the master.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Where a link leads.
#[derive(Debug)]
pub(super) enum Target {
    /// This server.
    Server(Address),
    /// Whichever server the sentinels name.
    Master(Sentinels),
}

/// How often another server may have taken the place of one that answered; shared by the links of a store.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes(Arc<AtomicU64>);

impl Changes {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// One connection to one server, opened when first needed and again when lost.
///
/// # Guarantees
/// - One attempt to connect at a time, whoever waits; it goes on when they have given up waiting.
/// - A connection that failed to answer in time, or at all, serves nobody any more.
pub(super) struct Link {
    target: Target,
    access: Access,
    script_only: bool,
    changes: Changes,
    state: Mutex<State>,
}

enum State {
    Down,
    Opening(Opening),
    Up(Live),
    Pausing { until: Instant, why: Arc<str> },
}

type Opening = Shared<BoxFuture<'static, Result<Live, Arc<str>>>>;

/// An open connection.
#[derive(Clone)]
pub(super) struct Live {
    connection: MultiplexedConnection,
    /// Set once this server has shown that it doesn't know `SET … NX GET`. Also what tells one connection from another.
    old_server: Arc<AtomicBool>,
    /// The server at the other end.
    pub(super) address: Address,
}

impl Live {
    pub(super) fn new(connection: MultiplexedConnection, address: Address) -> Self {
        Self { connection, old_server: Arc::default(), address }
    }

    /// Does this server need the script for a claim?
    pub(super) fn is_old(&self) -> bool {
        self.old_server.load(Ordering::Relaxed)
    }

    /// This server needs the script for a claim.
    pub(super) fn mark_old(&self) {
        self.old_server.store(true, Ordering::Relaxed);
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Link {
    /// A link that connects when first asked; `script_only` takes every server for an old one.
    pub(super) fn new(target: Target, access: Access, script_only: bool, changes: Changes) -> Arc<Self> {
        Arc::new(Self { target, access, script_only, changes, state: Mutex::new(State::Down) })
    }

    /// The open connection, or the one that opens before `deadline`.
    pub(super) async fn live(self: &Arc<Self>, deadline: Instant) -> Result<Live, StoreError> {
        let opening = match &*self.state() {
            State::Up(live) => return Ok(live.clone()),
            State::Opening(opening) => Some(opening.clone()),
            State::Pausing { until, why } if *until > Instant::now() => {
                return Err(StoreError::NotSent(why.to_string()));
            }
            State::Pausing { .. } | State::Down => None,
        };
        let opening = opening.unwrap_or_else(|| self.start());
        match timeout_at(deadline, opening).await {
            Ok(Ok(live)) => Ok(live),
            Ok(Err(why)) => {
                self.opened(&Err(Arc::clone(&why)));
                Err(StoreError::NotSent(why.to_string()))
            }
            Err(_) => Err(StoreError::NotSent(format!("{self} did not accept a connection in time"))),
        }
    }

    /// Starts an attempt to connect, unless somebody else just did.
    fn start(self: &Arc<Self>) -> Opening {
        let mut state = self.state();
        if let State::Opening(opening) = &*state {
            return opening.clone();
        }
        let link = Arc::clone(self);
        // A task of its own: the attempt must not end with the first caller that stops waiting.
        let task = tokio::spawn(async move {
            let result = timeout(CONNECT_LIMIT, link.open()).await;
            let result = result.unwrap_or_else(|_| Err(format!("{link} did not accept a connection in time")));
            let result =
                result.map_err(Arc::from).inspect(|live| live.old_server.store(link.script_only, Ordering::Relaxed));
            link.opened(&result);
            if let (Ok(live), Target::Master(_)) = (&result, &link.target) {
                tokio::spawn(watch_master(Arc::downgrade(&link), live.clone()));
            }
            result
        });
        let opening = async move { task.await.unwrap_or_else(|_| Err("the attempt to connect was stopped".into())) };
        let opening = opening.boxed().shared();
        *state = State::Opening(opening.clone());
        opening
    }

    async fn open(&self) -> Result<Live, String> {
        match &self.target {
            Target::Server(address) => {
                let connection = connect(&self.access, &self.access.client(address)?).await;
                connection.map(|open| Live::new(open, address.clone())).map_err(|why| format!("{self}: {why}"))
            }
            Target::Master(sentinels) => sentinels.connect_to_master(&self.access).await,
        }
    }

    /// Keeps what an attempt came to, if it is still the last one.
    fn opened(&self, result: &Result<Live, Arc<str>>) {
        let mut state = self.state();
        if matches!(*state, State::Opening(_)) {
            *state = match result {
                Ok(live) => State::Up(live.clone()),
                Err(why) => State::Pausing { until: Instant::now() + PAUSE, why: Arc::clone(why) },
            };
        }
    }

    /// Gives up this connection; the next operation opens another. Those under way on it may still end well.
    pub(super) fn give_up(&self, live: &Live) {
        let mut state = self.state();
        if is_up(&state, live) {
            *state = State::Down;
            self.changes.add();
        }
    }

    /// Sends `count` commands and waits for as many replies.
    ///
    /// # Errors
    /// [`StoreError::Unanswered`], and the connection is given up: what it answers from now on may be anything late.
    pub(super) async fn round_trip(
        &self,
        live: &Live,
        pipeline: &Pipeline,
        deadline: Instant,
    ) -> Result<Vec<Value>, StoreError> {
        let count = pipeline.len();
        let mut connection = live.connection.clone();
        let why = match timeout_at(deadline, connection.send_packed_commands(pipeline, 0, count)).await {
            Ok(Ok(values)) if values.len() == count => return Ok(values),
            Ok(Ok(values)) => format!("{} replies to {count} commands", values.len()),
            Ok(Err(error)) => self.access.text(&error),
            Err(_) => "no reply in time".to_owned(),
        };
        self.give_up(live);
        Err(StoreError::Unanswered(format!("{}: {why}", live.address)))
    }

    /// A server's text with whatever signs us in struck out.
    pub(super) fn redact(&self, text: String) -> String {
        self.access.redact(text)
    }

    /// No panic happens while it is held, so a poisoned lock is still good.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_up(state: &State, live: &Live) -> bool {
    matches!(state, State::Up(current) if Arc::ptr_eq(&current.old_server, &live.old_server))
}

/// Leaves a master in whose place another was made: it takes writes for seconds more, until a sentinel makes it a replica, and
/// loses them then.
async fn watch_master(link: Weak<Link>, live: Live) {
    loop {
        sleep(WATCH_EVERY).await;
        let Some(link) = link.upgrade().filter(|link| is_up(&link.state(), &live)) else { return };
        let Target::Master(sentinels) = &link.target else { return };
        if sentinels.name_another(&link.access, &live.address, WATCH_EVERY).await {
            tracing::info!(from = %live.address, "the sentinels name another master: leaving this one");
            return link.give_up(&live);
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Server(address) => address.fmt(f),
            Target::Master(sentinels) => sentinels.fmt(f),
        }
    }
}

/// Connects and signs in. The crate's own time-outs are off: the caller has one for the whole.
pub(super) async fn connect(access: &Access, client: &Client) -> Result<MultiplexedConnection, String> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&config).await.map_err(|error| access.text(&error))
}
