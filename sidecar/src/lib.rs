//! The sidecar: consumes Kafka topics, gates each event in Redis, hands first-time events to the app, and commits.
//!
//! One way through, kept by the types:
//! `Record → EventId → Decision::Deliver(Claim) → deliver(&Claim, &Record) → Outcome → settle(Claim, Outcome) → watermark → commit`.

pub mod admin;
pub mod args;
pub mod canonical;
pub mod claim;
pub mod clock;
pub mod dead_letter;
pub mod deliver;
pub mod demo;
pub mod event_id;
pub mod fail_point;
pub mod gate;
pub mod guard;
pub mod kafka;
pub mod logging;
pub mod metrics;
pub mod outcome;
pub mod pipeline;
pub mod record;
pub mod run;
pub mod session;
pub mod settings;
pub mod smoke;
pub mod store;
pub mod watermark;
