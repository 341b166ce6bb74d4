//! Decides what follows from each action: the store, the network, the broker and the faults of the model's world. Pure.

use crate::action::{Action, Said};
use crate::config::{Clause, Config, fault};
use crate::gate::{Turn, slots};
use crate::world::{
    Answer, EVENTS, NOBODY, PARTITIONS, Renewal, STARTED, State, UNGUARDED, Value, Wire, World, Write, session_of,
    sidecar_of,
};

/// The world after an action.
pub(crate) fn step(config: &Config, world: &World, action: Action) -> World {
    let mut world = world.clone();
    let mut turn = Turn { config, world: &mut world };
    // While the store is away that no answer comes is no further fault.
    let of_outage = matches!(action, Action::NoReply(s, _) if turn.world.sidecars[usize::from(s)].away);
    if is_fault(action) && !of_outage {
        turn.world.faults = turn.world.faults.saturating_sub(1);
    }
    turn.act(action);
    // Whatever a sidecar hears of, it then moves everything that moves at once; the others don't notice.
    if let Action::Arrive(s, k) = action
        && config.instant
    {
        turn.replied(usize::from(s), usize::from(k));
        turn.pump(usize::from(s));
    } else if let Some(s) = mover(action) {
        turn.pump(s);
    }
    turn.forget_sessions();
    world
}

/// A fault counts against the budget.
pub(crate) const fn is_fault(action: Action) -> bool {
    match action {
        Action::Answer(_, _, said) => !matches!(said, Said::Done),
        Action::NoReply(..)
        | Action::Crash { .. }
        | Action::Revoke(_)
        | Action::Deadline(_)
        | Action::Lose(_)
        | Action::Lapse(_)
        | Action::LapseRenewing(_)
        | Action::RefuseCopy(..)
        | Action::Away(_)
        | Action::Flush
        | Action::Restore
        | Action::LoseWrite(_)
        | Action::LoseSession(_)
        | Action::ForgetDone(_)
        | Action::Age(_) => true,
        _ => false,
    }
}

/// The sidecar that hears of it.
fn mover(action: Action) -> Option<usize> {
    let s = match action {
        Action::Reply(s, _)
        | Action::Look(s, _)
        | Action::Open(s)
        | Action::Notice(s)
        | Action::RenewalAnswered(s)
        | Action::Start { s, .. }
        | Action::Answer(s, ..)
        | Action::TooOld(s, _)
        | Action::Copied(s, _)
        | Action::NoticeLost(s, _)
        | Action::FinishRevoke(s, _)
        | Action::Assign(_, s)
        | Action::Resume(s)
        | Action::Reconnect(s)
        | Action::Back(s)
        | Action::WriteBack(s, _)
        | Action::NoReply(s, _)
        | Action::RefuseCopy(s, _)
        | Action::Away(s) => s,
        _ => return None,
    };
    Some(usize::from(s))
}

impl Turn<'_> {
    fn act(&mut self, action: Action) {
        let u = usize::from;
        match action {
            Action::Arrive(s, k) => self.arrive(u(s), u(k)),
            Action::Reply(s, k) => self.replied(u(s), u(k)),
            Action::Late(at) => {
                if let Some((event, write)) = self.world.late[u(at)].take() {
                    self.apply(u(event), write);
                    self.world.late.sort_unstable();
                }
            }
            Action::Look(s, k) => self.start_claim(u(s), u(k)),
            Action::Open(s) => self.open(u(s)),
            Action::Notice(s) => self.sidecar(u(s)).session = 0,
            Action::Gone(session) => self.gone(session),
            Action::RenewalArrives(s) => self.renewal_arrives(u(s)),
            Action::RenewalAnswered(s) => self.renewal_answered(u(s)),
            Action::Start { s, record, events } => self.start(u(s), record, u(events)),
            Action::Answer(s, k, said) => self.answered(u(s), u(k), said),
            Action::TooOld(s, k) => {
                if let State::Granted(hold) = self.state(u(s), u(k)) {
                    self.world.sidecars[u(s)].slots[u(k)].aged = false;
                    self.release(u(s), u(k), hold, false, true);
                }
            }
            Action::Copied(s, k) => {
                if let State::Copying(hold, _) = self.state(u(s), u(k)) {
                    self.world.truth[u(k) % EVENTS].settled = true;
                    self.complete(u(s), u(k), hold);
                }
            }
            Action::CopiedBeside(s, event) => {
                self.sidecar(u(s)).copying &= !(1 << event);
                self.world.truth[u(event)].settled = true;
            }
            Action::Commit(s, p) => self.commit(u(s), u(p)),
            Action::NoticeLost(s, p) => self.notice_lost(u(s), u(p)),
            Action::FinishRevoke(s, p) => self.finish_revoke(u(s), u(p)),
            Action::Assign(p, s) => self.assign(u(p), u(s)),
            Action::Kick(p) | Action::Lose(p) => self.world.owner[u(p)] = NOBODY,
            Action::Resume(s) => self.sidecar(u(s)).stopped = false,
            Action::Reconnect(s) => {
                let sidecar = self.sidecar(u(s));
                (sidecar.session, sidecar.changed) = (0, false);
            }
            Action::Restart(s) => self.sidecar(u(s)).up = true,
            Action::Back(s) => {
                self.sidecar(u(s)).away = false;
                self.open(u(s));
            }
            Action::WriteBack(s, event) => {
                self.sidecar(u(s)).unwritten &= !(1 << event);
                self.apply(u(event), Write::Always(Value::Done));
            }
            _ => self.fail(action),
        }
    }

    fn fail(&mut self, action: Action) {
        let u = usize::from;
        match action {
            Action::NoReply(s, k) => self.unanswered(u(s), u(k)),
            Action::Crash { s, effects } => self.crash(u(s), effects),
            Action::Revoke(p) => self.revoke(u(p)),
            Action::Deadline(p) => self.finish_revoke(u(self.world.owner[u(p)]), u(p)),
            Action::Lapse(s) => self.sidecar(u(s)).fresh = false,
            Action::LapseRenewing(s) => {
                let session = self.session(u(s)).unwrap_or_default();
                let sidecar = self.sidecar(u(s));
                (sidecar.fresh, sidecar.renewal) = (false, Renewal::Out(session));
            }
            Action::RefuseCopy(s, k) => {
                if let State::Copying(hold, _) = self.state(u(s), u(k)) {
                    self.set(u(s), u(k), State::Copying(hold, true));
                }
            }
            Action::Away(s) => self.go_away(u(s)),
            Action::Flush => {
                self.world.alive = 0;
                (0..EVENTS).for_each(|event| self.forget(event, Value::Absent, 4));
            }
            Action::Restore => {
                (0..EVENTS).for_each(|event| self.forget(event, self.world.before[event], 4));
                self.change_store();
            }
            Action::LoseWrite(event) => {
                self.forget(u(event), self.world.before[u(event)], 4);
                self.change_store();
            }
            Action::LoseSession(session) => {
                self.change_store();
                self.world.alive &= !(1 << session);
                (0..EVENTS).for_each(|event| self.forget(event, self.world.values[event], 4));
            }
            Action::ForgetDone(event) => self.forget(u(event), Value::Absent, 5),
            Action::Age(event) => self.age(u(event)),
            // Nothing was lost: the claim was no longer used. It carried the attempt away with it, though.
            Action::ForgetClaim(event) => {
                self.world.values[u(event)] = Value::Absent;
                self.world.old &= !(1 << event);
                self.world.truth[u(event)].forgotten = true;
            }
            _ => {}
        }
    }

    /// Another server has taken the store's place: whoever knew the old one will notice.
    fn change_store(&mut self) {
        self.world.sidecars.iter_mut().filter(|sidecar| sidecar.up).for_each(|sidecar| sidecar.changed = true);
    }

    /// The store takes what a slot has on its way.
    fn arrive(&mut self, s: usize, k: usize) {
        let answer = match self.write_of(s, k) {
            Some(write) => self.apply(k % EVENTS, write),
            None => match self.state(s, k) {
                State::Asking(_, holder, _) if self.world.alive & 1 << holder.session == 0 => Answer::Refused,
                _ => Answer::Applied,
            },
        };
        let back = Wire::Back(answer);
        let state = match self.state(s, k) {
            State::Claiming(asked, _) => State::Claiming(asked, back),
            State::Asking(asked, holder, _) => State::Asking(asked, holder, back),
            State::TakingOver(asked, seen, _) => State::TakingOver(asked, seen, back),
            State::Completing(hold, _) => State::Completing(hold, back),
            State::Releasing(hold, sent, _) => State::Releasing(hold, sent, back),
            other => other,
        };
        self.set(s, k, state);
    }

    fn apply(&mut self, event: usize, write: Write) -> Answer {
        let there = self.world.values[event];
        let (value, answer) = match write {
            Write::IfAbsent(value) if there == Value::Absent => (value, Answer::Applied),
            Write::IfAbsent(_) => return Answer::Present(there),
            Write::Swap(expect, value) if there == expect => (value, Answer::Applied),
            Write::Swap(..) => return Answer::Refused,
            Write::Always(value) => (value, Answer::Applied),
        };
        if self.config.has(fault::FAILOVER) {
            self.world.before[event] = there;
        }
        self.world.values[event] = value;
        self.world.old &= !(1 << event);
        answer
    }

    /// No answer comes to what a slot has asked for.
    fn unanswered(&mut self, s: usize, k: usize) {
        let state = self.state(s, k);
        self.abandon(s, k);
        match state {
            State::Claiming(asked, _) | State::TakingOver(asked, ..) => {
                if !self.config.lacks(Clause::LostReply) {
                    self.give_up_session(s, asked.session);
                }
                self.claim_anew(s, k);
            }
            State::Asking(..) => self.claim_anew(s, k),
            State::Completing(hold, _) if self.world.sidecars[s].away => {
                self.set(s, k, State::Completing(hold, Wire::Out));
                self.queue_done(s, k);
            }
            State::Completing(hold, _) => self.set(s, k, State::Completing(hold, Wire::Out)),
            State::Releasing(hold, sent, _) if self.config.lacks(Clause::ReleaseOnce) => {
                self.set(s, k, State::Releasing(hold, sent, Wire::Out));
            }
            State::Releasing(hold, ..) => {
                self.give_up_session(s, hold.session);
                self.claim_anew(s, k);
            }
            _ => {}
        }
    }

    fn give_up_session(&mut self, s: usize, session: u8) {
        if self.session(s) == Some(session) {
            self.sidecar(s).session = 0;
        }
    }

    /// Forgets the keys of sessions that are over and that nothing refers to: whether they are there makes no difference.
    fn forget_sessions(&mut self) {
        let mut referred = 0_u32;
        let mut refer = |value: Value| {
            if let Value::Claimed(hold) = value {
                referred |= 1 << hold.session;
            }
        };
        self.world.values.into_iter().chain(self.world.before).for_each(&mut refer);
        for (_, write) in self.world.late.into_iter().flatten() {
            let (Write::IfAbsent(value) | Write::Swap(_, value) | Write::Always(value)) = write;
            refer(value);
        }
        for (s, sidecar) in self.world.sidecars.iter().enumerate() {
            if sidecar.session != 0 {
                referred |= 1 << session_of(s, sidecar.session);
            }
            for state in sidecar.slots.iter().map(|slot| slot.state) {
                referred |= match state {
                    State::Asking(_, holder, _) => 1 << holder.session,
                    State::Claiming(hold, _)
                    | State::TakingOver(hold, ..)
                    | State::Granted(hold)
                    | State::Delivering(hold, _)
                    | State::Copying(hold, _)
                    | State::Completing(hold, _)
                    | State::Releasing(hold, ..)
                        if hold.session != UNGUARDED =>
                    {
                        1 << hold.session
                    }
                    _ => 0,
                };
                if let State::Claiming(_, Wire::Back(Answer::Present(Value::Claimed(hold)))) = state {
                    referred |= 1 << hold.session;
                }
            }
        }
        self.world.alive &= referred;
    }

    /// A session's key is gone: it ran out, or was ended.
    fn gone(&mut self, session: u8) {
        self.world.alive &= !(1 << session);
        let s = sidecar_of(session);
        // Who is cut off from the store can't renew, and its session ends there: window 3 as well as 6.
        let window = if self.world.sidecars[s].away { 3 } else { 6 };
        if self.world.sidecars[s].fresh && window == 6 {
            return;
        }
        for k in slots() {
            let under = match self.state(s, k) {
                State::Delivering(hold, _) | State::Copying(hold, _) | State::Completing(hold, Wire::Out) => {
                    hold.session
                }
                _ => continue,
            };
            if under == session {
                self.excuse(k % EVENTS, window);
            }
        }
    }

    fn renewal_arrives(&mut self, s: usize) {
        let Renewal::Out(session) = self.world.sidecars[s].renewal else { return };
        if self.config.lacks(Clause::RenewalNeverCreates) {
            self.world.alive |= 1 << session;
        }
        self.sidecar(s).renewal = Renewal::Back(session, self.world.alive & 1 << session != 0);
    }

    fn renewal_answered(&mut self, s: usize) {
        let Renewal::Back(session, applied) = self.world.sidecars[s].renewal else { return };
        self.sidecar(s).renewal = Renewal::None;
        if self.session(s) == Some(session) {
            let sidecar = self.sidecar(s);
            sidecar.fresh = applied;
            if !applied {
                sidecar.session = 0;
            }
        }
        // What was asked for meanwhile waits for a session, and here it is again.
        for k in slots() {
            if self.current(s).is_some() && self.state(s, k) == State::Parked && !self.config.lacks(Clause::ParkedGoOn)
            {
                self.start_claim(s, k);
            }
        }
    }

    fn crash(&mut self, s: usize, effects: bool) {
        for k in slots() {
            let event = k % EVENTS;
            match self.state(s, k) {
                State::Delivering(hold, _) => {
                    self.world.truth[event].sent = self.world.truth[event].sent.max(hold.attempt);
                    if effects {
                        self.effect(event);
                        self.excuse(event, 2);
                    }
                }
                State::Completing(_, Wire::Out) => self.excuse(event, 2),
                _ => {}
            }
            // What was on the wire has arrived, or never does, unless the network is slow too.
            if self.config.has(fault::NETWORK) {
                self.abandon(s, k);
            }
        }
        for event in 0..EVENTS {
            if self.world.sidecars[s].unwritten & 1 << event != 0 {
                self.excuse(event, 3);
            }
        }
        let sessions = self.world.sidecars[s].sessions;
        *self.sidecar(s) = crate::world::Sidecar { up: false, sessions, ..STARTED };
    }

    fn go_away(&mut self, s: usize) {
        let sidecar = self.sidecar(s);
        (sidecar.away, sidecar.session) = (true, 0);
        for k in slots() {
            if self.state(s, k) == State::Parked {
                self.start_claim(s, k);
            }
        }
    }

    /// The store forgets what it was told of an event.
    fn forget(&mut self, event: usize, value: Value, window: u8) {
        self.world.values[event] = value;
        self.world.old &= !(1 << event);
        self.world.truth[event].forgotten = true;
        self.excuse(event, window);
    }

    fn age(&mut self, event: usize) {
        self.world.old |= 1 << event;
        let Value::Claimed(claim) = self.world.values[event] else { return };
        let sidecar = self.sidecar(sidecar_of(claim.session));
        for (_, slot) in sidecar.slots.iter_mut().enumerate().filter(|(k, _)| k % EVENTS == event) {
            slot.aged |= slot.state == State::Granted(claim);
        }
    }

    /// May the TTL of that event's claim end now? Not while it is used: what started under a young claim ends before the claim does.
    pub(crate) fn claim_may_end(config: &Config, world: &World, event: usize) -> bool {
        let Value::Claimed(claim) = world.values[event] else { return false };
        let used = world.sidecars[sidecar_of(claim.session)].slots.iter().any(|slot| match slot.state {
            State::Delivering(hold, _) => hold == claim && !(slot.aged && config.lacks(Clause::YoungToStart)),
            State::Copying(hold, _) | State::Completing(hold, _) | State::Releasing(hold, ..) => hold == claim,
            _ => false,
        });
        world.old & 1 << event != 0 && !used
    }
}

/// Every event is settled and every offset committed.
pub(crate) fn is_over(config: &Config, world: &World) -> bool {
    (0..PARTITIONS).all(|p| usize::from(world.committed[p]) == config.records[p].len())
        && config.records.iter().copied().flatten().all(|event| world.truth[usize::from(*event)].settled)
}

/// May that session's key be gone now?
pub(crate) fn may_be_gone(turn: &Turn<'_>, session: u8) -> bool {
    let sidecar = &turn.world.sidecars[sidecar_of(session)];
    let life = session % crate::world::SESSIONS;
    if turn.world.alive & 1 << session == 0 {
        return false;
    }
    if !sidecar.up {
        return true;
    }
    // A renewal that was applied keeps it for another TTL, unless the sidecar has given it up meanwhile.
    let renewed = sidecar.renewal == Renewal::Back(session, true) && sidecar.session == life;
    if sidecar.session != life && (!turn.is_held(session) || turn.config.lacks(Clause::HeldSessionLives)) {
        return true;
    }
    let away = sidecar.away;
    (!sidecar.fresh || away) && !renewed
}

/// A session of that sidecar that the store has lost, and that it still believes in.
pub(crate) fn lost_session(turn: &Turn<'_>, s: usize) -> bool {
    let life = turn.world.sidecars[s].session;
    life != 0 && turn.world.alive & 1 << session_of(s, life) == 0
}
