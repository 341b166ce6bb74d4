//! Decides which gates are compared, and how each is started on the same topic, Redis and app. I/O: it starts processes.

use std::path::Path;

use crds::config::{Ordering, SidecarConfig};
use harness::decorator::{self, Places};
use harness::process::{Process, Program, built};
use serde_json::json;

/// One way to gate events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// The Python decorator as the services run it.
    Decorator,
    /// The same design at its best: offsets committed once a second, uvloop.
    DecoratorTuned,
    /// A Rust loop, one await after another.
    Naive,
    /// The sidecar, one event a request.
    One,
    /// The sidecar, in order by key, one event a request.
    Keys,
    /// The sidecar, up to 100 events a request.
    Batch,
}

impl Gate {
    pub(crate) const ALL: [Self; 6] =
        [Self::Decorator, Self::DecoratorTuned, Self::Naive, Self::One, Self::Keys, Self::Batch];

    /// How `--only` names it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Decorator => "decorator",
            Self::DecoratorTuned => "decorator-tuned",
            Self::Naive => "naive",
            Self::One => "one",
            Self::Keys => "keys",
            Self::Batch => "batch",
        }
    }

    /// How the table names it.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Decorator => "Python decorator, as the services run it",
            Self::DecoratorTuned => "Python decorator, auto-commit and uvloop",
            Self::Naive => "naive Rust loop",
            Self::One => "sidecar, one event a request",
            Self::Keys => "sidecar, one event a request, order by key",
            Self::Batch => "sidecar, batches of 100",
        }
    }

    /// It takes the whole topic; the others take what they can in a given time.
    pub(crate) const fn takes_all(self) -> bool {
        matches!(self, Self::One | Self::Keys | Self::Batch)
    }

    /// Starts it. It logs what it logs in production, into a file in `dir`.
    pub(crate) fn start(self, dir: &Path, places: &Places<'_>) -> anyhow::Result<Process> {
        match self {
            Self::Decorator => decorator::start(dir, self.name(), places, &[]),
            Self::DecoratorTuned => decorator::start(dir, self.name(), places, &["--auto-commit", "--uvloop"]),
            Self::Naive => naive(dir, self.name(), places),
            Self::One | Self::Keys | Self::Batch => self.sidecar(dir, places),
        }
    }

    fn sidecar(self, dir: &Path, places: &Places<'_>) -> anyhow::Result<Process> {
        let mut config: SidecarConfig = serde_json::from_value(json!({
            "version": crds::config::VERSION,
            "group": places.group,
            "topics": [places.topic],
            "kafka": {"bootstrapServers": places.kafka},
            "redis": {"url": places.redis},
            "delivery": {"socket": places.socket},
            "admin": {"bind": "127.0.0.1:0"},
        }))?;
        match self {
            Self::Keys => config.delivery.ordering = Ordering::Key,
            Self::Batch => config.delivery.batch.max_events = 100,
            _ => {}
        }
        let file = dir.join("sidecar.yaml");
        std::fs::write(&file, serde_json::to_string_pretty(&config)?)?;
        Program::new(self.name(), built("sidecar")?)
            .args(["run", "--config"])
            .arg(&file)
            .env("RUST_LOG", "info")
            .start(dir)
    }
}

fn naive(dir: &Path, name: &str, places: &Places<'_>) -> anyhow::Result<Process> {
    let Places { kafka, topic, group, redis, socket } = *places;
    Program::new(name, std::env::current_exe()?)
        .args(["naive", "--kafka", kafka, "--topic", topic, "--group", group, "--redis", redis, "--socket"])
        .arg(socket)
        .start(dir)
}
