//! Decides what the sidecars' counts come to. Pure.

use crds::status::SidecarStatus;
use crds::v1alpha1::EventCounts;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::controller::observe::Answer;

/// The sums over the sidecars that answered; `None` if none did.
pub(super) fn counts(answers: &[Answer], now: &Time) -> Option<EventCounts> {
    let heard: Vec<&SidecarStatus> = answers.iter().filter_map(|answer| answer.said.as_ref().ok()).collect();
    let sum = |of: fn(&SidecarStatus) -> u64| {
        i64::try_from(heard.iter().map(|status| of(status)).fold(0, u64::saturating_add)).unwrap_or(i64::MAX)
    };
    let lags = || heard.iter().flat_map(|status| &status.partitions).filter_map(|partition| partition.lag);
    (!heard.is_empty()).then(|| EventCounts {
        observed_at: now.0.to_string(),
        sidecars: i32::try_from(heard.len()).unwrap_or(i32::MAX),
        partitions: sum(|status| status.partitions.len() as u64),
        received: sum(|status| status.counters.received),
        completed: sum(|status| status.counters.completed),
        rejected: sum(|status| status.counters.rejected),
        duplicates: sum(|status| status.counters.duplicates),
        suspects: sum(|status| status.counters.suspects),
        dead_letters: sum(|status| status.counters.dead_letters),
        redeliveries: sum(|status| status.counters.redeliveries),
        unprotected: sum(|status| status.counters.unprotected),
        lag: lags().next().map(|_| lags().fold(0, i64::saturating_add)),
    })
}

/// Pods and the partitions that they share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crowding {
    /// Pods that shall run.
    pub replicas: i64,
    /// Partitions that they hold together.
    pub partitions: i64,
}

/// Partitions that the sidecars hold together, as far as they were heard.
#[must_use]
pub fn partitions(answers: &[Answer]) -> i64 {
    let heard = answers.iter().filter_map(|answer| answer.said.as_ref().ok());
    heard.map(|status| status.partitions.len() as i64).sum()
}

/// There are more pods than partitions: known only once every pod's sidecar has joined its group. `known` is how many were held together
/// at another time: while partitions go from one pod to another, some are nobody's.
#[must_use]
pub fn crowding(replicas: i64, answers: &[Answer], known: i64) -> Option<Crowding> {
    let heard: Vec<&SidecarStatus> = answers.iter().filter_map(|answer| answer.said.as_ref().ok()).collect();
    let all =
        i64::try_from(heard.len()).is_ok_and(|heard| heard == replicas) && heard.iter().all(|status| status.joined);
    let partitions = partitions(answers).max(known);
    // With none at all, the topics are not there yet, or a rebalance is under way.
    (all && partitions > 0 && replicas > partitions).then_some(Crowding { replicas, partitions })
}
