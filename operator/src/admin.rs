//! Decides what the operator answers to probes and Prometheus: a small HTTP/1.1 server. I/O.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::controller::watch::Listings;
use crate::metrics::{self, Metrics};

/// Connections at once; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// A request's head must have come within this time.
const HEAD: Duration = Duration::from_secs(5);
/// A connection is cut after this time.
const CONNECTION: Duration = Duration::from_secs(15);

/// How far the operator has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It waits for something without which it can't work.
    Waiting(String),
    /// Another replica leads; this one would take over.
    StandingBy,
    /// It reconciles.
    Leading,
    /// It finishes what is under way.
    Ending,
}

impl Phase {
    /// Whether it does its work or could, and a word of why.
    fn answer(&self) -> (bool, &str) {
        match self {
            Self::Waiting(why) => (false, why),
            Self::StandingBy => (true, "standing by: another replica leads"),
            Self::Leading => (true, "leading"),
            Self::Ending => (false, "ending"),
        }
    }
}

/// The admin endpoint.
///
/// # Guarantees
/// - No answer waits for the API server.
/// - A peer that sends or reads slowly is cut off.
#[derive(Clone, Debug)]
pub struct Admin {
    /// How far the operator has come.
    pub phase: watch::Receiver<Phase>,
    /// What is still to be listed before it can reconcile.
    pub listings: Listings,
    /// The figures.
    pub metrics: Arc<Metrics>,
}

impl Admin {
    /// Answers on `listener` until it is dropped.
    pub async fn serve(self, listener: TcpListener) {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => _ = tokio::spawn(self.clone().connection(stream, permit)),
                Err(error) => {
                    // Out of file descriptors, mostly: asking again at once would only burn the processor.
                    tracing::warn!(%error, "the admin endpoint can't accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// One request and its answer: without keep-alive, no idle peer holds a place.
    async fn connection(self, stream: TcpStream, _permit: OwnedSemaphorePermit) {
        let service = service_fn(|request: Request<Incoming>| {
            let answer = self.answer(request.method(), request.uri().path());
            async move { Ok::<_, Infallible>(answer) }
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        if let Ok(Err(error)) = tokio::time::timeout(CONNECTION, serving).await {
            tracing::debug!(%error, "a peer of the admin endpoint broke off");
        }
    }

    fn readiness(&self) -> (bool, String) {
        let phase = self.phase.borrow().clone();
        match self.listings.awaited() {
            Some(awaited) if phase == Phase::Leading => (false, format!("leading, and {awaited}")),
            _ => {
                let (ready, why) = phase.answer();
                (ready, why.to_owned())
            }
        }
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let get = matches!(*method, Method::GET | Method::HEAD);
        match path {
            "/livez" | "/readyz" | "/metrics" if !get => {
                let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "there are GET, HEAD\n");
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                response
            }
            "/livez" => text(StatusCode::OK, "alive\n"),
            "/readyz" => {
                let (ready, why) = self.readiness();
                text(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, format!("{why}\n"))
            }
            "/metrics" => reply(StatusCode::OK, metrics::CONTENT_TYPE, self.metrics.encode()),
            _ => text(StatusCode::NOT_FOUND, "there are /livez /readyz /metrics\n"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_is_ready_and_one_that_waits_says_what_for() {
        let (phases, phase) = watch::channel(Phase::Waiting("waiting for the CustomResourceDefinition".into()));
        let listings = Listings::default();
        let admin = Admin { phase, listings: listings.clone(), metrics: Metrics::new() };
        let asked = |path: &str| admin.answer(&Method::GET, path).status();
        assert_eq!((asked("/livez"), asked("/readyz")), (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE));
        for (phase, code) in [(Phase::StandingBy, 200), (Phase::Leading, 200), (Phase::Ending, 503)] {
            phases.send_replace(phase);
            assert_eq!(asked("/readyz").as_u16(), code);
        }
        phases.send_replace(Phase::Leading);
        listings.begin("secrets");
        assert_eq!(asked("/readyz").as_u16(), 503);
        listings.failed("secrets", "forbidden".into());
        assert_eq!(admin.readiness().1, "leading, and can't list secrets: forbidden");
        listings.done("secrets");
        assert_eq!(asked("/readyz").as_u16(), 200);
        assert_eq!((asked("/metrics"), asked("/")), (StatusCode::OK, StatusCode::NOT_FOUND));
        assert_eq!(admin.answer(&Method::POST, "/metrics").status(), StatusCode::METHOD_NOT_ALLOWED);
    }
}
