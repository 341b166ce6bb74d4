//! One scenario a test, named by it.

use kube::runtime::controller::Action;
use operator::controller::upgrade::Upgrade;
use serde_json::{Value, json};

use crate::api::Asked;
use crate::world::{CONFIG_MAPS, CONSUMER, DEPLOYMENT, PODS, REPLICA_SETS, SECRETS, World};

fn is_trial_of_the_deployment(asked: &Asked) -> bool {
    asked.dry_run() && asked.path == DEPLOYMENT
}

fn writes(asked: &[Asked]) -> Vec<String> {
    asked.iter().filter(|asked| asked.writes() && !asked.path.contains("/events")).map(Asked::word).collect()
}

fn current_config(world: &World) -> String {
    current(world, "idempotency.dev/config")
}

fn current_files(world: &World) -> String {
    current(world, "idempotency.dev/files")
}

fn current(world: &World, annotation: &str) -> String {
    let deployment = world.api.get(DEPLOYMENT).unwrap();
    let annotations = &deployment["spec"]["template"]["metadata"]["annotations"];
    annotations[annotation].as_str().unwrap().to_owned()
}

/// The consumer takes the URL of its Redis out of the Secret `redis`.
fn take_url_from_a_secret(world: &World) {
    world.api.change(CONSUMER, |consumer| {
        let redis = consumer["spec"]["redis"].as_object_mut().unwrap();
        redis.remove("url");
        redis.insert("urlFrom".into(), json!({"secretKeyRef": {"name": "redis", "key": "url"}}));
    });
}

/// That Secret holds the URL, in base64.
fn put_url(world: &World, url: &str) {
    world.api.change(&format!("{SECRETS}/redis"), |secret| {
        *secret = json!({"metadata": {"name": "redis", "namespace": "ns"}, "data": {"url": url}});
    });
}

/// A ReplicaSet that names what a pod template names.
fn replica_set(annotations: &Value) -> Value {
    json!({
        "metadata": {"name": "a-1", "namespace": "ns", "labels": {"idempotency.dev/consumer": "a"}},
        "spec": {"selector": {}, "template": {"metadata": {"annotations": annotations}}},
    })
}

#[tokio::test]
async fn a_new_consumer_is_deployed_after_a_trial_and_the_deployment_comes_last() {
    let mut world = World::new();
    world.reconcile().await.unwrap();
    let asked = world.api.asked();
    let trial = asked.iter().position(is_trial_of_the_deployment).expect("a trial");
    let first = asked.iter().position(Asked::writes).expect("a write");
    assert!(trial < first, "{asked:?}");
    let writes = writes(&asked);
    assert_eq!(writes[writes.len() - 2..], ["PATCH deployments/a", "PATCH a/status"]);
    assert!(
        asked.iter().filter(|asked| asked.apply && asked.path != CONSUMER && !asked.path.ends_with("/status")).all(
            |asked| {
                asked.query.contains("fieldValidation=Strict")
                    && asked.query.contains("fieldManager=idempotent-consumer")
            }
        )
    );
    assert_eq!(world.condition("SpecValid").0, "True");
    assert!(asked.iter().any(|asked| asked.path.contains("/events") && asked.body["reason"] == "Created"));
}

#[tokio::test]
async fn an_unchanged_consumer_sends_nothing() {
    let mut world = World::new();
    world.settle().await;
    world.reconcile().await.unwrap();
    assert_eq!(world.api.words(), Vec::<String>::new());
    assert_eq!(world.condition("Ready").0, "True");
}

#[tokio::test]
async fn watches_that_are_behind_lead_to_no_second_write() {
    let mut world = World::new();
    world.reconcile().await.unwrap();
    world.api.asked();
    let token = world.api.get(&format!("{SECRETS}/a-sidecar")).unwrap();
    world.reconcile().await.unwrap();
    assert_eq!(writes(&world.api.asked()), Vec::<String>::new());
    assert_eq!(world.api.get(&format!("{SECRETS}/a-sidecar")).unwrap(), token);
}

#[tokio::test]
async fn drift_is_corrected() {
    let mut world = World::new();
    world.settle().await;
    world.api.change(DEPLOYMENT, |deployment| {
        deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "other".into()
    });
    world.sync();
    world.reconcile().await.unwrap();
    let asked = world.api.asked();
    assert_eq!(writes(&asked)[0], "PATCH deployments/a");
    assert_eq!(world.api.get(DEPLOYMENT).unwrap()["spec"]["template"]["spec"]["containers"][0]["image"], "app:1");
    assert!(asked.iter().any(|asked| asked.body["reason"] == "Corrected"));
}

#[tokio::test]
async fn what_others_add_is_left_alone() {
    let mut world = World::new();
    world.settle().await;
    world.api.change(DEPLOYMENT, |deployment| deployment["metadata"]["annotations"]["theirs"] = "1".into());
    world.sync();
    world.reconcile().await.unwrap();
    assert_eq!(world.api.words(), Vec::<String>::new());
}

#[tokio::test]
async fn a_refused_trial_leaves_everything_as_it_is() {
    let mut world = World::new();
    world.settle().await;
    let before = (world.api.list("/configmaps/"), world.api.get(DEPLOYMENT));
    world.api.change(CONSUMER, |consumer| {
        consumer["spec"]["ttl"] = "48h".into();
        consumer["spec"]["template"]["spec"]["containers"][0]["imag"] = "typo".into();
    });
    world.sync();
    world.api.refuse(|asked| is_trial_of_the_deployment(asked).then(|| (400, "unknown field imag".to_owned())));
    world.reconcile().await.unwrap();
    assert_eq!(writes(&world.api.asked()), ["PATCH a/status"]);
    assert_eq!((world.api.list("/configmaps/"), world.api.get(DEPLOYMENT)), before);
    let (status, reason, message) = world.condition("SpecValid");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "TemplateRefused"));
    assert!(message.contains("unknown field imag"), "{message}");
    assert_eq!(world.condition("Ready").0, "True", "what runs stays");
    assert_eq!(
        (world.generation_of("Ready"), world.generation_of("Progressing")),
        (Some(1), Some(1)),
        "of the old spec"
    );
    assert_eq!((world.generation_of("SpecValid"), world.condition("Progressing").1), (Some(2), "Blocked".into()));
    world.sync();
    world.reconcile().await.unwrap();
    assert_eq!(world.api.words(), Vec::<String>::new(), "it is not asked again so soon");
    world.api.accept();
    world.api.change(CONSUMER, |consumer| {
        let containers = &mut consumer["spec"]["template"]["spec"]["containers"];
        containers[0].as_object_mut().unwrap().remove("imag");
    });
    world.sync();
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("SpecValid").0, "True");
}

#[tokio::test]
async fn the_status_is_written_on_failure_too() {
    let mut world = World::new();
    world.api.refuse(|asked| {
        (asked.path.contains("/configmaps/") && asked.writes()).then(|| (500, "etcd is away".to_owned()))
    });
    world.reconcile().await.unwrap_err();
    assert_eq!(world.condition("SpecValid").0, "Unknown", "a fault of the server's says nothing of the spec");
    let (status, reason, message) = world.condition("Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "NotDeployed"));
    assert!(message.contains("etcd is away"), "{message}");
}

#[tokio::test]
async fn what_a_consumer_names_is_read_once_for_each_version() {
    let mut world = World::new();
    take_url_from_a_secret(&world);
    world.sync();
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("SpecValid").1, "ReferenceNotFound");
    let secret = format!("{SECRETS}/redis");
    put_url(&world, "cmVkaXM6Ly9yOjYzNzk=");
    world.sync();
    world.settle().await;
    assert_eq!(world.condition("SpecValid").0, "True");
    world.reconcile().await.unwrap();
    assert_eq!(world.api.words(), Vec::<String>::new());
    put_url(&world, "cmVkaXM6Ly9zOjYzNzk=");
    world.sync();
    world.reconcile().await.unwrap();
    let asked = world.api.asked();
    assert_eq!(asked.iter().filter(|asked| asked.path == secret).count(), 1);
    assert!(asked.iter().any(|asked| asked.body["reason"] == "ReferenceChanged"), "{asked:?}");
    for asked in asked.iter().filter(|asked| !asked.path.contains("/secrets/")) {
        assert!(!asked.body.to_string().contains("redis://s"), "a Secret's value is in {asked:?}");
    }
}

#[tokio::test]
async fn an_object_of_another_owner_is_never_taken_over() {
    let mut world = World::new();
    world.api.change(DEPLOYMENT, |deployment| {
        *deployment = json!({"metadata": {"name": "a", "namespace": "ns"}, "spec": {"replicas": 7}})
    });
    let before = world.api.get(DEPLOYMENT);
    world.reconcile().await.unwrap();
    assert_eq!(writes(&world.api.asked()), ["PATCH a/status"]);
    assert_eq!(world.api.get(DEPLOYMENT), before);
    let (status, reason, message) = world.condition("SpecValid");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "NameConflict"));
    assert!(message.contains("Deployment `a`"), "{message}");
}

#[tokio::test]
async fn a_configuration_stays_while_a_replica_set_names_it() {
    let mut world = World::new();
    world.settle().await;
    let old = current_config(&world);
    let set = format!("{REPLICA_SETS}/a-1");
    world.api.change(&set, |set| *set = replica_set(&json!({"idempotency.dev/config": old})));
    world.api.change(CONSUMER, |consumer| consumer["spec"]["ttl"] = "48h".into());
    world.sync();
    world.settle().await;
    assert_ne!(current_config(&world), old);
    assert!(world.api.get(&format!("{CONFIG_MAPS}/{old}")).is_some(), "a roll-back would miss it");
    world.api.remove(&set);
    world.sync();
    world.reconcile().await.unwrap();
    assert_eq!(writes(&world.api.asked()), [format!("DELETE configmaps/{old}")]);
    assert!(world.api.get(&format!("{CONFIG_MAPS}/{}", current_config(&world))).is_some());
}

#[tokio::test]
async fn a_change_of_what_claims_stand_on_recreates_all_pods_and_then_rolls_again() {
    let mut world = World::new();
    world.settle().await;
    world.api.change(CONSUMER, |consumer| consumer["spec"]["keyPrefix"] = "other:".into());
    world.sync();
    world.reconcile().await.unwrap();
    let strategy = world.api.get(DEPLOYMENT).unwrap()["spec"]["strategy"].clone();
    assert_eq!(strategy, json!({"type": "Recreate"}));
    world.sync();
    world.reconcile().await.unwrap();
    assert_eq!(world.api.get(DEPLOYMENT).unwrap()["spec"]["strategy"]["type"], "Recreate", "old pods are there still");
    world.complete();
    world.sync();
    world.reconcile().await.unwrap();
    assert_eq!(world.api.get(DEPLOYMENT).unwrap()["spec"]["strategy"]["type"], "RollingUpdate");
}

#[tokio::test]
async fn another_operator_leaves_the_pods_until_the_spec_changes() {
    let mut world = World::new();
    world.settle().await;
    let template = |world: &World| world.api.get(DEPLOYMENT).unwrap()["spec"]["template"].clone();
    let before = template(&world);
    let mut world = world.upgraded("2", Upgrade::OnChange);
    world.settle().await;
    assert_eq!(template(&world), before);
    assert_eq!(world.condition("Progressing").1, "Outdated");
    world.api.change(CONSUMER, |consumer| consumer["spec"]["replicas"] = 3.into());
    world.sync();
    world.reconcile().await.unwrap();
    assert_eq!(
        (template(&world), world.api.get(DEPLOYMENT).unwrap()["spec"]["replicas"].clone()),
        (before.clone(), 3.into())
    );
    world.api.change(CONSUMER, |consumer| consumer["spec"]["ttl"] = "48h".into());
    world.sync();
    world.reconcile().await.unwrap();
    assert_ne!(template(&world), before);
}

#[tokio::test]
async fn another_operator_rolls_the_pods_where_that_is_wanted() {
    let mut world = World::new();
    world.settle().await;
    let mut world = world.upgraded("2", Upgrade::Rolling);
    world.reconcile().await.unwrap();
    assert!(world.api.asked().iter().any(|asked| asked.body["reason"] == "Upgraded"));
    assert!(world.api.get(DEPLOYMENT).unwrap()["spec"]["template"].to_string().contains("sidecar:2"));
}

#[tokio::test]
async fn a_resource_that_cannot_be_read_gets_a_condition() {
    let mut world = World::new();
    world.settle().await;
    world.api.change(CONSUMER, |consumer| consumer["spec"]["replicas"] = "many".into());
    world.sync();
    world.reconcile().await.unwrap();
    let (status, reason, message) = world.condition("SpecValid");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Undecodable"));
    assert!(message.contains("many") || message.contains("i32"), "{message}");
    assert_eq!(
        (world.condition("Ready").0.as_str(), world.generation_of("Ready")),
        ("True", Some(1)),
        "what runs stays"
    );
    assert_eq!(world.api.get(CONSUMER).unwrap()["status"]["selector"], "idempotency.dev/consumer=a");
}

#[tokio::test]
async fn one_that_is_deleted_is_left_to_the_garbage_collector() {
    let mut world = World::new();
    world.settle().await;
    world.api.change(CONSUMER, |consumer| consumer["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into());
    world.api.remove(DEPLOYMENT);
    world.sync();
    world.reconcile().await.unwrap();
    assert_eq!(world.api.words(), Vec::<String>::new());
}

/// Each kind has a watch of its own: what others bring may lead to a reconcile before the Deployment's event comes.
#[tokio::test]
async fn while_the_deployments_watch_is_behind_its_last_answer_decides() {
    let mut world = World::new();
    world.settle().await;
    let prefix = |world: &World, prefix: Option<&str>| {
        world.api.change(CONSUMER, |consumer| match prefix {
            Some(prefix) => consumer["spec"]["keyPrefix"] = prefix.into(),
            None => _ = consumer["spec"].as_object_mut().unwrap().remove("keyPrefix"),
        });
    };
    prefix(&world, Some("other:"));
    world.sync_consumers();
    world.reconcile().await.unwrap();
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("Progressing").0, "True", "the old Deployment is complete, and is not the one there is");
    prefix(&world, None);
    world.sync_consumers();
    world.reconcile().await.unwrap();
    let deployment = world.api.get(DEPLOYMENT).unwrap();
    assert_eq!(deployment["spec"]["strategy"]["type"], "Recreate", "pods of the other prefix run or start");
    assert!(!current_config(&world).is_empty());
}

fn change_prefix(world: &World) {
    world.api.change(CONSUMER, |consumer| consumer["spec"]["keyPrefix"] = "other:".into());
}

/// Pods that end are in no count of a Deployment's.
#[tokio::test]
async fn pods_of_another_prefix_that_end_are_waited_for_at_no_replicas_too() {
    let mut world = World::new();
    world.settle().await;
    world.make_pod("a-old");
    world.api.change(CONSUMER, |consumer| consumer["spec"]["replicas"] = 0.into());
    change_prefix(&world);
    world.sync();
    world.settle().await;
    assert_eq!(world.api.get(DEPLOYMENT).unwrap()["spec"]["strategy"]["type"], "Recreate", "the old pod ends still");
    world.api.change(&format!("{PODS}/a-old"), |pod| pod["status"]["phase"] = "Succeeded".into());
    world.sync();
    world.reconcile().await.unwrap();
    assert_eq!(world.api.get(DEPLOYMENT).unwrap()["spec"]["strategy"]["type"], "RollingUpdate");
}

#[tokio::test]
async fn a_deployment_is_not_made_beside_pods_of_another_prefix() {
    let mut world = World::new();
    world.settle().await;
    world.make_pod("a-old");
    world.api.remove(DEPLOYMENT);
    change_prefix(&world);
    world.sync();
    world.reconcile().await.unwrap();
    assert!(world.api.get(DEPLOYMENT).is_none());
    let (status, reason, message) = world.condition("Progressing");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "WaitingForOldPods"));
    assert!(message.contains("a-old"), "{message}");
    assert_eq!(world.condition("SpecValid").0, "True");
    world.api.remove(&format!("{PODS}/a-old"));
    world.sync();
    world.reconcile().await.unwrap();
    assert!(world.api.get(DEPLOYMENT).is_some());
}

#[tokio::test]
async fn pods_of_the_same_prefix_are_not_waited_for() {
    let mut world = World::new();
    world.settle().await;
    world.make_pod("a-old");
    world.api.remove(DEPLOYMENT);
    world.sync();
    world.reconcile().await.unwrap();
    assert!(world.api.get(DEPLOYMENT).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_request_without_an_answer_is_given_up_and_tried_again() {
    let mut world = World::new();
    world.settle().await;
    world.api.change(CONSUMER, |consumer| consumer["spec"]["ttl"] = "48h".into());
    world.sync();
    world.api.swallow(|asked| asked.path == DEPLOYMENT);
    let error = world.reconcile().await.unwrap_err();
    assert!(matches!(error, operator::controller::Error::Late), "{error}");
    assert_eq!(world.condition("Progressing").1, "Retrying");
    world.api.accept();
    world.reconcile().await.unwrap();
    assert_eq!(world.generation_of("SpecValid"), Some(2));
}

#[tokio::test]
async fn an_upgrade_of_one_that_becomes_invalid_holds_nobody_up() {
    let mut world = World::new();
    world.settle().await;
    let mut world = world.upgraded("2", Upgrade::Rolling);
    world.reconcile().await.unwrap();
    world.sync();
    world.reconcile().await.unwrap();
    assert_eq!(world.upgrades(), (1, 0, 0));
    take_url_from_a_secret(&world);
    world.sync();
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("SpecValid").1, "ReferenceNotFound");
    assert_eq!(world.upgrades(), (0, 0, 1));
}

#[tokio::test]
async fn one_of_the_group_of_an_older_one_waits_for_it_and_looks_again_by_itself() {
    let mut world = World::new();
    let older = CONSUMER.replace("/a", "/b");
    world.api.change(CONSUMER, |consumer| consumer["spec"]["group"] = "g".into());
    let consumer = world.api.get(CONSUMER).unwrap();
    world.api.change(&older, |older| {
        *older = consumer;
        older["metadata"]["name"] = "b".into();
        older["metadata"]["uid"] = "uid-b".into();
        older["metadata"]["creationTimestamp"] = "2025-01-01T00:00:00Z".into();
        older["spec"]["topics"] = json!(["others"]);
    });
    world.sync();
    let action = world.reconcile().await.unwrap();
    assert_eq!(world.condition("SpecValid").1, "GroupConflict");
    assert_ne!(action, Action::await_change());
    assert_eq!(world.rivalled(), ["ns/a"]);
    world.api.remove(&older);
    world.sync();
    world.reconcile().await.unwrap();
    assert_eq!((world.condition("SpecValid").0.as_str(), world.rivalled().len()), ("True", 0));
}

#[tokio::test]
async fn pausing_and_scaling_follow_beside_a_mistake() {
    let mut world = World::new();
    world.settle().await;
    let template = world.api.get(DEPLOYMENT).unwrap()["spec"]["template"].clone();
    let paused = |world: &World| world.api.get(&format!("{CONFIG_MAPS}/a-switches")).unwrap()["data"]["paused"].clone();
    world.api.change(CONSUMER, |consumer| {
        consumer["spec"]["paused"] = true.into();
        consumer["spec"]["replicas"] = 4.into();
        consumer["spec"]["template"]["spec"]["containers"][0]["imag"] = "typo".into();
    });
    world.sync();
    world.api.refuse(|asked| is_trial_of_the_deployment(asked).then(|| (400, "unknown field imag".to_owned())));
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("SpecValid").1, "TemplateRefused");
    assert_eq!(
        (paused(&world), world.api.get(DEPLOYMENT).unwrap()["spec"]["replicas"].clone()),
        ("true".into(), 4.into())
    );
    world.api.change(CONSUMER, |consumer| {
        consumer["spec"]["paused"] = false.into();
        let redis = consumer["spec"]["redis"].as_object_mut().unwrap();
        redis.remove("url");
        redis.insert("urlFrom".into(), json!({"secretKeyRef": {"name": "redis", "key": "url"}}));
    });
    world.sync();
    world.reconcile().await.unwrap();
    assert_eq!((world.condition("SpecValid").1.as_str(), paused(&world)), ("ReferenceNotFound", "false".into()));
    assert_eq!(world.api.get(DEPLOYMENT).unwrap()["spec"]["template"], template);
    world.sync();
    world.api.asked();
    world.reconcile().await.unwrap();
    assert_eq!(writes(&world.api.asked()), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_kept_is_rolled_when_its_configuration_is_gone() {
    let mut world = World::new();
    world.settle().await;
    let mut world = world.upgraded("2", Upgrade::OnChange);
    world.settle().await;
    assert_eq!(world.condition("Progressing").1, "Outdated");
    world.api.remove(&format!("{CONFIG_MAPS}/{}", current_config(&world)));
    world.sync();
    world.reconcile().await.unwrap();
    assert!(world.api.asked().iter().any(|asked| asked.body["reason"] == "Healed"));
    assert!(world.api.get(&format!("{CONFIG_MAPS}/{}", current_config(&world))).is_some());
    assert!(world.api.get(DEPLOYMENT).unwrap().to_string().contains("sidecar:2"));
}

#[tokio::test]
async fn what_is_kept_is_rolled_when_its_drain_token_is_another() {
    let mut world = World::new();
    world.settle().await;
    world.api.remove(&format!("{SECRETS}/a-sidecar"));
    let mut world = world.upgraded("2", Upgrade::OnChange);
    world.reconcile().await.unwrap();
    assert!(world.api.asked().iter().any(|asked| asked.body["reason"] == "Healed"));
    let token = world.api.get(&format!("{SECRETS}/a-sidecar")).unwrap()["data"]["token"].as_str().unwrap().to_owned();
    assert!(!token.is_empty());
}

#[tokio::test]
async fn pods_read_a_copy_of_secrets_that_changes_only_with_their_template() {
    let mut world = World::new();
    take_url_from_a_secret(&world);
    put_url(&world, "cmVkaXM6Ly9yOjYzNzk=");
    world.sync();
    world.settle().await;
    let old = current_files(&world);
    let copy = |name: &str| format!("{SECRETS}/{name}");
    let contents = world.api.get(&copy(&old)).unwrap();
    assert_eq!(
        (&contents["immutable"], &contents["data"]["redis.url"]),
        (&true.into(), &"cmVkaXM6Ly9yOjYzNzk=".into())
    );
    let template = world.api.get(DEPLOYMENT).unwrap()["spec"]["template"].to_string();
    assert!(
        !template.contains("\"name\":\"redis\""),
        "pods of this revision would follow the user's Secret: {template}"
    );

    put_url(&world, "cmVkaXM6Ly9zOjYzNzk=");
    world.sync();
    world.api.refuse(|asked| is_trial_of_the_deployment(asked).then(|| (400, "a policy came".to_owned())));
    world.reconcile().await.unwrap();
    assert_eq!((current_files(&world), world.api.get(&copy(&old))), (old.clone(), Some(contents)));

    world.api.accept();
    let set = format!("{REPLICA_SETS}/a-1");
    world.api.change(&set, |set| *set = replica_set(&json!({"idempotency.dev/files": old})));
    world.api.change(CONSUMER, |consumer| consumer["spec"]["ttl"] = "48h".into());
    world.sync();
    world.settle().await;
    assert_ne!(current_files(&world), old);
    assert!(world.api.get(&copy(&old)).is_some(), "a roll-back would miss it");
    world.api.remove(&set);
    world.sync();
    world.reconcile().await.unwrap();
    assert_eq!(writes(&world.api.asked()), [format!("DELETE secrets/{old}")]);
    assert!(world.api.get(&copy(&current_files(&world))).is_some());
}

#[tokio::test]
async fn what_is_kept_is_rolled_when_its_copy_of_secrets_is_gone() {
    let mut world = World::new();
    take_url_from_a_secret(&world);
    put_url(&world, "cmVkaXM6Ly9yOjYzNzk=");
    world.sync();
    world.settle().await;
    let mut world = world.upgraded("2", Upgrade::OnChange);
    world.settle().await;
    world.api.remove(&format!("{SECRETS}/{}", current_files(&world)));
    world.sync();
    world.reconcile().await.unwrap();
    assert!(world.api.asked().iter().any(|asked| asked.body["reason"] == "Healed"));
    assert!(world.api.get(&format!("{SECRETS}/{}", current_files(&world))).is_some());
}

#[tokio::test]
async fn what_a_former_consumer_of_the_name_leaves_is_waited_for() {
    let mut world = World::new();
    let left = format!("{CONFIG_MAPS}/a-switches");
    world.api.change(&left, |left| {
        *left = json!({"metadata": {"name": "a-switches", "namespace": "ns", "ownerReferences": [{
            "apiVersion": "idempotency.dev/v1alpha1", "kind": "IdempotentConsumer", "name": "a", "uid": "former",
            "controller": true,
        }]}});
    });
    let error = world.reconcile().await.unwrap_err();
    assert!(error.to_string().contains("a former consumer of this name"), "{error}");
    assert_eq!(writes(&world.api.asked()), ["PATCH a/status"]);
    assert_eq!(world.condition("SpecValid").0, "True", "it is no mistake");
    world.api.remove(&left);
    world.settle().await;
    assert_eq!(world.condition("Ready").0, "True");
}

#[tokio::test]
async fn a_successor_of_the_name_is_not_told_what_was_found_of_another() {
    let mut world = World::new();
    world.api.change(CONSUMER, |consumer| consumer["metadata"]["uid"] = "another".into());
    world.reconcile().await.unwrap();
    assert!(world.api.get(CONSUMER).unwrap().get("status").is_none());
    world.sync();
    assert!(world.reconcile().await.is_err(), "what the other left is there still");
}

#[tokio::test]
async fn a_roll_for_an_upgrade_that_gives_up_is_told_and_frees_its_slot() {
    let mut world = World::new();
    world.settle().await;
    let mut world = world.upgraded("2", Upgrade::Rolling);
    world.reconcile().await.unwrap();
    world.api.change(DEPLOYMENT, |deployment| {
        deployment["status"] = json!({
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": 2, "readyReplicas": 1, "updatedReplicas": 1, "availableReplicas": 1,
            "conditions": [{
                "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded",
                "message": "ReplicaSet \"a-2\" has timed out progressing.",
            }],
        });
    });
    world.sync();
    world.reconcile().await.unwrap();
    let (status, reason, message) = world.condition("Progressing");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Stuck"));
    assert!(message.contains("timed out"), "{message}");
    assert_eq!(world.upgrades(), (0, 0, 1));
}
