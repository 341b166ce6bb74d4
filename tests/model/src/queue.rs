//! Decides what moves in a sidecar's queues: the steps of `sidecar::pipeline`, without time and over the model's world. Outcomes and
//! watermarks are asked of the sidecar's own functions. Pure.

use sidecar::outcome::Outcome;

use crate::action::Said;
use crate::config::{Clause, Config, Ordering};
use crate::decide;
use crate::gate::{Turn, slots};
use crate::world::{
    Broken, EVENTS, NOBODY, PARTITIONS, RECORDS, STARTED, State, UNGUARDED, World, place_of, record_at, sidecar_of,
};

impl Turn<'_> {
    /// Moves everything in a sidecar that moves at once.
    pub(crate) fn pump(&mut self, s: usize) {
        let sidecar = &self.world.sidecars[s];
        if !sidecar.up || sidecar.stopped {
            return;
        }
        loop {
            let before = self.world.sidecars[s];
            for p in 0..PARTITIONS {
                let sidecar = &self.world.sidecars[s];
                if sidecar.holds & !sidecar.revoking & 1 << p != 0 {
                    for queue in 0..self.config.records[p].len() {
                        self.pump_queue(s, p, queue);
                    }
                }
            }
            if self.world.sidecars[s] == before {
                return;
            }
        }
    }

    fn pump_queue(&mut self, s: usize, p: usize, queue: usize) {
        let open = self.open_records(s, p, queue);
        let Some((&head, behind)) = open.split_first() else { return };
        if !self.is_wanted(s, head) {
            self.request(s, head);
        }
        if self.waits(s, head) && !self.config.lacks(Clause::NothingBehindWaitingHead) {
            for record in behind.iter().rev() {
                if self.is_wanted(s, *record) {
                    self.withdraw(s, *record, false);
                }
            }
            return;
        }
        for record in behind {
            if !self.is_wanted(s, *record) {
                self.request(s, *record);
            }
        }
    }

    /// The records of a queue that are not past the app, in order.
    pub(crate) fn open_records(&self, s: usize, p: usize, queue: usize) -> Few {
        let from = usize::from(self.world.sidecars[s].from[p]);
        let mut open = Few { all: [NOBODY; RECORDS], len: 0 };
        for offset in (from..self.config.records[p].len()).filter(|offset| self.config.queue(*offset) == queue) {
            let record = record_at(p, offset);
            if !self.passed(s, record) {
                open.all[open.len] = record;
                open.len += 1;
            }
        }
        open
    }

    fn passed(&self, s: usize, record: u8) -> bool {
        let (p, offset) = place_of(record);
        let slot = &self.world.sidecars[s].slots[self.slot_of(record)];
        let settled = self.world.sidecars[s].settled[p] & 1 << offset != 0;
        settled || slot.owner == record && matches!(slot.state, State::Copying(..) | State::Completing(..))
    }

    fn is_wanted(&self, s: usize, record: u8) -> bool {
        let (p, offset) = place_of(record);
        self.world.sidecars[s].wanted[p] & 1 << offset != 0
    }

    /// Does this record wait without moving by itself?
    fn waits(&self, s: usize, record: u8) -> bool {
        let slot = &self.world.sidecars[s].slots[self.slot_of(record)];
        let owns = slot.owner == record;
        match slot.state {
            State::Free | State::Claiming(..) | State::Asking(..) | State::TakingOver(..) => false,
            State::Delivering(..) | State::Completing(..) | State::Copying(_, false) => false,
            State::Granted(_) | State::Copying(_, true) => !owns,
            State::Held | State::Idle | State::Releasing(..) | State::Parked => true,
        }
    }

    /// How many events a request from the queue of this record can carry, which must be its head; 0 if none can start.
    pub(crate) fn startable(&self, s: usize, record: u8) -> usize {
        let sidecar = &self.world.sidecars[s];
        let (p, offset) = place_of(record);
        if !sidecar.up || sidecar.stopped || sidecar.holds & !sidecar.revoking & 1 << p == 0 {
            return 0;
        }
        let queue = self.config.queue(offset);
        let open = self.open_records(s, p, queue);
        let delivering = |slot: &crate::world::Slot| match slot.state {
            State::Delivering(_, partition) if usize::from(partition) == p => {
                self.config.batch > 1 || slot.owner != NOBODY && self.config.queue(place_of(slot.owner).1) == queue
            }
            _ => false,
        };
        if open.first() != Some(&record) || sidecar.slots.iter().any(delivering) {
            return 0;
        }
        let run = open.iter().take_while(|record| self.may_start(s, **record)).count();
        run.min(if self.config.ordering == Ordering::Partition { self.config.batch } else { 1 })
    }

    fn may_start(&self, s: usize, record: u8) -> bool {
        let (sidecar, k) = (&self.world.sidecars[s], self.slot_of(record));
        let slot = &sidecar.slots[k];
        let State::Granted(hold) = slot.state else { return false };
        if slot.owner != record {
            return false;
        }
        if slot.aged && !self.config.lacks(Clause::YoungToStart) {
            return false;
        }
        sidecar.away
            || self.current(s) == Some(hold.session)
            || self.config.lacks(Clause::FreshToStart) && hold.session != UNGUARDED
            || self.config.lacks(Clause::OldClaimsVoid) && hold.session != UNGUARDED && self.current(s).is_some()
    }

    pub(crate) fn start(&mut self, s: usize, record: u8, events: usize) {
        let (p, offset) = place_of(record);
        for record in self.open_records(s, p, self.config.queue(offset)).iter().copied().take(events) {
            let k = self.slot_of(record);
            let State::Granted(hold) = self.state(s, k) else { continue };
            self.check_attempt(s, k, hold.attempt);
            if hold.session == UNGUARDED || self.world.sidecars[s].away {
                self.excuse(k % EVENTS, 3);
                self.world.truth[k % EVENTS].forgotten = true;
            }
            self.set(s, k, State::Delivering(hold, p as u8));
        }
    }

    fn check_attempt(&mut self, s: usize, k: usize, attempt: u8) {
        let event = k % EVENTS;
        let truth = self.world.truth[event];
        let elsewhere = self.world.sidecars.iter().enumerate().flat_map(|(other, sidecar)| {
            slots()
                .filter(move |slot| slot % EVENTS == event && (other, *slot) != (s, k))
                .map(|slot| sidecar.slots[slot].state)
        });
        let under_way = elsewhere.filter_map(|state| match state {
            State::Delivering(hold, _) => Some(hold.attempt),
            _ => None,
        });
        let unguarded = self.world.sidecars[s].away;
        if !truth.forgotten && !unguarded && attempt <= under_way.max().unwrap_or(0).max(truth.sent) {
            self.world.broken = Some(Broken::Attempt);
        }
    }

    /// The slots of the request that this one is in.
    pub(crate) fn together(&self, s: usize, k: usize) -> Vec<usize> {
        let State::Delivering(_, partition) = self.state(s, k) else { return Vec::new() };
        if self.config.batch == 1 {
            return vec![k];
        }
        let mut all: Vec<usize> =
            slots().filter(|k| matches!(self.state(s, *k), State::Delivering(_, p) if p == partition)).collect();
        all.sort_unstable_by_key(|k| self.world.sidecars[s].slots[*k].owner);
        all
    }

    /// The app has answered a request.
    pub(crate) fn answered(&mut self, s: usize, k: usize, said: Said) {
        let request = self.together(s, k);
        let outcomes = decide::judge(said, request.len());
        let effects = match said {
            Said::Done | Said::FailedAfterEffect => [true, true],
            Said::Failed | Said::Rejected | Said::Unreachable => [false, false],
            Said::FirstFailed | Said::FirstRejected => [false, true],
            Said::SecondFailed | Said::SecondRejected => [true, false],
        };
        for ((k, outcome), effect) in request.into_iter().zip(outcomes).zip(effects) {
            self.follow_outcome(s, k, &outcome, effect);
        }
    }

    fn follow_outcome(&mut self, s: usize, k: usize, outcome: &Outcome, effect: bool) {
        let State::Delivering(hold, _) = self.state(s, k) else { return };
        let event = k % EVENTS;
        if effect {
            self.effect(event);
        }
        if !matches!(outcome, Outcome::Failed { sent: false, .. }) {
            self.world.truth[event].sent = self.world.truth[event].sent.max(hold.attempt);
        }
        match outcome {
            Outcome::Completed => {
                self.world.truth[event].settled = true;
                self.complete(s, k, hold);
            }
            Outcome::Rejected(_) if !self.config.dead_letters => {
                self.world.truth[event].settled = true;
                self.complete(s, k, hold);
            }
            Outcome::Rejected(_) if self.config.lacks(Clause::DeadLetterFirst) => {
                self.sidecar(s).copying |= 1 << event;
                self.complete(s, k, hold);
            }
            Outcome::Rejected(_) => self.set(s, k, State::Copying(hold, false)),
            Outcome::Failed { sent, .. } => {
                if effect {
                    self.excuse(event, 1);
                }
                if !sent {
                    self.sidecar(s).stopped = true;
                    self.withdraw_all(s);
                }
                self.come_again(s, k, *sent);
            }
        }
    }

    /// Gives an event back after a failure: to be delivered again, from here or from wherever its partition is by then.
    fn come_again(&mut self, s: usize, k: usize, sent: bool) {
        let State::Delivering(hold, _) = self.state(s, k) else { return };
        let owner = self.world.sidecars[s].slots[k].owner;
        let mut stays = owner != NOBODY;
        if stays {
            let (p, offset) = place_of(owner);
            let sidecar = &self.world.sidecars[s];
            stays = !sidecar.stopped && sidecar.holds & !sidecar.revoking & 1 << p != 0;
            if !stays {
                self.sidecar(s).wanted[p] &= !(1 << offset);
            }
        }
        self.release(s, k, hold, sent, stays);
    }

    /// Gives up every claim, and every wish for one, that is not under delivery.
    fn withdraw_all(&mut self, s: usize) {
        for p in 0..PARTITIONS {
            if self.world.sidecars[s].holds & 1 << p != 0 {
                self.withdraw_undelivered(s, p, false);
            }
        }
    }

    fn withdraw_undelivered(&mut self, s: usize, p: usize, keeps: bool) {
        for offset in (0..self.config.records[p].len()).rev() {
            let record = record_at(p, offset);
            let slot = self.world.sidecars[s].slots[self.slot_of(record)];
            let delivering = slot.owner == record && matches!(slot.state, State::Delivering(..));
            if self.is_wanted(s, record) && !self.passed(s, record) && !delivering {
                self.withdraw(s, record, keeps);
            }
        }
    }

    pub(crate) fn assign(&mut self, p: usize, s: usize) {
        self.world.owner[p] = s as u8;
        let committed = self.world.committed[p];
        let sidecar = self.sidecar(s);
        sidecar.holds |= 1 << p;
        sidecar.from[p] = committed;
    }

    pub(crate) fn revoke(&mut self, p: usize) {
        let s = usize::from(self.world.owner[p]);
        self.sidecar(s).revoking |= 1 << p;
        self.withdraw_undelivered(s, p, false);
    }

    /// Something of that partition is with the app, or being settled.
    pub(crate) fn busy(&self, s: usize, p: usize) -> bool {
        self.world.sidecars[s].slots.iter().any(|slot| {
            let under_way =
                matches!(slot.state, State::Delivering(..) | State::Copying(_, false) | State::Completing(..));
            under_way && slot.owner != NOBODY && place_of(slot.owner).0 == p
        })
    }

    /// Forgets a partition. What is under way goes on and settles, without an offset to pass.
    pub(crate) fn give_up(&mut self, s: usize, p: usize) {
        let sidecar = self.sidecar(s);
        for slot in &mut sidecar.slots {
            if slot.owner != NOBODY && place_of(slot.owner).0 == p {
                slot.owner = NOBODY;
            }
        }
        sidecar.holds &= !(1 << p);
        sidecar.revoking &= !(1 << p);
        (sidecar.from[p], sidecar.settled[p], sidecar.wanted[p]) = (0, 0, 0);
    }

    pub(crate) fn notice_lost(&mut self, s: usize, p: usize) {
        let keeps = self.config.lacks(Clause::LostGivesBack);
        self.sidecar(s).revoking |= 1 << p;
        self.withdraw_undelivered(s, p, keeps);
        self.give_up(s, p);
    }

    pub(crate) fn finish_revoke(&mut self, s: usize, p: usize) {
        if self.world.owner[p] == s as u8 {
            self.commit(s, p);
            self.world.owner[p] = NOBODY;
        }
        self.give_up(s, p);
    }

    /// The offset that the sidecar would commit.
    pub(crate) fn committable(&self, s: usize, p: usize) -> usize {
        let sidecar = &self.world.sidecars[s];
        let (from, settled) = (usize::from(sidecar.from[p]), sidecar.settled[p]);
        let end = self.config.records[p].len();
        if self.config.lacks(Clause::Watermark) {
            return (from..end).rev().find(|offset| settled & 1 << offset != 0).map_or(from, |offset| offset + 1);
        }
        if from == end { end } else { decide::committable(from, end, settled).unwrap_or(from) }
    }

    pub(crate) fn commit(&mut self, s: usize, p: usize) {
        let upto = self.committable(s, p);
        let from = usize::from(self.world.committed[p]);
        if upto <= from {
            return;
        }
        self.world.committed[p] = upto as u8;
        let unsettled = |offset: &usize| !self.world.truth[usize::from(self.config.records[p][*offset])].settled;
        if (from..upto).any(|offset| unsettled(&offset)) {
            self.world.broken = Some(Broken::Loss);
        }
    }

    /// A new session: what waited for one claims, and what was claimed under an older one is claimed anew.
    pub(crate) fn open(&mut self, s: usize) {
        if !(self.config.lacks(Clause::FreshIds) && self.world.sidecars[s].sessions > 0) {
            self.sidecar(s).sessions += 1;
        }
        let sidecar = self.sidecar(s);
        sidecar.session = sidecar.sessions;
        sidecar.fresh = true;
        let session = crate::world::session_of(s, sidecar.session);
        self.world.alive |= 1 << session;
        for k in slots() {
            match self.state(s, k) {
                State::Parked => self.start_claim(s, k),
                State::Granted(hold) if hold.session != session && !self.config.lacks(Clause::OldClaimsVoid) => {
                    self.start_claim(s, k);
                }
                _ => {}
            }
        }
    }

    /// Deliveries or completions are under way that were made under that session.
    pub(crate) fn is_held(&self, session: u8) -> bool {
        self.world.sidecars[sidecar_of(session)].slots.iter().any(|slot| {
            matches!(slot.state, State::Delivering(hold, _) | State::Copying(hold, _) | State::Completing(hold, _)
                if hold.session == session)
        })
    }

    /// The app does what it has to, once more than before.
    pub(crate) fn effect(&mut self, event: usize) {
        let truth = &mut self.world.truth[event];
        match truth.credit.checked_sub(1) {
            Some(left) => truth.credit = left,
            None => self.world.broken = Some(Broken::SecondEffect),
        }
    }

    /// A window has opened for that event.
    pub(crate) fn excuse(&mut self, event: usize, window: u8) {
        if self.config.windows & 1 << window != 0 {
            let credit = &mut self.world.truth[event].credit;
            *credit = (*credit + 1).min(3);
        }
    }
}

/// A few records, without a heap.
#[derive(Clone, Copy)]
pub(crate) struct Few {
    all: [u8; RECORDS],
    len: usize,
}

impl std::ops::Deref for Few {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.all[..self.len]
    }
}

/// Nothing has happened yet.
pub(crate) fn initial(config: &Config) -> World {
    let truth = crate::world::Truth { settled: false, credit: 1, sent: 0, forgotten: false };
    let down = crate::world::Sidecar { up: false, ..STARTED };
    let mut world = World {
        values: Default::default(),
        before: Default::default(),
        old: 0,
        alive: 0,
        late: Default::default(),
        sidecars: [down; crate::world::SIDECARS],
        owner: [NOBODY; PARTITIONS],
        committed: [0; PARTITIONS],
        truth: [truth; EVENTS],
        faults: config.budget,
        broken: None,
    };
    let mut turn = Turn { config, world: &mut world };
    for s in 0..config.sidecars {
        turn.world.sidecars[s] = STARTED;
        turn.open(s);
    }
    for (p, s) in config.owners.into_iter().enumerate() {
        turn.assign(p, usize::from(s));
    }
    for s in 0..config.sidecars {
        turn.pump(s);
    }
    world
}
