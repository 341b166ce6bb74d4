//! Decides how an app in a pod reaches the harness's ledger: one connection that is made again when it breaks. I/O.

use std::collections::HashMap;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use super::protocol::{FromApp, ToApp, What};
use crate::wait::LOOK_AGAIN;

/// Reports to the ledger. A clone uses the same connection.
#[derive(Clone, Debug)]
pub struct Reporter(mpsc::UnboundedSender<(What, oneshot::Sender<()>)>);

impl Reporter {
    /// Connects in the background, and again whenever the connection breaks. What the ledger wants of the app goes to `orders`.
    #[must_use]
    pub fn start(ledger: String, pod: String, orders: mpsc::UnboundedSender<ToApp>) -> Self {
        let (sender, mut reports) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                // A broken connection fails the reports that wait on it; their events are not answered with success.
                let _ = talk(&ledger, &pod, &mut reports, &orders).await;
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        });
        Self(sender)
    }

    /// Returns once the ledger has written it to disk.
    ///
    /// # Errors
    /// The connection broke: whether it was written is not known.
    pub async fn report(&self, what: What) -> anyhow::Result<()> {
        let (kept, wait) = oneshot::channel();
        self.0.send((what, kept)).ok().context("the reporter is gone")?;
        wait.await.context("the connection to the ledger broke")
    }
}

async fn talk(
    ledger: &str,
    pod: &str,
    reports: &mut mpsc::UnboundedReceiver<(What, oneshot::Sender<()>)>,
    orders: &mpsc::UnboundedSender<ToApp>,
) -> anyhow::Result<()> {
    let stream = TcpStream::connect(ledger).await?;
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(&line(&FromApp::Hello { pod: pod.to_owned() })?).await?;
    let mut waiting = HashMap::new();
    let mut number = 0;
    loop {
        tokio::select! {
            report = reports.recv() => {
                let (what, kept) = report.context("nobody reports any more")?;
                number += 1;
                waiting.insert(number, kept);
                write.write_all(&line(&FromApp::Report { number, what })?).await?;
            }
            answer = lines.next_line() => match serde_json::from_str(&answer?.context("the ledger is gone")?)? {
                ToApp::Kept(number) => {
                    if let Some(kept) = waiting.remove(&number) {
                        // Whoever reported may have been cut off meanwhile.
                        let _ = kept.send(());
                    }
                }
                order => orders.send(order)?,
            },
        }
    }
}

/// A document and the end of its line.
pub(super) fn line<T: serde::Serialize>(document: &T) -> anyhow::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(document)?;
    line.push(b'\n');
    Ok(line)
}
