//! Decides which events may be delivered: reserves keys, claims them in the store, and settles them. Pure: it asks for store
//! operations and takes their answers; [`crate::pipeline`] decides the order of deliveries.
//!
//! Every key that anybody in this sidecar wants has a [slot](slot::Slot): one owner, and waiters behind. A slot has at most
//! one store operation on its way that moves it, and is dropped only when it has none.
//!
//! # Guarantees
//! - At most one [`Claim`] for a key exists in this sidecar (*reserve*).
//! - A claim, take-over or release whose reply does not come is never repeated under its session: the session is replaced.
//! - A store error never makes an event a duplicate.
//!
//! # Assumptions
//! - Each operation of [`Gate::take_ops`] is answered once by [`Gate::answered`].
//! - A ticket is withdrawn, settled or skipped before it is used again.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use crds::config::FailurePolicy;
use slab::Slab;
use uuid::Uuid;

use crate::claim::{self, Claim, Key, SessionId, Settlement};
use crate::clock::Time;
use crate::event_id::Fingerprint;
use crate::session::Sessions;
use crate::store::Op;

pub mod breaker;
pub mod memory;
mod moves;
mod replies;
pub mod slot;
mod view;
mod words;

use breaker::Breaker;
use memory::{RecentIds, WriteBack};
use slot::{Asker, Slot, State};
pub use words::{GateCounts, Gated, HeldEvent, Past, Stance, Started, Token, Unusable, Verdict, Wanted, protection};
use words::{Kind, Suspect};

/// Who asks for an event: the pipeline's own number for a record under way.
pub type Ticket = usize;

/// Ids that are remembered, and ids that can wait to be written back.
pub const REMEMBERED_IDS: usize = 100_000;

/// Sessions that were seen dead, remembered so that each is asked for once.
const REMEMBERED_DEAD: usize = 4_096;

/// How long a key that could not be used is reported after it was last seen.
const UNUSABLE_FOR: Duration = Duration::from_secs(60);

/// How the gate works.
#[derive(Clone, Debug)]
pub struct GateConfig {
    /// What happens while the store is away.
    pub policy: FailurePolicy,
    /// Prefix of the session keys.
    pub session_prefix: String,
    /// How long a session lives after a renewal.
    pub session_ttl: Duration,
    /// Further values that mean done.
    pub done_values: Vec<String>,
    /// The longest time for which an event is remembered.
    pub longest_ttl: Duration,
}

/// How long an event is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// TTL of a settled event.
    pub ttl: Duration,
    /// TTL of a claim.
    pub claim_ttl: Duration,
    /// TTL of a release: how long it is known that the event may have had its effect.
    pub released_ttl: Duration,
}

/// A claim lives at least so long.
const CLAIMED_FOR: Duration = Duration::from_secs(3_600);

/// A release is remembered at least so long: it holds nobody up, and an app may be down, or paused, over a weekend.
const RELEASED_FOR: Duration = Duration::from_secs(7 * 86_400);

impl Terms {
    /// Terms for an event that is remembered so long.
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, claim_ttl: ttl.max(CLAIMED_FOR), released_ttl: ttl.max(RELEASED_FOR) }
    }
}

/// The gate of one sidecar.
pub struct Gate {
    config: GateConfig,
    slots: Slab<Slot>,
    by_key: HashMap<u128, usize>,
    sessions: Sessions,
    fresh: Box<dyn FnMut() -> SessionId + Send>,
    dead: HashSet<SessionId>,
    breaker: Breaker,
    recent: RecentIds,
    write_back: WriteBack,
    /// Completions of the write-back queue that are on their way.
    writing: usize,
    /// The write-back pauses until then after an error.
    write_at: Time,
    /// Slots that wait for a session or the store.
    parked: Vec<usize>,
    timers: BinaryHeap<Reverse<(Time, u64, usize)>>,
    timer_serial: u64,
    ops: Vec<(Token, Op)>,
    /// What a first claim under that session is written as: nearly all are, so it is put together once.
    first_claim: Option<(SessionId, Bytes)>,
    save: Option<Vec<SessionId>>,
    verdicts: VecDeque<Verdict>,
    /// The store has lost data; until one TTL has passed, duplicates may come through.
    data_lost: Option<(Time, Time)>,
    /// A key that could not be used, for the condition.
    unusable: Option<Unusable>,
    counts: GateCounts,
    /// A word on the last store error, for the condition.
    last_error: Option<String>,
    suspect: Option<Suspect>,
    away_since: Option<Time>,
}

impl Gate {
    /// A gate with no session yet. `inherited` are a predecessor's sessions; `fresh` gives ids that were never used.
    #[must_use]
    pub fn new(
        config: GateConfig,
        inherited: Vec<SessionId>,
        fresh: impl FnMut() -> SessionId + Send + 'static,
        now: Time,
    ) -> Self {
        Self {
            sessions: Sessions::new(config.session_ttl, inherited, now),
            config,
            slots: Slab::new(),
            by_key: HashMap::new(),
            fresh: Box::new(fresh),
            dead: HashSet::new(),
            breaker: Breaker::new(),
            recent: RecentIds::new(REMEMBERED_IDS),
            write_back: WriteBack::new(REMEMBERED_IDS),
            writing: 0,
            write_at: now,
            parked: Vec::new(),
            timers: BinaryHeap::new(),
            timer_serial: 0,
            ops: Vec::new(),
            first_claim: None,
            save: None,
            verdicts: VecDeque::new(),
            data_lost: None,
            unusable: None,
            counts: GateCounts::default(),
            last_error: None,
            suspect: None,
            away_since: None,
        }
    }

    /// A source of ids that were never used.
    pub fn random_ids() -> impl FnMut() -> SessionId + Send + 'static {
        || SessionId::new(Uuid::new_v4())
    }

    /// Asks for an event. The answer is a [`Verdict`]; until then [`Gate::stance`] tells how it stands.
    pub fn request(&mut self, ticket: Ticket, key: &Key, wanted: Wanted, now: Time) {
        let Wanted { fingerprint, terms, past } = wanted;
        let asker = Asker { ticket, fingerprint };
        if let Some(&at) = self.by_key.get(&key.digest()) {
            if let State::Completing { fingerprint: done, .. } = self.slots[at].state {
                return self.tell_duplicate(asker, done);
            }
            let slot = &mut self.slots[at];
            slot.floor = slot.floor.max(past.attempt);
            slot.waiters.push_back(asker);
            self.promote_if_free(at, now);
            return;
        }
        let mut slot = Slot::new(key.clone(), asker, terms);
        slot.floor = past.attempt;
        slot.not_before = past.not_before;
        let at = self.slots.insert(slot);
        self.by_key.insert(key.digest(), at);
        self.start_claim(at, now);
    }

    /// How an event that was asked for stands.
    #[must_use]
    pub fn stance(&self, ticket: Ticket, key: &Key) -> Stance {
        let Some(slot) = self.by_key.get(&key.digest()).and_then(|at| self.slots.get(*at)) else {
            return Stance::Moving;
        };
        let owns = slot.owner.is_some_and(|owner| owner.ticket == ticket);
        match &slot.state {
            State::Claiming(_) | State::Asking { .. } | State::TakingOver { .. } if owns => Stance::Claiming,
            State::Claiming(_) | State::Asking { .. } | State::TakingOver { .. } => Stance::Moving,
            State::Granted { delivering: true } | State::Completing { .. } => Stance::Moving,
            State::Granted { delivering: false } if owns => Stance::Moving,
            _ if !owns => Stance::Reserved,
            State::Granted { .. } => Stance::Moving,
            State::Held => Stance::Held,
            State::Foreign => Stance::Foreign,
            State::Idle | State::Releasing { .. } => Stance::BackingOff,
            State::Parked => Stance::Parked,
        }
    }

    /// Gives up an event that was asked for and not granted.
    pub fn withdraw(&mut self, ticket: Ticket, key: &Key, now: Time) {
        let Some(&at) = self.by_key.get(&key.digest()) else { return };
        let slot = &mut self.slots[at];
        if slot.owner.is_some_and(|owner| owner.ticket == ticket) {
            slot.owner = None;
            self.promote_if_free(at, now);
        } else {
            slot.waiters.retain(|waiter| waiter.ticket != ticket);
        }
    }

    /// May a delivery start under this claim, now? If not, the event is claimed anew, and its next verdict tells.
    #[must_use]
    pub fn start(&mut self, claim: Claim, now: Time) -> Option<Started> {
        let at = self.slot_of(&claim)?;
        let fresh = claim.session().is_some() && claim.session() == self.sessions.current(now);
        let gated = match (self.breaker.is_open(), self.config.policy) {
            (true, FailurePolicy::Open) => Gated::Memory,
            (false, _) if fresh && claim.age(now) > self.slots[at].terms.claim_ttl / 2 => {
                self.release(claim, false, now, true, now);
                return None;
            }
            (false, _) if fresh => {
                if self.is_degraded(now) {
                    Gated::Degraded
                } else {
                    Gated::Store
                }
            }
            (false, FailurePolicy::Open) if claim.session().is_none() && self.slots[at].unusable => Gated::Memory,
            _ => {
                self.claim_again(claim, now);
                return None;
            }
        };
        self.slots[at].state = State::Granted { delivering: true };
        if let Some(session) = claim.session() {
            self.sessions.hold(session);
        }
        Some(Started { claim, gated })
    }

    /// Claims an event anew whose claim is void, since its session is over: the new session takes it over.
    pub fn claim_again(&mut self, void: Claim, now: Time) {
        if let Some(at) = self.slot_of(&void) {
            self.start_claim(at, now);
        }
    }

    /// The event is done: completed by the app, or rejected for good. [`Verdict::Settled`] follows, once that is sure to be
    /// known. Whoever waits for the event here need not wait for that: until then the record that was delivered holds its
    /// own offset back, and would come again.
    pub fn complete(&mut self, claim: Claim, fingerprint: Option<Fingerprint>, now: Time) {
        let Some(at) = self.slot_of(&claim) else { return };
        let session = claim.session();
        let Terms { ttl, released_ttl, .. } = self.slots[at].terms;
        let op = claim::settle(claim, Settlement::Done(fingerprint), ttl, released_ttl);
        let Some(Op::Set { value, .. }) = op else { return };
        self.slots[at].state = State::Completing { value, fingerprint, session, since: now, tries: 0 };
        for waiter in std::mem::take(&mut self.slots[at].waiters) {
            self.tell_duplicate(waiter, fingerprint);
        }
        self.write_done(at, now);
    }

    /// The event is to come again: `sent` tells whether a request may have left under this claim. Nobody here is served
    /// before `not_before`. With `stays` whoever asked keeps asking; without, it is withdrawn.
    pub fn release(&mut self, claim: Claim, sent: bool, not_before: Time, stays: bool, now: Time) {
        let Some(at) = self.slot_of(&claim) else { return };
        let (session, attempt) = (claim.session(), claim.attempt());
        let slot = &mut self.slots[at];
        let delivering = matches!(slot.state, State::Granted { delivering: true });
        if sent {
            slot.floor = slot.floor.max(attempt);
            slot.requests = slot.requests.saturating_add(1);
        }
        slot.not_before = not_before;
        slot.timer = None;
        if !stays {
            slot.owner = None;
        }
        if let Some(session) = session.filter(|_| delivering) {
            self.sessions.unhold(session);
        }
        let Terms { ttl, released_ttl, .. } = self.slots[at].terms;
        match claim::settle(claim, Settlement::Release { sent }, ttl, released_ttl).zip(session) {
            // While the store is away nothing can be released; when it returns, a new session takes over.
            Some((op, session)) if !self.breaker.is_open() => {
                self.slots[at].state = State::Releasing { session, op: op.clone(), tries: 0 };
                self.ops.push((Token::Release(at), op));
            }
            _ => self.slots[at].state = State::Idle,
        }
        self.tell_waiters(at);
        self.after_idle(at, now);
    }

    /// Gives up a granted event that was not delivered: to whoever waits for it here, else back to the store.
    pub fn give_back(&mut self, claim: Claim, now: Time) {
        let Some(at) = self.slot_of(&claim) else { return };
        self.slots[at].owner = None;
        self.grant(at, claim, now);
    }

    /// The outcome of this claim's event is known and can't be settled now: whoever waits for it has to know. That may last
    /// longer than a claim does, so its TTL starts again.
    pub fn stall(&mut self, claim: &Claim) {
        let Some(at) = self.slot_of(claim) else { return };
        self.slots[at].state = State::Granted { delivering: false };
        self.tell_waiters(at);
        // Whenever it arrives, also late or twice, it can only lengthen the life of this very claim.
        if let Some(op) = claim::keep(claim, self.slots[at].terms.claim_ttl).filter(|_| !self.breaker.is_open()) {
            self.ops.push((Token::Keep(claim.key().clone()), op));
        }
    }

    /// Requests that really reached the app, or may have, for the event of this claim.
    #[must_use]
    pub fn requests(&self, claim: &Claim) -> u32 {
        self.slot_of(claim).map_or(0, |at| self.slots[at].requests)
    }

    /// The next verdict, if there is one.
    pub fn next_verdict(&mut self) -> Option<Verdict> {
        self.verdicts.pop_front()
    }

    /// The store operations that are to be sent, in one round trip.
    pub fn take_ops(&mut self) -> Vec<(Token, Op)> {
        std::mem::take(&mut self.ops)
    }

    /// Those of them that keep sessions alive, which must not wait for round trips under way.
    pub fn take_session_ops(&mut self) -> Vec<(Token, Op)> {
        self.ops.extract_if(.., |(token, _)| matches!(token, Token::Session(_))).collect()
    }

    /// The sessions that a successor has to end, where that has changed: to be written down before the operations are sent.
    pub fn take_save(&mut self) -> Option<Vec<SessionId>> {
        self.save.take()
    }

    /// Does what is due at this moment: timers, sessions, the write-back.
    pub fn poll(&mut self, now: Time) {
        self.poll_sessions(now);
        // A session that seemed to have run out is current again when its late renewal is confirmed: no new one is opened then, for
        // which they would wait.
        if !self.parked.is_empty() && self.sessions.current(now).is_some() {
            self.restart_parked(now);
        }
        while let Some(Reverse((_, serial, at))) = self.timers.peek().filter(|Reverse((due, ..))| *due <= now).copied()
        {
            self.timers.pop();
            if self.slots.get(at).is_some_and(|slot| slot.timer == Some(serial)) {
                self.slots[at].timer = None;
                self.fire(at, now);
            }
        }
        self.poll_write_back(now);
    }

    /// When [`Gate::poll`] has something to do next, if that is known.
    #[must_use]
    pub fn next_due(&self) -> Option<Time> {
        let timer = self.timers.peek().map(|Reverse((due, ..))| *due);
        let write_back =
            (!self.write_back.is_empty() && !self.breaker.is_open() && self.writing == 0).then_some(self.write_at);
        [timer, self.sessions.next_due(), write_back].into_iter().flatten().min()
    }

    /// Ends all sessions, once nothing is under way any more.
    pub fn close(&mut self) {
        self.sessions.close();
    }

    /// Another server may have taken the store's place, without the last writes: with a claim of ours, then, where we had written that
    /// the event is done. Nobody here would ever look at it again, and everybody elsewhere would wait for our session to end: so it does.
    pub fn store_changed(&mut self) {
        self.counts.sessions_lost += u64::from(self.sessions.is_open());
        self.sessions.rotate();
    }

    /// Every session is ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.sessions.is_closed()
    }

    /// No key is reserved: nothing is claimed, delivered or settled.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.slots.is_empty() && self.write_back.is_empty()
    }
}

#[cfg(test)]
mod tests;
