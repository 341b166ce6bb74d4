//! Decides how events reach the app: HTTP over a unix socket or a loopback port. I/O.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
pub use crds::status::Protection;

use crate::event_id::Identity;
use crate::record::Record;

pub use http::HttpDelivery;

pub mod cloudevent;
mod http;
mod pool;

/// One event as it is handed over.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// The record.
    pub record: Arc<Record>,
    /// What the record means.
    pub identity: Arc<Identity>,
    /// The store's key of this event: prefix and event id. Unlike the event id it tells two types with equal data apart.
    pub idempotency_key: Arc<str>,
    /// The fencing token: 1 for the first delivery; above 1 the event may have had its effect already.
    pub attempt: u32,
    /// What the sidecar can promise for this delivery.
    pub protection: Protection,
}

/// What came back for one request, before anybody judges it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// No byte of the request left: connection refused, no such socket. The text says what and the fix.
    NotSent(String),
    /// The request may have left, and no usable answer came: broken connection, not HTTP, too long.
    Broken(String),
    /// The request left, and no answer came in time.
    TimedOut,
    /// An answer.
    Http {
        /// The status code.
        status: u16,
        /// `Retry-After`, in seconds or as a date, as a span from now.
        retry_after: Option<Duration>,
        /// The body, at most [`MAX_BODY`] bytes.
        body: Bytes,
    },
}

/// The longest answer that is read; a longer one is [`Answer::Broken`].
pub const MAX_BODY: usize = 1 << 20;

/// The way to the app.
///
/// # Guarantees
/// - `deliver` answers within the configured time-out, and [`Answer::NotSent`] only when no byte was written.
/// - Dropping the future closes the connection it used.
pub trait Deliver: Send + Sync + 'static {
    /// Sends one request: the one event in binary mode, or all as a batch where the configuration allows more than one.
    fn deliver(&self, parcels: Vec<Parcel>) -> Pin<Box<dyn Future<Output = Answer> + Send + '_>>;

    /// Does the app accept a connection now? The error says what to do about it.
    fn probe(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>>;
}
