//! Decides who may deliver an event: the value stored under its key, and who owns it, in; a decision out. Pure.
//!
//! | value | meaning |
//! |---|---|
//! | `1`, `1:<fingerprint>` | done |
//! | `c:<session>:<attempt>` | claimed by that session; void as soon as the session is gone |
//! | `c:-:<attempt>` | released: the next claim takes over with attempt + 1 |
//! | anything else | not ours: held, never taken for done |

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::clock::Time;
use crate::event_id::{EventId, Fingerprint};
use crate::store::{Op, Reply};

/// One life of one sidecar. An id is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(Uuid);

impl SessionId {
    /// A session of that id.
    #[must_use]
    pub const fn new(id: Uuid) -> Self {
        Self(id)
    }

    /// Reads what [`fmt::Display`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The key of an event in the store, with a digest of it for the sidecar's own tables.
#[derive(Clone, Debug)]
pub struct Key {
    text: Arc<str>,
    digest: u128,
}

impl Key {
    /// The key itself.
    #[must_use]
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// 128 bits that stand for the key: as good as unique.
    #[must_use]
    pub const fn digest(&self) -> u128 {
        self.digest
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Key {}

/// The longest event type that stands in a key as it is, in bytes.
pub(crate) const LONGEST_TYPE: usize = 256;

/// A rendered key prefix: what the keys of one topic and one event type begin with.
#[derive(Clone, Debug)]
pub struct KeyPrefix {
    text: String,
    digest: u128,
}

impl KeyPrefix {
    /// Fills the template's `{group}`, `{topic}` and `{type}`.
    ///
    /// A type is a record's own word, and a group may hold a `:` too. So that under a template which names all three no two
    /// different triples ever come to one text, a value is escaped, and its end is told by what follows: `:`, `%` and the
    /// character with which the template goes on stand as `%` and two hex digits for each byte; where the template goes on with
    /// another value or a `%`, a `:` is put between. A very long type stands as `%%` and its hash.
    #[must_use]
    pub fn render(template: &str, group: &str, topic: &str, event_type: &str) -> Self {
        let hashed;
        let (event_type, long) = if event_type.len() > LONGEST_TYPE {
            hashed = EventId(Sha256::digest(event_type.as_bytes()).into()).to_hex();
            (&*hashed, true)
        } else {
            (event_type, false)
        };
        let mut text = String::with_capacity(template.len() + group.len() + topic.len() + event_type.len());
        let mut rest = template;
        // One pass, so that a placeholder inside a value is not filled again.
        while let Some(open) = rest.find('{') {
            let (before, from) = rest.split_at(open);
            text.push_str(before);
            let filled = [("{group}", group), ("{topic}", topic), (TYPE, event_type)]
                .iter()
                .find_map(|(name, value)| from.strip_prefix(name).map(|after| (*name, *value, after)));
            match filled {
                Some((name, value, after)) => {
                    let end = end_of_value(after);
                    if long && name == TYPE {
                        text.push_str("%%");
                    }
                    push_escaped(&mut text, value, end);
                    if end == Some(':') && !after.starts_with(':') {
                        text.push(':');
                    }
                    rest = after;
                }
                None => {
                    text.push('{');
                    rest = &from[1..];
                }
            }
        }
        text.push_str(rest);
        let digest = first_16(&Sha256::digest(text.as_bytes()));
        Self { text, digest }
    }

    /// The key of an event.
    #[must_use]
    pub fn key(&self, id: &EventId) -> Key {
        let mut text = String::with_capacity(self.text.len() + 64);
        text.push_str(&self.text);
        text.push_str(&id.to_hex());
        Key { text: text.into(), digest: self.digest ^ first_16(&id.0) }
    }
}

const TYPE: &str = "{type}";

/// What ends a value before which the template goes on like this; nothing where the event's hash follows, whose length is known.
fn end_of_value(after: &str) -> Option<char> {
    let another_value = ["{group}", "{topic}", TYPE].iter().any(|name| after.starts_with(name));
    after.chars().next().map(|next| if another_value || next == '%' { ':' } else { next })
}

fn push_escaped(text: &mut String, value: &str, end: Option<char>) {
    for character in value.chars() {
        if character == '%' || character == ':' || Some(character) == end {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                text.push_str(&format!("%{byte:02X}"));
            }
        } else {
            text.push(character);
        }
    }
}

fn first_16(bytes: &[u8]) -> u128 {
    bytes.iter().take(16).fold(0, |all, byte| all << 8 | u128::from(*byte))
}

/// What stands under an event's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The event is settled.
    Done(Option<Fingerprint>),
    /// A session claims it.
    Claimed {
        /// Whose claim it is.
        session: SessionId,
        /// Its fencing token.
        attempt: u32,
    },
    /// Nobody claims it, but it was claimed: the next attempt is one more.
    Released {
        /// The last attempt that may have reached the app.
        attempt: u32,
    },
    /// Not ours.
    Foreign,
}

impl Stored {
    /// Reads a stored value. `done_values` are further values that mean done.
    #[must_use]
    pub fn parse(value: &[u8], done_values: &[String]) -> Self {
        if value == b"1" || done_values.iter().any(|done| done.as_bytes() == value) {
            return Self::Done(None);
        }
        let Ok(text) = std::str::from_utf8(value) else { return Self::Foreign };
        if let Some(hex) = text.strip_prefix("1:") {
            return parse_fingerprint(hex).map_or(Self::Foreign, |fp| Self::Done(Some(fp)));
        }
        let claim = text.strip_prefix("c:").and_then(|rest| rest.rsplit_once(':'));
        let Some((session, attempt)) = claim else { return Self::Foreign };
        let Ok(attempt) = attempt.parse() else { return Self::Foreign };
        // Read only what is written here: another spelling of a number or of an id is somebody else's.
        if session == "-" {
            return if released_value(attempt) == value { Self::Released { attempt } } else { Self::Foreign };
        }
        match SessionId::parse(session) {
            Some(session) if claim_value(session, attempt) == value => Self::Claimed { session, attempt },
            _ => Self::Foreign,
        }
    }
}

fn parse_fingerprint(hex: &str) -> Option<Fingerprint> {
    if hex.len() != 8 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    u32::from_str_radix(hex, 16).ok().map(|bits| Fingerprint(bits.to_be_bytes()))
}

/// The value of a settled event.
#[must_use]
pub fn done_value(fingerprint: Option<Fingerprint>) -> Bytes {
    match fingerprint {
        None => Bytes::from_static(b"1"),
        Some(fingerprint) => format!("1:{fingerprint}").into(),
    }
}

/// The value of a claimed event.
#[must_use]
pub fn claim_value(session: SessionId, attempt: u32) -> Bytes {
    format!("c:{session}:{attempt}").into()
}

/// The value of a released event.
#[must_use]
pub fn released_value(attempt: u32) -> Bytes {
    format!("c:-:{attempt}").into()
}

/// Are these the fingerprints of two different events? Only if both are known and differ.
#[must_use]
pub fn suspect(done: Option<Fingerprint>, record: Option<Fingerprint>) -> bool {
    matches!((done, record), (Some(a), Some(b)) if a != b)
}

/// Whose claim stands there, as far as this sidecar knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A session of this sidecar, or of its predecessor in the same pod: nobody delivers under it, since the key is
    /// reserved here by whoever asks.
    Mine,
    /// Another's, and its session is gone for good.
    Dead,
    /// Another's, and its session was alive when last asked.
    Alive,
    /// Another's, and nobody has asked yet.
    Unknown,
}

/// What to do about an event, after a look at its key.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Deliver it, under this claim.
    Deliver(Claim),
    /// It is done: skip it.
    Duplicate(Option<Fingerprint>),
    /// Another living session's: wait and look again. Never skip, never commit past it.
    Held,
    /// The value is not ours: wait and report it.
    Foreign,
    /// First ask whether that session lives.
    Ask(SessionId),
    /// Take over by compare-and-set from the value seen, with this attempt.
    TakeOver {
        /// The attempt of the new claim.
        attempt: u32,
    },
}

/// Decides from what a claim (`SetIfAbsent`) found. `attempt` is what was asked for, `owner` says whose a claim there is.
#[must_use]
pub fn decide(
    reply: &Reply,
    request: ClaimRequest<'_>,
    done_values: &[String],
    owner: impl FnOnce(SessionId) -> Owner,
) -> Decision {
    let value = match reply {
        Reply::Applied => return Decision::Deliver(request.granted()),
        Reply::Present(value) => value,
        // Not an answer to this question: look again.
        Reply::Refused => return Decision::Held,
    };
    let next =
        |attempt: u32| Decision::TakeOver { attempt: attempt.max(request.attempt.saturating_sub(1)).saturating_add(1) };
    match Stored::parse(value, done_values) {
        Stored::Done(fingerprint) => Decision::Duplicate(fingerprint),
        Stored::Foreign => Decision::Foreign,
        Stored::Released { attempt } => next(attempt),
        Stored::Claimed { session, attempt } => match owner(session) {
            Owner::Mine | Owner::Dead => next(attempt),
            Owner::Alive => Decision::Held,
            Owner::Unknown => Decision::Ask(session),
        },
    }
}

/// A claim that is asked for.
#[derive(Clone, Copy, Debug)]
pub struct ClaimRequest<'a> {
    /// The event's key.
    pub key: &'a Key,
    /// The session that asks.
    pub session: SessionId,
    /// The attempt that is asked for: one more than any that this sidecar has sent.
    pub attempt: u32,
    /// When the request was sent: the claim's age counts from here.
    pub sent_at: Time,
}

impl ClaimRequest<'_> {
    /// The claim, once the store has applied it.
    pub fn granted(&self) -> Claim {
        Claim { key: self.key.clone(), session: Some(self.session), attempt: self.attempt, since: self.sent_at }
    }
}

/// The right to deliver one event. It can't be copied, and settling consumes it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a claim that is dropped holds its event until the session ends: settle it"]
pub struct Claim {
    key: Key,
    session: Option<SessionId>,
    attempt: u32,
    since: Time,
}

impl Claim {
    /// A claim that no store knows, for the time while it is away and the policy is to deliver.
    pub const fn unguarded(key: Key, attempt: u32, now: Time) -> Self {
        Self { key, session: None, attempt, since: now }
    }

    /// The event's key.
    #[must_use]
    pub const fn key(&self) -> &Key {
        &self.key
    }

    /// The session it stands under; `None` for an unguarded one.
    #[must_use]
    pub const fn session(&self) -> Option<SessionId> {
        self.session
    }

    /// The fencing token: above 1 the event may have had its effect already.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// How old it is.
    #[must_use]
    pub fn age(&self, now: Time) -> Duration {
        now.since(self.since)
    }
}

/// How a claim ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The event is done (completed, or rejected and not to come again).
    Done(Option<Fingerprint>),
    /// It is to come again. `sent` tells whether a request may have left under this claim.
    Release {
        /// A request may have reached the app.
        sent: bool,
    },
}

/// The store operation by which a claim lives on; none for a claim that no store knows.
#[must_use]
pub fn keep(claim: &Claim, ttl: Duration) -> Option<Op> {
    let value = claim_value(claim.session?, claim.attempt);
    Some(Op::CompareAndSet { key: claim.key.text.clone(), expect: value.clone(), value, ttl })
}

/// The store operation that ends a claim; none for the release of a claim that no store knows.
#[must_use]
pub fn settle(claim: Claim, settlement: Settlement, ttl: Duration, released_ttl: Duration) -> Option<Op> {
    let Claim { key, session, attempt, .. } = claim;
    let key = key.text;
    let sent = match settlement {
        Settlement::Done(fingerprint) => return Some(Op::Set { key, value: done_value(fingerprint), ttl }),
        Settlement::Release { sent } => sent,
    };
    let expect = claim_value(session?, attempt);
    // A request that never left is taken back from the count, so that a first delivery stays attempt 1.
    Some(match if sent { attempt } else { attempt.saturating_sub(1) } {
        0 => Op::CompareAndDelete { key, expect },
        reached => Op::CompareAndSet { key, expect, value: released_value(reached), ttl: released_ttl },
    })
}

#[cfg(test)]
mod tests;
