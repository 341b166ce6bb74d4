//! What both sides share: the configuration that the operator writes and the sidecar reads, and (feature `crd`) the resource that
//! users write. Pure: no I/O, no Kubernetes client.

#[cfg(feature = "crd")]
pub mod conditions;
pub mod config;
mod duration;
pub mod generate;
pub mod listen;
mod secret;
pub mod status;
#[cfg(feature = "crd")]
pub mod v1alpha1;
#[cfg(feature = "crd")]
pub mod values;

pub use duration::{Duration, ParseDurationError};
pub use secret::Secret;

/// What the names of our labels and annotations begin with; a user's template may not set one of them.
pub const LABEL_PREFIX: &str = "idempotency.dev/";
/// Label of every child and pod: the consumer that it belongs to.
pub const CONSUMER_LABEL: &str = "idempotency.dev/consumer";
/// The name under which the operator owns fields, in server-side apply.
pub const FIELD_MANAGER: &str = "idempotent-consumer";
/// Name of the container that the operator adds to the app's pods.
pub const SIDECAR_CONTAINER: &str = "idempotency-sidecar";
