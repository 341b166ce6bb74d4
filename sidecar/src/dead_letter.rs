//! Decides what a dead letter or the copy of a skipped record looks like: the record unchanged, and typed headers behind its own. Pure.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use crate::event_id::EventId;
use crate::kafka::OutRecord;
use crate::record::{Header, Offset, Record, TopicPartition};

/// The longest reason that is kept, in bytes; the rest is cut off.
pub const MAX_REASON: usize = 1024;

const TOPIC: &str = "idempotency-origin-topic";
const PARTITION: &str = "idempotency-origin-partition";
const OFFSET: &str = "idempotency-origin-offset";
const TIMESTAMP: &str = "idempotency-origin-timestamp";
const GROUP: &str = "idempotency-group";
const EVENT_ID: &str = "idempotency-event-id";
const KEY: &str = "idempotency-key";
const REASON: &str = "idempotency-reason";
const ATTEMPTS: &str = "idempotency-attempts";
const OUTCOME: &str = "idempotency-outcome";

/// Why a record was written away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The app rejected it: a business failure.
    Rejected,
    /// It failed as often as `maxAttempts` allows.
    Failed,
    /// It was skipped, since an event with its id is done.
    Duplicate,
    /// The same, but its envelope names another event: look whether the two were meant to be one.
    Suspect,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rejected => "rejected",
            Self::Failed => "failed",
            Self::Duplicate => "duplicate",
            Self::Suspect => "suspect",
        })
    }
}

impl FromStr for Verdict {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Rejected, Self::Failed, Self::Duplicate, Self::Suspect]
            .into_iter()
            .find(|v| v.to_string() == text)
            .ok_or(())
    }
}

/// What the headers of a dead letter, or of a skipped record's copy, say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The partition it was read from.
    pub origin: TopicPartition,
    /// Its place there.
    pub offset: Offset,
    /// Its time in milliseconds since the epoch, if it has one.
    pub timestamp: Option<i64>,
    /// The consumer group that read it.
    pub group: String,
    /// Its event id.
    pub event_id: EventId,
    /// The key under which the event is gated, prefix and all: delete it in Redis to have the event processed again.
    pub idempotency_key: String,
    /// What the app answered, or what went wrong.
    pub reason: String,
    /// Requests that were sent for it; 0 for a skipped one.
    pub attempts: u32,
    /// Why it was written away.
    pub outcome: Verdict,
}

/// A record is no dead letter of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotADeadLetter {
    /// A header is not there.
    #[error("header `{0}` is missing")]
    Missing(&'static str),
    /// A header does not hold what its name says.
    #[error("header `{0}` can't be read")]
    Invalid(&'static str),
}

impl DeadLetter {
    /// The record as it is written: key, value and headers as they were, ours behind them.
    #[must_use]
    pub fn wrap(&self, record: &Record) -> OutRecord {
        let mut headers = record.headers.clone();
        headers.extend(self.headers());
        OutRecord { key: record.key.clone(), value: record.value.clone(), headers }
    }

    /// Our headers.
    #[must_use]
    pub fn headers(&self) -> Vec<Header> {
        let header = |name: &str, value: String| Header { name: name.to_owned(), value: Some(Bytes::from(value)) };
        let mut headers = vec![
            header(TOPIC, self.origin.topic.to_string()),
            header(PARTITION, self.origin.partition.to_string()),
            header(OFFSET, self.offset.to_string()),
        ];
        headers.extend(self.timestamp.map(|t| header(TIMESTAMP, t.to_string())));
        headers.extend([
            header(GROUP, self.group.clone()),
            header(EVENT_ID, self.event_id.to_string()),
            header(KEY, self.idempotency_key.clone()),
            header(REASON, cut(&self.reason).to_owned()),
            header(ATTEMPTS, self.attempts.to_string()),
            header(OUTCOME, self.outcome.to_string()),
        ]);
        headers
    }

    /// Reads our headers back. Where a name stands twice (a dead letter of a dead letter), the last one counts.
    ///
    /// # Errors
    /// [`NotADeadLetter`] with the first header that is missing or can't be read.
    pub fn from_headers(headers: &[Header]) -> Result<Self, NotADeadLetter> {
        Ok(Self {
            origin: TopicPartition { topic: text(headers, TOPIC)?.into(), partition: parse(headers, PARTITION)? },
            offset: parse(headers, OFFSET)?,
            timestamp: match parse(headers, TIMESTAMP) {
                Err(NotADeadLetter::Missing(_)) => None,
                timestamp => Some(timestamp?),
            },
            group: text(headers, GROUP)?.to_owned(),
            event_id: event_id(text(headers, EVENT_ID)?).ok_or(NotADeadLetter::Invalid(EVENT_ID))?,
            idempotency_key: text(headers, KEY)?.to_owned(),
            reason: text(headers, REASON)?.to_owned(),
            attempts: parse(headers, ATTEMPTS)?,
            outcome: parse(headers, OUTCOME)?,
        })
    }
}

fn text<'a>(headers: &'a [Header], name: &'static str) -> Result<&'a str, NotADeadLetter> {
    let header = headers.iter().rev().find(|h| h.name == name).ok_or(NotADeadLetter::Missing(name))?;
    header.value.as_deref().and_then(|v| std::str::from_utf8(v).ok()).ok_or(NotADeadLetter::Invalid(name))
}

fn parse<T: FromStr>(headers: &[Header], name: &'static str) -> Result<T, NotADeadLetter> {
    text(headers, name)?.parse().map_err(|_| NotADeadLetter::Invalid(name))
}

fn event_id(text: &str) -> Option<EventId> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return None;
    }
    let mut id = [0; 32];
    for (i, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(EventId(id))
}

fn cut(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(MAX_REASON)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> DeadLetter {
        DeadLetter {
            origin: TopicPartition { topic: "orders".into(), partition: 3 },
            offset: 5_000_000_000,
            timestamp: Some(1_700_000_000_123),
            group: "billing".into(),
            event_id: EventId([0xa5; 32]),
            idempotency_key: "idempotency:billing:orders::a5".into(),
            reason: "HTTP 422: späte Änderung".into(),
            attempts: 2,
            outcome: Verdict::Rejected,
        }
    }

    fn record() -> Record {
        Record {
            origin: letter().origin,
            offset: letter().offset,
            timestamp: None,
            key: Some(Bytes::from_static(b"k\0")),
            value: None,
            headers: vec![Header { name: OFFSET.into(), value: Some(Bytes::from_static(b"forged")) }],
        }
    }

    #[test]
    fn headers_come_back_as_they_were() {
        for outcome in [Verdict::Rejected, Verdict::Failed, Verdict::Duplicate, Verdict::Suspect] {
            for timestamp in [None, Some(-1), Some(7)] {
                let letter = DeadLetter { outcome, timestamp, ..letter() };
                assert_eq!(DeadLetter::from_headers(&letter.headers()), Ok(letter));
            }
        }
    }

    #[test]
    fn each_header_says_what_its_name_says() {
        let headers = letter().headers();
        let value = |name| text(&headers, name).unwrap();
        assert_eq!(value("idempotency-origin-topic"), "orders");
        assert_eq!(value("idempotency-origin-partition"), "3");
        assert_eq!(value("idempotency-origin-offset"), "5000000000");
        assert_eq!(value("idempotency-origin-timestamp"), "1700000000123");
        assert_eq!(value("idempotency-group"), "billing");
        assert_eq!(value("idempotency-attempts"), "2");
        assert_eq!(value("idempotency-outcome"), "rejected");
    }

    #[test]
    fn the_record_is_unchanged_and_can_not_forge_our_headers() {
        let out = letter().wrap(&record());
        assert_eq!((out.key.as_deref(), out.value), (Some(&b"k\0"[..]), None));
        assert_eq!(out.headers[0], record().headers[0]);
        assert_eq!(DeadLetter::from_headers(&out.headers), Ok(letter()));
    }

    #[test]
    fn a_missing_or_broken_header_is_named() {
        let without = |name: &str| letter().headers().into_iter().filter(|h| h.name != name).collect::<Vec<_>>();
        let with = |name: &'static str, value: &'static str| {
            let mut headers = letter().headers();
            headers.push(Header { name: name.into(), value: Some(Bytes::from_static(value.as_bytes())) });
            DeadLetter::from_headers(&headers)
        };
        for name in [TOPIC, PARTITION, OFFSET, GROUP, EVENT_ID, KEY, REASON, ATTEMPTS, OUTCOME] {
            assert_eq!(DeadLetter::from_headers(&without(name)), Err(NotADeadLetter::Missing(name)));
        }
        assert_eq!(with(PARTITION, "5000000000"), Err(NotADeadLetter::Invalid(PARTITION)));
        assert_eq!(with(TIMESTAMP, "today"), Err(NotADeadLetter::Invalid(TIMESTAMP)));
        assert_eq!(with(EVENT_ID, "+5"), Err(NotADeadLetter::Invalid(EVENT_ID)));
        assert_eq!(with(OUTCOME, "lost"), Err(NotADeadLetter::Invalid(OUTCOME)));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let long = DeadLetter { reason: "ä".repeat(MAX_REASON), ..letter() };
        let read = DeadLetter::from_headers(&long.headers()).unwrap();
        assert_eq!(read.reason, "ä".repeat(MAX_REASON / 2));
        let odd = DeadLetter { reason: format!("x{}", "ä".repeat(MAX_REASON)), ..letter() };
        assert!(odd.headers().iter().all(|h| h.value.as_ref().is_some_and(|v| v.len() <= MAX_REASON)));
    }
}
