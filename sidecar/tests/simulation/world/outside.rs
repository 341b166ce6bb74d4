//! What store, app and topics do with what a sidecar asks for.

use super::*;

impl World {
    pub(super) fn send(&mut self, sidecar: usize, ops: Vec<(Token, Op)>) {
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
        let refuses = faulty && self.rng.random_bool(0.03);
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
            } else if let Some(error) = self.refusal(&op, refuses) {
                self.tell(format!("{sidecar}: {op:?} -> {error}"));
                Err(error)
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

    /// The server answers with an error, and does nothing.
    fn refusal(&mut self, op: &Op, refuses: bool) -> Option<StoreError> {
        if self.no_scripts && matches!(op, Op::CompareAndSet { .. } | Op::CompareAndDelete { .. }) {
            self.seen.scripts_refused += 1;
            return Some(StoreError::Refused("NOPERM".into()));
        }
        (refuses && self.rng.random_bool(0.5)).then(|| StoreError::Refused("OOM".into()))
    }

    pub(super) fn perform(&mut self, sidecar: usize, effect: Effect) {
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
            Effect::Copy { id, about, .. } => self.copy(sidecar, id, &about),
            Effect::Join => {
                if let Some(found) = self.alive(sidecar, life) {
                    let again = std::mem::take(&mut found.left);
                    self.seen.joined_again += u64::from(again);
                }
            }
            Effect::Leave => {
                self.tell(format!("sidecar {sidecar} leaves the group"));
                self.seen.left += 1;
                if let Some(found) = self.alive(sidecar, life) {
                    found.left = true;
                }
                let held: Vec<usize> = (0..self.plan.partitions)
                    .filter(|partition| self.broker.owner[*partition] == Some(sidecar))
                    .collect();
                self.give_up(sidecar, &held);
            }
            Effect::Drained { remaining, .. } => self.drained(sidecar, remaining),
            Effect::Room { .. } => {}
        }
    }

    pub(super) fn copy(&mut self, sidecar: usize, id: usize, about: &DeadLetter) {
        let life = self.lives[sidecar];
        let faulty = self.plan.faults.copies && self.now.since(Time::at(START)) < FAULTS_END;
        let partition = usize::try_from(about.origin.partition).unwrap();
        let event = self.broker.log[partition][usize::try_from(about.offset).unwrap()];
        let result = if faulty && self.rng.random_bool(0.3) {
            let permanent = self.rng.random_bool(0.3);
            self.seen.refused += u64::from(permanent);
            Err(ProduceError { permanent, message: "no".into() })
        } else {
            match about.outcome {
                Fate::Rejected => {
                    self.dead_letters[event] = true;
                    self.seen.dead_letters += 1;
                }
                Fate::Failed => {
                    self.dead_letters[event] = true;
                    self.settled[event] = true;
                    self.taken.insert((about.origin.partition, about.offset));
                    self.seen.exhausted += 1;
                }
                Fate::Duplicate | Fate::Suspect => {
                    self.skipped.insert((about.origin.partition, about.offset));
                    self.seen.skipped += 1;
                }
            }
            Ok(())
        };
        self.tell(format!("{sidecar}: copy of event {event} ({}) -> {result:?}", about.outcome));
        let long = self.rng.random_range(0..300);
        self.after(long, Action::Copied { sidecar, life, id, result });
    }

    pub(super) fn commit(&mut self, partition: usize, offset: i64) {
        self.tell(format!("partition {partition} committed up to {offset}"));
        for at in self.broker.committed[partition]..offset {
            let event = self.broker.log[partition][usize::try_from(at).unwrap()];
            if !self.settled[event] {
                self.broken =
                    Some(format!("partition {partition}: committed past offset {at}, event {event} unsettled"));
            }
            let place = (i32::try_from(partition).unwrap(), at);
            let rejected = self.is_rejected(event) && !self.dead_letters[event];
            if self.plan.copy && (rejected || !(self.taken.contains(&place) || self.skipped.contains(&place))) {
                self.broken =
                    Some(format!("partition {partition}: committed past offset {at}, event {event} not copied"));
            }
        }
        self.broker.committed[partition] = self.broker.committed[partition].max(offset);
    }

    pub(super) fn deliver(&mut self, sidecar: usize, id: usize, parcels: Vec<Parcel>) {
        let life = self.lives[sidecar];
        let faulty = self.plan.faults.app && self.now.since(Time::at(START)) < FAULTS_END;
        let unsent = self.app_down[sidecar];
        let mut outcomes: Vec<Outcome> = Vec::new();
        let event_of = |parcel: &Parcel| -> usize {
            std::str::from_utf8(parcel.record.value.as_ref().unwrap()).unwrap().parse().unwrap()
        };
        let broken = !unsent && parcels.iter().any(|parcel| self.is_poison(event_of(parcel)));
        for parcel in parcels {
            // In order, what follows a failed event in its batch counts as failed too.
            let behind = self.plan.ordering == Ordering::Partition
                && outcomes.iter().any(|outcome| matches!(outcome, Outcome::Failed { .. }));
            let event = event_of(&parcel);
            let failed = |sent, reason| Outcome::Failed { reason, retry_after: None, sent };
            let outcome = if unsent {
                failed(false, Reason::NotSent("refused".into()))
            } else if broken {
                self.effect(event, &parcel, false);
                failed(true, Reason::Broken("the connection broke".into()))
            } else if faulty && self.rng.random_bool(0.15) {
                if self.rng.random_bool(0.5) {
                    self.effect(event, &parcel, false);
                }
                failed(true, Reason::TimedOut)
            } else {
                self.effect(event, &parcel, !behind);
                self.settled[event] |= !behind;
                if !behind {
                    self.taken.insert((parcel.record.origin.partition, parcel.record.offset));
                }
                if self.is_rejected(event) { Outcome::Rejected(Reason::Drop) } else { Outcome::Completed }
            };
            self.tell(format!("{sidecar}: event {event} attempt {} -> {outcome:?}", parcel.attempt));
            outcomes.push(outcome);
        }
        let long = self.rng.random_range(0..400);
        self.after(long, Action::Answered { sidecar, life, id, outcomes });
    }

    pub(super) fn effect(&mut self, event: usize, parcel: &Parcel, completed: bool) {
        let (attempt, protection) = (parcel.attempt, parcel.protection);
        self.ledger.push(Effected { event, attempt, protection, completed });
    }
}
