//! The operator: an `IdempotentConsumer` in, running pods and an honest status out.
//!
//! A reconcile goes one way: dereference → validate → build → apply → status. `validate` and `build` are pure.

pub mod controller;
