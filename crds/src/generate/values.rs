//! Decides how the Helm chart's values are told: schema, `values.yaml` and README, all from [`Values`]. Pure.

use std::fmt::{self, Write};

use schemars::generate::SchemaSettings;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::reference;
use crate::values::Values;

/// Longest line of a comment.
const WIDTH: usize = 120;

const HEAD: &str = "# Generated from crds/src/values.rs, as are README.md and values.schema.json beside it; every value has its meaning above it.\n";

/// What stands before the table of the chart's values.
const README: &str = "<!-- Generated from crds/src/values.rs by `UPDATE_GENERATED=1 cargo test --release --workspace --test drift`. -->

# Helm chart: idempotent-consumer

Installs the operator, which makes any app behind Kafka process each event effectively once, and the CustomResourceDefinition of
`IdempotentConsumer`. Needs Kubernetes 1.29 or later, and Helm 3.14 or 4.

    helm install idempotent-consumer charts/idempotent-consumer --namespace idempotent-consumer --create-namespace
    helm test idempotent-consumer --namespace idempotent-consumer --logs

- **`helm test`** makes a consumer, whose app publishes one event, and waits until its sidecar has delivered it: through the API server, the operator,
  the sidecar's image, Kafka and, where there is one, Redis. Without `tests.kafka.bootstrapServers` the app brings a small Kafka along.
- **`helm upgrade`** upgrades the CustomResourceDefinition too, and restarts no app: a consumer gets the new sidecar when its spec changes. With
  `operator.upgradeConsumers=Rolling`, consumers follow at once, a few at a time.
- **`helm uninstall`** keeps the CustomResourceDefinition, every consumer and its pods; nobody reconciles them then. The next release of the same name
  and namespace takes them over; another needs `--take-ownership`. `kubectl delete crd idempotentconsumers.idempotency.dev` removes them all.
- **One namespace, or some**: `operator.namespaces` lists them; there is then no ClusterRole, and only the CustomResourceDefinition
  (`crds.enabled`) needs somebody who may write in the cluster's scope.
- **Redis**: consumers that name none use `sidecar.redisUrl`. `redis.enabled` installs one for trying out. It has no password: one in these values would be
  one that everybody reads who may read the release; a Redis with a password is named by a consumer, as a Secret.
- **Without Helm**: `make dist` renders this chart into `dist/install.yaml`, for `kubectl apply --server-side -f`.

Everything runs under Pod Security `restricted`. A wrong value is refused, with its name, by the chart's schema.

## Values

| value | type | default | meaning |
|---|---|---|---|
";

/// Every file that comes from the chart's values.
pub(super) fn artifacts() -> Vec<(&'static str, String)> {
    let schema = schema();
    vec![
        ("charts/idempotent-consumer/values.schema.json", format!("{schema:#}\n")),
        ("charts/idempotent-consumer/values.yaml", format!("{HEAD}{}", yaml(&schema))),
        ("charts/idempotent-consumer/README.md", reference::page(README, &schema)),
    ]
}

fn schema() -> Value {
    // The draft that every Helm since 3 reads.
    let mut settings = SchemaSettings::draft07();
    settings.inline_subschemas = true;
    let mut schema = settings.into_generator().into_root_schema_for::<Values>().to_value();
    plain(&mut schema);
    fill(&mut schema, &serde_json::to_value(Values::default()).unwrap_or_default());
    schema
}

/// A default says what holds in its place, and not what its type is made with elsewhere.
fn fill(schema: &mut Value, defaults: &Value) {
    let Some(fields) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (name, field) in fields {
        if let Some(default) = defaults.get(name) {
            field["default"] = default.clone();
            fill(field, default);
        }
    }
}

/// Without what only other tools know: formats of integers, and Kubernetes' own words.
fn plain(node: &mut Value) {
    match node {
        Value::Object(schema) => {
            if schema.remove("x-kubernetes-int-or-string").is_some() {
                schema.remove("format");
                schema.insert("type".into(), serde_json::json!(["integer", "string"]));
            }
            if schema.get("type").and_then(Value::as_str) == Some("integer") {
                schema.remove("format");
            }
            schema.values_mut().for_each(plain);
        }
        Value::Array(nodes) => nodes.iter_mut().for_each(plain),
        _ => {}
    }
}

fn yaml(schema: &Value) -> String {
    let mut text = String::new();
    let order = serde_json::to_string(&Values::default()).ok().and_then(|all| serde_json::from_str(&all).ok());
    members(schema, &order.unwrap_or_default(), 0, &mut text);
    text
}

/// The names in a map, in the order of the types: what matters most comes first.
#[derive(Default)]
struct Names(Vec<(String, Names)>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some(member) = map.next_entry()? {
                    names.push(member);
                }
                Ok(Names(names))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Names, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Names::default())
            }

            fn visit_bool<E>(self, _: bool) -> Result<Names, E> {
                Ok(Names::default())
            }

            fn visit_u64<E>(self, _: u64) -> Result<Names, E> {
                Ok(Names::default())
            }

            fn visit_str<E>(self, _: &str) -> Result<Names, E> {
                Ok(Names::default())
            }
        }
        deserializer.deserialize_any(Collect)
    }
}

/// Each member with its meaning as a comment; what has members of its own is indented below it.
fn members(schema: &Value, order: &Names, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    for (name, inner) in &order.0 {
        let Some(field) = schema.pointer("/properties").and_then(|fields| fields.get(name)) else { continue };
        if depth == 0 {
            text.push('\n');
        }
        for line in wrapped(&reference::meaning(schema, schema, field), WIDTH - indent.len() - 2) {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{indent}# {line}");
        }
        if field.get("properties").is_some() {
            let _ = writeln!(text, "{indent}{name}:");
            members(field, inner, depth + 1, text);
        } else {
            let _ = writeln!(text, "{indent}{name}: {}", value(field.get("default").unwrap_or(&Value::Null)));
        }
    }
}

/// JSON is YAML; a plain word looks better without quotes.
fn value(value: &Value) -> String {
    match value {
        Value::String(word) if is_plain(word) => word.clone(),
        Value::Object(members) => {
            let members: Vec<String> =
                members.iter().map(|(name, of)| format!("{name}: {}", self::value(of))).collect();
            format!("{{{}}}", members.join(", "))
        }
        other => other.to_string(),
    }
}

fn is_plain(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_alphabetic())
        && word.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_/".contains(letter))
        && !["true", "false", "null", "yes", "no", "on", "off"].contains(&word.to_lowercase().as_str())
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
