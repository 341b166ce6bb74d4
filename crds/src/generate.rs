//! Decides which files are generated from the types, and their contents. Pure; `tests/drift.rs` compares and writes them.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::config::SidecarConfig;

mod reference;
#[cfg(feature = "crd")]
mod values;

/// Every generated file: its path from the repository's root, and its contents.
#[must_use]
pub fn artifacts() -> Vec<(&'static str, String)> {
    let schema = sidecar_config_schema();
    let artifacts = [
        ("docs/reference/sidecar-config.schema.json", format!("{schema:#}\n")),
        ("docs/reference/sidecar-config.md", reference::page(reference::SIDECAR_CONFIG, &schema)),
    ];
    #[cfg(feature = "crd")]
    let artifacts = artifacts.into_iter().chain(resource::artifacts()).chain(values::artifacts());
    Vec::from_iter(artifacts)
}

fn sidecar_config_schema() -> Value {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<SidecarConfig>().to_value()
}

/// What is generated from the resource's types.
#[cfg(feature = "crd")]
pub mod resource {
    use serde_json::Value;

    use super::reference;
    use crate::v1alpha1;

    const HEAD: &str =
        "# Generated from crds/src/v1alpha1.rs; `operator crd` prints the same, without the annotation for Helm.\n";
    /// Uninstalling the chart keeps the definition: with it would go every consumer, and their apps.
    const KEEP: (&str, &str) = ("helm.sh/resource-policy", "keep");

    /// The CustomResourceDefinition as YAML, as `operator crd` prints it. Empty if the types give no schema that Kubernetes knows, which
    /// a test excludes.
    #[must_use]
    pub fn yaml() -> String {
        v1alpha1::crd().ok().and_then(|crd| serde_saphyr::to_string(&crd).ok()).unwrap_or_default()
    }

    fn kept() -> String {
        let kept = v1alpha1::crd().ok().map(|mut crd| {
            let (name, value) = KEEP;
            crd.metadata.annotations.get_or_insert_default().insert(name.into(), value.into());
            crd
        });
        kept.and_then(|crd| serde_saphyr::to_string(&crd).ok()).unwrap_or_default()
    }

    pub(super) fn artifacts() -> Vec<(&'static str, String)> {
        let definition = v1alpha1::crd().and_then(serde_json::to_value).unwrap_or_default();
        let schema = definition.pointer("/spec/versions/0/schema/openAPIV3Schema").cloned().unwrap_or(Value::Null);
        vec![
            ("charts/idempotent-consumer/files/crd.yaml", format!("{HEAD}{}", kept())),
            ("docs/reference/idempotentconsumer.md", reference::page(reference::RESOURCE, &schema)),
        ]
    }
}
