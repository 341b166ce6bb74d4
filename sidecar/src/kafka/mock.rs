//! Decides nothing: an embedded Kafka for the demo and for tests (librdkafka's mock cluster), on loopback only, in memory. I/O.
//!
//! It keeps 5 MiB a partition, knows no SASL and no admin requests, and makes the first member of a group wait 3 s.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::KafkaError;

type Job = Box<dyn FnOnce(&MockCluster<'static, DefaultProducerContext>) + Send>;

/// A Kafka inside this process. It ends when dropped.
pub struct EmbeddedBroker {
    bootstrap: String,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedBroker {
    /// Starts one broker with these topics and partitions; others do not exist, and nobody creates them by asking.
    ///
    /// # Errors
    /// [`KafkaError::Client`] when librdkafka can't start it.
    pub fn start(topics: &[(&str, i32)]) -> Result<Self, KafkaError> {
        let (jobs, todo) = channel();
        let (started, bootstrap) = channel();
        // The cluster's handle can't leave the thread it was made on.
        let thread = std::thread::spawn(move || serve(&started, &todo));
        let bootstrap = bootstrap.recv().map_err(|e| KafkaError::Client(e.to_string()))??;
        let broker = Self { bootstrap, jobs: Some(jobs), thread: Some(thread) };
        for (topic, partitions) in topics {
            broker.create_topic(topic, *partitions)?;
        }
        Ok(broker)
    }

    /// `host:port`, for clients.
    #[must_use]
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// [`KafkaError::Call`] when it exists.
    pub fn create_topic(&self, topic: &str, partitions: i32) -> Result<(), KafkaError> {
        let topic = topic.to_owned();
        self.call(move |c| c.create_topic(&topic, partitions, 1))
    }

    /// Closes every connection and takes no new one.
    ///
    /// # Errors
    /// [`KafkaError::Call`] when the broker is gone.
    pub fn down(&self) -> Result<(), KafkaError> {
        self.call(|c| c.broker_down(-1))
    }

    /// Takes connections again.
    ///
    /// # Errors
    /// [`KafkaError::Call`] when the broker is gone.
    pub fn up(&self) -> Result<(), KafkaError> {
        self.call(|c| c.broker_up(-1))
    }

    fn call<F>(&self, job: F) -> Result<(), KafkaError>
    where
        F: FnOnce(&MockCluster<'static, DefaultProducerContext>) -> rdkafka::error::KafkaResult<()> + Send + 'static,
    {
        let (reply, done) = channel();
        let job: Job = Box::new(move |cluster| {
            let _ = reply.send(job(cluster));
        });
        self.jobs.as_ref().and_then(|jobs| jobs.send(job).ok()).ok_or(KafkaError::Closed)?;
        done.recv().map_err(|_| KafkaError::Closed)?.map_err(|e| KafkaError::Call(e.to_string()))
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(started: &Sender<Result<String, KafkaError>>, todo: &Receiver<Job>) {
    let cluster = match MockCluster::new(1) {
        Ok(cluster) => cluster,
        Err(error) => {
            let _ = started.send(Err(KafkaError::Client(error.to_string())));
            return;
        }
    };
    let _ = started.send(Ok(cluster.bootstrap_servers()));
    while let Ok(job) = todo.recv() {
        job(&cluster);
    }
}
