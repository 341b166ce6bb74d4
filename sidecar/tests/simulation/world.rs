//! Sidecars, broker, store and app together, moved by a seed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use crds::config::{FailurePolicy, Ordering};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sidecar::claim::SessionId;
use sidecar::clock::Time;
use sidecar::deliver::{Parcel, Protection};
use sidecar::gate::{Gate, GateConfig, Token};
use sidecar::outcome::{Outcome, Reason};
use sidecar::pipeline::{Effect, Pipeline, PipelineConfig};
use sidecar::store::{Op, Reply, StoreError};
use uuid::Uuid;

use super::broker::Broker;
use super::store::Store;

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
}

struct Sidecar {
    pipeline: Pipeline,
    watching: bool,
}

struct Effected {
    event: usize,
    attempt: u32,
    protection: Protection,
    completed: bool,
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
    sidecars: Vec<Option<Sidecar>>,
    lives: Vec<u32>,
    saved: Vec<Vec<SessionId>>,
    app_down: Vec<bool>,
    ledger: Vec<Effected>,
    settled: Vec<bool>,
    sessions: std::sync::Arc<std::sync::atomic::AtomicU64>,
    story: VecDeque<String>,
    broken: Option<String>,
}

const FAULTS_END: Duration = Duration::from_secs(40);
const GIVE_UP: Duration = Duration::from_secs(1_200);
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
            sidecars: (0..plan.sidecars).map(|_| None).collect(),
            lives: vec![0; plan.sidecars],
            saved: vec![Vec::new(); plan.sidecars],
            app_down: vec![false; plan.sidecars],
            ledger: Vec::new(),
            settled: vec![false; plan.events],
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
            if faults.app_down && self.rng.random_bool(0.1) {
                let (sidecar, long) =
                    (self.rng.random_range(0..self.plan.sidecars), self.rng.random_range(100..90_000));
                self.after(at, Action::AppDown { sidecar, down: true });
                self.after(at + long, Action::AppDown { sidecar, down: false });
            }
        }
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
            if self.now.since(Time::at(START)) > GIVE_UP {
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
        let calm = !self.plan.faults.crash;
        for event in 0..self.plan.events {
            let effects: Vec<&Effected> = self.ledger.iter().filter(|effect| effect.event == event).collect();
            if effects.is_empty() {
                return Err(format!("event {event} is lost"));
            }
            for pair in effects.windows(2) {
                let covered = pair[1].protection == Protection::Full && pair[0].protection == Protection::Full;
                if covered && !self.plan.faults.outage && pair[1].attempt <= pair[0].attempt {
                    return Err(format!("event {event}: attempt {} after {}", pair[1].attempt, pair[0].attempt));
                }
                // Only a crash between the answer and `done` brings a completed event again, or less than full protection.
                if calm && pair[0].completed && covered && !self.plan.faults.outage {
                    return Err(format!("event {event} came again after it was completed"));
                }
            }
        }
        Ok(())
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
                if self.alive(sidecar, life).is_some() {
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
            Action::AppDown { sidecar, down } => {
                self.tell(format!("app {sidecar} down: {down}"));
                self.app_down[sidecar] = down;
            }
        }
    }

    fn start(&mut self, sidecar: usize) {
        let gate = GateConfig {
            policy: self.plan.policy,
            session_prefix: "s:".into(),
            session_ttl: Duration::from_secs(10),
            done_values: Vec::new(),
            longest_ttl: Duration::from_secs(86_400),
        };
        let sessions = self.sessions.clone();
        let fresh = move || {
            let next = sessions.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            SessionId::new(Uuid::from_u128(u128::from(next) + 1))
        };
        let gate = Gate::new(gate, self.saved[sidecar].clone(), fresh, self.now);
        let config = PipelineConfig {
            group: "g".into(),
            key_prefix: "k:".into(),
            ttl: Duration::from_secs(86_400),
            ttl_overrides: Default::default(),
            ordering: self.plan.ordering,
            concurrency: 8,
            batch: self.plan.batch,
            backoff: Default::default(),
            max_attempts: None,
            dead_letter_topic: None,
            duplicates_topic: None,
            app_down_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
            commit_every: Duration::from_millis(250),
            paused: false,
        };
        let seed = self.rng.random();
        let mut pipeline = Pipeline::new(config, gate, StdRng::seed_from_u64(seed), self.now);
        pipeline.start();
        self.sidecars[sidecar] = Some(Sidecar { pipeline, watching: false });
        self.tell(format!("sidecar {sidecar} starts"));
        self.settle_down(sidecar);
    }

    fn crash(&mut self) {
        let sidecar = self.rng.random_range(0..self.plan.sidecars);
        if self.sidecars[sidecar].take().is_none() {
            return;
        }
        self.tell(format!("sidecar {sidecar} dies"));
        self.lives[sidecar] += 1;
        let back = self.rng.random_range(50..8_000);
        self.after(back, Action::Start(sidecar));
        let timeout = self.rng.random_range(100..12_000);
        for partition in 0..self.plan.partitions {
            if self.broker.owner[partition] == Some(sidecar) {
                self.broker.owner[partition] = None;
                self.broker.heir[partition] = Some(self.rng.random_range(0..self.plan.sidecars));
                self.after(timeout, Action::Adopt(partition));
            }
        }
    }

    fn rebalance(&mut self) {
        let partition = self.rng.random_range(0..self.plan.partitions);
        let heir = self.rng.random_range(0..self.plan.sidecars);
        let Some(owner) = self.broker.owner[partition] else { return };
        if owner == heir || self.broker.heir[partition].is_some() {
            return;
        }
        self.broker.heir[partition] = Some(heir);
        let (place, now) = (Broker::place(partition), self.now);
        let lost = self.rng.random_bool(0.2);
        self.tell(format!("partition {partition} goes from {owner} to {heir}, lost: {lost}"));
        if let Some(found) = &mut self.sidecars[owner] {
            if lost {
                found.pipeline.lost(&[place], now);
                self.broker.owner[partition] = None;
                self.after(1, Action::Adopt(partition));
            } else {
                found.pipeline.revoked(&[place], now);
            }
        }
        self.settle_down(owner);
    }

    fn adopt(&mut self, partition: usize) {
        if self.broker.owner[partition].is_some() {
            return;
        }
        let heir = self.broker.heir[partition].unwrap_or(0);
        let Some(found) = &mut self.sidecars[heir] else {
            return self.after(200, Action::Adopt(partition));
        };
        self.broker.epoch[partition] += 1;
        let epoch = self.broker.epoch[partition];
        found.pipeline.assigned(vec![Broker::place(partition)], epoch);
        self.broker.owner[partition] = Some(heir);
        self.broker.heir[partition] = None;
        let (life, next) = (self.lives[heir], self.broker.committed[partition]);
        self.tell(format!("partition {partition} is {heir}'s from {next}"));
        self.after(1, Action::Read { sidecar: heir, life, partition, epoch, next });
        self.settle_down(heir);
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
        if let Some(saved) = saved {
            self.saved[sidecar] = saved;
        }
        if !ops.is_empty() {
            self.send(sidecar, ops);
        }
        for effect in effects {
            self.perform(sidecar, effect);
        }
        if let Some(due) = due {
            self.at(due.max(now + Duration::from_millis(1)), Action::Wake(sidecar, life));
        }
    }

    fn send(&mut self, sidecar: usize, ops: Vec<(Token, Op)>) {
        let life = self.lives[sidecar];
        let faulty = self.plan.faults.store && self.now.since(Time::at(START)) < FAULTS_END;
        if self.away {
            let error = if self.rng.random_bool(0.5) {
                StoreError::NotSent("away".into())
            } else {
                StoreError::Unanswered("away".into())
            };
            let answers = ops.into_iter().map(|(token, _)| (token, Err(error.clone()))).collect();
            return self.after(250, Action::Answers { sidecar, life, answers });
        }
        let lose_request = faulty && self.rng.random_bool(0.03);
        let lose_reply = faulty && self.rng.random_bool(0.03);
        let late = faulty && self.rng.random_bool(0.03);
        let mut answers = Vec::new();
        for (token, op) in ops {
            let unanswered = Err(StoreError::Unanswered("time-out".into()));
            let answer = if lose_request {
                self.tell(format!("{sidecar}: lost request {op:?}"));
                unanswered
            } else if late {
                self.tell(format!("{sidecar}: will be late {op:?}"));
                let delay = self.rng.random_range(1..15_000);
                self.after(delay, Action::Apply { op });
                unanswered
            } else {
                let reply = self.store.apply(&op, self.now);
                // Renewals go on for ever and tell nothing.
                if !matches!(op, Op::SetIfPresent { .. }) {
                    self.tell(format!("{sidecar}: {op:?} -> {reply:?}{}", if lose_reply { " (lost)" } else { "" }));
                }
                if lose_reply { unanswered } else { Ok(reply) }
            };
            answers.push((token, answer));
        }
        let delay = if lose_request || late || lose_reply { 250 } else { self.rng.random_range(0..3) };
        self.after(delay, Action::Answers { sidecar, life, answers });
    }

    fn perform(&mut self, sidecar: usize, effect: Effect) {
        let life = self.lives[sidecar];
        match effect {
            Effect::Deliver { id, parcels } => self.deliver(sidecar, id, parcels),
            Effect::Commit(requests) => {
                for request in requests {
                    let partition = usize::try_from(request.partition.partition).unwrap();
                    if self.broker.owner[partition] != Some(sidecar) || self.broker.epoch[partition] != request.epoch {
                        continue;
                    }
                    self.commit(partition, request.offset);
                    if let Some(found) = self.alive(sidecar, life) {
                        found.pipeline.committed(&request.partition, request.offset);
                    }
                }
            }
            Effect::FinishRevoke { partitions, commits } => {
                for request in commits {
                    self.commit(usize::try_from(request.partition.partition).unwrap(), request.offset);
                }
                for place in partitions {
                    let partition = usize::try_from(place.partition).unwrap();
                    self.broker.owner[partition] = None;
                    self.after(1, Action::Adopt(partition));
                }
            }
            Effect::WatchApp { .. } => {
                if let Some(found) = self.alive(sidecar, life).filter(|found| !found.watching) {
                    found.watching = true;
                    self.after(100, Action::AppUp { sidecar, life });
                }
            }
            // Assignments are the test's own doing.
            Effect::Join | Effect::Leave | Effect::Room { .. } | Effect::Copy { .. } | Effect::Drained { .. } => {}
        }
    }

    fn commit(&mut self, partition: usize, offset: i64) {
        self.tell(format!("partition {partition} committed up to {offset}"));
        for at in self.broker.committed[partition]..offset {
            let event = self.broker.log[partition][usize::try_from(at).unwrap()];
            if !self.settled[event] {
                self.broken =
                    Some(format!("partition {partition}: committed past offset {at}, event {event} unsettled"));
            }
        }
        self.broker.committed[partition] = self.broker.committed[partition].max(offset);
    }

    fn deliver(&mut self, sidecar: usize, id: usize, parcels: Vec<Parcel>) {
        let life = self.lives[sidecar];
        let faulty = self.plan.faults.app && self.now.since(Time::at(START)) < FAULTS_END;
        let unsent = self.app_down[sidecar];
        let mut outcomes: Vec<Outcome> = Vec::new();
        for parcel in parcels {
            // In order, what follows a failed event in its batch counts as failed too.
            let behind = self.plan.ordering == Ordering::Partition
                && outcomes.iter().any(|outcome| matches!(outcome, Outcome::Failed { .. }));
            let event: usize = std::str::from_utf8(parcel.record.value.as_ref().unwrap()).unwrap().parse().unwrap();
            let failed = |sent, reason| Outcome::Failed { reason, retry_after: None, sent };
            let outcome = if unsent {
                failed(false, Reason::NotSent("refused".into()))
            } else if faulty && self.rng.random_bool(0.15) {
                if self.rng.random_bool(0.5) {
                    self.effect(event, &parcel, false);
                }
                failed(true, Reason::TimedOut)
            } else {
                self.effect(event, &parcel, !behind);
                self.settled[event] |= !behind;
                if self.plan.reject && event % 10 == 3 { Outcome::Rejected(Reason::Drop) } else { Outcome::Completed }
            };
            self.tell(format!("{sidecar}: event {event} attempt {} -> {outcome:?}", parcel.attempt));
            outcomes.push(outcome);
        }
        let long = self.rng.random_range(0..400);
        self.after(long, Action::Answered { sidecar, life, id, outcomes });
    }

    fn effect(&mut self, event: usize, parcel: &Parcel, completed: bool) {
        let (attempt, protection) = (parcel.attempt, parcel.protection);
        self.ledger.push(Effected { event, attempt, protection, completed });
    }
}
