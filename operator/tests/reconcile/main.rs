//! One reconcile after another, and the leader's election, against an API server in memory: what is asked for, and what is left alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of a test crate stand outside of its test functions"
)]

mod api;
mod leading;
mod scenarios;
mod world;
