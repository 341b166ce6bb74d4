//! Decides how a dead letter or a skipped duplicate is written: acknowledged by all replicas, or an error that says whether to retry. I/O.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError as RdError;
use rdkafka::message::{Header as RdHeader, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use rdkafka::types::RDKafkaErrorCode as Code;

use super::{KafkaError, config, context, lock};
use crate::record::Header;
use crate::settings::KafkaSettings;

/// How long a record may wait for room in the client's queue.
const QUEUE_WAIT: Duration = Duration::from_secs(5);

/// A record to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutRecord {
    /// The key.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// The headers in order.
    pub headers: Vec<Header>,
}

/// Why a record was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ProduceError {
    /// Trying again can't help: the record itself is refused. Else it may even have been written: a second copy is harmless.
    pub permanent: bool,
    /// What librdkafka or the broker said.
    pub message: String,
}

struct Log;

impl ClientContext for Log {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        context::log(level, facility, message);
    }

    fn error(&self, error: RdError, reason: &str) {
        tracing::warn!(%error, reason, "kafka producer");
    }
}

/// Writes records; connects when it first has to.
pub struct Producer {
    settings: KafkaSettings,
    client: Mutex<Option<FutureProducer<Log>>>,
}

impl Producer {
    /// Nothing is connected before the first [`send`](Self::send).
    #[must_use]
    pub fn new(settings: KafkaSettings) -> Arc<Self> {
        Arc::new(Self { settings, client: Mutex::new(None) })
    }

    /// Puts a record into the client's queue before it returns, and waits in the future that it gives: so records of one topic
    /// and key keep the order of these calls. Only one that finds the queue full, or has to be tried again, comes later.
    ///
    /// The errors are those of [`send`](Self::send).
    pub fn enqueue(
        self: &Arc<Self>,
        topic: Arc<str>,
        record: OutRecord,
    ) -> impl Future<Output = Result<(), ProduceError>> + Send + 'static {
        let this = Arc::clone(self);
        let queued = this.client().ok().map(|client| {
            let queued = client.send_result(shape(&topic, &record)).map_err(|(error, _)| error);
            (client, queued)
        });
        async move {
            let (client, error) = match queued {
                Some((client, Ok(delivery))) => match delivery.await {
                    Ok(Ok(_)) => return Ok(()),
                    Ok(Err((error, _))) => (client, error),
                    // The client was dropped with the record in its queue.
                    Err(_) => (client, RdError::Canceled),
                },
                Some((client, Err(error))) if error.rdkafka_error_code() != Some(Code::QueueFull) => (client, error),
                _ => return this.send(&topic, record).await,
            };
            Err(this.refused(client, &topic, &error))
        }
    }

    /// Writes one record and waits until all in-sync replicas have it.
    ///
    /// # Errors
    /// [`ProduceError`], after 30 s at the latest (`message.timeout.ms`), or 5 s more where the client's queue is full.
    pub async fn send(&self, topic: &str, record: OutRecord) -> Result<(), ProduceError> {
        let client = self.client().map_err(|e| ProduceError { permanent: false, message: e.to_string() })?;
        match client.send(shape(topic, &record), QUEUE_WAIT).await {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(self.refused(client, topic, &error)),
        }
    }

    fn refused(&self, client: FutureProducer<Log>, topic: &str, error: &RdError) -> ProduceError {
        self.renew_if_lost(&client, error);
        // The last reference to a replaced client ends it, which takes a while: not on the thread that turns the loop.
        std::thread::spawn(move || drop(client));
        ProduceError { permanent: is_permanent(error), message: format!("topic {topic}: {error}") }
    }

    fn client(&self) -> Result<FutureProducer<Log>, KafkaError> {
        let mut client = lock(&self.client);
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let created: FutureProducer<Log> = config::producer(&self.settings)
            .create_with_context(Log)
            .map_err(|e| config::creation_error(e, &self.settings))?;
        *client = Some(created.clone());
        Ok(created)
    }

    /// An idempotent producer that lost its place refuses everything from then on, and one that nobody took anything from in time may have
    /// forgotten all brokers (librdkafka's issue 5301); a new one starts afresh.
    fn renew_if_lost(&self, failed: &FutureProducer<Log>, error: &RdError) {
        let fatal = failed.client().fatal_error().map(|(_, reason)| reason);
        let timed_out = error.rdkafka_error_code() == Some(Code::MessageTimedOut);
        let Some(reason) = fatal.or(timed_out.then(|| error.to_string())) else { return };
        let mut client = lock(&self.client);
        if client.as_ref().is_some_and(|c| c.client().native_ptr() == failed.client().native_ptr()) {
            tracing::warn!(reason, "the Kafka producer is replaced");
            *client = None;
        }
    }
}

/// A record as rdkafka takes it.
fn shape<'a>(topic: &'a str, record: &'a OutRecord) -> FutureRecord<'a, [u8], [u8]> {
    let headers = record.headers.iter().fold(OwnedHeaders::new_with_capacity(record.headers.len()), |all, h| {
        all.insert(RdHeader { key: &h.name, value: h.value.as_deref() })
    });
    let mut out = FutureRecord::<[u8], [u8]>::to(topic).headers(headers);
    out.key = record.key.as_deref();
    out.payload = record.value.as_deref();
    out
}

/// An unknown topic or a missing permission can be put right while we retry; a record that is refused as such can't.
fn is_permanent(error: &RdError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::MessageSizeTooLarge
                | Code::MessageBatchTooLarge
                | Code::InvalidMessageSize
                | Code::InvalidRecord
                | Code::InvalidTopic
                | Code::InvalidTimestamp
                | Code::PolicyViolation
                | Code::UnsupportedForMessageFormat
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Secret;

    #[tokio::test]
    async fn a_client_that_nobody_took_anything_from_in_time_is_replaced() {
        let property = |name: &str, value: &str| (name.to_owned(), Secret::new(value));
        let producer = Producer::new(KafkaSettings {
            // Nobody listens there.
            properties: vec![property("bootstrap.servers", "127.0.0.1:1"), property("message.timeout.ms", "200")],
            group: "g".into(),
            topics: Vec::new(),
        });
        let record = OutRecord { key: None, value: Some(b"x"[..].into()), headers: Vec::new() };
        let error = producer.send("t", record).await.unwrap_err();
        assert!(!error.permanent, "{}", error.message);
        assert!(lock(&producer.client).is_none(), "the next record has another client");
    }
}
