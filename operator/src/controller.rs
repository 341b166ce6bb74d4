//! Decides the order of a reconcile's steps: dereference → validate → build → apply → status. I/O.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crds::v1alpha1::{IdempotentConsumer, IdempotentConsumerStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::DynamicObject;
use kube::runtime::controller::Action;
use kube::runtime::events::Reporter;
use kube::{Client, Resource, ResourceExt};
use tokio::sync::mpsc::UnboundedSender;

pub mod apply;
pub mod backoff;
pub mod build;
pub mod deployment;
pub mod dereference;
pub mod events;
pub mod key;
pub mod memory;
pub mod observe;
pub mod rollout;
mod run;
pub mod status;
pub mod store;
pub mod upgrade;
pub mod validate;
pub mod watch;

pub use run::run;

use self::apply::{Applied, Target};
use self::build::ChildKind;
use self::dereference::References;
use self::key::Key;
use self::memory::{Memory, Remembered, Written};
use self::observe::Answer;
use self::rollout::Plan;
use self::status::{Found, Worth};
use self::store::{Guarded, Stores};
use self::upgrade::{Progress, Slots, Upgrade};
use self::validate::{Defaults, Invalid, Validated};
use self::watch::Listings;
use crate::kube_error::words;
use crate::metrics::Metrics;
use crate::metrics::labels::Outcome;

/// A reconcile's requests are answered within this time, or it is tried again: one that waits for ever would be this consumer's last.
const PATIENCE: Duration = Duration::from_secs(90);
/// The same for asking the sidecars and writing the status.
const REPORT: Duration = Duration::from_secs(60);

/// What every reconcile has at hand.
pub struct Context {
    /// The way to the API server. None of its requests is without an answer for ever.
    pub client: Client,
    /// The way to the API server for watches, which may say nothing for minutes.
    pub watches: Client,
    /// What is still to be listed.
    pub listings: Listings,
    /// What is known of the cluster.
    pub stores: Stores,
    /// What the operator brings to every consumer.
    pub defaults: Defaults,
    /// What becomes of consumers that another operator rolled out.
    pub upgrade: Upgrade,
    /// Who is rolled for that reason now.
    pub slots: Mutex<Slots>,
    /// What is remembered of each consumer.
    pub memory: Memory,
    /// Consumers to look at again.
    pub wake: UnboundedSender<Key>,
    /// Who tells events.
    pub reporter: Reporter,
    /// The figures.
    pub metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("defaults", &self.defaults)
            .field("stores", &self.stores)
            .finish_non_exhaustive()
    }
}

/// Why a consumer is not as it shall be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The resource can't be read: it was stored by another version, or past the API server's checks.
    #[error("the resource can't be read: {0}")]
    Undecodable(String),
    /// What it names could not be looked up.
    #[error(transparent)]
    Dereference(#[from] dereference::Error),
    /// It can't be carried out.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Its desired state is not in the cluster.
    #[error(transparent)]
    Apply(#[from] apply::Error),
    /// Its status could not be read or written.
    #[error("the status can't be read or written: {}", words(.0))]
    Status(Box<kube::Error>),
    /// Pods of a Deployment that is gone have not ended, and new ones would not see their claims.
    #[error(
        "the pod {0} of the former Deployment has not ended, and new pods would not see its claims; the Deployment is made when it has"
    )]
    OldPods(String),
    /// The API server did not answer in time.
    #[error("the API server has not answered within {} s", PATIENCE.as_secs())]
    Late,
    /// The operator ends.
    #[error("the operator ends")]
    Ending,
}

impl Error {
    /// The reason, where the fault is the resource's and stays until something changes; `None` where it may pass by waiting.
    #[must_use]
    pub fn mistake(&self) -> Option<&'static str> {
        match self {
            Self::Undecodable(_) => Some("Undecodable"),
            Self::Invalid(invalid) => {
                Some(invalid.mistakes.first().map_or("InvalidSpec", |mistake| mistake.reason.as_str()))
            }
            Self::Apply(apply::Error::NameConflict { .. }) => Some("NameConflict"),
            Self::Apply(apply::Error::TemplateRefused { .. }) => Some("TemplateRefused"),
            Self::Apply(apply::Error::ChildRefused { .. }) => Some("ChildRefused"),
            Self::Apply(apply::Error::Api { .. } | apply::Error::Predecessor { .. })
            | Self::Dereference(_)
            | Self::Status(_)
            | Self::OldPods(_)
            | Self::Late
            | Self::Ending => None,
        }
    }

    /// The consumer's namespace is being deleted, and all that is in it.
    fn namespace_ends(&self) -> bool {
        matches!(self, Self::Apply(apply::Error::Api { source, .. }) if crate::kube_error::namespace_ends(source))
    }

    /// Its label in the metrics: one of a closed set.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Undecodable(_) => Outcome::Undecodable,
            Self::Invalid(_) => Outcome::Invalid,
            Self::Apply(apply::Error::NameConflict { .. }) => Outcome::NameConflict,
            Self::Apply(apply::Error::TemplateRefused { .. } | apply::Error::ChildRefused { .. }) => Outcome::Refused,
            Self::Apply(apply::Error::Api { .. }) => Outcome::ApplyFailed,
            Self::Dereference(_) => Outcome::DereferenceFailed,
            Self::Status(_) => Outcome::StatusFailed,
            Self::OldPods(_) | Self::Apply(apply::Error::Predecessor { .. }) => Outcome::Waiting,
            Self::Late => Outcome::Late,
            Self::Ending => Outcome::Ending,
        }
    }
}

/// What becomes of a consumer: the one way through.
///
/// # Guarantees
/// - Its status is written however it went.
/// - One that is as it shall be costs no request but the questions to its sidecars.
///
/// # Errors
/// What may pass by waiting. A mistake of the resource's is none: it stands in its status.
pub async fn reconcile(object: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Error> {
    let (key, meta) = (Key::of(object.as_ref()), object.meta());
    // Its children go with it: they belong to it, and the garbage collector sees to that.
    if meta.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    context.stores.ready().await.map_err(|_| Error::Ending)?;
    let started = Instant::now();
    let shared = context.memory.of(&key, meta.uid.as_deref().unwrap_or_default());
    let mut memory = shared.lock().await;
    if memory.namespace_ends {
        return Ok(Action::await_change());
    }
    let mut pass =
        Pass { context: &context, key: &key, object: &object, memory: &mut memory, outdated: None, again: false };
    let result = tokio::time::timeout(PATIENCE, pass.carry_out()).await.unwrap_or(Err(Error::Late));
    if result.as_ref().is_err_and(Error::namespace_ends) {
        // Its children go before it does, and each would be made again in vain.
        tracing::info!(consumer = %key, "its namespace is being deleted: nothing is done for it any more");
        memory.namespace_ends = true;
        return Ok(Action::await_change());
    }
    // 5. status
    let written = tokio::time::timeout(REPORT, pass.report(&result)).await.unwrap_or(Err(Error::Late));
    let pods = written.as_ref().is_ok_and(|pods| *pods);
    let again = pass.again.then(|| backoff::after_refusal(1, rand::random()));
    let failed = result.as_ref().err().or(written.as_ref().err());
    context.metrics.reconciled(failed.map_or(Outcome::Done, Error::outcome), started.elapsed());
    let retry = match result {
        // The pod's end wakes it, too.
        Err(Error::OldPods(_)) => Some(backoff::until_asked(rand::random())),
        Err(error) if error.mistake().is_none() => return Err(error),
        Err(Error::Apply(apply::Error::TemplateRefused { retry, .. })) => Some(retry),
        // Who has the name may go without our hearing of it, as may what refuses a child.
        Err(Error::Apply(_)) => Some(backoff::after_refusal(3, rand::random())),
        // Whatever it waits for wakes it; should that ever be missed, it is not for good.
        Err(_) => Some(backoff::after_mistake(rand::random())),
        Ok(_) => None,
    };
    written?;
    memory.failures = 0;
    let ask = pods.then(|| backoff::until_asked(rand::random()));
    Ok(match retry.into_iter().chain(ask).chain(again).min() {
        Some(pause) => Action::requeue(pause),
        None => Action::await_change(),
    })
}

/// When a reconcile that failed is tried again: later each time, and not in step with others.
#[allow(clippy::needless_pass_by_value, reason = "the controller's signature")]
pub fn error_policy(object: Arc<Guarded>, error: &Error, context: Arc<Context>) -> Action {
    let key = Key::of(object.as_ref());
    let failures = context.memory.failed(&key);
    let pause = backoff::after_failure(failures, rand::random());
    tracing::warn!(consumer = %key, %error, failures, pause_ms = pause.as_millis(), "a reconcile failed and is tried again");
    Action::requeue(pause)
}

/// One reconcile of one consumer.
struct Pass<'a> {
    context: &'a Context,
    key: &'a Key,
    object: &'a Guarded,
    memory: &'a mut Remembered,
    /// Another operator rolled it out, and why it stays as it is.
    outdated: Option<&'static str>,
    /// Pausing or scaling beside a mistake has failed.
    again: bool,
}

impl Pass<'_> {
    async fn carry_out(&mut self) -> Result<Applied, Error> {
        let mut was_there = false;
        let result = self.steps(&mut was_there).await;
        self.tell_slots(was_there, &result);
        if result.as_ref().is_err_and(|error| error.mistake().is_some()) {
            self.follow().await;
        }
        result
    }

    /// Pausing and scaling touch no pod that runs, so that they follow the spec also where the rest of it can't be carried out.
    async fn follow(&mut self) {
        let Ok(consumer) = &self.object.0 else { return };
        let uid = consumer.metadata.uid.as_deref().unwrap_or_default();
        let target = Target { client: &self.context.client, stores: &self.context.stores, consumer: self.key, uid };
        let switches = build::switches(consumer);
        match apply::follow(target, &switches, consumer.spec.replicas, &mut self.memory.ledger).await {
            Ok(written) => written.into_iter().for_each(|kind| self.context.metrics.written(kind)),
            Err(error) => {
                tracing::warn!(consumer = %self.key, %error, "pausing or scaling has failed and is tried again");
                self.again = true;
            }
        }
    }

    async fn steps(&mut self, was_there: &mut bool) -> Result<Applied, Error> {
        let consumer = match &self.object.0 {
            Ok(consumer) => consumer,
            Err(invalid) => return Err(Error::Undecodable(invalid.error.clone())),
        };
        let (client, stores) = (&self.context.client, &self.context.stores);
        // 1. dereference
        let references = dereference::dereference(client, stores, self.key, consumer, self.memory).await?;
        *was_there = references.running.is_some();
        // 2. validate
        let validated = self.validate(consumer, &references)?;
        if let Some(pod) = validated.old_pod() {
            return Err(Error::OldPods(pod.to_owned()));
        }
        // 3. build
        let desired = build::build(&validated);
        // 4. apply
        let uid = consumer.metadata.uid.as_deref().unwrap_or_default();
        let target = Target { client, stores, consumer: self.key, uid };
        let applied = apply::apply(target, &desired, &mut self.memory.ledger, Instant::now()).await;
        let mut applied = applied?;
        applied.heals(validated.heals());
        for kind in applied.written() {
            self.context.metrics.written(*kind);
        }
        Ok(applied)
    }

    /// Validates; one that another operator rolled out is rolled if that is wanted and there is room.
    fn validate(&mut self, consumer: &IdempotentConsumer, references: &References) -> Result<Validated, Error> {
        let defaults = &self.context.defaults;
        let validated = validate::validate(consumer, references, defaults, false)?;
        if validated.plan() != Plan::Keep {
            return Ok(validated);
        }
        if self.context.upgrade == Upgrade::OnChange {
            self.outdated = Some("it is rolled when its spec changes");
            return Ok(validated);
        }
        let mut slots = lock(&self.context.slots);
        slots.begin(|| self.context.under_way());
        if !slots.ask(self.key, consumer.metadata.generation) {
            self.outdated = Some("it is rolled when it is its turn, or its spec changes after a roll that failed");
            return Ok(validated);
        }
        drop(slots);
        Ok(validate::validate(consumer, references, defaults, true)?)
    }

    /// Tells how a roll for an upgrade goes on, and wakes those that can begin theirs.
    fn tell_slots(&self, was_there: bool, result: &Result<Applied, Error>) {
        if self.context.upgrade == Upgrade::OnChange || self.outdated.is_some() {
            return;
        }
        let mut slots = lock(&self.context.slots);
        let progress = match result {
            Ok(applied) => match applied.deployment().map(deployment::Facts::of) {
                Some(facts) if facts.stuck.is_some() => Progress::Failed,
                Some(facts) if !facts.complete() && !facts.rolled_out => Progress::UnderWay,
                _ => Progress::Complete,
            },
            // It does not go on until somebody changes something: others need not wait for that.
            Err(error) if error.mistake().is_some() => Progress::Failed,
            Err(_) => return,
        };
        // A consumer's first pods are no upgrade.
        if progress == Progress::UnderWay && !was_there {
            return;
        }
        if progress == Progress::Failed && slots.holds(self.key) {
            tracing::warn!(consumer = %self.key, "the roll-out for an upgrade has failed; others go on");
            self.context.metrics.upgrades_failed.inc();
        }
        for key in slots.tell(self.key, self.object.meta().generation, progress) {
            let _ = self.context.wake.send(key);
        }
    }

    /// Asks the sidecars, and writes the status and the events that follow; whether there are pods.
    async fn report(&mut self, result: &Result<Applied, Error>) -> Result<bool, Error> {
        let consumer = self.object.0.as_ref().ok();
        let pods = self.pods();
        let port = consumer.map_or(9464, |consumer| u16::try_from(consumer.spec.sidecar.admin_port).unwrap_or(9464));
        let answers = observe::observe(&pods, port).await;
        let unheard = answers.iter().filter(|answer| answer.said.is_err()).map(|answer| answer.pod.clone()).collect();
        let missed = std::mem::replace(&mut self.memory.missed, unheard);
        let shown = self.context.stores.children(ChildKind::Deployment).get(self.key);
        let shown = self.memory.ledger.live(ChildKind::Deployment, &self.key.name, shown);
        let uid = self.object.meta().uid.clone().unwrap_or_default();
        let shown = shown.filter(|live| dereference::is_owned_by(live, &uid));
        let found = Found {
            spec: consumer.map(|consumer| &consumer.spec),
            group: consumer.map(validate::group),
            generation: self.object.meta().generation,
            result: result.as_ref(),
            deployment: result.as_ref().ok().and_then(Applied::deployment).or(shown.as_deref()),
            pods: &pods,
            answers: &answers,
            missed: &missed,
            outdated: self.outdated,
        };
        let (before, now) = (self.status_before().await?, now());
        let after = status::status(&before, &found, &now);
        if status::worth(&before, &after, &now) == Worth::Now {
            let write = status::write(&self.context.client, self.key, &uid, &after).await;
            if !write.map_err(|error| Error::Status(Box::new(error)))? {
                return Ok(false);
            }
            self.context.metrics.status_writes.inc();
            let before = self.object.meta().resource_version.clone();
            self.memory.status = Some(Written { before, status: after.clone() });
        }
        self.tell(&before, &after, result.as_ref().ok(), &answers).await;
        Ok(!pods.is_empty())
    }

    async fn tell(
        &mut self,
        before: &IdempotentConsumerStatus,
        after: &IdempotentConsumerStatus,
        applied: Option<&Applied>,
        answers: &[Answer],
    ) {
        let mut notices = events::notices(before, after, applied);
        let wanted =
            applied.and_then(Applied::deployment).map(deployment::Facts::of).filter(deployment::Facts::complete);
        if let Some(facts) = wanted {
            let known = before.events.as_ref().map_or(0, |events| events.partitions);
            self.memory.partitions = self.memory.partitions.max(status::partitions(answers));
            let crowding = status::crowding(facts.wanted, answers, known.max(self.memory.partitions));
            if let Some(crowding) = crowding.filter(|_| !self.memory.crowded) {
                notices.push(events::crowded(crowding));
            }
            // A sidecar that is not heard now and then is no reason to tell it again.
            if crowding.is_some() || answers.iter().all(|answer| answer.said.as_ref().is_ok_and(|said| said.joined)) {
                self.memory.crowded = crowding.is_some();
            }
        }
        let (client, reporter) = (&self.context.client, &self.context.reporter);
        events::publish(client, reporter, &mut self.memory.told, &self.object.object_ref(&()), notices).await;
    }

    /// The status so far: what was written last, until the store shows something newer.
    async fn status_before(&self) -> Result<IdempotentConsumerStatus, Error> {
        let version = &self.object.meta().resource_version;
        if let Some(written) = self.memory.status.as_ref().filter(|written| written.before == *version) {
            return Ok(written.status.clone());
        }
        match &self.object.0 {
            Ok(consumer) => Ok(consumer.status.clone().unwrap_or_default()),
            // What can't be read may still have a status that can.
            Err(_) => {
                let api = status::raw(&self.context.client, &self.key.namespace);
                let raw = api.get_opt(&self.key.name).await.map_err(|error| Error::Status(Box::new(error)))?;
                let status = raw.and_then(|raw| raw.data.get("status").cloned());
                Ok(status.and_then(|status| serde_json::from_value(status).ok()).unwrap_or_default())
            }
        }
    }

    /// The pods of this consumer's ReplicaSets: a label alone can be put on any pod.
    fn pods(&self) -> Vec<Arc<Pod>> {
        let stores = &self.context.stores;
        let sets = stores.replica_sets.of(self.key);
        let is_of = |pod: &Arc<Pod>| {
            let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
            owner.is_some_and(|owner| sets.iter().any(|set| set.uid().as_deref() == Some(owner.uid.as_str())))
        };
        stores.pods.of(self.key).into_iter().filter(is_of).collect()
    }
}

/// The one place of a reconcile that reads the wall clock: for conditions.
fn now() -> Time {
    Time(k8s_openapi::jiff::Timestamp::now())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic leaves behind does not matter: the process ends on it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Context {
    /// Consumers whose roll-out by an operator of this revision is found under way after a start.
    fn under_way(&self) -> Vec<Key> {
        let revision = self.defaults.revision();
        let rolls = |deployment: &DynamicObject| {
            let facts = deployment::Facts::of(deployment);
            let ours = deployment::running(deployment).revision == revision;
            ours && !facts.complete() && !facts.rolled_out && facts.stuck.is_none()
        };
        let there = self.stores.children(ChildKind::Deployment).store().state();
        let keys = there.iter().filter(|deployment| rolls(deployment)).map(|deployment| Key::of(deployment.as_ref()));
        keys.filter(|key| self.stores.consumers.get(key).is_some()).collect()
    }

    /// Forgets consumers that are gone, and shows how the others are.
    pub fn sweep(&self) {
        let store = self.stores.consumers.store();
        for gone in self.memory.retain(|key| self.stores.consumers.get(key).is_some()) {
            self.stores.named_by.forget(&gone);
            self.stores.rivalled.forget(&gone);
            for key in lock(&self.slots).forget(&gone) {
                let _ = self.wake.send(key);
            }
        }
        let statuses = store.state();
        let statuses =
            statuses.iter().map(|object| object.0.as_ref().ok().and_then(|consumer| consumer.status.as_ref()));
        self.metrics.show_consumers(statuses);
        self.metrics.show_upgrades(lock(&self.slots).counts());
    }
}
