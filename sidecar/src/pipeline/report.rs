//! Decides what the sidecar says of itself: conditions, readiness, partitions. Pure.

use std::sync::Arc;
use std::time::Duration;

use crds::config::FailurePolicy;
use crds::status::{PartitionStatus, SidecarStatus};

use super::Pipeline;
use crate::clock::Time;
use crate::record::{Offset, TopicPartition};

/// How long a reset is reported: somebody should see it.
const RESET_FOR: Duration = Duration::from_secs(3_600);
/// How long a problem is reported after it was last told: nothing tells when it is over.
const PROBLEM_FOR: Duration = Duration::from_secs(60);

/// An event that another session has had for longer is worth a word: a delivery takes a minute at most by default, and one that
/// failed is released.
const HELD_LONG: Duration = Duration::from_secs(120);

/// A condition as it stands now; who publishes it knows since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub about: &'static str,
    /// It is as it should be.
    pub healthy: bool,
    /// One word in CamelCase.
    pub reason: &'static str,
    /// A sentence that names the thing and the fix.
    pub message: String,
    /// While it is not healthy, the sidecar is not ready.
    pub essential: bool,
}

/// What was told to the pipeline and lasts.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) copies_refused: Option<(Arc<str>, String)>,
    missing: Vec<String>,
    /// Partitions of all topics, once that is known.
    topic_partitions: Option<usize>,
    brokers_down: Option<String>,
    brokers_known: bool,
    pub(super) commit_failed: Option<String>,
    reset: Option<(String, Time)>,
    problem: Option<(String, Time)>,
    eviction: Option<String>,
}

impl Pipeline {
    /// Which topics there are.
    pub fn topics_found(&mut self, missing: Vec<String>, partitions: usize) {
        self.findings.topic_partitions = missing.is_empty().then_some(partitions);
        self.findings.missing = missing;
    }

    /// Whether a broker can be reached, and if not, why.
    pub fn brokers(&mut self, down: Option<String>) {
        self.findings.brokers_known = true;
        self.findings.brokers_down = down;
    }

    /// Reading began anew at the earliest record, since the committed offset is gone.
    pub fn offset_reset(&mut self, place: Option<&TopicPartition>, message: &str, now: Time) {
        let what = match place {
            Some(place) => format!("{place}: {message}"),
            None => message.to_owned(),
        };
        self.findings.reset = Some((what, now));
    }

    /// Something does not work and is tried again.
    pub fn problem(&mut self, place: Option<&TopicPartition>, message: String, now: Time) {
        let what = match place {
            Some(place) => format!("{place}: {message}"),
            None => message,
        };
        self.findings.problem = Some((what, now));
    }

    /// The store may forget keys before their time, or not; with what to do about it.
    pub fn eviction(&mut self, danger: Option<String>) {
        self.findings.eviction = danger;
    }

    /// This sidecar has every partition of its topics, and its memory lacks nothing that it has settled: no other member, and no
    /// forgetting, lets a duplicate through. What was settled before it started it can't know.
    pub(super) fn covers(&self, now: Time) -> bool {
        self.findings.topic_partitions == Some(self.partitions.len()) && self.gate.remembers_all(now)
    }

    /// The state of everything that can go wrong and last.
    #[must_use]
    pub fn findings(&self, now: Time) -> Vec<Finding> {
        let (unprotected, data_lost) = (self.unprotected(now), self.data_lost(now));
        let closed = self.gate.policy() == FailurePolicy::Closed && unprotected.is_some();
        vec![
            self.find_app(),
            finding("BrokersReachable", true, "NoBroker", match &self.findings.brokers_down {
                Some(why) => Some(format!("no Kafka broker answers: {why}; check kafka.bootstrapServers, tls and sasl")),
                None if self.findings.brokers_known => None,
                None => Some("no Kafka broker has answered yet".to_owned()),
            }),
            finding("TopicsFound", true, "TopicMissing", self.missing_topics()),
            match unprotected {
                Some(away) => finding("Protected", closed, "StoreAway", Some(away)),
                None => finding("Protected", false, "StoreLostData", data_lost.clone()),
            },
            finding("DataKept", false, "StoreLostData", data_lost),
            finding("KeysReadable", false, "UnusableKey", self.gate.unusable(now).map(|unusable| {
                let (key, why, waiting) = (&unusable.key, unusable.why, self.gate.foreign());
                format!("the Redis key `{key}` can't be used: {why}; delete it, or choose another keyPrefix ({waiting} such events wait)")
            })),
            finding("EventsMove", false, "HeldElsewhere", self.held_long(now)),
            finding("EvictionSafe", false, "MayEvict", self.findings.eviction.clone()),
            finding("CopiesTaken", false, "CopyRefused", self.findings.copies_refused.as_ref().map(|(topic, why)| {
                format!("the topic `{topic}` does not take a copy: {why}; create it, permit it, or raise its max.message.bytes")
            })),
            finding("OffsetsInRange", false, "OffsetReset", lately(&self.findings.reset, RESET_FOR, now).map(|what| {
                format!("{what}; records were deleted before they were read, or the group's offsets are another topic's")
            })),
            finding("OffsetsCommitted", false, "CommitFailed", self.findings.commit_failed.as_ref().map(|why| {
                format!("{why}; until offsets are committed, a restart reads again what is done, and skips it")
            })),
            finding("KafkaAccepts", false, "KafkaProblem", lately(&self.findings.problem, PROBLEM_FOR, now).cloned()),
        ]
    }

    /// Everything `/status` tells, but since when.
    #[must_use]
    pub fn status(&self, now: Time) -> SidecarStatus {
        SidecarStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            group: self.config.group.clone(),
            ready: self.findings(now).iter().all(|finding| finding.healthy || !finding.essential),
            session: self.gate.session(now).map(|session| session.to_string()),
            protection: self.gate.protection(self.covers(now), now),
            conditions: Vec::new(),
            app_up: self.flow.app_is_up(),
            joined: self.flow.is_joined(),
            paused: self.flow.is_paused(),
            partitions: self.partitions.iter().map(|(_, partition)| partition.status()).collect(),
            counters: self.counters,
        }
    }

    /// What is under way.
    #[must_use]
    pub fn load(&self) -> Load {
        Load { requests: self.deliveries.len(), busy: self.busy, held: self.gate.held() }
    }

    fn find_app(&self) -> Finding {
        let trouble = self.flow.app_trouble().map(|why| match why {
            "" => "the app has not accepted a connection yet".to_owned(),
            why => format!("the app does not accept connections: {why}"),
        });
        finding("AppUp", true, "AppDown", trouble)
    }

    fn missing_topics(&self) -> Option<String> {
        let missing = self.findings.missing.join(", ");
        if !missing.is_empty() {
            return Some(format!("no such topic: {missing}; create it, or correct `topics`"));
        }
        self.findings.topic_partitions.is_none().then(|| "the topics have not been looked up yet".to_owned())
    }

    fn data_lost(&self, now: Time) -> Option<String> {
        self.gate.data_lost(now).map(|since| {
            format!(
                "a key was gone before its time, {} s ago: Redis has lost data (flush, failover or eviction); \
                 duplicates of what it forgot may be delivered until one ttl has passed",
                now.since(since).as_secs()
            )
        })
    }

    /// A living session delivers within its time-outs, or dies within its TTL; longer than that it is stuck.
    fn held_long(&self, now: Time) -> Option<String> {
        let held = self.gate.longest_held()?;
        let long = now.since(held.since);
        (long >= HELD_LONG.max(2 * self.gate.session_ttl())).then(|| {
            format!(
                "the event under the Redis key `{}` has been session {}'s for {} s: look at the sidecar whose /status names that \
                 session; its partition or queue may be halted by a refused copy",
                held.key,
                held.holder,
                long.as_secs()
            )
        })
    }

    fn unprotected(&self, now: Time) -> Option<String> {
        let error = self.gate.last_error().unwrap_or("no answer");
        if self.gate.away_since().is_some() {
            return Some(format!(
                "Redis is away: {error}; check redis.url, the user and the password, the network and the server"
            ));
        }
        self.gate.session(now).is_none().then(|| match self.gate.last_error() {
            Some(error) => format!("no session is open: {error}"),
            None => "no session is open yet".to_owned(),
        })
    }
}

/// What is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests under way.
    pub requests: usize,
    /// Events from delivery to settlement.
    pub busy: usize,
    /// Events that wait for another session's claim.
    pub held: usize,
}

impl super::partition::Partition {
    fn status(&self) -> PartitionStatus {
        let watermark = self.watermark();
        let lag = |(end, watermark): (Offset, Offset)| (end - watermark).max(0);
        PartitionStatus {
            topic: self.place.topic.to_string(),
            partition: self.place.partition,
            watermark,
            buffered: self.watermark.len() as u64,
            lag: self.end.zip(watermark).map(lag),
        }
    }
}

/// What was told, unless that is too long ago.
fn lately(told: &Option<(String, Time)>, most: Duration, now: Time) -> Option<&String> {
    told.as_ref().filter(|(_, at)| now.since(*at) < most).map(|(what, _)| what)
}

fn finding(about: &'static str, essential: bool, reason: &'static str, trouble: Option<String>) -> Finding {
    match trouble {
        None => Finding { about, healthy: true, reason: "AsExpected", message: String::new(), essential },
        Some(message) => Finding { about, healthy: false, reason, message, essential },
    }
}
