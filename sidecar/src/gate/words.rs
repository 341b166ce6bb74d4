//! Decides nothing: the words in which gate, store and pipeline speak to each other. Pure.

use std::sync::Arc;

use crds::status::Protection;

use super::memory::Unwritten;
use super::{Terms, Ticket};
use crate::claim::{Claim, Key, SessionId};
use crate::clock::Time;
use crate::event_id::Fingerprint;
use crate::session::Demand;

/// What is known of an event that is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// What its envelope names, by which a suspect duplicate is told.
    pub fingerprint: Option<Fingerprint>,
    /// How long it is remembered.
    pub terms: Terms,
    /// What became of it here before.
    pub past: Past,
}

/// What became of an event here before it was withdrawn: the gate has forgotten it since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// The highest attempt under which a request may have left.
    pub attempt: u32,
    /// It is not claimed again before.
    pub not_before: Time,
}

/// An event that another session has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldEvent {
    /// Its key.
    pub key: Arc<str>,
    /// Since when it is known to be another's.
    pub since: Time,
    /// Whose it is.
    pub holder: SessionId,
}

/// What an operation was asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// A claim, of that slot.
    Claim(usize),
    /// Whether the session that holds that slot's key lives.
    Ask(usize),
    /// A take-over, of that slot.
    TakeOver(usize),
    /// A completion, of that slot.
    Complete(usize),
    /// A release, of that slot.
    Release(usize),
    /// A completion that was made while the store was away.
    WriteBack(Box<Unwritten>),
    /// That a claim lives on, of an event that can't be settled now.
    Keep(Key),
    /// The sessions' own business.
    Session(Demand),
}

/// What failed last and was not answered since. An answer to something else says nothing of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Suspect {
    /// The key: in a cluster its node may be away, and no other.
    pub(super) key: Arc<str>,
    /// What was asked: a server may refuse scripts, or questions, and nothing else.
    pub(super) kind: Kind,
}

/// What a user may be forbidden by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A plain write.
    Plain,
    /// A script.
    Script,
    /// Whether a key exists.
    Question,
}

/// What the gate tells the pipeline.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The event may be delivered under this claim.
    Granted(Ticket, Claim),
    /// The event is done: skip the record. `suspect` if its envelope names another event.
    Duplicate {
        /// Who asked.
        ticket: Ticket,
        /// The envelope names another event than the one that was settled.
        suspect: bool,
    },
    /// Whether this event moves or waits may have changed: see [`Gate::stance`].
    Reconsider(Ticket),
    /// The event is settled for good: its record's offset may pass.
    Settled(Ticket),
    /// There is a new session: claims under older ones are void.
    SessionChanged,
}

/// Does an event that was asked for move by itself?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stance {
    /// Its own claim is on its way.
    Claiming,
    /// It does: an answer or an outcome is on its way.
    Moving,
    /// Another record of this sidecar has the event, and does not deliver it now.
    Reserved,
    /// Another living session has it.
    Held,
    /// The value under its key is not ours.
    Foreign,
    /// It waits after a failure.
    BackingOff,
    /// It waits for the store, or for a session.
    Parked,
}

/// What the gate has counted since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct GateCounts {
    pub claims_first: u64,
    pub claims_taken_over: u64,
    pub claims_duplicate: u64,
    pub claims_held: u64,
    pub claims_foreign: u64,
    pub claims_released: u64,
    pub errors_unanswered: u64,
    pub errors_not_sent: u64,
    pub errors_refused: u64,
    pub errors_wrong_type: u64,
    pub sessions_opened: u64,
    pub sessions_lost: u64,
}

/// A key that holds what the sidecar can't use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// The key.
    pub key: Arc<str>,
    /// What is wrong with it.
    pub why: &'static str,
    /// When that was last seen.
    pub seen: Time,
}

/// A delivery may start.
#[derive(Debug)]
pub struct Started {
    /// The claim under which it starts.
    pub claim: Claim,
    /// The store gates it, as far as is known.
    pub gated: Gated,
}

/// What stands behind a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gated {
    /// The store.
    Store,
    /// The store, which has lost data; the sidecar's memory stands in.
    Degraded,
    /// The sidecar's memory alone.
    Memory,
}

/// What a delivery can promise, by what stands behind it.
#[must_use]
pub const fn protection(gated: Gated, covers: bool) -> Protection {
    match gated {
        Gated::Store => Protection::Full,
        Gated::Degraded => Protection::Local,
        Gated::Memory if covers => Protection::Local,
        Gated::Memory => Protection::None,
    }
}
