//! Decides which images the tests run. Pure, but for the environment.
//!
//! `tests/cluster/image` makes them for the node without Docker; on kind, `kind load` brings them. The first three have two tags each,
//! since upgrades are shown: what the second holds may be the same.

/// The operator.
#[must_use]
pub fn operator() -> String {
    named("E2E_OPERATOR_IMAGE", "localhost/idempotent-consumer/operator:e2e")
}

/// The sidecar.
#[must_use]
pub fn sidecar() -> String {
    named("E2E_SIDECAR_IMAGE", "localhost/idempotent-consumer/sidecar:e2e")
}

/// The app that keeps a ledger.
#[must_use]
pub fn app() -> String {
    named("E2E_APP_IMAGE", "localhost/idempotent-consumer/ledger-app:e2e")
}

/// A Redis, for the chart's own.
#[must_use]
pub fn redis() -> String {
    named("E2E_REDIS_IMAGE", "localhost/idempotent-consumer/redis-server:e2e")
}

/// The four services of `examples/huleedu`.
#[must_use]
pub fn huleedu() -> String {
    named("E2E_HULEEDU_IMAGE", "localhost/idempotent-consumer/huleedu:e2e")
}

/// The second tag of an image.
#[must_use]
pub fn next(image: &str) -> String {
    format!("{image}-next")
}

fn named(variable: &str, default: &str) -> String {
    std::env::var(variable).ok().filter(|image| !image.is_empty()).unwrap_or_else(|| default.into())
}
