//! Decides whether the platform did everything once: what its topics hold beside what its services were handed and have assessed. I/O:
//! it reads topics and Redis; the checks are pure.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde_json::Value;

use super::{
    ASSESSMENT_COMPLETED, INITIATE_ASSESSMENT, PHASE_OUTCOME, SET, SPELLCHECK_COMPLETED, SPELLCHECK_REQUESTED, Service,
    TOPICS,
};
use crate::offsets::{Read, read_all};
use crate::redis::RedisServer;

/// One delivery, as a service has noted it before it did anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Which service.
    pub service: String,
    /// Name of its pod.
    pub pod: String,
    /// Type of the event, which is its topic.
    pub kind: String,
    /// `idempotency-key`.
    pub key: String,
    /// `idempotency-attempt`.
    pub attempt: u32,
    /// `idempotency-protection`.
    pub protection: String,
}

impl Delivery {
    /// Does it say that the event may have had its effect already?
    #[must_use]
    pub fn says_again(&self) -> bool {
        self.attempt > 1 || self.protection != "full"
    }
}

/// All deliveries so far, in order.
///
/// # Errors
/// Redis does not answer, or an entry is not as the services write them.
pub fn deliveries(redis: &RedisServer) -> anyhow::Result<Vec<Delivery>> {
    let entries: Vec<(String, BTreeMap<String, String>)> = redis.command(&["XRANGE", "huleedu:journal", "-", "+"])?;
    entries.into_iter().map(|(_, entry)| delivery(entry)).collect()
}

fn delivery(mut entry: BTreeMap<String, String>) -> anyhow::Result<Delivery> {
    let mut take = |name: &str| entry.remove(name).with_context(|| format!("no {name} in the journal"));
    Ok(Delivery {
        service: take("service")?,
        pod: take("pod")?,
        kind: take("type")?,
        key: take("key")?,
        attempt: take("attempt")?.parse()?,
        protection: take("protection")?,
    })
}

/// Everything that was published and done for one batch.
#[derive(Debug)]
pub struct Account {
    batch: String,
    essays: usize,
    topics: BTreeMap<String, Topic>,
    deliveries: Vec<Delivery>,
    /// By essay, how many events assessed it.
    assessments: BTreeMap<String, usize>,
    readers: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Default)]
struct Topic {
    /// What its events are about: one event each.
    events: BTreeSet<String>,
    records: usize,
}

impl Account {
    /// Reads it all.
    ///
    /// # Errors
    /// Kafka or Redis does not answer, or a record is not of the platform.
    pub async fn read(
        bootstrap: &str,
        redis: &RedisServer,
        services: &[Service],
        batch: &str,
        essays: usize,
    ) -> anyhow::Result<Self> {
        let mut topics = BTreeMap::new();
        for topic in TOPICS {
            let mut all = Topic::default();
            for record in read_all(bootstrap, topic).await? {
                all.events.insert(about(&record).with_context(|| topic.to_owned())?);
                all.records += 1;
            }
            topics.insert(topic.to_owned(), all);
        }
        let mut assessments = BTreeMap::new();
        for field in redis.command::<Vec<String>>(&["HKEYS", "huleedu:assessments"])? {
            let (essay, _key) = field.split_once(' ').context("an assessment is under an essay and a key")?;
            *assessments.entry(essay.to_owned()).or_default() += 1;
        }
        let mut readers = BTreeMap::<String, Vec<String>>::new();
        for service in services {
            for topic in service.topics() {
                readers.entry(topic.into()).or_default().push(service.app().into());
            }
        }
        let deliveries = deliveries(redis)?;
        Ok(Self { batch: batch.into(), essays, topics, deliveries, assessments, readers })
    }

    /// Each event once, in each service that reads it, and each essay assessed once; what came again said so.
    ///
    /// # Errors
    /// It is not so; the text says of what.
    pub fn check(&self, more_requests: usize) -> anyhow::Result<()> {
        for topic in TOPICS {
            let wanted = match topic {
                SPELLCHECK_REQUESTED => self.essays + more_requests,
                SPELLCHECK_COMPLETED => self.essays,
                INITIATE_ASSESSMENT | ASSESSMENT_COMPLETED => self.essays.div_ceil(SET),
                PHASE_OUTCOME => 2,
                _ => 1,
            };
            let found = self.topics[topic].events.len();
            ensure!(found == wanted, "{topic}: {found} events, {wanted} were to come");
            let readers = self.readers.get(topic).with_context(|| format!("nobody reads {topic}"))?;
            for service in readers {
                let handled = self.by_key(topic, service);
                ensure!(handled.len() == wanted, "{service} has handled {} of {wanted} of {topic}", handled.len());
                let unsaid = handled.values().find(|all| all.iter().filter(|d| !d.says_again()).count() > 1);
                ensure!(unsaid.is_none(), "came twice, and did not say so: {unsaid:?}");
            }
        }
        for n in 0..self.essays {
            let essay = super::essay(&self.batch, n);
            let times = self.assessments.get(&essay).copied().unwrap_or_default();
            ensure!(times == 1, "{essay} was assessed {times} times");
        }
        ensure!(self.assessments.len() == self.essays, "{} essays were assessed", self.assessments.len());
        Ok(())
    }

    /// Records that were copies.
    #[must_use]
    pub fn duplicates(&self) -> usize {
        self.topics.values().map(|topic| topic.records - topic.events.len()).sum()
    }

    /// Records in all.
    #[must_use]
    pub fn records(&self) -> usize {
        self.topics.values().map(|topic| topic.records).sum()
    }

    /// Deliveries beyond the first of each event.
    #[must_use]
    pub fn second(&self) -> usize {
        let events: BTreeSet<_> = self.deliveries.iter().map(|d| (&d.service, &d.key)).collect();
        self.deliveries.len() - events.len()
    }

    /// One line for each event type and service that reads it, and what it came to.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_header(["event type", "events", "duplicates", "read by", "handled", "second deliveries"]);
        for topic in TOPICS {
            let Topic { events, records } = &self.topics[topic];
            for service in self.readers.get(topic).into_iter().flatten() {
                let handled = self.by_key(topic, service);
                let deliveries: usize = handled.values().map(Vec::len).sum();
                table.add_row([
                    topic.to_owned(),
                    events.len().to_string(),
                    (records - events.len()).to_string(),
                    service.clone(),
                    handled.len().to_string(),
                    (deliveries - handled.len()).to_string(),
                ]);
            }
        }
        for column in [1, 2, 4, 5] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let once = self.assessments.values().filter(|times| **times == 1).count();
        let all = if once == self.essays { "all".to_owned() } else { format!("{once} of {}", self.essays) };
        let share = 100 * self.duplicates() / self.records().max(1);
        format!(
            "{table}\n{} records, {share} % of them duplicates; {} second deliveries; essays assessed once: {all}",
            self.records(),
            self.second()
        )
    }

    /// A service's deliveries of one topic's events.
    fn by_key(&self, topic: &str, service: &str) -> BTreeMap<&str, Vec<&Delivery>> {
        let mut found = BTreeMap::<_, Vec<_>>::new();
        for delivery in self.deliveries.iter().filter(|d| d.kind == topic && d.service == service) {
            found.entry(delivery.key.as_str()).or_default().push(delivery);
        }
        found
    }
}

/// What an event is about. It stands for the event here, so that nothing hangs on how the sidecar computes its id: were `data` not the
/// same at a second attempt of what published it, there would be more keys than this.
fn about(record: &Read) -> anyhow::Result<String> {
    let envelope: Value = serde_json::from_slice(record.value.as_deref().context("no value")?)?;
    let entity = envelope["data"]["metadata"]["entity"]["entity_id"].as_str().context("no entity")?;
    let phase = envelope["data"]["phase"].as_str().unwrap_or_default();
    Ok(format!("{entity} {phase}"))
}
