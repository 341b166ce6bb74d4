//! Decides what the app reads: an event as a CloudEvent in HTTP binary mode. Pure. Batches are in `cloudevent/batch.rs`.
//!
//! Everything that comes from a record is percent-encoded as the CloudEvents HTTP binding says: space, `"`, `%` and whatever is not
//! printable ASCII, byte by byte. One percent-decoding gives the bytes back, and no value can end a header.
//!
//! | header | value |
//! |---|---|
//! | `ce-*` | the record's own attributes if it came as a CloudEvent; else `id` = event id, `source` = `/kafka/<topic>#<event type>`, `type` = event type or `dev.idempotency.kafka.record`, `time` = the record's |
//! | `content-type` | the record's; else `application/json` if the value begins like an object or array, else `application/octet-stream` |
//! | `idempotency-key` | the store's key, prefix and event id; unique where an app may insert it. `sha256:<hex>` of it where it is over 1 KiB |
//! | `idempotency-attempt`, `-protection` | the fencing token; `full`, `local` or `none` |
//! | `kafka-topic`, `-partition`, `-offset`, `-key` | the record's place and key |
//! | `kafka-tombstone` | `true` where the record has no value; an empty value is none |
//! | `kafka-header-<name>` | a record header; the name in lower case, bytes that no header name may hold as `%xx` |
//! | `traceparent`, `tracestate` | passed on under their own names |
//! | `idempotency-headers-omitted` | how many of key, attributes and record headers were left out for their size |
//!
//! A record that is a CloudEvent in structured mode goes as it is, with its `application/cloudevents+json` and without `ce-*` headers.
//!
//! What comes from a record never takes one of our names: headers get the prefix, and attributes named `idempotency*` or `kafka*` are left out.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::Full;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};

use self::encode::{decimal, hex, percent, percent_name, percent_uri};
use self::select::{Extras, content_type, own, select};
use crate::deliver::Parcel;
use crate::outcome::EventName;

pub mod batch;
mod encode;
mod select;

/// The type of an event that has none of its own.
pub const DEFAULT_TYPE: &str = "dev.idempotency.kafka.record";

static CE_SPECVERSION: HeaderName = HeaderName::from_static("ce-specversion");
static CE_ID: HeaderName = HeaderName::from_static("ce-id");
static CE_SOURCE: HeaderName = HeaderName::from_static("ce-source");
static CE_TYPE: HeaderName = HeaderName::from_static("ce-type");
static CE_TIME: HeaderName = HeaderName::from_static("ce-time");
static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
static IDEMPOTENCY_ATTEMPT: HeaderName = HeaderName::from_static("idempotency-attempt");
static IDEMPOTENCY_PROTECTION: HeaderName = HeaderName::from_static("idempotency-protection");
static HEADERS_OMITTED: HeaderName = HeaderName::from_static("idempotency-headers-omitted");
static KAFKA_TOPIC: HeaderName = HeaderName::from_static("kafka-topic");
static KAFKA_PARTITION: HeaderName = HeaderName::from_static("kafka-partition");
static KAFKA_OFFSET: HeaderName = HeaderName::from_static("kafka-offset");
static KAFKA_KEY: HeaderName = HeaderName::from_static("kafka-key");
static KAFKA_TOMBSTONE: HeaderName = HeaderName::from_static("kafka-tombstone");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
static LOCALHOST: HeaderValue = HeaderValue::from_static("localhost");
/// Built once: a default type is the commonest value of all.
static DEFAULT_TYPE_VALUE: LazyLock<HeaderValue> = LazyLock::new(|| HeaderValue::from_static(DEFAULT_TYPE));

/// The request that hands over one event. `scratch` holds the header values and is reused once the request is gone.
#[must_use]
pub fn binary_request(parcel: &Parcel, target: &Uri, scratch: &mut BytesMut) -> Request<Full<Bytes>> {
    let record = &parcel.record;
    let extras = select(parcel);
    scratch.reserve(1024);
    let mut headers = Headers { map: HeaderMap::with_capacity(24 + extras.headers.len()), scratch };
    headers.map.insert(HOST, LOCALHOST.clone());
    let structured = parcel.identity.cloud_event.as_ref().is_some_and(|event| event.structured);
    if !structured {
        headers.event(parcel, &extras);
    }
    headers.put(&CONTENT_TYPE, |out| out.extend_from_slice(content_type(parcel)));
    headers.ours(parcel);
    headers.place(parcel, &extras);
    let body = record.value.clone().unwrap_or_default();
    if body.is_empty() {
        // hyper says nothing of an empty body, and some servers ask a POST for its length.
        headers.map.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = target.clone();
    *request.headers_mut() = headers.map;
    request
}

/// The request's target for a configured path. What no path may hold is percent-encoded, so that there always is one.
#[must_use]
pub fn target(path: &str) -> Uri {
    let mut out = BytesMut::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        out.put_u8(b'/');
    }
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:@?".contains(&byte) {
            out.put_u8(byte);
        } else {
            percent_uri(&mut out, &[byte]);
        }
    }
    Uri::from_maybe_shared(out.freeze()).unwrap_or_else(|_| Uri::from_static("/"))
}

/// The names under which events go into a batch: what their results are matched by.
#[must_use]
pub fn event_names(parcels: &[Parcel]) -> Vec<EventName> {
    parcels
        .iter()
        .map(|parcel| EventName {
            key: match encode::idempotency_key(&parcel.idempotency_key) {
                Cow::Borrowed(_) => Arc::clone(&parcel.idempotency_key),
                Cow::Owned(digest) => digest.into(),
            },
            id: own(parcel, "id").map_or_else(|| encode::hex_text(&parcel.identity.id.0).into(), Arc::from),
        })
        .collect()
}

/// Header values are cut from one buffer: one allocation for all of them.
struct Headers<'a> {
    map: HeaderMap,
    scratch: &'a mut BytesMut,
}

impl Headers<'_> {
    /// Adds what `write` writes. A value that HTTP refuses is left out; percent-encoding leaves none.
    fn put(&mut self, name: &HeaderName, write: impl FnOnce(&mut BytesMut)) {
        write(self.scratch);
        if let Ok(value) = HeaderValue::from_maybe_shared(self.scratch.split().freeze()) {
            // Room for 32,768; `select` lets far fewer through.
            let _ = self.map.try_append(name, value);
        }
    }

    /// A header whose name the record gives, behind a prefix of ours.
    fn put_named(&mut self, prefix: &str, name: &[u8], value: &[u8]) {
        self.scratch.extend_from_slice(prefix.as_bytes());
        percent_name(self.scratch, name);
        if let Ok(name) = HeaderName::from_bytes(&self.scratch.split()) {
            self.put(&name, |out| percent(out, value));
        }
    }

    fn event(&mut self, parcel: &Parcel, extras: &Extras<'_>) {
        let (record, identity) = (&parcel.record, &parcel.identity);
        match own(parcel, "specversion") {
            Some(version) => self.put(&CE_SPECVERSION, |out| percent(out, version.as_bytes())),
            None => drop(self.map.insert(&CE_SPECVERSION, HeaderValue::from_static("1.0"))),
        }
        self.put(&CE_ID, |out| match own(parcel, "id") {
            Some(id) => percent(out, id.as_bytes()),
            None => hex(out, &identity.id.0),
        });
        self.put(&CE_SOURCE, |out| match own(parcel, "source") {
            Some(source) => percent(out, source.as_bytes()),
            None => {
                let mut source = BytesMut::new();
                encode::default_source(&mut source, &record.origin.topic, select::event_type(parcel));
                percent(out, &source);
            }
        });
        match select::event_type(parcel) {
            Some(kind) => self.put(&CE_TYPE, |out| percent(out, kind.as_bytes())),
            None => drop(self.map.insert(&CE_TYPE, DEFAULT_TYPE_VALUE.clone())),
        }
        match (own(parcel, "time"), record.timestamp.and_then(encode::time)) {
            (Some(time), _) => self.put(&CE_TIME, |out| percent(out, time.as_bytes())),
            (None, Some(time)) => self.put(&CE_TIME, |out| encode::display(out, time)),
            (None, None) => {}
        }
        for (name, value) in &extras.extensions {
            self.put_named("ce-", name.as_bytes(), value.as_bytes());
        }
    }

    fn ours(&mut self, parcel: &Parcel) {
        self.put(&IDEMPOTENCY_KEY, |out| percent(out, encode::idempotency_key(&parcel.idempotency_key).as_bytes()));
        self.put(&IDEMPOTENCY_ATTEMPT, |out| decimal(out, i64::from(parcel.attempt)));
        self.map.insert(&IDEMPOTENCY_PROTECTION, HeaderValue::from_static(parcel.protection.as_str()));
    }

    fn place(&mut self, parcel: &Parcel, extras: &Extras<'_>) {
        let record = &parcel.record;
        self.put(&KAFKA_TOPIC, |out| percent(out, record.origin.topic.as_bytes()));
        self.put(&KAFKA_PARTITION, |out| decimal(out, i64::from(record.origin.partition)));
        self.put(&KAFKA_OFFSET, |out| decimal(out, record.offset));
        if let Some(key) = extras.key {
            self.put(&KAFKA_KEY, |out| percent(out, key));
        }
        if record.value.is_none() {
            self.map.insert(&KAFKA_TOMBSTONE, HeaderValue::from_static("true"));
        }
        for (name, value) in [(&TRACEPARENT, extras.traceparent), (&TRACESTATE, extras.tracestate)] {
            if let Some(value) = value {
                self.put(name, |out| out.extend_from_slice(value));
            }
        }
        for header in &extras.headers {
            let value = header.value.as_ref().map_or(&[][..], |value| value);
            self.put_named("kafka-header-", header.name.as_bytes(), value);
        }
        if extras.omitted > 0 {
            self.put(&HEADERS_OMITTED, |out| decimal(out, i64::from(extras.omitted)));
        }
    }
}

#[cfg(test)]
mod tests;
