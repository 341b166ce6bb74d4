//! Decides what the sidecar answers to probes, Prometheus, the operator and preStop: a small HTTP/1.1 server. I/O.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crds::status::SidecarStatus;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::metrics::{self, Metrics};
use crate::settings::Secret;

/// Connections at once; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 256;
/// A request's head is no longer than this, hyper's least.
const MAX_HEAD: usize = 8192;

/// How long a peer is borne with.
#[derive(Clone, Copy)]
struct Patience {
    /// A request's head must have come within this time.
    head: Duration,
    /// A connection is cut after this time, unless it waits for a drain.
    connection: Duration,
    /// After the end was asked for, answers under way are waited for this long.
    end: Duration,
}

const PATIENCE: Patience =
    Patience { head: Duration::from_secs(5), connection: Duration::from_secs(15), end: Duration::from_secs(5) };

/// What the pipeline is asked to do.
#[derive(Debug)]
pub enum Command {
    /// Pause, settle what is under way, commit, and say how it went.
    Drain(oneshot::Sender<DrainReport>),
}

/// How a drain went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DrainReport {
    /// Everything that was under way is settled and committed.
    pub settled: bool,
    /// Deliveries still under way when the time was over.
    pub remaining: u64,
    /// A sentence for people.
    pub message: String,
}

/// The admin endpoint.
///
/// # Guarantees
/// - `/livez` answers from `alive` alone, `/readyz` and `/status` from the last status: none waits for the pipeline.
/// - `/drain` is passed on only with the token, where one is set.
/// - A peer that sends or reads slowly is cut off; one that goes away takes its drain's answer with it, not the drain.
pub struct Admin {
    /// What the sidecar says of itself.
    pub status: watch::Receiver<Arc<SidecarStatus>>,
    /// The figures.
    pub metrics: Arc<Metrics>,
    /// The way to the pipeline.
    pub commands: mpsc::Sender<Command>,
    /// The token that `/drain` asks for; `None` asks for none.
    pub drain_token: Option<Secret>,
    /// False when the pipeline is stuck, so that the container is restarted.
    pub alive: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("drain_token", &self.drain_token).finish_non_exhaustive()
    }
}

impl Admin {
    /// Answers on `listener` until `shutdown`, then ends the answers under way.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        self.serve_with(PATIENCE, listener, shutdown).await;
    }

    async fn serve_with(self, patience: Patience, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let admin = Arc::new(self);
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let (stop, stopped) = watch::channel(());
        let mut connections = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            let (stream, permit) = tokio::select! {
                () = &mut shutdown => break,
                next = accept(&listener, &room) => match next {
                    Some(next) => next,
                    None => continue,
                },
            };
            while connections.try_join_next().is_some() {}
            connections.spawn(connection(Arc::clone(&admin), patience, stream, permit, stopped.clone()));
        }
        drop(listener);
        drop(stop);
        let _ = tokio::time::timeout(patience.end, async { while connections.join_next().await.is_some() {} }).await;
    }

    async fn answer(&self, request: &Request<Incoming>, waits: &AtomicBool) -> Response<Full<Bytes>> {
        let get = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            "/drain" if get || request.method() == Method::POST => {
                waits.store(true, Ordering::Relaxed);
                let answer = self.drain(request).await;
                waits.store(false, Ordering::Relaxed);
                answer
            }
            "/drain" => wrong_method("GET, HEAD, POST"),
            "/livez" | "/readyz" | "/status" | "/metrics" if !get => wrong_method("GET, HEAD"),
            "/livez" => self.livez(),
            "/readyz" => self.readyz(),
            "/status" => json(StatusCode::OK, self.status.borrow().as_ref()),
            "/metrics" => reply(StatusCode::OK, metrics::CONTENT_TYPE, self.metrics.encode()),
            _ => text(StatusCode::NOT_FOUND, "there are /livez /readyz /status /metrics /drain\n"),
        }
    }

    fn livez(&self) -> Response<Full<Bytes>> {
        if (self.alive)() {
            text(StatusCode::OK, "alive\n")
        } else {
            text(StatusCode::SERVICE_UNAVAILABLE, "the pipeline is stuck\n")
        }
    }

    fn readyz(&self) -> Response<Full<Bytes>> {
        let status = self.status.borrow().clone();
        let mut lines: String = status
            .conditions
            .iter()
            .filter(|c| !c.status)
            .map(|c| format!("{}: {}: {}\n", c.r#type, c.reason, c.message.replace(['\r', '\n'], " ")))
            .collect();
        if status.ready {
            lines.insert_str(0, "ready\n");
            return text(StatusCode::OK, lines);
        }
        if lines.is_empty() {
            lines.push_str("starting\n");
        }
        text(StatusCode::SERVICE_UNAVAILABLE, lines)
    }

    async fn drain(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !self.permitted(request.headers().get(AUTHORIZATION)) {
            let wrong = "send the drain token as `Authorization: Bearer <token>`\n";
            let mut refused = text(StatusCode::UNAUTHORIZED, wrong);
            refused.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return refused;
        }
        // HEAD asks what GET would do; it must not do it.
        if request.method() == Method::HEAD {
            return text(StatusCode::OK, "");
        }
        let (report, drained) = oneshot::channel();
        let gone = || text(StatusCode::SERVICE_UNAVAILABLE, "the pipeline has ended: there is nothing left to drain\n");
        if self.commands.send(Command::Drain(report)).await.is_err() {
            return gone();
        }
        match drained.await {
            Ok(report) => json(StatusCode::OK, &report),
            Err(_) => gone(),
        }
    }

    fn permitted(&self, header: Option<&HeaderValue>) -> bool {
        let Some(token) = &self.drain_token else { return true };
        let given = header.and_then(|h| h.to_str().ok()).and_then(|h| h.split_once(' '));
        given.is_some_and(|(scheme, given)| {
            scheme.eq_ignore_ascii_case("bearer") && same(given.trim().as_bytes(), token.expose().as_bytes())
        })
    }
}

/// Compares by digest, so that neither the length nor the first differing byte shows in the time it takes.
fn same(a: &[u8], b: &[u8]) -> bool {
    let (a, b) = (Sha256::digest(a), Sha256::digest(b));
    a.iter().zip(b.iter()).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// Waits for room first: a flood waits in the kernel's queue, not in our memory.
async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, permit)),
        Err(error) => {
            // Out of file descriptors, mostly: asking again at once would only burn the processor.
            tracing::warn!(%error, "the admin endpoint can't accept a connection");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

/// One request and its answer: without keep-alive, no idle peer holds a place.
async fn connection(
    admin: Arc<Admin>,
    patience: Patience,
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
    mut stopped: watch::Receiver<()>,
) {
    let waits = Arc::new(AtomicBool::new(false));
    let service = service_fn(|request: Request<Incoming>| {
        let (admin, waits) = (Arc::clone(&admin), Arc::clone(&waits));
        async move { Ok::<_, Infallible>(admin.answer(&request, &waits).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.head)
        .keep_alive(false)
        .max_headers(64)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = pin!(serving);
    let mut stopping = false;
    loop {
        tokio::select! {
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a peer of the admin endpoint broke off");
                }
                return;
            }
            // Its only change is its end.
            _ = stopped.changed(), if !stopping => {
                stopping = true;
                serving.as_mut().graceful_shutdown();
            }
            () = tokio::time::sleep(patience.connection) => {
                if !waits.load(Ordering::Relaxed) {
                    return;
                }
            }
        }
    }
}

fn reply(code: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn text(code: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    reply(code, "text/plain; charset=utf-8", body)
}

fn json(code: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(body) => reply(code, "application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("the answer can't be written: {error}\n")),
    }
}

fn wrong_method(allowed: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("there are {allowed}\n"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

#[cfg(test)]
mod tests;
