//! Decides how bytes are written: percent-encoded, as JSON text, as hex. Pure. Everything appends to one buffer.

use std::borrow::Cow;
use std::fmt::{Display, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, BytesMut};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::select::{MAX_REQUIRED, encoded_len, escapes};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Lower-case hex.
pub(super) fn hex(out: &mut BytesMut, bytes: &[u8]) {
    out.reserve(bytes.len() * 2);
    for &byte in bytes {
        out.put_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
}

/// Lower-case hex as a text of its own.
pub(super) fn hex_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for &byte in bytes {
        text.push(char::from(HEX[usize::from(byte >> 4)]));
        text.push(char::from(HEX[usize::from(byte & 15)]));
    }
    text
}

/// A number, in decimal.
pub(super) fn decimal(out: &mut BytesMut, number: i64) {
    let mut digits = [0_u8; 20];
    let (mut at, mut rest) = (digits.len(), number.unsigned_abs());
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        out.put_u8(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

/// Whatever prints itself. A `BytesMut` refuses no text that fits into memory.
pub(super) fn display(out: &mut BytesMut, value: impl Display) {
    out.reserve(32);
    let _ = write!(out, "{value}");
}

/// Percent-encoding of the CloudEvents HTTP binding.
pub(super) fn percent(out: &mut BytesMut, bytes: &[u8]) {
    escape(out, bytes, b"0123456789ABCDEF", escapes);
}

/// A header name's part: lower case, all that is no token character percent-encoded.
pub(super) fn percent_name(out: &mut BytesMut, bytes: &[u8]) {
    let start = out.len();
    escape(out, bytes, HEX, |byte| !(byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte)));
    out[start..].make_ascii_lowercase();
}

/// A part of a URI reference or of a form: all but unreserved characters percent-encoded.
pub(super) fn percent_uri(out: &mut BytesMut, bytes: &[u8]) {
    escape(out, bytes, b"0123456789ABCDEF", |byte| !(byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)));
}

fn escape(out: &mut BytesMut, bytes: &[u8], digits: &[u8; 16], escapes: impl Fn(u8) -> bool) {
    let mut rest = bytes;
    // Without an early exit the compiler checks many bytes at once, and nearly no value has any to escape.
    if !bytes.iter().fold(false, |any, &byte| any | escapes(byte)) {
        return out.extend_from_slice(bytes);
    }
    while let Some(at) = rest.iter().position(|&byte| escapes(byte)) {
        let byte = rest[at];
        out.extend_from_slice(&rest[..at]);
        out.put_slice(&[b'%', digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// A JSON text, with its quotes.
pub(super) fn json_text(out: &mut BytesMut, text: &str) {
    let escapes = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
    out.put_u8(b'"');
    let mut rest = text.as_bytes();
    let any = rest.iter().fold(false, |any, &byte| any | escapes(byte));
    while let Some(at) = any.then(|| rest.iter().position(|&byte| escapes(byte))).flatten() {
        let byte = rest[at];
        out.extend_from_slice(&rest[..at]);
        match byte {
            b'"' | b'\\' => out.put_slice(&[b'\\', byte]),
            _ => out.put_slice(&[b'\\', b'u', b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.put_u8(b'"');
}

/// Base64 with padding, as JSON's `data_base64` wants it.
pub(super) fn base64(out: &mut BytesMut, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, b'=');
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).unwrap_or(0);
    out.truncate(start + written);
}

/// The instant as CloudEvents write it (RFC 3339); `None` outside the years 1970 to 9999, which no broker means.
pub(super) fn time(millis: i64) -> Option<Timestamp> {
    Timestamp::from_millisecond(millis).ok().filter(|_| (0..253_402_300_800_000).contains(&millis))
}

/// The store's key as the app gets it. A type may be of any length and stands in the key; a header may not.
pub(super) fn idempotency_key(key: &str) -> Cow<'_, str> {
    if encoded_len(key.as_bytes()) <= MAX_REQUIRED {
        return Cow::Borrowed(key);
    }
    Cow::Owned(format!("sha256:{}", hex_text(&Sha256::digest(key.as_bytes()))))
}

/// Where a record comes from that names no source. The type is in it because CloudEvents want id and source to be unique together, and
/// the same data under two types has one event id.
pub(super) fn default_source(out: &mut BytesMut, topic: &str, event_type: Option<&str>) {
    out.extend_from_slice(b"/kafka/");
    percent_uri(out, topic.as_bytes());
    if let Some(event_type) = event_type {
        out.put_u8(b'#');
        percent_uri(out, event_type.as_bytes());
    }
}
