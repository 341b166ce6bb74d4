//! Asks the sidecar's own pure functions: claims, settlements, outcomes and watermarks are decided there, and not here. Pure.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use sidecar::claim::{self, Claim, ClaimRequest, Decision, Key, KeyPrefix, Owner, SessionId, Settlement, Stored};
use sidecar::clock::Time;
use sidecar::deliver::Answer as AppAnswer;
use sidecar::event_id::EventId;
use sidecar::outcome::{self, EventName, Outcome};
use sidecar::store::{Op, Reply};
use sidecar::watermark::Watermark;
use uuid::Uuid;

use crate::action::Said;
use crate::world::{Answer, EVENTS, Hold, SESSIONS, SIDECARS, Value, Write};

const TTL: Duration = Duration::from_secs(86_400);

/// The ids that stand for the model's sessions.
static SESSION_IDS: LazyLock<Vec<SessionId>> = LazyLock::new(|| {
    (0..SIDECARS as u128 * u128::from(SESSIONS)).map(|n| SessionId::new(Uuid::from_u128(n + 1))).collect()
});

static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let prefix = KeyPrefix::render("model:", "", "", "");
    (0..EVENTS).map(|event| prefix.key(&EventId([event as u8; 32]))).collect()
});

static NAMES: LazyLock<Vec<EventName>> = LazyLock::new(|| {
    (0..EVENTS).map(|n| EventName { key: format!("key-{n}").into(), id: format!("id-{n}").into() }).collect()
});

/// What a claim that got this answer leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It may be delivered.
    Deliver(Hold),
    /// It is done.
    Duplicate,
    /// Another's.
    Held,
    /// Ask whether that claim's session lives.
    Ask(Hold),
    /// Take it over, with that attempt.
    TakeOver(u8),
}

/// `claim::decide`, in the model's words.
#[must_use]
pub fn decide(event: usize, asked: Hold, answer: Answer, owner: impl Fn(u8) -> Owner) -> Next {
    let reply = match answer {
        Answer::Applied => Reply::Applied,
        Answer::Refused => Reply::Refused,
        Answer::Present(value) => Reply::Present(bytes_of(value)),
    };
    match claim::decide(&reply, request(event, asked), &[], |session| owner(number_of(session))) {
        Decision::Deliver(claim) => Next::Deliver(hold_of(&claim)),
        Decision::Duplicate(_) => Next::Duplicate,
        Decision::Held | Decision::Foreign => Next::Held,
        Decision::Ask(_) => match answer {
            Answer::Present(Value::Claimed(holder)) => Next::Ask(holder),
            _ => Next::Held,
        },
        Decision::TakeOver { attempt } => Next::TakeOver(u8::try_from(attempt).unwrap_or(u8::MAX)),
    }
}

/// `claim::settle`, in the model's words.
#[must_use]
pub fn settle(event: usize, hold: Hold, settlement: Settlement) -> Option<Write> {
    let claim: Claim = request(event, hold).granted();
    Some(match claim::settle(claim, settlement, TTL, TTL)? {
        Op::Set { value, .. } => Write::Always(value_of(&value)),
        Op::CompareAndSet { expect, value, .. } => Write::Swap(value_of(&expect), value_of(&value)),
        Op::CompareAndDelete { expect, .. } => Write::Swap(value_of(&expect), Value::Absent),
        Op::SetIfAbsent { value, .. } => Write::IfAbsent(value_of(&value)),
        Op::SetIfPresent { .. } | Op::Delete { .. } | Op::Exists { .. } => return None,
    })
}

/// What the app's answer means for each event of a request: `outcome::judge_one`, or `judge_batch` and `in_order`.
#[must_use]
pub fn judge(said: Said, events: usize) -> Vec<Outcome> {
    let http = |status, body: String| AppAnswer::Http { status, retry_after: None, body: body.into() };
    let results = |statuses: [&str; 2]| {
        let result = |(name, status): (&EventName, &str)| format!(r#"{{"id":"{}","status":"{status}"}}"#, name.key);
        let all: Vec<String> = NAMES.iter().zip(statuses).map(result).collect();
        http(200, format!(r#"{{"results":[{}]}}"#, all.join(",")))
    };
    let answer = match said {
        Said::Done => http(200, String::new()),
        Said::Failed => http(500, String::new()),
        Said::FailedAfterEffect => AppAnswer::TimedOut,
        Said::Rejected => http(422, String::new()),
        Said::Unreachable => AppAnswer::NotSent("connection refused".to_owned()),
        Said::FirstFailed => results(["RETRY", "SUCCESS"]),
        Said::SecondFailed => results(["SUCCESS", "RETRY"]),
        Said::FirstRejected => results(["DROP", "SUCCESS"]),
        Said::SecondRejected => results(["SUCCESS", "DROP"]),
    };
    if events == 1 {
        return vec![outcome::judge_one(&answer)];
    }
    outcome::in_order(outcome::judge_batch(&answer, &NAMES[..events]))
}

/// The offset to commit: `Watermark`, fed with what was read and settled.
#[must_use]
pub fn committable(from: usize, end: usize, settled: u8) -> Option<usize> {
    let mut watermark = Watermark::default();
    for offset in from..end {
        watermark.receive(offset as i64).ok()?;
    }
    for offset in (from..end).filter(|offset| settled & 1 << offset != 0) {
        watermark.settle(offset as i64).ok()?;
    }
    watermark.committable().and_then(|offset| usize::try_from(offset).ok())
}

fn request(event: usize, hold: Hold) -> ClaimRequest<'static> {
    ClaimRequest {
        key: &KEYS[event],
        session: SESSION_IDS[usize::from(hold.session)],
        attempt: u32::from(hold.attempt),
        sent_at: Time::default(),
    }
}

fn hold_of(claim: &Claim) -> Hold {
    let session = claim.session().map_or(crate::world::UNGUARDED, number_of);
    Hold { session, attempt: u8::try_from(claim.attempt()).unwrap_or(u8::MAX) }
}

fn number_of(session: SessionId) -> u8 {
    SESSION_IDS.iter().position(|id| *id == session).map_or(crate::world::UNGUARDED, |at| at as u8)
}

fn bytes_of(value: Value) -> Bytes {
    match value {
        Value::Absent => Bytes::new(),
        Value::Done => claim::done_value(None),
        Value::Claimed(hold) => claim::claim_value(SESSION_IDS[usize::from(hold.session)], u32::from(hold.attempt)),
        Value::Released(attempt) => claim::released_value(u32::from(attempt)),
    }
}

fn value_of(bytes: &[u8]) -> Value {
    let small = |attempt| u8::try_from(attempt).unwrap_or(u8::MAX);
    match Stored::parse(bytes, &[]) {
        Stored::Done(_) => Value::Done,
        Stored::Claimed { session, attempt } => {
            Value::Claimed(Hold { session: number_of(session), attempt: small(attempt) })
        }
        Stored::Released { attempt } => Value::Released(small(attempt)),
        Stored::Foreign => Value::Absent,
    }
}
