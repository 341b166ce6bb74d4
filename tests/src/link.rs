//! A stretch of network between two processes that can be cut and slowed down: a TCP proxy that knows nothing of what it carries. I/O.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// What the stretch does with what it carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    cut: bool,
    delay: Duration,
}

/// A running link; ends, with its connections, when dropped.
#[derive(Debug)]
pub struct Link {
    port: u16,
    state: Arc<watch::Sender<State>>,
    accepting: AbortHandle,
}

impl Link {
    /// Listens on a free loopback port, and carries to another, on which somebody may listen later.
    ///
    /// # Errors
    /// It can't listen.
    pub async fn to(target: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, crate::port::free()?)).await?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(watch::Sender::new(State::default()));
        let shared = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, target, Arc::clone(&shared)));
            }
        });
        Ok(Self { port, state, accepting: accepting.abort_handle() })
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Nothing passes from now on, in either direction; connections stay open, as when a cable is pulled.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cut = true);
    }

    /// Everything arrives so much later.
    pub fn slow(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }

    /// What was held goes on, and all is as at the start.
    pub fn mend(&self) {
        self.state.send_replace(State::default());
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(client: TcpStream, target: u16, state: Arc<watch::Sender<State>>) {
    // A connection that is asked for while the link is cut is made when it is mended.
    passes(&state).await;
    let Ok(server) = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, target))).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::join!(pass_on(from_client, to_server, &state), pass_on(from_server, to_client, &state));
}

/// Until one side ends; then the other is told.
async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &watch::Sender<State>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let delay = state.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        passes(state).await;
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
    passes(state).await;
    let _ = to.shutdown().await;
}

async fn passes(state: &watch::Sender<State>) {
    // The sender lives as long as we do, so that waiting can't fail.
    let _ = state.subscribe().wait_for(|state| !state.cut).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_sent_over_a_cut_link_arrives_when_it_is_mended() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let link = Link::to(server.local_addr().unwrap().port()).await.unwrap();
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, link.port())).await.unwrap();
        let (mut served, _) = server.accept().await.unwrap();
        let mut word = [0; 3];
        client.write_all(b"one").await.unwrap();
        served.read_exact(&mut word).await.unwrap();
        link.cut();
        client.write_all(b"two").await.unwrap();
        let mut arriving = Box::pin(served.read_exact(&mut word));
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut arriving).await.is_err(), "it went through");
        link.mend();
        arriving.await.unwrap();
        assert_eq!(&word, b"two");
        drop(client);
        assert_eq!(served.read(&mut word).await.unwrap(), 0, "the end is passed on");
    }
}
