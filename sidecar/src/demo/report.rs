//! Decides what the demo has shown: for each event, whether it was lost, and which window a second delivery fell in. Pure.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use crds::status::Counters;

use super::app::Effect;
use super::topic::DemoRecord;

/// What every event came to.
#[derive(Debug)]
pub(super) struct Report {
    seed: u64,
    produced: usize,
    unique: usize,
    delivered: usize,
    skipped: u64,
    /// Second deliveries since the first answer was not received (window 1).
    unanswered: usize,
    /// Second deliveries while the store was away (window 3).
    store_away: usize,
    /// Second deliveries that no window explains.
    unexplained: usize,
    lost: usize,
    took: Duration,
}

impl Report {
    pub(super) fn new(
        seed: u64,
        records: &[DemoRecord],
        ledger: &[Effect],
        counters: Counters,
        took: Duration,
    ) -> Self {
        let mut effects: HashMap<u32, Vec<&Effect>> = records.iter().map(|record| (record.event, Vec::new())).collect();
        for effect in ledger {
            effects.entry(effect.event).or_default().push(effect);
        }
        let mut report = Self {
            seed,
            produced: records.len(),
            unique: effects.len(),
            delivered: ledger.len(),
            skipped: counters.duplicates,
            unanswered: 0,
            store_away: 0,
            unexplained: 0,
            lost: effects.values().filter(|effects| effects.is_empty()).count(),
            took,
        };
        for pair in effects.values().flat_map(|effects| effects.windows(2)) {
            *report.window(pair[0], pair[1]) += 1;
        }
        report
    }

    pub(super) const fn kept_its_promise(&self) -> bool {
        self.lost == 0 && self.unexplained == 0
    }

    fn window(&mut self, first: &Effect, second: &Effect) -> &mut usize {
        if !first.full_protection || !second.full_protection {
            &mut self.store_away
        } else if !first.answered && second.attempt > first.attempt {
            &mut self.unanswered
        } else {
            &mut self.unexplained
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        for (name, count) in [
            ("produced", self.produced),
            ("unique", self.unique),
            ("delivered", self.delivered),
            ("duplicates skipped", usize::try_from(self.skipped).unwrap_or(usize::MAX)),
            ("second deliveries: the killed app's answer was lost (window 1)", self.unanswered),
            ("second deliveries: the store was away (window 3)", self.store_away),
            ("second deliveries outside a window", self.unexplained),
            ("lost", self.lost),
        ] {
            table.add_row([name.to_owned(), count.to_string()]);
        }
        if let Some(counts) = table.column_mut(1) {
            counts.set_cell_alignment(CellAlignment::Right);
        }
        let rate = self.produced as f64 / self.took.as_secs_f64();
        write!(
            f,
            "{table}\n{:.1} s, {rate:.0} records/s with the faults in it; seed {}",
            self.took.as_secs_f64(),
            self.seed
        )
    }
}
