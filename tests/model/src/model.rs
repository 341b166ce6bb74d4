//! Decides which actions are possible, and what must hold in every state. Pure, but for a memory of states seen to end well.

use stateright::{Model, Property};

use crate::action::{Action, Said};
use crate::config::{Clause, Config, fault};
use crate::fair::EndsWell;
use crate::gate::{Turn, slots};
use crate::queue;
use crate::step::{self, is_over, lost_session, may_be_gone};
use crate::world::{Broken, EVENTS, NOBODY, PARTITIONS, Renewal, SESSIONS, State, Value, Wire, World, record_at};

/// A model to be checked.
pub struct Protocol {
    /// What is explored.
    pub config: Config,
    ends_well: EndsWell,
}

impl Protocol {
    /// A model of that configuration.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, ends_well: EndsWell::default() }
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![queue::initial(&self.config)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.broken.is_none() && !is_quiet(&self.config, world) {
            moves(&self.config, world, actions);
            if world.faults > 0 {
                faults(&self.config, world, actions);
            }
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        Some(step::step(&self.config, world, action))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no loss", |_, world: &World| world.broken != Some(Broken::Loss)),
            Property::always("no second effect", |_, world: &World| world.broken != Some(Broken::SecondEffect)),
            Property::always("attempts grow", |_, world: &World| world.broken != Some(Broken::Attempt)),
            Property::always("ends well", |model: &Self, world: &World| {
                world.broken.is_some() || model.ends_well.check(&model.config, world)
            }),
        ]
    }
}

/// Everything is settled and committed, and nothing is with an app or may go there: no promise can be broken any more.
fn is_quiet(config: &Config, world: &World) -> bool {
    let open = |state: State| matches!(state, State::Granted(_) | State::Delivering(..));
    is_over(config, world) && !world.sidecars.iter().any(|sidecar| sidecar.slots.iter().any(|slot| open(slot.state)))
}

/// What can happen without a fault.
pub(crate) fn moves(config: &Config, world: &World, actions: &mut Vec<Action>) {
    let mut copy = world.clone();
    let turn = Turn { config, world: &mut copy };
    for s in 0..config.sidecars {
        store_moves(&turn, s, actions);
        if world.sidecars[s].up {
            sidecar_moves(&turn, s, actions);
        } else {
            actions.push(Action::Restart(s as u8));
        }
    }
    for (at, late) in world.late.iter().enumerate() {
        if late.is_some() {
            actions.push(Action::Late(at as u8));
        }
    }
    for session in 0..(config.sidecars as u8 * SESSIONS) {
        if may_be_gone(&turn, session) {
            actions.push(Action::Gone(session));
        }
    }
    for p in 0..PARTITIONS {
        match world.owner[p] {
            NOBODY => actions.extend(
                (0..config.sidecars)
                    .filter(|s| world.sidecars[*s].up && world.sidecars[*s].holds & 1 << p == 0)
                    .map(|s| Action::Assign(p as u8, s as u8)),
            ),
            s if !world.sidecars[usize::from(s)].up => actions.push(Action::Kick(p as u8)),
            // It died and came back before the broker noticed: its new life is another member.
            s if world.sidecars[usize::from(s)].holds & 1 << p == 0 => actions.push(Action::Kick(p as u8)),
            _ => {}
        }
    }
}

/// Round trips to the store, of any sidecar.
fn store_moves(turn: &Turn<'_>, s: usize, actions: &mut Vec<Action>) {
    let sidecar = &turn.world.sidecars[s];
    for k in slots() {
        let wire = match sidecar.slots[k].state {
            State::Claiming(_, wire)
            | State::Asking(_, _, wire)
            | State::TakingOver(_, _, wire)
            | State::Completing(_, wire)
            | State::Releasing(_, _, wire) => wire,
            _ => continue,
        };
        let (s, k) = (s as u8, k as u8);
        match wire {
            // While the store is away each round trip fails by itself.
            Wire::Out if sidecar.away => actions.push(Action::NoReply(s, k)),
            Wire::Out => actions.push(Action::Arrive(s, k)),
            Wire::Back(_) => actions.push(Action::Reply(s, k)),
        }
    }
    match sidecar.renewal {
        Renewal::None => {}
        Renewal::Out(_) => actions.push(Action::RenewalArrives(s as u8)),
        Renewal::Back(..) => actions.push(Action::RenewalAnswered(s as u8)),
    }
}

fn sidecar_moves(turn: &Turn<'_>, s: usize, actions: &mut Vec<Action>) {
    let (sidecar, config) = (&turn.world.sidecars[s], turn.config);
    let me = s as u8;
    if sidecar.session == 0 && !sidecar.away && sidecar.sessions < SESSIONS - 1 {
        actions.push(Action::Open(me));
    }
    if sidecar.session != 0 && (!sidecar.fresh || lost_session(turn, s)) {
        actions.push(Action::Notice(me));
    }
    if sidecar.away {
        actions.push(Action::Back(me));
    }
    if sidecar.changed && !config.lacks(Clause::ChangedStoreEnds) {
        actions.push(Action::Reconnect(me));
    }
    if sidecar.stopped {
        actions.push(Action::Resume(me));
    }
    for event in 0..EVENTS as u8 {
        if sidecar.unwritten & 1 << event != 0 && !sidecar.away {
            actions.push(Action::WriteBack(me, event));
        }
        if sidecar.copying & 1 << event != 0 {
            actions.push(Action::CopiedBeside(me, event));
        }
    }
    for k in slots() {
        match sidecar.slots[k].state {
            State::Held | State::Idle if sidecar.slots[k].owner != NOBODY => actions.push(Action::Look(me, k as u8)),
            State::Delivering(..) if turn.together(s, k)[0] == k => {
                actions.push(Action::Answer(me, k as u8, Said::Done));
            }
            State::Granted(_) if sidecar.slots[k].aged => actions.push(Action::TooOld(me, k as u8)),
            State::Copying(..) => actions.push(Action::Copied(me, k as u8)),
            _ => {}
        }
    }
    for p in (0..PARTITIONS).filter(|p| sidecar.holds & 1 << p != 0) {
        partition_moves(turn, s, p, actions);
    }
    debug_assert!(config.batch <= 2);
}

fn partition_moves(turn: &Turn<'_>, s: usize, p: usize, actions: &mut Vec<Action>) {
    let (sidecar, me, partition) = (&turn.world.sidecars[s], s as u8, p as u8);
    if turn.world.owner[p] != me {
        actions.push(Action::NoticeLost(me, partition));
    } else if sidecar.revoking & 1 << p != 0 {
        if !turn.busy(s, p) {
            actions.push(Action::FinishRevoke(me, partition));
        }
    } else if turn.committable(s, p) > usize::from(turn.world.committed[p]) {
        actions.push(Action::Commit(me, partition));
    }
    for offset in 0..turn.config.records[p].len() {
        let record = record_at(p, offset);
        for events in 1..=turn.startable(s, record) {
            actions.push(Action::Start { s: me, record, events: events as u8 });
        }
    }
}

/// What can go wrong now.
fn faults(config: &Config, world: &World, actions: &mut Vec<Action>) {
    let mut copy = world.clone();
    let turn = Turn { config, world: &mut copy };
    for s in (0..config.sidecars).filter(|s| world.sidecars[*s].up) {
        sidecar_faults(&turn, s, actions);
    }
    for p in (0..PARTITIONS).filter(|p| world.owner[*p] != NOBODY) {
        let owner = &world.sidecars[usize::from(world.owner[p])];
        let held = owner.up && owner.holds & 1 << p != 0;
        let revoking = owner.revoking & 1 << p != 0;
        if config.has(fault::REVOKE) && held {
            actions.push(if revoking { Action::Deadline(p as u8) } else { Action::Revoke(p as u8) });
        }
        if config.has(fault::LOSE) && held {
            actions.push(Action::Lose(p as u8));
        }
    }
    if config.has(fault::FLUSH) {
        actions.push(Action::Flush);
    }
    if config.has(fault::FAILOVER) {
        actions.push(Action::Restore);
        let lives = (0..config.sidecars as u8 * SESSIONS).filter(|session| world.alive & 1 << session != 0);
        actions.extend(lives.map(Action::LoseSession));
    }
    for event in 0..EVENTS {
        event_faults(config, world, event, actions);
    }
}

fn event_faults(config: &Config, world: &World, event: usize, actions: &mut Vec<Action>) {
    let (value, e) = (world.values[event], event as u8);
    if config.has(fault::FAILOVER) && value != world.before[event] {
        actions.push(Action::LoseWrite(e));
    }
    if config.has(fault::TTL) && value == Value::Done {
        actions.push(Action::ForgetDone(e));
    }
    if config.has(fault::AGE) && matches!(value, Value::Claimed(_)) {
        if world.old & 1 << event == 0 {
            actions.push(Action::Age(e));
        } else if Turn::claim_may_end(config, world, event) {
            actions.push(Action::ForgetClaim(e));
        }
    }
}

fn sidecar_faults(turn: &Turn<'_>, s: usize, actions: &mut Vec<Action>) {
    let (config, sidecar, me) = (turn.config, &turn.world.sidecars[s], s as u8);
    if config.has(fault::CRASH) {
        actions.push(Action::Crash { s: me, effects: false });
        if sidecar.slots.iter().any(|slot| matches!(slot.state, State::Delivering(..))) {
            actions.push(Action::Crash { s: me, effects: true });
        }
    }
    if config.has(fault::LAPSE) && sidecar.fresh && sidecar.session != 0 {
        actions.push(Action::Lapse(me));
    }
    if config.has(fault::RENEWAL) && sidecar.fresh && sidecar.session != 0 && sidecar.renewal == Renewal::None {
        actions.push(Action::LapseRenewing(me));
    }
    if config.has(fault::AWAY) && !sidecar.away {
        actions.push(Action::Away(me));
    }
    for k in slots() {
        let at = k as u8;
        match sidecar.slots[k].state {
            State::Claiming(..)
            | State::Asking(..)
            | State::TakingOver(..)
            | State::Completing(..)
            | State::Releasing(..)
                if config.has(fault::NETWORK) && !sidecar.away =>
            {
                actions.push(Action::NoReply(me, at));
            }
            State::Copying(_, false) if config.has(fault::COPY) => actions.push(Action::RefuseCopy(me, at)),
            State::Delivering(..) => {
                let request = turn.together(s, k);
                if request[0] == k {
                    answers(config, request.len(), |said| actions.push(Action::Answer(me, at, said)));
                }
            }
            _ => {}
        }
    }
}

fn answers(config: &Config, events: usize, mut say: impl FnMut(Said)) {
    let batch = events == 2;
    for (fault, alone, together) in [
        (fault::FAIL, Some(Said::Failed), Some(Said::FirstFailed)),
        (fault::FAIL, None, Some(Said::SecondFailed)),
        (fault::EFFECT, Some(Said::FailedAfterEffect), None),
        (fault::UNREACHABLE, Some(Said::Unreachable), None),
        (fault::REJECT, Some(Said::Rejected), Some(Said::FirstRejected)),
        (fault::REJECT, None, Some(Said::SecondRejected)),
    ] {
        if config.has(fault) {
            alone.into_iter().chain(together.filter(|_| batch)).for_each(&mut say);
        }
    }
}
