//! Decides how events keep coming while a test changes things: as fast as the apps take them, until the test has done. I/O.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Space;
use crate::ledger::Published;
use crate::publish::{Plan, Publisher};
use crate::wait::LOOK_AGAIN;

/// Events that may wait at the apps.
const BACKLOG: usize = 120;
/// Events that are published together.
const BATCH: usize = 40;

/// Events that keep coming.
#[derive(Debug)]
pub struct Stream {
    over: watch::Sender<()>,
    publishing: JoinHandle<anyhow::Result<Published>>,
}

impl Stream {
    /// Starts one, with 30 % duplicates, into a topic of so many partitions.
    #[must_use]
    pub fn start(space: &Arc<Space>, topic: &str, partitions: i32) -> Self {
        let (over, running) = watch::channel(());
        let (space, topic) = (Arc::clone(space), topic.to_owned());
        let publishing = tokio::spawn(async move {
            let mut published = Published::default();
            let publisher = Publisher::new(&space.kafka().await?.bootstrap())?;
            let before = space.ledger.count();
            // An error means that the sender is gone.
            while running.has_changed().is_ok() {
                if published.unique() > space.ledger.count().saturating_sub(before) + BACKLOG {
                    tokio::time::sleep(LOOK_AGAIN).await;
                } else {
                    published.extend(publisher.send_all(&topic, Plan::new(BATCH, partitions).records()).await?);
                }
            }
            Ok(published)
        });
        Self { over, publishing }
    }

    /// Ends it, and tells what it has published.
    ///
    /// # Errors
    /// The broker refused a record.
    pub async fn stop(self) -> anyhow::Result<Published> {
        drop(self.over);
        self.publishing.await?
    }
}
