//! Decides whether Redis gates every delivery, from what the sidecars say. Pure.

use crds::conditions::{Finding, Holds, PROTECTED};
use crds::status::{Condition, Protection, SidecarStatus};

use super::Found;
use crate::controller::observe::Answer;

/// Whether every sidecar that answers has Redis behind it. One that says no outweighs all that say yes.
pub(super) fn protected(found: &Found<'_>) -> Finding {
    let finding = |holds, reason, message| Finding { about: PROTECTED, holds, reason, message };
    if found.pods.is_empty() {
        return finding(Holds::Unknown, "NoSidecar", "no pod runs, and no sidecar that could say".into());
    }
    let heard: Vec<(&Answer, &SidecarStatus)> =
        found.answers.iter().filter_map(|answer| answer.said.as_ref().ok().map(|said| (answer, said))).collect();
    if heard.is_empty() {
        return match found.answers.iter().find_map(|answer| answer.said.as_ref().err().map(|error| (answer, error))) {
            None => finding(Holds::Unknown, "NoSidecar", "no sidecar runs yet".into()),
            Some((answer, error)) => {
                let message =
                    format!("the sidecar of pod {} was not heard: {error}; check network policies", answer.pod);
                finding(Holds::Unknown, "Unreachable", message)
            }
        };
    }
    match heard.iter().find_map(|(answer, said)| exposed(said).map(|why| (answer, why))) {
        None => finding(Holds::True, "StoreGates", "Redis gates every delivery".into()),
        Some((answer, (reason, why))) => finding(Holds::False, reason, format!("pod {}: {why}", answer.pod)),
    }
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
