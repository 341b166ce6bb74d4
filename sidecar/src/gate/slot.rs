//! Decides nothing: what the gate knows of one key that somebody in this sidecar wants. Pure.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Terms, Ticket};
use crate::claim::{Key, SessionId};
use crate::clock::Time;
use crate::event_id::Fingerprint;
use crate::store::Op;

/// Somebody who wants an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Who.
    pub ticket: Ticket,
    /// What its envelope names, by which a suspect duplicate is told.
    pub fingerprint: Option<Fingerprint>,
}

/// What was asked of the store, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Under which session.
    pub session: SessionId,
    /// For which attempt.
    pub attempt: u32,
    /// When the request was sent.
    pub sent_at: Time,
}

/// How far a key has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing is under way; a timer or a new owner moves it.
    Idle,
    /// Waits for a session or for the store.
    Parked,
    /// A claim is on its way.
    Claiming(Asked),
    /// The question whether its holder lives is on its way.
    Asking {
        /// What the take-over would ask for.
        asked: Asked,
        /// The value that was seen.
        seen: Bytes,
        /// Whose it is.
        holder: SessionId,
    },
    /// A take-over is on its way.
    TakingOver(Asked),
    /// Another living session's.
    Held,
    /// The value is not ours.
    Foreign,
    /// The pipeline has the claim.
    Granted {
        /// A delivery is under way.
        delivering: bool,
    },
    /// It is done; the store is being told.
    Completing {
        /// The value that says so.
        value: Bytes,
        /// The fingerprint in it.
        fingerprint: Option<Fingerprint>,
        /// The session of the claim, which is held until the store knows.
        session: Option<SessionId>,
        /// When it was done.
        since: Time,
        /// How often the store was told in vain.
        tries: u32,
    },
    /// A release is on its way, or about to be repeated.
    Releasing {
        /// The session of the claim.
        session: SessionId,
        /// What is asked of the store.
        op: Op,
        /// How often the store surely did not take it.
        tries: u32,
    },
}

/// One key that somebody in this sidecar wants.
#[derive(Debug)]
pub struct Slot {
    /// The key.
    pub key: Key,
    /// Who has it; none while an operation nobody waits for any more is on its way.
    pub owner: Option<Asker>,
    /// Who wants it after the owner, in order.
    pub waiters: VecDeque<Asker>,
    /// How far it has come.
    pub state: State,
    /// How long the event is remembered.
    pub terms: Terms,
    /// The highest attempt under which a request may have left here.
    pub floor: u32,
    /// Requests that may have reached the app.
    pub requests: u32,
    /// No claim before: the event backs off.
    pub not_before: Time,
    /// How often it was found held in a row.
    pub polls: u32,
    /// Another session has it, for so long and under that id.
    pub held: Option<(Time, SessionId)>,
    /// The timer that counts.
    pub timer: Option<u64>,
    /// The key holds what can't be used; the event goes by the failure policy.
    pub unusable: bool,
}

impl Slot {
    pub(super) fn new(key: Key, owner: Asker, terms: Terms) -> Self {
        Self {
            key,
            owner: Some(owner),
            waiters: VecDeque::new(),
            state: State::Idle,
            terms,
            floor: 0,
            requests: 0,
            not_before: Time::default(),
            polls: 0,
            held: None,
            timer: None,
            unusable: false,
        }
    }

    /// An operation is on its way, or the pipeline has the claim.
    pub(super) const fn busy(&self) -> bool {
        !matches!(self.state, State::Idle | State::Parked | State::Held | State::Foreign)
    }
}
