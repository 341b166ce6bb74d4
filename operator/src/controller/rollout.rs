//! Decides whether the pods are replaced, and how: what was asked for and what runs in, a plan out. Pure.

use std::collections::BTreeMap;

use super::dereference::Running;

/// What becomes of the Deployment's pod template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It stays as it is: the user asked for nothing new, another operator made it, and what its pods need is there. Only the number of
    /// pods follows.
    Keep,
    /// It is applied; pods are replaced one after another where it differs.
    Roll,
    /// It is applied; all pods end before new ones start, since old and new ones would not see each other's claims.
    Recreate,
}

/// What is wanted, in digests.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// What the user asks for.
    pub input: &'a str,
    /// What claims stand on: event id rule, key prefix, the Redis.
    pub identity: &'a str,
    /// What this operator brings to it: its version and the sidecar image that it gives by default.
    pub revision: &'a str,
}

/// Decides how to go on from what runs, and from pods that have not ended (what they stand on, and a name). `upgrade` lets a consumer that another operator rolled out be rolled by this one.
#[must_use]
pub fn plan(wanted: Wanted<'_>, running: Option<&Running>, pods: &BTreeMap<String, String>, upgrade: bool) -> Plan {
    let Some(running) = running else { return Plan::Roll };
    if is_outdated(wanted, running) && !upgrade && running.broken.is_none() {
        return Plan::Keep;
    }
    // Once begun, it goes on until the last old pod is gone; then pods are replaced one after another again.
    if running.identity != wanted.identity
        || (running.recreates && !(running.complete && old_pod(wanted, pods).is_none()))
    {
        Plan::Recreate
    } else {
        Plan::Roll
    }
}

/// A pod whose claims the wanted ones would not see. A new Deployment does not wait for such: it does not know the pods of one that
/// was there before it.
#[must_use]
pub fn old_pod<'a>(wanted: Wanted<'_>, pods: &'a BTreeMap<String, String>) -> Option<&'a str> {
    pods.iter().find(|(identity, _)| *identity != wanted.identity).map(|(_, pod)| pod.as_str())
}

/// The user asks for nothing new, and another operator (or this one, with another default image) rolled it out.
#[must_use]
pub fn is_outdated(wanted: Wanted<'_>, running: &Running) -> bool {
    running.input == wanted.input && running.revision != wanted.revision
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted<'_> = Wanted { input: "i2", identity: "d2", revision: "r2" };

    fn plan(wanted: Wanted<'_>, running: Option<&Running>, upgrade: bool) -> Plan {
        super::plan(wanted, running, &BTreeMap::from([(wanted.identity.to_owned(), "a-2".to_owned())]), upgrade)
    }

    fn running(input: &str, identity: &str, revision: &str) -> Running {
        Running {
            input: input.into(),
            identity: identity.into(),
            revision: revision.into(),
            complete: true,
            ..Running::default()
        }
    }

    #[test]
    fn what_is_not_there_is_made() {
        assert_eq!(plan(WANTED, None, false), Plan::Roll);
    }

    #[test]
    fn another_operator_restarts_no_app_until_its_spec_changes() {
        assert_eq!(plan(WANTED, Some(&running("i2", "d2", "r1")), false), Plan::Keep);
        assert_eq!(plan(WANTED, Some(&running("i1", "d2", "r1")), false), Plan::Roll);
        assert_eq!(plan(WANTED, Some(&running("i2", "d2", "r1")), true), Plan::Roll);
        assert_eq!(plan(WANTED, Some(&running("i2", "d2", "r2")), false), Plan::Roll);
    }

    #[test]
    fn what_could_not_start_again_is_not_kept() {
        let broken = Running { broken: Some("gone"), ..running("i2", "d2", "r1") };
        assert_eq!(plan(WANTED, Some(&broken), false), Plan::Roll);
    }

    #[test]
    fn pods_that_would_not_see_each_others_claims_never_run_together() {
        assert_eq!(plan(WANTED, Some(&running("i1", "d1", "r2")), false), Plan::Recreate);
        let under_way = Running { recreates: true, complete: false, ..running("i2", "d2", "r2") };
        assert_eq!(plan(WANTED, Some(&under_way), false), Plan::Recreate);
        let done = Running { complete: true, ..under_way };
        let ends = BTreeMap::from([("d1".to_owned(), "a-1".to_owned())]);
        assert_eq!(super::plan(WANTED, Some(&done), &ends, false), Plan::Recreate, "an old pod has not ended");
        assert_eq!(plan(WANTED, Some(&done), false), Plan::Roll);
    }
}
