use k8s_openapi::jiff::Timestamp;
use kube::core::DynamicObject;
use serde_json::json;

use super::*;
use crate::controller::apply;
use crate::controller::observe::Unheard;
use crate::controller::validate::{Invalid, Mistake, Reason};

static NONE: BTreeSet<String> = BTreeSet::new();

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(1_700_000_000 + second).unwrap())
}

fn deployment(wanted: i64, available: i64) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "a", "generation": 1},
        "spec": {"replicas": wanted},
        "status": {
            "observedGeneration": 1, "replicas": wanted, "readyReplicas": available, "updatedReplicas": wanted,
            "availableReplicas": available,
        },
    }))
    .unwrap()
}

fn pod(status: serde_json::Value) -> Arc<Pod> {
    let mut pod = serde_json::from_value(json!({"metadata": {"name": "a-1"}, "status": status})).unwrap();
    // As the store shows it.
    crate::controller::watch::strip::pod(&mut pod);
    Arc::new(pod)
}

fn heard(said: serde_json::Value) -> Answer {
    Answer { pod: "a-1".into(), said: Ok(serde_json::from_value(said).unwrap()) }
}

fn gated(completed: u64) -> Answer {
    heard(json!({
        "ready": true, "joined": true, "protection": "full", "counters": {"completed": completed},
        "conditions": [{"type": "Protected", "status": true}], "partitions": [{"topic": "t", "partition": 0, "lag": 7}],
    }))
}

fn mistake() -> Error {
    let mistake = Mistake {
        reason: Reason::ReferenceNotFound,
        field: "spec.redis.urlFrom".into(),
        message: "no such Secret".into(),
    };
    Error::Invalid(Invalid { mistakes: vec![mistake] })
}

fn fault() -> Error {
    let source = Box::new(kube::Error::Api(kube::core::Status::failure("etcd is away", "").with_code(500).boxed()));
    Error::Apply(apply::Error::Api { action: "apply", kind: "Deployment".into(), name: "a".into(), source })
}

fn found<'a>(
    error: &'a Error,
    deployment: Option<&'a DynamicObject>,
    pods: &'a [Arc<Pod>],
    answers: &'a [Answer],
) -> Found<'a> {
    Found {
        spec: None,
        group: None,
        generation: Some(1),
        result: Err(error),
        deployment,
        pods,
        answers,
        missed: &NONE,
        outdated: None,
    }
}

fn says(status: &IdempotentConsumerStatus, about: &str) -> (String, String) {
    condition(status, about).map(|found| (found.status.clone(), found.reason.clone())).unwrap()
}

fn pair(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

#[test]
fn a_mistake_is_told_and_what_runs_is_told_as_it_runs() {
    let (error, live) = (mistake(), deployment(1, 1));
    let (pods, answers) = ([pod(json!({}))], [gated(1)]);
    let status = status(&IdempotentConsumerStatus::default(), &found(&error, Some(&live), &pods, &answers), &at(0));
    assert_eq!(says(&status, SPEC_VALID), pair("False", "ReferenceNotFound"));
    assert_eq!(says(&status, READY), pair("True", "AllAvailable"));
    assert_eq!(says(&status, PROTECTED), pair("True", "StoreGates"));
    assert_eq!((status.replicas, status.ready_replicas), (1, 1));
    let nothing = super::status(&IdempotentConsumerStatus::default(), &found(&error, None, &[], &[]), &at(0));
    assert_eq!(says(&nothing, READY), pair("False", "ReferenceNotFound"));
    assert_eq!(says(&nothing, PROGRESSING), pair("False", "Blocked"));
}

#[test]
fn a_fault_of_the_api_server_says_nothing_of_the_spec() {
    let before = status(&IdempotentConsumerStatus::default(), &found(&mistake(), None, &[], &[]), &at(0));
    let after = status(&before, &found(&fault(), None, &[], &[]), &at(1));
    assert_eq!(says(&after, SPEC_VALID), pair("False", "ReferenceNotFound"));
    let fresh = status(&IdempotentConsumerStatus::default(), &found(&fault(), None, &[], &[]), &at(1));
    assert_eq!(says(&fresh, SPEC_VALID), pair("Unknown", "NotChecked"));
}

#[test]
fn no_replicas_are_ready_and_nobody_can_say_whether_protected() {
    let (error, live) = (fault(), deployment(0, 0));
    let status = status(&IdempotentConsumerStatus::default(), &found(&error, Some(&live), &[], &[]), &at(0));
    assert_eq!(says(&status, READY), pair("True", "ScaledToZero"));
    assert_eq!(says(&status, PROTECTED), pair("Unknown", "NoSidecar"));
}

/// `kubectl wait` takes a condition of an older generation for none.
#[test]
fn what_runs_is_told_of_the_generation_that_it_is_of() {
    let (mistake, fault, live) = (mistake(), fault(), deployment(1, 1));
    let at_generation =
        |generation, error| Found { generation: Some(generation), ..found(error, Some(&live), &[], &[]) };
    let generations = |status: &IdempotentConsumerStatus| {
        CONDITIONS.map(|about| condition(status, about).unwrap().observed_generation.unwrap())
    };
    let nothing = IdempotentConsumerStatus::default();
    let first = status(&nothing, &at_generation(4, &mistake), &at(0));
    assert_eq!(generations(&first), [3, 3, 4, 4]);
    let second = status(&first, &at_generation(5, &mistake), &at(1));
    assert_eq!(generations(&second), [3, 3, 5, 5]);
    assert_eq!(
        (says(&second, READY), says(&second, PROGRESSING)),
        (pair("True", "AllAvailable"), pair("False", "Blocked"))
    );
    assert!(condition(&second, PROGRESSING).unwrap().message.contains("what runs is of generation 3, and only"));
    let third = status(&second, &at_generation(5, &fault), &at(2));
    assert_eq!((generations(&third)[0], says(&third, PROGRESSING)), (3, pair("True", "Retrying")));
    let none = status(&nothing, &Found { generation: Some(4), ..found(&mistake, None, &[], &[]) }, &at(0));
    assert_eq!(generations(&none), [4, 4, 4, 4], "nothing runs");
}

/// The answer to our own write is never one that the Deployment's controller has seen.
#[test]
fn ready_stays_until_the_deployments_controller_has_seen_the_change() {
    let (error, live) = (fault(), deployment(2, 2));
    let before = status(&IdempotentConsumerStatus::default(), &found(&error, Some(&live), &[], &[]), &at(0));
    let mut changed = deployment(3, 2);
    changed.metadata.generation = Some(2);
    let after = status(&before, &found(&error, Some(&changed), &[], &[]), &at(1));
    assert_eq!(condition(&after, READY), condition(&before, READY));
    let fresh = status(&IdempotentConsumerStatus::default(), &found(&error, Some(&changed), &[], &[]), &at(1));
    assert_eq!(says(&fresh, READY), pair("False", "PodsNotReady"));
    let mut more = deployment(1, 2);
    more.metadata.generation = Some(2);
    let fresh = status(&IdempotentConsumerStatus::default(), &found(&error, Some(&more), &[], &[]), &at(1));
    let message = &condition(&fresh, READY).unwrap().message;
    assert!(!message.contains("others"), "{message}");
}

#[test]
fn why_pods_are_not_ready_is_told() {
    let (error, live) = (fault(), deployment(1, 0));
    let waiting = |reason: &str| {
        pod(json!({"containerStatuses": [{
            "name": "app", "image": "", "imageID": "", "ready": false, "restartCount": 3,
            "state": {"waiting": {"reason": reason, "message": "not there"}},
            "lastState": {"terminated": {"exitCode": 64, "reason": "Error", "message": "topics: none\n"}},
        }]}))
    };
    let told = |pod: Arc<Pod>, answers: &[Answer]| {
        let status = status(&IdempotentConsumerStatus::default(), &found(&error, Some(&live), &[pod], answers), &at(0));
        let ready = condition(&status, READY).unwrap();
        (ready.reason.clone(), ready.message.clone())
    };
    let (reason, message) = told(waiting("ImagePullBackOff"), &[]);
    assert_eq!(reason, "ImagePullFailed");
    assert_eq!(message, "0 of 1 pods are available; pod a-1, container app: ImagePullBackOff: not there");
    let (reason, message) = told(waiting("CrashLoopBackOff"), &[]);
    assert_eq!(reason, "CrashLoop");
    assert!(
        message.ends_with("ends again and again, last with exit code 64 (its configuration is wrong): topics: none"),
        "{message}"
    );
    let unready =
        heard(json!({"conditions": [{"type": "TopicsFound", "status": false, "message": "no such topic: t"}]}));
    let (reason, message) = told(pod(json!({})), &[unready]);
    assert_eq!(
        (reason.as_str(), message.ends_with("pod a-1: TopicsFound: no such topic: t")),
        ("SidecarNotReady", true)
    );
}

#[test]
fn one_sidecar_without_redis_outweighs_all_others() {
    let (error, live, pods) = (fault(), deployment(2, 2), [pod(json!({}))]);
    let away = heard(json!({"protection": "local", "conditions": [
        {"type": "Protected", "status": false, "reason": "StoreAway", "message": "Redis is away", "since": "2026-01-01T00:00:00Z"},
    ]}));
    let protected = |answers: &[Answer]| {
        let status = status(&IdempotentConsumerStatus::default(), &found(&error, Some(&live), &pods, answers), &at(0));
        let protected = condition(&status, PROTECTED).unwrap();
        (protected.status.clone(), protected.reason.clone(), protected.message.clone())
    };
    let (status, reason, message) = protected(&[gated(1), away]);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "StoreAway"));
    assert_eq!(message, "pod a-1: Redis is away (since 2026-01-01T00:00:00Z)");
    let late = || Answer { pod: "a-2".into(), said: Err(Unheard::Late) };
    assert_eq!(protected(&[gated(1), late()]).1, "PartlyHeard");
    assert_eq!(protected(&[late()]).1, "Unreachable");
}

#[test]
fn a_sidecar_that_is_not_heard_is_vouched_for_by_no_other() {
    let (error, live) = (fault(), deployment(2, 2));
    let late = || Answer { pod: "a-2".into(), said: Err(Unheard::Late) };
    let missed = BTreeSet::from(["a-2".to_owned()]);
    let pods = [pod(json!({}))];
    let next = |before: &IdempotentConsumerStatus, answers: &[Answer], missed: &BTreeSet<String>, pods: &[Arc<Pod>]| {
        status(before, &Found { missed, ..found(&error, Some(&live), pods, answers) }, &at(0))
    };
    let all = next(&IdempotentConsumerStatus::default(), &[gated(1)], &NONE, &pods);
    assert_eq!(says(&all, PROTECTED), pair("True", "StoreGates"));
    let once = next(&all, &[gated(1), late()], &NONE, &pods);
    assert_eq!(says(&once, PROTECTED), pair("True", "StoreGates"), "one question is no reason");
    let twice = next(&once, &[gated(1), late()], &missed, &pods);
    assert_eq!(says(&twice, PROTECTED), pair("Unknown", "PartlyHeard"));
    let message = &condition(&twice, PROTECTED).unwrap().message;
    assert!(
        message.starts_with("1 of 2 sidecars were not heard: ") && message.ends_with("check network policies"),
        "{message}"
    );
    let starting: Arc<Pod> = Arc::new(
        serde_json::from_value(json!({"metadata": {"name": "a-2"}, "status": {"initContainerStatuses": [
            {"name": "idempotency-sidecar", "image": "", "imageID": "", "ready": false, "restartCount": 0, "started": false},
        ]}}))
        .unwrap(),
    );
    let starts = next(&once, &[gated(1), late()], &missed, &[starting]);
    assert_eq!(says(&starts, PROTECTED), pair("True", "StoreGates"), "it delivers nothing yet");
    let broken = Answer { pod: "a-2".into(), said: Err(Unheard::Body("too long".into())) };
    let unread = next(&all, &[broken], &missed, &pods);
    assert!(!condition(&unread, PROTECTED).unwrap().message.contains("network policies"));
}

#[test]
fn counts_are_written_once_a_minute_and_everything_else_at_once() {
    let (error, live, pods) = (fault(), deployment(1, 1), [pod(json!({}))]);
    let status_of = |before: &IdempotentConsumerStatus, completed, second| {
        let answers = [gated(completed)];
        status(before, &found(&error, Some(&live), &pods, &answers), &at(second))
    };
    let first = status_of(&IdempotentConsumerStatus::default(), 1, 0);
    let events = first.events.clone().unwrap();
    assert_eq!((events.completed, events.lag, events.sidecars, events.partitions), (1, Some(7), 1, 1));
    assert_eq!(worth(&IdempotentConsumerStatus::default(), &first, &at(0)), Worth::Now);
    assert_eq!(worth(&first, &status_of(&first, 1, 300), &at(300)), Worth::Nothing, "the time alone is no news");
    assert_eq!(worth(&first, &status_of(&first, 2, 59), &at(59)), Worth::Later);
    assert_eq!(worth(&first, &status_of(&first, 2, 60), &at(60)), Worth::Now);
    let (none, pods) = (deployment(0, 0), []);
    let scaled = status(&first, &found(&error, Some(&none), &pods, &[]), &at(1));
    assert_eq!(worth(&first, &scaled, &at(1)), Worth::Now);
    assert!(scaled.events.is_none());
}

#[test]
fn more_pods_than_partitions_are_told_only_when_all_have_joined() {
    let joined = |partitions: usize| {
        let partitions: Vec<_> = (0..partitions).map(|n| json!({"topic": "t", "partition": n})).collect();
        heard(json!({"joined": true, "partitions": partitions}))
    };
    assert_eq!(crowding(2, &[joined(1), joined(0)], 0), Some(Crowding { replicas: 2, partitions: 1 }));
    assert_eq!(crowding(2, &[joined(2), joined(0)], 0), None);
    assert_eq!(crowding(2, &[joined(1), joined(0)], 6), None, "five are on their way from one to the other");
    assert_eq!(crowding(2, &[joined(1)], 0), None);
    assert_eq!(crowding(2, &[joined(0), joined(0)], 0), None, "nothing is assigned yet");
    assert_eq!(crowding(2, &[joined(1), heard(json!({"joined": false}))], 0), None);
}
