//! Decides by which name a sidecar is a member of its group: the same for each container that runs in a pod, one after another. I/O.
//!
//! Kafka keeps a static member's partitions for it until its session time-out: a container that was killed and starts again has them at
//! once, where a new member would wait for that time-out of its predecessor (docs/adr/0017-static-membership.md).

use std::fs;
use std::io;
use std::path::Path;

use uuid::Uuid;

use super::replace;

/// The name that is kept in the pod's folder, or a new one. Without a folder there is none, and the member is a dynamic one.
pub(super) fn instance_id(folder: Option<&Path>) -> io::Result<Option<String>> {
    let Some(folder) = folder else { return Ok(None) };
    fs::create_dir_all(folder)?;
    let path = folder.join("instance");
    let kept = match fs::read(&path) {
        // Half a name would be another's, or refused by the broker.
        Ok(bytes) => std::str::from_utf8(&bytes).ok().and_then(|text| Uuid::parse_str(text.trim()).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let id = kept.unwrap_or_else(Uuid::new_v4);
    if kept.is_none() {
        replace(&path, format!("{id}\n").as_bytes())?;
    }
    Ok(Some(id.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_in_the_pod_has_the_same_name_and_another_pods_has_not() {
        let (pod, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let name = instance_id(Some(pod.path())).unwrap().unwrap();
        assert_eq!(instance_id(Some(pod.path())).unwrap().unwrap(), name);
        assert_ne!(instance_id(Some(other.path())).unwrap().unwrap(), name);
        assert_eq!(instance_id(None).unwrap(), None);
    }

    #[test]
    fn a_broken_file_is_replaced() {
        let pod = tempfile::tempdir().unwrap();
        for broken in [&b""[..], b"half-a-na", b"\xff\xfe"] {
            fs::write(pod.path().join("instance"), broken).unwrap();
            let name = instance_id(Some(pod.path())).unwrap();
            assert_eq!(instance_id(Some(pod.path())).unwrap(), name);
        }
    }
}
