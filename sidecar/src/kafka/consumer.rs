//! Decides how the pipeline talks to its member of the group: join, leave, commit, finish a revoke, pause, close. I/O.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{Consumer as _, StreamConsumer};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::budget::{Budget, Limits};
use super::commit::{self, Commits};
use super::context::{Context, list};
use super::group::{Command, Group};
use super::{CommitRequest, Events, Identify, KafkaError, config, topics};
use crate::record::TopicPartition;
use crate::settings::KafkaSettings;

/// How long a commit may hold up a revoke.
const REVOKE_COMMIT: Duration = Duration::from_secs(5);
/// Between two tries of it.
const REVOKE_RETRY: Duration = Duration::from_millis(100);

/// How a close ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The group was left: the others need not wait for the session time-out.
    Left,
    /// It took too long; it goes on in a thread of its own while the process lives.
    TimedOut,
}

/// Tasks that end with the consumer, also where it is dropped without a close.
struct Helpers([JoinHandle<()>; 2]);

impl Drop for Helpers {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// One member of a consumer group.
///
/// # Guarantees
/// - The group's queue is polled whatever the pipeline does, so a slow app never costs the membership.
/// - Records of a partition come in order, and only between its `Assigned` and its `Revoked` or `Lost`.
/// - Only assigned partitions are committed.
///
/// # Assumptions
/// - Every [`KafkaEvent::Revoked`](super::KafkaEvent::Revoked) is answered by [`Consumer::finish_revoke`]; until then the
///   group waits, and nothing is fetched for any partition.
/// - What arrives is given back to the [`Budget`].
pub struct Consumer {
    consumer: Arc<StreamConsumer<Context>>,
    budget: Arc<Budget>,
    commands: UnboundedSender<Command>,
    commits: UnboundedSender<Commits>,
    tasks: Helpers,
    group: JoinHandle<()>,
}

impl Consumer {
    /// Creates the client, outside of its group, and starts to look for the topics. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// [`KafkaError::Property`] or [`KafkaError::Client`] when librdkafka refuses the settings. An absent broker is no error.
    pub fn new(
        settings: &KafkaSettings,
        limits: Limits,
        identify: Identify,
        events: Events,
    ) -> Result<Self, KafkaError> {
        let (rebalances, asked) = unbounded_channel();
        let (commands, commanded) = unbounded_channel();
        let (commits, to_commit) = unbounded_channel();
        let (answers, answered) = unbounded_channel();
        let context = Context::new(&settings.topics, events.clone(), rebalances);
        let table = Arc::clone(&context.table);
        let consumer: StreamConsumer<Context> =
            config::consumer(settings).create_with_context(context).map_err(|e| config::creation_error(e, settings))?;
        let consumer = Arc::new(consumer);
        let budget = Arc::new(Budget::new(limits));
        let group = Group {
            consumer: Arc::clone(&consumer),
            topics: settings.topics.clone(),
            budget: Arc::clone(&budget),
            identify,
            events: events.clone(),
            readers: HashMap::new(),
            revokes: Vec::new(),
            epoch: 0,
            leaving: false,
            commits: commits.clone(),
            answers,
            lookups: Vec::new(),
        };
        let tasks = Helpers([
            tokio::spawn(commit::run(Arc::clone(&consumer), table, to_commit, events.clone())),
            tokio::spawn(topics::run(Arc::clone(&consumer), settings.topics.clone(), events)),
        ]);
        let group = tokio::spawn(group.run(commanded, asked, answered));
        Ok(Self { consumer, budget, commands, commits, tasks, group })
    }

    /// Where room is given back.
    #[must_use]
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Joins the group. Missing topics are joined when they appear.
    ///
    /// # Errors
    /// [`KafkaError::Call`] when librdkafka refuses the topics' names, [`KafkaError::Closed`] after its end.
    pub async fn join(&self) -> Result<(), KafkaError> {
        let (reply, joined) = oneshot::channel();
        self.commands.send(Command::Join { reply }).map_err(|_| KafkaError::Closed)?;
        joined.await.map_err(|_| KafkaError::Closed)?.map_err(KafkaError::Call)
    }

    /// Starts to leave the group: leads to `Revoked` of all partitions, and to `Left` when they are finished. It can be
    /// joined again at any time.
    pub fn leave(&self) {
        let _ = self.commands.send(Command::Leave);
    }

    /// Commits watermarks; the answers come as events. A newer one of a partition replaces one that was not sent yet.
    pub fn commit(&self, requests: Vec<CommitRequest>) {
        if !requests.is_empty() {
            let _ = self.commits.send(Commits { requests, reply: None });
        }
    }

    /// Commits the last watermarks of revoked partitions, at most 5 s long, and then gives the partitions back. A revoke may
    /// be finished in parts: librdkafka is answered with the last one.
    pub async fn finish_revoke(&self, partitions: Vec<TopicPartition>, commits: Vec<CommitRequest>) {
        let end = Instant::now() + REVOKE_COMMIT;
        while !commits.is_empty() {
            let (reply, done) = oneshot::channel();
            let _ = self.commits.send(Commits { requests: commits.clone(), reply: Some(reply) });
            match timeout_at(end, done).await {
                Ok(Ok(errors)) if errors.is_empty() => break,
                Ok(Ok(_)) if Instant::now() + REVOKE_RETRY < end => sleep(REVOKE_RETRY).await,
                _ => break,
            }
        }
        let (reply, done) = oneshot::channel();
        let _ = self.commands.send(Command::FinishRevoke { partitions, reply });
        let _ = done.await;
    }

    /// Stops fetching these partitions. What is read ahead inside librdkafka is dropped, and read again after the resume;
    /// at most one event that was on its way still comes. The pause ends with the assignment.
    ///
    /// # Errors
    /// [`KafkaError::Call`] when librdkafka does not know a partition.
    pub fn pause(&self, partitions: &[TopicPartition]) -> Result<(), KafkaError> {
        self.consumer.pause(&list(partitions)).map_err(|e| KafkaError::Call(e.to_string()))
    }

    /// Fetches these partitions again.
    ///
    /// # Errors
    /// [`KafkaError::Call`] when librdkafka does not know a partition.
    pub fn resume(&self, partitions: &[TopicPartition]) -> Result<(), KafkaError> {
        self.consumer.resume(&list(partitions)).map_err(|e| KafkaError::Call(e.to_string()))
    }

    /// Leaves the group at once, open revokes or not, and ends the client.
    pub async fn close(self, bound: Duration) -> Closed {
        let end = Instant::now() + bound;
        let Self { consumer, commands, commits, tasks, group, .. } = self;
        drop((commands, commits, tasks));
        let ended = timeout_at(end, async {
            let _ = group.await;
        });
        if ended.await.is_err() {
            tracing::warn!("the group task did not end in time");
        }
        let (reply, closed) = oneshot::channel();
        // The last reference leaves the group in its destructor, which blocks; one may still be inside a blocking call.
        std::thread::spawn(move || {
            let consumer = consumer;
            while Arc::strong_count(&consumer) > 1 && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(2));
            }
            drop(consumer);
            let _ = reply.send(());
        });
        match timeout_at(end, closed).await {
            Ok(_) => Closed::Left,
            Err(_) => Closed::TimedOut,
        }
    }
}
