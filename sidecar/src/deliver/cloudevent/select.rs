//! Decides which of a record's attributes and headers travel with it, within bounds that every app server takes. Pure.
//!
//! Kafka allows headers of megabytes, HTTP servers don't: Node takes 16 KiB of headers in all, gunicorn and hyper 100 of them, aiohttp
//! 8 KiB each. A record that the app's server refuses would be retried for ever, so what is over the bounds is left out, and counted.

use crate::deliver::Parcel;
use crate::record::Header;

/// A longer key, attribute or header (as encoded, without its name) is left out.
pub(super) const MAX_VALUE: usize = 4 << 10;
/// All keys, extension attributes and headers of one record, names included.
pub(super) const MAX_TOTAL: usize = 8 << 10;
/// Extension attributes and headers of one record.
pub(super) const MAX_COUNT: usize = 64;
/// A longer required attribute (as encoded) is replaced by ours.
pub(super) const MAX_REQUIRED: usize = 1 << 10;

/// Length of `kafka-header-`.
const PREFIX: usize = 13;
const STRUCTURED: &[u8] = b"application/cloudevents+json";
/// The attributes that have a place of their own in every event.
const CORE: [&str; 6] = ["specversion", "id", "source", "type", "time", "datacontenttype"];

/// What travels beside the required attributes.
#[derive(Default)]
pub(super) struct Extras<'a> {
    pub(super) key: Option<&'a [u8]>,
    pub(super) traceparent: Option<&'a [u8]>,
    pub(super) tracestate: Option<&'a [u8]>,
    /// Names are valid and differ.
    pub(super) extensions: Vec<(&'a str, &'a str)>,
    pub(super) headers: Vec<&'a Header>,
    /// How many had to stay behind.
    pub(super) omitted: u32,
}

/// Bytes that the CloudEvents HTTP binding encodes: space, `"`, `%`, and all but printable ASCII.
pub(super) const fn escapes(byte: u8) -> bool {
    byte <= b' ' || byte >= 0x7f || byte == b'"' || byte == b'%'
}

/// Length as the HTTP binding encodes it.
pub(super) fn encoded_len(bytes: &[u8]) -> usize {
    bytes.len() + 2 * bytes.iter().filter(|&&byte| escapes(byte)).count()
}

/// Chooses what travels: key first, then tracing, own extension attributes, record headers, until the room is used up.
pub(super) fn select(parcel: &Parcel) -> Extras<'_> {
    let record = &*parcel.record;
    let mut room = Room { bytes: MAX_TOTAL, count: MAX_COUNT, omitted: 0 };
    let key = record.key.as_deref().filter(|key| room.take(0, key));
    if record.headers.is_empty() && parcel.identity.cloud_event.is_none() {
        return Extras { key, omitted: room.omitted, ..Extras::default() };
    }
    let mut trace =
        |name| record.header(name).map(|value| &**value).filter(|value| plain(value) && room.take(0, value));
    let (traceparent, tracestate) = (trace("traceparent"), trace("tracestate"));
    let extensions = extensions(parcel, &mut room);
    let binary = parcel.identity.cloud_event.as_ref().is_some_and(|event| !event.structured);
    // Looked up once: a record may have 100,000 headers, and a look-up a header would take minutes.
    let core = CORE.map(|name| (name, binary && own(parcel, name).is_some()));
    let media_type = content_type(parcel);
    let mut headers = Vec::new();
    for header in &record.headers {
        let value = header.value.as_deref().unwrap_or_default();
        let elsewhere = match header.name.as_str() {
            "content-type" => value == media_type,
            "traceparent" => traceparent.is_some(),
            "tracestate" => tracestate.is_some(),
            name => name
                .strip_prefix("ce_")
                .is_some_and(|name| core.contains(&(name, true)) || extensions.iter().any(|(known, _)| *known == name)),
        };
        if !elsewhere && room.take(PREFIX + encoded_len(header.name.as_bytes()), value) {
            headers.push(header);
        }
    }
    Extras { key, traceparent, tracestate, extensions, headers, omitted: room.omitted }
}

struct Room {
    bytes: usize,
    count: usize,
    omitted: u32,
}

impl Room {
    fn take(&mut self, name: usize, value: &[u8]) -> bool {
        let len = encoded_len(value);
        let fits = len <= MAX_VALUE && name + len <= self.bytes && self.count > 0;
        if fits {
            self.bytes -= name + len;
            self.count -= 1;
        } else {
            self.omitted = self.omitted.saturating_add(1);
        }
        fits
    }
}

/// The record's own extension attributes; the last of equal names counts.
fn extensions<'a>(parcel: &'a Parcel, room: &mut Room) -> Vec<(&'a str, &'a str)> {
    let mut chosen: Vec<(&str, &str)> = Vec::new();
    let Some(event) = parcel.identity.cloud_event.as_ref().filter(|event| !event.structured) else { return chosen };
    for (name, value) in event.attributes.iter().rev() {
        let wanted = is_extension(name) && !chosen.iter().any(|(known, _)| known == name);
        if wanted && room.take(name.len(), value.as_bytes()) {
            chosen.push((name, value));
        }
    }
    chosen.reverse();
    chosen
}

/// Is this a legal name of an extension attribute, and none of ours?
pub(super) fn is_extension(name: &str) -> bool {
    let taken = CORE.contains(&name) || matches!(name, "data" | "traceparent" | "tracestate");
    !taken && is_attribute(name) && !name.starts_with("idempotency") && !name.starts_with("kafka")
}

fn is_attribute(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// One of the record's own core attributes, if it can be sent: not empty, not too long.
pub(super) fn own<'a>(parcel: &'a Parcel, name: &str) -> Option<&'a str> {
    let event = parcel.identity.cloud_event.as_ref()?;
    let (_, value) = event.attributes.iter().rev().find(|(known, _)| known == name)?;
    (!value.is_empty() && encoded_len(value.as_bytes()) <= MAX_REQUIRED).then_some(value)
}

/// The event's type, if it has one that can be sent.
pub(super) fn event_type(parcel: &Parcel) -> Option<&str> {
    let known = &*parcel.identity.event_type;
    own(parcel, "type")
        .or_else(|| (!known.is_empty() && encoded_len(known.as_bytes()) <= MAX_REQUIRED).then_some(known))
}

/// The media type of the value.
pub(super) fn content_type(parcel: &Parcel) -> &[u8] {
    let record = &parcel.record;
    if parcel.identity.cloud_event.as_ref().is_some_and(|event| event.structured) {
        return STRUCTURED;
    }
    let header = record.header("content-type").map(|value| &**value).filter(|value| is_media_type(value));
    let own = own(parcel, "datacontenttype").map(str::as_bytes).filter(|value| is_media_type(value));
    own.or(header).unwrap_or_else(|| match record.value.as_deref().unwrap_or_default().trim_ascii_start().first() {
        Some(b'{' | b'[') => b"application/json",
        _ => b"application/octet-stream",
    })
}

/// Good enough to be sent, and never one of the CloudEvents modes that this request is not in.
fn is_media_type(value: &[u8]) -> bool {
    let mode = b"application/cloudevents";
    let of_a_mode = value.get(..mode.len()).is_some_and(|start| start.eq_ignore_ascii_case(mode));
    plain(value) && value.len() <= 256 && value.contains(&b'/') && !of_a_mode
}

/// Printable ASCII, nothing at the ends that HTTP would trim.
fn plain(value: &[u8]) -> bool {
    !value.is_empty() && value.trim_ascii().len() == value.len() && value.iter().all(|b| (b' '..=b'~').contains(b))
}
