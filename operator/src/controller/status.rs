//! Decides what a consumer's status says: what was applied, what the Deployment and the sidecars say, in; status out. Pure but for
//! [`write()`], which is I/O.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crds::FIELD_MANAGER;
use crds::conditions::{Finding, Holds, PROGRESSING, PROTECTED, READY, SPEC_VALID, set_condition};
use crds::v1alpha1::{EventCounts, IdempotentConsumer, IdempotentConsumerSpec, IdempotentConsumerStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Api, Client};
use serde_json::json;

use super::Error;
use super::apply::{self, Applied};
use super::deployment::Facts;
use super::key::Key;
use super::observe::Answer;

mod counts;
mod pods;
mod protected;
mod ready;

pub use counts::{Crowding, crowding, partitions};

/// The sidecars' counts reach the status at most this often.
const COUNTS_EVERY: Duration = Duration::from_secs(60);

/// Everything that a status is made from.
#[derive(Debug)]
pub struct Found<'a> {
    /// The spec; `None` when it can't be read.
    pub spec: Option<&'a IdempotentConsumerSpec>,
    /// Kafka consumer group.
    pub group: Option<String>,
    /// Generation of the spec.
    pub generation: Option<i64>,
    /// How the reconcile went.
    pub result: Result<&'a Applied, &'a Error>,
    /// The Deployment as it is.
    pub deployment: Option<&'a DynamicObject>,
    /// The pods there are.
    pub pods: &'a [Arc<Pod>],
    /// What their sidecars say.
    pub answers: &'a [Answer],
    /// Pods whose sidecars were not heard the last time either.
    pub missed: &'a BTreeSet<String>,
    /// It was rolled out by another operator, and why it is not rolled anew.
    pub outdated: Option<&'static str>,
}

/// The status that follows from what was found. `before` is the one so far.
#[must_use]
pub fn status(before: &IdempotentConsumerStatus, found: &Found<'_>, now: &Time) -> IdempotentConsumerStatus {
    let facts = found.deployment.map(Facts::of);
    let number = |of: fn(&Facts) -> i64| facts.as_ref().map_or(0, |facts| i32::try_from(of(facts)).unwrap_or(i32::MAX));
    let mut status = IdempotentConsumerStatus {
        observed_generation: found.generation,
        conditions: before.conditions.clone(),
        replicas: number(|facts| facts.replicas),
        ready_replicas: number(|facts| facts.ready),
        updated_replicas: number(|facts| facts.updated),
        selector: found.result.map_or_else(|_| before.selector.clone(), |applied| Some(applied.selector().to_owned())),
        group: found.group.clone().or_else(|| before.group.clone()),
        sidecar_image: facts.as_ref().map(|facts| facts.sidecar_image.clone()).filter(|image| !image.is_empty()),
        events: counts::counts(found.answers, now).or_else(|| before.events.clone().filter(|_| !found.pods.is_empty())),
    };
    // What runs goes on while a change is not carried out, and is told so, but of the generation that it is of: who waits for a
    // condition at the new one (as `kubectl wait` does) waits on.
    let carried_out = match found.result {
        Err(_) if facts.is_some() => ran(before, found.generation),
        _ => found.generation,
    };
    let findings = [
        (ready::ready(found, facts.as_ref(), condition(before, READY)), carried_out),
        (Some(ready::progressing(found, facts.as_ref(), carried_out)), carried_out),
        (protected::protected(found, condition(before, PROTECTED)), found.generation),
        (spec_valid(found, before), found.generation),
    ];
    for (finding, generation) in findings {
        if let Some(finding) = finding {
            set_condition(&mut status.conditions, finding, generation, now);
        }
    }
    status
}

/// The generation that was carried out last. Where none is known, it is an earlier one than that which was not.
fn ran(before: &IdempotentConsumerStatus, generation: Option<i64>) -> Option<i64> {
    let told = [READY, PROGRESSING].into_iter().filter_map(|about| condition(before, about)?.observed_generation);
    told.min().or_else(|| generation.map(|generation| generation.saturating_sub(1)))
}

/// Whether the spec can be carried out. A fault of the API server says nothing of the spec: what was said of it stays.
fn spec_valid(found: &Found<'_>, before: &IdempotentConsumerStatus) -> Option<Finding> {
    let finding = |holds, reason, message: String| Some(Finding { about: SPEC_VALID, holds, reason, message });
    match found.result {
        Ok(_) | Err(Error::OldPods(_) | Error::Apply(apply::Error::Predecessor { .. })) => {
            finding(Holds::True, "Valid", "the spec can be carried out".into())
        }
        Err(error) => match error.mistake() {
            Some(reason) => finding(Holds::False, reason, error.to_string()),
            None if before.conditions.iter().any(|condition| condition.type_ == SPEC_VALID) => None,
            None => finding(Holds::Unknown, "NotChecked", format!("not checked yet: {error}")),
        },
    }
}

/// What of a status is worth a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// It is the same.
    Nothing,
    /// Only figures have changed, and they were written less than a minute ago.
    Later,
    /// It is to be written.
    Now,
}

/// Whether a status is written after another.
#[must_use]
pub fn worth(before: &IdempotentConsumerStatus, after: &IdempotentConsumerStatus, now: &Time) -> Worth {
    let without = |events: &EventCounts| EventCounts { observed_at: String::new(), ..events.clone() };
    let mut quiet = after.clone();
    if before.events.as_ref().map(without) == after.events.as_ref().map(without) {
        quiet.events.clone_from(&before.events);
    }
    if quiet == *before {
        return Worth::Nothing;
    }
    let same_but_figures = skeleton(before) == skeleton(after) && before.events.is_some() == after.events.is_some();
    if same_but_figures && before.events.as_ref().is_some_and(|events| is_recent(&events.observed_at, now)) {
        return Worth::Later;
    }
    Worth::Now
}

/// A status without counts, and its messages without digits: "37 s ago" is no news after "27 s ago".
fn skeleton(status: &IdempotentConsumerStatus) -> IdempotentConsumerStatus {
    let mut status = status.clone();
    status.events = None;
    for condition in &mut status.conditions {
        condition.message.retain(|letter| !letter.is_ascii_digit());
    }
    status
}

fn is_recent(observed_at: &str, now: &Time) -> bool {
    let Ok(at) = observed_at.parse::<k8s_openapi::jiff::Timestamp>() else { return false };
    now.0.duration_since(at).unsigned_abs() < COUNTS_EVERY && now.0 >= at
}

/// Writes the whole status of the consumer with that uid; whether it was still there. Another may have its name by now, and is not told
/// what was found of its predecessor.
///
/// # Errors
/// The API server does not take it.
pub async fn write(
    client: &Client,
    key: &Key,
    uid: &str,
    status: &IdempotentConsumerStatus,
) -> Result<bool, kube::Error> {
    let api = raw(client, &key.namespace);
    // Only a JSON patch can look at the uid: to a status, no other kind of patch takes metadata.
    let patch = json!([
        {"op": "test", "path": UID, "value": uid},
        {"op": "add", "path": "/status", "value": status},
    ]);
    let patch: json_patch::Patch = serde_json::from_value(patch).map_err(kube::Error::SerdeError)?;
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    match api.patch_status(&key.name, &params, &Patch::Json::<()>(patch)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(answer)) if answer.code == 404 || (answer.code == 422 && answer.message.contains(UID)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Consumers as they are stored, whether or not they can be read.
#[must_use]
pub fn raw(client: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &kube::core::ApiResource::erase::<IdempotentConsumer>(&()))
}

/// Where a JSON patch finds it.
const UID: &str = "/metadata/uid";

/// One of a status' conditions.
#[must_use]
pub fn condition<'a>(
    status: &'a IdempotentConsumerStatus,
    about: &str,
) -> Option<&'a k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    status.conditions.iter().find(|condition| condition.type_ == about)
}

/// The types of the conditions that every consumer has.
pub const CONDITIONS: [&str; 4] = [READY, PROGRESSING, PROTECTED, SPEC_VALID];

#[cfg(test)]
mod tests;
