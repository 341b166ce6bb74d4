//! Decides how the app behind the sidecar runs in tests: an HTTP server on a unix socket or a loopback port that keeps a ledger and
//! behaves as told. I/O.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::ledger::Ledger;

pub mod act;
pub mod event;

pub use act::{Act, Behaviour, Effects, Reply, Request, Verdict, act, behave, complete, fail_first};
pub use event::Event;

/// Where the app listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// On a unix socket.
    Unix(PathBuf),
    /// On a loopback port; 0 takes a free one.
    Tcp(u16),
}

/// An app. Dropped, it stops and leaves its socket file behind, as a killed one does.
pub struct App {
    shared: Arc<Shared>,
    at: Listen,
    server: Option<tokio::task::JoinHandle<()>>,
}

struct Shared {
    ledger: Ledger,
    behaviour: RwLock<Behaviour>,
    keep: AtomicBool,
    connections: AtomicU64,
    requests: AtomicU64,
    working: AtomicUsize,
    peak: AtomicUsize,
    deliveries: Mutex<Vec<Event>>,
    times: Mutex<HashMap<String, u32>>,
    problems: Mutex<Vec<String>>,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "App({:?}, {} requests)", self.at, self.requests())
    }
}

impl App {
    /// Starts one with a ledger in memory.
    ///
    /// # Errors
    /// The place is taken.
    pub fn start(at: Listen, behaviour: Behaviour) -> io::Result<Self> {
        let mut app = Self::stopped(at, behaviour, Ledger::new());
        app.listen()?;
        Ok(app)
    }

    /// An app that does not listen yet.
    #[must_use]
    pub fn stopped(at: Listen, behaviour: Behaviour, ledger: Ledger) -> Self {
        let shared = Shared {
            ledger,
            behaviour: RwLock::new(behaviour),
            keep: AtomicBool::new(true),
            connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            working: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            deliveries: Mutex::default(),
            times: Mutex::default(),
            problems: Mutex::default(),
        };
        Self { shared: Arc::new(shared), at, server: None }
    }

    /// Listens, after removing a socket file that a stopped one left. A port of 0 becomes a fixed one.
    ///
    /// # Errors
    /// The place is taken.
    pub fn listen(&mut self) -> io::Result<()> {
        if let Listen::Unix(path) = &self.at {
            match std::fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        self.listen_over_stale()
    }

    /// Listens as an app does that knows nothing of stale socket files: it fails with `AddrInUse` over one.
    ///
    /// # Errors
    /// The place is taken.
    pub fn listen_over_stale(&mut self) -> io::Result<()> {
        self.stop();
        let shared = Arc::clone(&self.shared);
        self.server = Some(match &self.at {
            Listen::Unix(path) => tokio::spawn(serve_unix(UnixListener::bind(path)?, shared)),
            Listen::Tcp(port) => {
                let listener = bind_tcp(*port)?;
                self.at = Listen::Tcp(listener.local_addr()?.port());
                tokio::spawn(serve_tcp(listener, shared))
            }
        });
        Ok(())
    }

    /// Stops listening and ends all connections, also those with a request under way. The socket file stays, as after a kill.
    pub fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
        }
    }

    /// Keeps no list of deliveries and counts no repetitions, for benches.
    pub fn keep_nothing(&self) {
        self.shared.keep.store(false, Ordering::Relaxed);
    }

    /// Changes how it behaves from the next request on.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.shared.behaviour.write().unwrap() = behaviour;
    }

    /// Where it listens.
    #[must_use]
    pub fn at(&self) -> &Listen {
        &self.at
    }

    /// What took effect.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.shared.ledger
    }

    /// Connections that were accepted.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Requests that came, whatever was answered.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// The most requests that were under way at once.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.shared.peak.load(Ordering::Relaxed)
    }

    /// Every event that came, in order, whatever was answered.
    #[must_use]
    pub fn deliveries(&self) -> Vec<Event> {
        self.shared.deliveries.lock().unwrap().clone()
    }

    /// Requests that did not keep to the protocol. They were answered with 500.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        self.shared.problems.lock().unwrap().clone()
    }

    /// # Panics
    /// A request did not keep to the protocol.
    pub fn assert_no_problems(&self) {
        let problems = self.problems();
        assert!(problems.is_empty(), "requests that are not as agreed: {problems:#?}");
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Binds at once, also where connections of a stopped app linger.
fn bind_tcp(port: u16) -> io::Result<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    let port = if port == 0 { crate::port::free().map_err(io::Error::other)? } else { port };
    socket.bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
    socket.listen(1024)
}

async fn serve_unix(listener: UnixListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(connection(stream, Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        // Answers are small and waited for.
        if stream.set_nodelay(true).is_ok() {
            connections.spawn(connection(stream, Arc::clone(&shared)));
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Serves one connection until it ends, or until an answer is to be no HTTP: then those bytes are written, and it ends.
async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, shared: Arc<Shared>) {
    shared.connections.fetch_add(1, Ordering::Relaxed);
    let (raw, mut wanted) = mpsc::channel::<Bytes>(1);
    let service = service_fn(move |request| {
        let (shared, raw) = (Arc::clone(&shared), raw.clone());
        async move { Ok::<_, Infallible>(answer(&shared, request, &raw).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let bytes = tokio::select! {
        // How a connection ends is the sidecar's affair.
        _ = &mut http => return,
        bytes = wanted.recv() => bytes,
    };
    let mut stream = http.into_parts().io.into_inner();
    if stream.write_all(&bytes.unwrap_or_default()).await.is_ok() {
        let _ = stream.shutdown().await;
    }
}

/// Counts a request as under way until it is answered or its connection ends.
struct Working<'a>(&'a Shared);

impl<'a> Working<'a> {
    fn start(shared: &'a Shared) -> Self {
        let now = shared.working.fetch_add(1, Ordering::Relaxed) + 1;
        shared.peak.fetch_max(now, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.working.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn answer(
    shared: &Shared,
    request: hyper::Request<Incoming>,
    raw: &mpsc::Sender<Bytes>,
) -> Response<Full<Bytes>> {
    let _working = Working::start(shared);
    let request = match read(shared, request).await {
        Ok(request) => request,
        Err(e) => {
            let text = format!("{e:#}");
            shared.problems.lock().unwrap().push(text.clone());
            return http(500, &[], text.into());
        }
    };
    let behaviour = Arc::clone(&shared.behaviour.read().unwrap());
    let act = behaviour(request.clone()).await;
    if !act.before.is_zero() {
        tokio::time::sleep(act.before).await;
    }
    let at = now();
    let effects = request.events.iter().enumerate().filter(|(n, _)| match &act.effects {
        Effects::All => true,
        Effects::None => false,
        Effects::Of(each) => each.get(*n).copied().unwrap_or(false),
    });
    shared.ledger.write(effects.map(|(_, event)| event.effect(at)).collect());
    if !act.after.is_zero() {
        tokio::time::sleep(act.after).await;
    }
    match act.reply {
        Reply::Complete if request.batch => http(200, &[], all_complete(&request)),
        Reply::Complete => http(200, &[], Bytes::new()),
        Reply::Http { status, headers, body } => http(status, &headers, body),
        Reply::Hang => std::future::pending().await,
        Reply::Raw(bytes) => end(raw, bytes).await,
        Reply::Disconnect => end(raw, Bytes::new()).await,
    }
}

/// Ends the connection with these bytes in place of an answer.
async fn end(raw: &mpsc::Sender<Bytes>, bytes: Bytes) -> Response<Full<Bytes>> {
    let _ = raw.send(bytes).await;
    std::future::pending().await
}

async fn read(shared: &Shared, request: hyper::Request<Incoming>) -> anyhow::Result<Request> {
    let number = shared.requests.fetch_add(1, Ordering::Relaxed) + 1;
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    anyhow::ensure!(head.method == hyper::Method::POST, "{} instead of POST", head.method);
    let batch = head.headers.get("content-type").is_some_and(|t| t.as_bytes().starts_with(event::BATCH.as_bytes()));
    let mut events = if batch { Event::from_batch(&body)? } else { vec![Event::from_binary(&head.headers, body)?] };
    if shared.keep.load(Ordering::Relaxed) {
        let mut times = shared.times.lock().unwrap();
        for event in &mut events {
            let times = times.entry(event.event.clone()).or_default();
            *times += 1;
            event.times = *times;
        }
        shared.deliveries.lock().unwrap().extend(events.iter().cloned());
    }
    Ok(Request { number, path: head.uri.path().to_owned(), batch, events })
}

fn all_complete(request: &Request) -> Bytes {
    let results: Vec<_> = request.events.iter().map(|e| json!({"id": e.id, "status": "SUCCESS"})).collect();
    json!({"results": results}).to_string().into()
}

fn http(status: u16, headers: &[(String, String)], body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status code");
    for (name, value) in headers {
        let name: hyper::header::HeaderName = name.parse().expect("a header name");
        response.headers_mut().append(name, value.parse().expect("a header value"));
    }
    response
}

#[allow(clippy::disallowed_methods, reason = "the ledger's times are for people who read a failure")]
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| span.as_millis() as u64)
}
