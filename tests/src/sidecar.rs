//! Decides how a test runs the sidecar: the built binary as a process, told by a file, watched over its admin endpoint. I/O.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use crds::config::SidecarConfig;
use crds::status::{Counters, SidecarStatus};
use hyper::{Method, StatusCode};
use rustix::process::Signal;

use crate::http;
use crate::process::{Process, Program, built, tail};
use crate::wait::eventually;

/// How long the sidecar may take until its admin endpoint listens.
const START: Duration = Duration::from_secs(20);
/// What says how much it logs; set for the tests, it is passed on.
const LOG: &str = "IDEMPOTENCY_LOG";
/// How long it may take to answer there.
const ANSWER: Duration = Duration::from_secs(5);

/// A sidecar as a process. Dropped, it is killed.
#[derive(Debug)]
pub struct Sidecar {
    process: Process,
    /// The file it was told by, for a restart with the same.
    config: PathBuf,
    admin: Option<SocketAddr>,
}

impl Sidecar {
    /// Starts one, with its file and its output in `dir`, and waits until its admin endpoint listens. The endpoint is moved to a
    /// free loopback port; everything else is as `config` says.
    ///
    /// # Errors
    /// The binary is not built, or it ended; the text holds its output.
    pub async fn start(dir: &Path, name: &str, config: &SidecarConfig) -> anyhow::Result<Self> {
        let mut sidecar = Self::spawn(dir, name, config)?;
        sidecar.admin().await?;
        Ok(sidecar)
    }

    /// Starts one and waits for nothing.
    ///
    /// # Errors
    /// The binary is not built.
    pub fn spawn(dir: &Path, name: &str, config: &SidecarConfig) -> anyhow::Result<Self> {
        let file = write_config(dir, name, config)?;
        Ok(Self { process: program(name, &file)?.start(dir)?, config: file, admin: None })
    }

    /// Starts one that logs by that filter (`trace`), and waits for nothing.
    ///
    /// # Errors
    /// The binary is not built.
    pub fn spawn_logging(dir: &Path, name: &str, config: &SidecarConfig, filter: &str) -> anyhow::Result<Self> {
        let file = write_config(dir, name, config)?;
        let process = program(name, &file)?.env(LOG, filter).start(dir)?;
        Ok(Self { process, config: file, admin: None })
    }

    /// Starts one with a file of any text, for what must be refused.
    ///
    /// # Errors
    /// The binary is not built.
    pub fn spawn_text(dir: &Path, name: &str, config: &str) -> anyhow::Result<Self> {
        let file = dir.join(format!("{name}.yaml"));
        std::fs::write(&file, config)?;
        let process = program(name, &file)?.start(dir)?;
        Ok(Self { process, config: file, admin: None })
    }

    /// Starts one as another user, by number; the folder must be readable for it. Needs root.
    ///
    /// # Errors
    /// The binary is not built.
    pub fn spawn_as(dir: &Path, name: &str, config: &SidecarConfig, uid: u32, gid: u32) -> anyhow::Result<Self> {
        let file = write_config(dir, name, config)?;
        let process = program(name, &file)?.user(uid, gid).start(dir)?;
        Ok(Self { process, config: file, admin: None })
    }

    /// Kills it if it runs, and starts it again with the same file.
    ///
    /// # Errors
    /// It ended; the text holds its output.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.process.kill();
        let dir = self.config.parent().context("the file has no folder")?.to_owned();
        self.process = program(self.process.name(), &self.config)?.start(&dir)?;
        self.admin = None;
        self.admin().await?;
        Ok(())
    }

    /// The address of its admin endpoint, waited for.
    ///
    /// # Errors
    /// It ended first; the text holds its output.
    pub async fn admin(&mut self) -> anyhow::Result<SocketAddr> {
        if let Some(address) = self.admin {
            return Ok(address);
        }
        let process = &mut self.process;
        let found = eventually(format!("{} logs `admin listening`", process.name()), START, async || {
            let ended = process.must_run();
            // Read after the look at the process, so that the last line of an ended one is not missed.
            match (admin_address(&process.log()), ended) {
                (Some(address), _) => Ok(Ok(address)),
                (None, Err(e)) => Ok(Err(e)),
                (None, Ok(())) => Err(format!("its output:\n{}", tail(&process.log(), 20))),
            }
        })
        .await?;
        self.admin = Some(found);
        Ok(found)
    }

    /// What it says at `/status`.
    ///
    /// # Errors
    /// It does not answer, or not in the agreed form.
    pub async fn status(&self) -> anyhow::Result<SidecarStatus> {
        let (status, body) = self.get("/status").await?;
        ensure!(status == StatusCode::OK, "/status answers {status}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).with_context(|| format!("/status: {}", String::from_utf8_lossy(&body)))
    }

    /// Waits until `/status` is as wanted, and returns it.
    ///
    /// # Panics
    /// It is not within the deadline; the text shows the last status.
    pub async fn wait_for(
        &self,
        what: &str,
        deadline: Duration,
        mut wanted: impl FnMut(&SidecarStatus) -> bool,
    ) -> SidecarStatus {
        eventually(format!("{}: {what}", self.process.name()), deadline, async || {
            let status = self.status().await?;
            ensure!(wanted(&status), "{}", serde_json::to_string(&status)?);
            Ok(status)
        })
        .await
    }

    /// Waits until its counters are as wanted: they are shown once a second while nothing happens.
    ///
    /// # Panics
    /// They are not within a few seconds; the text shows them.
    pub async fn counts(&self, mut wanted: impl FnMut(&Counters) -> bool) -> Counters {
        self.wait_for("its counters", ANSWER, |status| wanted(&status.counters)).await.counters
    }

    /// The text at `/metrics`.
    ///
    /// # Errors
    /// It does not answer with 200.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        let (status, body) = self.get("/metrics").await?;
        ensure!(status == StatusCode::OK, "/metrics answers {status}");
        Ok(String::from_utf8(body.to_vec())?)
    }

    /// One value at `/metrics`, summed over the series of that name whose labels contain every given `name="value"`.
    ///
    /// # Errors
    /// It does not answer, or there is no such series.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> anyhow::Result<f64> {
        sum_metric(&self.metrics().await?, name, labels).with_context(|| format!("no metric {name} with {labels:?}"))
    }

    /// Does `/readyz` answer 200?
    ///
    /// # Errors
    /// It does not answer at all.
    pub async fn ready(&self) -> anyhow::Result<bool> {
        Ok(self.get("/readyz").await?.0 == StatusCode::OK)
    }

    /// Asks for a drain, and returns the answer when it is done.
    ///
    /// # Errors
    /// It does not answer within a minute.
    pub async fn drain(&self, token: Option<&str>) -> anyhow::Result<(StatusCode, Bytes)> {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<_> = bearer.iter().map(|value| ("authorization", value.as_str())).collect();
        http::ask(self.address()?, Method::POST, "/drain", &headers, "", Duration::from_secs(60)).await
    }

    /// Asks any path of the admin endpoint.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn get(&self, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        http::ask(self.address()?, Method::GET, path, &[], "", ANSWER).await
    }

    /// SIGTERM; returns how it ended.
    ///
    /// # Errors
    /// It has ended already.
    ///
    /// # Panics
    /// It still runs at the deadline.
    pub async fn terminate(&mut self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        self.process.signal(Signal::TERM)?;
        Ok(self.process.wait(deadline).await)
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// It still runs at the deadline.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        self.process.wait(deadline).await
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGSTOP: it holds still, its connections stay open.
    ///
    /// # Errors
    /// It has ended.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// SIGCONT: it goes on after [`Sidecar::pause`].
    ///
    /// # Errors
    /// It has ended.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::CONT)
    }

    /// Its output so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The process, for what is not named here.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The address of its admin endpoint, once [`Sidecar::admin`] has found it.
    ///
    /// # Errors
    /// It has not.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        self.admin.context("the sidecar's admin address is not known: await `admin()` first")
    }
}

/// The file it is told by, with the admin endpoint on a free loopback port.
fn write_config(dir: &Path, name: &str, config: &SidecarConfig) -> anyhow::Result<PathBuf> {
    let mut config = config.clone();
    config.admin.bind = "127.0.0.1:0".into();
    let file = dir.join(format!("{name}.yaml"));
    // JSON is valid YAML.
    std::fs::write(&file, serde_json::to_string_pretty(&config)?)?;
    Ok(file)
}

fn program(name: &str, file: &Path) -> anyhow::Result<Program> {
    Ok(Program::new(name, built("sidecar")?)
        .args(["run", "--config"])
        .arg(file)
        .env(LOG, std::env::var_os(LOG).unwrap_or_else(|| "info,sidecar=debug".into())))
}

/// The address in the JSON line `admin listening`; the members may stand in the line itself or under `fields`.
fn admin_address(log: &str) -> Option<SocketAddr> {
    log.lines().filter(|line| line.contains("admin listening")).find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let fields = line.get("fields").unwrap_or(&line);
        fields.get("address")?.as_str()?.parse().ok()
    })
}

fn sum_metric(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let values: Vec<f64> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter(|(series, _)| {
            series.split('{').next() == Some(name) && labels.iter().all(|label| series.contains(label))
        })
        .filter_map(|(_, value)| value.parse().ok())
        .collect();
    if values.is_empty() { None } else { Some(values.iter().sum()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_admin_address_from_the_log() {
        let log = "not json\n{\"level\":\"INFO\",\"fields\":{\"message\":\"admin listening\",\"address\":\"127.0.0.1:4711\"}}\n";
        assert_eq!(admin_address(log), Some("127.0.0.1:4711".parse().unwrap()));
        let flat = "{\"message\":\"admin listening\",\"address\":\"127.0.0.1:4712\"}";
        assert_eq!(admin_address(flat), Some("127.0.0.1:4712".parse().unwrap()));
        assert_eq!(admin_address("{\"message\":\"admin soon\"}"), None);
    }

    #[test]
    fn sums_the_series_of_one_name() {
        let text = "# TYPE a counter\na_total{t=\"x\",o=\"ok\"} 3\na_total{t=\"y\",o=\"ok\"} 4\na_total{t=\"y\",o=\"bad\"} 5\nab_total 9\n";
        assert_eq!(sum_metric(text, "a_total", &[]), Some(12.0));
        assert_eq!(sum_metric(text, "a_total", &["t=\"y\"", "o=\"ok\""]), Some(4.0));
        assert_eq!(sum_metric(text, "a", &[]), None);
    }
}
