//! Decides how the assignment changes: one task owns it, polls the group's queue, starts and stops readers. I/O.
//!
//! librdkafka asks by a callback and then waits for a call, not for the callback's return: in join states `wait-assign-call` and
//! `wait-unassign-call` it keeps sending heartbeats and skips further rebalances, for up to `max.poll.interval.ms`, which polls
//! restart. So the callback only queues the question here, and a revoke is answered when the pipeline has finished.
//! While it waits, librdkafka fetches nothing, also for the partitions that stay: they run from what was read ahead.

use std::collections::HashMap;
use std::sync::Arc;

use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::error::KafkaError as RdError;
use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::context::{Context, Rebalance, assign, list, unassign};
use super::reader::Reader;
use super::{Budget, Events, Identify, KafkaEvent};
use crate::record::TopicPartition;

/// What the group task is asked.
#[derive(Debug)]
pub(super) enum Command {
    Join { reply: oneshot::Sender<Result<(), String>> },
    Leave,
    FinishRevoke { partitions: Vec<TopicPartition>, reply: oneshot::Sender<()> },
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
}

impl Group {
    /// Runs until the consumer's handle is gone; then gives everything back, without waiting for the pipeline.
    pub(super) async fn run(
        mut self,
        mut commands: UnboundedReceiver<Command>,
        mut rebalances: UnboundedReceiver<Rebalance>,
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
        consumer.context().close();
        for (_, reader) in self.readers.drain() {
            stop(reader).await;
        }
        while let Ok(asked) = rebalances.try_recv() {
            match asked {
                Rebalance::Assign(partitions) => self.call("assign", assign(&*consumer, &list(&partitions))),
                Rebalance::Revoke { partitions, .. } => self.revokes.push((partitions, Vec::new())),
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
            let Some(queue) = self.consumer.split_partition_queue(&partition.topic, partition.partition) else {
                self.tell(KafkaEvent::Fatal(format!("{partition} has no queue")));
                continue;
            };
            self.budget.open(partition.clone(), epoch);
            self.consumer.context().table.insert(partition.clone(), epoch);
            queues.push((partition.clone(), queue));
        }
        let list = list(&partitions);
        if !partitions.is_empty() {
            // A pause outlives an assignment in librdkafka; whether this one is paused is for the pipeline to say.
            self.call("resume", self.consumer.resume(&list));
            self.tell(KafkaEvent::Assigned { partitions: partitions.clone(), epoch });
        }
        for (partition, queue) in queues {
            let reader = Reader {
                partition: partition.clone(),
                epoch,
                queue,
                budget: Arc::clone(&self.budget),
                events: self.events.clone(),
            };
            self.readers.insert(partition, reader.spawn(&self.identify));
        }
        self.call("assign", assign(&*self.consumer, &list));
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

/// Ends a reader; when this returns it sends nothing more, and its queue is closed.
async fn stop(reader: JoinHandle<()>) {
    reader.abort();
    let _ = reader.await;
}
