//! Decides how tests run Helm, and with which values they install the chart. I/O, but for the values.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::consumer::merge;
use super::images;
use super::operator::Install;
use crate::in_repo;

/// How long one run of Helm may take; `helm test` waits for pods.
const LIMIT: Duration = Duration::from_secs(240);

/// Runs `helm`, with `input` as its standard input, and returns what it printed.
///
/// # Errors
/// It failed; the text is what it said.
pub async fn helm(args: &[&str], input: &str) -> anyhow::Result<String> {
    super::program("helm", args, input, LIMIT).await
}

/// The chart.
#[must_use]
pub fn chart() -> PathBuf {
    in_repo("charts/idempotent-consumer")
}

/// The values with which the tests install the chart.
#[must_use]
pub fn values(install: &Install) -> Value {
    let image = |name: &str| {
        let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "latest"));
        json!({"repository": repository, "tag": tag})
    };
    let mut values = json!({
        "operator": {
            "image": image(&install.image),
            "upgradeConsumers": install.upgrade,
            "upgradeConcurrency": super::operator::UPGRADE_CONCURRENCY,
        },
        "sidecar": {"image": image(&install.sidecar_image)},
        "redis": {"image": image(&images::redis())},
    });
    merge(&mut values, install.values.clone());
    values
}
