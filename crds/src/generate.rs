//! Decides which files are generated from the types, and their contents. Pure; `tests/drift.rs` compares and writes them.

use schemars::generate::SchemaSettings;

use crate::config::SidecarConfig;

/// Every generated file: its path from the repository's root, and its contents.
#[must_use]
pub fn artifacts() -> Vec<(&'static str, String)> {
    vec![("docs/reference/sidecar-config.schema.json", sidecar_config_schema())]
}

fn sidecar_config_schema() -> String {
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<SidecarConfig>();
    format!("{:#}\n", schema.to_value())
}
