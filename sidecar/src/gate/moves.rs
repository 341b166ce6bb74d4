//! Decides how a slot moves from one state to the next: claimed, granted, handed on, done, dropped. Pure.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crds::config::FailurePolicy;

use super::memory::Unwritten;
use super::slot::{self, Asker, Slot, State};
use super::{Gate, Token, Verdict};
use crate::claim::{self, Claim, SessionId};
use crate::clock::Time;
use crate::event_id::Fingerprint;
use crate::session::{Demand, MARK_TTL};
use crate::store::Op;

/// Stands behind the session prefix where a session's id would, so that who may use sessions may use it too.
const MARK: &str = "mark";

impl Gate {
    pub(super) fn slot_of(&self, claim: &Claim) -> Option<usize> {
        self.by_key.get(&claim.key().digest()).copied()
    }

    pub(super) fn is_degraded(&self, now: Time) -> bool {
        self.data_lost(now).is_some()
    }

    pub(super) fn poll_sessions(&mut self, now: Time) {
        let mut demands = Vec::new();
        self.sessions.poll(now, &mut self.fresh, &mut demands);
        for demand in demands {
            let (prefix, ttl) = (&self.config.session_prefix, self.config.session_ttl);
            let key = |id: &SessionId| -> Arc<str> { format!("{prefix}{id}").into() };
            let mark = || -> Arc<str> { format!("{prefix}{MARK}").into() };
            let value = Bytes::from_static(b"1");
            let op = match &demand {
                Demand::Save(sessions) => {
                    self.save = Some(sessions.clone());
                    continue;
                }
                Demand::Prove(id) => {
                    let proofs = self.proofs(*id);
                    self.ops.extend(proofs.map(|op| (Token::Session(demand.clone()), op)));
                    continue;
                }
                Demand::Open(id) => Op::SetIfAbsent { key: key(id), value, ttl },
                Demand::Renew(id) => Op::SetIfPresent { key: key(id), value, ttl },
                Demand::End(id) => Op::Delete { key: key(id) },
                Demand::Mark(id) => Op::SetIfAbsent { key: mark(), value: id.to_string().into(), ttl: MARK_TTL },
                Demand::KeepMark(id) => {
                    let value = Bytes::from(id.to_string());
                    Op::CompareAndSet { key: mark(), expect: value.clone(), value, ttl: MARK_TTL }
                }
            };
            self.ops.push((Token::Session(demand), op));
        }
    }

    /// Everything that a session needs and a server may refuse by itself, in a form that changes nothing. The script is
    /// tried on the key that failed last, so that the node which serves it has to answer.
    fn proofs(&self, id: SessionId) -> [Op; 3] {
        let session: Arc<str> = format!("{}{id}", self.config.session_prefix).into();
        let key = self.suspect.as_ref().map_or(&session, |suspect| &suspect.key).clone();
        // Nothing ever holds this value, and nothing ever has this key.
        let expect = format!("never:{id}").into();
        let nothing = format!("{session}:never").into();
        [Op::CompareAndDelete { key, expect }, Op::Exists { key: session }, Op::Delete { key: nothing }]
    }

    pub(super) fn poll_write_back(&mut self, now: Time) {
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
    pub(super) fn start_claim(&mut self, at: usize, now: Time) {
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
        let (key, ttl) = (slot.key.text().clone(), slot.terms.claim_ttl);
        let op = Op::SetIfAbsent { key, value: self.claim_value(session, attempt), ttl };
        self.slots[at].state = State::Claiming(slot::Asked { session, attempt, sent_at: now });
        self.ops.push((Token::Claim(at), op));
    }

    fn claim_value(&mut self, session: SessionId, attempt: u32) -> Bytes {
        if attempt != 1 {
            return claim::claim_value(session, attempt);
        }
        match &self.first_claim {
            Some((of, value)) if *of == session => value.clone(),
            _ => self.first_claim.insert((session, claim::claim_value(session, attempt))).1.clone(),
        }
    }

    pub(super) fn park(&mut self, at: usize) {
        if !matches!(self.slots[at].state, State::Parked) || !self.parked.contains(&at) {
            self.parked.push(at);
        }
        self.slots[at].state = State::Parked;
        self.reconsider(at);
    }

    pub(super) fn restart_parked(&mut self, now: Time) {
        for at in std::mem::take(&mut self.parked) {
            if self.slots.get(at).is_some_and(|slot| matches!(slot.state, State::Parked)) {
                self.start_claim(at, now);
            }
        }
    }

    /// Hands a claim to the owner, or to the first waiter, or back to the store if nobody wants it any more.
    pub(super) fn grant(&mut self, at: usize, claim: Claim, now: Time) {
        let slot = &mut self.slots[at];
        slot.polls = 0;
        slot.held = None;
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
                self.release(claim, false, now, false, now);
            }
        }
    }

    /// The event is done: everybody who asked skips it.
    pub(super) fn resolve_done(&mut self, at: usize, done: Option<Fingerprint>) {
        let slot = self.remove(at);
        for asker in slot.owner.into_iter().chain(slot.waiters) {
            self.tell_duplicate(asker, done);
        }
    }

    pub(super) fn tell_duplicate(&mut self, asker: Asker, done: Option<Fingerprint>) {
        self.counts.claims_duplicate += 1;
        let suspect = claim::suspect(done, asker.fingerprint);
        self.verdicts.push_back(Verdict::Duplicate { ticket: asker.ticket, suspect });
    }

    pub(super) fn remove(&mut self, at: usize) -> Slot {
        let slot = self.slots.remove(at);
        self.by_key.remove(&slot.key.digest());
        slot
    }

    /// Serves the next waiter of a slot without an owner, or drops the slot, if nothing is under way for it.
    pub(super) fn promote_if_free(&mut self, at: usize, now: Time) {
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
    pub(super) fn after_idle(&mut self, at: usize, now: Time) {
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
    pub(super) fn write_done(&mut self, at: usize, now: Time) {
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
    pub(super) fn finish_done(&mut self, at: usize, now: Time) {
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

    pub(super) fn tell_waiters(&mut self, at: usize) {
        for waiter in &self.slots[at].waiters {
            self.verdicts.push_back(Verdict::Reconsider(waiter.ticket));
        }
    }

    pub(super) fn reconsider(&mut self, at: usize) {
        if let Some(owner) = self.slots[at].owner {
            self.verdicts.push_back(Verdict::Reconsider(owner.ticket));
        }
        self.tell_waiters(at);
    }

    pub(super) fn set_timer(&mut self, at: usize, due: Time) {
        self.timer_serial += 1;
        self.slots[at].timer = Some(self.timer_serial);
        self.timers.push(Reverse((due, self.timer_serial, at)));
    }

    pub(super) fn fire(&mut self, at: usize, now: Time) {
        match self.slots[at].state {
            State::Completing { .. } => self.write_done(at, now),
            State::Releasing { session, ref op, .. } => {
                if self.sessions.is_current(session) && !self.breaker.is_open() {
                    self.ops.push((Token::Release(at), op.clone()));
                } else {
                    self.claim_anew(at, now);
                }
            }
            State::Idle | State::Held | State::Foreign if self.slots[at].owner.is_some() => self.start_claim(at, now),
            _ => {}
        }
    }
}
