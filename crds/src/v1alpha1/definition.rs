//! Decides how the types become a CustomResourceDefinition that every supported API server takes. Pure.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use super::{IdempotentConsumer, rules};
use crate::duration::PATTERN;

/// The CustomResourceDefinition of [`IdempotentConsumer`].
///
/// # Errors
/// The schema that the types give is none that Kubernetes knows; a test makes sure that it is.
pub fn crd() -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut definition = serde_json::to_value(IdempotentConsumer::crd())?;
    if let Some(versions) = definition.pointer_mut("/spec/versions").and_then(Value::as_array_mut) {
        for version in versions {
            if let Some(schema) = version.pointer_mut("/schema/openAPIV3Schema") {
                adapt(schema);
                schema["x-kubernetes-validations"] = json!([rules::name()]);
            }
        }
    }
    serde_json::from_value(definition)
}

/// Says what JSON schemas of Rust types say in Kubernetes' words, node by node.
fn adapt(node: &mut Value) {
    match node {
        Value::Object(schema) => {
            duration(schema);
            // Unknown fields are pruned, and `additionalProperties` may not stand beside `properties`.
            if schema.get("additionalProperties") == Some(&Value::Bool(false)) {
                schema.remove("additionalProperties");
            }
            // Kubernetes knows two formats of integers, and warns of others.
            if schema.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
                schema.insert("format".into(), "int64".into());
            }
            schema.values_mut().for_each(adapt);
        }
        Value::Array(nodes) => nodes.iter_mut().for_each(adapt),
        _ => {}
    }
}

/// A duration is told by a rule, whose message says how to write one; a pattern would only be repeated.
fn duration(schema: &mut Map<String, Value>) {
    if schema.get("pattern").and_then(Value::as_str) != Some(PATTERN) {
        return;
    }
    schema.remove("pattern");
    schema.insert("maxLength".into(), 32.into());
    let rules = schema.entry("x-kubernetes-validations").or_insert_with(|| json!([]));
    if let Some(rules) = rules.as_array_mut() {
        rules.insert(0, json!(rules::duration()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Value {
        serde_json::to_value(crd().unwrap()).unwrap()
    }

    /// Every field of the schema, with its path.
    fn fields<'a>(schema: &'a Value, path: &str, found: &mut Vec<(String, &'a Value)>) {
        for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let path = format!("{path}.{name}");
            fields(field, &path, found);
            found.push((path, field));
        }
        if let Some(items) = schema.get("items") {
            fields(items, &format!("{path}[]"), found);
        }
    }

    #[test]
    fn every_field_is_documented() {
        let definition = definition();
        let schema = definition.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap();
        let mut found = Vec::new();
        fields(schema, "", &mut found);
        assert!(found.len() > 100, "{} fields", found.len());
        for (path, field) in found {
            assert!(field.get("description").is_some(), "{path} has no description: kubectl explain shows nothing");
        }
    }

    #[test]
    fn a_client_side_apply_can_annotate_it() {
        let size = definition().to_string().len();
        assert!(size < 200_000, "{size} bytes, and kubectl keeps a copy of it in an annotation of at most 262,144");
    }

    #[test]
    fn nothing_stands_in_it_that_api_servers_warn_of_or_refuse() {
        let text = definition().to_string();
        for wrong in
            ["\"additionalProperties\":false", "\"format\":\"uint", "\"$ref\"", PATTERN.replace('\\', "\\\\").as_str()]
        {
            let outside_rules = text.replace(&format!("matches('{PATTERN}')"), "");
            assert!(!outside_rules.contains(wrong), "{wrong}");
        }
    }

    #[test]
    fn every_duration_has_its_rule() {
        let text = definition().to_string();
        let told = text.matches("write a number and a unit").count();
        assert!(told >= 9, "{told} durations");
    }
}
