//! The page of metrics matches the registry. `UPDATE_GENERATED=1` writes it instead.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use crds::status::Condition;
use sidecar::metrics::Metrics;
use sidecar::record::TopicPartition;

const HEAD: &str = "<!-- Generated from the sidecar's registry by `UPDATE_GENERATED=1 cargo test --release -p \
                    idempotent-consumer-sidecar --test metrics_reference`. -->

# The sidecar's metrics

`/metrics` shows them in the OpenMetrics text format. Labels come from closed sets, the configured topics and the partitions
that the sidecar holds: no record can make a new series.

| metric | type | labels | meaning |
|---|---|---|---|
";

/// One metric, as its lines tell of it.
#[derive(Default)]
struct Metric {
    kind: String,
    help: String,
    labels: BTreeMap<String, Vec<String>>,
}

/// Reads the exposition back, as a scraper does.
fn read(text: &str) -> BTreeMap<String, Metric> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            current = name.to_owned();
            metrics.entry(current.clone()).or_default().help = help.to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            metrics.get_mut(name).unwrap().kind = kind.to_owned();
        } else if let Some((_, labels)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
            let metric = metrics.get_mut(&current).unwrap();
            for label in labels.split_once('}').unwrap().0.split(',') {
                let (name, value) = label.split_once('=').unwrap();
                let values = metric.labels.entry(name.to_owned()).or_default();
                let value = value.trim_matches('"').to_owned();
                if !values.contains(&value) {
                    values.push(value);
                }
            }
        }
    }
    metrics
}

fn labels(metric: &Metric) -> String {
    let one = |(name, values): (&String, &Vec<String>)| match name.as_str() {
        "topic" | "partition" | "type" | "version" => format!("`{name}`"),
        _ => {
            let mut values = values.clone();
            values.sort();
            format!("`{name}` ({})", values.join(", "))
        }
    };
    metric.labels.iter().filter(|(name, _)| *name != "le").map(one).collect::<Vec<_>>().join(", ")
}

fn page() -> String {
    let metrics = Metrics::new(&["orders"]);
    metrics.set_watermark(&TopicPartition { topic: "orders".into(), partition: 0 }, 1, Some(1));
    metrics.set_conditions(&[Condition { r#type: "Protected".into(), ..Condition::default() }]);
    let mut page = HEAD.to_owned();
    for (name, metric) in read(&metrics.encode()) {
        let suffix = match metric.kind.as_str() {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        writeln!(page, "| `{name}{suffix}` | {} | {} | {} |", metric.kind, labels(&metric), metric.help).unwrap();
    }
    page
}

#[test]
fn the_page_matches_the_registry() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/reference/metrics.md");
    let expected = page();
    if std::env::var_os("UPDATE_GENERATED").is_some_and(|v| v == "1") {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, &expected).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(found == expected, "docs/reference/metrics.md is stale: run its test with UPDATE_GENERATED=1");
}
