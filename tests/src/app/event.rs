//! Decides how an app reads what the sidecar sends: CloudEvents in binary mode, or a batch. Pure. Written from the protocol, not
//! from the sidecar's code, so that a mistake there shows.

use anyhow::{Context, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::HeaderMap;
use serde_json::Value;

use crate::ledger::{Effect, logical_id};
use crate::publish::empty_id;

/// The content type of an event whose body holds its attributes too.
pub const STRUCTURED: &str = "application/cloudevents+json";

/// The content type of a batch.
pub const BATCH: &str = "application/cloudevents-batch+json";

/// One event as the app got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which event it is by its content: [`logical_id`], or its place where it has no content.
    pub event: String,
    /// `ce-id`.
    pub id: String,
    /// `ce-type`.
    pub kind: String,
    /// `ce-source`.
    pub source: String,
    /// `idempotency-key`.
    pub key: String,
    /// `idempotency-attempt`.
    pub attempt: u32,
    /// `idempotency-protection`.
    pub protection: String,
    /// `kafka-topic`.
    pub topic: String,
    /// `kafka-partition`.
    pub partition: i32,
    /// `kafka-offset`.
    pub offset: i64,
    /// `kafka-key`, as it was sent.
    pub record_key: Option<String>,
    /// The record's value. In a batch, where it is JSON, it is printed anew.
    pub value: Bytes,
    /// All headers of the request, or all attributes of the event in a batch.
    pub attributes: Vec<(String, String)>,
    /// How often this app has been sent this event, this time included.
    pub times: u32,
}

impl Event {
    /// Reads binary mode. A record that is a whole event in JSON comes as it is: its attributes are in the body, and are added
    /// here as the headers that they would be.
    ///
    /// # Errors
    /// A header of the protocol is missing or malformed.
    pub fn from_binary(headers: &HeaderMap, body: Bytes) -> anyhow::Result<Self> {
        let mut attributes: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        if get(&attributes, "content-type").is_ok_and(|kind| kind.starts_with(STRUCTURED)) {
            ensure!(!attributes.iter().any(|(name, _)| name.starts_with("ce-")), "attributes in the headers as well");
            let Value::Object(members) = serde_json::from_slice(&body)? else {
                bail!("a structured event is no object")
            };
            let text = |(name, value): (String, Value)| Some((format!("ce-{name}"), value.as_str()?.to_owned()));
            attributes.extend(members.into_iter().filter_map(text));
        }
        let version = get(&attributes, "ce-specversion")?;
        ensure!(version == "1.0", "ce-specversion is `{version}`");
        Self::read(attributes, body, "ce-", "-")
    }

    /// Reads a batch.
    ///
    /// # Errors
    /// It is no JSON array, or an event in it lacks an attribute of the protocol.
    pub fn from_batch(body: &[u8]) -> anyhow::Result<Vec<Self>> {
        let Value::Array(all) = serde_json::from_slice(body).context("the batch is not JSON")? else {
            bail!("the batch is no array");
        };
        ensure!(!all.is_empty(), "the batch is empty");
        all.into_iter().map(Self::from_structured).collect()
    }

    fn from_structured(item: Value) -> anyhow::Result<Self> {
        let Value::Object(members) = item else { bail!("an item of the batch is no object: {item}") };
        let value = match (members.get("data"), members.get("data_base64")) {
            (Some(_), Some(_)) => bail!("an event has both data and data_base64"),
            (Some(data), None) => data.to_string().into(),
            (None, Some(Value::String(data))) => STANDARD.decode(data).context("data_base64")?.into(),
            (None, Some(other)) => bail!("data_base64 is no string: {other}"),
            (None, None) => Bytes::new(),
        };
        let attributes: Vec<_> = members
            .into_iter()
            .filter(|(name, _)| !["data", "data_base64"].contains(&name.as_str()))
            .map(|(name, value)| match value {
                Value::String(text) => (name, text),
                other => (name, other.to_string()),
            })
            .collect();
        let version = get(&attributes, "specversion")?;
        ensure!(version == "1.0", "specversion is `{version}`");
        Self::read(attributes, value, "", "")
    }

    /// Both forms have the same attributes: with a prefix and dashes as headers, without as members.
    fn read(attributes: Vec<(String, String)>, value: Bytes, ce: &str, dash: &str) -> anyhow::Result<Self> {
        let own = |group: &str, name: &str| get(&attributes, &format!("{group}{dash}{name}"));
        let topic = own("kafka", "topic")?;
        let partition: i32 = own("kafka", "partition")?.parse().context("kafka partition")?;
        let offset: i64 = own("kafka", "offset")?.parse().context("kafka offset")?;
        let attempt: u32 = own("idempotency", "attempt")?.parse().context("idempotency attempt")?;
        ensure!(attempt > 0, "attempts start with 1");
        let protection = own("idempotency", "protection")?;
        ensure!(["full", "local", "none"].contains(&protection.as_str()), "protection is `{protection}`");
        let event = if value.is_empty() { empty_id(&topic, partition, offset) } else { logical_id(&value) };
        Ok(Self {
            event,
            id: get(&attributes, &format!("{ce}id"))?,
            kind: get(&attributes, &format!("{ce}type"))?,
            source: get(&attributes, &format!("{ce}source"))?,
            key: own("idempotency", "key")?,
            attempt,
            protection,
            record_key: own("kafka", "key").ok(),
            topic,
            partition,
            offset,
            value,
            attributes,
            times: 0,
        })
    }

    /// A header of the request, or an attribute in a batch.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The value as JSON.
    #[must_use]
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.value).ok()
    }

    /// What the ledger keeps of it.
    #[must_use]
    pub fn effect(&self, at: u64) -> Effect {
        Effect {
            event: self.event.clone(),
            key: self.key.clone(),
            attempt: self.attempt,
            protection: self.protection.clone(),
            topic: self.topic.clone(),
            partition: self.partition,
            offset: self.offset,
            at,
        }
    }
}

fn get(attributes: &[(String, String)], name: &str) -> anyhow::Result<String> {
    let found = attributes.iter().find(|(n, _)| n == name);
    found.map(|(_, value)| value.clone()).with_context(|| format!("`{name}` is missing"))
}
