//! What both sides share: the configuration that the operator writes and the sidecar reads. Pure: no I/O, no Kubernetes client.

pub mod config;
mod duration;
pub mod generate;
mod secret;
pub mod status;

pub use duration::{Duration, ParseDurationError};
pub use secret::Secret;
