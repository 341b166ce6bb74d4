//! Decides which Kubernetes events a reconcile is worth: the status before and after in, events out. Pure but for [`publish()`].

use std::collections::BTreeMap;

use crds::conditions::{PROTECTED, SPEC_VALID};
use crds::v1alpha1::IdempotentConsumerStatus;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use super::apply::{Applied, Why};
use super::status::{Crowding, condition};

/// Longest note that Kubernetes takes.
const MAX_NOTE: usize = 1000;

/// An event to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// It asks for somebody's attention.
    pub warning: bool,
    /// One word in CamelCase.
    pub reason: &'static str,
    /// What the operator did, or saw.
    pub action: &'static str,
    /// A sentence for people.
    pub note: String,
}

/// What is worth an event: a condition that turned, a roll-out that began. A state that lasts is told once.
#[must_use]
pub fn notices(
    before: &IdempotentConsumerStatus,
    after: &IdempotentConsumerStatus,
    applied: Option<&Applied>,
) -> Vec<Notice> {
    let mut notices = Vec::new();
    if let Some(why) = applied.and_then(Applied::rolled) {
        let (reason, note) = match why {
            Why::Created => ("Created", "the Deployment was made"),
            Why::SpecChanged => ("SpecChanged", "pods are replaced, since the spec has changed"),
            Why::ReferenceChanged => {
                ("ReferenceChanged", "pods are replaced, since a Secret or ConfigMap that the spec names has changed")
            }
            Why::Upgraded => ("Upgraded", "pods are replaced, since the operator or its default sidecar is another"),
            Why::Healed(what) => ("Healed", what),
            Why::Corrected => ("Corrected", "pods are replaced, since somebody else had changed the Deployment"),
        };
        let note =
            if let Why::Healed(what) = why { format!("pods are replaced, since {what}") } else { note.to_owned() };
        notices.push(Notice { warning: false, reason, action: "RollOut", note });
    }
    notices.extend(turned(before, after, SPEC_VALID, "Validate", "SpecAccepted"));
    notices.extend(turned(before, after, PROTECTED, "Observe", "ProtectionRestored"));
    notices
}

/// The event of a condition that turned false, or true again after it was false.
fn turned(
    before: &IdempotentConsumerStatus,
    after: &IdempotentConsumerStatus,
    about: &'static str,
    action: &'static str,
    recovered: &'static str,
) -> Option<Notice> {
    let (was, is) = (condition(before, about), condition(after, about)?);
    let was_false = was.is_some_and(|was| was.status == "False");
    let other_reason =
        was.is_none_or(|was| was.reason != is.reason || about == SPEC_VALID && was.message != is.message);
    match is.status.as_str() {
        "False" if !was_false || other_reason => {
            Some(Notice { warning: true, reason: word(&is.reason), action, note: is.message.clone() })
        }
        "True" if was_false => Some(Notice { warning: false, reason: recovered, action, note: is.message.clone() }),
        _ => None,
    }
}

/// The reasons of conditions that are told, as the closed set that they are.
fn word(reason: &str) -> &'static str {
    const KNOWN: [&str; 11] = [
        "InvalidSpec",
        "ReferenceNotFound",
        "InvalidReference",
        "GroupConflict",
        "InvalidTemplate",
        "NameConflict",
        "TemplateRefused",
        "ChildRefused",
        "Undecodable",
        "StoreAway",
        "StoreLostData",
    ];
    KNOWN.into_iter().find(|known| *known == reason).unwrap_or("Failed")
}

/// The event of pods that stand idle.
#[must_use]
pub fn crowded(crowding: Crowding) -> Notice {
    let Crowding { replicas, partitions } = crowding;
    let note = format!(
        "{replicas} replicas share {partitions} partitions: {} stand idle; lower spec.replicas, or add partitions",
        replicas - partitions
    );
    Notice { warning: true, reason: "MoreReplicasThanPartitions", action: "Observe", note }
}

/// What was told of one consumer: by reason the last note, and who told it.
pub type Told = BTreeMap<&'static str, (String, Recorder)>;

/// Publishes events. One that can't be is logged: an event is news, and no state hangs on it.
///
/// A [`Recorder`] counts an event of the same reason into the one before, whatever it says, and the old note stays. So another note gets
/// a recorder of its own: the same told again is counted, and something else is told.
pub async fn publish(
    client: &Client,
    reporter: &Reporter,
    told: &mut Told,
    about: &ObjectReference,
    notices: Vec<Notice>,
) {
    for notice in notices {
        let Notice { warning, reason, action, mut note } = notice;
        note.truncate(note.floor_char_boundary(MAX_NOTE));
        tracing::info!(consumer = about.name, namespace = about.namespace, reason, note, "event");
        let type_ = if warning { EventType::Warning } else { EventType::Normal };
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note.clone()),
            action: action.to_owned(),
            secondary: None,
        };
        let recorder = match told.get(reason) {
            Some((last, recorder)) if *last == note => recorder.clone(),
            _ => Recorder::new(client.clone(), reporter.clone()),
        };
        told.insert(reason, (note, recorder.clone()));
        if let Err(error) = recorder.publish(&event, about).await {
            tracing::warn!(error = crate::kube_error::words(&error), reason, "an event can't be published");
        }
    }
}

#[cfg(test)]
mod tests {
    use crds::conditions::{Finding, Holds, set_condition};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn status(about: &'static str, holds: Holds, reason: &'static str, message: &str) -> IdempotentConsumerStatus {
        let mut status = IdempotentConsumerStatus::default();
        let finding = Finding { about, holds, reason, message: message.into() };
        set_condition(&mut status.conditions, finding, Some(1), &Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
        status
    }

    fn told(before: &IdempotentConsumerStatus, after: &IdempotentConsumerStatus) -> Vec<&'static str> {
        notices(before, after, None).iter().map(|notice| notice.reason).collect()
    }

    #[test]
    fn a_condition_is_told_when_it_turns_and_not_while_it_lasts() {
        let none = IdempotentConsumerStatus::default();
        let right = status(SPEC_VALID, Holds::True, "Valid", "");
        let wrong = status(SPEC_VALID, Holds::False, "InvalidSpec", "spec.a");
        let otherwise = status(SPEC_VALID, Holds::False, "InvalidSpec", "spec.b");
        assert!(told(&none, &right).is_empty());
        assert_eq!(told(&right, &wrong), ["InvalidSpec"]);
        assert!(told(&wrong, &wrong).is_empty());
        assert_eq!(told(&wrong, &otherwise), ["InvalidSpec"], "another mistake is news");
        assert_eq!(told(&otherwise, &right), ["SpecAccepted"]);
    }

    #[test]
    fn the_age_of_an_outage_is_no_news() {
        let away = status(PROTECTED, Holds::False, "StoreAway", "for 10 s");
        assert!(told(&away, &status(PROTECTED, Holds::False, "StoreAway", "for 20 s")).is_empty());
        assert_eq!(told(&away, &status(PROTECTED, Holds::True, "StoreGates", "")), ["ProtectionRestored"]);
        assert!(told(&away, &status(PROTECTED, Holds::Unknown, "NoSidecar", "")).is_empty());
    }
}
