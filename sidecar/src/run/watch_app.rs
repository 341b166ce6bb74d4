//! Decides when the app is there: tries its socket until it accepts, and clears a socket that nobody listens on. I/O.

use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, sleep};

use super::Input;
use crate::deliver::Deliver;

/// How often the app is tried.
const EVERY: Duration = Duration::from_millis(50);
/// How often an app that accepts is tried.
const STANDING: Duration = Duration::from_secs(1);
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
    let mut stale = Stale::default();
    let mut told = String::new();
    loop {
        match deliver.probe().await {
            Ok(()) if !must_go || socket.as_deref().and_then(identity) != first => break,
            Ok(()) => {}
            Err(trouble) => {
                must_go = false;
                if let Some(path) = &socket {
                    stale.look(path).await;
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
    watch_down(&*deliver, &inbox).await;
}

/// Tells when the app does not accept any more, also where no event comes that could show it.
async fn watch_down(deliver: &dyn Deliver, inbox: &UnboundedSender<Input>) {
    loop {
        sleep(STANDING).await;
        if let Err(trouble) = deliver.probe().await {
            let _ = inbox.send(Input::AppTrouble(trouble));
        }
    }
}

/// A socket file that nobody listens on, and since when.
#[derive(Debug, Default)]
struct Stale {
    since: Option<(Identity, Instant)>,
    /// It can't be removed, and that was told.
    stays: Option<Identity>,
}

impl Stale {
    /// Removes the file once it has refused for a while, so that the app can bind its path again.
    async fn look(&mut self, path: &Path) {
        let found = abandoned(path).await.filter(|found| self.stays != Some(*found));
        self.since = match (found, self.since) {
            (Some(found), Some((same, since))) if same == found => Some((same, since)),
            (found, _) => found.map(|found| (found, Instant::now())),
        };
        let Some((found, _)) = self.since.filter(|(_, since)| since.elapsed() >= STALE) else { return };
        self.since = None;
        match remove(path, found) {
            Ok(()) => tracing::info!(path = %path.display(), "removed a socket that nobody listens on"),
            Err(error) => {
                self.stays = Some(found);
                tracing::warn!(path = %path.display(), %error, "a socket that nobody listens on can't be removed");
            }
        }
    }
}

/// Which socket stands at that path, if it is certain that nobody listens on it: not where its accept queue is full, and not
/// where it belongs to another user.
async fn abandoned(path: &Path) -> Option<Identity> {
    let found = identity(path)?;
    let refused = UnixStream::connect(path).await.err()?.kind() == ErrorKind::ConnectionRefused;
    refused.then_some(found)
}

/// Removes that socket, and no other that the app has bound at its path meanwhile: looked at under a name that the app does
/// not know.
fn remove(path: &Path, socket: Identity) -> io::Result<()> {
    let aside = path.with_extension("stale");
    std::fs::rename(path, &aside)?;
    if identity(&aside) != Some(socket) {
        std::fs::hard_link(&aside, path)?;
    }
    std::fs::remove_file(aside)
}

/// Device, inode, and when it was bound (a file system may use an inode again at once).
type Identity = (u64, u64, (i64, i64));

/// Which socket stands at that path; nothing else than a socket is ever touched.
fn identity(path: &Path) -> Option<Identity> {
    let found = std::fs::symlink_metadata(path).ok()?;
    found.file_type().is_socket().then(|| (found.dev(), found.ino(), (found.mtime(), found.mtime_nsec())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A socket, and whether somebody listens on it.
    fn bind(path: &Path) -> (UnixListener, Identity) {
        let listener = UnixListener::bind(path).unwrap();
        (listener, identity(path).unwrap())
    }

    #[tokio::test]
    async fn only_a_socket_that_refuses_is_abandoned() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        assert_eq!(abandoned(&path).await, None, "nothing is there");
        std::fs::write(&path, "").unwrap();
        assert_eq!(abandoned(&path).await, None, "a regular file refuses too");
        std::fs::remove_file(&path).unwrap();
        let (listener, socket) = bind(&path);
        assert_eq!(abandoned(&path).await, None, "somebody listens");
        drop(listener);
        assert_eq!(abandoned(&path).await, Some(socket));
    }

    #[tokio::test]
    async fn a_socket_that_was_bound_meanwhile_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let (_old, old) = bind(&path);
        // Its inode is kept in use, so that the new socket gets another.
        std::fs::rename(&path, folder.path().join("kept")).unwrap();
        let (_listener, new) = bind(&path);
        remove(&path, old).unwrap();
        assert_eq!(identity(&path), Some(new));
        UnixStream::connect(&path).await.unwrap();
        remove(&path, new).unwrap();
        assert_eq!(identity(&path), None);
        assert!(!path.with_extension("stale").exists());
    }
}
