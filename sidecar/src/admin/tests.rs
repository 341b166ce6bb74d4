//! The admin endpoint over real sockets.

use std::net::SocketAddr;
use std::time::Instant;

use crds::status::Condition;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;

struct Bench {
    address: SocketAddr,
    status: watch::Sender<Arc<SidecarStatus>>,
    commands: mpsc::Receiver<Command>,
    alive: Arc<AtomicBool>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

const QUICK: Patience =
    Patience { head: Duration::from_secs(30), connection: Duration::from_millis(100), end: Duration::from_millis(100) };

async fn bench(token: Option<&str>, patience: Patience) -> Bench {
    let (status, seen) = watch::channel(Arc::new(SidecarStatus::default()));
    let (sender, commands) = mpsc::channel(1);
    let alive = Arc::new(AtomicBool::new(true));
    let beat = Arc::clone(&alive);
    let admin = Admin {
        status: seen,
        metrics: Metrics::new(&["orders"]),
        commands: sender,
        drain_token: token.map(Secret::new),
        alive: Arc::new(move || beat.load(Ordering::Relaxed)),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(admin.serve_with(patience, listener, async move {
        let _ = stopped.await;
    }));
    Bench { address, status, commands, alive, stop, server }
}

async fn send(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset is an end as well: what came before it counts.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

async fn ask(address: SocketAddr, line: &str, headers: &str) -> String {
    rest(send(address, &format!("{line} HTTP/1.1\r\nhost: sidecar\r\n{headers}\r\n")).await).await
}

fn code(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

#[tokio::test]
async fn liveness_is_the_pipelines_and_readiness_tells_why_not() {
    let bench = bench(None, PATIENCE).await;
    assert_eq!(code(&ask(bench.address, "GET /livez", "").await), "200");
    bench.alive.store(false, Ordering::Relaxed);
    assert_eq!(code(&ask(bench.address, "GET /livez", "").await), "503");

    assert_eq!(code(&ask(bench.address, "GET /readyz", "").await), "503");
    let condition = |r#type: &str, status| Condition {
        r#type: r#type.into(),
        status,
        reason: "NoSuchTopic".into(),
        message: "the topic orders\ndoes not exist".into(),
        ..Condition::default()
    };
    let conditions = vec![condition("TopicsFound", false), condition("Protected", true)];
    bench.status.send_replace(Arc::new(SidecarStatus { conditions, ..SidecarStatus::default() }));
    let answer = ask(bench.address, "GET /readyz", "").await;
    assert_eq!(code(&answer), "503");
    assert!(answer.ends_with("\r\n\r\nTopicsFound: NoSuchTopic: the topic orders does not exist\n"), "{answer}");

    bench.status.send_replace(Arc::new(SidecarStatus { ready: true, ..SidecarStatus::default() }));
    assert_eq!(code(&ask(bench.address, "GET /readyz", "").await), "200");
}

#[tokio::test]
async fn status_is_json_and_metrics_are_openmetrics() {
    let bench = bench(None, PATIENCE).await;
    bench.status.send_replace(Arc::new(SidecarStatus { group: "g".into(), ..SidecarStatus::default() }));
    let answer = ask(bench.address, "GET /status", "").await;
    let body = answer.split("\r\n\r\n").nth(1).unwrap();
    assert_eq!(serde_json::from_str::<SidecarStatus>(body).unwrap().group, "g");

    let answer = ask(bench.address, "GET /metrics", "").await;
    assert!(answer.contains(&format!("content-type: {}\r\n", metrics::CONTENT_TYPE)), "{answer}");
    assert!(answer.contains("\nidempotency_app_up 0\n") && answer.ends_with("# EOF\n"), "{answer}");
}

#[tokio::test]
async fn what_is_not_there_is_told() {
    let bench = bench(None, PATIENCE).await;
    let answer = ask(bench.address, "GET /", "").await;
    assert!(code(&answer) == "404" && answer.contains("/livez /readyz /status /metrics /drain"), "{answer}");
    let answer = ask(bench.address, "POST /status", "content-length: 0\r\n").await;
    assert!(code(&answer) == "405" && answer.contains("allow: GET, HEAD\r\n"), "{answer}");
    let answer = ask(bench.address, "DELETE /drain", "").await;
    assert!(code(&answer) == "405" && answer.contains("allow: GET, HEAD, POST\r\n"), "{answer}");
}

#[tokio::test]
async fn drain_asks_for_the_token_and_waits_for_the_pipeline() {
    let mut bench = bench(Some("s3cret"), PATIENCE).await;
    for headers in
        ["", "authorization: Bearer wrong\r\n", "authorization: s3cret\r\n", "authorization: Basic s3cret\r\n"]
    {
        let answer = ask(bench.address, "POST /drain", headers).await;
        assert!(code(&answer) == "401" && answer.contains("www-authenticate: Bearer\r\n"), "{headers}: {answer}");
        assert!(!answer.contains("s3cret"));
    }
    assert_eq!(code(&ask(bench.address, "HEAD /drain", "authorization: Bearer s3cret\r\n").await), "200");
    assert!(bench.commands.try_recv().is_err(), "a refused or HEAD drain reached the pipeline");

    for line in ["GET /drain", "POST /drain"] {
        let asking = tokio::spawn(async move { ask(bench.address, line, "authorization: bearer s3cret\r\n").await });
        let Command::Drain(reply) = bench.commands.recv().await.unwrap();
        let report = DrainReport { settled: true, remaining: 0, message: "drained".into() };
        reply.send(report).unwrap();
        let answer = asking.await.unwrap();
        assert_eq!(code(&answer), "200");
        assert!(answer.ends_with(r#"{"settled":true,"remaining":0,"message":"drained"}"#), "{answer}");
    }
}

#[tokio::test]
async fn drain_says_so_when_the_pipeline_is_gone() {
    let mut bench = bench(None, PATIENCE).await;
    let address = bench.address;
    let asking = tokio::spawn(async move { ask(address, "GET /drain", "").await });
    drop(bench.commands.recv().await.unwrap());
    assert_eq!(code(&asking.await.unwrap()), "503");
    drop(bench.commands);
    assert_eq!(code(&ask(address, "GET /drain", "").await), "503");
}

#[tokio::test]
async fn a_slow_peer_is_cut_off_and_a_drain_is_not() {
    let mut bench = bench(None, QUICK).await;
    let drain = send(bench.address, "GET /drain HTTP/1.1\r\nhost: s\r\n\r\n").await;
    let Command::Drain(reply) = bench.commands.recv().await.unwrap();
    // The head never ends; the drain is older than the time that this connection is given.
    let slow = send(bench.address, "GET /livez HTTP/1.1\r\nhost: s\r\nx-slow: ").await;
    assert_eq!(rest(slow).await, "");
    reply.send(DrainReport { settled: true, remaining: 0, message: String::new() }).unwrap();
    assert_eq!(code(&rest(drain).await), "200");
}

#[tokio::test]
async fn a_head_that_does_not_come_or_does_not_end_is_refused() {
    let patience = Patience { head: Duration::from_millis(50), connection: Duration::from_secs(600), ..QUICK };
    let bench = bench(None, patience).await;
    let silent = send(bench.address, "").await;
    let slow = send(bench.address, "GET /livez HTTP/1.1\r\n").await;
    assert!(!rest(silent).await.starts_with("HTTP/1.1 200"));
    assert!(!rest(slow).await.starts_with("HTTP/1.1 200"));
    let long = format!("GET /livez HTTP/1.1\r\nhost: s\r\nx-long: {}\r\n\r\n", "x".repeat(4 * MAX_HEAD));
    let answer = rest(send(bench.address, &long).await).await;
    assert!(answer.is_empty() || code(&answer) == "431", "{answer}");
    assert_eq!(code(&ask(bench.address, "GET /livez", "").await), "200");
}

#[tokio::test]
async fn the_end_lets_an_answer_under_way_out_and_then_closes_the_port() {
    let mut bench = bench(None, Patience { end: Duration::from_secs(30), ..PATIENCE }).await;
    let drain = send(bench.address, "GET /drain HTTP/1.1\r\nhost: s\r\n\r\n").await;
    let Command::Drain(reply) = bench.commands.recv().await.unwrap();
    bench.stop.send(()).unwrap();
    let asked = Instant::now();
    while TcpStream::connect(bench.address).await.is_ok() {
        assert!(asked.elapsed() < Duration::from_secs(10), "the port is still open");
        tokio::task::yield_now().await;
    }
    reply.send(DrainReport { settled: true, remaining: 0, message: String::new() }).unwrap();
    assert_eq!(code(&rest(drain).await), "200");
    bench.server.await.unwrap();
}
