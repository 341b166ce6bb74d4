//! Decides how a pod is played: a sidecar and its app as processes, which are started again when they end. I/O.

use std::path::{Path, PathBuf};

use anyhow::Context;
use crds::config::SidecarConfig;
use harness::process::{Process, Program, built, how, tail};
use rustix::process::Signal;
use sidecar::fail_point;

/// What gates the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Gate {
    /// The sidecar.
    Ours,
    /// `SET NX` before the work, as the decorators do: what it loses, the harness must see.
    OnePhase,
}

/// One pod's place; several pods are in it, one after another.
#[derive(Debug)]
pub(crate) struct Pod {
    number: usize,
    gate: Gate,
    folder: PathBuf,
    config: SidecarConfig,
    life: usize,
    sidecar: Option<Process>,
    app: Option<Process>,
    /// What the sidecar's process is given beside its file, from its next start on.
    environment: Vec<(String, String)>,
}

impl Pod {
    /// A pod that runs. `config` is what its sidecar is told, but for the places that are the pod's own.
    pub(crate) fn start(folder: &Path, number: usize, gate: Gate, config: &SidecarConfig) -> anyhow::Result<Self> {
        let mut pod = Self {
            number,
            gate,
            folder: folder.to_owned(),
            config: config.clone(),
            life: 0,
            sidecar: None,
            app: None,
            environment: Vec::new(),
        };
        pod.move_in()?;
        Ok(pod)
    }

    /// The ledger of the apps in this place.
    pub(crate) fn ledger(folder: &Path, number: usize) -> PathBuf {
        folder.join(format!("pod-{number}.ledger"))
    }

    /// Another pod: nothing of the one before is there, and it is started.
    fn move_in(&mut self) -> anyhow::Result<()> {
        self.life += 1;
        let home = self.home();
        std::fs::create_dir_all(home.join("state"))?;
        self.config.delivery.socket = home.join("app.sock");
        self.config.state_dir = Some(home.join("state"));
        // JSON is valid YAML.
        std::fs::write(home.join("sidecar.yaml"), serde_json::to_string_pretty(&self.config)?)?;
        self.start_app()?;
        self.start_sidecar()
    }

    fn home(&self) -> PathBuf {
        self.folder.join(format!("pod-{}-{}", self.number, self.life))
    }

    fn start_app(&mut self) -> anyhow::Result<()> {
        let program = Program::new("app", std::env::current_exe()?)
            .args(["app", "--socket"])
            .arg(&self.config.delivery.socket)
            .arg("--ledger")
            .arg(Self::ledger(&self.folder, self.number));
        self.app = Some(program.start(&self.home())?);
        Ok(())
    }

    fn start_sidecar(&mut self) -> anyhow::Result<()> {
        let file = self.home().join("sidecar.yaml");
        let program = match self.gate {
            Gate::Ours => Program::new("sidecar", built("sidecar")?).args(["run", "--config"]).arg(file),
            Gate::OnePhase => {
                Program::new("sidecar", std::env::current_exe()?).args(["one-phase", "--config"]).arg(file)
            }
        };
        let program = program.env("IDEMPOTENCY_LOG", "info");
        let program = self.environment.iter().fold(program, |program, (name, value)| program.env(name, value));
        self.sidecar = Some(program.start(&self.home())?);
        Ok(())
    }

    /// Starts again what has ended, as a kubelet does; how the sidecar has, if it had.
    pub(crate) fn tend(&mut self) -> anyhow::Result<Option<String>> {
        if self.app.as_mut().map_or(Ok(true), has_ended)? {
            self.start_app()?;
        }
        if !self.sidecar_has_ended()? {
            return Ok(None);
        }
        let ending = self.sidecar.as_mut().map_or_else(|| Ok("killed".to_owned()), ending)?;
        self.disarm();
        self.start_sidecar()?;
        Ok(Some(ending))
    }

    /// SIGKILL to the sidecar.
    pub(crate) fn kill_sidecar(&mut self) {
        self.sidecar = None;
    }

    /// SIGKILL to the app.
    pub(crate) fn kill_app(&mut self) {
        self.app = None;
    }

    /// Both are killed, and another pod takes the place.
    pub(crate) fn replace(&mut self) -> anyhow::Result<()> {
        (self.sidecar, self.app) = (None, None);
        self.move_in()
    }

    /// Lets the sidecar kill itself when it passes a step so often, in its next life.
    pub(crate) fn arm(&mut self, step: &str, times: usize) {
        self.environment = vec![(fail_point::VARIABLE.to_owned(), format!("{step}:{times}"))];
    }

    /// Lets the sidecar's next life be an ordinary one.
    pub(crate) fn disarm(&mut self) {
        self.environment.clear();
    }

    /// Lets the sidecar's next life see another wall clock: by a file that says how much it is off.
    pub(crate) fn fake_clock(&mut self, library: &Path) -> PathBuf {
        let file = self.home().join("clock");
        let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        self.environment = vec![
            ("LD_PRELOAD".to_owned(), library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE".to_owned(), file.display().to_string()),
            text("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            text("FAKETIME_NO_CACHE", "1"),
        ];
        file
    }

    /// Starts the sidecar anew, with what was asked for its next life.
    pub(crate) async fn restart_sidecar(&mut self) -> anyhow::Result<()> {
        self.end_sidecar().await?;
        self.start_sidecar()
    }

    /// SIGTERM to the sidecar; waits for its end, which has a bound.
    pub(crate) async fn end_sidecar(&mut self) -> anyhow::Result<()> {
        if let Some(mut process) = self.sidecar.take() {
            if process.ended()?.is_none() {
                process.signal(Signal::TERM)?;
            }
            process.wait(std::time::Duration::from_secs(40)).await;
        }
        Ok(())
    }

    /// The sidecar has ended.
    pub(crate) fn sidecar_has_ended(&mut self) -> anyhow::Result<bool> {
        self.sidecar.as_mut().map_or(Ok(true), has_ended)
    }

    /// A signal to the sidecar, if it runs.
    pub(crate) fn signal_sidecar(&self, signal: Signal) {
        // One that has ended meanwhile feels nothing.
        let _ = self.sidecar.as_ref().map(|process| process.signal(signal));
    }

    /// A signal to the app, if it runs.
    pub(crate) fn signal_app(&self, signal: Signal) {
        let _ = self.app.as_ref().map(|process| process.signal(signal));
    }

    /// Ends both, the sidecar first and in order.
    pub(crate) async fn end(&mut self) -> anyhow::Result<()> {
        self.end_sidecar().await.context("at the end")?;
        self.app = None;
        Ok(())
    }
}

fn has_ended(process: &mut Process) -> anyhow::Result<bool> {
    process.ended().map(|status| status.is_some())
}

/// How it has ended, and what it said last.
fn ending(process: &mut Process) -> anyhow::Result<String> {
    let ended = process.ended()?.map(how).unwrap_or_default();
    Ok(format!("{ended}: {}", tail(&process.log(), 1)))
}
