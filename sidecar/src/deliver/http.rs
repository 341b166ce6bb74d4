//! Decides what one request to the app came to: sends it, reads the answer, within the time-out. I/O.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use crds::config::DeliveryConfig;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::header::RETRY_AFTER;
use hyper::{Request, Response, Uri};
use jiff::Timestamp;
use tokio::time::timeout;

use super::cloudevent::batch::batch_request;
use super::cloudevent::{binary_request, target};
use super::pool::{Address, Connection, Pool, probe};
use super::{Answer, Deliver, MAX_BODY, Parcel};

/// Delivery over HTTP/1.1, with idle connections kept.
///
/// # Guarantees
/// - An answer within the configured time-out, which covers connecting, the request, and the whole answer.
/// - [`Answer::NotSent`] means that the kernel took no byte of the request.
/// - Dropping a delivery closes its connection.
#[derive(Debug)]
pub struct HttpDelivery {
    address: Address,
    target: Uri,
    timeout: Duration,
    batch: bool,
    pool: Pool,
}

impl HttpDelivery {
    /// Delivery to the configured socket or port. Nothing is opened before the first request. Events go as a batch, a single one too,
    /// where `batch.maxEvents` is above 1: an app reads one format.
    #[must_use]
    pub fn new(config: &DeliveryConfig) -> Self {
        let address = config.port.map_or_else(|| Address::Socket(config.socket.clone()), Address::Port);
        Self {
            address,
            target: target(&config.path),
            timeout: config.timeout.get(),
            batch: config.batch.max_events > 1,
            pool: Pool::new(config.concurrency.max(1)),
        }
    }

    fn request(&self, parcels: &[Parcel], scratch: &mut BytesMut) -> Request<Full<Bytes>> {
        match parcels {
            [parcel] if !self.batch => binary_request(parcel, &self.target, scratch),
            _ => batch_request(parcels, &self.target, scratch),
        }
    }

    /// The connection in use stays in `slot` until the answer is whole, so that a time-out can tell whether anything was written.
    async fn exchange(&self, parcels: &[Parcel], slot: &mut Option<Box<Connection>>) -> Answer {
        let kept = self.pool.take().await;
        let mut fresh = kept.is_none();
        *slot = kept;
        loop {
            let connection = match slot.take() {
                Some(connection) => slot.insert(connection),
                None => match Connection::open(&self.address).await {
                    Ok(connection) => slot.insert(connection),
                    Err(advice) => return Answer::NotSent(advice),
                },
            };
            let request = self.request(parcels, &mut connection.scratch);
            match connection.exchange(|sender| sender.try_send_request(request)).await {
                Ok(response) => return self.answer(response, slot).await,
                Err(_) if !connection.wrote() && !fresh => {
                    // The app closed a kept connection; once more on a new one.
                    fresh = true;
                    *slot = None;
                }
                Err(error) if !connection.wrote() => {
                    let text = with_causes(&error.into_error());
                    *slot = None;
                    return Answer::NotSent(format!(
                        "the app closed the connection before the request was written: {text}"
                    ));
                }
                Err(error) => {
                    *slot = None;
                    return Answer::Broken(with_causes(&error.into_error()));
                }
            }
        }
    }

    async fn answer(&self, response: Response<Incoming>, slot: &mut Option<Box<Connection>>) -> Answer {
        let (head, body) = response.into_parts();
        let status = head.status.as_u16();
        let retry_after = head.headers.get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, now));
        let Some(connection) = slot.as_mut() else { return Answer::Broken("no connection".into()) };
        match connection.drive(read(body)).await {
            Ok(body) => {
                if let Some(connection) = slot.take() {
                    self.pool.put(connection);
                }
                Answer::Http { status, retry_after, body }
            }
            Err(text) => Answer::Broken(text),
        }
    }
}

impl Deliver for HttpDelivery {
    fn deliver(&self, parcels: Vec<Parcel>) -> Pin<Box<dyn Future<Output = Answer> + Send + '_>> {
        Box::pin(async move {
            let mut slot = None;
            let answer = timeout(self.timeout, self.exchange(&parcels, &mut slot)).await;
            answer.unwrap_or_else(|_| match slot {
                Some(connection) if connection.wrote() => Answer::TimedOut,
                _ => Answer::NotSent("the app did not take the request in time: its accept queue is full".into()),
            })
        })
    }

    fn probe(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        Box::pin(async move {
            let late = |_| Err("the app does not accept connections: its accept queue is full".into());
            timeout(self.timeout, probe(&self.address)).await.unwrap_or_else(late)
        })
    }
}

/// Reads a body of up to [`MAX_BODY`] bytes. Nearly all come in one piece, which is not copied.
async fn read(mut body: Incoming) -> Result<Bytes, String> {
    let too_long = || Err(format!("the answer is longer than {MAX_BODY} bytes"));
    if body.size_hint().lower() > MAX_BODY as u64 {
        return too_long();
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        // Trailers say nothing that counts here.
        let Ok(data) = frame.map_err(|error| with_causes(&error))?.into_data() else { continue };
        if first.len() + rest.len() + data.len() > MAX_BODY {
            return too_long();
        }
        if first.is_empty() {
            first = data;
        } else {
            rest.extend_from_slice(&data);
        }
    }
    if rest.is_empty() {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(first.len() + rest.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&rest);
    Ok(whole.freeze())
}

/// `Retry-After`: seconds, or an HTTP date, which may lie in the past.
fn retry_after(text: &str, now: impl FnOnce() -> Timestamp) -> Option<Duration> {
    let text = text.trim();
    if text.bytes().all(|b| b.is_ascii_digit()) {
        // A number too large for 64 bits is a long time too.
        return (!text.is_empty()).then(|| Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Some(Duration::try_from(date.duration_since(now())).unwrap_or(Duration::ZERO))
}

/// The one place here that reads the wall clock: dates in answers.
fn now() -> Timestamp {
    Timestamp::now()
}

/// hyper's own text is terse; the cause says what happened.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
