//! Decides nothing: an app that publishes one event and waits to be given it, with a Kafka of its own where none is named. I/O.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use crds::listen::listen;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use crate::args::AppArgs;
use crate::kafka::mock::EmbeddedBroker;

/// How long Kafka may take to acknowledge the event.
const PUBLISHED: Duration = Duration::from_secs(30);

/// The event, and how it came once it has.
struct Awaited {
    event: String,
    came: Mutex<Option<String>>,
}

/// Publishes, and answers until SIGTERM.
pub(super) async fn run(args: &AppArgs) -> Result<()> {
    let mut stop = signal(SignalKind::terminate())?;
    let (broker, bootstrap) = match &args.bootstrap_servers {
        Some(servers) => (None, servers.clone()),
        None => {
            let broker = EmbeddedBroker::start(&[(&args.topic, 1)])?;
            let bootstrap = broker.bootstrap_servers().to_owned();
            (Some(broker), bootstrap)
        }
    };
    if broker.is_some() {
        // The broker's port is another at each start: it is reached by one that a consumer can name.
        let front = TcpListener::bind((Ipv4Addr::LOCALHOST, args.embedded_port)).await.context("the embedded Kafka")?;
        tokio::spawn(relay(front, bootstrap.clone()));
    }
    let awaited = Arc::new(Awaited { event: Uuid::new_v4().to_string(), came: Mutex::default() });
    let bound = listen(args.bind, TcpListener::bind::<SocketAddr>).await;
    let bound = bound.with_context(|| format!("cannot listen on {}", args.bind))?;
    let socket = UnixListener::bind(&args.socket)
        .with_context(|| format!("cannot listen on the socket {}", args.socket.display()))?;
    publish(&bootstrap, &args.topic, &awaited.event).await?;
    let (seen, told) = (Arc::clone(&awaited), awaited);
    let events = tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            serve(stream, Arc::clone(&seen));
        }
    });
    let questions = tokio::spawn(async move {
        while let Ok((stream, _)) = bound.accept().await {
            serve(stream, Arc::clone(&told));
        }
    });
    stop.recv().await;
    events.abort();
    questions.abort();
    Ok(())
}

async fn relay(front: TcpListener, broker: String) {
    while let Ok((mut client, _)) = front.accept().await {
        let broker = broker.clone();
        tokio::spawn(async move {
            if let Ok(mut server) = TcpStream::connect(broker).await {
                let _ = copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}

async fn publish(bootstrap: &str, topic: &str, event: &str) -> Result<()> {
    let envelope = json!({
        "event_id": event,
        "event_type": "idempotent-consumer.smoke.v1",
        "source_service": "helm-test",
        "data": {"event": event},
    });
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("message.timeout.ms", PUBLISHED.as_millis().to_string())
        .create()?;
    let value = envelope.to_string();
    let record = FutureRecord::<(), str>::to(topic).payload(&value);
    producer
        .send(record, PUBLISHED)
        .await
        .map_err(|(error, _)| error)
        .with_context(|| format!("the event can't be published to {topic} at {bootstrap}"))?;
    Ok(())
}

/// Serves one connection, of the sidecar or of somebody who asks.
fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, awaited: Arc<Awaited>) {
    tokio::spawn(async move {
        let service = service_fn(move |request| {
            let awaited = Arc::clone(&awaited);
            async move { Ok::<_, Infallible>(answer(request, &awaited).await) }
        });
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    });
}

async fn answer(request: Request<Incoming>, awaited: &Awaited) -> Response<Full<Bytes>> {
    if request.method() == hyper::Method::GET {
        let came = awaited.came.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let event = &awaited.event;
        return match came {
            Some(how) => reply(StatusCode::OK, format!("event {event} was published, and delivered: {how}\n")),
            None => reply(StatusCode::SERVICE_UNAVAILABLE, format!("event {event} is published, and not delivered\n")),
        };
    }
    let header = |name: &str| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or("missing").to_owned()
    };
    let how = format!("attempt {}, protection {}", header("idempotency-attempt"), header("idempotency-protection"));
    let Ok(body) = request.into_body().collect().await else {
        return reply(StatusCode::INTERNAL_SERVER_ERROR, "the body broke off\n".to_owned());
    };
    if is_of(&body.to_bytes(), &awaited.event) {
        awaited.came.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(how);
    }
    // What else a named topic holds is of earlier tests.
    reply(StatusCode::OK, String::new())
}

fn is_of(body: &[u8], event: &str) -> bool {
    #[derive(Deserialize)]
    struct Envelope {
        event_id: String,
    }
    serde_json::from_slice::<Envelope>(body).is_ok_and(|envelope| envelope.event_id == event)
}

fn reply(code: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = code;
    response
}
