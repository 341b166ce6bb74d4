//! Decides where a sidecar's sessions are written down, so that the next container in the same pod ends them. I/O.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::claim::SessionId;

/// A file that names the sessions which may exist in the store.
#[derive(Debug)]
pub(super) struct SessionsFile {
    path: Option<PathBuf>,
    inherited: Vec<SessionId>,
}

impl SessionsFile {
    /// Reads what a predecessor left. Without a folder nothing is kept, and a predecessor's sessions end by their TTL.
    pub(super) fn open(folder: Option<&Path>) -> io::Result<Self> {
        let Some(folder) = folder else { return Ok(Self { path: None, inherited: Vec::new() }) };
        fs::create_dir_all(folder)?;
        let path = folder.join("sessions");
        let inherited = match fs::read(&path) {
            // What can't be read names no session; that one ends by its TTL.
            Ok(bytes) => super::parse_sessions(&String::from_utf8_lossy(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { path: Some(path), inherited })
    }

    pub(super) fn inherited(&self) -> &[SessionId] {
        &self.inherited
    }

    /// Replaces the file at once: a reader sees the old names or the new ones.
    pub(super) fn write(&self, sessions: &[SessionId]) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let fresh = path.with_extension("new");
        let mut file = fs::File::create(&fresh)?;
        for session in sessions {
            writeln!(file, "{session}")?;
        }
        file.sync_all()?;
        fs::rename(fresh, path)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_successor_reads_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = [SessionId::new(Uuid::from_u128(1)), SessionId::new(Uuid::from_u128(2))];
        SessionsFile::open(Some(folder.path())).unwrap().write(&sessions).unwrap();
        assert_eq!(SessionsFile::open(Some(folder.path())).unwrap().inherited(), sessions);
    }

    #[test]
    fn a_broken_line_hides_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let id = SessionId::new(Uuid::from_u128(1));
        let broken = [b"not a session\n\xff\xfe\n", format!("{id}\n").as_bytes()].concat();
        fs::write(folder.path().join("sessions"), broken).unwrap();
        assert_eq!(SessionsFile::open(Some(folder.path())).unwrap().inherited(), [id]);
    }
}
