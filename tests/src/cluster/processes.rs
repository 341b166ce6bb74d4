//! Decides how a pod dies without notice: every process of it is killed, as when its node loses power. I/O: it looks at the processes
//! of this machine, on which the cluster must run.

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Pod;
use rustix::process::{Pid, Signal, kill_process};

use super::Space;

impl Space {
    /// Kills all processes of a pod at once, and removes the pod, so that another takes its place.
    ///
    /// # Errors
    /// It is not there, or none of its processes is seen from here.
    pub async fn kill_pod(&self, pod: &str) -> anyhow::Result<()> {
        let uid = self.api::<Pod>().get(pod).await?.metadata.uid.context("a pod has a uid")?;
        let mut killed = 0;
        for pid in of_pod(&uid)? {
            // One that ended by itself since it was seen is as dead.
            killed += usize::from(kill_process(pid, Signal::KILL).is_ok());
        }
        ensure!(killed > 0, "no process of pod {pod} is seen from here: the cluster must run on this machine");
        self.kubectl(&["delete", "pod", pod, "--force", "--grace-period=0"]).await?;
        Ok(())
    }
}

/// The processes whose cgroup is the pod's.
fn of_pod(uid: &str) -> anyhow::Result<Vec<Pid>> {
    // With the cgroupfs driver the uid stands in the path as it is, with systemd's with underscores.
    let forms = [uid.to_owned(), uid.replace('-', "_")];
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        let cgroup = std::fs::read_to_string(process.path().join("cgroup")).unwrap_or_default();
        if forms.iter().any(|uid| cgroup.contains(uid.as_str())) {
            found.push(pid);
        }
    }
    Ok(found)
}
