//! Decides what a record's headers and envelope say beside the event id: its type, and its producer's own id. Pure.

use std::sync::Arc;

use super::{Fingerprint, Types};
use crate::canonical::Document;
use crate::record::Record;

/// The headers that say something about the event; for each name the last counts, and an empty value says nothing.
#[derive(Debug, Default)]
pub(super) struct Headers<'a> {
    ce_type: Option<&'a str>,
    event_type: Option<&'a str>,
    ce_id: Option<&'a [u8]>,
    /// The record's value is a CloudEvent in JSON.
    pub(super) structured: bool,
}

impl<'a> Headers<'a> {
    pub(super) fn of(record: &'a Record) -> Self {
        let mut found = Self::default();
        for header in &record.headers {
            let value = header.value.as_deref().filter(|v| !v.is_empty());
            let text = || value.and_then(|v| std::str::from_utf8(v).ok());
            match header.name.as_str() {
                "ce_type" => found.ce_type = text(),
                "event_type" => found.event_type = text(),
                "ce_id" => found.ce_id = value,
                name if name.eq_ignore_ascii_case("content-type") => {
                    found.structured = text().is_some_and(is_structured);
                }
                _ => {}
            }
        }
        found
    }

    /// Something is left that only the value can say.
    pub(super) fn need_envelope(&self) -> bool {
        self.structured || self.ce_id.is_none() || (self.ce_type.is_none() && self.event_type.is_none())
    }
}

fn is_structured(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/cloudevents+json")
}

/// The event's type, of the first that says one: header `ce_type`, a structured CloudEvent's `type`, header `event_type`,
/// the envelope's `event_type`; else empty.
pub(super) fn event_type(headers: &Headers<'_>, document: Option<Document<'_>>, types: &mut Types) -> Arc<str> {
    if let Some(name) = headers.ce_type {
        return types.get(name);
    }
    if headers.structured
        && let Some(name) = member_type(document, "type", types)
    {
        return name;
    }
    if let Some(name) = headers.event_type {
        return types.get(name);
    }
    member_type(document, "event_type", types).unwrap_or_else(|| types.get(""))
}

fn member_type(document: Option<Document<'_>>, member: &str, types: &mut Types) -> Option<Arc<str>> {
    let document = document?;
    let span = document.member(member)?;
    let text = document.text(span.clone());
    // Nearly every type is plain: then its text needs no decoding, and nothing is allocated.
    let plain = text.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if !plain.contains(&b'\\') {
        return std::str::from_utf8(plain).ok().filter(|name| !name.is_empty()).map(|name| types.get(name));
    }
    document.string(span).map(|name| types.get(&name))
}

/// Fingerprint of the producer's own id: header `ce_id`, a structured CloudEvent's `id`, or the envelope's `event_id` in
/// canonical form, of whatever kind it is (`null` is none).
pub(super) fn fingerprint(
    headers: &Headers<'_>,
    document: Option<Document<'_>>,
    buffer: &mut Vec<u8>,
) -> Option<Fingerprint> {
    if let Some(id) = headers.ce_id {
        return Some(Fingerprint::of(id));
    }
    let document = document?;
    // As text, so that an event has one fingerprint in both modes.
    if headers.structured
        && let Some(id) = document.member("id").and_then(|span| document.string(span))
    {
        return Some(Fingerprint::of(id.as_bytes()));
    }
    let span = document.member("event_id").filter(|span| document.text(span.clone()) != b"null")?;
    Some(Fingerprint::of(document.canonical(span, buffer)))
}
