//! Decides how figures become a table. Pure, but for asking the machine what it is.

use std::fmt::Write as _;
use std::process::Command;

use harness::in_repo;

use crate::events::DUPLICATES;
use crate::gates::Gate;
use crate::runs::Run;

/// The whole report, in Markdown.
pub(crate) fn report(runs: &[(Gate, Run)], records: usize, seconds: u64, partitions: i32) -> String {
    let mut text = table(runs);
    let rounds = runs.iter().filter(|(gate, _)| *gate == runs[0].0).count();
    let _ = write!(
        text,
        "\nMedians of {rounds} interleaved rounds (lowest to highest in parentheses). An event is a record of 1 KiB that passed \
         the gate: {:.0} % of them are duplicates, half near, half far. {records} records in {partitions} partitions; the \
         sidecar takes them all, the others what they get through in {seconds} s. CPU is user and system time of the whole \
         process for each event. In every run the app counted that no event came twice, and in the sidecar's that every \
         event came and every offset was committed.\n\n",
        DUPLICATES * 100.0,
    );
    text.push_str(&machine());
    text
}

const TABLE: &str = "| gate |";

/// The document with new figures: they begin with the table and go to its end; what stands before is a person's and stays.
pub(crate) fn replace_figures(document: &str, figures: &str) -> String {
    let kept = document.find(TABLE).map_or(document, |at| &document[..at]);
    format!("{kept}{figures}")
}

fn table(runs: &[(Gate, Run)]) -> String {
    let mut text = String::from(
        "| gate | events/s | × decorator | × naive | CPU µs an event: gate | Redis | app | broker |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    let rate = |gate| median(runs, gate, |run| run.rate);
    let ratio = |rate: Option<f64>, base: Option<f64>| match rate.zip(base) {
        Some((rate, base)) => format!("{:.1}", rate / base),
        None => "–".to_owned(),
    };
    for gate in Gate::ALL {
        let Some(events) = rate(gate) else { continue };
        let all = values(runs, gate, |run| run.rate);
        let (low, high) = (all.first().copied().unwrap_or(events), all.last().copied().unwrap_or(events));
        let cpu: Vec<String> =
            (0..4).map(|n| format!("{:.1}", median(runs, gate, |run| run.cpu[n]).unwrap_or(f64::NAN))).collect();
        let _ = writeln!(
            text,
            "| {} | {events:.0} ({low:.0}–{high:.0}) | {} | {} | {} |",
            gate.title(),
            ratio(Some(events), rate(Gate::Decorator)),
            ratio(Some(events), rate(Gate::Naive)),
            cpu.join(" | "),
        );
    }
    text
}

/// What the figures were measured on.
fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("?", |(_, m)| m);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let requirements = std::fs::read_to_string(in_repo("tests/bench/requirements.txt")).unwrap_or_default();
    let pinned = |name: &str| requirements.lines().find(|l| l.starts_with(name)).unwrap_or(name).replace("==", " ");
    let pom = std::fs::read_to_string(in_repo("tests/kafka/pom.xml")).unwrap_or_default();
    let kafka = pom
        .split("kafka_2.13</artifactId>")
        .nth(1)
        .and_then(|rest| rest.split_once("<version>")?.1.split_once("</version>").map(|(version, _)| version));
    let python = said(in_repo(".cache/bench-venv/bin/python").to_str().unwrap_or("python3"), &["--version"]);
    let redis = said("redis-server", &["--version"]);
    let redis = redis.split_whitespace().find_map(|word| word.strip_prefix("v=")).unwrap_or("?");
    format!(
        "Machine: {cores} cores of {model}, shared by gate, app, Redis and broker; Linux {}; load before the next run {}. \
         {}; Kafka {} (one broker), Redis {redis} without persistence, {python}, {}, {}, {}, {}, {}.\n",
        kernel.trim(),
        load.split_whitespace().next().unwrap_or("?"),
        said("rustc", &["--version"]),
        kafka.unwrap_or("?"),
        pinned("aiokafka"),
        pinned("redis=="),
        pinned("hiredis"),
        pinned("aiohttp"),
        pinned("uvloop"),
    )
}

fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output.map_or_else(|_| "?".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn median(runs: &[(Gate, Run)], gate: Gate, what: impl Fn(&Run) -> f64) -> Option<f64> {
    let all = values(runs, gate, what);
    let (low, high) = (all.get(all.len().checked_sub(1)? / 2)?, all.get(all.len() / 2)?);
    Some(f64::midpoint(*low, *high))
}

fn values(runs: &[(Gate, Run)], gate: Gate, what: impl Fn(&Run) -> f64) -> Vec<f64> {
    let mut all: Vec<f64> = runs.iter().filter(|(of, _)| *of == gate).map(|(_, run)| what(run)).collect();
    all.sort_by(f64::total_cmp);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_figures_leave_the_introduction_alone() {
        let document = "# Benchmarks\n\nRead this first.\n\n| gate | old |\n\nOld figures.\n";
        let figures = table(&[]);
        assert_eq!(replace_figures(document, &figures), format!("# Benchmarks\n\nRead this first.\n\n{figures}"));
        assert_eq!(replace_figures("# Benchmarks\n\n", "x"), "# Benchmarks\n\nx");
    }
}
