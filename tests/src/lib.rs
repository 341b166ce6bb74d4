//! The harness of the integration tests: real servers as child processes, and what breaks them on purpose.

pub mod proxy;
pub mod redis;

use std::future::Future;

/// Runs a test's future on a runtime of its own, which ends with it.
///
/// # Errors
/// Where the runtime can't be built.
pub fn block_on<T>(future: impl Future<Output = T>) -> anyhow::Result<T> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(future))
}
