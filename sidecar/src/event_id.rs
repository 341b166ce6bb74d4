//! Decides which event a record means: record and rule in, event id out. Pure.

mod cloud_event;
pub mod command;
mod envelope;

use std::collections::HashSet;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

use crds::config::EventIdRule;
use sha2::{Digest, Sha256};

use crate::canonical::{self, Document, Reader};
use crate::record::Record;
use envelope::Headers;

/// The identity of an event: a SHA-256, written in lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(pub [u8; 32]);

impl EventId {
    /// The id as 64 hex digits, without allocation.
    #[must_use]
    pub fn to_hex(&self) -> Hex<64> {
        let mut digits = [0; 64];
        write_hex(&self.0, &mut digits);
        Hex(digits)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_hex())
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not an event id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event id is 64 lower-case hex digits")]
pub struct NotAnEventId;

impl FromStr for EventId {
    type Err = NotAnEventId;

    fn from_str(text: &str) -> Result<Self, NotAnEventId> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let mut id = [0; 32];
        if pairs.len() != id.len() || !rest.is_empty() {
            return Err(NotAnEventId);
        }
        for (byte, [high, low]) in id.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Ok(Self(id))
    }
}

fn digit(c: u8) -> Result<u8, NotAnEventId> {
    match c {
        b'0'..=b'9' => Ok(c - b'0'),
        b'a'..=b'f' => Ok(c - b'a' + 10),
        _ => Err(NotAnEventId),
    }
}

/// Lower-case hex digits on the stack; a `str` where one is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hex<const N: usize>([u8; N]);

impl<const N: usize> Deref for Hex<N> {
    type Target = str;

    fn deref(&self) -> &str {
        // Never the default: the bytes are hex digits.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

fn write_hex(bytes: &[u8], digits: &mut [u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(digits.as_chunks_mut::<2>().0) {
        *pair = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
    }
}

/// What a record means: its event id, and what its envelope says beside.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// The event id.
    pub id: EventId,
    /// The rule asked for something that this record lacks, so its raw bytes (or its place) were hashed instead. Under
    /// [`EventIdRule::Data`]: there is no `data` to read; under [`EventIdRule::Record`]: there is no value.
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

impl Fingerprint {
    fn of(own_id: &[u8]) -> Self {
        let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(own_id).into();
        Self([a, b, c, d])
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; 8];
        write_hex(&self.0, &mut digits);
        f.pad(&Hex(digits))
    }
}

/// The attributes of a record that came as a CloudEvent, without the `ce_` prefix, in the record's order.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CloudEvent {
    /// Context attributes: name and value. Names are lower-case letters and digits and appear once.
    pub attributes: Vec<(String, String)>,
    /// The record's value is the whole event in JSON (structured mode), not its data alone.
    pub structured: bool,
}

/// What an event id is the hash of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis<'a> {
    /// Canonical JSON: the envelope's `data`.
    Canonical(&'a [u8]),
    /// Canonical JSON: the fields that the rule names.
    Fields(&'a [u8]),
    /// A record header.
    Header {
        /// The header's name.
        name: &'a str,
        /// Its value; never empty.
        value: &'a [u8],
    },
    /// The record's value as it is; never empty.
    Raw(&'a [u8]),
    /// The record's place in its topic: it has no value to compare, and two such records are two events.
    Place,
}

impl Basis<'_> {
    /// The event id.
    ///
    /// Fields, a header and a place are hashed behind a tag, so that no other kind of content can have the same bytes:
    /// `idempotent-consumer/fields`, a zero byte, the canonical object of pointers and values; `idempotent-consumer/header`, a
    /// zero byte, the name's length (4 bytes, big-endian), name, value; and `idempotent-consumer/place`, a zero byte, the topic's length (4 bytes), topic, partition (4), offset (8), then 1 and
    /// the timestamp (8), or nine zero bytes without one.
    #[must_use]
    pub fn id(&self, record: &Record) -> EventId {
        let mut hash = Sha256::new();
        match self {
            Self::Canonical(bytes) | Self::Raw(bytes) => hash.update(bytes),
            Self::Fields(bytes) => {
                hash.update(b"idempotent-consumer/fields\0");
                hash.update(bytes);
            }
            Self::Header { name, value } => {
                hash.update(b"idempotent-consumer/header\0");
                update_sized(&mut hash, name);
                hash.update(value);
            }
            Self::Place => {
                hash.update(b"idempotent-consumer/place\0");
                update_sized(&mut hash, &record.origin.topic);
                hash.update(record.origin.partition.to_be_bytes());
                hash.update(record.offset.to_be_bytes());
                hash.update([u8::from(record.timestamp.is_some())]);
                hash.update(record.timestamp.unwrap_or_default().to_be_bytes());
            }
        }
        EventId(hash.finalize().into())
    }

    /// The rule asked for something else, which the record lacks.
    #[must_use]
    pub fn is_fallback(&self, rule: &EventIdRule) -> bool {
        match rule {
            EventIdRule::Data => !matches!(self, Self::Canonical(_)),
            EventIdRule::Fields { .. } => !matches!(self, Self::Fields(_)),
            EventIdRule::Header { .. } => !matches!(self, Self::Header { .. }),
            EventIdRule::Record => !matches!(self, Self::Raw(_)),
        }
    }
}

/// Kafka names are far below 4 GiB; a longer one would only share its length's tag.
fn update_sized(hash: &mut Sha256, text: &str) {
    hash.update((text.len() as u32).to_be_bytes());
    hash.update(text);
}

/// Buffers and known event types, kept from one record to the next.
#[derive(Debug, Default)]
pub struct Scratch {
    reader: Reader,
    buffer: Vec<u8>,
    types: Types,
}

/// Says which event a record means.
///
/// A record is never refused: what is not JSON, or lacks what the rule asks for, is identified by its raw bytes; a record
/// without a value, or with an empty one, by its place (unless the rule finds its header).
#[must_use]
pub fn identify(record: &Record, rule: &EventIdRule, scratch: &mut Scratch) -> Identity {
    let Scratch { reader, buffer, types } = scratch;
    let headers = Headers::of(record);
    let value = record.value.as_deref().unwrap_or_default();
    let document = if needs_value(rule) || headers.need_envelope() { reader.read(value).ok() } else { None };
    let basis = choose(record, rule, document, buffer);
    Identity {
        id: basis.id(record),
        fallback: basis.is_fallback(rule),
        event_type: envelope::event_type(&headers, document, types),
        fingerprint: envelope::fingerprint(&headers, document, buffer),
        cloud_event: cloud_event::attributes(record, &headers, document).map(Box::new),
    }
}

/// What [`identify`] would hash, for a person who asks why two records are the same event.
#[must_use]
pub fn basis<'a>(record: &'a Record, rule: &'a EventIdRule, scratch: &'a mut Scratch) -> Basis<'a> {
    let Scratch { reader, buffer, .. } = scratch;
    let value = record.value.as_deref().unwrap_or_default();
    let document = if needs_value(rule) { reader.read(value).ok() } else { None };
    choose(record, rule, document, buffer)
}

fn needs_value(rule: &EventIdRule) -> bool {
    matches!(rule, EventIdRule::Data | EventIdRule::Fields { .. })
}

fn choose<'a>(
    record: &'a Record,
    rule: &'a EventIdRule,
    document: Option<Document<'a>>,
    buffer: &'a mut Vec<u8>,
) -> Basis<'a> {
    let wanted = match rule {
        EventIdRule::Data => {
            document.and_then(|d| d.member("data").map(|span| Basis::Canonical(d.canonical(span, buffer))))
        }
        EventIdRule::Record => None,
        // An empty header identifies nothing: all records that carry one would be one event.
        EventIdRule::Header { header } => {
            record.header(header).filter(|value| !value.is_empty()).map(|value| Basis::Header { name: header, value })
        }
        EventIdRule::Fields { fields } => document.and_then(|d| hashed_fields(d, fields, buffer)),
    };
    wanted.unwrap_or(match record.value.as_deref() {
        None | Some([]) => Basis::Place,
        Some(value) => Basis::Raw(value),
    })
}

/// Writes an object of the named fields, pointer to value, keys in order.
///
/// A field that is `null` or `""` counts as missing: producers write these for "not known", and to take two events for one
/// is worse than to take one for two.
fn hashed_fields<'a>(document: Document<'a>, fields: &[String], buffer: &'a mut Vec<u8>) -> Option<Basis<'a>> {
    let mut pointers: Vec<&str> = fields.iter().map(String::as_str).collect();
    pointers.sort_unstable();
    pointers.dedup();
    if pointers.is_empty() {
        return None;
    }
    buffer.clear();
    for pointer in pointers {
        let span = document.pointer(pointer)?;
        if matches!(document.text(span.clone()), b"null" | b"\"\"") {
            return None;
        }
        buffer.push(if buffer.is_empty() { b'{' } else { b',' });
        canonical::write_string(pointer, buffer);
        buffer.push(b':');
        document.write(span, buffer);
    }
    buffer.push(b'}');
    Some(Basis::Fields(buffer))
}

/// Event types seen, so that a topic's few types are not allocated for every record.
#[derive(Debug, Default)]
struct Types(HashSet<Arc<str>>);

impl Types {
    /// Types of more bytes, or beyond so many, are taken for noise and not kept.
    const LONGEST: usize = 256;
    const MOST: usize = 1024;

    fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return Arc::clone(known);
        }
        let new: Arc<str> = Arc::from(name);
        if name.len() <= Self::LONGEST {
            if self.0.len() >= Self::MOST {
                self.0.clear();
            }
            self.0.insert(Arc::clone(&new));
        }
        new
    }
}

#[cfg(test)]
mod tests;
