//! The page of the operator's metrics matches the registry. `UPDATE_GENERATED=1` writes it instead.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use operator::metrics::Metrics;
use operator::metrics::labels::Outcome;

const HEAD: &str = "<!-- Generated from the operator's registry by `UPDATE_GENERATED=1 cargo test --release -p \
                    idempotent-consumer-operator --test metrics_reference`. -->

# The operator's metrics

`/metrics` shows them in the OpenMetrics text format. Labels come from closed sets: the number of series does not grow with that of consumers. Those of
the sidecars are [another page](metrics.md).

| metric | type | labels | meaning |
|---|---|---|---|
";

/// Label names of one metric's lines.
fn labels(text: &str, name: &str) -> String {
    let lines = text.lines().filter(|line| line.starts_with(name));
    let inside =
        lines.filter_map(|line| line.split_once('{')?.1.split_once('}')).flat_map(|(labels, _)| labels.split(','));
    let names: BTreeSet<&str> = inside.filter_map(|label| Some(label.split_once('=')?.0)).collect();
    names.into_iter().filter(|name| *name != "le").map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn page() -> String {
    let metrics = Metrics::new();
    metrics.reconciled(Outcome::Done, Duration::ZERO);
    metrics.show_consumers([None].into_iter());
    metrics.watch_failed("pods");
    let text = metrics.encode();
    let mut page = HEAD.to_owned();
    for (name, help) in text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' ')) {
        let kind = text.lines().find_map(|line| line.strip_prefix("# TYPE ")?.strip_prefix(name)?.strip_prefix(' '));
        let suffix = match kind {
            Some("counter") => "_total",
            Some("info") => "_info",
            _ => "",
        };
        writeln!(page, "| `{name}{suffix}` | {} | {} | {help} |", kind.unwrap(), labels(&text, name)).unwrap();
    }
    page
}

#[test]
fn the_page_matches_the_registry() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/reference/operator-metrics.md");
    let expected = page();
    if std::env::var_os("UPDATE_GENERATED").is_some_and(|v| v == "1") {
        fs::write(&file, &expected).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(found == expected, "docs/reference/operator-metrics.md is stale: run its test with UPDATE_GENERATED=1");
}
