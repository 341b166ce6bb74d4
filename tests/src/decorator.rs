//! Decides how tests run a consumer that is gated by the one-phase Python decorator: aiokafka, `SET key 1 EX 86400 NX` before the
//! handler, and a handler that is one request to an app. I/O.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::ensure;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use crate::in_repo;
use crate::ledger::logical_id;
use crate::process::{Process, Program};

/// The prefix of its keys, whatever service it is in.
pub const PREFIX: &str = "huleedu:events:seen:";

/// Where it finds everything.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// Bootstrap servers.
    pub kafka: &'a str,
    /// The topic it reads.
    pub topic: &'a str,
    /// Its consumer group.
    pub group: &'a str,
    /// URL of its Redis.
    pub redis: &'a str,
    /// The socket of the app that is its handler.
    pub socket: &'a Path,
}

/// Starts one, with its log in `dir`.
///
/// # Errors
/// Its Python packages are missing.
pub fn start(dir: &Path, name: &str, places: &Places<'_>, more: &[&str]) -> anyhow::Result<Process> {
    let Places { kafka, topic, group, redis, socket } = *places;
    Program::new(name, python()?)
        .arg(in_repo("tests/bench/decorator.py"))
        .args(more)
        .args(["--kafka", kafka, "--topic", topic, "--group", group, "--redis", redis, "--socket"])
        .arg(socket)
        .start(dir)
}

/// The Python that has the packages of the decorator and of the example's services.
///
/// # Errors
/// It is not there.
pub fn python() -> anyhow::Result<PathBuf> {
    let python = in_repo(".cache/bench-venv/bin/python");
    ensure!(python.is_file(), "the Python packages are missing: run `make setup`, or tests/bench/venv alone");
    Ok(python)
}

/// What the decorated consumer's handler does: it takes note of each event. Dropped, it is gone.
#[derive(Debug)]
pub struct Handler {
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    begun: AtomicUsize,
    hang: AtomicBool,
    done: Mutex<Vec<String>>,
}

impl Handler {
    /// Listens on a socket.
    ///
    /// # Errors
    /// It can't.
    pub fn start(socket: &Path) -> anyhow::Result<Self> {
        let (listener, shared) = (UnixListener::bind(socket)?, Arc::<Shared>::default());
        let server = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self { shared, server })
    }

    /// From now on it begins, and does not finish; or does again.
    pub fn hang(&self, hang: bool) {
        self.shared.hang.store(hang, Ordering::Relaxed);
    }

    /// How often it was called.
    #[must_use]
    pub fn begun(&self) -> usize {
        self.shared.begun.load(Ordering::Relaxed)
    }

    /// The events that it has done, by the ledger's names of them.
    #[must_use]
    pub fn done(&self) -> Vec<String> {
        self.shared.done.lock().unwrap().clone()
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: UnixListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        let service = service_fn(move |request| handle(request, Arc::clone(&shared)));
        let http = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            // How a connection ends is the consumer's affair.
            let _ = http.await;
        });
    }
}

async fn handle(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Full<Bytes>>, Infallible> {
    shared.begun.fetch_add(1, Ordering::Relaxed);
    if shared.hang.load(Ordering::Relaxed) {
        return std::future::pending().await;
    }
    let mut response = Response::default();
    match request.into_body().collect().await {
        Ok(body) => shared.done.lock().unwrap().push(logical_id(&body.to_bytes())),
        Err(_) => *response.status_mut() = hyper::StatusCode::BAD_REQUEST,
    }
    Ok(response)
}
