//! Shows what the API server refuses by itself, and with which words: each rule of the resource's definition, against the real one.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use crds::v1alpha1::IdempotentConsumer;
use harness::cluster::consumer::merge;
use harness::cluster::{Space, kubectl, trial};
use harness::wait::patiently;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        trial("rules::each_rule_refuses_and_says_what_to_do", each_rule_refuses_and_says_what_to_do),
        trial("rules::what_is_right_at_the_edges_is_taken", what_is_right_at_the_edges_is_taken),
        trial("rules::the_group_stays", the_group_stays),
        trial("rules::the_definition_fits_a_client_side_apply", the_definition_fits_a_client_side_apply),
        trial("rules::defaults_are_filled_in", defaults_are_filled_in),
        trial("rules::kubectl_explains_every_field", kubectl_explains_every_field),
    ]
}

/// A mistake, as a merge patch over a right consumer, and what the API server says.
struct Mistake(Value, &'static str);

fn mistakes() -> Vec<Mistake> {
    let spec = |patch: Value| json!({"spec": patch});
    let secret = json!({"secretKeyRef": {"name": "a", "key": "b"}});
    let long = "x".repeat(51);
    let mut all = vec![
        // Of the schema: bounds, sets, patterns.
        Mistake(
            spec(json!({"topics": []})),
            "spec.topics: Invalid value: 0: spec.topics in body should have at least 1 items",
        ),
        Mistake(spec(json!({"topics": ["a", "a"]})), "spec.topics[1]: Duplicate value: \"a\""),
        Mistake(spec(json!({"topics": null})), "spec.topics: Required value"),
        Mistake(spec(json!({"topics": ["no spaces"]})), "spec.topics[0] in body should match '^[a-zA-Z0-9._-]+$'"),
        Mistake(spec(json!({"template": null})), "spec.template: Required value"),
        Mistake(spec(json!({"kafka": null})), "spec.kafka: Required value"),
        Mistake(spec(json!({"replicas": -1})), "spec.replicas in body should be greater than or equal to 0"),
        Mistake(
            spec(json!({"delivery": {"ordering": "Any"}})),
            "supported values: \"Partition\", \"Key\", \"Unordered\"",
        ),
        // Of CEL.
        Mistake(json!({"metadata": {"name": long}}), "metadata.name must begin with a letter"),
        Mistake(json!({"metadata": {"name": "1a"}}), "metadata.name must begin with a letter"),
        Mistake(spec(json!({"ttl": "1 day"})), "spec.ttl: Invalid value: \"1 day\": write a number and a unit"),
        Mistake(spec(json!({"ttl": "0s"})), "spec.ttl: Invalid value: \"0s\": must be 1s to 87600h"),
        Mistake(spec(json!({"ttl": "87601h"})), "must be 1s to 87600h"),
        Mistake(
            spec(json!({"ttlOverrides": {"": "1h"}})),
            "each entry must name an event type and a ttl of 1s to 87600h",
        ),
        Mistake(
            spec(json!({"ttlOverrides": {"a": "1ms"}})),
            "each entry must name an event type and a ttl of 1s to 87600h",
        ),
        Mistake(spec(json!({"ttlOverrides": {"a": "soon"}})), "write a number and a unit"),
        Mistake(spec(json!({"keyPrefix": "{grp}:"})), "the placeholders are {group}, {topic} and {type}"),
        Mistake(spec(json!({"doneValues": ["c:x"]})), "must not begin with c:"),
        Mistake(spec(json!({"session": {"ttl": "31s"}})), "session.ttl must be 1s to 30s"),
        Mistake(spec(json!({"drainTimeout": "5m"})), "must be 0s to 299s"),
        Mistake(spec(json!({"eventId": {"rule": "Header"}})), "header is set with rule Header, and only then"),
        Mistake(spec(json!({"eventId": {"header": "ce_id"}})), "header is set with rule Header, and only then"),
        Mistake(spec(json!({"eventId": {"rule": "Fields"}})), "fields is set with rule Fields, and only then"),
        Mistake(
            spec(json!({"eventId": {"rule": "Data", "fields": ["/a"]}})),
            "fields is set with rule Fields, and only then",
        ),
        Mistake(
            spec(json!({"kafka": {"bootstrapServers": "kafka"}})),
            "must be host:port, several separated by commas",
        ),
        Mistake(
            spec(json!({"kafka": {"tls": {"caFrom": {}}}})),
            "spec.kafka.tls.caFrom: Invalid value: set exactly one of secretKeyRef and configMapKeyRef",
        ),
        Mistake(
            spec(json!({"kafka": {"tls": {"certificateFrom": secret}}})),
            "certificateFrom and keyFrom come together: set both or none",
        ),
        Mistake(spec(json!({"redis": {"urlFrom": secret}})), "set one of url and urlFrom, not both"),
        Mistake(spec(json!({"redis": {"url": "http://redis"}})), "must begin with redis:// or rediss:// (TLS)"),
        Mistake(spec(json!({"redis": {"url": "redis://u:secret@redis"}})), "must not hold a password"),
        Mistake(
            spec(json!({"redis": {"usernameFrom": secret}})),
            "usernameFrom needs the user's password: set passwordFrom",
        ),
        Mistake(
            spec(json!({"redis": {"topology": "Sentinel"}})),
            "sentinelMaster is set with topology Sentinel, and only then",
        ),
        Mistake(
            spec(json!({"redis": {"sentinelMaster": "m"}})),
            "sentinelMaster is set with topology Sentinel, and only then",
        ),
        Mistake(spec(json!({"redis": {"timeout": "11s"}})), "must be 10ms to 10s"),
        Mistake(
            spec(json!({"session": {"ttl": "3s"}, "redis": {"timeout": "1s"}})),
            "redis.timeout must be at most a quarter of session.ttl",
        ),
        Mistake(spec(json!({"delivery": {"timeout": "0s"}})), "must be 1ms to 21900h"),
        Mistake(
            spec(json!({"delivery": {"timeout": "901s"}, "ttl": "1h"})),
            "delivery.timeout must be at most a quarter of the shortest time that a claim lives",
        ),
        Mistake(
            spec(json!({"delivery": {"timeout": "2h"}, "ttl": "24h", "ttlOverrides": {"a": "7h"}})),
            "delivery.timeout must be at most a quarter of the shortest time that a claim lives",
        ),
        Mistake(spec(json!({"delivery": {"maxAttempts": 3}})), "maxAttempts needs deadLetterTopic"),
        Mistake(spec(json!({"delivery": {"appDownTimeout": "25h"}})), "must be 1s to 24h"),
        Mistake(
            spec(json!({"delivery": {"batch": {"maxEvents": 100}, "buffer": {"maxRecords": 99}}})),
            "buffer.maxRecords must not be below batch.maxEvents",
        ),
        Mistake(spec(json!({"delivery": {"batch": {"maxEvents": 0}}})), "batch.maxEvents must be 1 to 10000"),
        Mistake(spec(json!({"delivery": {"backoff": {"min": "2s", "max": "1s"}}})), "backoff.min must be 1ms or more"),
        Mistake(spec(json!({"delivery": {"buffer": {"maxBytes": 1}}})), "buffer.maxRecords must be 1 to 1000000"),
        Mistake(
            spec(json!({"delivery": {"deadLetterTopic": "events"}})),
            "delivery.deadLetterTopic must not be among topics: it would be consumed again for ever",
        ),
        Mistake(
            spec(json!({"delivery": {"duplicatesTopic": "events"}})),
            "delivery.duplicatesTopic must not be among topics: it would be consumed again for ever",
        ),
        Mistake(
            spec(json!({"delivery": {"container": "none"}})),
            "delivery.container must name one of template.spec.containers",
        ),
        Mistake(
            spec(json!({"template": {"spec": {"containers": [{"name": "idempotency-sidecar", "image": "x"}]}}})),
            "no container may be called idempotency-sidecar: the operator adds the one of that name",
        ),
        Mistake(
            spec(json!({"template": {"spec": {"initContainers": [{"name": "idempotency-sidecar", "image": "x"}]}}})),
            "no container may be called idempotency-sidecar: the operator adds the one of that name",
        ),
        Mistake(
            spec(json!({"template": {"metadata": {"labels": {"idempotency.dev/consumer": "x"}}}})),
            "no label may begin with idempotency.dev/: the operator sets those",
        ),
    ];
    let containers: Vec<_> = ["a", "a"].iter().map(|name| json!({"name": name, "image": "x"})).collect();
    all.push(Mistake(
        spec(json!({"template": {"spec": {"containers": containers}}})),
        "spec.template.spec.containers[1]: Duplicate value: {\"name\":\"a\"}",
    ));
    all
}

async fn right(space: &Space) -> anyhow::Result<Value> {
    let _ = space;
    Ok(harness::cluster::consumer::consumer("right", "events", "kafka:9092", "redis://redis:6379", "ledger:1"))
}

async fn each_rule_refuses_and_says_what_to_do(space: Arc<Space>) -> anyhow::Result<()> {
    let right = right(&space).await?;
    try_on(&space, &right).await.context("the right one")?;
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for Mistake(patch, message) in mistakes() {
        let mut consumer = right.clone();
        merge(&mut consumer, patch.clone());
        match try_on(&space, &consumer).await {
            Ok(()) => wrong.push(format!("{patch} was taken, and not refused with `{message}`")),
            Err(e) => {
                let text = format!("{e:#}");
                if !text.contains(message) {
                    wrong.push(format!("{patch} was refused, but not with `{message}`: {text}"));
                }
                seen.insert(text);
            }
        }
    }
    // No rule stands untested: each message of the definition was heard, but for that of a change, which has a test of its own.
    for message in messages() {
        if !message.starts_with("group can't be changed") && !seen.iter().any(|text| text.contains(&message)) {
            wrong.push(format!("no mistake was told: {message}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

async fn what_is_right_at_the_edges_is_taken(space: Arc<Space>) -> anyhow::Result<()> {
    let right = right(&space).await?;
    let secret = json!({"secretKeyRef": {"name": "a", "key": "b"}});
    for patch in [
        json!({"delivery": {"timeout": "15m"}, "ttl": "1s"}),
        json!({"delivery": {"timeout": "6h"}, "ttl": "24h", "ttlOverrides": {"a": "24h"}}),
        json!({"ttl": "1h30m", "ttlOverrides": {"a.b-c/d": "1s"}}),
        json!({"keyPrefix": "shared:events:seen:"}),
        json!({"keyPrefix": "{group}-{topic}-{type}-"}),
        json!({"session": {"ttl": "30s"}, "redis": {"timeout": "7500ms"}}),
        json!({"eventId": {"rule": "Header", "header": "ce_id"}}),
        json!({"eventId": {"rule": "Fields", "fields": ["/event_id", "/event_type"]}}),
        json!({"redis": {"url": null, "urlFrom": secret}}),
        json!({"redis": {"url": "redis://a:6379,redis://b:6379", "topology": "Cluster"}}),
        json!({"redis": {"url": "rediss://s-1:26379,rediss://s-2:26379/3", "topology": "Sentinel", "sentinelMaster": "m"}}),
        json!({"redis": {"usernameFrom": secret, "passwordFrom": secret}}),
        json!({"kafka": {"bootstrapServers": "[fd00::1]:9092, kafka-1:9092"}}),
        json!({"kafka": {"tls": {"caFrom": {"configMapKeyRef": {"name": "a", "key": "b"}}}}}),
        json!({"kafka": {"tls": {}, "sasl": {"mechanism": "SCRAM-SHA-512", "usernameFrom": secret, "passwordFrom": secret}}}),
        json!({"delivery": {"maxAttempts": 3, "deadLetterTopic": "dead"}}),
        json!({"delivery": {"container": "app"}, "sidecar": {"adminPort": 1, "resources": {"limits": {"cpu": 1}}}}),
        json!({"replicas": 0}),
    ] {
        let mut consumer = right.clone();
        merge(&mut consumer, json!({"spec": patch}));
        try_on(&space, &consumer).await.with_context(|| format!("{patch}"))?;
    }
    Ok(())
}

async fn the_group_stays(space: Arc<Space>) -> anyhow::Result<()> {
    const REFUSED: &str = "group can't be changed: offsets and claims stand under it";
    let api: Api<IdempotentConsumer> = space.api();
    let mut named = right(&space).await?;
    merge(&mut named, json!({"metadata": {"name": "named"}, "spec": {"group": "one", "replicas": 0}}));
    let mut unnamed = right(&space).await?;
    merge(&mut unnamed, json!({"metadata": {"name": "unnamed"}, "spec": {"replicas": 0}}));
    for consumer in [&named, &unnamed] {
        api.create(&PostParams::default(), &serde_json::from_value(consumer.clone())?).await?;
    }
    for (name, group) in [("named", json!("two")), ("named", Value::Null), ("unnamed", json!("two"))] {
        let change = Patch::Merge(json!({"spec": {"group": group}}));
        let refused = api.patch(name, &PatchParams::default(), &change).await;
        let text = refused.err().map(|e| e.to_string()).unwrap_or_default();
        ensure!(text.contains(REFUSED), "{name} to {group}: {text}");
    }
    // Everything else may change beside it.
    api.patch("named", &PatchParams::default(), &Patch::Merge(json!({"spec": {"ttl": "1h"}}))).await?;
    Ok(())
}

async fn the_definition_fits_a_client_side_apply(_: Arc<Space>) -> anyhow::Result<()> {
    let crd = serde_json::to_string(&crds::v1alpha1::crd()?)?;
    // Under another name than the one that all tests use, whose last-applied annotation is nobody's business.
    let other = crd.replace("idempotentconsumers", "clientsideconsumers").replace("\"icon\"", "\"csicon\"");
    let other = other
        .replace("\"IdempotentConsumer\"", "\"ClientSideConsumer\"")
        .replace("idempotentconsumer\"", "clientsideconsumer\"");
    let said = kubectl(&["apply", "--filename=-"], &other).await?;
    let again = kubectl(&["apply", "--filename=-"], &other).await;
    let name = "crd/clientsideconsumers.idempotency.dev";
    let established = kubectl(&["wait", "--for=condition=Established", "--timeout=30s", name], "").await;
    let removed = kubectl(&["delete", "--wait=false", name], "").await;
    ensure!(said.contains("created"), "{said}");
    ensure!(again?.contains("unchanged"), "the second apply changes something");
    established?;
    removed?;
    Ok(())
}

/// What a user does not write is in what the API server keeps, so that everybody reads the same.
async fn defaults_are_filled_in(space: Arc<Space>) -> anyhow::Result<()> {
    let least = json!({
        "apiVersion": "idempotency.dev/v1alpha1",
        "kind": "IdempotentConsumer",
        "metadata": {"name": "least"},
        "spec": {
            "topics": ["events"],
            "kafka": {"bootstrapServers": "kafka:9092"},
            "redis": {"url": "redis://redis:6379"},
            "replicas": 0,
            "template": {"spec": {"containers": [{"name": "app", "image": "app:1"}]}},
        },
    });
    space.kubectl_apply(&least).await?;
    let kept: Value = serde_json::from_str(&space.kubectl(&["get", "icon", "least", "--output=json"]).await?)?;
    for (path, value) in [
        ("/spec/ttl", json!("24h")),
        ("/spec/eventId/rule", json!("Data")),
        ("/spec/keyPrefix", json!("idempotency:{group}:{topic}:{type}:")),
        ("/spec/paused", json!(false)),
        ("/spec/session/ttl", json!("10s")),
        ("/spec/redis/failurePolicy", json!("Open")),
        ("/spec/redis/timeout", json!("250ms")),
        ("/spec/delivery/ordering", json!("Partition")),
        ("/spec/delivery/timeout", json!("1m")),
        ("/spec/sidecar/adminPort", json!(9464)),
    ] {
        ensure!(kept.pointer(path) == Some(&value), "{path} is {:?}, not {value}: {kept:#}", kept.pointer(path));
    }
    // What the template holds is kept, known to us or not.
    ensure!(kept.pointer("/spec/template/spec/containers/0/image") == Some(&json!("app:1")), "{kept:#}");
    Ok(())
}

async fn kubectl_explains_every_field(space: Arc<Space>) -> anyhow::Result<()> {
    // What `kubectl explain` reads. The API server publishes it a moment after the definition.
    let openapi = patiently("the OpenAPI document", Duration::from_secs(30), async || {
        let text = kubectl(&["get", "--raw=/openapi/v3/apis/idempotency.dev/v1alpha1"], "").await?;
        anyhow::Ok(serde_json::from_str::<Value>(&text)?)
    })
    .await;
    let schema = &openapi["components"]["schemas"]["dev.idempotency.v1alpha1.IdempotentConsumer"]["properties"];
    let mut paths = Vec::new();
    for part in ["spec", "status"] {
        described(&schema[part], part, &mut paths)?;
    }
    ensure!(paths.len() > 30, "{} objects", paths.len());
    // And as a person sees it.
    for path in ["icon", "icon.spec", "icon.spec.delivery", "icon.spec.redis", "icon.spec.template.spec", "icon.status"]
    {
        let text = space.kubectl(&["explain", path]).await?;
        ensure!(!text.contains("<no description>") && !text.contains("<empty>"), "{path}: {text}");
    }
    let ttl = space.kubectl(&["explain", "icon.spec.ttl"]).await?;
    ensure!(ttl.contains("How long a settled event is remembered"), "{ttl}");
    Ok(())
}

/// Every field below has a text; the objects among them are noted.
fn described(schema: &Value, path: &str, objects: &mut Vec<String>) -> anyhow::Result<()> {
    objects.push(path.to_owned());
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let text = field["description"].as_str().or_else(|| field.pointer("/allOf/0/description")?.as_str());
        ensure!(text.is_some_and(|text| text.len() > 3), "{path} has no text: {field}");
        described(field, &path, objects)?;
        described(&field["items"], &format!("{path}[]"), objects)?;
    }
    Ok(())
}

/// Asks the API server whether it would take a consumer.
async fn try_on(space: &Space, consumer: &Value) -> anyhow::Result<()> {
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let consumer: kube::core::DynamicObject = serde_json::from_value(consumer.clone())?;
    let kind = kube::core::ApiResource::erase::<IdempotentConsumer>(&());
    let api: Api<kube::core::DynamicObject> = Api::namespaced_with(space.client.clone(), &space.namespace, &kind);
    api.create(&params, &consumer).await?;
    Ok(())
}

/// The messages of all CEL rules in the definition.
fn messages() -> BTreeSet<String> {
    fn collect(node: &Value, found: &mut BTreeSet<String>) {
        match node {
            Value::Object(fields) => {
                for rule in fields.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
                    found.insert(rule["message"].as_str().expect("each rule has a message").to_owned());
                }
                fields.values().for_each(|field| collect(field, found));
            }
            Value::Array(nodes) => nodes.iter().for_each(|node| collect(node, found)),
            _ => {}
        }
    }
    let definition = serde_json::to_value(crds::v1alpha1::crd().unwrap()).unwrap();
    let mut found = BTreeSet::new();
    collect(&definition, &mut found);
    assert!(found.len() > 20, "{found:?}");
    found
}
