//! Decides which figures the sidecar shows of itself, under which names: one registry. No I/O; counters are atomics.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use crds::status::{Condition, Protection};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets, exponential_buckets_range};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::record::{Offset, TopicPartition};

pub mod labels;

use labels::{
    ClaimLabel, ClaimResult, CommitLabel, CommitResult, ConditionLabel, EventOutcome, OutcomeLabel, PartitionLabel,
    ProtectionLabel, ProtectionValue, RebalanceKind, RebalanceLabel, StoreErrorKind, StoreErrorLabel, TopicLabel,
};

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Every figure of one sidecar. Handles are cheap to clone and to count on.
///
/// # Guarantees
/// - Label values come from closed sets, the configured topics and the held partitions: a record can't make a series.
/// - Series with a closed set of labels are there from the start, at 0.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Records read, by topic.
    pub records_received: Family<TopicLabel, Counter>,
    /// Records whose event came to an outcome; `failed` ones come again.
    pub events: Family<OutcomeLabel, Counter>,
    /// Duplicates whose envelope names another event.
    pub suspect_duplicates: Counter,
    /// Records that lack what the event-id rule asks for, so that their raw bytes were hashed.
    pub event_id_fallbacks: Counter,
    /// Events handed to the app, by protection; every attempt counts.
    pub deliveries: Family<ProtectionLabel, Counter>,
    /// Events handed to the app with an attempt above 1.
    pub redeliveries: Counter,
    /// Events written to the dead-letter topic.
    pub dead_letters: Counter,
    /// Skipped records copied to the duplicates topic.
    pub duplicates_copied: Counter,
    /// Seconds from a request's first byte to the app's answer, or to the failure.
    pub delivery_duration: Histogram,
    /// Events in one request.
    pub batch_size: Histogram,
    /// Looks at events' keys, by what came of them.
    pub claims: Family<ClaimLabel, Counter>,
    /// Events that wait for another session's claim.
    pub claims_held: Gauge,
    /// Seconds that one round trip to the store took, or failed after.
    pub store_round_trip: Histogram,
    /// Operations that the store did not do, by kind.
    pub store_errors: Family<StoreErrorLabel, Counter>,
    /// 1 while the breaker is open: no event waits for the store.
    pub breaker_open: Gauge,
    /// What a delivery that starts now is promised: 2 full, 1 local, 0 none.
    pub protection: Gauge,
    /// Sessions opened.
    pub sessions_opened: Counter,
    /// Sessions that were not renewed in time, or were gone from the store before their time.
    pub sessions_lost: Counter,
    /// Ids that wait to be written back to the store.
    pub write_back_queue: Gauge,
    /// Ids that found no room to wait in.
    pub write_back_overflow: Counter,
    /// Ids in the sidecar's own memory.
    pub recent_ids: Gauge,
    /// Records read and not yet settled.
    pub buffered_records: Gauge,
    /// Bytes of record values read and not yet handed over.
    pub buffered_bytes: Gauge,
    /// Requests under way.
    pub in_flight: Gauge,
    /// The lowest offset not yet settled, by held partition.
    pub watermark: Family<PartitionLabel, Gauge>,
    /// Records in the topic from the watermark on, by held partition.
    pub watermark_lag: Family<PartitionLabel, Gauge>,
    /// Commits of offsets, by result.
    pub commits: Family<CommitLabel, Counter>,
    /// Changes of the assignment, by kind.
    pub rebalances: Family<RebalanceLabel, Counter>,
    /// 1 while the app accepts connections.
    pub app_up: Gauge,
    conditions: Family<ConditionLabel, Gauge>,
    /// The condition types shown now: a family can't be asked for its labels.
    shown: Mutex<BTreeSet<String>>,
}

impl Metrics {
    /// A registry of its own for a sidecar that consumes `topics`.
    #[must_use]
    pub fn new<T: AsRef<str>>(topics: &[T]) -> Arc<Self> {
        let mut metrics = Self {
            registry: Registry::with_prefix("idempotency"),
            records_received: Family::default(),
            events: Family::default(),
            suspect_duplicates: Counter::default(),
            event_id_fallbacks: Counter::default(),
            deliveries: Family::default(),
            redeliveries: Counter::default(),
            dead_letters: Counter::default(),
            duplicates_copied: Counter::default(),
            delivery_duration: Histogram::new(exponential_buckets_range(0.0005, 60.0, 16)),
            batch_size: Histogram::new(exponential_buckets(1.0, 2.0, 11)),
            claims: Family::default(),
            claims_held: Gauge::default(),
            store_round_trip: Histogram::new(exponential_buckets_range(0.0001, 10.0, 16)),
            store_errors: Family::default(),
            breaker_open: Gauge::default(),
            protection: Gauge::default(),
            sessions_opened: Counter::default(),
            sessions_lost: Counter::default(),
            write_back_queue: Gauge::default(),
            write_back_overflow: Counter::default(),
            recent_ids: Gauge::default(),
            buffered_records: Gauge::default(),
            buffered_bytes: Gauge::default(),
            in_flight: Gauge::default(),
            watermark: Family::default(),
            watermark_lag: Family::default(),
            commits: Family::default(),
            rebalances: Family::default(),
            app_up: Gauge::default(),
            conditions: Family::default(),
            shown: Mutex::default(),
        };
        metrics.register_flow();
        metrics.register_store();
        metrics.register_kafka();
        metrics.start_at_zero(topics);
        Arc::new(metrics)
    }

    /// What a delivery that starts now is promised.
    pub fn set_protection(&self, protection: Protection) {
        self.protection.set(match protection {
            Protection::Full => 2,
            Protection::Local => 1,
            Protection::None => 0,
        });
    }

    /// Shows the conditions of `/status`; one that is no longer among them goes.
    pub fn set_conditions(&self, conditions: &[Condition]) {
        let now: BTreeSet<String> = conditions.iter().map(|c| c.r#type.clone()).collect();
        for condition in conditions {
            let label = ConditionLabel { r#type: condition.r#type.clone() };
            self.conditions.get_or_create(&label).set(i64::from(condition.status));
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in shown.difference(&now) {
            self.conditions.remove(&ConditionLabel { r#type: gone.clone() });
        }
        *shown = now;
    }

    /// Shows a held partition's watermark and, where the end of the topic is known, how far behind it is.
    pub fn set_watermark(&self, partition: &TopicPartition, watermark: Offset, lag: Option<i64>) {
        let label = PartitionLabel::from(partition);
        self.watermark.get_or_create(&label).set(watermark);
        if let Some(lag) = lag {
            self.watermark_lag.get_or_create(&label).set(lag);
        }
    }

    /// Drops the series of a partition that is no longer held.
    pub fn forget_partition(&self, partition: &TopicPartition) {
        let label = PartitionLabel::from(partition);
        self.watermark.remove(&label);
        self.watermark_lag.remove(&label);
    }

    /// All figures in the OpenMetrics text format, with [`CONTENT_TYPE`].
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(16 << 10);
        // Writing to a String does not fail; should the encoder refuse, what was written so far is still right.
        let _ = encode(&mut text, &self.registry);
        text
    }

    fn register_flow(&mut self) {
        let r = &mut self.registry;
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        r.register("build", "Version of the sidecar", build);
        r.register("records_received", "Records read", self.records_received.clone());
        r.register("events", "Records whose event came to an outcome; failed ones come again", self.events.clone());
        r.register(
            "suspect_duplicates",
            "Duplicates whose envelope names another event",
            self.suspect_duplicates.clone(),
        );
        r.register(
            "event_id_fallbacks",
            "Records that lack what the event-id rule asks for, so that their raw bytes were hashed",
            self.event_id_fallbacks.clone(),
        );
        r.register("deliveries", "Events handed to the app; every attempt counts", self.deliveries.clone());
        r.register("redeliveries", "Events handed to the app with an attempt above 1", self.redeliveries.clone());
        r.register("dead_letters", "Events written to the dead-letter topic", self.dead_letters.clone());
        r.register(
            "duplicates_copied",
            "Skipped records copied to the duplicates topic",
            self.duplicates_copied.clone(),
        );
        r.register_with_unit(
            "delivery_duration",
            "Time from a request's first byte to the app's answer or the failure",
            Unit::Seconds,
            self.delivery_duration.clone(),
        );
        r.register("batch_size", "Events in one request", self.batch_size.clone());
        r.register("in_flight", "Requests to the app under way", self.in_flight.clone());
        r.register("app_up", "1 while the app accepts connections", self.app_up.clone());
        r.register("condition", "1 while a condition of /status is healthy, else 0", self.conditions.clone());
        r.register(
            "protection",
            "What a delivery that starts now is promised: 2 full, 1 local, 0 none",
            self.protection.clone(),
        );
    }

    fn register_store(&mut self) {
        let r = &mut self.registry;
        r.register("claims", "Looks at events' keys, by what came of them", self.claims.clone());
        r.register("claims_held", "Events that wait for another session's claim", self.claims_held.clone());
        r.register_with_unit(
            "store_round_trip",
            "Time that one round trip to the store took or failed after",
            Unit::Seconds,
            self.store_round_trip.clone(),
        );
        r.register("store_errors", "Operations that the store did not do", self.store_errors.clone());
        r.register(
            "breaker_open",
            "1 while the breaker is open and no event waits for the store",
            self.breaker_open.clone(),
        );
        r.register("sessions_opened", "Sessions opened", self.sessions_opened.clone());
        r.register(
            "sessions_lost",
            "Sessions not renewed in time, gone from the store before their time, or given up since another server may have its place",
            self.sessions_lost.clone(),
        );
        r.register("write_back_queue", "Ids that wait to be written back to the store", self.write_back_queue.clone());
        r.register("write_back_overflow", "Ids that found no room to wait in", self.write_back_overflow.clone());
        r.register("recent_ids", "Ids in the sidecar's own memory", self.recent_ids.clone());
    }

    fn register_kafka(&mut self) {
        let r = &mut self.registry;
        r.register("buffered_records", "Records read and not yet settled", self.buffered_records.clone());
        // The unit makes the name `idempotency_buffered_bytes`.
        r.register_with_unit(
            "buffered",
            "Size of the record values read and not yet handed over",
            Unit::Bytes,
            self.buffered_bytes.clone(),
        );
        r.register("watermark", "Lowest offset not yet settled, of a held partition", self.watermark.clone());
        r.register(
            "watermark_lag",
            "Records in the topic from the watermark on, of a held partition",
            self.watermark_lag.clone(),
        );
        r.register("commits", "Commits of offsets", self.commits.clone());
        r.register("rebalances", "Changes of the assignment", self.rebalances.clone());
    }

    /// A rate over a series that appears with its first event misses that event; so all known ones are there at once.
    fn start_at_zero<T: AsRef<str>>(&self, topics: &[T]) {
        for topic in topics {
            let _ = self.records_received.get_or_create(&TopicLabel { topic: topic.as_ref().to_owned() });
        }
        zero::<_, EventOutcome>(&self.events, EventOutcome::ALL);
        zero::<_, ProtectionValue>(&self.deliveries, ProtectionValue::ALL);
        zero::<_, ClaimResult>(&self.claims, ClaimResult::ALL);
        zero::<_, StoreErrorKind>(&self.store_errors, StoreErrorKind::ALL);
        zero::<_, CommitResult>(&self.commits, CommitResult::ALL);
        zero::<_, RebalanceKind>(&self.rebalances, RebalanceKind::ALL);
    }
}

fn zero<L, V>(family: &Family<L, Counter>, values: &[V])
where
    L: From<V> + Clone + std::hash::Hash + Eq,
    V: Copy,
{
    for &value in values {
        let _ = family.get_or_create(&L::from(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERIES: &[&str] = &[
        "build_info",
        "records_received_total",
        "events_total",
        "suspect_duplicates_total",
        "event_id_fallbacks_total",
        "deliveries_total",
        "redeliveries_total",
        "dead_letters_total",
        "duplicates_copied_total",
        "delivery_duration_seconds_bucket",
        "batch_size_bucket",
        "in_flight",
        "app_up",
        "condition",
        "protection",
        "claims_total",
        "claims_held",
        "store_round_trip_seconds_bucket",
        "store_errors_total",
        "breaker_open",
        "sessions_opened_total",
        "sessions_lost_total",
        "write_back_queue",
        "write_back_overflow_total",
        "recent_ids",
        "buffered_records",
        "buffered_bytes",
        "watermark",
        "watermark_lag",
        "commits_total",
        "rebalances_total",
    ];

    fn partition() -> TopicPartition {
        TopicPartition { topic: "orders".into(), partition: 3 }
    }

    fn filled() -> Arc<Metrics> {
        let metrics = Metrics::new(&["orders"]);
        metrics.set_watermark(&partition(), 41, Some(7));
        metrics.set_conditions(&[Condition { r#type: "Protected".into(), status: true, ..Condition::default() }]);
        metrics
    }

    #[test]
    fn every_series_is_shown_once() {
        let text = filled().encode();
        let names: Vec<&str> =
            text.lines().filter_map(|l| l.strip_prefix("# TYPE ")).filter_map(|l| l.split(' ').next()).collect();
        assert_eq!(names.len(), names.iter().collect::<BTreeSet<_>>().len(), "a name is registered twice: {names:?}");
        assert_eq!(names.len(), SERIES.len(), "{names:?}");
        for series in SERIES {
            let sample = format!("idempotency_{series}");
            assert!(
                text.lines().any(|l| l.strip_prefix(&sample).is_some_and(|r| r.starts_with(['{', ' ']))),
                "no sample of {sample} in\n{text}"
            );
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn known_labels_start_at_zero_and_count() {
        let metrics = filled();
        metrics.events.get_or_create(&EventOutcome::Duplicate.into()).inc();
        metrics.claims.get_or_create(&ClaimResult::TakenOver.into()).inc_by(2);
        metrics.deliveries.get_or_create(&Protection::Local.into()).inc();
        metrics
            .store_errors
            .get_or_create(&StoreErrorLabel::from(&crate::store::StoreError::NotSent(String::new())))
            .inc();
        metrics.set_protection(Protection::Full);
        let text = metrics.encode();
        for line in [
            "idempotency_events_total{outcome=\"completed\"} 0",
            "idempotency_events_total{outcome=\"duplicate\"} 1",
            "idempotency_claims_total{result=\"taken_over\"} 2",
            "idempotency_deliveries_total{protection=\"local\"} 1",
            "idempotency_store_errors_total{kind=\"not_sent\"} 1",
            "idempotency_records_received_total{topic=\"orders\"} 0",
            "idempotency_condition{type=\"Protected\"} 1",
            "idempotency_watermark{topic=\"orders\",partition=\"3\"} 41",
            "idempotency_watermark_lag{topic=\"orders\",partition=\"3\"} 7",
            "idempotency_protection 2",
        ] {
            assert!(text.lines().any(|l| l == line), "no line {line} in\n{text}");
        }
    }

    #[test]
    fn a_partition_that_left_and_a_condition_that_ended_show_no_more() {
        let metrics = filled();
        metrics.forget_partition(&partition());
        metrics.set_conditions(&[]);
        let text = metrics.encode();
        assert!(!text.contains("partition=") && !text.contains("type=\"Protected\""), "{text}");
    }

    #[test]
    fn the_delivery_buckets_reach_from_half_a_millisecond_to_a_minute() {
        let text = filled().encode();
        let bound = |line: &str| line.split_once("le=\"")?.1.split_once('"')?.0.parse::<f64>().ok();
        let bounds: Vec<f64> = text
            .lines()
            .filter(|l| l.starts_with("idempotency_delivery_duration_seconds_bucket"))
            .filter_map(bound)
            .filter(|b| b.is_finite() && *b < 1e9)
            .collect();
        assert!((bounds[0] - 0.0005).abs() < 1e-9, "{bounds:?}");
        assert!((bounds[bounds.len() - 1] - 60.0).abs() < 1e-3, "{bounds:?}");
    }
}
