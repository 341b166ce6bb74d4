//! Decides whether the pods work, and whether they are being replaced. Pure.

use crds::conditions::{Finding, Holds, PROGRESSING, READY};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{Found, pods};
use crate::controller::Error;
use crate::controller::deployment::Facts;

/// Whether all replicas work, or none is asked for. `None` while it stays as it was: the numbers don't speak of the newest spec yet.
pub(super) fn ready(found: &Found<'_>, facts: Option<&Facts>, before: Option<&Condition>) -> Option<Finding> {
    let finding = |holds, reason, message| Some(Finding { about: READY, holds, reason, message });
    let Some(facts) = facts else {
        let (reason, message) = match found.result {
            Ok(_) => ("NotDeployed", "there is no Deployment yet".to_owned()),
            Err(error) => (error.mistake().unwrap_or("NotDeployed"), format!("there is no Deployment: {error}")),
        };
        return finding(Holds::False, reason, message);
    };
    if !facts.observed && before.is_some() {
        return None;
    }
    let paused = found.spec.is_some_and(|spec| spec.paused);
    if facts.wanted == 0 && facts.replicas == 0 && facts.observed {
        return finding(Holds::True, "ScaledToZero", "no replica is asked for".into());
    }
    if facts.observed && facts.available >= facts.wanted {
        return if paused {
            finding(Holds::True, "Paused", "the pods stay, and nothing flows, since spec.paused is true".into())
        } else {
            finding(Holds::True, "AllAvailable", format!("{} of {} pods are available", facts.available, facts.wanted))
        };
    }
    let counts = format!("{} of {} pods are available", facts.available, facts.wanted);
    let (reason, why) = trouble(found, facts).unwrap_or_else(|| {
        let starting = facts.available < facts.wanted;
        ("PodsNotReady", if starting { "the others are starting" } else { "they are not of this spec yet" }.to_owned())
    });
    finding(Holds::False, reason, format!("{counts}; {why}"))
}

/// Whether pods are being replaced or added.
pub(super) fn progressing(found: &Found<'_>, facts: Option<&Facts>, carried_out: Option<i64>) -> Finding {
    let finding = |holds, reason, message| Finding { about: PROGRESSING, holds, reason, message };
    let Some(facts) = facts else {
        return match found.result {
            Err(error) if error.mistake().is_some() => {
                finding(Holds::False, "Blocked", "waits for a spec that can be carried out".into())
            }
            Err(Error::OldPods(_)) => finding(Holds::True, "WaitingForOldPods", waits(found)),
            _ => finding(Holds::True, "Deploying", "there is no Deployment yet".into()),
        };
    };
    if let Err(error) = found.result {
        let runs =
            carried_out.map_or_else(String::new, |generation| format!("; what runs is of generation {generation}"));
        return if error.mistake().is_some() {
            finding(
                Holds::False,
                "Blocked",
                format!(
                    "waits for a spec that can be carried out{runs}, and only `replicas` and `paused` are followed"
                ),
            )
        } else {
            finding(Holds::True, "Retrying", format!("is tried again: {error}{runs}"))
        };
    }
    if let Some(outdated) = found.outdated.filter(|_| facts.complete()) {
        return finding(
            Holds::False,
            "Outdated",
            format!("rolled out by another operator with sidecar {}: {outdated}", facts.sidecar_image),
        );
    }
    if facts.complete() {
        return finding(Holds::False, "Complete", "every pod is of the newest revision".into());
    }
    match &facts.stuck {
        Some(stuck) => finding(
            Holds::False,
            "Stuck",
            trouble(found, facts).map_or_else(|| stuck.clone(), |(_, why)| format!("{stuck}; {why}")),
        ),
        None => {
            let message = format!(
                "{} of {} pods are of the newest revision, {} available",
                facts.updated, facts.wanted, facts.available
            );
            finding(Holds::True, "RollingOut", message)
        }
    }
}

fn waits(found: &Found<'_>) -> String {
    found.result.as_ref().err().map(ToString::to_string).unwrap_or_default()
}

fn trouble(found: &Found<'_>, facts: &Facts) -> Option<pods::Trouble> {
    let failure = || facts.failure.clone().map(|failure| ("NoPods", failure));
    let stay = found.pods.iter().map(AsRef::as_ref).filter(|pod| pod.metadata.deletion_timestamp.is_none());
    pods::trouble(stay, found.answers).or_else(failure)
}
