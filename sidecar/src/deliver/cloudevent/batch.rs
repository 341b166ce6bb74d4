//! Decides how several events go in one request: the JSON batch format of CloudEvents. Pure.
//!
//! An array of events in partition order. Each has the attributes that the headers have in binary mode, and these extension attributes:
//! `idempotencykey`, `idempotencyattempt` (integer), `idempotencyprotection`, `kafkatopic`, `kafkapartition` (integer), `kafkaoffset`
//! (text: it may exceed CloudEvents' 32-bit integers), `kafkakey` (or `kafkakeybase64` where it is not UTF-8), `kafkatombstone` (true
//! where the record has no value), `kafkaheaders` (the record headers as a form, `name=value&name=value`, percent-encoded: any language
//! reads it, repeated names and any bytes survive), `idempotencyheadersomitted`, `traceparent`, `tracestate`.
//!
//! `data` holds the value as it is where that is JSON; else `data_base64` does (also for JSON that a strict parser refuses, with which it would
//! refuse the whole batch: nested deeper than [`MAX_DEPTH`], numbers beyond a double's range, lone surrogates). A tombstone has neither. A record in structured mode keeps its own members.

use std::borrow::Cow;
use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Uri};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::encode::{self, base64, decimal, hex, json_text, percent_uri};
use super::select::{Extras, content_type, event_type, is_extension, own, select};
use super::{DEFAULT_TYPE, LOCALHOST};
use crate::deliver::Parcel;

/// JSON nested deeper than this is not embedded: common parsers refuse it (serde_json at 128), and the whole batch with it.
pub const MAX_DEPTH: usize = 100;

static BATCH: HeaderValue = HeaderValue::from_static("application/cloudevents-batch+json");

/// The request that hands over several events. `scratch` holds the body and is reused once the request is gone.
#[must_use]
pub fn batch_request(parcels: &[Parcel], target: &Uri, scratch: &mut BytesMut) -> Request<Full<Bytes>> {
    write_batch(parcels, scratch);
    let mut request = Request::new(Full::new(scratch.split().freeze()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = target.clone();
    request.headers_mut().insert(HOST, LOCALHOST.clone());
    request.headers_mut().insert(CONTENT_TYPE, BATCH.clone());
    request
}

/// Writes the batch's JSON behind what `out` holds.
pub fn write_batch(parcels: &[Parcel], out: &mut BytesMut) {
    let values: usize = parcels.iter().map(|p| 768 + p.record.value.as_ref().map_or(0, Bytes::len)).sum();
    out.reserve(values);
    out.put_u8(b'[');
    for (at, parcel) in parcels.iter().enumerate() {
        if at > 0 {
            out.put_u8(b',');
        }
        let structured = parcel.identity.cloud_event.as_ref().is_some_and(|event| event.structured);
        let members = structured.then(|| embeddable(parcel.record.value.as_deref()?).and_then(members)).flatten();
        match members {
            Some(members) => write_structured(out, parcel, &members),
            None => write_event(out, parcel),
        }
    }
    out.put_u8(b']');
}

fn text(out: &mut BytesMut, name: &str, value: &str) {
    member(out, name);
    json_text(out, value);
}

/// Begins a member: every event begins with `{"specversion":…`, so each further one has a comma before it.
fn member(out: &mut BytesMut, name: &str) {
    out.put_slice(b",\"");
    out.put_slice(name.as_bytes());
    out.put_slice(b"\":");
}

fn write_event(out: &mut BytesMut, parcel: &Parcel) {
    let extras = select(parcel);
    out.put_slice(b"{\"specversion\":");
    json_text(out, own(parcel, "specversion").unwrap_or("1.0"));
    for name in ["id", "source", "type", "time"] {
        match own(parcel, name) {
            Some(value) => text(out, name, value),
            None => write_default(out, parcel, name),
        }
    }
    for (name, value) in &extras.extensions {
        text(out, name, value);
    }
    write_ours(out, parcel, &extras);
    let Some(value) = parcel.record.value.as_deref() else {
        out.put_u8(b'}');
        return;
    };
    let json = embeddable(value);
    member(out, "datacontenttype");
    match (json, content_type(parcel)) {
        // A number or a text is JSON too, though nobody would guess it from the first byte.
        (Some(_), b"application/octet-stream") => out.put_slice(b"\"application/json\""),
        (_, media_type) => json_text(out, &String::from_utf8_lossy(media_type)),
    }
    match json {
        Some(json) => {
            member(out, "data");
            out.put_slice(json.as_bytes());
        }
        None => {
            member(out, "data_base64");
            out.put_u8(b'"');
            base64(out, value);
            out.put_u8(b'"');
        }
    }
    out.put_u8(b'}');
}

/// A required attribute that the record does not bring; also the time, where the record has one.
fn write_default(out: &mut BytesMut, parcel: &Parcel, name: &str) {
    match name {
        "id" => {
            member(out, "id");
            out.put_u8(b'"');
            hex(out, &parcel.identity.id.0);
            out.put_u8(b'"');
        }
        "source" => {
            member(out, "source");
            out.put_u8(b'"');
            // Percent-encoded: nothing in it that JSON would escape.
            encode::default_source(out, &parcel.record.origin.topic, event_type(parcel));
            out.put_u8(b'"');
        }
        "type" => text(out, "type", event_type(parcel).unwrap_or(DEFAULT_TYPE)),
        _ => {
            if let Some(time) = parcel.record.timestamp.and_then(encode::time) {
                member(out, "time");
                out.put_u8(b'"');
                encode::display(out, time);
                out.put_u8(b'"');
            }
        }
    }
}

fn write_ours(out: &mut BytesMut, parcel: &Parcel, extras: &Extras<'_>) {
    let record = &parcel.record;
    text(out, "idempotencykey", &encode::idempotency_key(&parcel.idempotency_key));
    member(out, "idempotencyattempt");
    decimal(out, i64::from(parcel.attempt));
    text(out, "idempotencyprotection", parcel.protection.as_str());
    text(out, "kafkatopic", &record.origin.topic);
    member(out, "kafkapartition");
    decimal(out, i64::from(record.origin.partition));
    member(out, "kafkaoffset");
    out.put_u8(b'"');
    decimal(out, record.offset);
    out.put_u8(b'"');
    if let Some(key) = extras.key {
        match std::str::from_utf8(key) {
            Ok(key) => text(out, "kafkakey", key),
            Err(_) => {
                member(out, "kafkakeybase64");
                out.put_u8(b'"');
                base64(out, key);
                out.put_u8(b'"');
            }
        }
    }
    if record.value.is_none() {
        member(out, "kafkatombstone");
        out.put_slice(b"true");
    }
    for (name, value) in [("traceparent", extras.traceparent), ("tracestate", extras.tracestate)] {
        if let Some(value) = value {
            text(out, name, &String::from_utf8_lossy(value));
        }
    }
    write_headers(out, extras);
}

fn write_headers(out: &mut BytesMut, extras: &Extras<'_>) {
    if !extras.headers.is_empty() {
        member(out, "kafkaheaders");
        out.put_u8(b'"');
        for (at, header) in extras.headers.iter().enumerate() {
            if at > 0 {
                out.put_u8(b'&');
            }
            percent_uri(out, header.name.as_bytes());
            out.put_u8(b'=');
            percent_uri(out, header.value.as_deref().unwrap_or_default());
        }
        out.put_u8(b'"');
    }
    if extras.omitted > 0 {
        member(out, "idempotencyheadersomitted");
        decimal(out, i64::from(extras.omitted));
    }
}

/// A record in structured mode: its own members as they are, ours beside them, and what CloudEvents require and it lacks.
fn write_structured(out: &mut BytesMut, parcel: &Parcel, members: &[(Cow<'_, str>, &str)]) {
    // The last of equal names counts, as everywhere.
    let find = |name: &str| members.iter().rev().find(|(known, _)| known == name).map(|(_, value)| *value);
    let is_text = |value: &&str| value.starts_with('"') && value.len() > 2;
    out.put_slice(b"{\"specversion\":");
    out.put_slice(find("specversion").filter(is_text).unwrap_or("\"1.0\"").as_bytes());
    for name in ["id", "source", "type", "time"] {
        match find(name).filter(is_text) {
            Some(value) => {
                member(out, name);
                out.put_slice(value.as_bytes());
            }
            None => write_default(out, parcel, name),
        }
    }
    let extras = select(parcel);
    write_ours(out, parcel, &extras);
    for (at, (name, value)) in members.iter().enumerate() {
        let tracing = matches!(&**name, "traceparent" | "tracestate")
            && if name == "traceparent" { extras.traceparent.is_none() } else { extras.tracestate.is_none() };
        let data = matches!(&**name, "data" | "data_base64" | "datacontenttype" | "dataschema");
        let last = || !members[at + 1..].iter().any(|(later, _)| later == name);
        if (tracing || data || is_extension(name)) && last() {
            member(out, name);
            out.put_slice(value.as_bytes());
        }
    }
    out.put_u8(b'}');
}

/// The value as JSON text that may stand inside another one: valid, UTF-8, not too deep, and readable by strict parsers.
fn embeddable(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok()?;
    serde_json::from_str::<Readable>(text).ok()?;
    (!too_deep(value)).then_some(text)
}

/// Reads every value and keeps none. `IgnoredAny` would skip what an app's parser may refuse, and with it the whole batch:
/// numbers beyond a double's range, lone surrogates.
struct Readable;

impl<'de> Deserialize<'de> for Readable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Readable {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Self, A::Error> {
        while all.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Self, A::Error> {
        while all.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

fn too_deep(json: &[u8]) -> bool {
    // Nearly always decided here, without a look at quotes.
    if json.iter().filter(|byte| matches!(byte, b'{' | b'[')).count() <= MAX_DEPTH {
        return false;
    }
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => at = text_end(json, at) - 1,
            b'{' | b'[' if depth == MAX_DEPTH => return true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    false
}

/// The place behind the JSON text that begins at `start`. The JSON is valid.
fn text_end(json: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    json.len()
}

/// The members of a JSON object, values as they are written. `None` where the text is no object. The JSON is valid.
fn members(json: &str) -> Option<Vec<(Cow<'_, str>, &str)>> {
    let bytes = json.as_bytes();
    let skip = |at: usize| at + bytes[at.min(bytes.len())..].iter().take_while(|b| b.is_ascii_whitespace()).count();
    let mut at = skip(0);
    if bytes.get(at) != Some(&b'{') {
        return None;
    }
    let mut members = Vec::new();
    loop {
        at = skip(at + 1);
        if bytes.get(at) != Some(&b'"') {
            return Some(members);
        }
        let end = text_end(bytes, at);
        let name = match json.get(at + 1..end - 1)? {
            escaped if escaped.contains('\\') => Cow::Owned(serde_json::from_str(json.get(at..end)?).ok()?),
            plain => Cow::Borrowed(plain),
        };
        at = skip(skip(end) + 1);
        let end = value_end(bytes, at);
        members.push((name, json.get(at..end)?));
        at = skip(end);
    }
}

fn value_end(json: &[u8], start: usize) -> usize {
    let (mut depth, mut at) = (0_usize, start);
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => {
                at = text_end(json, at);
                if depth == 0 {
                    return at;
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth <= 1 => return if depth == 1 { at + 1 } else { at },
            b'}' | b']' => depth -= 1,
            b',' | b' ' | b'\t' | b'\r' | b'\n' if depth == 0 => return at,
            _ => {}
        }
        at += 1;
    }
    json.len()
}

#[cfg(test)]
mod tests;
