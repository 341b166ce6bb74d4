//! .
use std::sync::Arc; use crate::event_id::EventId; use crate::record::*;
/// .
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate { /// .
Rejected, /// .
Exhausted, /// .
Duplicate, /// .
Suspect }
/// .
#[derive(Clone, Debug, PartialEq, Eq)] #[allow(missing_docs)]
pub struct DeadLetter { pub origin: TopicPartition, pub offset: Offset, pub timestamp: Option<i64>, pub group: String, pub event_id: EventId, pub idempotency_key: Arc<str>, pub fate: Fate, pub reason: String, pub attempts: u32 }
