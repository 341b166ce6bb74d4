//! Decides what librdkafka's callbacks mean: rebalances for the group task, logs, errors and statistics as events. No I/O of its own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::KafkaError as RdError;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::{RDKafkaErrorCode as Code, RDKafkaRespErr};
use serde::Deserialize;
use tokio::sync::mpsc::UnboundedSender;

use super::incarnation::{Changed, TopicId, TopicIds};
use super::{Events, Extent, KafkaEvent, lock};
use crate::record::{Offset, TopicPartition};

/// What Kafka wants done with our assignment. The group task does it: librdkafka waits for the call, not for the callback.
#[derive(Debug)]
pub(super) enum Rebalance {
    Assign(Vec<TopicPartition>),
    Revoke {
        partitions: Vec<TopicPartition>,
        lost: bool,
    },
    /// Not Kafka's wish: offsets of this partition do not mean what they did.
    Reset {
        partition: TopicPartition,
        /// From here on the log is another; `None` if librdkafka starts anew at the earliest record.
        from: Option<Offset>,
    },
}

/// One partition's assignment.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) epoch: u64,
    /// The topic that is read: a commit has to say what it was worked out from.
    pub(super) topic: ReadTopic,
}

/// Which topic of its name is read in an assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ReadTopic {
    /// It is being looked up: until then nothing is committed.
    Open,
    /// The broker is older than ids.
    Nameless,
    /// The one with this id.
    Known(TopicId),
}

/// The partitions that are ours, each with its assignment.
#[derive(Debug, Default)]
pub(super) struct Table(Mutex<HashMap<TopicPartition, Held>>);

impl Table {
    pub(super) fn insert(&self, partition: TopicPartition, held: Held) {
        lock(&self.0).insert(partition, held);
    }

    pub(super) fn remove(&self, partition: &TopicPartition) {
        lock(&self.0).remove(partition);
    }

    pub(super) fn get(&self, partition: &TopicPartition) -> Option<Held> {
        lock(&self.0).get(partition).cloned()
    }

    pub(super) fn holds(&self, partition: &TopicPartition, epoch: u64) -> bool {
        lock(&self.0).get(partition).is_some_and(|held| held.epoch == epoch)
    }

    fn holds_topic(&self, topic: &str) -> bool {
        lock(&self.0).keys().any(|partition| &*partition.topic == topic)
    }

    pub(super) fn contains(&self, partition: &TopicPartition) -> bool {
        lock(&self.0).contains_key(partition)
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }
}

/// Whether brokers answer, told once at each change.
#[derive(Debug)]
pub(super) struct Brokers {
    state: Mutex<BrokerState>,
    events: Events,
}

#[derive(Debug, Default)]
struct BrokerState {
    told: Option<(bool, String)>,
    /// Why the last connection failed: "all brokers are down" alone helps nobody.
    reason: String,
    /// Statistics in a row without a connected broker.
    unconnected: u32,
    /// Statistics in a row without the address of any broker.
    unlisted: u32,
}

impl Brokers {
    pub(super) fn new(events: Events) -> Self {
        Self { state: Mutex::default(), events }
    }

    pub(super) fn up(&self) {
        self.tell(&mut lock(&self.state), true, String::new());
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(lock(&self.state).told, Some((true, _)))
    }

    /// librdkafka reports "all brokers down" only where it has tried each one it ever heard of, so statistics count too. One
    /// sample may fall between two connections; the second says that it lasts.
    fn connected(&self, any: bool) {
        let mut state = lock(&self.state);
        if any {
            state.unconnected = 0;
            self.tell(&mut state, true, String::new());
            return;
        }
        state.unconnected += 1;
        if state.unconnected >= 2 && !matches!(state.told, Some((false, _))) {
            let message = if state.reason.is_empty() { "no broker is connected" } else { &state.reason }.to_owned();
            self.tell(&mut state, false, message);
        }
    }

    /// librdkafka takes a broker at its word that says that there are no brokers, as one does that its controller has taken for dead. It
    /// then forgets all addresses, those of its configuration too, and never comes back (its issue 5301): a new client does.
    fn listed(&self, any: bool) {
        let mut state = lock(&self.state);
        state.unlisted = if any { 0 } else { state.unlisted + 1 };
        if state.unlisted == 2 {
            let message = "the Kafka client knows no broker any more: the next start connects anew";
            let _ = self.events.send(KafkaEvent::Fatal(message.to_owned()));
        }
    }

    fn error(&self, code: Code, reason: &str) {
        let mut state = lock(&self.state);
        match code {
            Code::AllBrokersDown => {
                let message = if state.reason.is_empty() { reason } else { &state.reason }.to_owned();
                self.tell(&mut state, false, message);
            }
            // These do not heal by themselves, and with several brokers "all down" may be long in coming.
            Code::Authentication | Code::SaslAuthenticationFailed | Code::UnsupportedSASLMechanism | Code::SSL => {
                self.tell(&mut state, false, reason.to_owned());
            }
            _ => reason.clone_into(&mut state.reason),
        }
    }

    fn tell(&self, state: &mut BrokerState, up: bool, message: String) {
        let now = (up, message);
        if state.told.as_ref() != Some(&now) {
            state.told = Some(now.clone());
            let _ = self.events.send(KafkaEvent::Brokers { up: now.0, message: now.1 });
        }
    }
}

/// Turns librdkafka's callbacks into events. They run inside polls, so nothing here may wait.
#[derive(Debug)]
pub(super) struct Context {
    topics: Vec<Arc<str>>,
    events: Events,
    rebalances: UnboundedSender<Rebalance>,
    /// The group task is gone: what it would have been asked is done at once.
    closing: AtomicBool,
    pub(super) table: Arc<Table>,
    pub(super) ids: TopicIds,
    pub(super) brokers: Arc<Brokers>,
}

impl Context {
    pub(super) fn new(topics: &[String], events: Events, rebalances: UnboundedSender<Rebalance>) -> Self {
        Self {
            topics: topics.iter().map(|t| Arc::from(t.as_str())).collect(),
            brokers: Arc::new(Brokers::new(events.clone())),
            events,
            rebalances,
            closing: AtomicBool::new(false),
            table: Arc::default(),
            ids: TopicIds::default(),
        }
    }

    /// From now on librdkafka's questions are answered at once.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }

    /// Where nothing of the topic is held, the next assignment looks at its id anew.
    fn recreated(&self, Changed { topic, before, now }: Changed) {
        if self.table.holds_topic(&topic) {
            let message =
                format!("the topic `{topic}` was deleted and created again: its id was {before} and is {now}");
            let _ = self.events.send(KafkaEvent::Recreated { topic, message });
        } else {
            tracing::info!(topic, %before, %now, "a topic was deleted and created again");
        }
    }

    /// Other records than before came under these offsets.
    pub(super) fn was_cut(&self, partition: &TopicPartition, from: Offset) {
        let message = format!("the log was cut off: from offset {from} on it holds other records than were read");
        tracing::warn!(%partition, from, "the log was cut off; reading starts again there");
        let _ = self.events.send(KafkaEvent::OffsetReset { partition: partition.clone(), message });
        let _ = self.rebalances.send(Rebalance::Reset { partition: partition.clone(), from: Some(from) });
    }

    fn partition(&self, topic: &str, partition: i32) -> TopicPartition {
        let known = self.topics.iter().find(|t| &***t == topic);
        TopicPartition { topic: known.map_or_else(|| Arc::from(topic), Arc::clone), partition }
    }
}

/// Gives partitions back, as the group's protocol wants it.
pub(super) fn unassign<C: rdkafka::consumer::Consumer<X>, X: ConsumerContext>(
    consumer: &C,
    list: &TopicPartitionList,
) -> rdkafka::error::KafkaResult<()> {
    match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
        RebalanceProtocol::Eager | RebalanceProtocol::None => consumer.unassign(),
    }
}

/// Takes partitions, as the group's protocol wants it.
pub(super) fn assign<C: rdkafka::consumer::Consumer<X>, X: ConsumerContext>(
    consumer: &C,
    list: &TopicPartitionList,
) -> rdkafka::error::KafkaResult<()> {
    match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_assign(list),
        RebalanceProtocol::Eager | RebalanceProtocol::None => consumer.assign(list),
    }
}

/// A list as librdkafka takes it, without offsets: reading starts at the committed ones.
pub(super) fn list(partitions: &[TopicPartition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for p in partitions {
        list.add_partition(&p.topic, p.partition);
    }
    list
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, err: RDKafkaRespErr, tpl: &mut TopicPartitionList) {
        let assigned = err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let partitions = tpl.elements().iter().map(|e| self.partition(e.topic(), e.partition())).collect();
        let asked = if assigned {
            Rebalance::Assign(partitions)
        } else {
            Rebalance::Revoke { partitions, lost: consumer.assignment_lost() }
        };
        if !self.closing.load(Ordering::SeqCst) && self.rebalances.send(asked).is_ok() {
            return;
        }
        let done = if assigned { assign(consumer, tpl) } else { unassign(consumer, tpl) };
        if let Err(error) = done {
            tracing::warn!(%error, assigned, "rebalance while closing");
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
        if facility == "OFFSET"
            && let Some((topic, partition)) = reset_partition(message)
        {
            let partition = self.partition(topic, partition);
            let _ =
                self.events.send(KafkaEvent::OffsetReset { partition: partition.clone(), message: message.to_owned() });
            let _ = self.rebalances.send(Rebalance::Reset { partition, from: None });
        }
        if let Some(changed) = self.ids.read(facility, message) {
            self.recreated(changed);
        }
    }

    fn error(&self, error: RdError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
        if let Some(code) = error.rdkafka_error_code() {
            self.brokers.error(code, reason);
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let Ok(stats) = serde_json::from_slice::<Stats>(statistics) else {
            tracing::warn!("librdkafka's statistics can't be read: no lag is reported");
            return;
        };
        self.brokers.connected(stats.brokers.values().any(|b| b.state == "UP"));
        self.brokers.listed(stats.brokers.values().any(|b| !matches!(&*b.source, "logical" | "internal")));
        let mut ends = Vec::new();
        for (topic, t) in &stats.topics {
            for p in t.partitions.values().filter(|p| p.partition >= 0 && p.end() >= 0) {
                let partition = self.partition(topic, p.partition);
                if self.table.contains(&partition) {
                    ends.push(Extent { partition, end: p.end(), committed: p.committed() });
                }
            }
        }
        if !ends.is_empty() {
            let _ = self.events.send(KafkaEvent::Lag(ends));
        }
    }
}

/// librdkafka's log lines, in ours. Its warnings that a property is the other kind of client's are no news: both share theirs.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    use RDKafkaLogLevel::{Alert, Critical, Debug, Emerg, Error, Info, Notice, Warning};
    match level {
        _ if facility == "CONFWARN" && message.contains("will be ignored by this") => {
            tracing::debug!(target: "librdkafka", facility, "{message}");
        }
        Emerg | Alert | Critical | Error => tracing::error!(target: "librdkafka", facility, "{message}"),
        Warning => tracing::warn!(target: "librdkafka", facility, "{message}"),
        Notice | Info => tracing::info!(target: "librdkafka", facility, "{message}"),
        // Asked for with each look at the topics, for the sake of their ids.
        Debug if facility.starts_with("METADATA") => tracing::trace!(target: "librdkafka", facility, "{message}"),
        Debug => tracing::debug!(target: "librdkafka", facility, "{message}"),
    }
}

/// The partition in `[thrd:main]: <topic> [<partition>]: offset reset (at …) to …: <reason>: Broker: Offset out of range`.
///
/// librdkafka has no other sign of it: resets because of an error are logged as warnings, the first start of a group is not.
fn reset_partition(message: &str) -> Option<(&str, i32)> {
    let (place, _) = message.split_once("]: offset reset (")?;
    let (topic, partition) = place.rsplit_once(" [")?;
    let topic = topic.rsplit(' ').next()?;
    Some((topic, partition.parse().ok()?))
}

#[derive(Deserialize)]
struct Stats {
    #[serde(default)]
    brokers: HashMap<String, BrokerStats>,
    #[serde(default)]
    topics: HashMap<String, TopicStats>,
}

#[derive(Deserialize)]
struct BrokerStats {
    state: String,
    /// `logical` is a name for one of the others, as the group's coordinator is; `internal` is none.
    #[serde(default)]
    source: String,
}

#[derive(Deserialize)]
struct TopicStats {
    #[serde(default)]
    partitions: HashMap<String, PartitionStats>,
}

#[derive(Deserialize)]
struct PartitionStats {
    partition: i32,
    hi_offset: i64,
    ls_offset: i64,
    committed_offset: i64,
}

impl PartitionStats {
    /// We read committed records only, so the last stable offset is the end, where the broker tells it.
    fn end(&self) -> i64 {
        if self.ls_offset >= 0 { self.ls_offset } else { self.hi_offset }
    }

    fn committed(&self) -> Option<Offset> {
        (self.committed_offset >= 0).then_some(self.committed_offset)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    fn context() -> (Context, UnboundedReceiver<KafkaEvent>) {
        let (events, received) = unbounded_channel();
        (Context::new(&["t.v1".into()], events, unbounded_channel().0), received)
    }

    #[test]
    fn an_offset_reset_is_told_from_its_log_line() {
        let (context, mut events) = context();
        let line = "[thrd:main]: t.v1 [3]: offset reset (at offset 7 (leader epoch 0), broker 1) to BEGINNING (leader epoch -1): \
                    fetch failed due to requested offset not available on the broker: Broker: Offset out of range";
        context.log(RDKafkaLogLevel::Warning, "OFFSET", line);
        context.log(RDKafkaLogLevel::Warning, "FAIL", line);
        context.log(RDKafkaLogLevel::Warning, "OFFSET", "[thrd:main]: something else");
        let Ok(KafkaEvent::OffsetReset { partition, message }) = events.try_recv() else { panic!("no event") };
        assert_eq!((&*partition.topic, partition.partition), ("t.v1", 3));
        assert_eq!(message, line);
        assert!(events.try_recv().is_err());
    }

    #[test]
    fn another_topic_of_the_same_name_is_told_while_it_is_read() {
        let (context, mut events) = context();
        let changed = |to: &str| {
            let line = format!("[thrd:main]: Topic t.v1 changed id from AAAAAAAAAAAAAAAAAAAAAA to {to}");
            context.log(RDKafkaLogLevel::Debug, "METADATA", &line);
        };
        changed("first");
        changed("second");
        assert!(events.try_recv().is_err(), "nothing of it is held");
        let partition = TopicPartition { topic: "t.v1".into(), partition: 0 };
        context.table.insert(partition, Held { epoch: 1, topic: ReadTopic::Open });
        changed("second");
        assert!(events.try_recv().is_err(), "it is the same");
        changed("third");
        let Ok(KafkaEvent::Recreated { topic, message }) = events.try_recv() else { panic!("no event") };
        assert_eq!(topic, "t.v1");
        assert!(message.contains("second") && message.contains("third"), "{message}");
    }

    #[test]
    fn lag_is_told_for_assigned_partitions_with_a_known_end() {
        let (context, mut events) = context();
        let ours = |partition| TopicPartition { topic: "t.v1".into(), partition };
        for partition in [0, 1, 3] {
            context.table.insert(ours(partition), Held { epoch: 1, topic: ReadTopic::Nameless });
        }
        context.stats_raw(
            br#"{"name":"x","brokers":{"k":{"state":"CONNECT","x":0}},"topics":{"t.v1":{"partitions":{
                "0":{"partition":0,"hi_offset":12,"ls_offset":10,"committed_offset":8,"x":1},
                "1":{"partition":1,"hi_offset":-1001,"ls_offset":-1001,"committed_offset":-1001},
                "2":{"partition":2,"hi_offset":5,"ls_offset":5,"committed_offset":-1001},
                "3":{"partition":3,"hi_offset":5,"ls_offset":5,"committed_offset":-1001},
                "-1":{"partition":-1,"hi_offset":5,"ls_offset":5,"committed_offset":-1001}}}}}"#,
        );
        let Ok(KafkaEvent::Lag(mut ends)) = events.try_recv() else { panic!("no event") };
        ends.sort_by_key(|extent| extent.partition.partition);
        let extent = |partition, end, committed| Extent { partition: ours(partition), end, committed };
        assert_eq!(ends, [extent(0, 10, Some(8)), extent(3, 5, None)]);
    }

    #[test]
    fn brokers_are_told_at_changes_with_the_reason() {
        let (context, mut events) = context();
        let mut next = || match events.try_recv() {
            Ok(KafkaEvent::Brokers { up, message }) => Some((up, message)),
            _ => None,
        };
        context.brokers.up();
        context.brokers.up();
        assert_eq!(next(), Some((true, String::new())));
        assert_eq!(next(), None);
        context.error(RdError::Global(Code::BrokerTransportFailure), "k:9092: Connect failed: Connection refused");
        assert_eq!(next(), None, "one broker of several may be away");
        context.error(RdError::Global(Code::AllBrokersDown), "1/1 brokers are down");
        let (up, message) = next().unwrap();
        assert!(!up && message.contains("Connection refused"), "{message}");
        context.brokers.up();
        assert_eq!(next(), Some((true, String::new())));
        let stats = |state: &str| format!(r#"{{"brokers":{{"k/1":{{"state":"{state}"}},"b":{{"state":"INIT"}}}}}}"#);
        context.stats_raw(stats("CONNECT").as_bytes());
        assert_eq!(next(), None, "between two connections");
        context.stats_raw(stats("CONNECT").as_bytes());
        assert_eq!(next().map(|(up, _)| up), Some(false));
        context.stats_raw(stats("UP").as_bytes());
        assert_eq!(next(), Some((true, String::new())));
        context.error(RdError::Global(Code::Authentication), "SASL authentication error: Authentication failed");
        assert_eq!(next().map(|(up, _)| up), Some(false));
    }

    #[test]
    fn a_client_that_has_forgotten_all_brokers_is_given_up() {
        let (context, mut events) = context();
        let mut fatal =
            || std::iter::from_fn(|| events.try_recv().ok()).any(|event| matches!(event, KafkaEvent::Fatal(_)));
        let none = br#"{"brokers":{"GroupCoordinator":{"state":"UP","source":"logical"},":0/internal":{"state":"INIT","source":"internal"}}}"#;
        let some = br#"{"brokers":{"GroupCoordinator":{"state":"INIT","source":"logical"},"k:9092/1":{"state":"TRY_CONNECT","source":"learned"}}}"#;
        for statistics in [&some[..], none, some, none] {
            context.stats_raw(statistics);
            assert!(!fatal(), "one sample may fall between two metadata");
        }
        context.stats_raw(none);
        assert!(fatal());
    }
}
