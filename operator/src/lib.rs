//! The operator: an `IdempotentConsumer` in, running pods and an honest status out.
//!
//! A reconcile goes one way: dereference → validate → build → apply → status. `validate` and `build` are pure.

pub mod admin;
pub mod args;
pub mod controller;
mod kube_error;
pub mod leader;
pub mod logging;
pub mod metrics;
pub mod preflight;
pub mod render;
pub mod run;
