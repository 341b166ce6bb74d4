//! Tests of delivery against real sockets: an app written byte by byte, so that it can misbehave.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crds::status::Protection;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixSocket, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;
use crate::event_id::{EventId, Identity};
use crate::record::{Header, Record, TopicPartition};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

fn parcel(value: Bytes) -> Parcel {
    let record = Record {
        origin: TopicPartition { topic: "orders".into(), partition: 3 },
        offset: 7,
        timestamp: Some(0),
        key: None,
        value: Some(value),
        headers: vec![Header { name: "idempotency-key".into(), value: Some("forged\r\nx: y".into()) }],
    };
    let identity =
        Identity { id: EventId([1; 32]), fallback: false, event_type: "".into(), fingerprint: None, cloud_event: None };
    Parcel {
        record: Arc::new(record),
        identity: Arc::new(identity),
        idempotency_key: "idempotency:g:orders::01".into(),
        attempt: 1,
        protection: Protection::Full,
    }
}

fn small() -> Vec<Parcel> {
    vec![parcel(Bytes::from_static(b"{\"data\":1}"))]
}

fn delivery(socket: &Path, timeout: Duration) -> HttpDelivery {
    HttpDelivery::new(&DeliveryConfig {
        socket: socket.into(),
        path: "/events".into(),
        timeout: crds::Duration::from_millis(timeout.as_millis() as u64),
        ..DeliveryConfig::default()
    })
}

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(200);

/// What the app does with a request.
enum Reply {
    /// Answers and reads on.
    Send(Vec<u8>),
    /// Answers and closes.
    Close(Vec<u8>),
    /// Says this much and then nothing.
    Hang(Vec<u8>),
}

/// One request as it came over the wire.
struct Seen {
    head: String,
    body: Vec<u8>,
    connection: usize,
}

type Script = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

struct App {
    seen: Arc<Mutex<Vec<Seen>>>,
    changed: Arc<Notify>,
    ended: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl App {
    fn on_socket(path: &Path, script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        Self::serve(script, move || {
            let listener = std::sync::Arc::new(UnixListener::from_std(listener.into_std().unwrap()).unwrap());
            move || {
                let listener = Arc::clone(&listener);
                async move { listener.accept().await.unwrap().0 }
            }
        })
    }

    fn on_port(listener: TcpListener, script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = Arc::new(listener);
        Self::serve(script, move || {
            move || {
                let listener = Arc::clone(&listener);
                async move { listener.accept().await.unwrap().0 }
            }
        })
    }

    fn serve<S, A, F>(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static, accept: impl FnOnce() -> A) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = S> + Send,
        A: Fn() -> F + Send + 'static,
    {
        let (seen, changed) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
        let ended = Arc::new(AtomicUsize::new(0));
        let script: Script = Arc::new(script);
        let accept = accept();
        let (list, told, over) = (Arc::clone(&seen), Arc::clone(&changed), Arc::clone(&ended));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            for connection in 0.. {
                let stream = accept().await;
                let (list, told, over, script) = (list.clone(), told.clone(), over.clone(), script.clone());
                connections.spawn(async move {
                    talk(stream, connection, &list, &told, &script).await;
                    over.fetch_add(1, Ordering::SeqCst);
                    told.notify_one();
                });
            }
        });
        Self { seen, changed, ended, task }
    }

    async fn until(&self, condition: impl Fn(&Self) -> bool) {
        tokio::time::timeout(LONG, async {
            while !condition(self) {
                self.changed.notified().await;
            }
        })
        .await
        .unwrap();
    }

    /// Dies with its connections; the socket file stays.
    async fn die(self) {
        self.task.abort();
        let _ = self.task.await;
        // Each connection's task holds the list until its socket is closed.
        while Arc::strong_count(&self.seen) > 1 {
            tokio::task::yield_now().await;
        }
    }

    fn connections(&self) -> Vec<usize> {
        self.seen.lock().unwrap().iter().map(|seen| seen.connection).collect()
    }
}

async fn talk(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    connection: usize,
    seen: &Mutex<Vec<Seen>>,
    changed: &Notify,
    script: &Script,
) {
    while let Some((head, body)) = read_request(&mut stream).await {
        let request = Seen { head, body, connection };
        let reply = script(&request);
        seen.lock().unwrap().push(request);
        changed.notify_one();
        let (bytes, more) = match reply {
            Reply::Send(bytes) => (bytes, true),
            Reply::Close(bytes) => (bytes, false),
            Reply::Hang(bytes) => {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
                return;
            }
        };
        if stream.write_all(&bytes).await.is_err() || !more {
            return;
        }
    }
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let mut body = bytes.split_off(end);
    let head = String::from_utf8(bytes).unwrap();
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("content-length").parse().unwrap();
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    assert_eq!(body.len(), length, "no byte behind a request");
    Some((head, body))
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("app.sock");
    (folder, socket)
}

fn ok() -> Answer {
    Answer::Http { status: 200, retry_after: None, body: Bytes::new() }
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let (_folder, socket) = folder();
    let app = App::on_socket(&socket, |_| Reply::Send(OK.to_vec()));
    let delivery = delivery(&socket, LONG);
    for _ in 0..10 {
        assert_eq!(delivery.deliver(small()).await, ok());
    }
    assert_eq!(app.connections(), [0; 10]);
    let seen = app.seen.lock().unwrap();
    assert!(seen[0].head.starts_with("POST /events HTTP/1.1\r\nhost: localhost\r\n"), "{}", seen[0].head);
    assert_eq!(seen[0].body, b"{\"data\":1}");
    assert_eq!(seen[0].head.matches("\r\nidempotency-key: idempotency:g:orders::01\r\n").count(), 1);
    assert!(seen[0].head.contains("\r\nkafka-header-idempotency-key: forged%0D%0Ax:%20y\r\n"), "{}", seen[0].head);
    assert!(!seen[0].head.contains("\r\nx:"), "{}", seen[0].head);
}

#[tokio::test]
async fn an_empty_body_has_a_length() {
    let (_folder, socket) = folder();
    let app = App::on_socket(&socket, |_| Reply::Send(OK.to_vec()));
    assert_eq!(delivery(&socket, LONG).deliver(vec![parcel(Bytes::new())]).await, ok());
    assert!(app.seen.lock().unwrap()[0].head.contains("\r\ncontent-length: 0\r\n"));
}

#[tokio::test]
async fn several_at_once_take_several_connections() {
    let (_folder, socket) = folder();
    let app = App::on_socket(&socket, |_| Reply::Send(OK.to_vec()));
    let delivery = delivery(&socket, LONG);
    let answers = futures_util::future::join_all((0..20).map(|_| delivery.deliver(small()))).await;
    assert_eq!(answers, vec![ok(); 20]);
    let mut connections = app.connections();
    connections.sort_unstable();
    assert_eq!(connections, (0..20).collect::<Vec<_>>());
    assert_eq!(delivery.deliver(small()).await, ok());
    assert!(app.connections()[20] < 20, "an idle one is taken");
}

#[tokio::test]
async fn the_answer_and_retry_after_are_read() {
    let (_folder, socket) = folder();
    let _app = App::on_socket(&socket, |seen| {
        match seen.connection {
        0 => Reply::Close(b"HTTP/1.1 503 Busy\r\nretry-after: 7\r\nconnection: close\r\ncontent-length: 4\r\n\r\nbusy".to_vec()),
        1 => Reply::Send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n".to_vec()),
        _ => unreachable!(),
    }
    });
    let delivery = delivery(&socket, LONG);
    let answer = delivery.deliver(small()).await;
    assert_eq!(answer, Answer::Http { status: 503, retry_after: Some(Duration::from_secs(7)), body: "busy".into() });
    for _ in 0..2 {
        let answer = delivery.deliver(small()).await;
        assert_eq!(answer, Answer::Http { status: 200, retry_after: None, body: "abc".into() });
    }
}

#[tokio::test]
async fn an_app_that_restarts_costs_no_attempt() {
    let (_folder, socket) = folder();
    let delivery = delivery(&socket, LONG);
    for _ in 0..3 {
        let app = App::on_socket(&socket, |_| Reply::Send(OK.to_vec()));
        assert_eq!(delivery.deliver(small()).await, ok(), "the kept connection is dead, and a new one is taken");
        app.die().await;
        assert!(matches!(delivery.deliver(small()).await, Answer::NotSent(text) if text.contains("nobody listens")));
        std::fs::remove_file(&socket).unwrap();
    }
}

#[tokio::test]
async fn a_kept_connection_that_the_app_spoils_is_not_used() {
    // A server that ends an idle connection with an unasked answer, as some do.
    let (_folder, socket) = folder();
    let late = [OK, b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"].concat();
    let app = App::on_socket(&socket, move |seen| match seen.connection {
        0 => Reply::Close(late.clone()),
        _ => Reply::Send(OK.to_vec()),
    });
    let delivery = delivery(&socket, LONG);
    assert_eq!(delivery.deliver(small()).await, ok());
    app.until(|app| app.ended.load(Ordering::SeqCst) == 1).await;
    assert_eq!(delivery.deliver(small()).await, ok());
    assert_eq!(app.connections(), [0, 1]);
}

#[tokio::test]
async fn nobody_there_says_the_fix() {
    let (_folder, socket) = folder();
    let delivery = delivery(&socket, LONG);
    let answer = delivery.deliver(small()).await;
    assert!(matches!(&answer, Answer::NotSent(text) if text.contains("$IDEMPOTENCY_SOCKET")), "{answer:?}");
    assert!(delivery.probe().await.unwrap_err().contains("$IDEMPOTENCY_SOCKET"));

    drop(UnixListener::bind(&socket).unwrap());
    assert!(socket.exists(), "a stale file");
    let answer = delivery.deliver(small()).await;
    assert!(matches!(&answer, Answer::NotSent(text) if text.contains("old socket file")), "{answer:?}");
    assert!(delivery.probe().await.unwrap_err().contains("old socket file"));
}

#[tokio::test]
async fn the_probe_connects_and_sends_nothing() {
    let (_folder, socket) = folder();
    let app = App::on_socket(&socket, |_| Reply::Send(OK.to_vec()));
    assert_eq!(delivery(&socket, LONG).probe().await, Ok(()));
    app.until(|app| app.ended.load(Ordering::SeqCst) == 1).await;
    assert!(app.connections().is_empty());
}

#[tokio::test]
async fn a_full_accept_queue_is_not_sent() {
    let (_folder, socket) = folder();
    let sleepy = UnixSocket::new_stream().unwrap();
    sleepy.bind(&socket).unwrap();
    let _sleepy = sleepy.listen(0).unwrap();
    let mut queue = Vec::new();
    while let Ok(stream) = UnixStream::connect(&socket).await {
        queue.push(stream);
    }
    let answer = delivery(&socket, SHORT).deliver(small()).await;
    assert!(matches!(&answer, Answer::NotSent(text) if text.contains("queue is full")), "{answer:?}");
    assert!(delivery(&socket, SHORT).probe().await.unwrap_err().contains("queue is full"));
}

#[tokio::test]
async fn half_answers_and_nonsense_are_broken() {
    let endless = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}",
        format!("1000\r\n{}\r\n", "x".repeat(4096)).repeat(300)
    );
    let long = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", MAX_BODY + 1);
    let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n", "x".repeat(1 << 20));
    for reply in [
        "",
        "HTTP/1.1 20",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        "SSH-2.0-OpenSSH_9.6\r\n\r\n",
        "\0\0\0\0\0\0\0\0\r\n\r\n",
        "HTTP/0.9 nope\r\n\r\n",
        &endless,
        &long,
        &head,
    ] {
        let (_folder, socket) = folder();
        let bytes = reply.as_bytes().to_vec();
        let app = App::on_socket(&socket, move |_| Reply::Close(bytes.clone()));
        let answer = delivery(&socket, LONG).deliver(small()).await;
        assert!(matches!(answer, Answer::Broken(_)), "{:.60}: {answer:?}", reply);
        assert_eq!(app.connections(), [0], "sent once, not again");
    }
}

#[tokio::test]
async fn an_answer_of_the_largest_size_is_read() {
    let (_folder, socket) = folder();
    let reply = format!("HTTP/1.1 200 OK\r\ncontent-length: {MAX_BODY}\r\n\r\n{}", "x".repeat(MAX_BODY));
    let _app = App::on_socket(&socket, move |_| Reply::Send(reply.clone().into_bytes()));
    let answer = delivery(&socket, LONG).deliver(small()).await;
    assert!(matches!(answer, Answer::Http { body, .. } if body.len() == MAX_BODY));
}

#[tokio::test]
async fn an_app_that_hangs_runs_into_the_timeout() {
    for said in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"] {
        let (_folder, socket) = folder();
        let app = App::on_socket(&socket, move |_| Reply::Hang(said.into()));
        assert_eq!(delivery(&socket, SHORT).deliver(small()).await, Answer::TimedOut, "{said}");
        app.until(|app| app.ended.load(Ordering::SeqCst) == 1).await;
    }
}

#[tokio::test]
async fn an_app_that_never_reads_runs_into_the_timeout() {
    let (_folder, socket) = folder();
    let _deaf = UnixListener::bind(&socket).unwrap();
    let large = vec![parcel(Bytes::from(vec![b'x'; 10 << 20]))];
    assert_eq!(delivery(&socket, SHORT).deliver(large).await, Answer::TimedOut);
}

#[tokio::test]
async fn a_dropped_delivery_closes_its_connection() {
    let (_folder, socket) = folder();
    let app = App::on_socket(&socket, |_| Reply::Hang(Vec::new()));
    let delivery = delivery(&socket, LONG);
    tokio::select! {
        answer = delivery.deliver(small()) => panic!("{answer:?}"),
        () = app.until(|app| app.connections() == [0]) => {}
    }
    app.until(|app| app.ended.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn ten_mebibytes_arrive() {
    let (_folder, socket) = folder();
    let value: Bytes = (0..10_u32 << 20).map(|n| (n % 251) as u8).collect::<Vec<_>>().into();
    let app = App::on_socket(&socket, |_| Reply::Send(OK.to_vec()));
    let delivery = delivery(&socket, LONG);
    for _ in 0..2 {
        assert_eq!(delivery.deliver(vec![parcel(value.clone())]).await, ok());
    }
    let seen = app.seen.lock().unwrap();
    assert!(seen.iter().all(|seen| seen.body == value && seen.connection == 0));
}

#[tokio::test]
async fn loopback_ports_of_both_families() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = App::on_port(listener, |_| Reply::Send(OK.to_vec()));
        let delivery = HttpDelivery::new(&DeliveryConfig { port: Some(port), ..DeliveryConfig::default() });
        assert_eq!(delivery.probe().await, Ok(()), "{address}");
        for _ in 0..3 {
            assert_eq!(delivery.deliver(small()).await, ok(), "{address}");
        }
        assert_eq!(app.connections(), [1; 3], "the probe's connection is not kept");
        app.die().await;
        let answer = delivery.deliver(small()).await;
        assert!(matches!(&answer, Answer::NotSent(text) if text.contains("delivery.port")), "{answer:?}");
    }
}

#[tokio::test]
async fn a_batch_is_one_request() {
    let (_folder, socket) = folder();
    let app = App::on_socket(&socket, |_| Reply::Send(OK.to_vec()));
    let mut config = DeliveryConfig { socket, ..DeliveryConfig::default() };
    config.batch.max_events = 100;
    let delivery = HttpDelivery::new(&config);
    for count in [1, 3, 100] {
        let parcels = vec![parcel(Bytes::from_static(b"{\"data\":1}")); count];
        assert_eq!(delivery.deliver(parcels).await, ok());
        let seen = app.seen.lock().unwrap();
        let request = seen.last().unwrap();
        assert!(request.head.contains("\r\ncontent-type: application/cloudevents-batch+json\r\n"));
        let events: Vec<serde_json::Value> = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(events.len(), count);
    }
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let now = || "1994-11-06T08:49:00Z".parse().unwrap();
    for (text, want) in [
        ("7", Some(Duration::from_secs(7))),
        (" 0 ", Some(Duration::ZERO)),
        ("99999999999999999999999", Some(Duration::from_secs(u64::MAX))),
        ("Sun, 06 Nov 1994 08:49:37 GMT", Some(Duration::from_secs(37))),
        ("Sun, 06 Nov 1994 08:00:00 GMT", Some(Duration::ZERO)),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
    ] {
        assert_eq!(retry_after(text, now), want, "{text}");
    }
}
