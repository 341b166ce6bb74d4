//! Decides nothing: asks each pod's sidecar how it is. I/O: HTTP to the pods.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use crds::status::SidecarStatus;
use futures_util::stream::{self, StreamExt};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tokio::net::TcpStream;

/// How long a sidecar may take for its answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// An answer is no longer than this; 10,000 partitions fit, of topics with names as long as Kafka takes.
const MAX_ANSWER: usize = 4 << 20;
/// Sidecars of one consumer that are asked at once.
const AT_ONCE: usize = 64;

/// Why a sidecar was not heard.
#[derive(Debug, thiserror::Error)]
pub enum Unheard {
    /// No connection, or none that held.
    #[error("no connection")]
    Connect(#[from] std::io::Error),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    /// The request could not be made.
    #[error("no request for that address: {0}")]
    Request(#[from] hyper::http::Error),
    /// Another answer than 200.
    #[error("it answered {0}")]
    Status(StatusCode),
    /// The answer is too long, or broke off.
    #[error("its answer could not be read: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// The answer is none that is known.
    #[error("its answer is not understood: {0}")]
    Decode(#[from] serde_json::Error),
    /// No answer in time.
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Late,
}

impl Unheard {
    /// Nothing came from it at all: something between here and there may be in the way.
    #[must_use]
    pub const fn is_far(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Late)
    }
}

/// What one pod's sidecar says.
#[derive(Debug)]
pub struct Answer {
    /// Name of the pod.
    pub pod: String,
    /// What it says, or why it was not heard.
    pub said: Result<SidecarStatus, Unheard>,
}

/// Asks the sidecars of pods that run; `port` where a pod does not say its own. Pods that end are not asked.
pub async fn observe(pods: &[Arc<Pod>], port: u16) -> Vec<Answer> {
    let asked = pods.iter().filter_map(|pod| address(pod, port).map(|address| (pod.name_any(), address)));
    stream::iter(asked.collect::<Vec<_>>())
        .map(|(pod, (ip, port))| async move {
            let said = tokio::time::timeout(PATIENCE, ask(&ip, port)).await.unwrap_or(Err(Unheard::Late));
            if let Err(error) = &said {
                tracing::debug!(pod, %error, "a sidecar was not heard");
            }
            Answer { pod, said }
        })
        .buffered(AT_ONCE)
        .collect()
        .await
}

/// Where a pod's sidecar answers. A pod keeps the port that it was made with.
fn address(pod: &Pod, port: u16) -> Option<(String, u16)> {
    let status = pod.status.as_ref()?;
    let runs = status.phase.as_deref() == Some("Running") && pod.metadata.deletion_timestamp.is_none();
    let ip = status.pod_ip.clone().filter(|ip| runs && !ip.is_empty())?;
    let containers = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref());
    let ports = containers.and_then(|containers| containers.first()?.ports.as_ref());
    let own = ports.and_then(|ports| ports.first()).and_then(|port| u16::try_from(port.container_port).ok());
    Some((ip, own.unwrap_or(port)))
}

async fn ask(ip: &str, port: u16) -> Result<SidecarStatus, Unheard> {
    let ip: std::net::IpAddr = ip.parse().map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidInput))?;
    let stream = TcpStream::connect((ip, port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/status").header(HOST, std::net::SocketAddr::from((ip, port)).to_string());
    let exchange = async {
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        if response.status() != StatusCode::OK {
            return Err(Unheard::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(Unheard::Body)?;
        Ok(serde_json::from_slice(&body.to_bytes())?)
    };
    // The connection is driven beside the exchange. It may end first, with all of the answer already handed over.
    let mut exchange = pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = connection => {
            ended?;
            exchange.await
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn pod(ip: &str, port: u16) -> Arc<Pod> {
        let pod = json!({
            "metadata": {"name": "a-1"},
            "spec": {"containers": [], "initContainers": [{"name": "idempotency-sidecar", "ports": [{"containerPort": port}]}]},
            "status": {"phase": "Running", "podIP": ip},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    async fn sidecar(answer: Vec<u8>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(&answer).await;
        });
        port
    }

    fn http(body: &str) -> Vec<u8> {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    #[tokio::test]
    async fn each_sidecar_is_asked_at_its_own_port() {
        let port = sidecar(http(r#"{"protection":"full","joined":true,"later":1}"#)).await;
        let answers = observe(&[pod("127.0.0.1", port)], 1).await;
        let said = answers[0].said.as_ref().unwrap();
        assert!(said.joined && said.protection == crds::status::Protection::Full);
    }

    #[tokio::test]
    async fn one_that_is_not_heard_is_told_apart_from_one_that_says_no() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let answers = observe(&[pod("127.0.0.1", closed)], 1).await;
        assert!(matches!(answers[0].said, Err(Unheard::Connect(_))), "{answers:?}");
        let port = sidecar(http(&format!("\"{}\"", "x".repeat(MAX_ANSWER)))).await;
        let answers = observe(&[pod("127.0.0.1", port)], 1).await;
        assert!(matches!(answers[0].said, Err(Unheard::Body(_))), "{answers:?}");
        let port = sidecar(http("\"x\"")).await;
        let answers = observe(&[pod("127.0.0.1", port)], 1).await;
        assert!(matches!(answers[0].said, Err(Unheard::Decode(_))), "{answers:?}");
    }

    #[test]
    fn ten_thousand_partitions_fit_into_an_answer() {
        let partition = |partition| crds::status::PartitionStatus {
            topic: "t".repeat(249),
            partition,
            watermark: Some(i64::MAX),
            buffered: 1_000_000,
            lag: Some(i64::MAX),
        };
        let said = SidecarStatus { partitions: (0..10_000).map(partition).collect(), ..SidecarStatus::default() };
        let length = serde_json::to_vec(&said).unwrap().len();
        assert!(length < MAX_ANSWER, "{length}");
    }

    #[tokio::test]
    async fn a_pod_that_ends_is_not_asked() {
        let mut ending = Arc::unwrap_or_clone(pod("127.0.0.1", 1));
        ending.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
        assert!(observe(&[Arc::new(ending)], 1).await.is_empty());
    }
}
