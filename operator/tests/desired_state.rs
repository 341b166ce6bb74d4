//! Fixtures in, the whole desired state out: one snapshot a fixture, for reading as much as for comparing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;

use crds::v1alpha1::IdempotentConsumer;
use operator::controller::build::{DeploymentChange, DesiredState, annotation, build};
use operator::controller::dereference::{Kind, Lookup, Reference, References, Rival, Running, SidecarSecret};
use operator::controller::rollout::Plan;
use operator::controller::validate::{Defaults, Invalid, named, validate};
use serde_json::{Value, json};

fn consumer(text: &str) -> IdempotentConsumer {
    let mut consumer: IdempotentConsumer = serde_saphyr::from_str(text).unwrap();
    consumer.metadata.uid = Some("00000000-0000-0000-0000-000000000001".into());
    consumer.metadata.namespace = Some("shop".into());
    consumer
}

fn fixture(name: &str) -> IdempotentConsumer {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format!("{name}.yaml"));
    consumer(&std::fs::read_to_string(path).unwrap())
}

fn defaults() -> Defaults {
    Defaults { sidecar_image: "registry.example/sidecar:1.0.0".into(), version: "1.0.0".into(), ..Defaults::default() }
}

/// Everything that a consumer names is there.
fn references(consumer: &IdempotentConsumer) -> References {
    let value = |reference: &Reference| match reference.key.as_str() {
        "url" => "rediss://app:hunter2@redis:6380/1".to_owned(),
        "ca.crt" | "tls.crt" => "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n".to_owned(),
        "tls.key" => "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n".to_owned(),
        _ => "hunter2".to_owned(),
    };
    References {
        values: named(consumer).into_iter().map(|r| (r.clone(), Lookup::Value(value(&r).into_bytes()))).collect(),
        secret: SidecarSecret { token: "the-token".into(), salt: "the-salt".into() },
        rival: None,
        running: None,
        pods: [].into(),
    }
}

fn desired(consumer: &IdempotentConsumer, references: &References) -> DesiredState {
    build(&validate(consumer, references, &defaults(), false).unwrap())
}

fn deployment(desired: &DesiredState) -> &Value {
    match &desired.deployment {
        DeploymentChange::Apply(child) => &child.manifest,
        DeploymentChange::Replicas { .. } => panic!("the Deployment is kept"),
    }
}

/// What runs, as the operator itself made it.
fn running(desired: &DesiredState) -> Running {
    let deployment = deployment(desired);
    let text = |name: &str| deployment["metadata"]["annotations"][name].as_str().unwrap().to_owned();
    Running {
        input: text(annotation::INPUT),
        identity: text(annotation::IDENTITY),
        revision: text(annotation::REVISION),
        sidecar_image: text(annotation::SIDECAR_IMAGE),
        recreates: false,
        complete: true,
        broken: None,
    }
}

fn mistakes(consumer: &IdempotentConsumer, references: &References) -> Invalid {
    validate(consumer, references, &defaults(), false).unwrap_err()
}

fn manifests(desired: &DesiredState) -> String {
    let children = desired.children.iter().map(|child| &child.manifest).chain([deployment(desired)]);
    children.map(|manifest| format!("---\n{}", serde_saphyr::to_string(manifest).unwrap())).collect()
}

fn snapshot(name: &str) {
    let consumer = fixture(name);
    let desired = desired(&consumer, &references(&consumer));
    let text = manifests(&desired);
    // In base64 whatever stands before it.
    let parts = ["hunter2", "aHVudGVyM", "h1bnRlcj", "odW50ZXIy"];
    for manifest in text.split("---\n").filter(|manifest| !manifest.contains("kind: Secret\n")) {
        assert!(!parts.iter().any(|part| manifest.contains(part)), "a Secret's value is in {manifest}");
    }
    insta::assert_snapshot!(name, text);
}

#[test]
fn the_smallest_consumer() {
    snapshot("smallest");
}

#[test]
fn a_consumer_that_sets_everything() {
    snapshot("everything");
}

#[test]
fn an_app_with_its_own_hook_probes_and_users() {
    snapshot("own-hooks");
}

/// With the change of a field, what becomes of the pods?
fn plan_after(change: impl FnOnce(&mut Value)) -> Plan {
    let before = fixture("smallest");
    let mut references = references(&before);
    references.running = Some(running(&desired(&before, &references)));
    let mut after = serde_json::to_value(&before).unwrap();
    change(&mut after);
    let after: IdempotentConsumer = serde_json::from_value(after).unwrap();
    // As though another operator had rolled it out: only what the user changes may touch the pods.
    references.running.as_mut().unwrap().revision = "another".into();
    validate(&after, &references, &defaults(), false).unwrap().plan()
}

#[test]
fn only_what_the_user_asks_for_replaces_pods() {
    assert_eq!(plan_after(|_| ()), Plan::Keep);
    assert_eq!(plan_after(|c| c["spec"]["replicas"] = 5.into()), Plan::Keep);
    assert_eq!(plan_after(|c| c["spec"]["paused"] = true.into()), Plan::Keep);
    assert_eq!(plan_after(|c| c["spec"]["ttl"] = "12h".into()), Plan::Roll);
    assert_eq!(plan_after(|c| c["spec"]["template"]["spec"]["containers"][0]["image"] = "app:2".into()), Plan::Roll);
    assert_eq!(plan_after(|c| c["spec"]["sidecar"]["image"] = "mine:1".into()), Plan::Roll);
}

/// A consumer that leaves Redis and resources to the operator.
fn frugal() -> IdempotentConsumer {
    let mut consumer = serde_json::to_value(fixture("smallest")).unwrap();
    consumer["spec"].as_object_mut().unwrap().remove("redis");
    consumer["spec"]["sidecar"] = json!({"resources": {"requests": {"cpu": "1"}}});
    serde_json::from_value(consumer).unwrap()
}

fn with_redis(url: &str) -> Defaults {
    let sidecar_resources = serde_json::from_value(json!({"limits": {"memory": "1Gi"}})).unwrap();
    Defaults { redis_url: Some(url.into()), sidecar_resources, ..defaults() }
}

#[test]
fn what_is_left_to_the_operator_is_its_setting() {
    let consumer = frugal();
    let references = references(&consumer);
    let invalid = mistakes(&consumer, &references);
    assert_eq!(invalid.mistakes.iter().map(|mistake| &*mistake.field).collect::<Vec<_>>(), ["spec.redis.url"]);
    let text = manifests(&build(&validate(&consumer, &references, &with_redis("redis://shared:6379"), false).unwrap()));
    assert!(text.contains("redis://shared:6379"), "{text}");
    let resources = deployment(&desired(&fixture("smallest"), &references))["spec"]["template"]["spec"]["initContainers"][0]
        ["resources"]
        .clone();
    assert_eq!(resources, json!({"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}}));
    let given = build(&validate(&consumer, &references, &with_redis("redis://shared:6379"), false).unwrap());
    let resources = &deployment(&given)["spec"]["template"]["spec"]["initContainers"][0]["resources"];
    assert_eq!(*resources, json!({"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}}));
}

#[test]
fn another_setting_of_the_operator_replaces_pods_when_told_to() {
    let consumer = frugal();
    let mut references = references(&consumer);
    let before = build(&validate(&consumer, &references, &with_redis("redis://shared:6379"), false).unwrap());
    references.running = Some(running(&before));
    let plan = |url: &str, upgrade| validate(&consumer, &references, &with_redis(url), upgrade).unwrap().plan();
    assert_eq!(plan("redis://shared:6379", false), Plan::Roll, "nothing has changed, and nothing is rolled");
    assert_eq!(plan("redis://other:6379", false), Plan::Keep);
    assert_eq!(plan("redis://other:6379", true), Plan::Recreate, "old and new pods would not see each other's claims");
}

#[test]
fn what_claims_stand_on_replaces_all_pods_at_once() {
    assert_eq!(plan_after(|c| c["spec"]["eventId"] = json!({"rule": "Record"})), Plan::Recreate);
    assert_eq!(plan_after(|c| c["spec"]["keyPrefix"] = "other:".into()), Plan::Recreate);
    assert_eq!(plan_after(|c| c["spec"]["session"]["prefix"] = "other:session:".into()), Plan::Recreate);
    assert_eq!(plan_after(|c| c["spec"]["redis"]["url"] = "redis://other:6379".into()), Plan::Recreate);
    assert_eq!(plan_after(|c| c["spec"]["redis"]["url"] = "redis://redis:6379/2".into()), Plan::Recreate);
    // Another way to write the same server changes nothing that claims stand on.
    assert_eq!(plan_after(|c| c["spec"]["redis"]["url"] = "redis://redis:6379/".into()), Plan::Roll);
}

/// The API server writes defaults into what it stores, and a later version adds fields with defaults.
#[test]
fn a_field_with_its_default_asks_for_nothing() {
    assert_eq!(plan_after(|c| c["spec"]["delivery"] = json!({"path": "/"})), Plan::Keep);
    assert_eq!(plan_after(|c| c["spec"]["eventId"] = json!({"rule": "Data"})), Plan::Keep);
    assert_eq!(plan_after(|c| c["spec"]["redis"]["failurePolicy"] = "Open".into()), Plan::Keep);
    assert_eq!(plan_after(|c| c["spec"]["redis"]["failurePolicy"] = "Closed".into()), Plan::Roll);
}

#[test]
fn a_kept_deployment_follows_in_number_alone() {
    let consumer = fixture("smallest");
    let mut references = references(&consumer);
    let mut running = running(&desired(&consumer, &references));
    running.revision = "another".into();
    references.running = Some(running);
    let desired = desired(&consumer, &references);
    assert_eq!(desired.deployment, DeploymentChange::Replicas { name: "essays".into(), replicas: 1 });
    let names: Vec<&str> = desired.children.iter().map(|child| child.name.as_str()).collect();
    let own = ["essays-sidecar", "essays-switches", "essays-metrics", "essays"];
    assert_eq!(names, own, "its pods read the configuration that they were rolled out with");
}

#[test]
fn a_secret_that_changes_rolls_the_pods_and_shows_nothing_of_itself() {
    let consumer = fixture("everything");
    let before = references(&consumer);
    let digest = |references: &References| {
        let desired = desired(&consumer, references);
        deployment(&desired).pointer("/spec/template/metadata/annotations").unwrap()[annotation::REFERENCES].clone()
    };
    let mut after = before.clone();
    let (_, value) = after.values.iter_mut().find(|(reference, _)| reference.key == "password").unwrap();
    *value = Lookup::Value(b"hunter3".to_vec());
    assert_ne!(digest(&before), digest(&after));
    // Another salt, another digest: nobody who sees it can try values against it.
    let salted =
        References { secret: SidecarSecret { salt: "other".into(), ..before.secret.clone() }, ..before.clone() };
    assert_ne!(digest(&before), digest(&salted));
}

#[test]
fn what_is_absent_is_named_with_the_fix() {
    let consumer = fixture("everything");
    let mut references = references(&consumer);
    for (reference, value) in &mut references.values {
        *value = if reference.kind == Kind::Secret { Lookup::NoObject } else { Lookup::NoKey };
    }
    insta::assert_snapshot!("absent", lines(&mistakes(&consumer, &references)));
}

#[test]
fn what_is_unusable_is_named_without_being_shown() {
    let consumer = fixture("everything");
    let mut references = references(&consumer);
    for (reference, value) in &mut references.values {
        let text = if reference.key == "url" { "redis://hunter2:x@host:port" } else { " \n" };
        *value = Lookup::Value(text.into());
    }
    let told = lines(&mistakes(&consumer, &references));
    assert!(!told.contains("hunter2"), "{told}");
    insta::assert_snapshot!("unusable", told);
}

#[test]
fn a_group_belongs_to_the_older_consumer() {
    let consumer = fixture("smallest");
    let mut references = references(&consumer);
    references.rival = Some(Rival { consumer: "shop/older".into(), topics: vec!["other.v1".into()] });
    insta::assert_snapshot!("rival", lines(&mistakes(&consumer, &references)));
}

#[test]
fn a_template_that_takes_our_names_is_refused() {
    let consumer = fixture("in-our-way");
    insta::assert_snapshot!("in-our-way", lines(&mistakes(&consumer, &references(&consumer))));
}

/// What CEL lets pass and the sidecar would refuse is told before a pod is touched.
#[test]
fn what_the_sidecar_would_refuse_is_refused_in_the_resources_words() {
    let mut consumer = fixture("everything");
    consumer.spec.topics.push("..".into());
    consumer.spec.key_prefix = "idempotency:session:".into();
    consumer.spec.event_id.fields = Some(vec!["/a~2".into()]);
    consumer.spec.kafka.properties = BTreeMap::from([("enable.auto.commit".into(), "true".into())]);
    insta::assert_snapshot!("refused", lines(&mistakes(&consumer, &references(&consumer))));
}

fn lines(invalid: &Invalid) -> String {
    invalid.mistakes.iter().map(|m| format!("{} {}: {}\n", m.reason.as_str(), m.field, m.message)).collect()
}
