//! Decides whether the flow is paused by what a file says, which is looked at every second. I/O.
//!
//! The file is opened by its path each time: a mounted ConfigMap is replaced by another file, behind a symbolic link.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::Input;

/// How often the file is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// Nothing longer says `true` or `false`, with some blanks around it.
const LONGEST: u64 = 64;

/// Is the flow paused now? From here on a change is told by [`Input::Paused`], until nobody listens. Without a file that is there,
/// `otherwise` counts.
pub(super) fn start(path: Option<PathBuf>, otherwise: bool, inbox: UnboundedSender<Input>) -> bool {
    let Some(path) = path else { return otherwise };
    let mut seen = Seen { otherwise, paused: otherwise, trouble: String::new() };
    seen.judge(&path, read(&path));
    let paused = seen.paused;
    tokio::spawn(watch(path, seen, EVERY, inbox));
    paused
}

async fn watch(path: PathBuf, mut seen: Seen, every: Duration, inbox: UnboundedSender<Input>) {
    while !inbox.is_closed() {
        tokio::time::sleep(every).await;
        let named = path.clone();
        // On the loop's own thread a slow disk would hold it up.
        let Ok(found) = tokio::task::spawn_blocking(move || read(&named)).await else { continue };
        if seen.judge(&path, found) {
            let _ = inbox.send(Input::Paused(seen.paused));
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What was last understood of the file.
#[derive(Debug)]
struct Seen {
    /// What counts while there is no file.
    otherwise: bool,
    paused: bool,
    /// What is wrong with the file and was told; empty where nothing is.
    trouble: String,
}

impl Seen {
    /// Takes in what was found at `path`; true if that changes the flow. What can't be understood changes nothing.
    fn judge(&mut self, path: &Path, found: io::Result<Vec<u8>>) -> bool {
        let understood = match found {
            Ok(bytes) => match bytes.trim_ascii() {
                b"true" => Ok(true),
                b"false" => Ok(false),
                // What stands there instead may be a secret in the wrong place.
                _ => Err("says neither `true` nor `false`".to_owned()),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(self.otherwise),
            Err(error) => Err(format!("can't be read ({error})")),
        };
        let (paused, trouble) = match understood {
            Ok(paused) => (paused, String::new()),
            Err(trouble) => (self.paused, trouble),
        };
        if !trouble.is_empty() && trouble != self.trouble {
            let file = path.display();
            tracing::warn!(
                paused,
                "pausedFile: the file {file} {trouble}: the flow stays as it is; write `true` or `false`"
            );
        }
        self.trouble = trouble;
        let changed = paused != self.paused;
        if changed {
            tracing::info!(paused, file = %path.display(), "the flow is told to {}", if paused { "stop" } else { "go on" });
        }
        self.paused = paused;
        changed
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    /// A folder as the kubelet makes it for a ConfigMap: the file behind a link, which is replaced at once.
    struct Volume(tempfile::TempDir);

    impl Volume {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            symlink("..data/paused", folder.path().join("paused")).unwrap();
            Self(folder)
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("paused")
        }

        fn swap(&self, version: &str, text: &[u8]) {
            let folder = self.0.path();
            std::fs::create_dir(folder.join(version)).unwrap();
            std::fs::write(folder.join(version).join("paused"), text).unwrap();
            symlink(version, folder.join("..new")).unwrap();
            std::fs::rename(folder.join("..new"), folder.join("..data")).unwrap();
        }
    }

    #[test]
    fn what_the_file_says_counts_and_what_it_says_else_changes_nothing() {
        let volume = Volume::new();
        let mut seen = Seen { otherwise: true, paused: true, trouble: String::new() };
        let mut look = |otherwise: bool| {
            seen.otherwise = otherwise;
            let changed = seen.judge(&volume.path(), read(&volume.path()));
            (seen.paused, changed, seen.trouble.clone())
        };
        let fine = |paused, changed| (paused, changed, String::new());
        assert_eq!(look(true), fine(true, false), "no file");
        let texts: [(&[u8], _); 9] = [
            (b"false", fine(false, true)),
            (b"true\n", fine(true, true)),
            (b" false \r\n", fine(false, true)),
            (b"true", fine(true, true)),
            (b"", (true, false, "neither".to_owned())),
            (b"hunter2", (true, false, "neither".to_owned())),
            (b"\xff\x00", (true, false, "neither".to_owned())),
            (b"false false", (true, false, "neither".to_owned())),
            (b"false", fine(false, true)),
        ];
        for (version, (text, wanted)) in texts.into_iter().enumerate() {
            volume.swap(&version.to_string(), text);
            let (paused, changed, trouble) = look(true);
            assert_eq!((paused, changed), (wanted.0, wanted.1), "{text:?}");
            assert_eq!(trouble.is_empty(), wanted.2.is_empty(), "{text:?}: {trouble}");
            assert!(trouble.contains(&wanted.2) && !trouble.contains("hunter2"), "{trouble}");
        }
        let endless = b"true".iter().chain([b' '; 100].iter()).copied().collect::<Vec<_>>();
        volume.swap("endless", &endless);
        assert_eq!(look(true), fine(true, true), "blanks");
        std::fs::remove_file(volume.0.path().join("..data")).unwrap();
        assert_eq!(look(false), fine(false, true), "the file has gone");
        std::fs::remove_file(volume.path()).unwrap();
        std::fs::create_dir(volume.path()).unwrap();
        let (paused, changed, trouble) = look(true);
        assert!(!paused && !changed && trouble.contains("can't be read"), "{trouble}");
    }

    #[tokio::test]
    async fn changes_are_told_until_nobody_listens() {
        let volume = Volume::new();
        volume.swap("0", b"true");
        let (inbox, mut told) = unbounded_channel();
        let seen = Seen { otherwise: false, paused: true, trouble: String::new() };
        let watching = tokio::spawn(watch(volume.path(), seen, Duration::from_millis(1), inbox));
        for (version, paused) in ["1", "2", "3"].into_iter().zip([false, true, false]) {
            volume.swap(version, paused.to_string().as_bytes());
            assert!(matches!(told.recv().await, Some(Input::Paused(found)) if found == paused), "{version}");
        }
        drop(told);
        watching.await.unwrap();
    }

    #[tokio::test]
    async fn the_file_counts_from_the_beginning() {
        let volume = Volume::new();
        let (inbox, _told) = unbounded_channel();
        for paused in [true, false] {
            assert_eq!(start(None, paused, inbox.clone()), paused);
            assert_eq!(start(Some(volume.path()), paused, inbox.clone()), paused, "no file yet");
        }
        volume.swap("0", b"true");
        assert!(start(Some(volume.path()), false, inbox));
    }
}
