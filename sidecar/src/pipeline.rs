//! Decides what happens to a record between reading and committing, and in which order: owns the one-way order of the steps.
//! Pure: inputs are method calls, outputs are [`Effect`]s; [`crate::run`] performs them.
//!
//! A record becomes an entry. Entries stand in queues: what must wait for what (`ordering`). The head of a queue is delivered
//! first; claims run ahead of deliveries, completions behind them.
//!
//! # Guarantees
//! - Only a settled record's offset passes the watermark.
//! - While the head of a queue waits, the queue holds no claim behind it, so that no two queues wait on each other.
//! - No delivery starts while the app is down, the consumer is paused or drains, or its partition is being revoked.
//!
//! # Assumptions
//! - Each [`Effect::Deliver`] is answered once by [`Pipeline::delivered`], each [`Effect::Copy`] by [`Pipeline::copied`].

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crds::config::{BackoffConfig, Ordering, SidecarConfig};
use crds::status::Counters;
use rand::Rng;
use slab::Slab;

use crate::claim::{Claim, Key, KeyPrefix, LONGEST_TYPE};
use crate::clock::Time;
use crate::dead_letter::DeadLetter;
use crate::deliver::Parcel;
use crate::event_id::Identity;
use crate::gate::{Gate, Past, Terms, Ticket, Verdict};
use crate::kafka::{Arrival, CommitRequest};
use crate::record::{Offset, Record, TopicPartition};

mod copy;
mod delivery;
mod flow;
mod partition;
mod queue;
mod report;

use copy::Copy;
use delivery::Delivery;
use flow::Flow;
use partition::{Partition, Revocation};
use queue::Queue;
pub use report::{Finding, Load};

/// Claims that run ahead of the deliveries of one queue.
const CLAIMS_AHEAD: usize = 128;

/// Key prefixes that are kept rendered; event types are few, and a stranger's can't fill the memory: neither many nor long ones.
const PREFIXES: usize = 1_024;

/// How the pipeline works.
#[derive(Clone, Debug)]
pub struct PipelineConfig {
    /// The consumer group.
    pub group: String,
    /// Template of the keys.
    pub key_prefix: String,
    /// How long an event is remembered.
    pub ttl: Duration,
    /// The same by event type, where it differs.
    pub ttl_overrides: BTreeMap<String, Duration>,
    /// What must wait for what.
    pub ordering: Ordering,
    /// Requests under way at once, at most.
    pub concurrency: usize,
    /// Events in one request, at most.
    pub batch: usize,
    /// Pause after a failed delivery.
    pub backoff: BackoffConfig,
    /// Requests for one event after which it becomes a dead letter.
    pub max_attempts: Option<u32>,
    /// Topic for dead letters.
    pub dead_letter_topic: Option<Arc<str>>,
    /// Topic for copies of skipped records.
    pub duplicates_topic: Option<Arc<str>>,
    /// How long the app may be down before the group is left.
    pub app_down_timeout: Duration,
    /// How long deliveries under way are waited for.
    pub drain_timeout: Duration,
    /// How often offsets are committed.
    pub commit_every: Duration,
    /// Nothing is delivered at all.
    pub paused: bool,
}

impl From<&SidecarConfig> for PipelineConfig {
    fn from(config: &SidecarConfig) -> Self {
        let delivery = &config.delivery;
        let topic = |name: &Option<String>| name.as_deref().map(Arc::from);
        Self {
            group: config.group.clone(),
            key_prefix: config.key_prefix.clone(),
            ttl: config.ttl.get(),
            ttl_overrides: config.ttl_overrides.iter().map(|(event, ttl)| (event.clone(), ttl.get())).collect(),
            ordering: delivery.ordering,
            concurrency: delivery.concurrency,
            batch: delivery.batch.max_events,
            backoff: delivery.backoff.clone(),
            max_attempts: delivery.max_attempts,
            dead_letter_topic: topic(&delivery.dead_letter_topic),
            duplicates_topic: topic(&delivery.duplicates_topic),
            app_down_timeout: delivery.app_down_timeout.get(),
            drain_timeout: config.drain_timeout.get(),
            commit_every: Duration::from_millis(250),
            paused: config.paused,
        }
    }
}

/// What the pipeline asks of the outside.
#[derive(Debug)]
pub enum Effect {
    /// Send this request to the app.
    Deliver {
        /// Names the request in [`Pipeline::delivered`].
        id: usize,
        /// Its events.
        parcels: Vec<Parcel>,
    },
    /// Write this copy of a record to a topic.
    Copy {
        /// Names the copy in [`Pipeline::copied`].
        id: usize,
        /// The topic.
        topic: Arc<str>,
        /// The record.
        record: Arc<Record>,
        /// Where it comes from, and why.
        about: Box<DeadLetter>,
    },
    /// Commit these offsets.
    Commit(Vec<CommitRequest>),
    /// These partitions may go: commit their offsets, then give them up.
    FinishRevoke {
        /// The partitions.
        partitions: Vec<TopicPartition>,
        /// Their last offsets.
        commits: Vec<CommitRequest>,
    },
    /// There is room again for so many records and bytes.
    Room {
        /// The partition that was read from.
        partition: TopicPartition,
        /// Its assignment.
        epoch: u64,
        /// Records.
        records: usize,
        /// Bytes.
        bytes: usize,
    },
    /// Join the consumer group.
    Join,
    /// Leave it.
    Leave,
    /// Tell by [`Pipeline::app_accepts`] when the app accepts a connection; with `restarted`, only once it was seen down before.
    WatchApp {
        /// The app that listens now doesn't count.
        restarted: bool,
    },
    /// A drain has ended. `remaining` deliveries were still under way when its time was over.
    Drained {
        /// Events under way that are not settled.
        remaining: usize,
        /// Ids that the store does not know to be done yet.
        unwritten: usize,
        /// What is settled is known to be committed.
        committed: bool,
    },
}

/// A record on its way.
#[derive(Debug)]
struct Entry {
    /// Its partition; `None` once that was given up while the entry was under way.
    partition: Option<usize>,
    /// Its queue; `None` once it has left it.
    queue: Option<usize>,
    offset: Offset,
    record: Arc<Record>,
    identity: Arc<Identity>,
    key: Key,
    terms: Terms,
    phase: Phase,
    /// Deliveries that failed.
    failures: u32,
    /// Requests that reached the app, or may have. The gate forgets them when the event is withdrawn, as when the app is down.
    requests: u32,
    /// The highest attempt that was sent, and the end of the pause after it: for when the gate has forgotten, and the store too.
    past: Past,
    /// It goes into no larger batch.
    batch_cap: usize,
}

/// How far a record has come. The order is the one way through.
#[derive(Debug)]
enum Phase {
    /// Read.
    Queued,
    /// Asked for at the gate; `waiting` if it does not move by itself.
    Requested { waiting: bool },
    /// May be delivered.
    Claimed(Claim),
    /// With the app.
    Delivering(Claim),
    /// Its outcome is known; a copy is being written first.
    Copying,
    /// Its outcome is known; the gate is settling it.
    Settling,
    /// Settled.
    Gone,
}

impl Phase {
    /// Its outcome is known: the next in its queue may go.
    const fn passed(&self) -> bool {
        matches!(self, Self::Copying | Self::Settling | Self::Gone)
    }

    /// It counts against the claims that run ahead.
    const fn ahead(&self) -> bool {
        matches!(self, Self::Requested { waiting: false } | Self::Claimed(_))
    }
}

/// Everything between reading and committing.
pub struct Pipeline {
    config: PipelineConfig,
    gate: Gate,
    prefixes: HashMap<(Arc<str>, Arc<str>), Arc<KeyPrefix>>,
    entries: Slab<Entry>,
    queues: Slab<Queue>,
    partitions: Slab<Partition>,
    by_place: HashMap<TopicPartition, usize>,
    revocations: Vec<Revocation>,
    deliveries: Slab<Delivery>,
    copies: Slab<Copy>,
    /// Queues that may have something to move.
    touched: VecDeque<usize>,
    /// Queues whose head can be delivered.
    deliverable: VecDeque<usize>,
    /// Queues that wait until fewer claims run ahead.
    starved: VecDeque<usize>,
    ahead: usize,
    ahead_most: usize,
    /// Entries from delivery to settlement.
    busy: usize,
    flow: Flow,
    commit_due: Time,
    counters: Counters,
    tally: Tally,
    findings: report::Findings,
    effects: Vec<Effect>,
    rng: Box<dyn Rng + Send>,
}

/// What is counted beside [`Counters`], for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Tally {
    pub fallbacks: u64,
    pub delivered_full: u64,
    pub delivered_local: u64,
    pub delivered_none: u64,
    pub duplicates_copied: u64,
    pub revoked: u64,
    pub lost: u64,
    pub assigned: u64,
    pub commits: u64,
    pub commits_failed: u64,
    pub batches: u64,
    pub batched_events: u64,
}

impl Pipeline {
    /// A pipeline that waits for the app. Nothing is asked for before [`Pipeline::start`].
    #[must_use]
    pub fn new(config: PipelineConfig, gate: Gate, rng: impl Rng + Send + 'static, now: Time) -> Self {
        let ahead_most = match config.ordering {
            // There the window of each queue is the bound.
            Ordering::Partition => usize::MAX,
            Ordering::Key | Ordering::Unordered => (config.concurrency * config.batch * 4).max(1_024),
        };
        Self {
            flow: Flow::new(config.paused),
            config,
            gate,
            prefixes: HashMap::new(),
            entries: Slab::new(),
            queues: Slab::new(),
            partitions: Slab::new(),
            by_place: HashMap::new(),
            revocations: Vec::new(),
            deliveries: Slab::new(),
            copies: Slab::new(),
            touched: VecDeque::new(),
            deliverable: VecDeque::new(),
            starved: VecDeque::new(),
            ahead: 0,
            ahead_most,
            busy: 0,
            commit_due: now,
            counters: Counters::default(),
            tally: Tally::default(),
            findings: report::Findings::default(),
            effects: Vec::new(),
            rng: Box::new(rng),
        }
    }

    /// Begins: waits for the app.
    pub fn start(&mut self) {
        self.effects.push(Effect::WatchApp { restarted: false });
    }

    /// The gate, to take its operations and to answer them (then call [`Pipeline::advance`]).
    pub const fn gate(&mut self) -> &mut Gate {
        &mut self.gate
    }

    /// Takes records of a partition, in their order.
    pub fn arrived(&mut self, place: &TopicPartition, epoch: u64, arrivals: Vec<Arrival>) {
        let at = self.by_place.get(place).copied().filter(|at| self.partitions[*at].epoch == epoch);
        for arrival in arrivals {
            match at {
                Some(at) if !self.partitions[at].revoking => self.accept(at, arrival),
                _ => self.make_room(place.clone(), epoch, 1, arrival.record.size()),
            }
        }
    }

    /// Moves everything that can move: follows the gate's verdicts, claims, starts deliveries, commits.
    pub fn advance(&mut self, now: Time) {
        self.gate.poll(now);
        self.watch_flow(now);
        self.retry_copies(now);
        self.follow_verdicts(now);
        self.claim_for_starved(now);
        self.start_deliveries(now);
        self.follow_verdicts(now);
        self.finish_revocations(now);
        self.commit(now);
        self.finish_drain(now);
    }

    /// When [`Pipeline::advance`] has something to do next, if that is known.
    #[must_use]
    pub fn next_due(&self) -> Option<Time> {
        let commit =
            self.partitions.iter().any(|(_, p)| !p.revoking && p.commit().is_some()).then_some(self.commit_due);
        let copies = self.copies.iter().filter_map(|(_, copy)| copy.retry_at).min();
        let revocations = self.revocations.iter().map(|revocation| revocation.deadline).min();
        [self.gate.next_due(), commit, copies, revocations, self.flow.next_due(&self.config)]
            .into_iter()
            .flatten()
            .min()
    }

    /// What is to be done outside, in this order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// What was counted since the start.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What was counted beside.
    #[must_use]
    pub const fn tally(&self) -> &Tally {
        &self.tally
    }

    fn accept(&mut self, at: usize, arrival: Arrival) {
        let Arrival { record, identity } = arrival;
        if self.partitions[at].watermark.receive(record.offset).is_err() {
            // The broker repeats a record after a reset to an earlier offset: it is under way or settled already.
            return self.make_room(record.origin.clone(), self.partitions[at].epoch, 1, record.size());
        }
        self.partitions[at].first_offset(record.offset);
        self.counters.received += 1;
        self.tally.fallbacks += u64::from(identity.fallback);
        let (key, terms) = self.key_of(&record, &identity);
        let queue = self.queue_for(at, &record);
        let entry = self.entries.insert(Entry {
            partition: Some(at),
            queue: Some(queue),
            offset: record.offset,
            record,
            identity,
            key,
            terms,
            phase: Phase::Queued,
            failures: 0,
            requests: 0,
            past: Past::default(),
            batch_cap: self.config.batch,
        });
        self.queues[queue].entries.push_back(entry);
        self.touch(queue);
    }

    fn key_of(&mut self, record: &Record, identity: &Identity) -> (Key, Terms) {
        let config = &self.config;
        let (topic, event_type) = (&record.origin.topic, &identity.event_type);
        let ttl = config.ttl_overrides.get(event_type.as_ref()).copied().unwrap_or(config.ttl);
        let render = || KeyPrefix::render(&config.key_prefix, &config.group, topic, event_type);
        if event_type.len() > LONGEST_TYPE {
            return (render().key(&identity.id), Terms::new(ttl));
        }
        let place = (topic.clone(), event_type.clone());
        let prefix = self.prefixes.get(&place).cloned().unwrap_or_else(|| {
            let prefix = Arc::new(render());
            if self.prefixes.len() >= PREFIXES {
                self.prefixes.clear();
            }
            self.prefixes.insert(place, prefix.clone());
            prefix
        });
        (prefix.key(&identity.id), Terms::new(ttl))
    }

    /// Follows the gate's verdicts until nothing moves any more. Phases first, queues after: a queue is moved only when no
    /// verdict about its entries is pending.
    fn follow_verdicts(&mut self, now: Time) {
        loop {
            self.absorb_verdicts(now);
            let Some(queue) = self.touched.pop_front() else { break };
            if let Some(found) = self.queues.get_mut(queue) {
                found.touched = false;
                self.pump(queue, now);
            }
        }
    }

    fn absorb_verdicts(&mut self, now: Time) {
        while let Some(verdict) = self.gate.next_verdict() {
            match verdict {
                Verdict::Granted(ticket, claim) => {
                    self.set_phase(ticket, Phase::Claimed(claim));
                    self.touch_queue_of(ticket);
                }
                Verdict::Duplicate { ticket, suspect } => self.skip(ticket, suspect),
                Verdict::Reconsider(ticket) => self.reconsider(ticket),
                Verdict::Settled(ticket) => self.settled(ticket),
                Verdict::SessionChanged => self.reclaim(now),
            }
        }
    }

    fn touch(&mut self, queue: usize) {
        if let Some(found) = self.queues.get_mut(queue).filter(|queue| !queue.touched) {
            found.touched = true;
            self.touched.push_back(queue);
        }
    }

    fn touch_queue_of(&mut self, ticket: Ticket) {
        if let Some(queue) = self.entries[ticket].queue {
            self.touch(queue);
        }
    }

    fn reconsider(&mut self, ticket: Ticket) {
        // The verdict may be older than what has become of the entry since.
        if matches!(self.entries.get(ticket), Some(Entry { phase: Phase::Requested { .. }, .. })) {
            let waiting = self.waits(ticket);
            self.set_phase(ticket, Phase::Requested { waiting });
            self.touch_queue_of(ticket);
        }
    }

    /// Claims anew what was claimed under a session that is over.
    fn reclaim(&mut self, now: Time) {
        let current = self.gate.session(now);
        let void: Vec<Ticket> = self
            .entries
            .iter()
            .filter(|(_, entry)| matches!(&entry.phase, Phase::Claimed(claim) if claim.session() != current))
            .map(|(ticket, _)| ticket)
            .collect();
        for ticket in void {
            if let Phase::Claimed(claim) = self.set_phase(ticket, Phase::Requested { waiting: false }) {
                self.gate.claim_again(claim, now);
            }
        }
    }

    fn set_phase(&mut self, ticket: Ticket, phase: Phase) -> Phase {
        let entry = &mut self.entries[ticket];
        self.ahead = self.ahead + usize::from(phase.ahead()) - usize::from(entry.phase.ahead());
        std::mem::replace(&mut entry.phase, phase)
    }

    /// The event is settled for good: its offset may pass.
    fn settled(&mut self, ticket: Ticket) {
        self.not_busy(ticket);
        self.pass_offset(ticket);
    }

    fn pass_offset(&mut self, ticket: Ticket) {
        self.set_phase(ticket, Phase::Gone);
        let entry = &self.entries[ticket];
        if let Some(at) = entry.partition {
            let (offset, bytes) = (entry.offset, entry.record.size());
            let partition = &mut self.partitions[at];
            let before = partition.watermark.len();
            // An entry is settled once; what was never received has no entry.
            let _moved = partition.watermark.settle(offset);
            let passed = before - partition.watermark.len();
            let (place, epoch) = (partition.place.clone(), partition.epoch);
            self.make_room(place, epoch, passed, bytes);
        }
        self.forget_if_gone(ticket);
    }

    /// Drops an entry that is settled and has left its queue.
    fn forget_if_gone(&mut self, ticket: Ticket) {
        if self.entries.get(ticket).is_some_and(|entry| matches!(entry.phase, Phase::Gone) && entry.queue.is_none()) {
            self.entries.remove(ticket);
        }
    }

    fn make_room(&mut self, partition: TopicPartition, epoch: u64, records: usize, bytes: usize) {
        if let Some(Effect::Room { partition: last, epoch: same, records: r, bytes: b }) = self.effects.last_mut()
            && *last == partition
            && *same == epoch
        {
            *r += records;
            *b += bytes;
            return;
        }
        self.effects.push(Effect::Room { partition, epoch, records, bytes });
    }

    fn note_decision(&self, ticket: Ticket, decision: &'static str, attempt: Option<u32>) {
        let entry = &self.entries[ticket];
        tracing::debug!(
            topic = %entry.record.origin.topic,
            partition = entry.record.origin.partition,
            offset = entry.offset,
            key = %entry.key.text(),
            attempt,
            decision,
        );
    }
}

#[cfg(test)]
mod tests;
