//! Decides what the conditions of a resource are called and when one has changed. Pure: `now` is a parameter.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// All replicas work, or none is asked for.
pub const READY: &str = "Ready";
/// Pods are being replaced or added.
pub const PROGRESSING: &str = "Progressing";
/// Redis gates every delivery.
pub const PROTECTED: &str = "Protected";
/// The spec can be carried out.
pub const SPEC_VALID: &str = "SpecValid";

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// It does.
    True,
    /// It does not.
    False,
    /// Nobody can say now.
    Unknown,
}

impl Holds {
    /// As Kubernetes writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// What is found of one condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which condition: one of this module's constants.
    pub about: &'static str,
    /// Whether it holds.
    pub holds: Holds,
    /// One word in CamelCase.
    pub reason: &'static str,
    /// A sentence that names the thing and the fix.
    pub message: String,
}

/// Longest message that Kubernetes takes.
const MAX_MESSAGE: usize = 32_768;

/// Notes a finding among a resource's conditions. The time of transition changes only when the status does, as API conventions ask.
pub fn set_condition(conditions: &mut Vec<Condition>, finding: Finding, generation: Option<i64>, now: &Time) {
    let mut message = finding.message;
    if message.len() > MAX_MESSAGE {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
    }
    let mut next = Condition {
        type_: finding.about.to_owned(),
        status: finding.holds.as_str().to_owned(),
        reason: finding.reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: now.clone(),
    };
    match conditions.iter_mut().find(|condition| condition.type_ == finding.about) {
        Some(present) => {
            if present.status == next.status {
                next.last_transition_time = present.last_transition_time.clone();
            }
            *present = next;
        }
        None => conditions.push(next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap())
    }

    fn finding(holds: Holds, message: &str) -> Finding {
        Finding { about: READY, holds, reason: "Tested", message: message.into() }
    }

    #[test]
    fn the_time_of_transition_follows_the_status_alone() {
        let mut conditions = Vec::new();
        set_condition(&mut conditions, finding(Holds::False, "one"), Some(1), &at(1));
        set_condition(&mut conditions, finding(Holds::False, "two"), Some(2), &at(2));
        assert_eq!(conditions.len(), 1);
        assert_eq!((conditions[0].message.as_str(), conditions[0].observed_generation), ("two", Some(2)));
        assert_eq!(conditions[0].last_transition_time, at(1));
        set_condition(&mut conditions, finding(Holds::True, "three"), Some(2), &at(3));
        assert_eq!((conditions[0].status.as_str(), &conditions[0].last_transition_time), ("True", &at(3)));
    }

    #[test]
    fn a_message_is_cut_where_kubernetes_would_refuse_it() {
        let mut conditions = Vec::new();
        set_condition(&mut conditions, finding(Holds::False, &"ä".repeat(20_000)), None, &at(1));
        assert!(conditions[0].message.len() <= MAX_MESSAGE && conditions[0].message.ends_with('ä'));
    }
}
