//! Decides nothing: the demo's sample app. An HTTP handler on a unix socket that writes down every effect; it can be killed. I/O.

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

/// How long the app works on an event.
const WORK: Duration = Duration::from_millis(1);

/// One time the app did what an event asks for.
#[derive(Clone, Debug)]
pub(super) struct Effect {
    pub(super) event: u32,
    pub(super) attempt: u32,
    pub(super) full_protection: bool,
    /// The answer left the app.
    pub(super) answered: bool,
}

type Ledger = Arc<Mutex<Vec<Effect>>>;

/// The sample app.
pub(super) struct App {
    ledger: Ledger,
    server: Option<JoinHandle<()>>,
}

impl App {
    pub(super) async fn start(socket: &Path) -> Result<Self> {
        let mut app = Self { ledger: Ledger::default(), server: None };
        app.restart(socket).await?;
        Ok(app)
    }

    /// Dies at once: no request under way is answered, and the socket file stays behind.
    pub(super) async fn kill(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            let _ = server.await;
        }
    }

    /// Starts again. Its old socket is in the way until the sidecar clears it, as for an app that does not do so itself.
    pub(super) async fn restart(&mut self, socket: &Path) -> Result<()> {
        let patience = Instant::now() + Duration::from_secs(10);
        let listener = loop {
            match UnixListener::bind(socket) {
                Ok(listener) => break listener,
                Err(error) if Instant::now() > patience => {
                    return Err(error).context("the sample app can't listen on its socket");
                }
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        };
        self.server = Some(tokio::spawn(serve(listener, self.ledger.clone())));
        Ok(())
    }

    /// Every effect so far, in order.
    pub(super) fn ledger(&self) -> Vec<Effect> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(listener: UnixListener, ledger: Ledger) {
    // Dropped with this task, and every connection with it.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let ledger = ledger.clone();
        connections.spawn(async move {
            let service = service_fn(|request| handle(request, ledger.clone()));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

#[derive(Deserialize)]
struct Envelope {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    essay: u32,
}

async fn handle(request: Request<Incoming>, ledger: Ledger) -> Result<Response<Empty<Bytes>>, Infallible> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let attempt = header("idempotency-attempt").parse().unwrap_or(0);
    let full_protection = header("idempotency-protection") == "full";
    let Ok(body) = request.into_body().collect().await else { return Ok(status(500)) };
    let Ok(envelope) = serde_json::from_slice::<Envelope>(&body.to_bytes()) else { return Ok(status(400)) };
    let at = {
        let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.push(Effect { event: envelope.data.essay, attempt, full_protection, answered: false });
        ledger.len() - 1
    };
    // The work of a real app takes a moment, so that a kill finds some of it under way.
    sleep(WORK).await;
    if let Some(effect) = ledger.lock().unwrap_or_else(PoisonError::into_inner).get_mut(at) {
        effect.answered = true;
    }
    Ok(status(204))
}

fn status(code: u16) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    *response.status_mut() = hyper::StatusCode::from_u16(code).unwrap_or_default();
    response
}
