//! Decides how the four services run without Kubernetes: each app as a Python process on a socket, with a sidecar that is told what the
//! operator would tell it. I/O.

use std::process::Command;

use anyhow::{Context, ensure};
use crds::config::{AdminConfig, SidecarConfig};
use serde_json::Value;

use super::Service;
use crate::env::Env;
use crate::fault::quick_group;
use crate::in_repo;
use crate::port;
use crate::process::{Process, Program, built};
use crate::sidecar::Sidecar;

/// What the operator tells a service's sidecar, by `operator render`.
///
/// # Errors
/// It is not built, or refuses the manifest.
pub fn rendered(service: &Service) -> anyhow::Result<SidecarConfig> {
    let manifest = in_repo(&format!("examples/huleedu/consumers/{}.yaml", service.name()));
    let output = Command::new(built("operator")?).args(["render", "--file"]).arg(&manifest).output()?;
    ensure!(output.status.success(), "operator render: {}", String::from_utf8_lossy(&output.stderr));
    let documents: Vec<Value> = serde_saphyr::from_multiple(std::str::from_utf8(&output.stdout)?)?;
    let text = documents.iter().find_map(|document| document["data"]["sidecar.yaml"].as_str());
    Ok(serde_saphyr::from_str(text.context("no configuration is rendered")?)?)
}

/// A service that runs here. Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    /// Its consumer group.
    pub group: String,
    /// Its sidecar.
    pub sidecar: Sidecar,
    /// Its app.
    pub app: Process,
}

impl Running {
    /// Starts one on the shared Kafka and a Redis of the test's own.
    ///
    /// # Errors
    /// A program is not built, or ended.
    pub async fn start(env: &Env, service: &Service, redis: &str) -> anyhow::Result<Self> {
        let (kafka, socket) = (env.kafka().await?.bootstrap(), env.socket(service.name()));
        let app = Program::new(service.name(), crate::decorator::python()?)
            .args(["-m", "huleedu"])
            .env("PYTHONPATH", in_repo("examples/huleedu/app"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("SERVICE", service.app())
            .env("KAFKA_BOOTSTRAP_SERVERS", &kafka)
            .env("REDIS_URL", redis)
            .env("IDEMPOTENCY_SOCKET", &socket)
            .env("HEALTH_PORT", port::free()?.to_string())
            .env("WORK_MS", "20")
            .start(env.dir())?;
        let mut config = rendered(service)?;
        config.group = env.name(service.name());
        config.kafka.bootstrap_servers = kafka;
        config.redis.url = Some(redis.to_owned());
        config.delivery.socket = socket;
        config.delivery.backoff.min = crds::Duration::from_millis(20);
        config.delivery.backoff.max = crds::Duration::from_millis(500);
        config.state_dir = Some(env.dir().join(format!("{}-state", service.name())));
        config.session.ttl = crds::Duration::from_secs(2);
        // The switch and the drain token are files of the pod.
        config.paused_file = None;
        config.admin = AdminConfig::default();
        quick_group(&mut config);
        let sidecar = env.sidecar(&format!("{}-sidecar", service.name()), &config).await?;
        Ok(Self { group: config.group, sidecar, app })
    }
}
