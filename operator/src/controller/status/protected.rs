//! Decides whether Redis gates every delivery, from what the sidecars say. Pure.

use crds::SIDECAR_CONTAINER;
use crds::conditions::{Finding, Holds, PROTECTED};
use crds::status::{Condition, Protection, SidecarStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition as Before;
use kube::ResourceExt;

use super::Found;
use crate::controller::observe::{Answer, Unheard};

/// Whether every sidecar that answers has Redis behind it. One that says no outweighs all that say yes.
///
/// Nobody speaks for a sidecar that was not heard: then nobody can say. One that missed a single question changes nothing.
pub(super) fn protected(found: &Found<'_>, before: Option<&Before>) -> Option<Finding> {
    let finding = |holds, reason, message| Some(Finding { about: PROTECTED, holds, reason, message });
    if found.pods.is_empty() {
        return finding(Holds::Unknown, "NoSidecar", "no pod runs, and no sidecar that could say".into());
    }
    let heard: Vec<(&Answer, &SidecarStatus)> =
        found.answers.iter().filter_map(|answer| answer.said.as_ref().ok().map(|said| (answer, said))).collect();
    if let Some((answer, (reason, why))) =
        heard.iter().find_map(|(answer, said)| exposed(said).map(|why| (answer, why)))
    {
        return finding(Holds::False, reason, format!("pod {}: {why}", answer.pod));
    }
    let unheard: Vec<(&Answer, &Unheard)> = found
        .answers
        .iter()
        .filter_map(|answer| answer.said.as_ref().err().map(|error| (answer, error)))
        .filter(|(answer, _)| !starts(found, &answer.pod))
        .collect();
    let Some((answer, error)) =
        unheard.iter().find(|(answer, _)| found.missed.contains(&answer.pod)).or(unheard.first())
    else {
        return if heard.is_empty() {
            finding(Holds::Unknown, "NoSidecar", "no sidecar runs yet".into())
        } else {
            finding(Holds::True, "StoreGates", "Redis gates every delivery".into())
        };
    };
    if before.is_some() && unheard.iter().all(|(answer, _)| !found.missed.contains(&answer.pod)) {
        return None;
    }
    let advice = if error.is_far() { "; check network policies" } else { "" };
    let message = format!("the sidecar of pod {} was not heard: {error}{advice}", answer.pod);
    if heard.is_empty() {
        return finding(Holds::Unknown, "Unreachable", message);
    }
    let message = format!("{} of {} sidecars were not heard: {message}", unheard.len(), unheard.len() + heard.len());
    finding(Holds::Unknown, "PartlyHeard", message)
}

/// The pod's sidecar has not started yet, so that it delivers nothing either.
fn starts(found: &Found<'_>, pod: &str) -> bool {
    let pod = found.pods.iter().find(|one| one.name_any() == pod);
    let statuses = pod.and_then(|pod| pod.status.as_ref()?.init_container_statuses.as_ref());
    let sidecar = statuses.and_then(|all| all.iter().find(|container| container.name == SIDECAR_CONTAINER));
    sidecar.is_some_and(|sidecar| sidecar.started == Some(false))
}

/// Why a sidecar's deliveries are not gated by Redis.
fn exposed(said: &SidecarStatus) -> Option<(&'static str, String)> {
    match said.conditions.iter().find(|condition| condition.r#type == PROTECTED) {
        Some(condition) if condition.status => None,
        Some(condition) => Some((reason(condition), tell(condition))),
        None if said.protection == Protection::Full => None,
        None => Some(("StoreAway", format!("its protection is {}", said.protection.as_str()))),
    }
}

/// The reasons that sidecars give: a condition's reason is a word of ours.
fn reason(condition: &Condition) -> &'static str {
    match condition.reason.as_str() {
        "StoreLostData" => "StoreLostData",
        _ => "StoreAway",
    }
}

fn tell(condition: &Condition) -> String {
    if condition.since.is_empty() {
        condition.message.clone()
    } else {
        format!("{} (since {})", condition.message, condition.since)
    }
}
