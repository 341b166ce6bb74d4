//! Decides which figures the operator shows of itself, under which names: one registry. No I/O; counters are atomics.

use std::sync::Arc;
use std::time::Duration;

use crds::v1alpha1::IdempotentConsumerStatus;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets_range};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::controller::build::ChildKind;
use crate::controller::status::{CONDITIONS, condition};

pub mod labels;

use labels::{ConditionLabel, ConditionStatus, KindLabel, Outcome, OutcomeLabel, WatchLabel};

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Every figure of one operator. Handles are cheap to clone and to count on.
///
/// # Guarantees
/// - Label values come from closed sets: the number of series does not grow with that of consumers.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reconciles: Family<OutcomeLabel, Counter>,
    reconcile_duration: Histogram,
    writes: Family<KindLabel, Counter>,
    /// Statuses written.
    pub status_writes: Counter,
    consumers: Gauge,
    conditions: Family<ConditionLabel, Gauge>,
    upgrades_under_way: Gauge,
    upgrades_waiting: Gauge,
    /// Roll-outs for an upgrade that were refused or got stuck.
    pub upgrades_failed: Counter,
    watch_failures: Family<WatchLabel, Counter>,
    /// 1 while this replica leads.
    pub leader: Gauge,
}

impl Metrics {
    /// A registry of its own.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let mut metrics = Self {
            registry: Registry::with_prefix("idempotency_operator"),
            reconciles: Family::default(),
            reconcile_duration: Histogram::new(exponential_buckets_range(0.001, 30.0, 12)),
            writes: Family::default(),
            status_writes: Counter::default(),
            consumers: Gauge::default(),
            conditions: Family::default(),
            upgrades_under_way: Gauge::default(),
            upgrades_waiting: Gauge::default(),
            upgrades_failed: Counter::default(),
            watch_failures: Family::default(),
            leader: Gauge::default(),
        };
        metrics.register();
        for outcome in Outcome::ALL {
            let _ = metrics.reconciles.get_or_create(&OutcomeLabel { outcome: *outcome });
        }
        for kind in ChildKind::ALL {
            let _ = metrics.writes.get_or_create(&KindLabel::from(kind));
        }
        Arc::new(metrics)
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("build", "Version of the operator", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        r.register("reconciles", "Reconciles, by how they ended", self.reconciles.clone());
        let duration = self.reconcile_duration.clone();
        r.register_with_unit("reconcile_duration", "Time that a reconcile took", Unit::Seconds, duration);
        r.register("writes", "Writes to children, by kind; deletions are among them", self.writes.clone());
        r.register("status_writes", "Statuses written", self.status_writes.clone());
        r.register("consumers", "Consumers in scope", self.consumers.clone());
        r.register("consumer_conditions", "Consumers, by what their conditions say", self.conditions.clone());
        r.register("upgrades_under_way", "Consumers that are rolled for an upgrade", self.upgrades_under_way.clone());
        r.register(
            "upgrades_waiting",
            "Consumers that wait to be rolled for an upgrade",
            self.upgrades_waiting.clone(),
        );
        r.register(
            "upgrades_failed",
            "Roll-outs for an upgrade that were refused or got stuck",
            self.upgrades_failed.clone(),
        );
        r.register("watch_failures", "Failures of watches, by what is watched", self.watch_failures.clone());
        r.register("leader", "1 while this replica leads", self.leader.clone());
    }

    /// A reconcile has ended.
    pub fn reconciled(&self, outcome: Outcome, took: Duration) {
        self.reconciles.get_or_create(&OutcomeLabel { outcome }).inc();
        self.reconcile_duration.observe(took.as_secs_f64());
    }

    /// A child was written.
    pub fn written(&self, kind: ChildKind) {
        self.writes.get_or_create(&KindLabel::from(kind)).inc();
    }

    /// A watch has failed.
    pub fn watch_failed(&self, what: &'static str) {
        self.watch_failures.get_or_create(&WatchLabel { what }).inc();
    }

    /// Shows how the consumers are; `None` is one without a status.
    pub fn show_consumers<'a>(&self, statuses: impl Iterator<Item = Option<&'a IdempotentConsumerStatus>>) {
        let statuses: Vec<_> = statuses.collect();
        self.consumers.set(statuses.len().try_into().unwrap_or(i64::MAX));
        for r#type in CONDITIONS {
            for status in ConditionStatus::ALL {
                let says = |one: &&Option<&IdempotentConsumerStatus>| {
                    let found =
                        one.and_then(|one| condition(one, r#type)).map_or("Unknown", |found| found.status.as_str());
                    found == status.as_str()
                };
                let count = statuses.iter().filter(says).count();
                let label = ConditionLabel { r#type, status: *status };
                self.conditions.get_or_create(&label).set(count.try_into().unwrap_or(i64::MAX));
            }
        }
    }

    /// Shows how many consumers are rolled for an upgrade, and how many wait.
    pub fn show_upgrades(&self, (under_way, waiting, _): (usize, usize, usize)) {
        self.upgrades_under_way.set(under_way.try_into().unwrap_or(i64::MAX));
        self.upgrades_waiting.set(waiting.try_into().unwrap_or(i64::MAX));
    }

    /// All figures in the OpenMetrics text format, with [`CONTENT_TYPE`].
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(8 << 10);
        // Writing to a String does not fail; should the encoder refuse, what was written so far is still right.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_there_from_the_start_and_conditions_are_counted() {
        let metrics = Metrics::new();
        metrics.reconciled(Outcome::Refused, Duration::from_millis(2));
        metrics.show_consumers([None, None].into_iter());
        let text = metrics.encode();
        for line in [
            "idempotency_operator_reconciles_total{outcome=\"refused\"} 1",
            "idempotency_operator_reconciles_total{outcome=\"done\"} 0",
            "idempotency_operator_writes_total{kind=\"Deployment\"} 0",
            "idempotency_operator_consumers 2",
            "idempotency_operator_consumer_conditions{type=\"Ready\",status=\"Unknown\"} 2",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
