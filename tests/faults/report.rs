//! Decides how the outcome is told: tables for people, and the part of docs/proof.md that they stand in. Pure, but for [`write`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;

use crate::check::Verdict;
use crate::kind::{Kind, Window};

/// Everything that is told of a run.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) command: String,
    pub(crate) seeds: Vec<u64>,
    pub(crate) seconds: u64,
    pub(crate) faults: BTreeMap<Kind, usize>,
    pub(crate) unasked: u64,
    pub(crate) verdict: Verdict,
}

/// The run in Markdown.
pub(crate) fn markdown(run: &Run) -> String {
    let mut text = String::new();
    let verdict = &run.verdict;
    let seeds: Vec<String> = run.seeds.iter().map(ToString::to_string).collect();
    let faults: usize = run.faults.values().sum();
    let _ = writeln!(text, "    {}\n", run.command);
    let _ = writeln!(text, "Seeds of the rounds: {}. {} s in all.\n", seeds.join(", "), run.seconds);
    let _ = writeln!(text, "| | |\n|---|---:|");
    let second: usize = verdict.second.values().sum();
    for (what, count) in [
        ("faults injected", faults),
        ("kinds of faults", run.faults.len()),
        ("sidecars that ended unasked", usize::try_from(run.unasked).unwrap_or(usize::MAX)),
        ("records", verdict.records),
        ("events", verdict.events),
        ("effects", verdict.effects),
        ("effects while nothing had been wrong for 15 s", verdict.quiet),
        ("dead letters of rejected events", verdict.rejected),
        ("times the committed offsets were read and checked", verdict.samples),
        ("second effects in a window", second),
        ("**second effects outside every window**", verdict.outside.len()),
        ("**commits past an unsettled record**", verdict.past.len()),
        ("**events lost**", verdict.lost.len()),
    ] {
        let _ = writeln!(text, "| {what} | {count} |");
    }
    let _ = writeln!(text, "\nSecond effects by the fault that opened the window:\n");
    text.push_str(&windows(run));
    text
}

fn windows(run: &Run) -> String {
    let mut text = String::from("| fault | injected |");
    Window::ALL.iter().for_each(|window| _ = write!(text, " {} |", window.name()));
    text.push_str("\n|---|---:|");
    Window::ALL.iter().for_each(|_| text.push_str("---:|"));
    text.push('\n');
    let count = |window: Window, kind| run.verdict.second.get(&(window, kind)).copied().unwrap_or(0);
    let row = |text: &mut String, name: &str, injected: &str, kind| {
        let _ = write!(text, "| {name} | {injected} |");
        Window::ALL.iter().for_each(|window| _ = write!(text, " {} |", count(*window, kind)));
        text.push('\n');
    };
    for (kind, injected) in &run.faults {
        row(&mut text, &kind.name(), &injected.to_string(), Some(*kind));
    }
    row(&mut text, "the app's wrong answers", "", None);
    text
}

/// How long it took after kills until all flowed again.
pub(crate) fn recovery(verdict: &Verdict) -> String {
    let mut text = String::new();
    for (kind, what) in [(Kind::KillSidecar, "the container restarts"), (Kind::KillPod, "another pod takes its place")]
    {
        let mut millis: Vec<u64> = verdict
            .recoveries
            .iter()
            .filter(|recovery| recovery.kind == kind)
            .map(|recovery| recovery.millis)
            .collect();
        millis.sort_unstable();
        if let (Some(worst), Some(median)) = (millis.last(), millis.get(millis.len() / 2)) {
            let _ = writeln!(
                text,
                "\nFrom SIGKILL of a sidecar until all its partitions flow again, where {what}: median {:.1} s, worst {:.1} s, of {} kills that \
                 nothing else got mixed up with.",
                *median as f64 / 1e3,
                *worst as f64 / 1e3,
                millis.len()
            );
        }
    }
    text
}

/// Puts it into docs/proof.md, in the place of what was measured last.
pub(crate) fn write(path: &Path, place: &str, markdown: &str) -> anyhow::Result<()> {
    let (begin, end) = (format!("<!-- {place}: begin -->"), format!("<!-- {place}: end -->"));
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let missing = || format!("{} has no place for it", path.display());
    let (before, rest) = text.split_once(&begin).with_context(missing)?;
    let (_, after) = rest.split_once(&end).with_context(missing)?;
    Ok(std::fs::write(path, format!("{before}{begin}\n\n{}\n\n{end}{after}", markdown.trim()))?)
}
