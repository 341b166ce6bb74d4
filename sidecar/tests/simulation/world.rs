//! Sidecars, broker, store and app together, moved by a seed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet, VecDeque};
use std::time::Duration;

use crds::config::{FailurePolicy, Ordering};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sidecar::claim::SessionId;
use sidecar::clock::Time;
use sidecar::dead_letter::{DeadLetter, Verdict as Fate};
use sidecar::deliver::{Parcel, Protection};
use sidecar::gate::{Gate, GateConfig, Token};
use sidecar::kafka::ProduceError;
use sidecar::outcome::{Outcome, Reason};
use sidecar::pipeline::{Effect, Pipeline, PipelineConfig};
use sidecar::store::{Op, Reply, StoreError};
use uuid::Uuid;

use super::broker::Broker;
use super::store::Store;

mod members;
mod outside;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    /// Single requests and replies of the store are lost or late.
    pub(crate) store: bool,
    /// The store is away for seconds.
    pub(crate) outage: bool,
    pub(crate) crash: bool,
    pub(crate) rebalance: bool,
    /// The app fails, with and without an effect.
    pub(crate) app: bool,
    /// The app does not accept for a while.
    pub(crate) app_down: bool,
    /// Copies to other topics fail, for a while or for good.
    pub(crate) copies: bool,
    /// Sidecars are asked to drain, and live on.
    pub(crate) drain: bool,
    /// Sidecars are asked to end, and come back.
    pub(crate) restart: bool,
    /// The store forgets everything.
    pub(crate) flush: bool,
    /// The store refuses scripts for seconds, and nothing else.
    pub(crate) scripts: bool,
    /// Every app is down for longer than a claim or a settled event is remembered.
    pub(crate) weekend: bool,
    /// The flow of single sidecars is stopped for a while.
    pub(crate) pause: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) sidecars: usize,
    pub(crate) partitions: usize,
    pub(crate) events: usize,
    pub(crate) ordering: Ordering,
    pub(crate) batch: usize,
    pub(crate) policy: FailurePolicy,
    pub(crate) faults: Faults,
    pub(crate) reject: bool,
    /// Rejected events and skipped records are copied to other topics.
    pub(crate) copy: bool,
    pub(crate) max_attempts: Option<u32>,
}

type Answers = Vec<(Token, Result<Reply, StoreError>)>;

enum Action {
    Wake(usize, u32),
    Apply { op: Op },
    Answers { sidecar: usize, life: u32, answers: Answers },
    Answered { sidecar: usize, life: u32, id: usize, outcomes: Vec<Outcome> },
    Read { sidecar: usize, life: u32, partition: usize, epoch: u64, next: i64 },
    AppUp { sidecar: usize, life: u32 },
    Start(usize),
    Crash,
    Rebalance,
    Adopt(usize),
    Outage(bool),
    AppDown { sidecar: usize, down: bool },
    Copied { sidecar: usize, life: u32, id: usize, result: Result<(), ProduceError> },
    Drain,
    Terminate,
    End { sidecar: usize, life: u32 },
    Flush,
    Scripts(bool),
    Pause { sidecar: usize, paused: bool },
}

struct Sidecar {
    pipeline: Pipeline,
    watching: bool,
    /// When it is woken next; other wakes are stale.
    wake: Option<Time>,
    /// It is to end: drained, or not yet.
    ending: Option<bool>,
    /// It ends then, also if its sessions are not ended.
    patience: Option<Time>,
    /// It has left the group, since its app is down.
    left: bool,
}

struct Effected {
    event: usize,
    attempt: u32,
    protection: Protection,
    completed: bool,
}

/// How often something happened in all runs, so that a plan that never reaches its subject is noticed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) dead_letters: u64,
    pub(crate) exhausted: u64,
    pub(crate) skipped: u64,
    pub(crate) refused: u64,
    pub(crate) drained: u64,
    pub(crate) ended: u64,
    pub(crate) left: u64,
    pub(crate) joined_again: u64,
    pub(crate) flushed: u64,
    pub(crate) scripts_refused: u64,
    pub(crate) paused: u64,
}

impl std::ops::AddAssign for Seen {
    fn add_assign(&mut self, more: Self) {
        self.dead_letters += more.dead_letters;
        self.exhausted += more.exhausted;
        self.skipped += more.skipped;
        self.refused += more.refused;
        self.drained += more.drained;
        self.ended += more.ended;
        self.left += more.left;
        self.joined_again += more.joined_again;
        self.flushed += more.flushed;
        self.scripts_refused += more.scripts_refused;
        self.paused += more.paused;
    }
}

pub(crate) struct World {
    plan: Plan,
    rng: StdRng,
    now: Time,
    agenda: BinaryHeap<Reverse<(Time, u64)>>,
    actions: std::collections::HashMap<u64, Action>,
    serial: u64,
    broker: Broker,
    store: Store,
    away: bool,
    /// Scripts are refused.
    no_scripts: bool,
    sidecars: Vec<Option<Sidecar>>,
    lives: Vec<u32>,
    saved: Vec<Vec<SessionId>>,
    app_down: Vec<bool>,
    ledger: Vec<Effected>,
    settled: Vec<bool>,
    /// Events in the topic of dead letters.
    dead_letters: Vec<bool>,
    /// Records in the topic of skipped duplicates, by partition and offset.
    skipped: HashSet<(i32, i64)>,
    /// Records that the app has completed or rejected themselves, or that are dead letters.
    taken: HashSet<(i32, i64)>,
    pub(crate) seen: Seen,
    sessions: std::sync::Arc<std::sync::atomic::AtomicU64>,
    story: VecDeque<String>,
    broken: Option<String>,
}

const FAULTS_END: Duration = Duration::from_secs(40);
const GIVE_UP: Duration = Duration::from_secs(1_200);
/// Longer than any claim lives there.
const WEEKEND: Duration = Duration::from_secs(7_200);
const START: Duration = Duration::from_secs(1_000);

impl World {
    pub(crate) fn new(plan: Plan, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut log = vec![Vec::new(); plan.partitions];
        for event in 0..plan.events {
            log[rng.random_range(0..plan.partitions)].push(event);
            // Three in ten come twice, somewhere near or far.
            if rng.random_bool(0.3) {
                let again = rng.random_range(0..=event);
                log[rng.random_range(0..plan.partitions)].push(again);
            }
        }
        let mut world = Self {
            rng,
            now: Time::at(START),
            agenda: BinaryHeap::new(),
            actions: std::collections::HashMap::new(),
            serial: 0,
            broker: Broker::new(log),
            store: Store::default(),
            away: false,
            no_scripts: false,
            sidecars: (0..plan.sidecars).map(|_| None).collect(),
            lives: vec![0; plan.sidecars],
            saved: vec![Vec::new(); plan.sidecars],
            app_down: vec![false; plan.sidecars],
            ledger: Vec::new(),
            settled: vec![false; plan.events],
            dead_letters: vec![false; plan.events],
            skipped: HashSet::new(),
            taken: HashSet::new(),
            seen: Seen::default(),
            sessions: std::sync::Arc::default(),
            story: VecDeque::new(),
            broken: None,
            plan,
        };
        world.set_out();
        world
    }

    fn set_out(&mut self) {
        for sidecar in 0..self.plan.sidecars {
            self.after(0, Action::Start(sidecar));
        }
        for partition in 0..self.plan.partitions {
            self.broker.heir[partition] = Some(self.rng.random_range(0..self.plan.sidecars));
            self.after(5, Action::Adopt(partition));
        }
        let faults = self.plan.faults;
        if faults.weekend {
            let at = self.rng.random_range(1_000..20_000);
            let weekend = u64::try_from(WEEKEND.as_millis()).unwrap_or(u64::MAX);
            for sidecar in 0..self.plan.sidecars {
                self.after(at, Action::AppDown { sidecar, down: true });
                self.after(at + weekend, Action::AppDown { sidecar, down: false });
            }
        }
        for second in 1..FAULTS_END.as_secs() {
            let at = second * 1_000;
            if faults.crash && self.rng.random_bool(0.1) {
                self.after(at, Action::Crash);
            }
            if faults.rebalance && self.rng.random_bool(0.4) {
                self.after(at, Action::Rebalance);
            }
            if faults.outage && self.rng.random_bool(0.1) {
                let long = self.rng.random_range(100..15_000);
                self.after(at, Action::Outage(true));
                self.after(at + long, Action::Outage(false));
            }
            if faults.drain && self.rng.random_bool(0.1) {
                self.after(at, Action::Drain);
            }
            if faults.restart && self.rng.random_bool(0.1) {
                self.after(at, Action::Terminate);
            }
            if faults.scripts && self.rng.random_bool(0.1) {
                let long = self.rng.random_range(100..15_000);
                self.after(at, Action::Scripts(true));
                self.after(at + long, Action::Scripts(false));
            }
            if faults.flush && self.rng.random_bool(0.05) {
                self.after(at, Action::Flush);
            }
            if faults.pause && self.rng.random_bool(0.2) {
                let (sidecar, long) = (self.rng.random_range(0..self.plan.sidecars), self.rng.random_range(1..20_000));
                self.after(at, Action::Pause { sidecar, paused: true });
                self.after(at + long, Action::Pause { sidecar, paused: false });
            }
            if faults.app_down && self.rng.random_bool(0.1) {
                let (sidecar, long) =
                    (self.rng.random_range(0..self.plan.sidecars), self.rng.random_range(100..90_000));
                self.after(at, Action::AppDown { sidecar, down: true });
                self.after(at + long, Action::AppDown { sidecar, down: false });
            }
        }
    }

    /// How long a settled event is remembered. A claim lives an hour at least.
    fn ttl(&self) -> Duration {
        Duration::from_secs(if self.plan.faults.weekend { 60 } else { 86_400 })
    }

    /// Runs until everything is committed. The error says which promise was broken.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        while let Some(Reverse((at, serial))) = self.agenda.pop() {
            self.now = at;
            let Some(action) = self.actions.remove(&serial) else { continue };
            self.act(action);
            if let Some(broken) = self.broken.take() {
                return Err(broken);
            }
            if self.broker.is_done() && self.now.since(Time::at(START)) > FAULTS_END {
                return self.check_ledger();
            }
            if self.now.since(Time::at(START))
                > GIVE_UP + if self.plan.faults.weekend { WEEKEND } else { Duration::ZERO }
            {
                break;
            }
        }
        Err(format!("it stalled: committed {:?} of {:?}", self.broker.committed, self.ends()))
    }

    /// The last things that happened.
    pub(crate) fn tail(&self) -> String {
        self.story.iter().cloned().collect::<Vec<_>>().join("\n")
    }

    fn ends(&self) -> Vec<i64> {
        (0..self.plan.partitions).map(|partition| self.broker.end(partition)).collect()
    }

    fn check_ledger(&self) -> Result<(), String> {
        let faults = self.plan.faults;
        // A drain that ends before a refused copy is taken ends like a crash; what a sidecar completes while the store refuses
        // it is known to others once it is written back.
        let calm = !(faults.crash || faults.restart && faults.copies || faults.scripts);
        let store_kept = !faults.outage && !faults.flush;
        for event in 0..self.plan.events {
            let effects: Vec<&Effected> = self.ledger.iter().filter(|effect| effect.event == event).collect();
            if effects.is_empty() {
                return Err(format!("event {event} is lost"));
            }
            // Each with the one before it that was fully protected, whatever came between.
            let full: Vec<&&Effected> =
                effects.iter().filter(|effect| effect.protection == Protection::Full && store_kept).collect();
            for pair in full.windows(2) {
                if faults.weekend && pair[0].completed {
                    continue; // it is not remembered for so long
                }
                if pair[1].attempt <= pair[0].attempt {
                    return Err(format!("event {event}: attempt {} after {}", pair[1].attempt, pair[0].attempt));
                }
                // Only a crash between the answer and `done` brings a completed event again, or less than full protection.
                if calm && pair[0].completed {
                    return Err(format!("event {event} came again after it was completed"));
                }
            }
            let exhausted = self.dead_letters[event] && !self.is_rejected(event);
            if !faults.app && exhausted != self.is_poison(event) {
                return Err(format!("event {event} is a dead letter: {exhausted}"));
            }
        }
        Ok(())
    }

    /// The app rejects it.
    fn is_rejected(&self, event: usize) -> bool {
        self.plan.reject && event % 10 == 3
    }

    /// It breaks every request in which it is.
    fn is_poison(&self, event: usize) -> bool {
        self.plan.max_attempts.is_some() && event % 10 == 7
    }

    fn after(&mut self, millis: u64, action: Action) {
        self.at(self.now + Duration::from_millis(millis), action);
    }

    fn at(&mut self, at: Time, action: Action) {
        self.serial += 1;
        self.actions.insert(self.serial, action);
        self.agenda.push(Reverse((at, self.serial)));
    }

    fn tell(&mut self, what: String) {
        if self.story.len() > 1_000 {
            self.story.pop_front();
        }
        self.story.push_back(format!("{:?} {what}", self.now.since(Time::at(START))));
    }

    fn alive(&mut self, sidecar: usize, life: u32) -> Option<&mut Sidecar> {
        let same = self.lives[sidecar] == life;
        self.sidecars[sidecar].as_mut().filter(|_| same)
    }

    fn act(&mut self, action: Action) {
        let now = self.now;
        match action {
            Action::Wake(sidecar, life) => {
                if let Some(found) = self.alive(sidecar, life).filter(|found| found.wake == Some(now)) {
                    found.wake = None;
                    self.settle_down(sidecar);
                }
            }
            Action::Apply { op } => {
                let reply = self.store.apply(&op, now);
                self.tell(format!("late: {op:?} -> {reply:?}"));
            }
            Action::Answers { sidecar, life, answers } => {
                if let Some(found) = self.alive(sidecar, life) {
                    found.pipeline.gate().answered(answers, now);
                    self.settle_down(sidecar);
                }
            }
            Action::Answered { sidecar, life, id, outcomes } => {
                if let Some(found) = self.alive(sidecar, life) {
                    found.pipeline.delivered(id, outcomes, now);
                    self.settle_down(sidecar);
                }
            }
            Action::Read { sidecar, life, partition, epoch, next } => self.read(sidecar, life, partition, epoch, next),
            Action::AppUp { sidecar, life } => {
                let down = self.app_down[sidecar];
                if let Some(found) = self.alive(sidecar, life) {
                    if down {
                        return self.after(100, Action::AppUp { sidecar, life });
                    }
                    found.watching = false;
                    found.pipeline.app_accepts(now);
                    self.settle_down(sidecar);
                }
            }
            Action::Start(sidecar) => self.start(sidecar),
            Action::Crash => self.crash(),
            Action::Rebalance => self.rebalance(),
            Action::Adopt(partition) => self.adopt(partition),
            Action::Outage(away) => {
                self.tell(format!("store away: {away}"));
                self.away = away;
            }
            Action::Copied { sidecar, life, id, result } => {
                if let Some(found) = self.alive(sidecar, life) {
                    found.pipeline.copied(id, result, now);
                    self.settle_down(sidecar);
                }
            }
            Action::Drain => self.drain(),
            Action::Terminate => self.terminate(),
            Action::End { sidecar, life } => self.end(sidecar, life),
            Action::Scripts(refused) => {
                self.tell(format!("scripts refused: {refused}"));
                self.no_scripts = refused;
            }
            Action::Flush => {
                self.tell("the store forgets everything".into());
                self.store = Store::default();
                self.seen.flushed += 1;
            }
            Action::Pause { sidecar, paused } => self.pause(sidecar, paused),
            Action::AppDown { sidecar, down } => {
                self.tell(format!("app {sidecar} down: {down}"));
                self.app_down[sidecar] = down;
            }
        }
    }

    fn read(&mut self, sidecar: usize, life: u32, partition: usize, epoch: u64, next: i64) {
        if self.broker.epoch[partition] != epoch || next >= self.broker.end(partition) {
            return;
        }
        let upto = self.broker.end(partition).min(next + self.rng.random_range(1..8));
        let arrivals = (next..upto).map(|offset| self.broker.arrival(partition, offset)).collect();
        let Some(found) = self.alive(sidecar, life) else { return };
        found.pipeline.arrived(&Broker::place(partition), epoch, arrivals);
        self.settle_down(sidecar);
        let pause = self.rng.random_range(0..1_500);
        self.after(pause, Action::Read { sidecar, life, partition, epoch, next: upto });
    }

    fn settle_down(&mut self, sidecar: usize) {
        let (now, life) = (self.now, self.lives[sidecar]);
        let Some(found) = &mut self.sidecars[sidecar] else { return };
        found.pipeline.advance(now);
        let effects = found.pipeline.take_effects();
        let saved = found.pipeline.gate().take_save();
        let ops = found.pipeline.gate().take_ops();
        let due = found.pipeline.next_due();
        if effects.iter().any(|effect| matches!(effect, Effect::Deliver { .. })) && found.pipeline.status(now).paused {
            self.broken = Some(format!("sidecar {sidecar} delivers while it is paused or drained"));
        }
        if let Some(saved) = saved {
            self.saved[sidecar] = saved;
        }
        if !ops.is_empty() {
            self.send(sidecar, ops);
        }
        for effect in effects {
            self.perform(sidecar, effect);
        }
        let due = due.map(|due| due.max(now + Duration::from_millis(1)));
        let sooner =
            |found: &&mut Sidecar| found.wake.is_none_or(|wake| wake <= now || due.is_some_and(|due| due < wake));
        if let Some(due) = due
            && let Some(found) = self.alive(sidecar, life).filter(sooner)
        {
            found.wake = Some(due);
            self.at(due, Action::Wake(sidecar, life));
        }
    }
}
