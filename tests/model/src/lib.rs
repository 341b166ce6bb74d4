//! An exhaustive model of the claim protocol. Its world is small: what Redis and the broker hold, what is on the wire, and each
//! sidecar's table of keys. Every decision in it is asked of the sidecar's own pure functions; see [`decide`].
//!
//! # What must hold
//! - *No loss*: no commit passes a record whose event is not settled.
//! - *No second effect*: an event has one effect, and one more at most for each window that opened for it.
//! - *Attempts grow*: no delivery bears an attempt that is not above all before it, unless the store has forgotten the event.
//! - *Ends well*: from every state, without further faults, every event is settled and every offset committed.
#![allow(clippy::cast_possible_truncation)]

pub mod action;
pub mod check;
pub mod config;
pub mod decide;
mod fair;
mod gate;
pub mod model;
mod queue;
mod step;
pub mod suite;
pub mod world;
