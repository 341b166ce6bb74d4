//! Generated files match the types they come from. `UPDATE_GENERATED=1` writes them instead.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

#[test]
fn generated_files_match_the_types() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let update = std::env::var_os("UPDATE_GENERATED").is_some_and(|v| v == "1");
    let mut stale = Vec::new();
    for (path, expected) in crds::generate::artifacts() {
        let file = root.join(path);
        if update {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, &expected).unwrap();
        }
        let found = fs::read_to_string(&file).unwrap_or_default();
        if found != expected {
            let line = found.lines().zip(expected.lines()).take_while(|(a, b)| a == b).count() + 1;
            stale.push(format!("{path}: differs from line {line} on"));
        }
    }
    assert!(stale.is_empty(), "run `UPDATE_GENERATED=1 cargo test --release -p idempotent-consumer-crds`:\n{stale:#?}");
}

/// What Helm reads is what the types say: no value more, none less, each at its default.
#[cfg(feature = "crd")]
#[test]
fn the_charts_values_are_the_defaults_of_their_types() {
    let text = chart("values.yaml");
    let strict: crds::values::Values = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(strict, crds::values::Values::default());
    let (found, expected): (Value, _) = (serde_saphyr::from_str(&text).unwrap(), serde_json::to_value(strict).unwrap());
    assert_eq!(found, expected, "a value is left out");
    assert!(serde_saphyr::from_str::<crds::values::Values>("operator: {replcas: 3}").is_err());
}

/// One version for crates, chart and images.
#[test]
fn the_chart_has_the_version_of_the_crates() {
    let metadata: Value = serde_saphyr::from_str(&chart("Chart.yaml")).unwrap();
    for name in ["version", "appVersion"] {
        assert_eq!(metadata[name], env!("CARGO_PKG_VERSION"), "{name} in Chart.yaml");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let changes = fs::read_to_string(root.join("CHANGELOG.md")).unwrap();
    let released = changes.lines().find_map(|line| line.strip_prefix("## [")?.split(']').next().map(str::to_owned));
    let is_next = released.as_deref() != Some(env!("CARGO_PKG_VERSION"));
    assert!(!is_next || changes.contains("## Unreleased"), "CHANGELOG.md says nothing of this version");
}

fn chart(file: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    fs::read_to_string(root.join("charts/idempotent-consumer").join(file)).unwrap()
}

/// Every path under which the schema lets a field stand.
fn paths(root: &Value, node: &Value, path: &str, found: &mut BTreeSet<String>) {
    if let Some(name) = node.get("$ref").and_then(Value::as_str) {
        let target = root.pointer(name.trim_start_matches('#')).unwrap_or_else(|| panic!("{name} leads nowhere"));
        return paths(root, target, path, found);
    }
    for branch in ["anyOf", "oneOf", "allOf"] {
        for part in node.get(branch).and_then(Value::as_array).into_iter().flatten() {
            paths(root, part, path, found);
        }
    }
    for (name, inner) in node.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        paths(root, inner, &path, found);
        found.insert(path);
    }
}

#[test]
fn the_reference_names_every_field_and_says_something_of_each() {
    let artifacts = crds::generate::artifacts();
    let ending = |end: &str| &artifacts.iter().find(|(path, _)| path.ends_with(end)).unwrap().1;
    let schema: Value = serde_json::from_str(ending("sidecar-config.schema.json")).unwrap();
    let mut found = BTreeSet::new();
    paths(&schema, &schema, "", &mut found);
    assert!(found.len() > 50, "{found:?}");
    let page = ending("sidecar-config.md");
    for field in found {
        assert!(page.contains(&format!("| `{field}` |")), "{field} is not in the reference");
    }
    for line in page.lines().filter(|l| l.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        assert!(cells.len() == 4 && cells.iter().all(|c| !c.trim().is_empty()), "an empty cell: {line}");
    }
}
