//! The chart's dashboard asks for metrics that there are, and reads labels that they have.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;

use operator::metrics::Metrics;
use serde_json::Value;

fn file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)).unwrap()
}

/// The operator's, from its registry, and the sidecar's, from the page that is generated from its.
fn known() -> BTreeSet<String> {
    let metrics = Metrics::new();
    metrics.show_consumers(std::iter::empty());
    let exposition = metrics.encode();
    let families = exposition.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let mut known: BTreeSet<String> = families
        .map(|(name, kind)| if kind == "counter" { format!("{name}_total") } else { name.to_owned() })
        .collect();
    let page = file("docs/reference/metrics.md");
    known.extend(page.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned())));
    known
}

/// What a dashboard's query names of ours.
fn named(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    // That one is a pod's label, which the PodMonitor brings along.
    words.filter(|word| word.starts_with("idempotency_") && *word != "idempotency_dev_consumer")
}

fn queries(node: &Value, found: &mut Vec<String>) {
    match node {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(query) if matches!(name.as_str(), "expr" | "definition" | "query") => {
                        found.push(query.clone());
                    }
                    member => queries(member, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| queries(item, found)),
        _ => {}
    }
}

#[test]
fn every_query_is_of_metrics_that_there_are() {
    let dashboard: Value =
        serde_json::from_str(&file("charts/idempotent-consumer/dashboards/idempotent-consumer.json")).unwrap();
    let (known, mut asked) = (known(), Vec::new());
    queries(&dashboard, &mut asked);
    let mut named_at_all = BTreeSet::new();
    for query in &asked {
        for name in named(query) {
            assert!(known.contains(name.trim_end_matches("_bucket")), "there is no {name}: {query}");
            named_at_all.insert(name.to_owned());
        }
    }
    assert!(named_at_all.len() > 10, "{named_at_all:?}");
    assert!(named_at_all.iter().any(|name| name.starts_with("idempotency_operator_")), "{named_at_all:?}");
}
