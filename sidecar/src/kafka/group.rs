//! Decides how the assignment changes: one task owns it, polls the group's queue, starts and stops readers. I/O.
//!
//! librdkafka asks by a callback and then waits for a call, not for the callback's return: in join states `wait-assign-call` and
//! `wait-unassign-call` it keeps sending heartbeats and skips further rebalances, for up to `max.poll.interval.ms`, which polls
//! restart. So the callback only queues the question here, and a revoke is answered when the pipeline has finished.
//! While it waits, librdkafka fetches nothing, also for the partitions that stay: they run from what was read ahead.
//!
//! Where offsets lose their meaning within an assignment (the log was cut off, the committed offset was another topic's), the
//! partition is *renewed*: lost, assigned again, and read from its beginning. An offset that goes back within one assignment is
//! a repeat, and is dropped.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::stream_consumer::StreamPartitionQueue;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::error::KafkaError as RdError;
use rdkafka::topic_partition_list::{Offset as RdOffset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::commit::Commits;
use super::context::{Context, Held, ReadTopic, Rebalance, assign, list, unassign};
use super::lookup::{Committed, Standing, judge, look};
use super::reader::Reader;
use super::{Budget, Events, Identify, KafkaEvent};
use crate::record::{Offset, TopicPartition};

/// What the group task is asked.
#[derive(Debug)]
pub(super) enum Command {
    Join { reply: oneshot::Sender<Result<(), String>> },
    Leave,
    FinishRevoke { partitions: Vec<TopicPartition>, reply: oneshot::Sender<()> },
}

/// Between two looks whether librdkafka has told a topic's id, and how often: then the broker has none.
const ID_AWAITED: (Duration, u32) = (Duration::from_millis(50), 40);
/// Between two tries to go back to a partition's beginning, and how often: librdkafka may be about to start it.
const SEEK: (Duration, u32) = (Duration::from_millis(100), 100);

/// What comes back from what the group task has asked.
#[derive(Debug)]
pub(super) enum Answer {
    /// In which topics the offsets of an assignment were committed; how often that was judged in vain.
    Looked { epoch: u64, committed: Vec<Committed>, tries: u32 },
    /// The partition stands at its beginning, or will not.
    Sought { partition: TopicPartition, epoch: u64, error: Option<String> },
}

/// The group task's state.
pub(super) struct Group {
    pub(super) consumer: Arc<StreamConsumer<Context>>,
    pub(super) topics: Vec<String>,
    pub(super) budget: Arc<Budget>,
    pub(super) identify: Identify,
    pub(super) events: Events,
    pub(super) readers: HashMap<TopicPartition, JoinHandle<()>>,
    /// Revokes that librdkafka waits for: all their partitions, and those which the pipeline has not finished.
    pub(super) revokes: Vec<(Vec<TopicPartition>, Vec<TopicPartition>)>,
    pub(super) epoch: u64,
    pub(super) leaving: bool,
    /// To commit what was held back.
    pub(super) commits: UnboundedSender<Commits>,
    pub(super) answers: UnboundedSender<Answer>,
    /// Tasks that ask something; they end with the group task.
    pub(super) lookups: Vec<JoinHandle<()>>,
}

impl Group {
    /// Runs until the consumer's handle is gone; then gives everything back, without waiting for the pipeline.
    pub(super) async fn run(
        mut self,
        mut commands: UnboundedReceiver<Command>,
        mut rebalances: UnboundedReceiver<Rebalance>,
        mut answers: UnboundedReceiver<Answer>,
    ) {
        let consumer = Arc::clone(&self.consumer);
        loop {
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => break,
                },
                Some(asked) = rebalances.recv() => self.rebalance(asked).await,
                Some(answer) = answers.recv() => self.answer(answer).await,
                message = consumer.recv() => match message {
                    // The partition queues are split off before the assignment, and librdkafka leaves a queue that the
                    // application has forwarded alone. A record here would overtake or be overtaken.
                    Ok(message) => {
                        use rdkafka::Message as _;
                        self.tell(KafkaEvent::Fatal(format!(
                            "a record of {}/{} came outside of its partition's queue", message.topic(), message.partition()
                        )));
                    }
                    Err(error) => self.error(&error),
                },
            }
        }
        for lookup in self.lookups.drain(..) {
            lookup.abort();
        }
        consumer.context().close();
        for (_, reader) in self.readers.drain() {
            stop(reader).await;
        }
        while let Ok(asked) = rebalances.try_recv() {
            match asked {
                Rebalance::Assign(partitions) => self.call("assign", assign(&*consumer, &list(&partitions))),
                Rebalance::Revoke { partitions, .. } => self.revokes.push((partitions, Vec::new())),
                Rebalance::Reset { .. } => {}
            }
        }
        for (partitions, _) in std::mem::take(&mut self.revokes) {
            self.call("unassign", unassign(&*consumer, &list(&partitions)));
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Join { reply } => {
                self.leaving = false;
                let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
                let _ = reply.send(self.consumer.subscribe(&topics).map_err(|e| e.to_string()));
            }
            Command::Leave => {
                self.leaving = true;
                self.consumer.unsubscribe();
                self.left();
            }
            Command::FinishRevoke { partitions, reply } => {
                self.finish_revoke(&partitions);
                let _ = reply.send(());
            }
        }
    }

    async fn rebalance(&mut self, asked: Rebalance) {
        match asked {
            Rebalance::Assign(partitions) => self.assign(partitions).await,
            Rebalance::Reset { partition, from } => self.renew(partition, None, from).await,
            Rebalance::Revoke { partitions, lost } => {
                for partition in &partitions {
                    if let Some(reader) = self.readers.remove(partition) {
                        stop(reader).await;
                    }
                }
                self.revokes.push((partitions.clone(), partitions.clone()));
                if lost {
                    self.tell(KafkaEvent::Lost(partitions.clone()));
                    self.finish_revoke(&partitions);
                } else if partitions.is_empty() {
                    self.finish_revoke(&partitions);
                } else {
                    self.tell(KafkaEvent::Revoked(partitions));
                }
            }
        }
    }

    /// Queues are split off before librdkafka starts to fetch, so every record comes through its partition's queue.
    async fn assign(&mut self, partitions: Vec<TopicPartition>) {
        self.epoch += 1;
        let epoch = self.epoch;
        let mut queues = Vec::with_capacity(partitions.len());
        for partition in &partitions {
            // Two queue objects for one partition would take each other's wake-ups.
            if let Some(reader) = self.readers.remove(partition) {
                stop(reader).await;
            }
            let Some(queue) = self.split(partition) else { continue };
            self.hold(partition.clone(), ReadTopic::Open);
            queues.push((partition.clone(), queue));
        }
        let list = list(&partitions);
        if !partitions.is_empty() {
            // A pause outlives an assignment in librdkafka; whether this one is paused is for the pipeline to say.
            self.call("resume", self.consumer.resume(&list));
            self.tell(KafkaEvent::Assigned { partitions: partitions.clone(), epoch });
        }
        for (partition, queue) in queues {
            self.read(partition, queue);
        }
        self.call("assign", assign(&*self.consumer, &list));
        if !partitions.is_empty() {
            self.look_up(partitions);
        }
    }

    /// The partition's own queue, so that every record of it comes through there.
    fn split(&self, partition: &TopicPartition) -> Option<StreamPartitionQueue<Context>> {
        let queue = self.consumer.split_partition_queue(&partition.topic, partition.partition);
        if queue.is_none() {
            self.tell(KafkaEvent::Fatal(format!("{partition} has no queue")));
        }
        queue
    }

    /// Holds a partition under the number of the present assignment.
    fn hold(&self, partition: TopicPartition, topic: ReadTopic) {
        self.budget.open(partition.clone(), self.epoch);
        self.consumer.context().table.insert(partition, Held { epoch: self.epoch, topic });
    }

    fn read(&mut self, partition: TopicPartition, queue: StreamPartitionQueue<Context>) {
        let reader = Reader {
            partition: partition.clone(),
            epoch: self.epoch_of(&partition),
            queue,
            consumer: Arc::clone(&self.consumer),
            budget: Arc::clone(&self.budget),
            events: self.events.clone(),
        };
        self.readers.insert(partition, reader.spawn(&self.identify));
    }

    fn epoch_of(&self, partition: &TopicPartition) -> u64 {
        self.consumer.context().table.get(partition).map_or(0, |held| held.epoch)
    }

    /// Asks in which topics the offsets were committed that reading starts at.
    fn look_up(&mut self, partitions: Vec<TopicPartition>) {
        let (consumer, answers, epoch) = (Arc::clone(&self.consumer), self.answers.clone(), self.epoch);
        self.ask(async move {
            if let Some(committed) = look(consumer, partitions).await {
                let _ = answers.send(Answer::Looked { epoch, committed, tries: 0 });
            }
        });
    }

    fn ask(&mut self, lookup: impl Future<Output = ()> + Send + 'static) {
        self.lookups.retain(|lookup| !lookup.is_finished());
        self.lookups.push(tokio::spawn(lookup));
    }

    async fn answer(&mut self, answer: Answer) {
        match answer {
            Answer::Looked { epoch, committed, tries } => self.looked(epoch, committed, tries).await,
            Answer::Sought { partition, epoch, error } => {
                if !self.consumer.context().table.holds(&partition, epoch) || self.is_revoked(&partition) {
                    return;
                }
                match error {
                    None => {
                        if let Some(queue) = self.split(&partition) {
                            self.read(partition, queue);
                        }
                    }
                    Some(error) => self.tell(KafkaEvent::Fatal(format!("{partition} can't be read anew: {error}"))),
                }
            }
        }
    }

    /// The ids are compared here, by the task in which librdkafka's lines are read: a topic that changes before is another
    /// one here, and one that changes after is told while it is held.
    async fn looked(&mut self, epoch: u64, committed: Vec<Committed>, tries: u32) {
        let mut open = Vec::new();
        for committed in committed {
            let partition = &committed.partition;
            let held = self.consumer.context().table.get(partition);
            if held.is_none_or(|held| held.epoch != epoch || held.topic != ReadTopic::Open) {
                continue;
            }
            let id = self.consumer.context().ids.get(&partition.topic);
            match (judge(committed.topic_id.as_deref(), id.as_ref()), id) {
                (Standing::Open, _) if tries < ID_AWAITED.1 || committed.topic_id.is_some() => open.push(committed),
                (Standing::Foreign, Some(id)) => {
                    let was = committed.topic_id.unwrap_or_default();
                    let message = format!(
                        "the committed offset was another topic's: its id was {was}, and the one that is there now has {id}"
                    );
                    tracing::warn!(%partition, message, "reading starts at the earliest record");
                    self.tell(KafkaEvent::OffsetReset { partition: partition.clone(), message });
                    self.renew(committed.partition, Some(ReadTopic::Known(id)), None).await;
                }
                (_, id) => {
                    let topic = id.map_or(ReadTopic::Nameless, ReadTopic::Known);
                    self.consumer.context().table.insert(committed.partition, Held { epoch, topic });
                }
            }
        }
        if open.is_empty() {
            let _ = self.commits.send(Commits { requests: Vec::new(), reply: None });
            return;
        }
        let answers = self.answers.clone();
        self.ask(async move {
            tokio::time::sleep(ID_AWAITED.0).await;
            let _ = answers.send(Answer::Looked { epoch, committed: open, tries: tries.saturating_add(1) });
        });
    }

    /// Gives a partition up and takes it again: what was read means something else by now, and nothing of it may be committed.
    /// Reading starts at the beginning, or where the log is another `from` an offset on, there or at the committed offset.
    async fn renew(&mut self, partition: TopicPartition, topic: Option<ReadTopic>, from: Option<Offset>) {
        let Some(held) = self.consumer.context().table.get(&partition) else { return };
        if self.is_revoked(&partition) {
            return;
        }
        if let Some(reader) = self.readers.remove(&partition) {
            stop(reader).await;
        }
        self.tell(KafkaEvent::Lost(vec![partition.clone()]));
        self.epoch += 1;
        let still_open = topic.is_none() && held.topic == ReadTopic::Open;
        self.hold(partition.clone(), topic.unwrap_or(held.topic));
        self.tell(KafkaEvent::Assigned { partitions: vec![partition.clone()], epoch: self.epoch });
        if still_open {
            self.look_up(vec![partition.clone()]);
        }
        let (consumer, answers, epoch) = (Arc::clone(&self.consumer), self.answers.clone(), self.epoch);
        self.ask(async move {
            let error = go_back(&consumer, &partition, epoch, from).await.err();
            let _ = answers.send(Answer::Sought { partition, epoch, error });
        });
    }

    fn is_revoked(&self, partition: &TopicPartition) -> bool {
        self.revokes.iter().any(|(_, open)| open.contains(partition))
    }

    /// Answers librdkafka when every partition of a revoke is finished.
    fn finish_revoke(&mut self, partitions: &[TopicPartition]) {
        for (_, open) in &mut self.revokes {
            open.retain(|p| !partitions.contains(p));
        }
        let (done, open) = std::mem::take(&mut self.revokes).into_iter().partition(|(_, open)| open.is_empty());
        self.revokes = open;
        let done: Vec<_> = done;
        for (partitions, _) in done {
            for partition in &partitions {
                self.consumer.context().table.remove(partition);
                self.budget.forget(partition);
            }
            self.call("unassign", unassign(&*self.consumer, &list(&partitions)));
        }
        self.left();
    }

    fn left(&self) {
        if self.leaving && self.consumer.context().table.is_empty() {
            self.tell(KafkaEvent::Left);
        }
    }

    fn error(&self, error: &RdError) {
        match error.rdkafka_error_code() {
            // Missing topics and absent brokers are told by `Topics` and `Brokers`.
            Some(
                Code::UnknownTopicOrPartition
                | Code::UnknownTopic
                | Code::AllBrokersDown
                | Code::BrokerTransportFailure
                | Code::Resolve,
            ) => tracing::debug!(%error, "kafka"),
            _ if matches!(error, RdError::MessageConsumptionFatal(_)) => {
                self.tell(KafkaEvent::Fatal(error.to_string()))
            }
            Some(Code::Fatal) => self.tell(KafkaEvent::Fatal(error.to_string())),
            _ => self.tell(KafkaEvent::Problem { partition: None, message: error.to_string() }),
        }
    }

    /// librdkafka refuses these calls only in a state that we do not know how to leave.
    fn call(&self, what: &str, done: rdkafka::error::KafkaResult<()>) {
        if let Err(error) = done {
            self.tell(KafkaEvent::Fatal(format!("{what} was refused: {error}")));
        }
    }

    fn tell(&self, event: KafkaEvent) {
        let _ = self.events.send(event);
    }
}

/// Everything that was read ahead is dropped with it.
async fn go_back(
    consumer: &Arc<StreamConsumer<Context>>,
    partition: &TopicPartition,
    epoch: u64,
    from: Option<Offset>,
) -> Result<(), String> {
    let mut to = RdOffset::Beginning;
    if let Some(from) = from
        && let Some(found) = look(Arc::clone(consumer), vec![partition.clone()]).await
        && let Some(committed) = found.first().and_then(|committed| committed.offset)
    {
        // What was read and is not settled comes again too.
        to = RdOffset::Offset(committed.min(from));
    }
    let mut tries = 0;
    loop {
        let (seeker, place) = (Arc::clone(consumer), partition.clone());
        let sought = tokio::task::spawn_blocking(move || {
            let mut list = TopicPartitionList::with_capacity(1);
            list.add_partition_offset(&place.topic, place.partition, to)?;
            let list = seeker.seek_partitions(list, Duration::from_secs(5))?;
            list.elements().iter().try_for_each(rdkafka::topic_partition_list::TopicPartitionListElem::error)
        });
        let error = match sought.await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tries += 1;
        if tries >= SEEK.1 || !consumer.context().table.holds(partition, epoch) {
            return Err(error);
        }
        tokio::time::sleep(SEEK.0).await;
    }
}

/// Ends a reader; when this returns it sends nothing more, and its queue is closed.
async fn stop(reader: JoinHandle<()>) {
    reader.abort();
    let _ = reader.await;
}
