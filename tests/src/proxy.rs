//! A TCP proxy in front of Redis that loses, holds up or cuts off single requests and replies, as a test tells it. Does
//! network I/O.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It reaches Redis; its reply is lost, and the connection is cut.
    LoseReply,
    /// It reaches Redis; its reply and all after it on this connection are lost, and the connection stays open.
    SwallowReply,
    /// It is lost, and the connection is cut.
    LoseRequest,
    /// It reaches Redis only after [`Proxy::release`], also if the client has left by then.
    HoldRequest,
    /// It reaches Redis; its reply, and all after it, leave after [`Proxy::release`].
    HoldReply,
    /// It is lost, and this answers in Redis's place (`-ERR syntax error\r\n`).
    Answer(&'static str),
}

/// An action on one request, and what tells it to go on where it holds. Subscribed before the test hears that it began.
struct Fate {
    action: Action,
    released: watch::Receiver<u64>,
}

impl Fate {
    async fn wait_for_release(&mut self) {
        let _ = self.released.changed().await;
    }
}

type Predicate = Box<dyn Fn(&[u8]) -> bool + Send>;

struct Rule {
    matches: Predicate,
    action: Action,
    times: usize,
}

/// What the connections share with the test.
struct Control {
    rules: Mutex<Vec<Rule>>,
    /// Counts releases; what is held waits for the next one.
    released: watch::Sender<u64>,
    /// Counts actions that began.
    fired: watch::Sender<usize>,
    /// Counts requests that were answered by Redis.
    answered: watch::Sender<usize>,
    /// Counts cuts; a connection ends when it changes.
    cut: watch::Sender<u64>,
    /// While true nothing is passed on, in either direction.
    stopped: watch::Sender<bool>,
}

/// A running proxy; ends, with its connections, when dropped.
pub struct Proxy {
    address: SocketAddr,
    control: Arc<Control>,
    accepting: AbortHandle,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Proxy {
    /// Listens on a free loopback port in front of a Redis on loopback.
    ///
    /// # Errors
    /// Where it can't listen.
    pub async fn start(redis_port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let control = Arc::new(Control {
            rules: Mutex::default(),
            released: watch::Sender::new(0),
            fired: watch::Sender::new(0),
            answered: watch::Sender::new(0),
            cut: watch::Sender::new(0),
            stopped: watch::Sender::new(false),
        });
        let shared = Arc::clone(&control);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, redis_port, Arc::clone(&shared)));
            }
        });
        Ok(Self { address, control, accepting: accepting.abort_handle() })
    }

    /// `redis://127.0.0.1:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Lets `action` happen to the next `times` requests that match; rules are asked in the order they were made. The
    /// predicate sees a request's bytes as they are on the wire.
    pub fn on(&self, matches: impl Fn(&[u8]) -> bool + Send + 'static, action: Action, times: usize) {
        self.control.rules().push(Rule { matches: Box::new(matches), action, times });
    }

    /// The same for the next request that contains `text` (a key, a command).
    pub fn once(&self, text: impl Into<Vec<u8>>, action: Action) {
        let text = text.into();
        self.on(move |request| request.windows(text.len()).any(|window| window == text), action, 1);
    }

    /// Forgets all rules.
    pub fn clear(&self) {
        self.control.rules().clear();
    }

    /// Sends on whatever is held now.
    pub fn release(&self) {
        self.control.released.send_modify(|count| *count += 1);
    }

    /// Cuts every connection that is open now.
    pub fn cut(&self) {
        self.control.cut.send_modify(|count| *count += 1);
    }

    /// Passes nothing on, in either direction, until [`Proxy::resume`]; connections are still accepted.
    pub fn stop(&self) {
        self.control.stopped.send_replace(true);
    }

    /// Passes on again, what came meanwhile first.
    pub fn resume(&self) {
        self.control.stopped.send_replace(false);
    }

    /// On how many requests actions have begun since the start.
    #[must_use]
    pub fn fired_so_far(&self) -> usize {
        *self.control.fired.borrow()
    }

    /// Waits until actions have begun on this many requests since the start.
    pub async fn fired(&self, count: usize) {
        // The sender lives in `self`, so waiting can't fail.
        let _ = self.control.fired.subscribe().wait_for(|fired| *fired >= count).await;
    }

    /// How many requests Redis has answered since the start, whatever became of the replies.
    #[must_use]
    pub fn answered(&self) -> usize {
        *self.control.answered.borrow()
    }

    /// Waits until Redis has answered this many requests since the start.
    pub async fn wait_answered(&self, count: usize) {
        let _ = self.control.answered.subscribe().wait_for(|answered| *answered >= count).await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

impl Control {
    fn rules(&self) -> MutexGuard<'_, Vec<Rule>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fate(&self, request: &[u8]) -> Option<Fate> {
        let mut rules = self.rules();
        let rule = rules.iter_mut().find(|rule| rule.times > 0 && (rule.matches)(request))?;
        rule.times -= 1;
        let fate = Fate { action: rule.action, released: self.released.subscribe() };
        drop(rules);
        self.fired.send_modify(|count| *count += 1);
        Some(fate)
    }

    async fn while_stopped(&self) {
        let _ = self.stopped.subscribe().wait_for(|stopped| !stopped).await;
    }
}

/// One connection, until either side ends it or the test cuts it.
async fn serve(client: TcpStream, redis_port: u16, control: Arc<Control>) {
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, redis_port)).await else { return };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (expected, expecting) = mpsc::unbounded_channel();
    let mut cut = control.cut.subscribe();
    let requests = async {
        requests(from_client, to_server, expected, &control).await;
        // The replies to what was sent are still to come; they end the connection.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = requests => {}
        () = replies(from_server, to_client, expecting, &control) => {}
        _ = cut.changed() => {}
    }
}

/// Passes requests on, one by one. Ends with the client; then Redis is told, after what was held has gone.
async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    expected: mpsc::UnboundedSender<Option<Fate>>,
    control: &Control,
) {
    let mut buffer = Vec::new();
    while let Ok(Some(request)) = next_frame(&mut from, &mut buffer).await {
        let mut fate = control.fate(&request);
        match &mut fate {
            Some(Fate { action: Action::LoseRequest, .. }) => {
                let _ = expected.send(fate);
                return;
            }
            Some(Fate { action: Action::Answer(_), .. }) => {
                if expected.send(fate).is_err() {
                    return;
                }
                continue;
            }
            Some(held @ Fate { action: Action::HoldRequest, .. }) => held.wait_for_release().await,
            _ => {}
        }
        control.while_stopped().await;
        if expected.send(fate).is_err() || to.write_all(&request).await.is_err() {
            return;
        }
    }
}

/// Passes replies on, one by one, each with what was decided about its request. Returning closes the client's side.
async fn replies(
    mut from: OwnedReadHalf,
    to: OwnedWriteHalf,
    mut expecting: mpsc::UnboundedReceiver<Option<Fate>>,
    control: &Control,
) {
    let mut buffer = Vec::new();
    let mut client = Some(to);
    while let Some(mut fate) = expecting.recv().await {
        let action = fate.as_ref().map(|fate| fate.action);
        match action {
            Some(Action::LoseRequest) => return,
            Some(Action::Answer(text)) => {
                pass(&mut client, text.as_bytes()).await;
                continue;
            }
            _ => {}
        }
        let Ok(Some(reply)) = next_frame(&mut from, &mut buffer).await else { return };
        control.answered.send_modify(|count| *count += 1);
        match &mut fate {
            Some(Fate { action: Action::LoseReply, .. }) => return,
            Some(Fate { action: Action::SwallowReply, .. }) => {
                swallow(from, client, expecting, buffer, control).await;
                return;
            }
            Some(held @ Fate { action: Action::HoldReply, .. }) => held.wait_for_release().await,
            _ => {}
        }
        control.while_stopped().await;
        pass(&mut client, &reply).await;
    }
}

/// Passes bytes to the client, unless it has left; Redis still answers what is on its way then.
async fn pass(client: &mut Option<OwnedWriteHalf>, bytes: &[u8]) {
    if let Some(to) = client
        && to.write_all(bytes).await.is_err()
    {
        *client = None;
    }
}

/// Reads the rest of the replies and passes none on; the client's side stays open until its requests end.
async fn swallow(
    mut from: OwnedReadHalf,
    _client: Option<OwnedWriteHalf>,
    mut expecting: mpsc::UnboundedReceiver<Option<Fate>>,
    mut buffer: Vec<u8>,
    control: &Control,
) {
    while let Some(fate) = expecting.recv().await {
        if matches!(fate, Some(Fate { action: Action::Answer(_) | Action::LoseRequest, .. })) {
            continue;
        }
        match next_frame(&mut from, &mut buffer).await {
            Ok(Some(_)) => control.answered.send_modify(|count| *count += 1),
            _ => return,
        }
    }
}

/// The next whole request or reply; `None` at the end.
async fn next_frame(from: &mut OwnedReadHalf, buffer: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    loop {
        if let Some(length) = frame_length(buffer) {
            let rest = buffer.split_off(length);
            return Ok(Some(std::mem::replace(buffer, rest)));
        }
        if from.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

/// The length of the first whole RESP value in `bytes`, if it is whole.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let number = || std::str::from_utf8(&bytes[1..line]).ok()?.parse::<i64>().ok();
    let mut length = line + 2;
    match bytes[0] {
        b'$' | b'=' | b'!' => {
            // A length of -1 is a null: nothing follows.
            if let Ok(content) = usize::try_from(number()?) {
                length += content + 2;
            }
        }
        kind @ (b'*' | b'~' | b'>' | b'%') => {
            let values = usize::try_from(number()?).unwrap_or(0) * if kind == b'%' { 2 } else { 1 };
            for _ in 0..values {
                length += frame_length(bytes.get(length..)?)?;
            }
        }
        _ => {}
    }
    (length <= bytes.len()).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_end_where_resp_says() {
        for frame in [&b"+OK\r\n"[..], b"$-1\r\n", b"$4\r\na\r\nb\r\n", b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n", b"*-1\r\n"] {
            let mut longer = frame.to_vec();
            longer.extend_from_slice(b"+next\r\n");
            assert_eq!(frame_length(&longer), Some(frame.len()));
            for cut in 0..frame.len() {
                assert_eq!(frame_length(&frame[..cut]), None, "{cut}");
            }
        }
    }
}
