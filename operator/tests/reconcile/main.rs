//! One reconcile after another, and the leader's election, against an API server in memory: what is asked for, and what is left alone.

mod api;
mod leading;
mod scenarios;
mod world;
