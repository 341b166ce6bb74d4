//! Decides how a key moves in a sidecar: the steps of `sidecar::gate`, without time and over the model's world. What a stored value
//! means, and what a settlement writes, is asked of the sidecar's own functions. Pure.

use sidecar::claim::{Owner, Settlement};

use crate::config::{Clause, Config};
use crate::decide::{self, Next};
use crate::world::{
    Answer, EVENTS, FREE, Hold, NOBODY, PARTITIONS, SLOTS, Sidecar, State, UNGUARDED, Value, Wire, World, Write,
    place_of, record_at, session_of, sidecar_of,
};

/// A world that is being moved.
pub(crate) struct Turn<'a> {
    pub(crate) config: &'a Config,
    pub(crate) world: &'a mut World,
}

impl Turn<'_> {
    pub(crate) fn sidecar(&mut self, s: usize) -> &mut Sidecar {
        &mut self.world.sidecars[s]
    }

    pub(crate) const fn state(&self, s: usize, k: usize) -> State {
        self.world.sidecars[s].slots[k].state
    }

    pub(crate) fn set(&mut self, s: usize, k: usize, state: State) {
        self.world.sidecars[s].slots[k].state = state;
    }

    /// The session of that sidecar, whether or not it still lives.
    pub(crate) const fn session(&self, s: usize) -> Option<u8> {
        match self.world.sidecars[s].session {
            0 => None,
            life => Some(session_of(s, life)),
        }
    }

    /// The session under which a claim can be made, or a delivery started, now.
    pub(crate) fn current(&self, s: usize) -> Option<u8> {
        self.session(s).filter(|_| self.world.sidecars[s].fresh)
    }

    pub(crate) fn event_of(&self, record: u8) -> usize {
        let (partition, offset) = place_of(record);
        usize::from(self.config.records[partition][offset])
    }

    /// The slot that a record asks for. Without *reserve* each partition has its own.
    pub(crate) fn slot_of(&self, record: u8) -> usize {
        let apart = if self.config.lacks(Clause::Reserve) { place_of(record).0 } else { 0 };
        self.event_of(record) + EVENTS * apart
    }

    pub(crate) fn request(&mut self, s: usize, record: u8) {
        let k = self.slot_of(record);
        let (partition, offset) = place_of(record);
        if matches!(self.state(s, k), State::Completing(..)) {
            self.sidecar(s).settled[partition] |= 1 << offset;
            return;
        }
        self.sidecar(s).wanted[partition] |= 1 << offset;
        if self.state(s, k) == State::Free {
            self.world.sidecars[s].slots[k].owner = record;
            self.start_claim(s, k);
        } else {
            self.promote_if_free(s, k);
        }
    }

    /// Gives up what a record has asked for, or has.
    pub(crate) fn withdraw(&mut self, s: usize, record: u8, keeps: bool) {
        let k = self.slot_of(record);
        let (partition, offset) = place_of(record);
        self.sidecar(s).wanted[partition] &= !(1 << offset);
        if self.world.sidecars[s].slots[k].owner != record {
            return;
        }
        self.world.sidecars[s].slots[k].owner = NOBODY;
        match self.state(s, k) {
            State::Granted(_) if keeps => {}
            State::Granted(hold) => self.grant(s, k, hold),
            _ => {
                if self.config.lacks(Clause::GivenBackOnArrival) && self.abandon(s, k) {
                    self.world.sidecars[s].slots[k] = FREE;
                }
                self.promote_if_free(s, k);
            }
        }
    }

    pub(crate) fn start_claim(&mut self, s: usize, k: usize) {
        let slot = self.world.sidecars[s].slots[k];
        if self.world.sidecars[s].unwritten & 1 << (k % EVENTS) != 0 {
            return self.resolve_done(s, k);
        }
        let attempt = slot.floor + 1;
        self.world.sidecars[s].slots[k].aged = false;
        if self.world.sidecars[s].away {
            return self.grant(s, k, Hold { session: UNGUARDED, attempt });
        }
        match self.current(s) {
            Some(session) => self.set(s, k, State::Claiming(Hold { session, attempt }, Wire::Out)),
            None => self.set(s, k, State::Parked),
        }
    }

    pub(crate) fn grant(&mut self, s: usize, k: usize, hold: Hold) {
        if self.world.sidecars[s].slots[k].owner == NOBODY {
            self.world.sidecars[s].slots[k].owner = self.first_waiter(s, k);
        }
        self.set(s, k, State::Granted(hold));
        if self.world.sidecars[s].slots[k].owner == NOBODY {
            self.release(s, k, hold, false, false);
        }
    }

    /// The event is done: everybody who asked skips it.
    pub(crate) fn resolve_done(&mut self, s: usize, k: usize) {
        self.world.sidecars[s].slots[k] = FREE;
        self.settle_wanted(s, k, NOBODY);
    }

    /// Settles every record that wants this key, but for one.
    fn settle_wanted(&mut self, s: usize, k: usize, but: u8) {
        for record in self.wanting(s, k).filter(|record| *record != but) {
            let (partition, offset) = place_of(record);
            self.sidecar(s).settled[partition] |= 1 << offset;
        }
    }

    pub(crate) fn release(&mut self, s: usize, k: usize, hold: Hold, sent: bool, stays: bool) {
        let slot = &mut self.world.sidecars[s].slots[k];
        if sent {
            slot.floor = slot.floor.max(hold.attempt);
        }
        if !stays {
            slot.owner = NOBODY;
        }
        if hold.session == UNGUARDED || self.world.sidecars[s].away {
            self.set(s, k, State::Idle);
            return self.after_release(s, k, sent);
        }
        self.set(s, k, State::Releasing(hold, sent, Wire::Out));
        if self.config.lacks(Clause::ReleaseConfirmed) {
            self.abandon(s, k);
            self.after_release(s, k, false);
        }
    }

    /// A failed delivery backs off; what was not sent is claimed again at once.
    fn after_release(&mut self, s: usize, k: usize, sent: bool) {
        self.set(s, k, State::Idle);
        if self.world.sidecars[s].slots[k].owner == NOBODY {
            self.promote_if_free(s, k);
        } else if !sent {
            self.start_claim(s, k);
        }
    }

    /// The event is done: whoever waits for it here is told at once, the record that was delivered after the store's reply.
    pub(crate) fn complete(&mut self, s: usize, k: usize, hold: Hold) {
        let owner = self.world.sidecars[s].slots[k].owner;
        self.set(s, k, State::Completing(hold, Wire::Out));
        self.settle_wanted(s, k, owner);
        if self.config.lacks(Clause::OnePhase) {
            return self.finish_done(s, k);
        }
        if self.world.sidecars[s].away {
            return self.queue_done(s, k);
        }
        if self.config.lacks(Clause::DoneBeforeCommit) {
            self.pass_owner(s, k);
        }
    }

    /// The store is away: what is done waits to be written back, and counts as done here.
    pub(crate) fn queue_done(&mut self, s: usize, k: usize) {
        self.sidecar(s).unwritten |= 1 << (k % EVENTS);
        self.excuse(k % EVENTS, 3);
        self.finish_done(s, k);
    }

    fn pass_owner(&mut self, s: usize, k: usize) {
        let owner = self.world.sidecars[s].slots[k].owner;
        if owner != NOBODY {
            let (partition, offset) = place_of(owner);
            self.sidecar(s).settled[partition] |= 1 << offset;
        }
    }

    fn finish_done(&mut self, s: usize, k: usize) {
        self.pass_owner(s, k);
        self.world.sidecars[s].slots[k] = FREE;
    }

    /// Nothing is on its way for the slot any more: its owner claims again, or the next one does, or nobody.
    pub(crate) fn claim_anew(&mut self, s: usize, k: usize) {
        self.after_release(s, k, false);
    }

    fn promote_if_free(&mut self, s: usize, k: usize) {
        let slot = self.world.sidecars[s].slots[k];
        if slot.owner != NOBODY || !matches!(slot.state, State::Idle | State::Parked | State::Held | State::Free) {
            return;
        }
        let next = self.first_waiter(s, k);
        if next == NOBODY {
            self.world.sidecars[s].slots[k] = FREE;
            return;
        }
        self.world.sidecars[s].slots[k].owner = next;
        self.start_claim(s, k);
    }

    /// The records in this sidecar that want a key.
    pub(crate) fn wanting(&self, s: usize, k: usize) -> impl Iterator<Item = u8> + use<> {
        let sidecar = self.world.sidecars[s];
        let config = *self.config;
        let apart = config.lacks(Clause::Reserve);
        (0..PARTITIONS).filter(move |p| sidecar.holds & 1 << p != 0).flat_map(move |p| {
            (0..config.records[p].len())
                .filter(move |offset| {
                    let open = sidecar.wanted[p] & !sidecar.settled[p] & 1 << offset != 0;
                    open && usize::from(config.records[p][*offset]) + if apart { EVENTS * p } else { 0 } == k
                })
                .map(move |offset| record_at(p, offset))
        })
    }

    fn first_waiter(&self, s: usize, k: usize) -> u8 {
        self.wanting(s, k).next().unwrap_or(NOBODY)
    }

    /// The store's answer is here.
    pub(crate) fn replied(&mut self, s: usize, k: usize) {
        match self.state(s, k) {
            State::Claiming(asked, Wire::Back(answer)) => {
                let done = answer == Answer::Present(Value::Done);
                if self.is_void(s, asked) && !done {
                    return self.claim_anew(s, k);
                }
                self.follow(s, k, asked, answer, None);
            }
            State::Asking(asked, holder, Wire::Back(answer)) => {
                if self.is_void(s, asked) {
                    return self.claim_anew(s, k);
                }
                let owner = if answer == Answer::Applied { Owner::Alive } else { Owner::Dead };
                self.follow(s, k, asked, Answer::Present(Value::Claimed(holder)), Some(owner));
            }
            State::TakingOver(asked, _, Wire::Back(Answer::Applied)) if !self.is_void(s, asked) => {
                self.grant(s, k, asked);
            }
            State::TakingOver(..) => self.claim_anew(s, k),
            State::Completing(..) => self.finish_done(s, k),
            State::Releasing(_, sent, _) => self.after_release(s, k, sent),
            _ => {}
        }
    }

    fn follow(&mut self, s: usize, k: usize, asked: Hold, answer: Answer, asked_owner: Option<Owner>) {
        let owner_of = |session: u8| match asked_owner {
            Some(Owner::Alive) if self.config.lacks(Clause::LivingIsHeld) => Owner::Dead,
            Some(owner) => owner,
            None if sidecar_of(session) == s => Owner::Mine,
            None => Owner::Unknown,
        };
        let next = decide::decide(k % EVENTS, asked, answer, owner_of);
        match next {
            Next::Deliver(hold) => self.grant(s, k, hold),
            Next::Duplicate => self.resolve_done(s, k),
            Next::Held if self.config.lacks(Clause::SkipsInProgress) => self.resolve_done(s, k),
            Next::Held => {
                self.set(s, k, State::Held);
                self.promote_if_free(s, k);
            }
            Next::Ask(holder) => self.set(s, k, State::Asking(asked, holder, Wire::Out)),
            Next::TakeOver(attempt) => {
                let Answer::Present(seen) = answer else { return };
                self.set(s, k, State::TakingOver(Hold { attempt, ..asked }, seen, Wire::Out));
            }
        }
    }

    /// A claim is void when its session was replaced while it was on its way.
    fn is_void(&self, s: usize, asked: Hold) -> bool {
        self.session(s) != Some(asked.session)
    }

    /// The write that a slot has on its way to the store; none for a question.
    pub(crate) fn write_of(&self, s: usize, k: usize) -> Option<Write> {
        let event = k % EVENTS;
        match self.state(s, k) {
            State::Claiming(..) if self.config.lacks(Clause::OnePhase) => Some(Write::IfAbsent(Value::Done)),
            State::Claiming(hold, Wire::Out) => Some(Write::IfAbsent(Value::Claimed(hold))),
            State::TakingOver(hold, _, Wire::Out) if self.config.lacks(Clause::TakeOverCompares) => {
                Some(Write::Always(Value::Claimed(hold)))
            }
            State::TakingOver(hold, seen, Wire::Out) => Some(Write::Swap(seen, Value::Claimed(hold))),
            State::Completing(hold, Wire::Out) if hold.session == UNGUARDED => Some(Write::Always(Value::Done)),
            State::Completing(hold, Wire::Out) if self.config.lacks(Clause::DoneUnconditional) => {
                Some(Write::Swap(Value::Claimed(hold), Value::Done))
            }
            State::Completing(hold, Wire::Out) => decide::settle(event, hold, Settlement::Done(None)),
            State::Releasing(..) if self.deletes_blindly() => Some(Write::Always(Value::Absent)),
            State::Releasing(hold, _, Wire::Out) if self.config.lacks(Clause::ReleaseRemembers) => {
                Some(Write::Swap(Value::Claimed(hold), Value::Absent))
            }
            State::Releasing(hold, sent, Wire::Out) => decide::settle(event, hold, Settlement::Release { sent }),
            _ => None,
        }
    }

    fn deletes_blindly(&self) -> bool {
        self.config.lacks(Clause::OnePhase) || self.config.lacks(Clause::DeletesWithoutCompare)
    }

    /// Nobody waits for what the slot has on its way: it arrives at some time, or never. True if it was a claim or a release.
    pub(crate) fn abandon(&mut self, s: usize, k: usize) -> bool {
        let wire = match self.state(s, k) {
            State::Claiming(_, wire) | State::TakingOver(_, _, wire) | State::Releasing(_, _, wire) => wire,
            State::Completing(_, wire) => wire,
            _ => return false,
        };
        if wire == Wire::Out
            && let Some(write) = self.write_of(s, k)
            && let Some(free) = self.world.late.iter_mut().find(|late| late.is_none())
        {
            *free = Some(((k % EVENTS) as u8, write));
            // Which is which does not matter.
            self.world.late.sort_unstable();
        }
        true
    }
}

/// Every slot of a sidecar.
pub(crate) fn slots() -> std::ops::Range<usize> {
    0..SLOTS
}
