//! .
use std::sync::Arc;
use crate::event_id::Identity; use crate::record::*;
/// .
#[derive(Clone, Debug)]
pub struct Arrival { /// .
pub record: Arc<Record>, /// .
pub identity: Arc<Identity> }
/// .
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitRequest { /// .
pub partition: TopicPartition, /// .
pub epoch: u64, /// .
pub offset: Offset }
/// .
#[derive(Debug)]
pub struct ProduceError { /// .
pub permanent: bool, /// .
pub message: String }
