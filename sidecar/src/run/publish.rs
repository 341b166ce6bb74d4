//! Decides when the sidecar's state is shown: status, conditions with their times, metrics, a summary a minute. Reads the wall clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crds::status::{Condition, Counters, SidecarStatus};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::time::sleep;

use super::Input;
use crate::clock::Time;
use crate::gate::GateCounts;
use crate::kafka::Budget;
use crate::metrics::Metrics;
use crate::metrics::labels::{ClaimResult, CommitResult, EventOutcome, ProtectionValue, RebalanceKind, StoreErrorKind};
use crate::pipeline::{Finding, Pipeline, Tally};
use crate::record::TopicPartition;
use crate::store::redis::RedisStore;

/// The state is shown again at most this often.
const EVERY: Duration = Duration::from_millis(200);
/// A line that sums up what happened, so often.
const SUMMARY: Duration = Duration::from_secs(60);
/// The server's eviction policy is looked at so often.
const EVICTION_EVERY: Duration = Duration::from_secs(300);
/// After a failed look, so soon.
const EVICTION_RETRY: Duration = Duration::from_secs(5);

/// Shows the state of the pipeline.
#[derive(Debug)]
pub(super) struct Publisher {
    metrics: Arc<Metrics>,
    status: watch::Sender<Arc<SidecarStatus>>,
    shown_at: Time,
    /// Something may have changed since.
    outdated: bool,
    summed_at: Time,
    counters: Counters,
    summed: Counters,
    tally: Tally,
    gate: GateCounts,
    overflow: u64,
    since: HashMap<&'static str, (Finding, String)>,
    partitions: Vec<TopicPartition>,
}

impl Publisher {
    pub(super) fn new(metrics: Arc<Metrics>) -> (Self, watch::Receiver<Arc<SidecarStatus>>) {
        let (status, receiver) = watch::channel(Arc::default());
        let now = Time::now();
        let publisher = Self {
            metrics,
            status,
            shown_at: Time::default(),
            outdated: true,
            summed_at: now,
            counters: Counters::default(),
            summed: Counters::default(),
            tally: Tally::default(),
            gate: GateCounts::default(),
            overflow: 0,
            since: HashMap::new(),
            partitions: Vec::new(),
        };
        (publisher, receiver)
    }

    pub(super) fn publish(&mut self, pipeline: &mut Pipeline, budget: &Budget, now: Time) {
        self.outdated = now.since(self.shown_at) < EVERY;
        if self.outdated {
            return;
        }
        self.shown_at = now;
        let mut status = pipeline.status(now);
        status.conditions = self.conditions(pipeline.findings(now));
        self.show_counts(pipeline);
        self.show_gauges(pipeline, budget, &status);
        if now.since(self.summed_at) >= SUMMARY {
            self.summed_at = now;
            self.sum_up(&status);
        }
        self.status.send_replace(Arc::new(status));
    }

    /// When the state is to be shown again, if something may have changed since it was.
    pub(super) fn next_due(&self) -> Option<Time> {
        self.outdated.then(|| self.shown_at + EVERY)
    }

    /// The findings, each with when it last changed. A change is worth a line in the log.
    fn conditions(&mut self, findings: Vec<Finding>) -> Vec<Condition> {
        let mut conditions = Vec::with_capacity(findings.len());
        for finding in findings {
            let known = self.since.get(finding.about);
            let since = match known {
                Some((before, since)) if before.healthy == finding.healthy => since.clone(),
                _ => {
                    note_change(known.is_some(), &finding);
                    wall_clock()
                }
            };
            conditions.push(Condition {
                r#type: finding.about.to_owned(),
                status: finding.healthy,
                reason: finding.reason.to_owned(),
                message: finding.message.clone(),
                since: since.clone(),
            });
            self.since.insert(finding.about, (finding, since));
        }
        conditions
    }

    fn show_counts(&mut self, pipeline: &mut Pipeline) {
        let (counters, tally, gate) = (*pipeline.counters(), *pipeline.tally(), *pipeline.gate().counts());
        let overflow = pipeline.gate().write_back().1;
        let m = &self.metrics;
        let (c, t, g) = (&self.counters, &self.tally, &self.gate);
        let event = |outcome: EventOutcome| m.events.get_or_create(&outcome.into()).clone();
        let delivery = |protection: ProtectionValue| m.deliveries.get_or_create(&protection.into()).clone();
        let claim = |result: ClaimResult| m.claims.get_or_create(&result.into()).clone();
        let error = |kind: StoreErrorKind| m.store_errors.get_or_create(&kind.into()).clone();
        let commit = |result: CommitResult| m.commits.get_or_create(&result.into()).clone();
        let rebalance = |kind: RebalanceKind| m.rebalances.get_or_create(&kind.into()).clone();
        for (counter, before, after) in [
            (event(EventOutcome::Completed), c.completed, counters.completed),
            (event(EventOutcome::Rejected), c.rejected, counters.rejected),
            (event(EventOutcome::Failed), c.failed, counters.failed),
            (event(EventOutcome::Duplicate), c.duplicates, counters.duplicates),
            (m.suspect_duplicates.clone(), c.suspects, counters.suspects),
            (m.dead_letters.clone(), c.dead_letters, counters.dead_letters),
            (m.redeliveries.clone(), c.redeliveries, counters.redeliveries),
            (m.event_id_fallbacks.clone(), t.fallbacks, tally.fallbacks),
            (m.duplicates_copied.clone(), t.duplicates_copied, tally.duplicates_copied),
            (delivery(ProtectionValue::Full), t.delivered_full, tally.delivered_full),
            (delivery(ProtectionValue::Local), t.delivered_local, tally.delivered_local),
            (delivery(ProtectionValue::None), t.delivered_none, tally.delivered_none),
            (commit(CommitResult::Done), t.commits, tally.commits),
            (commit(CommitResult::Failed), t.commits_failed, tally.commits_failed),
            (rebalance(RebalanceKind::Assigned), t.assigned, tally.assigned),
            (rebalance(RebalanceKind::Revoked), t.revoked, tally.revoked),
            (rebalance(RebalanceKind::Lost), t.lost, tally.lost),
            (claim(ClaimResult::First), g.claims_first, gate.claims_first),
            (claim(ClaimResult::TakenOver), g.claims_taken_over, gate.claims_taken_over),
            (claim(ClaimResult::Duplicate), g.claims_duplicate, gate.claims_duplicate),
            (claim(ClaimResult::Held), g.claims_held, gate.claims_held),
            (claim(ClaimResult::Foreign), g.claims_foreign, gate.claims_foreign),
            (claim(ClaimResult::Released), g.claims_released, gate.claims_released),
            (error(StoreErrorKind::Unanswered), g.errors_unanswered, gate.errors_unanswered),
            (error(StoreErrorKind::NotSent), g.errors_not_sent, gate.errors_not_sent),
            (error(StoreErrorKind::Refused), g.errors_refused, gate.errors_refused),
            (error(StoreErrorKind::WrongType), g.errors_wrong_type, gate.errors_wrong_type),
            (m.sessions_opened.clone(), g.sessions_opened, gate.sessions_opened),
            (m.sessions_lost.clone(), g.sessions_lost, gate.sessions_lost),
            (m.write_back_overflow.clone(), self.overflow, overflow),
        ] {
            grow(&counter, before, after);
        }
        (self.counters, self.tally, self.gate, self.overflow) = (counters, tally, gate, overflow);
    }

    fn show_gauges(&mut self, pipeline: &mut Pipeline, budget: &Budget, status: &SidecarStatus) {
        let m = &self.metrics;
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let (load, (records, bytes)) = (pipeline.load(), budget.held());
        m.in_flight.set(gauge(load.requests));
        m.claims_held.set(gauge(load.held));
        m.buffered_records.set(gauge(records));
        m.buffered_bytes.set(gauge(bytes));
        m.write_back_queue.set(gauge(pipeline.gate().write_back().0));
        m.recent_ids.set(gauge(pipeline.gate().remembered()));
        m.breaker_open.set(i64::from(pipeline.gate().away_since().is_some()));
        m.app_up.set(i64::from(status.app_up));
        m.set_protection(status.protection);
        m.set_conditions(&status.conditions);
        let mut held = Vec::with_capacity(status.partitions.len());
        for partition in &status.partitions {
            let place = TopicPartition { topic: partition.topic.as_str().into(), partition: partition.partition };
            if let Some(watermark) = partition.watermark {
                m.set_watermark(&place, watermark, partition.lag);
            }
            held.push(place);
        }
        for gone in self.partitions.iter().filter(|place| !held.contains(place)) {
            m.forget_partition(gone);
        }
        self.partitions = held;
    }

    fn sum_up(&mut self, status: &SidecarStatus) {
        let (now, before) = (status.counters, self.summed);
        tracing::info!(
            received = now.received - before.received,
            completed = now.completed - before.completed,
            rejected = now.rejected - before.rejected,
            failed = now.failed - before.failed,
            duplicates = now.duplicates - before.duplicates,
            dead_letters = now.dead_letters - before.dead_letters,
            unprotected = now.unprotected - before.unprotected,
            lag = status.partitions.iter().filter_map(|partition| partition.lag).sum::<i64>(),
            partitions = status.partitions.len(),
            protection = status.protection.as_str(),
            "the last minute"
        );
        self.summed = now;
    }
}

/// Looks from time to time whether the store may forget keys before their time.
pub(super) async fn watch_eviction(store: Arc<RedisStore>, inbox: UnboundedSender<Input>) {
    loop {
        let inspection = store.inspect().await;
        let danger = inspection.may_evict().map(|may| {
            may.then(|| {
                let policy = inspection.eviction_policy.as_deref().unwrap_or("unknown");
                format!(
                    "Redis has maxmemory-policy `{policy}`, which may drop keys before their TTL, and with them the \
                     knowledge of what is done: set `maxmemory-policy noeviction`"
                )
            })
        });
        let pause = match danger {
            Some(danger) => {
                let _ = inbox.send(Input::Eviction(danger));
                EVICTION_EVERY
            }
            None => EVICTION_RETRY,
        };
        sleep(pause).await;
    }
}

fn grow(counter: &Counter, before: u64, after: u64) {
    if after > before {
        counter.inc_by(after - before);
    }
}

fn note_change(known: bool, finding: &Finding) {
    let (about, message) = (finding.about, &finding.message);
    if !finding.healthy && known {
        tracing::warn!(condition = about, reason = finding.reason, message, "not as it should be");
    } else if !finding.healthy {
        tracing::info!(condition = about, reason = finding.reason, message, "not yet as it should be");
    } else if known {
        tracing::info!(condition = about, "as it should be again");
    }
}

/// The one place here that reads the wall clock: when a condition changed.
fn wall_clock() -> String {
    jiff::Timestamp::now().to_string()
}
