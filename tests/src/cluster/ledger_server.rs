//! Decides how effects in pods are kept: a server that writes each to disk before it counts, so that a ledger survives every kill of
//! a pod. I/O.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::ensure;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::protocol::{FromApp, Mode, ToApp, What};
use super::reporter::line;
use crate::ledger::{Check, Effect, Published};
use crate::port;
use crate::wait::patiently;

/// What an app reported, in the order in which it was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name of the pod.
    pub pod: String,
    /// What happened there.
    pub what: What,
}

/// The ledger of a test's apps. Dropped, it ends, and no effect counts any more.
#[derive(Debug)]
pub struct LedgerServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    entries: Mutex<Vec<Entry>>,
    mode: Mutex<Mode>,
    apps: Mutex<Vec<AppLink>>,
    next: AtomicU64,
    effects: AtomicUsize,
}

#[derive(Debug)]
struct AppLink {
    id: u64,
    pod: String,
    orders: mpsc::UnboundedSender<ToApp>,
}

/// What waits to be written: a report, and to whom it is acknowledged.
struct Waiting {
    entry: Entry,
    number: u64,
    acknowledge: mpsc::UnboundedSender<ToApp>,
}

impl LedgerServer {
    /// Listens where pods reach it, and keeps its file in `dir`.
    ///
    /// # Errors
    /// No port is free, or the file can't be made.
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((port::host(), port::free()?)).await?;
        let address = listener.local_addr()?;
        let file = OpenOptions::new().append(true).create_new(true).open(dir.join("ledger"))?;
        let shared = Arc::<Shared>::default();
        let (reports, inbox) = mpsc::unbounded_channel();
        tokio::task::spawn_blocking({
            let shared = Arc::clone(&shared);
            move || keep(file, inbox, &shared)
        });
        let server = tokio::spawn(serve(listener, Arc::clone(&shared), reports));
        Ok(Self { address, shared, server })
    }

    /// `host:port`, as pods reach it.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Everything that was reported so far.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.shared.entries.lock().unwrap().clone()
    }

    /// The effects so far.
    #[must_use]
    pub fn effects(&self) -> Vec<Effect> {
        let entries = self.shared.entries.lock().unwrap();
        let effects = entries.iter().filter_map(|entry| match &entry.what {
            What::Effects(effects) => Some(effects.clone()),
            _ => None,
        });
        effects.flatten().collect()
    }

    /// How many effects there are so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.effects.load(Ordering::Relaxed)
    }

    /// Compares with what was published.
    #[must_use]
    pub fn check(&self, published: &Published) -> Check {
        Check::new(published, &self.effects())
    }

    /// Waits until so many effects took place, second ones counted too.
    ///
    /// # Panics
    /// They did not within `deadline`.
    pub async fn wait_for(&self, effects: usize, deadline: Duration) {
        patiently(format!("{effects} effects"), deadline, async || {
            let there = self.count();
            if there >= effects { Ok(()) } else { Err(format!("{there} effects")) }
        })
        .await;
    }

    /// Makes all apps behave so from their next request on, also those that start later.
    pub fn behave(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap() = mode;
        for app in self.shared.apps.lock().unwrap().iter() {
            // One that has just gone asks anew when it is back.
            let _ = app.orders.send(ToApp::Behave(mode));
        }
    }

    /// Gives an order to the app in that pod.
    ///
    /// # Errors
    /// It is not connected.
    pub fn order(&self, pod: &str, order: &ToApp) -> anyhow::Result<()> {
        let apps = self.shared.apps.lock().unwrap();
        let told = apps.iter().filter(|app| app.pod == pod && app.orders.send(order.clone()).is_ok()).count();
        ensure!(told > 0, "no app in pod {pod} is connected to the ledger");
        Ok(())
    }

    /// The pods whose apps are connected, sorted.
    #[must_use]
    pub fn pods(&self) -> Vec<String> {
        let mut pods: Vec<_> = self.shared.apps.lock().unwrap().iter().map(|app| app.pod.clone()).collect();
        pods.sort();
        pods.dedup();
        pods
    }
}

impl Drop for LedgerServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>, reports: mpsc::UnboundedSender<Waiting>) {
    // Connections end with the server.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (shared, reports) = (Arc::clone(&shared), reports.clone());
        connections.spawn(async move {
            let id = shared.next.fetch_add(1, Ordering::Relaxed);
            // How a pod's connection ends says nothing: pods are killed here.
            let _ = connection(stream, id, &shared, &reports).await;
            shared.apps.lock().unwrap().retain(|app| app.id != id);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(
    stream: TcpStream,
    id: u64,
    shared: &Shared,
    reports: &mpsc::UnboundedSender<Waiting>,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let (orders, mut outbox) = mpsc::unbounded_channel();
    let mut pod = String::new();
    loop {
        tokio::select! {
            order = outbox.recv() => match order {
                Some(order) => write.write_all(&line(&order)?).await?,
                None => return Ok(()),
            },
            text = lines.next_line() => match text?.map(|text| serde_json::from_str(&text)).transpose()? {
                Some(FromApp::Hello { pod: name }) => {
                    orders.send(ToApp::Behave(*shared.mode.lock().unwrap()))?;
                    shared.apps.lock().unwrap().push(AppLink { id, pod: name.clone(), orders: orders.clone() });
                    pod = name;
                }
                Some(FromApp::Report { number, what }) => {
                    let entry = Entry { pod: pod.clone(), what };
                    reports.send(Waiting { entry, number, acknowledge: orders.clone() })?;
                }
                None => return Ok(()),
            },
        }
    }
}

/// Writes what there is, syncs once, and only then lets it count.
fn keep(mut file: File, mut inbox: mpsc::UnboundedReceiver<Waiting>, shared: &Shared) {
    let mut batch = Vec::new();
    while inbox.blocking_recv_many(&mut batch, 1_000) > 0 {
        let mut text = Vec::new();
        for Waiting { entry, .. } in &batch {
            text.extend(line(&(&entry.pod, &entry.what)).unwrap());
        }
        file.write_all(&text).expect("the ledger can be written");
        file.sync_data().expect("the ledger can be synced");
        let mut entries = shared.entries.lock().unwrap();
        for Waiting { entry, number, acknowledge } in batch.drain(..) {
            if let What::Effects(effects) = &entry.what {
                shared.effects.fetch_add(effects.len(), Ordering::Relaxed);
            }
            entries.push(entry);
            // A pod that has gone meanwhile gets no answer: the effect stands, and it does not know.
            let _ = acknowledge.send(ToApp::Kept(number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::reporter::Reporter;

    #[tokio::test(flavor = "multi_thread")]
    async fn reports_are_kept_and_orders_arrive() {
        let dir = tempfile::tempdir().unwrap();
        let server = LedgerServer::start(dir.path()).await.unwrap();
        server.behave(Mode::Work(7));
        let (orders, mut inbox) = mpsc::unbounded_channel();
        let reporter = Reporter::start(server.address(), "pod-1".into(), orders);
        reporter.report(What::Started).await.unwrap();
        reporter.report(What::Terminated).await.unwrap();
        let whats: Vec<_> = server.entries().into_iter().map(|entry| (entry.pod, entry.what)).collect();
        assert_eq!(whats, [("pod-1".into(), What::Started), ("pod-1".into(), What::Terminated)]);
        assert_eq!(std::fs::read_to_string(dir.path().join("ledger")).unwrap().lines().count(), 2);
        assert_eq!(inbox.recv().await, Some(ToApp::Behave(Mode::Work(7))));
        assert_eq!(server.pods(), ["pod-1"]);
        server.order("pod-1", &ToApp::Live(false)).unwrap();
        assert_eq!(inbox.recv().await, Some(ToApp::Live(false)));
        assert!(server.order("pod-2", &ToApp::Die).is_err());
    }
}
