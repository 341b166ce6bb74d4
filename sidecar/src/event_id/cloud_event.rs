//! Decides whether a record is a CloudEvent already, and which attributes it carries (CloudEvents' Kafka binding). Pure.

use super::CloudEvent;
use super::envelope::Headers;
use crate::canonical::Document;
use crate::record::Record;

/// An event of more attributes is taken for data: no HTTP server accepts that many headers, and each is compared with all.
const MOST: usize = 100;

/// The attributes of a record in structured mode (content type `application/cloudevents+json`) or in binary mode (`ce_`
/// headers); none where `specversion` or `id` is missing, since that is no CloudEvent.
pub(super) fn attributes(record: &Record, headers: &Headers<'_>, document: Option<Document<'_>>) -> Option<CloudEvent> {
    let mut attributes = Attributes::default();
    if headers.structured {
        for (name, value) in document?.members() {
            if name != "data" && name != "data_base64" && is_name(&name) {
                attributes.set(name, attribute(document?, value))?;
            }
        }
    } else {
        for header in &record.headers {
            if let Some(name) = header.name.strip_prefix("ce_").map(str::to_ascii_lowercase).filter(|n| is_name(n)) {
                let value = header.value.as_deref().and_then(|v| std::str::from_utf8(v).ok());
                attributes.set(name, value.map(str::to_owned))?;
            }
        }
    }
    let complete = attributes.has("specversion") && attributes.has("id");
    complete.then_some(CloudEvent { attributes: attributes.0, structured: headers.structured })
}

/// CloudEvents allows no other names, and these go into HTTP headers as they are.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// A structured event's attribute as text. Arrays, objects, null and strings with lone surrogates are none.
fn attribute(document: Document<'_>, value: std::ops::Range<usize>) -> Option<String> {
    match document.text(value.clone()) {
        [b'"', ..] => document.string(value),
        [b'{' | b'[', ..] | b"null" => None,
        plain => String::from_utf8(plain.to_vec()).ok(),
    }
}

/// Names and values in the record's order.
#[derive(Default)]
struct Attributes(Vec<(String, String)>);

impl Attributes {
    fn has(&self, wanted: &str) -> bool {
        self.0.iter().any(|(name, value)| name == wanted && !value.is_empty())
    }

    /// Sets one; the last of equal names counts, also when it says nothing. None when there are too many.
    fn set(&mut self, name: String, value: Option<String>) -> Option<()> {
        match (self.0.iter().position(|(known, _)| *known == name), value) {
            (Some(at), Some(value)) => self.0[at].1 = value,
            (Some(at), None) => drop(self.0.remove(at)),
            (None, Some(_)) if self.0.len() == MOST => return None,
            (None, Some(value)) => self.0.push((name, value)),
            (None, None) => {}
        }
        Some(())
    }
}
