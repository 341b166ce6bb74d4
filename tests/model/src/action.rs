//! Decides nothing: what can happen in the model, in words that a counterexample can be read in. Pure.

use std::fmt;

use crate::world::{SESSIONS, place_of, sidecar_of};

/// What the app says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Said {
    /// 200
    Done,
    /// 500, and no effect.
    Failed,
    /// Nothing in time, and yet it had its effect.
    FailedAfterEffect,
    /// 422
    Rejected,
    /// It was not reached at all.
    Unreachable,
    /// Of two: the first is to come again.
    FirstFailed,
    /// Of two: the second is to come again.
    SecondFailed,
    /// Of two: the first is rejected.
    FirstRejected,
    /// Of two: the second is rejected.
    SecondRejected,
}

/// A sidecar, a partition, an event.
type Place = u8;

/// One step. Sidecars are `s`, partitions `p`, events `e`, slots `k`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Action {
    // What moves by itself.
    Arrive(Place, Place),
    Reply(Place, Place),
    Late(Place),
    Look(Place, Place),
    Open(Place),
    Notice(Place),
    Gone(u8),
    RenewalArrives(Place),
    RenewalAnswered(Place),
    Start { s: Place, record: u8, events: u8 },
    Answer(Place, Place, Said),
    TooOld(Place, Place),
    Copied(Place, Place),
    CopiedBeside(Place, Place),
    Commit(Place, Place),
    NoticeLost(Place, Place),
    FinishRevoke(Place, Place),
    Assign(Place, Place),
    Kick(Place),
    Resume(Place),
    Reconnect(Place),
    Restart(Place),
    Back(Place),
    WriteBack(Place, Place),
    // Faults.
    NoReply(Place, Place),
    Crash { s: Place, effects: bool },
    Revoke(Place),
    Deadline(Place),
    Lose(Place),
    Lapse(Place),
    LapseRenewing(Place),
    RefuseCopy(Place, Place),
    Away(Place),
    Flush,
    Restore,
    LoseWrite(Place),
    LoseSession(u8),
    ForgetDone(Place),
    Age(Place),
    ForgetClaim(Place),
}

/// A sidecar's name.
#[must_use]
pub const fn name(sidecar: usize) -> char {
    (b'A' + sidecar as u8) as char
}

/// A session's name: its sidecar's, and which of its lives.
#[must_use]
pub fn session_name(session: u8) -> String {
    format!("{}{}", name(sidecar_of(session)), session % SESSIONS)
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "has its effect; 200",
            Self::Failed => "500, without an effect",
            Self::FailedAfterEffect => "has its effect; no answer in time",
            Self::Rejected => "422",
            Self::Unreachable => "connection refused",
            Self::FirstFailed => "the first of the batch RETRY, the second has its effect and says SUCCESS",
            Self::SecondFailed => "the first of the batch has its effect and says SUCCESS, the second RETRY",
            Self::FirstRejected => "the first of the batch DROP, the second has its effect and says SUCCESS",
            Self::SecondRejected => "the first of the batch has its effect and says SUCCESS, the second DROP",
        })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = |s: &u8| name(usize::from(*s));
        // Without *reserve* a key has a slot for each partition.
        let e = |k: &u8| usize::from(*k) % crate::world::EVENTS;
        match self {
            Self::Arrive(a, k) => write!(f, "the store takes {}'s request for e{}", s(a), e(k)),
            Self::Reply(a, k) => write!(f, "{} gets the store's answer for e{}", s(a), e(k)),
            Self::Late(_) => write!(f, "the store takes a late request"),
            Self::Look(a, k) => write!(f, "{} looks at e{} again", s(a), e(k)),
            Self::Open(a) => write!(f, "{} opens a session", s(a)),
            Self::Notice(a) => write!(f, "{} notices that its session is over", s(a)),
            Self::Gone(session) => write!(f, "the key of session {} is gone", session_name(*session)),
            Self::RenewalArrives(a) => write!(f, "the store takes {}'s late renewal", s(a)),
            Self::RenewalAnswered(a) => write!(f, "{} gets the answer to its renewal", s(a)),
            Self::Start { s: a, record, events } => {
                let (partition, offset) = place_of(*record);
                write!(f, "{} sends {events} event(s) from p{partition}@{offset} to its app", s(a))
            }
            Self::Answer(a, k, said) => write!(f, "{}'s app on e{}: {said}", s(a), e(k)),
            Self::TooOld(a, k) => write!(f, "{} gives the old claim of e{} back, to claim anew", s(a), e(k)),
            Self::Copied(a, k) => write!(f, "{}'s dead letter of e{} is written", s(a), e(k)),
            Self::CopiedBeside(a, k) => write!(f, "{}'s dead letter of e{} is written after all", s(a), e(k)),
            Self::Commit(a, p) => write!(f, "{} commits p{p}", s(a)),
            Self::NoticeLost(a, p) => write!(f, "{} hears that it has lost p{p}", s(a)),
            Self::FinishRevoke(a, p) => write!(f, "{} gives p{p} up", s(a)),
            Self::Assign(p, a) => write!(f, "p{p} is assigned to {}", s(a)),
            Self::Kick(p) => write!(f, "the broker takes p{p} from its dead owner"),
            Self::Resume(a) => write!(f, "{}'s app accepts again", s(a)),
            Self::Reconnect(a) => write!(f, "{} notices that another server answers, and gives its session up", s(a)),
            Self::Restart(a) => write!(f, "{} restarts in its pod", s(a)),
            Self::Back(a) => write!(f, "the store is back for {}", s(a)),
            Self::WriteBack(a, k) => write!(f, "{} writes back that e{} is done", s(a), e(k)),
            Self::NoReply(a, k) => write!(f, "FAULT no answer comes to {}'s request for e{}", s(a), e(k)),
            Self::Crash { s: a, effects } => {
                let what = if *effects { "what its app has gets its effect" } else { "its app has done nothing" };
                write!(f, "FAULT {} dies; {what}", s(a))
            }
            Self::Revoke(p) => write!(f, "FAULT p{p} is revoked"),
            Self::Deadline(p) => write!(f, "FAULT p{p} has to go with deliveries under way"),
            Self::Lose(p) => write!(f, "FAULT the broker takes p{p} away without a word"),
            Self::Lapse(a) => write!(f, "FAULT {} does not renew its sessions in time", s(a)),
            Self::LapseRenewing(a) => write!(f, "FAULT {}'s renewal is late", s(a)),
            Self::RefuseCopy(a, k) => write!(f, "FAULT the broker refuses {}'s dead letter of e{}", s(a), e(k)),
            Self::Away(a) => write!(f, "FAULT the store is away for {}", s(a)),
            Self::Flush => write!(f, "FAULT the store comes back empty"),
            Self::Restore => write!(f, "FAULT the store comes back without the last write to any event"),
            Self::LoseWrite(k) => write!(f, "FAULT a failover loses the last write to e{}", e(k)),
            Self::LoseSession(session) => write!(f, "FAULT a failover loses session {}", session_name(*session)),
            Self::ForgetDone(k) => write!(f, "FAULT the TTL of done e{} ends", e(k)),
            Self::Age(k) => write!(f, "FAULT the claim of e{} is older than half its TTL", e(k)),
            Self::ForgetClaim(k) => write!(f, "FAULT the TTL of the claim of e{} ends", e(k)),
        }
    }
}
