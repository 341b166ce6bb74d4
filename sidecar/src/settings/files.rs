//! Decides what a mounted Secret's file holds: its text or PEM, or which field, which file and what to do. Reads files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crds::Secret;
use crds::config::Problems;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Kubernetes keeps a Secret below this; a longer file is another file.
const MAX_BYTES: u64 = 1 << 20;

/// The text in the file, without the line end that editors and `echo` leave; a mistake is noted under `field`.
pub(super) fn secret(field: &str, path: &Path, problems: &mut Problems) -> Option<Secret> {
    let bytes = bytes(field, path, problems)?;
    let Ok(text) = String::from_utf8(bytes) else {
        problems.add(field, format!("the file {} holds no UTF-8 text", path.display()));
        return None;
    };
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        problems.add(field, format!("the file {} is empty: write the value into it", path.display()));
        return None;
    }
    if text.contains(['\r', '\n', '\0']) {
        problems.add(field, format!("the file {} holds more than one line", path.display()));
        return None;
    }
    Some(Secret::new(text))
}

/// The same where the field is set at all.
pub(super) fn optional(field: &str, path: Option<&Path>, problems: &mut Problems) -> Option<Secret> {
    path.and_then(|path| secret(field, path, problems))
}

/// The certificates in a PEM file, as they stand there; at least one.
pub(super) fn certificates(field: &str, path: &Path, problems: &mut Problems) -> Option<Vec<u8>> {
    let pem = bytes(field, path, problems)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Some(pem),
        _ => {
            let wrong = format!("the file {} holds no PEM certificate (-----BEGIN CERTIFICATE-----)", path.display());
            problems.add(field, wrong);
            None
        }
    }
}

/// The private key in a PEM file, as it stands there.
pub(super) fn private_key(field: &str, path: &Path, problems: &mut Problems) -> Option<Secret> {
    let pem = bytes(field, path, problems)?;
    let text = String::from_utf8_lossy(&pem);
    if text.contains("ENCRYPTED") {
        let wrong = format!("the key in {} is encrypted: store it without a passphrase, in the Secret", path.display());
        problems.add(field, wrong);
        return None;
    }
    if PrivateKeyDer::from_pem_slice(&pem).is_err() {
        let wrong = format!("the file {} holds no PEM private key (-----BEGIN PRIVATE KEY-----)", path.display());
        problems.add(field, wrong);
        return None;
    }
    Some(Secret::new(text))
}

fn bytes(field: &str, path: &Path, problems: &mut Problems) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        let wrong = format!("the file {} can't be read ({error}): mount the Secret there, readable", path.display());
        problems.add(field, wrong);
        return None;
    }
    if bytes.len() as u64 > MAX_BYTES {
        problems.add(field, format!("the file {} is longer than 1 MiB: it is another file", path.display()));
        return None;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(contents: Option<&[u8]>) -> (Option<String>, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("value");
        if let Some(contents) = contents {
            std::fs::write(&path, contents).unwrap();
        }
        let mut problems = Problems::default();
        let found = secret("redis.passwordFile", &path, &mut problems);
        let told = problems.0.iter().map(ToString::to_string).collect();
        (found.map(|s| s.expose().to_owned()), told)
    }

    #[test]
    fn the_line_end_is_not_part_of_the_value() {
        for contents in ["hunter2", "hunter2\n", "hunter2\r\n"] {
            assert_eq!(told(Some(contents.as_bytes())), (Some("hunter2".into()), String::new()));
        }
        assert_eq!(told(Some(b" two words ")).0.as_deref(), Some(" two words "));
    }

    #[test]
    fn a_file_of_no_use_is_told_with_field_and_path_and_without_its_contents() {
        let cases: [(Option<&[u8]>, &str); 5] = [
            (None, "can't be read"),
            (Some(b""), "is empty"),
            (Some(b"\n"), "is empty"),
            (Some(b"hunter2\nhunter3"), "more than one line"),
            (Some(b"hunter2\xff"), "no UTF-8"),
        ];
        for (contents, wrong) in cases {
            let (found, told) = told(contents);
            assert_eq!(found, None);
            assert!(told.starts_with("redis.passwordFile: ") && told.contains("/value"), "{told}");
            assert!(told.contains(wrong) && !told.contains("hunter"), "{told}");
        }
    }

    #[test]
    fn what_is_no_pem_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.crt");
        std::fs::write(&path, "hunter2").unwrap();
        let mut problems = Problems::default();
        assert_eq!(certificates("redis.caFile", &path, &mut problems), None);
        assert_eq!(private_key("redis.keyFile", &path, &mut problems), None);
        let told: Vec<_> = problems.0.iter().map(ToString::to_string).collect();
        assert!(told[0].contains("no PEM certificate") && told[1].contains("no PEM private key"), "{told:?}");
        assert!(!told.concat().contains("hunter2"));
    }
}
