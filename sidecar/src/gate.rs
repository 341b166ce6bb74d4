//! Decides which events may be delivered: reserves keys, claims them in the store, and settles them. Pure: it asks for store
//! operations and takes their answers; [`crate::pipeline`] decides the order of deliveries.
//!
//! Every key that anybody in this sidecar wants has a [slot](slot::Slot): one owner, and waiters behind. A slot has at most
//! one store operation on its way, and is dropped only when it has none.
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
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crds::config::FailurePolicy;
use crds::status::Protection;
use slab::Slab;
use uuid::Uuid;

use crate::claim::{self, Claim, Key, SessionId, Settlement};
use crate::clock::Time;
use crate::event_id::Fingerprint;
use crate::session::{Demand, Sessions};
use crate::store::Op;

pub mod breaker;
pub mod memory;
mod replies;
pub mod slot;

use breaker::Breaker;
use memory::{RecentIds, Unwritten, WriteBack};
use slot::{Asker, Slot, State};

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
}

impl Terms {
    /// Terms for an event that is remembered so long. A claim lives at least an hour.
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, claim_ttl: ttl.max(Duration::from_secs(3_600)) }
    }
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
    /// The sessions' own business.
    Session(Demand),
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
    save: Option<Vec<SessionId>>,
    verdicts: VecDeque<Verdict>,
    /// The store has lost data; until one TTL has passed, duplicates may come through.
    data_lost: Option<(Time, Time)>,
    /// The last keys that could not be used, for the condition.
    unusable: Option<Unusable>,
    counts: GateCounts,
    /// A word on the last store error, for the condition.
    last_error: Option<String>,
    away_since: Option<Time>,
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
            save: None,
            verdicts: VecDeque::new(),
            data_lost: None,
            unusable: None,
            counts: GateCounts::default(),
            last_error: None,
            away_since: None,
        }
    }

    /// A source of ids that were never used.
    pub fn random_ids() -> impl FnMut() -> SessionId + Send + 'static {
        || SessionId::new(Uuid::new_v4())
    }

    /// Asks for an event. The answer is a [`Verdict`]; until then [`Gate::stance`] tells how it stands.
    pub fn request(&mut self, ticket: Ticket, key: &Key, fingerprint: Option<Fingerprint>, terms: Terms, now: Time) {
        let asker = Asker { ticket, fingerprint };
        if let Some(&at) = self.by_key.get(&key.digest()) {
            if let State::Completing { fingerprint: done, .. } = self.slots[at].state {
                return self.tell_duplicate(asker, done);
            }
            self.slots[at].waiters.push_back(asker);
            self.promote_if_free(at, now);
            return;
        }
        let at = self.slots.insert(Slot::new(key.clone(), asker, terms));
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
                self.release(claim, false, Some(now), now);
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
        let Terms { ttl, claim_ttl } = self.slots[at].terms;
        let op = claim::settle(claim, Settlement::Done(fingerprint), ttl, claim_ttl);
        let Some(Op::Set { value, .. }) = op else { return };
        self.slots[at].state = State::Completing { value, fingerprint, session, since: now, tries: 0 };
        for waiter in std::mem::take(&mut self.slots[at].waiters) {
            self.tell_duplicate(waiter, fingerprint);
        }
        self.write_done(at, now);
    }

    /// The event is to come again: `sent` tells whether a request may have left under this claim. With `again` whoever asked
    /// keeps asking and is served again from then on; without, it is withdrawn.
    pub fn release(&mut self, claim: Claim, sent: bool, again: Option<Time>, now: Time) {
        let Some(at) = self.slot_of(&claim) else { return };
        let (session, attempt) = (claim.session(), claim.attempt());
        let slot = &mut self.slots[at];
        let delivering = matches!(slot.state, State::Granted { delivering: true });
        if sent {
            slot.floor = slot.floor.max(attempt);
            slot.requests = slot.requests.saturating_add(1);
        }
        match again {
            Some(not_before) => slot.not_before = not_before,
            None => slot.owner = None,
        }
        if let Some(session) = session.filter(|_| delivering) {
            self.sessions.unhold(session);
        }
        let Terms { ttl, claim_ttl } = self.slots[at].terms;
        match claim::settle(claim, Settlement::Release { sent }, ttl, claim_ttl).zip(session) {
            // While the store is away nothing can be released; when it returns, a new session takes over.
            Some((op, session)) if !self.breaker.is_open() => {
                self.slots[at].state = State::Releasing { session };
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

    /// The outcome of this claim's event is known and can't be settled now: whoever waits for it has to know.
    pub fn stall(&mut self, claim: &Claim) {
        if let Some(at) = self.slot_of(claim) {
            self.slots[at].state = State::Granted { delivering: false };
            self.tell_waiters(at);
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

    /// The sessions that a successor has to end, where that has changed: to be written down before the operations are sent.
    pub fn take_save(&mut self) -> Option<Vec<SessionId>> {
        self.save.take()
    }

    /// Does what is due at this moment: timers, sessions, the write-back.
    pub fn poll(&mut self, now: Time) {
        self.poll_sessions(now);
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

    /// What could be promised for a delivery that starts now; `covers` if this sidecar has every partition of its topics.
    #[must_use]
    pub fn protection(&self, covers: bool, now: Time) -> Protection {
        let gated = match self.sessions.current(now) {
            Some(_) if self.breaker.is_open() => Gated::Memory,
            Some(_) if self.is_degraded(now) => Gated::Degraded,
            Some(_) => Gated::Store,
            None => Gated::Memory,
        };
        protection(gated, covers)
    }

    /// The session under which claims are made now.
    #[must_use]
    pub fn session(&self, now: Time) -> Option<SessionId> {
        self.sessions.current(now)
    }

    /// The store counts as away, since then.
    #[must_use]
    pub const fn away_since(&self) -> Option<Time> {
        self.away_since
    }

    /// The store has lost data, at that time; `None` once a TTL has passed.
    #[must_use]
    pub fn data_lost(&self, now: Time) -> Option<Time> {
        self.data_lost.filter(|(_, until)| now < *until).map(|(since, _)| since)
    }

    /// The last key that could not be used, if that was seen lately.
    #[must_use]
    pub fn unusable(&self, now: Time) -> Option<&Unusable> {
        self.unusable.as_ref().filter(|unusable| now.since(unusable.seen) < UNUSABLE_FOR)
    }

    /// What happens while the store is away.
    #[must_use]
    pub const fn policy(&self) -> FailurePolicy {
        self.config.policy
    }

    /// The last store error in words.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// What was counted.
    #[must_use]
    pub const fn counts(&self) -> &GateCounts {
        &self.counts
    }

    /// Ids that wait to be written back, and how many gave way to newer ones.
    #[must_use]
    pub fn write_back(&self) -> (usize, u64) {
        (self.write_back.len(), self.write_back.overflow())
    }

    /// Events that wait for another session's claim.
    #[must_use]
    pub fn held(&self) -> usize {
        self.slots.iter().filter(|(_, slot)| matches!(slot.state, State::Held)).count()
    }

    /// How many settled ids are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.recent.len()
    }

    fn slot_of(&self, claim: &Claim) -> Option<usize> {
        self.by_key.get(&claim.key().digest()).copied()
    }

    fn is_degraded(&self, now: Time) -> bool {
        self.data_lost(now).is_some()
    }

    fn poll_sessions(&mut self, now: Time) {
        let mut demands = Vec::new();
        self.sessions.poll(now, &mut self.fresh, &mut demands);
        for demand in demands {
            let (prefix, ttl) = (&self.config.session_prefix, self.config.session_ttl);
            let key = |id: &SessionId| -> Arc<str> { format!("{prefix}{id}").into() };
            let value = Bytes::from_static(b"1");
            let op = match &demand {
                Demand::Save(sessions) => {
                    self.save = Some(sessions.clone());
                    continue;
                }
                Demand::Open(id) => Op::SetIfAbsent { key: key(id), value, ttl },
                Demand::Renew(id) => Op::SetIfPresent { key: key(id), value, ttl },
                Demand::End(id) => Op::Delete { key: key(id) },
            };
            self.ops.push((Token::Session(demand), op));
        }
    }

    fn poll_write_back(&mut self, now: Time) {
        if self.breaker.is_open() || self.writing > 0 || now < self.write_at || self.write_back.is_empty() {
            return;
        }
        for unwritten in self.write_back.take(1_000, now) {
            self.writing += 1;
            let ttl = unwritten.ttl.saturating_sub(now.since(unwritten.since)).max(Duration::from_secs(1));
            let op = Op::Set { key: unwritten.key.text().clone(), value: unwritten.value.clone(), ttl };
            self.ops.push((Token::WriteBack(Box::new(unwritten)), op));
        }
    }

    /// Claims the event for the slot's owner, as things stand.
    fn start_claim(&mut self, at: usize, now: Time) {
        let slot = &self.slots[at];
        if slot.not_before > now {
            let due = slot.not_before;
            self.slots[at].state = State::Idle;
            return self.set_timer(at, due);
        }
        let degraded = self.breaker.is_open() || self.is_degraded(now);
        let remembered = || if degraded { self.recent.get(&slot.key, now) } else { None };
        if let Some(done) = self.write_back.get(&slot.key).or_else(remembered) {
            return self.resolve_done(at, done);
        }
        let attempt = slot.floor.saturating_add(1);
        if self.breaker.is_open() && self.config.policy == FailurePolicy::Open {
            let claim = Claim::unguarded(slot.key.clone(), attempt, now);
            return self.grant(at, claim, now);
        }
        let session = if self.breaker.is_open() { None } else { self.sessions.current(now) };
        let Some(session) = session else { return self.park(at) };
        let op = Op::SetIfAbsent {
            key: slot.key.text().clone(),
            value: claim::claim_value(session, attempt),
            ttl: slot.terms.claim_ttl,
        };
        self.slots[at].state = State::Claiming(slot::Asked { session, attempt, sent_at: now });
        self.ops.push((Token::Claim(at), op));
    }

    fn park(&mut self, at: usize) {
        if !matches!(self.slots[at].state, State::Parked) || !self.parked.contains(&at) {
            self.parked.push(at);
        }
        self.slots[at].state = State::Parked;
        self.reconsider(at);
    }

    fn restart_parked(&mut self, now: Time) {
        for at in std::mem::take(&mut self.parked) {
            if self.slots.get(at).is_some_and(|slot| matches!(slot.state, State::Parked)) {
                self.start_claim(at, now);
            }
        }
    }

    /// Hands a claim to the owner, or to the first waiter, or back to the store if nobody wants it any more.
    fn grant(&mut self, at: usize, claim: Claim, now: Time) {
        let slot = &mut self.slots[at];
        slot.polls = 0;
        slot.state = State::Granted { delivering: false };
        if slot.owner.is_none() {
            slot.owner = slot.waiters.pop_front();
        }
        match slot.owner {
            Some(owner) => {
                self.verdicts.push_back(Verdict::Granted(owner.ticket, claim));
                self.tell_waiters(at);
            }
            None => {
                self.counts.claims_released += 1;
                self.release(claim, false, None, now);
            }
        }
    }

    /// The event is done: everybody who asked skips it.
    fn resolve_done(&mut self, at: usize, done: Option<Fingerprint>) {
        let slot = self.remove(at);
        for asker in slot.owner.into_iter().chain(slot.waiters) {
            self.tell_duplicate(asker, done);
        }
    }

    fn tell_duplicate(&mut self, asker: Asker, done: Option<Fingerprint>) {
        self.counts.claims_duplicate += 1;
        let suspect = claim::suspect(done, asker.fingerprint);
        self.verdicts.push_back(Verdict::Duplicate { ticket: asker.ticket, suspect });
    }

    fn remove(&mut self, at: usize) -> Slot {
        let slot = self.slots.remove(at);
        self.by_key.remove(&slot.key.digest());
        slot
    }

    /// Serves the next waiter of a slot without an owner, or drops the slot, if nothing is under way for it.
    fn promote_if_free(&mut self, at: usize, now: Time) {
        let slot = &mut self.slots[at];
        if slot.owner.is_some() || slot.busy() {
            return;
        }
        match slot.waiters.pop_front() {
            Some(next) => {
                slot.owner = Some(next);
                slot.timer = None;
                self.start_claim(at, now);
            }
            None => {
                self.remove(at);
            }
        }
    }

    /// What follows when nothing is under way for a slot that waits.
    fn after_idle(&mut self, at: usize, now: Time) {
        if !matches!(self.slots[at].state, State::Idle) {
            return self.reconsider(at);
        }
        if self.slots[at].owner.is_some() {
            self.start_claim(at, now);
            if self.slots.get(at).is_some_and(|slot| matches!(slot.state, State::Idle)) {
                self.reconsider(at);
            }
        } else {
            self.promote_if_free(at, now);
        }
    }

    /// Writes that the event is done, or queues that for when the store returns.
    fn write_done(&mut self, at: usize, now: Time) {
        let slot = &mut self.slots[at];
        let State::Completing { value, fingerprint, since, .. } = &slot.state else { return };
        let (key, ttl) = (slot.key.clone(), slot.terms.ttl);
        if self.breaker.is_open() && self.config.policy == FailurePolicy::Open {
            let unwritten = Unwritten { key, value: value.clone(), fingerprint: *fingerprint, ttl, since: *since };
            self.write_back.push(unwritten);
            return self.finish_done(at, now);
        }
        let op = Op::Set { key: key.text().clone(), value: value.clone(), ttl };
        slot.timer = None;
        self.ops.push((Token::Complete(at), op));
    }

    /// The event is done, and that is known to the store or sure to be.
    fn finish_done(&mut self, at: usize, now: Time) {
        let slot = self.remove(at);
        let State::Completing { fingerprint, session, .. } = slot.state else { return };
        if let Some(session) = session {
            self.sessions.unhold(session);
        }
        self.recent.insert(&slot.key, fingerprint, now + slot.terms.ttl);
        if let Some(owner) = slot.owner {
            self.verdicts.push_back(Verdict::Settled(owner.ticket));
        }
    }

    fn tell_waiters(&mut self, at: usize) {
        for waiter in &self.slots[at].waiters {
            self.verdicts.push_back(Verdict::Reconsider(waiter.ticket));
        }
    }

    fn reconsider(&mut self, at: usize) {
        if let Some(owner) = self.slots[at].owner {
            self.verdicts.push_back(Verdict::Reconsider(owner.ticket));
        }
        self.tell_waiters(at);
    }

    fn set_timer(&mut self, at: usize, due: Time) {
        self.timer_serial += 1;
        self.slots[at].timer = Some(self.timer_serial);
        self.timers.push(Reverse((due, self.timer_serial, at)));
    }

    fn fire(&mut self, at: usize, now: Time) {
        match self.slots[at].state {
            State::Completing { .. } => self.write_done(at, now),
            State::Idle | State::Held | State::Foreign if self.slots[at].owner.is_some() => self.start_claim(at, now),
            _ => {}
        }
    }
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

#[cfg(test)]
mod tests;
