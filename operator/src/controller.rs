//! Decides the order of a reconcile's steps: dereference → validate → build → apply → status. I/O.

pub mod build;
pub mod dereference;
pub mod rollout;
pub mod validate;
