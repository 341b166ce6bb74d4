//! Decides when the app is there: tries its socket until it accepts, and clears a socket that nobody listens on. I/O.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, sleep};

use super::Input;
use crate::deliver::Deliver;

/// How often the app is tried.
const EVERY: Duration = Duration::from_millis(50);
/// A socket that refuses for so long is nobody's. An app that has bound it and does not listen yet needs microseconds.
const STALE: Duration = Duration::from_secs(1);

/// Tells when the app accepts; with `restarted`, only after it was seen down, or with another socket, since the start.
pub(super) async fn watch(
    deliver: Arc<dyn Deliver>,
    socket: Option<PathBuf>,
    restarted: bool,
    inbox: UnboundedSender<Input>,
) {
    let first = socket.as_deref().and_then(identity);
    let mut must_go = restarted;
    let mut stale: Option<((u64, u64), Instant)> = None;
    let mut told = String::new();
    loop {
        match deliver.probe().await {
            Ok(()) if !must_go || socket.as_deref().and_then(identity) != first => break,
            Ok(()) => {}
            Err(trouble) => {
                must_go = false;
                if let Some(path) = &socket {
                    stale = clear_if_stale(path, stale);
                }
                if told != trouble {
                    let _ = inbox.send(Input::AppTrouble(trouble.clone()));
                    told = trouble;
                }
            }
        }
        sleep(EVERY).await;
    }
    let _ = inbox.send(Input::AppAccepts);
}

/// Removes a socket file that has refused for a while, so that the app can bind its path again.
fn clear_if_stale(path: &Path, since: Option<((u64, u64), Instant)>) -> Option<((u64, u64), Instant)> {
    let found = identity(path)?;
    match since {
        Some((same, since)) if same == found => {
            if since.elapsed() < STALE {
                return Some((same, since));
            }
            match std::fs::remove_file(path) {
                Ok(()) => tracing::info!(path = %path.display(), "removed a socket that nobody listens on"),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a socket that nobody listens on can't be removed")
                }
            }
            None
        }
        _ => Some((found, Instant::now())),
    }
}

/// Which socket stands at that path; nothing else than a socket is ever touched.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = std::fs::symlink_metadata(path).ok()?;
    found.file_type().is_socket().then(|| (found.dev(), found.ino()))
}
