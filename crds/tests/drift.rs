//! Generated files match the types they come from. `UPDATE_GENERATED=1` writes them instead.

use std::fs;
use std::path::Path;

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

/// The examples of the page and of the schema are right configurations.
#[test]
fn the_reference_names_every_field_of_a_full_configuration() {
    let artifacts = crds::generate::artifacts();
    let (_, page) = artifacts.iter().find(|(path, _)| path.ends_with(".md")).unwrap();
    for field in ["version", "ttlOverrides", "eventId.rule", "eventId.header", "kafka.tls.caFile", "redis.timeout"] {
        assert!(page.contains(&format!("| `{field}` |")), "{field} is not in the reference");
    }
    for line in page.lines().filter(|l| l.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        assert!(cells.len() == 4 && cells.iter().all(|c| !c.trim().is_empty()), "an empty cell: {line}");
    }
}
