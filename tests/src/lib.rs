//! The harness: real Kafka and Redis, the sidecar as a process, an app that keeps a ledger, and the checks over it. I/O.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "this crate is tests: a panic here is a failed test")]
#![allow(clippy::print_stderr, reason = "tests talk to the person who runs them")]

pub mod app;
pub mod cluster;
pub mod decorator;
pub mod env;
pub mod fault;
pub mod flow;
pub mod http;
pub mod huleedu;
pub mod kafka;
pub mod ledger;
pub mod link;
pub mod offsets;
pub mod openmetrics;
pub mod port;
pub mod process;
pub mod proxy;
pub mod publish;
pub mod redis;
pub mod rig;
pub mod sidecar;
pub mod wait;

/// A file or folder of this repository, from its root.
#[must_use]
pub fn in_repo(path: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Runs a test's future on a runtime of its own, which ends with it.
///
/// # Errors
/// Where the runtime can't be built.
pub fn block_on<T>(future: impl Future<Output = T>) -> anyhow::Result<T> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(future))
}
