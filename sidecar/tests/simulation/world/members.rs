//! How sidecars come and go, and who gets which partition.

use super::*;

impl World {
    pub(super) fn start(&mut self, sidecar: usize) {
        let gate = GateConfig {
            policy: self.plan.policy,
            session_prefix: "s:".into(),
            session_ttl: Duration::from_secs(10),
            done_values: Vec::new(),
            longest_ttl: self.ttl(),
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
            ttl: self.ttl(),
            ttl_overrides: Default::default(),
            ordering: self.plan.ordering,
            concurrency: 8,
            batch: self.plan.batch,
            backoff: Default::default(),
            max_attempts: self.plan.max_attempts,
            dead_letter_topic: self.plan.copy.then(|| "dead".into()),
            duplicates_topic: self.plan.copy.then(|| "skipped".into()),
            app_down_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
            commit_every: Duration::from_millis(250),
            paused: false,
        };
        let seed = self.rng.random();
        let mut pipeline = Pipeline::new(config, gate, StdRng::seed_from_u64(seed), self.now);
        pipeline.start();
        self.sidecars[sidecar] =
            Some(Sidecar { pipeline, watching: false, wake: None, ending: None, patience: None, left: false });
        self.tell(format!("sidecar {sidecar} starts"));
        self.settle_down(sidecar);
    }

    pub(super) fn crash(&mut self) {
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

    pub(super) fn drain(&mut self) {
        let (sidecar, now) = (self.rng.random_range(0..self.plan.sidecars), self.now);
        if let Some(found) = &mut self.sidecars[sidecar] {
            found.pipeline.drain(false, now);
            self.tell(format!("sidecar {sidecar} drains"));
            self.settle_down(sidecar);
        }
    }

    pub(super) fn pause(&mut self, sidecar: usize, paused: bool) {
        let now = self.now;
        if let Some(found) = &mut self.sidecars[sidecar] {
            found.pipeline.pause(paused, now);
            self.seen.paused += u64::from(paused);
            self.tell(format!("sidecar {sidecar} is paused: {paused}"));
            self.settle_down(sidecar);
        }
    }

    pub(super) fn terminate(&mut self) {
        let (sidecar, now) = (self.rng.random_range(0..self.plan.sidecars), self.now);
        if let Some(found) = self.sidecars[sidecar].as_mut().filter(|found| found.ending.is_none()) {
            found.ending = Some(false);
            found.pipeline.drain(true, now);
            self.tell(format!("sidecar {sidecar} is to end"));
            self.settle_down(sidecar);
        }
    }

    /// Leaves the group and, once every partition is given back, ends the sessions.
    pub(super) fn end(&mut self, sidecar: usize, life: u32) {
        let now = self.now;
        let held: Vec<usize> =
            (0..self.plan.partitions).filter(|partition| self.broker.owner[*partition] == Some(sidecar)).collect();
        let Some(found) = self.alive(sidecar, life) else { return };
        if !held.is_empty() {
            self.give_up(sidecar, &held);
            return self.after(50, Action::End { sidecar, life });
        }
        let patience = *found.patience.get_or_insert(now + Duration::from_secs(5));
        found.pipeline.gate().close();
        let closed = found.pipeline.gate().is_closed();
        if !closed && now < patience {
            self.settle_down(sidecar);
            return self.after(50, Action::End { sidecar, life });
        }
        let load = found.pipeline.load();
        let idle = found.pipeline.gate().is_idle();
        let remembered = self.saved[sidecar].iter().any(|id| self.store.get(&format!("s:{id}"), now).is_some());
        let clean = closed && load.busy == 0 && load.requests == 0 && idle && !remembered;
        let faults = self.plan.faults;
        if !clean && !faults.outage && !faults.copies && !faults.store {
            self.broken = Some(format!(
                "sidecar {sidecar} ended with {load:?}, closed: {closed}, idle: {idle}, sessions left: {remembered}"
            ));
        }
        self.tell(format!("sidecar {sidecar} has ended"));
        self.seen.ended += 1;
        self.sidecars[sidecar] = None;
        self.lives[sidecar] += 1;
        let back = self.rng.random_range(50..8_000);
        self.after(back, Action::Start(sidecar));
    }

    /// The group takes these partitions from their owner, and gives them to somebody.
    pub(super) fn give_up(&mut self, owner: usize, partitions: &[usize]) {
        let now = self.now;
        for partition in partitions {
            if self.broker.heir[*partition].is_none() {
                self.broker.heir[*partition] = Some(self.rng.random_range(0..self.plan.sidecars));
                if let Some(found) = &mut self.sidecars[owner] {
                    found.pipeline.revoked(&[Broker::place(*partition)], now);
                }
            }
        }
        self.settle_down(owner);
    }

    pub(super) fn rebalance(&mut self) {
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

    pub(super) fn adopt(&mut self, partition: usize) {
        if self.broker.owner[partition].is_some() {
            return;
        }
        let heir = self.broker.heir[partition].unwrap_or(0);
        // A member that has left, or is about to, is given nothing.
        let member = self.sidecars[heir].as_mut().filter(|found| !found.left && found.ending.is_none());
        let Some(found) = member else {
            self.broker.heir[partition] = Some(self.rng.random_range(0..self.plan.sidecars));
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

    pub(super) fn drained(&mut self, sidecar: usize, remaining: usize) {
        let life = self.lives[sidecar];
        self.tell(format!("sidecar {sidecar} has drained, {remaining} remain"));
        self.seen.drained += 1;
        // Requests take less than half a second here; only copies that are refused, or an outage, take longer than a drain.
        if remaining > 0 && !self.plan.faults.copies && !self.plan.faults.outage {
            self.broken = Some(format!("sidecar {sidecar} drained with {remaining} under way"));
        }
        let Some(found) = self.alive(sidecar, life) else { return };
        if found.ending == Some(false) {
            found.ending = Some(true);
            self.after(1, Action::End { sidecar, life });
        }
    }
}
