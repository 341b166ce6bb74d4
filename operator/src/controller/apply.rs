//! Decides what is written to the cluster, and in which order. I/O: server-side apply, prune.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::FIELD_MANAGER;
use crds::v1alpha1::IdempotentConsumer;
use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{Value, json};

use super::build::{Child, ChildKind, DeploymentChange, DesiredState, annotation};
use super::deployment;
use super::dereference::is_owned_by;
use super::key::Key;
use super::store::Stores;
use crate::kube_error::{refuses, words};

mod ledger;
mod prune;

pub use ledger::{Ledger, project};

/// Why the desired state is not in the cluster.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object of that name is there and belongs to somebody else; it is never taken over.
    #[error(
        "the {kind} `{name}` is there already and does not belong to this consumer: delete or rename it, or give the consumer another name"
    )]
    NameConflict {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
    /// A consumer of the same name was there before, and what belonged to it is being collected: tried again.
    #[error("the {kind} `{name}` belongs to a former consumer of this name and is about to be collected")]
    Predecessor {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
    /// The API server refuses the Deployment. Nothing was applied, and what runs stays.
    #[error("the API server refuses the Deployment: {message}")]
    TemplateRefused {
        /// Its words.
        message: String,
        /// When it is asked again.
        retry: Duration,
    },
    /// The API server refuses another child.
    #[error("the API server refuses the {kind} `{name}`: {message}")]
    ChildRefused {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// The server's words.
        message: String,
    },
    /// The API server did not answer as it should: tried again.
    #[error("can't {action} the {kind} `{name}`: {}", words(source))]
    Api {
        /// What was asked for.
        action: &'static str,
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// What happened.
        source: Box<kube::Error>,
    },
}

/// Why pods are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There were none.
    Created,
    /// The spec has changed.
    SpecChanged,
    /// A Secret's or ConfigMap's value that the spec names has changed.
    ReferenceChanged,
    /// The operator or its default sidecar is another.
    Upgraded,
    /// Somebody had changed the Deployment.
    Corrected,
    /// What the pods need was gone; this is what.
    Healed(&'static str),
}

/// The desired state is in the cluster. Only [`apply`] makes one.
#[derive(Clone, Debug)]
pub struct Applied {
    deployment: Option<Arc<DynamicObject>>,
    written: Vec<ChildKind>,
    rolled: Option<Why>,
    selector: String,
}

impl Applied {
    /// The Deployment as it is now.
    #[must_use]
    pub fn deployment(&self) -> Option<&DynamicObject> {
        self.deployment.as_deref()
    }

    /// What was written, one for each write.
    #[must_use]
    pub fn written(&self) -> &[ChildKind] {
        &self.written
    }

    /// Why pods are being replaced since this time.
    #[must_use]
    pub fn rolled(&self) -> Option<Why> {
        self.rolled
    }

    /// It was rolled since what the pods need was gone.
    pub(super) fn heals(&mut self, what: Option<&'static str>) {
        if let (Some(rolled), Some(what)) = (&mut self.rolled, what) {
            *rolled = Why::Healed(what);
        }
    }

    /// Label selector of the pods.
    #[must_use]
    pub fn selector(&self) -> &str {
        &self.selector
    }
}

/// For whom it is applied, and by what.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The way to the API server.
    pub client: &'a Client,
    /// What is known of the cluster.
    pub stores: &'a Stores,
    /// The consumer.
    pub consumer: &'a Key,
    /// Its uid: what belongs to it has it as its controller.
    pub uid: &'a str,
}

impl std::fmt::Debug for Target<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("consumer", self.consumer).finish_non_exhaustive()
    }
}

/// A child, and what there is of it.
struct Look<'a> {
    child: &'a Child,
    live: Option<Arc<DynamicObject>>,
}

/// Brings the cluster to the desired state. What is there already is not written again.
///
/// # Guarantees
/// - An object of another owner is never touched.
/// - While the API server refuses the Deployment, nothing is written and what runs stays.
/// - The Deployment is written last, when all that it names is there.
///
/// # Errors
/// The first thing that went wrong.
pub async fn apply(
    target: Target<'_>,
    desired: &DesiredState,
    ledger: &mut Ledger,
    now: Instant,
) -> Result<Applied, Error> {
    if let Some(child) = desired.deployment.child() {
        still_refused(child, ledger, now)?;
    }
    let mut looks = Vec::new();
    for child in desired.children.iter().chain(desired.deployment.child()) {
        looks.push(Look { child, live: target.look(child.kind, &child.name, ledger).await? });
    }
    looks.retain(|look| ledger.wants(look.child, look.live.as_deref()));
    if let Some(look) = looks.iter().find(|look| look.child.kind == ChildKind::Deployment) {
        target.try_out(look, ledger, now).await?;
    } else {
        ledger.accepted();
    }
    let mut applied =
        Applied { deployment: None, written: Vec::new(), rolled: None, selector: desired.selector.clone() };
    for look in looks {
        let answer = target.write(&look, ledger).await?;
        applied.written.push(look.child.kind);
        if look.child.kind == ChildKind::Deployment {
            applied.rolled = why(look.live.as_deref(), &answer);
            applied.deployment = Some(Arc::new(answer));
        }
    }
    if applied.deployment.is_none() {
        applied.deployment = target.look(ChildKind::Deployment, desired.deployment.name(), ledger).await?;
    }
    if let DeploymentChange::Replicas { name, replicas } = &desired.deployment {
        target.scale(name, *replicas, &mut applied, ledger).await?;
    }
    prune::prune(target, desired, applied.deployment.as_deref(), ledger, &mut applied.written).await?;
    Ok(applied)
}

/// Lets what touches no pod follow a spec that can't be carried out: the switches, and the number of pods of a Deployment that is there.
/// What was written.
///
/// # Errors
/// The first thing that went wrong.
pub async fn follow(
    target: Target<'_>,
    switches: &Child,
    replicas: i32,
    ledger: &mut Ledger,
) -> Result<Vec<ChildKind>, Error> {
    let name = &target.consumer.name;
    let mut applied = Applied { deployment: None, written: Vec::new(), rolled: None, selector: String::new() };
    let shown =
        ledger.live(ChildKind::Deployment, name, target.stores.children(ChildKind::Deployment).get(target.consumer));
    applied.deployment = shown.filter(|live| is_owned_by(live, target.uid));
    if applied.deployment.is_none() {
        return Ok(Vec::new());
    }
    target.scale(name, replicas, &mut applied, ledger).await?;
    let look = Look { child: switches, live: target.look(switches.kind, &switches.name, ledger).await? };
    if ledger.wants(look.child, look.live.as_deref()) {
        target.write(&look, ledger).await?;
        applied.written.push(look.child.kind);
    }
    Ok(applied.written)
}

impl DeploymentChange {
    /// Its manifest, where it is applied.
    #[must_use]
    pub fn child(&self) -> Option<&Child> {
        match self {
            Self::Apply(child) => Some(child),
            Self::Replicas { .. } => None,
        }
    }

    /// The Deployment's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Apply(child) => &child.name,
            Self::Replicas { name, .. } => name,
        }
    }
}

impl Target<'_> {
    fn api(&self, kind: ChildKind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.consumer.namespace, &kind.resource())
    }

    /// What is there under a child's name. The store shows only what carries our label, and may be behind: before something is made,
    /// the API server is asked.
    async fn look(&self, kind: ChildKind, name: &str, ledger: &Ledger) -> Result<Option<Arc<DynamicObject>>, Error> {
        let shown = self.stores.children(kind).get(&Key::new(&self.consumer.namespace, name));
        let shown = ledger.live(kind, name, shown);
        let live = match shown {
            Some(shown) => Some(shown),
            None => {
                self.api(kind).get_opt(name).await.map_err(|error| failed("read", kind, name, error))?.map(Arc::new)
            }
        };
        match live {
            Some(live) if !is_owned_by(&live, self.uid) => {
                let (kind, name) = (kind.resource().kind, name.to_owned());
                let ends = is_of_predecessor(&live, &self.consumer.name);
                Err(if ends { Error::Predecessor { kind, name } } else { Error::NameConflict { kind, name } })
            }
            live => Ok(live),
        }
    }

    /// Asks the API server whether it would take the Deployment.
    async fn try_out(&self, look: &Look<'_>, ledger: &mut Ledger, now: Instant) -> Result<(), Error> {
        let child = look.child;
        match self.api(child.kind).patch(&child.name, &params().dry_run(), &Patch::Apply(&child.manifest)).await {
            Ok(_) => {
                ledger.accepted();
                Ok(())
            }
            Err(error) if refuses(&error) => {
                let times = ledger.refusal(child).map_or(1, |refusal| refusal.times.saturating_add(1));
                let retry = super::backoff::after_refusal(times, rand::random());
                ledger.refused(child, words(&error), now + retry);
                Err(Error::TemplateRefused { message: words(&error), retry })
            }
            Err(error) => Err(failed("try out", child.kind, &child.name, error)),
        }
    }

    async fn write(&self, look: &Look<'_>, ledger: &mut Ledger) -> Result<DynamicObject, Error> {
        let child = look.child;
        let api = self.api(child.kind);
        let answer = api.patch(&child.name, &params(), &Patch::Apply(&child.manifest)).await.map_err(|error| {
            if refuses(&error) {
                let (kind, name) = (child.kind.resource().kind, child.name.clone());
                Error::ChildRefused { kind, name, message: words(&error) }
            } else {
                failed("apply", child.kind, &child.name, error)
            }
        })?;
        ledger.applied(child, look.live.as_deref(), &answer);
        Ok(answer)
    }

    /// Lets the number of pods follow, and nothing else.
    async fn scale(&self, name: &str, replicas: i32, applied: &mut Applied, ledger: &mut Ledger) -> Result<(), Error> {
        let kind = ChildKind::Deployment;
        let live =
            applied.deployment.as_ref().and_then(|live| live.data.pointer("/spec/replicas")).and_then(Value::as_i64);
        if live.is_none() || live == Some(i64::from(replicas)) {
            return Ok(());
        }
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        let answer =
            self.api(kind).patch(name, &params, &patch).await.map_err(|error| failed("scale", kind, name, error))?;
        if let Some(before) = &applied.deployment {
            ledger.patched(kind, name, before, &answer);
        }
        applied.deployment = Some(Arc::new(answer));
        applied.written.push(kind);
        Ok(())
    }
}

/// It belonged to a consumer of the same name: the garbage collector sees that one gone, and takes it.
fn is_of_predecessor(live: &DynamicObject, consumer: &str) -> bool {
    let owners = live.owner_references().iter();
    owners.filter(|owner| owner.controller == Some(true)).any(|owner| {
        owner.kind == IdempotentConsumer::kind(&())
            && owner.name == consumer
            && owner.api_version == IdempotentConsumer::api_version(&())
    })
}

/// What was refused a short while ago is not asked for again.
fn still_refused(child: &Child, ledger: &Ledger, now: Instant) -> Result<(), Error> {
    match ledger.refusal(child).filter(|refusal| refusal.until > now) {
        Some(refusal) => Err(Error::TemplateRefused { message: refusal.message.clone(), retry: refusal.until - now }),
        None => Ok(()),
    }
}

fn params() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER).force().validation_strict()
}

fn failed(action: &'static str, kind: ChildKind, name: &str, error: kube::Error) -> Error {
    Error::Api { action, kind: kind.resource().kind, name: name.to_owned(), source: Box::new(error) }
}

/// Why the answer has other pods than there were before; `None` if it hasn't.
fn why(before: Option<&DynamicObject>, after: &DynamicObject) -> Option<Why> {
    let Some(before) = before else { return Some(Why::Created) };
    if before.data.pointer("/spec/template") == after.data.pointer("/spec/template") {
        return None;
    }
    let differs = |name: &str| before.annotations().get(name) != after.annotations().get(name);
    let references = |of| deployment::template_annotation(of, annotation::REFERENCES);
    // The digest of the input holds the references, too.
    Some(if references(before) != references(after) {
        Why::ReferenceChanged
    } else if differs(annotation::INPUT) {
        Why::SpecChanged
    } else if differs(annotation::REVISION) {
        Why::Upgraded
    } else {
        Why::Corrected
    })
}
