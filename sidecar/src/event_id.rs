//! Decides which event a record means: record and rule in, event id out. Pure.

use std::fmt;
use std::sync::Arc;

pub mod command;

/// The identity of an event: a SHA-256, written in lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(pub [u8; 32]);

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a record means: its event id, and what its envelope says beside.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// The event id.
    pub id: EventId,
    /// The rule asked for something that this record lacks, so its raw bytes (or its place) were hashed instead.
    pub fallback: bool,
    /// The event type: the CloudEvents type, the `event_type` header or envelope member; else empty.
    pub event_type: Arc<str>,
    /// Fingerprint of the envelope's `event_id` (or `ce_id`), by which a suspect duplicate is told: 8 hex digits.
    pub fingerprint: Option<Fingerprint>,
    /// Attributes of a record that is a CloudEvent already, in structured or binary mode (`id`, `source`, `type`, `time`, …).
    pub cloud_event: Option<Box<CloudEvent>>,
}

/// The first four bytes of the SHA-256 of an envelope's own event id, written as 8 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 4]);

/// The attributes of a record that came as a CloudEvent, without the `ce_` prefix, in the record's order.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CloudEvent {
    /// Context attributes: name and value.
    pub attributes: Vec<(String, String)>,
    /// The record's value is the whole event in JSON (structured mode), not its data alone.
    pub structured: bool,
}
