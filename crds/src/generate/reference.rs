//! Decides how a reference page looks: a JSON schema in, one table out. Pure.

use std::fmt::Write;

use serde_json::Value;

use crate::duration::PATTERN;

/// What stands before the table of the sidecar's file.
pub(super) const SIDECAR_CONFIG: &str = "<!-- Generated from crds/src/config.rs by `UPDATE_GENERATED=1 cargo test --release -p idempotent-consumer-crds`. -->

# The sidecar's configuration file

The operator writes it; without Kubernetes, write it yourself, as YAML or JSON. `sidecar check --config FILE` says what is
wrong in one, and prints what would be in effect. A field that is not listed here is refused.

The smallest file:

```yaml
version: 1
group: essay-lifecycle
topics: [orders.v1]
kafka: {bootstrapServers: \"kafka:9092\"}
redis: {url: \"redis://redis:6379\"}
```

A duration is a number and a unit (`h`, `m`, `s`, `ms`), one or more times: `24h`, `1h30m`, `250ms`. Secrets never stand in
the file: a field whose name ends in `File` names a file, as Kubernetes mounts a Secret (and for `pausedFile` a ConfigMap); a
line end after the value in it is not part of the value.

Two environment variables count: `IDEMPOTENCY_SOCKET` takes the place of `delivery.socket` (the app reads the same one), and
`IDEMPOTENCY_LOG` filters the log (`info` when it is not set; for example `info,sidecar::gate=debug`).

| field | type | default | meaning |
|---|---|---|---|
";

/// What stands before the table of the resource.
#[cfg(feature = "crd")]
pub(super) const RESOURCE: &str = "<!-- Generated from crds/src/v1alpha1.rs by `UPDATE_GENERATED=1 cargo test --release --workspace --test drift`. -->

# IdempotentConsumer, idempotency.dev/v1alpha1

`kubectl explain icon.spec` tells the same. The smallest resource:

```yaml
apiVersion: idempotency.dev/v1alpha1
kind: IdempotentConsumer
metadata: {name: essay-lifecycle}
spec:
  topics: [orders.v1]
  kafka: {bootstrapServers: \"kafka:9092\"}
  redis: {url: \"redis://redis:6379\"}
  template:
    spec:
      containers: [{name: app, image: \"essay-lifecycle:1.4\"}]
```

A duration is a number and a unit (`h`, `m`, `s`, `ms`), one or more times: `24h`, `1h30m`, `250ms`. A change of `replicas` or `paused`
restarts no pod; every other change replaces them one after another, and one of `eventId`, `keyPrefix`, `session.prefix` or the Redis
all at once.

| field | type | default | meaning |
|---|---|---|---|
";

/// One field.
struct Row {
    path: String,
    kind: String,
    default: String,
    meaning: String,
}

/// The page for what `schema` describes, with `head` before the table.
pub(super) fn page(head: &str, schema: &Value) -> String {
    let mut rows = Vec::new();
    walk(schema, schema, "", &mut rows);
    let mut page = head.to_owned();
    for Row { path, kind, default, meaning } in rows {
        // Writing to a String does not fail.
        let _ = writeln!(page, "| `{path}` | {kind} | {default} | {meaning} |");
    }
    page
}

/// Notes the fields of a map, and of the maps in it, in the schema's order.
fn walk(root: &Value, node: &Value, path: &str, rows: &mut Vec<Row>) {
    let node = follow(root, node);
    for variant in alternatives(node) {
        walk(root, variant, path, rows);
    }
    let Some(fields) = node.get("properties").and_then(Value::as_object) else { return };
    let required = |name: &str| list(node, "required").iter().any(|r| r.as_str() == Some(name));
    for (name, field) in fields {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let bare = follow(root, field);
        let meaning = meaning(root, node, field);
        if let Some(row) = rows.iter_mut().find(|row| row.path == path) {
            // A field of several variants, which are told by its value.
            row.kind = format!("{}, {}", row.kind, kind(root, bare));
            row.meaning = format!("{} {meaning}", row.meaning);
            continue;
        }
        let default = match field.get("default") {
            _ if required(name) => "required".to_owned(),
            Some(Value::Null) | None => "none".to_owned(),
            // The fields of a map are listed with their own defaults.
            Some(Value::Object(_)) if bare.get("properties").is_some() => "see below".to_owned(),
            Some(Value::Object(of)) if of.is_empty() => "none".to_owned(),
            Some(Value::Array(of)) if of.is_empty() => "none".to_owned(),
            Some(Value::String(text)) if text.is_empty() => "none".to_owned(),
            Some(value) => format!("`{}`", value.as_str().map_or_else(|| value.to_string(), str::to_owned)),
        };
        rows.push(Row { kind: kind(root, field), default, meaning, path: path.clone() });
        walk(root, field, &path, rows);
    }
}

/// What a field is for, and what each of its values means where they are named.
pub(super) fn meaning(root: &Value, parent: &Value, field: &Value) -> String {
    let bare = follow(root, field);
    let text = |node: &Value| node.get("description").and_then(Value::as_str).map(|t| t.replace('\n', " "));
    let valued = |node: &Value, told: &Value| {
        let value = node.get("const").and_then(Value::as_str)?;
        Some(format!("`{value}`: {}", text(told)?))
    };
    // The tag of a variant says what the variant says.
    if let Some(tagged) = valued(bare, parent) {
        return tagged;
    }
    let mut parts: Vec<String> = text(field).or_else(|| text(bare)).into_iter().collect();
    parts.extend(alternatives(bare).into_iter().filter_map(|variant| valued(variant, variant)));
    parts.join(" ")
}

fn kind(root: &Value, node: &Value) -> String {
    let node = follow(root, node);
    if let Some(value) = node.get("const").and_then(Value::as_str) {
        return format!("`{value}`");
    }
    let values = list(node, "enum");
    if !values.is_empty() {
        return values.iter().filter_map(Value::as_str).map(|v| format!("`{v}`")).collect::<Vec<_>>().join(", ");
    }
    let options = alternatives(node);
    if !options.is_empty() {
        if options.iter().all(|o| follow(root, o).get("properties").is_some()) {
            return "map".to_owned();
        }
        return options.iter().map(|o| kind(root, o)).filter(|k| k != "null").collect::<Vec<_>>().join(", ");
    }
    let named = |kind: &str| match kind {
        "string" if is_duration(node) => "duration".to_owned(),
        "string" => "text".to_owned(),
        "integer" => "number".to_owned(),
        "boolean" => "`true`, `false`".to_owned(),
        "array" => format!("list of {}", node.get("items").map_or_else(String::new, |items| kind_of(root, items))),
        "object" => node
            .get("additionalProperties")
            .filter(|values| values.is_object())
            .map_or_else(|| "map".to_owned(), |values| format!("map of {}", kind_of(root, values))),
        other => other.to_owned(),
    };
    match node.get("type") {
        Some(Value::String(kind)) => named(kind),
        Some(Value::Array(kinds)) => {
            kinds.iter().filter_map(Value::as_str).filter(|k| *k != "null").map(named).collect::<Vec<_>>().join(", ")
        }
        _ => String::new(),
    }
}

/// In the sidecar's file a duration is told by its pattern, in the resource by a rule that holds the pattern.
fn is_duration(node: &Value) -> bool {
    let pattern = node.get("pattern").and_then(Value::as_str) == Some(PATTERN);
    let rules = list(node, "x-kubernetes-validations").iter();
    pattern
        || rules.filter_map(|rule| rule.get("rule")?.as_str()).any(|rule| rule == format!("self.matches('{PATTERN}')"))
}

/// [`kind`], in the plural.
fn kind_of(root: &Value, node: &Value) -> String {
    format!("{}s", kind(root, node))
}

/// The schema that a `$ref` names, or itself.
fn follow<'a>(root: &'a Value, node: &'a Value) -> &'a Value {
    let target = node.get("$ref").and_then(Value::as_str).and_then(|name| root.pointer(name.trim_start_matches('#')));
    target.unwrap_or(node)
}

fn alternatives(node: &Value) -> Vec<&Value> {
    ["oneOf", "anyOf", "allOf"].iter().flat_map(|name| list(node, name)).collect()
}

fn list<'a>(node: &'a Value, name: &str) -> &'a [Value] {
    node.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
