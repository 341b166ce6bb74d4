//! Decides what the app does in the bench, the same behind every gate: reads each event's JSON, counts it, says yes. I/O.
//!
//! `GET /count` tells what it has counted.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};

/// What the app has counted.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Count {
    /// Different events.
    pub(crate) events: u64,
    /// Events that came when they had come before.
    pub(crate) again: u64,
    /// Requests.
    pub(crate) requests: u64,
    /// When the last event came, in microseconds since the start of the app.
    pub(crate) last: u64,
}

/// One event among others in a batch. Ids are hex here, so that they can be borrowed and said again as they are.
#[derive(Deserialize)]
struct Item<'a> {
    id: &'a str,
    data: Envelope,
}

#[derive(Deserialize)]
struct Envelope {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    sequence: u32,
}

struct Counted {
    count: Count,
    seen: Vec<bool>,
    start: Instant,
}

impl Counted {
    fn add(&mut self, numbers: impl Iterator<Item = u32>) {
        self.count.requests += 1;
        for number in numbers {
            let number = number as usize;
            if self.seen.len() <= number {
                self.seen.resize(number + 1, false);
            }
            if std::mem::replace(&mut self.seen[number], true) {
                self.count.again += 1;
            } else {
                self.count.events += 1;
            }
        }
        self.count.last = self.start.elapsed().as_micros() as u64;
    }
}

/// Serves until the process is killed.
pub(crate) async fn serve(socket: &Path) -> anyhow::Result<()> {
    let listener = UnixListener::bind(socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    let counted = Counted { count: Count::default(), seen: Vec::new(), start: Instant::now() };
    let counted = Arc::new(Mutex::new(counted));
    loop {
        let (stream, _) = listener.accept().await?;
        let counted = Arc::clone(&counted);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let counted = Arc::clone(&counted);
                async move { Ok::<_, Infallible>(answer(request, &counted).await) }
            });
            // How a connection ends is the gate's affair.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, counted: &Mutex<Counted>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let batch =
        head.headers.get("content-type").is_some_and(|t| t.as_bytes().starts_with(b"application/cloudevents-batch"));
    let Ok(body) = body.collect().await else { return refuse("the body ends early") };
    let body = body.to_bytes();
    if head.method == Method::GET {
        let count = counted.lock().unwrap().count;
        return Response::new(Full::new(serde_json::to_vec(&count).unwrap_or_default().into()));
    }
    if !batch {
        return match serde_json::from_slice::<Envelope>(&body) {
            Ok(envelope) => {
                counted.lock().unwrap().add(std::iter::once(envelope.data.sequence));
                Response::new(Full::default())
            }
            Err(error) => refuse(&error.to_string()),
        };
    }
    let items = match serde_json::from_slice::<Vec<Item<'_>>>(&body) {
        Ok(items) => items,
        Err(error) => return refuse(&error.to_string()),
    };
    counted.lock().unwrap().add(items.iter().map(|item| item.data.data.sequence));
    let mut text = String::with_capacity(16 + items.len() * 110);
    text.push_str(r#"{"results":["#);
    for (n, item) in items.iter().enumerate() {
        text.push_str(if n == 0 { r#"{"id":""# } else { r#",{"id":""# });
        text.push_str(item.id);
        text.push_str(r#"","status":"SUCCESS"}"#);
    }
    text.push_str("]}");
    Response::new(Full::new(text.into()))
}

fn refuse(why: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(why.to_owned().into()));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}

/// Asks a running app, over one connection.
pub(crate) struct Client(SendRequest<Full<Bytes>>);

impl Client {
    pub(crate) async fn connect(socket: PathBuf) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(&socket).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    pub(crate) async fn count(&mut self) -> anyhow::Result<Count> {
        let request = Request::get("/count").header("host", "app").body(Full::default())?;
        let (_, body) = self.exchange(request).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// One event, as any HTTP client hands it over.
    pub(crate) async fn post(&mut self, value: Bytes) -> anyhow::Result<()> {
        let request = Request::post("/").header("host", "app").header("content-type", "application/json");
        let (status, body) = self.exchange(request.body(Full::new(value))?).await?;
        ensure!(status.is_success(), "the app answers {status}: {}", String::from_utf8_lossy(&body));
        Ok(())
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<(StatusCode, Bytes)> {
        self.0.ready().await?;
        let answer = self.0.send_request(request).await?;
        let status = answer.status();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }
}
