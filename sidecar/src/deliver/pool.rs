//! Decides which connection carries a request: opens them, keeps idle ones, tells whether a byte was written. I/O.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// An idle connection older than this is not used again. Servers close idle ones on their own (gunicorn after 2 s, Node and uvicorn after
/// 5 s), and a request written into that moment would count as sent: a second delivery for nothing.
const MAX_IDLE: Duration = Duration::from_millis(1500);

/// Larger buffers are not kept with an idle connection.
const MAX_SCRATCH: usize = 1 << 20;

/// Where the app listens.
#[derive(Clone, Debug)]
pub(super) enum Address {
    Socket(PathBuf),
    Port(u16),
}

/// The idle connections, the last used first.
#[derive(Debug)]
pub(super) struct Pool {
    idle: Mutex<VecDeque<Box<Connection>>>,
    limit: usize,
}

impl Pool {
    pub(super) fn new(limit: usize) -> Self {
        Self { idle: Mutex::new(VecDeque::new()), limit }
    }

    /// A connection that is open as far as this side knows.
    pub(super) async fn take(&self) -> Option<Box<Connection>> {
        loop {
            let mut connection = self.lock().pop_back()?;
            if connection.idle_since.elapsed() < MAX_IDLE && connection.usable().await {
                return Some(connection);
            }
        }
    }

    pub(super) fn put(&self, mut connection: Box<Connection>) {
        connection.idle_since = Instant::now();
        let mut idle = self.lock();
        // The oldest stand in front.
        while idle.front().is_some_and(|oldest| oldest.idle_since.elapsed() >= MAX_IDLE) {
            idle.pop_front();
        }
        if idle.len() < self.limit {
            idle.push_back(connection);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Box<Connection>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One HTTP/1.1 connection. It is driven by the request that uses it, not by a task of its own: no hand-over between tasks, and dropping
/// it closes it.
pub(super) struct Connection {
    pub(super) sender: SendRequest<Full<Bytes>>,
    driver: http1::Connection<TokioIo<Counted>, Full<Bytes>>,
    closed: bool,
    written: Arc<AtomicU64>,
    written_before: u64,
    idle_since: Instant,
    /// Header values and batches are written here.
    pub(super) scratch: BytesMut,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("closed", &self.closed).finish_non_exhaustive()
    }
}

impl Connection {
    /// Opens one. The error says what to do.
    pub(super) async fn open(address: &Address) -> Result<Box<Self>, String> {
        let written = Arc::new(AtomicU64::new(0));
        let stream = connect(address).await?;
        let io = TokioIo::new(Counted { stream, written: Arc::clone(&written) });
        let (sender, driver) = http1::handshake(io).await.map_err(|error| error.to_string())?;
        let (idle_since, scratch) = (Instant::now(), BytesMut::new());
        Ok(Box::new(Self { sender, driver, closed: false, written, written_before: 0, idle_since, scratch }))
    }

    /// Runs `future` and the connection under it.
    pub(super) async fn drive<F: Future>(&mut self, future: F) -> F::Output {
        drive(&mut self.driver, &mut self.closed, future).await
    }

    /// Like [`Connection::drive`], for a future that needs the sender.
    pub(super) async fn exchange<F: Future>(
        &mut self,
        start: impl FnOnce(&mut SendRequest<Full<Bytes>>) -> F,
    ) -> F::Output {
        self.written_before = self.written.load(Ordering::Relaxed);
        let future = start(&mut self.sender);
        drive(&mut self.driver, &mut self.closed, future).await
    }

    /// Was a byte of the last request handed to the kernel?
    pub(super) fn wrote(&self) -> bool {
        self.written.load(Ordering::Relaxed) != self.written_before
    }

    /// Looks once whether the app has closed it, said something unasked, or is not done with the request before.
    async fn usable(&mut self) -> bool {
        if self.scratch.capacity() > MAX_SCRATCH {
            self.scratch = BytesMut::new();
        }
        self.drive(std::future::ready(())).await;
        !self.closed && self.sender.is_ready()
    }
}

async fn drive<F: Future>(
    driver: &mut http1::Connection<TokioIo<Counted>, Full<Bytes>>,
    closed: &mut bool,
    future: F,
) -> F::Output {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        // The connection first: what it reads, the future can take at once.
        if !*closed && Pin::new(&mut *driver).poll(cx).is_ready() {
            *closed = true;
        }
        future.as_mut().poll(cx)
    })
    .await
}

/// Connects and closes.
pub(super) async fn probe(address: &Address) -> Result<(), String> {
    connect(address).await.map(drop)
}

async fn connect(address: &Address) -> Result<Stream, String> {
    match address {
        Address::Socket(path) => loop {
            match UnixStream::connect(path).await {
                Ok(stream) => return Ok(Stream::Unix(stream)),
                // The app's accept queue is full, and no event tells when it has room. The caller's time-out ends this.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    tokio::time::sleep(Duration::from_millis(5)).await
                }
                Err(error) => return Err(socket_advice(&path.to_string_lossy(), &error)),
            }
        },
        Address::Port(port) => {
            let mut connected = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, *port))).await;
            if connected.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
                connected = TcpStream::connect(SocketAddr::from((Ipv6Addr::LOCALHOST, *port))).await.or(connected);
            }
            let stream = connected.map_err(|error| port_advice(*port, &error))?;
            // Small requests must not wait for each other's acknowledgements.
            stream.set_nodelay(true).map_err(|error| port_advice(*port, &error))?;
            Ok(Stream::Tcp(stream))
        }
    }
}

fn socket_advice(path: &str, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => {
            format!("no such socket {path}: the app must listen on the unix socket named by $IDEMPOTENCY_SOCKET")
        }
        ErrorKind::PermissionDenied => format!(
            "the socket {path} belongs to another user: run the app as the sidecar's user (securityContext.runAsUser), make the socket \
             group-writable, or set delivery.port"
        ),
        ErrorKind::ConnectionRefused => format!(
            "nobody listens on the socket {path}: the app is down, or it found its old socket file; it must remove the file and listen again"
        ),
        _ => format!("cannot connect to the socket {path}: {error}"),
    }
}

fn port_advice(port: u16, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => {
            format!("nobody listens on 127.0.0.1:{port}: the app must listen on the loopback port of delivery.port")
        }
        _ => format!("cannot connect to 127.0.0.1:{port}: {error}"),
    }
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// Counts what the kernel took: with nothing taken, a request was certainly not sent.
struct Counted {
    stream: Stream,
    written: Arc<AtomicU64>,
}

impl Counted {
    fn count(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &result {
            self.written.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        result
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        self.count(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        };
        self.count(result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sockets have no buffer of their own on this side.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_idle_connection_is_not_used_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let (address, pool) = (Address::Socket(path), Pool::new(2));
        let mut open = Vec::new();
        for _ in 0..3 {
            pool.put(Connection::open(&address).await.unwrap());
            open.push(listener.accept().await.unwrap());
        }
        assert_eq!(pool.lock().len(), 2, "no more than its limit");
        assert!(pool.take().await.is_some());
        for connection in pool.lock().iter_mut() {
            connection.idle_since = connection.idle_since.checked_sub(MAX_IDLE).unwrap();
        }
        assert!(pool.take().await.is_none(), "the app may be closing it just now");

        pool.put(Connection::open(&address).await.unwrap());
        for connection in pool.lock().iter_mut() {
            connection.idle_since = connection.idle_since.checked_sub(MAX_IDLE).unwrap();
        }
        pool.put(Connection::open(&address).await.unwrap());
        assert_eq!(pool.lock().len(), 1, "the old one is closed when another comes back");
    }

    #[tokio::test]
    async fn the_advice_names_the_setting() {
        for (kind, setting) in [
            (ErrorKind::NotFound, "$IDEMPOTENCY_SOCKET"),
            (ErrorKind::PermissionDenied, "securityContext.runAsUser"),
            (ErrorKind::PermissionDenied, "delivery.port"),
            (ErrorKind::ConnectionRefused, "old socket file"),
        ] {
            let advice = socket_advice("app.sock", &kind.into());
            assert!(advice.contains(setting) && advice.contains("app.sock"), "{advice}");
        }
        let long = Address::Socket("x".repeat(200).into());
        assert!(probe(&long).await.unwrap_err().contains("cannot connect"));
    }
}
