//! Decides nothing: performs what the pipeline asks for, and tells it what came of it. I/O.
//!
//! One loop owns the pipeline. Everything else (store round trips, requests to the app, copies, Kafka) runs in tasks that
//! answer into the loop's inbox.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crds::listen::listen;
use crds::status::SidecarStatus;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::admin::{Admin, Command, DrainReport};
use crate::claim::SessionId;
use crate::clock::Time;
use crate::deliver::cloudevent::event_names;
use crate::deliver::{Deliver, HttpDelivery, Parcel};
use crate::event_id::{Scratch, identify};
use crate::fail_point;
use crate::gate::{Gate, GateConfig, Token};
use crate::kafka::{Consumer, Extent, Identify, KafkaError, KafkaEvent, Limits, ProduceError, Producer};
use crate::metrics::Metrics;
use crate::metrics::labels::TopicLabel;
use crate::outcome::{self, Outcome};
use crate::pipeline::{Effect, Pipeline, PipelineConfig};
use crate::settings::Settings;
use crate::store::redis::RedisStore;
use crate::store::{ClaimStore, Op, Reply, StoreError};

mod ending;
mod publish;
mod sessions_file;
mod watch_app;
mod watch_pause;

use ending::Ending;
use publish::Publisher;
use sessions_file::SessionsFile;

/// The loop turns at least this often: the heartbeat of `/livez`, and the status.
const TICK: Duration = Duration::from_secs(1);
/// No turn for so long means that the loop is stuck.
const STUCK: Duration = Duration::from_secs(30);
/// How much of the inbox is taken in one turn.
const TURN: usize = 256;
/// Round trips to the store that are under way at once, at most. What comes meanwhile goes together in the next: under load
/// that is many operations for the price of one. Only what keeps sessions alive does not wait for them.
const ROUND_TRIPS: usize = 2;

/// Why the sidecar ends other than drained.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The admin address can't be listened on.
    #[error("admin.bind: can't listen on {address}: {source}; choose a free address, for example `[::]:9464`")]
    Bind {
        /// The address.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The Kafka client can't be made.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The Redis client can't be made.
    #[error("redis: {0}")]
    Redis(String),
    /// The Kafka client is of no use any more.
    #[error("kafka: {0}")]
    Fatal(String),
    /// A topic was deleted and created again under the client.
    #[error("kafka: {0}; start the sidecar again, it reads the new topic from its beginning")]
    Recreated(String),
    /// The folder for the sessions can't be used.
    #[error("stateDir: {0}")]
    StateDir(std::io::Error),
    /// What is done is not known to those who have to know it, since they are away.
    #[error("{0}")]
    Unrecorded(&'static str),
    /// The time for draining was over before everything was settled.
    #[error("{0} events were still under way when drainTimeout was over: they come again, with a higher attempt")]
    Undrained(usize),
}

impl RunError {
    /// The exit code by `sysexits.h`.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Kafka(KafkaError::Property { .. }) | Self::Redis(_) => 64,
            Self::Bind { .. }
            | Self::Fatal(_)
            | Self::Recreated(_)
            | Self::Unrecorded(_)
            | Self::StateDir(_)
            | Self::Kafka(_) => 69,
            Self::Undrained(_) => 70,
        }
    }
}

/// Runs the sidecar until SIGTERM or SIGINT, and drains it. A second signal ends it at once. `kafka` is the runtime that reads.
///
/// # Errors
/// [`RunError`], whose [`RunError::exit_code`] is the process's.
pub async fn run(settings: Settings, kafka: &Handle) -> Result<(), RunError> {
    let terminated = terminated();
    let store = Arc::new(RedisStore::new(&settings.redis).map_err(|error| RunError::Redis(error.to_string()))?);
    let deliver = Arc::new(HttpDelivery::new(&settings.config.delivery));
    let inspected = store.clone();
    let service = Service::start(settings, store, deliver, kafka).await?;
    let inbox = service.inbox.clone();
    let inspection = tokio::spawn(publish::watch_eviction(inspected, inbox));
    let ended = service.serve(terminated).await;
    inspection.abort();
    ended
}

/// What comes in from the tasks.
#[derive(Debug)]
pub(crate) enum Input {
    Store {
        answers: Vec<(Token, Result<Reply, StoreError>)>,
        /// [`ClaimStore::changes`] by then.
        changes: u64,
    },
    Delivered {
        id: usize,
        outcomes: Vec<Outcome>,
    },
    Copied {
        id: usize,
        result: Result<(), ProduceError>,
    },
    Paused(bool),
    AppAccepts,
    AppTrouble(String),
    Eviction(Option<String>),
}

/// A running sidecar around any store and any way to the app.
pub struct Service {
    pipeline: Pipeline,
    store: Arc<dyn ClaimStore>,
    deliver: Arc<dyn Deliver>,
    batch: bool,
    consumer: Arc<Consumer>,
    producer: Arc<Producer>,
    metrics: Arc<Metrics>,
    publisher: Publisher,
    status: watch::Receiver<Arc<SidecarStatus>>,
    sessions_file: SessionsFile,
    inbox: UnboundedSender<Input>,
    inputs: UnboundedReceiver<Input>,
    kafka: UnboundedReceiver<KafkaEvent>,
    commands: mpsc::Receiver<Command>,
    /// Who waits for a drain.
    drains: Vec<oneshot::Sender<DrainReport>>,
    membership: UnboundedSender<bool>,
    member: JoinHandle<()>,
    app_watch: Option<JoinHandle<()>>,
    heartbeat: Arc<AtomicU64>,
    /// Round trips to the store that are under way.
    asked: usize,
    /// [`ClaimStore::changes`] that the gate knows of.
    changes: u64,
    ending: Ending,
    /// Why it ends, other than that it was asked to.
    failure: Option<RunError>,
    admin: JoinHandle<()>,
    settings: Settings,
}

impl Service {
    /// Binds the admin address and makes the Kafka client; nothing is consumed before [`Service::serve`]. Records are read,
    /// and identified, on `runtime`.
    ///
    /// # Errors
    /// [`RunError`] when the address, the client or the state folder can't be had.
    pub async fn start(
        settings: Settings,
        store: Arc<dyn ClaimStore>,
        deliver: Arc<dyn Deliver>,
        runtime: &Handle,
    ) -> Result<Self, RunError> {
        let config = &settings.config;
        let bind = &config.admin.bind;
        let bound = match bind.parse::<SocketAddr>() {
            Ok(address) => listen(address, TcpListener::bind::<SocketAddr>).await,
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidInput, error)),
        };
        let listener = bound.map_err(|source| RunError::Bind { address: bind.clone(), source })?;
        let sessions_file = SessionsFile::open(config.state_dir.as_deref()).map_err(RunError::StateDir)?;
        let now = Time::now();
        let gate = Gate::new(gate_config(&settings), sessions_file.inherited().to_vec(), Gate::random_ids(), now);
        let (inbox, inputs) = mpsc::unbounded_channel();
        let pipeline_config = PipelineConfig {
            paused: watch_pause::start(config.paused_file.clone(), config.paused, inbox.clone()),
            ..PipelineConfig::from(config)
        };
        let pipeline = Pipeline::new(pipeline_config, gate, SmallRng::from_rng(&mut rand::rng()), now);
        let (events, kafka) = mpsc::unbounded_channel();
        let buffer = &config.delivery.buffer;
        let limits = Limits { max_records: buffer.max_records, max_bytes: buffer.max_bytes };
        let consumer = {
            let _reading = runtime.enter();
            Arc::new(Consumer::new(&settings.kafka, limits, identifier(&settings), events)?)
        };
        let producer = Producer::new(settings.kafka.clone());
        let metrics = Metrics::new(&config.topics);
        let (publisher, status) = Publisher::new(metrics.clone());
        let (commander, commands) = mpsc::channel(16);
        let heartbeat = Arc::new(AtomicU64::new(millis(now)));
        let admin = Admin {
            status: status.clone(),
            metrics: metrics.clone(),
            commands: commander,
            drain_token: settings.drain_token.clone(),
            alive: alive(heartbeat.clone()),
        };
        if let Ok(address) = listener.local_addr() {
            tracing::info!(%address, "admin listening");
        }
        let admin = tokio::spawn(admin.serve(listener, std::future::pending()));
        let (membership, member) = keep_membership(consumer.clone());
        Ok(Self {
            batch: config.delivery.batch.max_events > 1,
            pipeline,
            store,
            deliver,
            consumer,
            producer,
            metrics,
            publisher,
            status,
            sessions_file,
            inbox,
            inputs,
            kafka,
            commands,
            drains: Vec::new(),
            membership,
            member,
            app_watch: None,
            heartbeat,
            asked: 0,
            changes: 0,
            ending: Ending::default(),
            failure: None,
            admin,
            settings,
        })
    }

    /// What the sidecar says of itself, as it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Arc<SidecarStatus>> {
        self.status.clone()
    }

    /// Consumes until `terminated`, then drains and leaves the group.
    ///
    /// # Errors
    /// [`RunError::Fatal`] when the Kafka client fails for good, [`RunError::Recreated`] when a topic is another than before,
    /// [`RunError::Undrained`] when the drain took too long, [`RunError::Unrecorded`] when Kafka or Redis was away at its end.
    pub async fn serve(mut self, terminated: impl Future<Output = ()>) -> Result<(), RunError> {
        let ended = self.consume(terminated).await;
        let failure = self.failure.take();
        self.close().await;
        tracing::info!("ended");
        failure.map_or(ended, Err)
    }

    /// Until it is drained, or can't go on.
    async fn consume(&mut self, terminated: impl Future<Output = ()>) -> Result<(), RunError> {
        let mut terminated = std::pin::pin!(terminated);
        let mut inputs = Vec::with_capacity(TURN);
        self.pipeline.start();
        loop {
            // Whoever is ready now goes first, so that a turn takes what many have done, not each thing by itself.
            tokio::task::yield_now().await;
            let now = Time::now();
            self.heartbeat.store(millis(now), Ordering::Relaxed);
            self.pipeline.advance(now);
            self.perform();
            // The session that is given up at the end is no loss to tell of.
            if !self.ending.is_closing() {
                self.publisher.publish(&mut self.pipeline, self.consumer.budget(), now);
            }
            if let Some(ended) = self.ending.step(&mut self.pipeline, &self.membership, now) {
                return ended.map_err(RunError::Undrained);
            }
            let due =
                [self.pipeline.next_due(), self.publisher.next_due(), Some(now + TICK)].into_iter().flatten().min();
            let due = due.map_or(TICK, |due| due.since(now));
            tokio::select! {
                () = &mut terminated, if !self.ending.has_begun() => {
                    tracing::info!("asked to end: draining");
                    self.ending.begin(&mut self.pipeline, Time::now());
                }
                Some(command) = self.commands.recv() => self.command(command),
                Some(event) = self.kafka.recv() => {
                    self.kafka_event(event)?;
                    for _ in 0..TURN {
                        let Ok(event) = self.kafka.try_recv() else { break };
                        self.kafka_event(event)?;
                    }
                }
                _ = self.inputs.recv_many(&mut inputs, TURN) => {
                    let now = Time::now();
                    for input in inputs.drain(..) {
                        self.input(input, now);
                    }
                }
                () = tokio::time::sleep(due) => {}
            }
        }
    }

    /// Ends what runs beside the loop. The client may take for ever where it has failed for good, so that has a bound.
    async fn close(self) {
        self.admin.abort();
        if let Some(watch) = self.app_watch {
            watch.abort();
        }
        drop(self.membership);
        // It lets go of the consumer, which could not be closed else.
        let _ = self.member.await;
        if let Ok(consumer) = Arc::try_unwrap(self.consumer) {
            consumer.close(Duration::from_secs(5)).await;
        }
        // Its last reference waits for a thread of librdkafka's, which may take long; nothing is in its queue that will not come again.
        let (dropped, gone) = oneshot::channel();
        std::thread::spawn(move || {
            drop(self.producer);
            let _ = dropped.send(());
        });
        let _ = tokio::time::timeout(Duration::from_secs(1), gone).await;
    }

    fn input(&mut self, input: Input, now: Time) {
        match input {
            Input::Store { answers, changes } => {
                self.asked -= 1;
                self.pipeline.gate().answered(answers, now);
                if changes > self.changes {
                    self.changes = changes;
                    self.pipeline.gate().store_changed();
                }
            }
            Input::Delivered { id, outcomes } => self.pipeline.delivered(id, outcomes, now),
            Input::Copied { id, result } => self.pipeline.copied(id, result, now),
            Input::Paused(paused) => self.pipeline.pause(paused, now),
            Input::AppAccepts => self.pipeline.app_accepts(now),
            Input::AppTrouble(trouble) => self.pipeline.app_unreachable(&trouble, now),
            Input::Eviction(danger) => self.pipeline.eviction(danger),
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Drain(reply) => {
                tracing::info!("drain asked for");
                self.drains.push(reply);
                self.pipeline.drain(false, Time::now());
            }
        }
    }

    fn kafka_event(&mut self, event: KafkaEvent) -> Result<(), RunError> {
        let (pipeline, now) = (&mut self.pipeline, Time::now());
        match event {
            KafkaEvent::Assigned { partitions, epoch } => pipeline.assigned(partitions, epoch),
            KafkaEvent::Records { partition, epoch, arrivals } => {
                let label = TopicLabel { topic: partition.topic.to_string() };
                self.metrics.records_received.get_or_create(&label).inc_by(arrivals.len() as u64);
                pipeline.arrived(&partition, epoch, arrivals);
            }
            KafkaEvent::Revoked(partitions) => pipeline.revoked(&partitions, now),
            KafkaEvent::Lost(partitions) => pipeline.lost(&partitions, now),
            KafkaEvent::Left => self.ending.left(),
            KafkaEvent::Committed { partition, offset, .. } => pipeline.committed(&partition, offset),
            KafkaEvent::CommitFailed { partition, offset, error, .. } => {
                tracing::debug!(%partition, offset, error, "a commit failed; it is tried again");
                pipeline.commit_failed(&partition, &error);
            }
            KafkaEvent::Topics { missing, partitions } => pipeline.topics_found(missing, partitions),
            KafkaEvent::Brokers { up, message } => pipeline.brokers((!up).then_some(message)),
            KafkaEvent::Lag(ends) => {
                for Extent { partition, end, committed } in ends {
                    pipeline.extent_of(&partition, end, committed);
                }
            }
            KafkaEvent::OffsetReset { partition, message } => pipeline.offset_reset(Some(&partition), &message, now),
            KafkaEvent::Problem { partition, message } => pipeline.problem(partition.as_ref(), message, now),
            KafkaEvent::Fatal(message) => return Err(RunError::Fatal(message)),
            KafkaEvent::Recreated { topic, message } => {
                tracing::error!(message, "draining, to start again with what is there now");
                pipeline.recreated(&topic, now);
                self.ending.begin(pipeline, now);
                self.failure.get_or_insert(RunError::Recreated(message));
            }
        }
        Ok(())
    }

    fn perform(&mut self) {
        // A successor must know of a session before its key exists.
        if let Some(sessions) = self.pipeline.gate().take_save()
            && let Err(error) = self.sessions_file.write(&sessions)
        {
            tracing::warn!(%error, "the sessions can't be written down: a restarted sidecar waits for their TTL");
        }
        let gate = self.pipeline.gate();
        let ops = if self.asked < ROUND_TRIPS { gate.take_ops() } else { gate.take_session_ops() };
        if !ops.is_empty() {
            self.asked += 1;
            self.ask_store(ops);
        }
        for effect in self.pipeline.take_effects() {
            self.perform_one(effect);
        }
    }

    fn perform_one(&mut self, effect: Effect) {
        match effect {
            Effect::Deliver { id, parcels } => self.send(id, parcels),
            Effect::Copy { id, topic, record, about } => {
                // Queued here, in the order of the records.
                let (written, inbox) = (self.producer.enqueue(topic, about.wrap(&record)), self.inbox.clone());
                tokio::spawn(async move {
                    let result = written.await;
                    let _ = inbox.send(Input::Copied { id, result });
                });
            }
            Effect::Commit(requests) => self.consumer.commit(requests),
            Effect::FinishRevoke { partitions, commits } => {
                let consumer = self.consumer.clone();
                tokio::spawn(async move { consumer.finish_revoke(partitions, commits).await });
            }
            Effect::Room { partition, epoch, records, bytes } => {
                self.consumer.budget().release(&partition, epoch, records, bytes);
            }
            Effect::Join => {
                let _ = self.membership.send(true);
            }
            Effect::Leave => {
                tracing::warn!("the app has been down for too long: leaving the consumer group until it is back");
                let _ = self.membership.send(false);
            }
            Effect::WatchApp { restarted } => self.watch_app(restarted),
            Effect::Drained { remaining, unwritten, committed } => self.drained(remaining, unwritten, committed),
        }
    }

    fn ask_store(&self, ops: Vec<(Token, Op)>) {
        let (store, inbox, metrics) = (self.store.clone(), self.inbox.clone(), self.metrics.clone());
        let (tokens, ops): (Vec<Token>, Vec<Op>) = ops.into_iter().unzip();
        let steps = fail_point::RoundTrip::of(&ops);
        tokio::spawn(async move {
            steps.unsent();
            let sent = Time::now();
            let replies = store.apply(ops).await;
            steps.answered();
            metrics.store_round_trip.observe(Time::now().since(sent).as_secs_f64());
            let answers = tokens.into_iter().zip(replies).collect();
            let _ = inbox.send(Input::Store { answers, changes: store.changes() });
        });
    }

    fn send(&self, id: usize, parcels: Vec<Parcel>) {
        let (deliver, inbox, metrics, batch) =
            (self.deliver.clone(), self.inbox.clone(), self.metrics.clone(), self.batch);
        metrics.batch_size.observe(parcels.len() as f64);
        tokio::spawn(async move {
            let sent = Time::now();
            let names = if batch { event_names(&parcels) } else { Vec::new() };
            fail_point::pass("delivery.unsent");
            let answer = deliver.deliver(parcels).await;
            fail_point::pass("delivery.answered");
            metrics.delivery_duration.observe(Time::now().since(sent).as_secs_f64());
            let outcomes =
                if batch { outcome::judge_batch(&answer, &names) } else { vec![outcome::judge_one(&answer)] };
            let _ = inbox.send(Input::Delivered { id, outcomes });
        });
    }

    fn watch_app(&mut self, restarted: bool) {
        if let Some(watch) = self.app_watch.take() {
            watch.abort();
        }
        let socket = self.settings.config.delivery.port.is_none().then(|| self.settings.config.delivery.socket.clone());
        let watch = watch_app::watch(self.deliver.clone(), socket, restarted, self.inbox.clone());
        self.app_watch = Some(tokio::spawn(watch));
    }

    fn drained(&mut self, remaining: usize, unwritten: usize, committed: bool) {
        tracing::info!(remaining, unwritten, committed, "drained");
        let message = match (remaining, unwritten, committed) {
            (0, 0, true) => "everything is settled and committed",
            (0, 0, false) => {
                "everything is settled, but Kafka has not taken every offset in time: what is done comes again and is skipped"
            }
            (0, _, _) => "everything is done, but Redis does not know it yet: if a duplicate comes, it is delivered",
            _ => "the time for draining is over; what is under way settles yet, or comes again",
        };
        if self.ending.has_begun() && remaining == 0 && (unwritten > 0 || !committed) {
            self.failure.get_or_insert(RunError::Unrecorded(message));
        }
        for waiting in self.drains.drain(..) {
            let settled = remaining == 0 && unwritten == 0 && committed;
            let report = DrainReport { settled, remaining: remaining as u64, message: message.to_owned() };
            let _ = waiting.send(report);
        }
        self.ending.drained(remaining);
    }
}

fn gate_config(settings: &Settings) -> GateConfig {
    let config = &settings.config;
    let longest = config.ttl_overrides.values().copied().chain([config.ttl]).max().unwrap_or(config.ttl);
    GateConfig {
        policy: config.redis.failure_policy,
        session_prefix: config.session.prefix.clone(),
        session_ttl: config.session.ttl.get(),
        done_values: config.done_values.clone(),
        longest_ttl: longest.get(),
    }
}

fn identifier(settings: &Settings) -> Identify {
    let rule = settings.config.event_id.clone();
    Arc::new(move || {
        let (rule, mut scratch) = (rule.clone(), Scratch::default());
        Box::new(move |record: &crate::record::Record| identify(record, &rule, &mut scratch))
    })
}

fn alive(heartbeat: Arc<AtomicU64>) -> Arc<dyn Fn() -> bool + Send + Sync> {
    let stuck = u64::try_from(STUCK.as_millis()).unwrap_or(u64::MAX);
    Arc::new(move || millis(Time::now()).saturating_sub(heartbeat.load(Ordering::Relaxed)) < stuck)
}

fn millis(now: Time) -> u64 {
    u64::try_from(now.since(Time::default()).as_millis()).unwrap_or(u64::MAX)
}

/// Joins and leaves the group, one after the other.
fn keep_membership(consumer: Arc<Consumer>) -> (UnboundedSender<bool>, JoinHandle<()>) {
    let (membership, mut wishes) = mpsc::unbounded_channel();
    let member = tokio::spawn(async move {
        while let Some(join) = wishes.recv().await {
            if join {
                if let Err(error) = consumer.join().await {
                    tracing::error!(%error, "the consumer group can't be joined");
                }
            } else {
                consumer.leave();
            }
        }
    });
    (membership, member)
}

/// Listens for SIGTERM and SIGINT from the call on. Ends with the first; from then on the next one ends the process at once.
///
/// Called before anything that takes time: as process 1 of a container, a signal that nobody listens for is lost, and the pod would
/// hang until its grace period is over.
fn terminated() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else { return std::future::pending().await };
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tokio::spawn(async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            tracing::warn!("asked twice: ending at once");
            std::process::exit(70);
        });
    }
}

/// The sessions of a predecessor, as the file names them.
pub(crate) fn parse_sessions(text: &str) -> Vec<SessionId> {
    text.lines().filter_map(SessionId::parse).collect()
}
