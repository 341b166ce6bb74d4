//! Decides what of a pod template is typed: labels, annotations and the names of containers. The rest is kept as it is. Pure.
//!
//! A whole pod template in the schema would make the CRD larger than a client-side `kubectl apply` can annotate (262,144 bytes).
//! What is wrong in the rest is found when the Deployment is tried on the API server.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::rules;

/// An ordinary pod template: the app.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodTemplate {
    /// Labels and annotations of the pods.
    #[serde(default)]
    pub metadata: TemplateMetadata,
    /// The pod's specification, as in a Deployment. Fields that this operator does not know are kept.
    pub spec: Map<String, Value>,
}

/// Labels and annotations of the pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TemplateMetadata {
    /// Labels; the operator adds its own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations; the operator adds its own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl JsonSchema for PodTemplate {
    fn schema_name() -> Cow<'static, str> {
        "PodTemplate".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let texts = |what: &str, most: u32| {
            json_schema!({
                "description": what,
                "type": "object",
                "maxProperties": 256,
                "additionalProperties": {"type": "string", "maxLength": most},
            })
        };
        let containers = |what: &str, least: u32| {
            json_schema!({
                "description": what,
                "type": "array",
                "minItems": least,
                "maxItems": 32,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "x-kubernetes-preserve-unknown-fields": true,
                    "properties": {
                        "name": {"description": "Name of the container.", "type": "string", "minLength": 1, "maxLength": 63},
                    },
                },
                "x-kubernetes-validations": [rules::no_container_of_ours()],
            })
        };
        let mut labels = texts("Labels; the operator adds its own.", 63);
        labels.insert("x-kubernetes-validations".into(), serde_json::json!([rules::no_label_of_ours()]));
        json_schema!({
            "description": "The app: an ordinary pod template, as in a Deployment.",
            "type": "object",
            "required": ["spec"],
            "properties": {
                "metadata": {
                    "description": "Labels and annotations of the pods.",
                    "type": "object",
                    "properties": {
                        "labels": labels,
                        "annotations": texts("Annotations; the operator adds its own.", 65536),
                    },
                },
                "spec": {
                    "description": "The pod's specification, as in a Deployment.",
                    "type": "object",
                    "required": ["containers"],
                    "x-kubernetes-preserve-unknown-fields": true,
                    "properties": {
                        "containers": containers("Containers of the app, the sidecar not among them.", 1),
                        "initContainers": containers("Containers that run before the app; the sidecar is put behind them, so that it starts after them and ends before those that stay.", 0),
                    },
                },
            },
        })
    }
}
