//! Decides which files are generated from the types, and their contents. Pure; `tests/drift.rs` compares and writes them.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::config::SidecarConfig;

mod reference;

/// Every generated file: its path from the repository's root, and its contents.
#[must_use]
pub fn artifacts() -> Vec<(&'static str, String)> {
    let schema = sidecar_config_schema();
    vec![
        ("docs/reference/sidecar-config.schema.json", format!("{schema:#}\n")),
        ("docs/reference/sidecar-config.md", reference::page(&schema)),
    ]
}

fn sidecar_config_schema() -> Value {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<SidecarConfig>().to_value()
}
