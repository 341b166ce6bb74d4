//! Decides whether the group's committed offsets are of the topic that is there now, or of another one of its name. I/O, but for
//! the decision.
//!
//! Each commit carries the id of the topic it was worked out from (see [`super::incarnation`]). librdkafka starts at the committed
//! offset whatever that says, so a look goes beside the reading: until it is answered nothing is committed, and where the
//! offset was another topic's, the partition is read anew from its beginning.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::Offset as RdOffset;

use super::context::{Context, list};
use super::incarnation::{TopicId, marked};
use crate::guard;
use crate::record::{Offset, TopicPartition};

/// How long a broker may take for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks while no broker answers.
const RETRY: Duration = Duration::from_millis(500);

/// What is committed of a partition, and in which topic.
#[derive(Clone, Debug)]
pub(super) struct Committed {
    pub(super) partition: TopicPartition,
    /// Its id; `None` where nothing is committed, or by another than a sidecar.
    pub(super) topic_id: Option<String>,
    /// The offset, if one is committed.
    pub(super) offset: Option<Offset>,
}

/// What follows from a look.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The offset is this topic's, as far as can be told.
    Right,
    /// It is another topic's.
    Foreign,
    /// The topic's own id is to come yet.
    Open,
}

/// What the committed offset means, by the topic's id.
pub(super) fn judge(committed: Option<&str>, id: Option<&TopicId>) -> Standing {
    match (committed, id) {
        (_, None) => Standing::Open,
        (Some(was), Some(is)) if was != &**is => Standing::Foreign,
        _ => Standing::Right,
    }
}

/// Looks until a broker has answered.
pub(super) async fn look(
    consumer: Arc<StreamConsumer<Context>>,
    partitions: Vec<TopicPartition>,
) -> Option<Vec<Committed>> {
    loop {
        let (consumer, asked) = (Arc::clone(&consumer), partitions.clone());
        match tokio::task::spawn_blocking(move || ask(&consumer, &asked)).await {
            Ok(Ok(found)) => return Some(found),
            Ok(Err(error)) => tracing::debug!(%error, "the committed offsets' topics can't be looked up yet"),
            Err(_) => return None,
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Asks for the topics first: with the answer librdkafka tells their ids.
fn ask(consumer: &StreamConsumer<Context>, partitions: &[TopicPartition]) -> KafkaResult<Vec<Committed>> {
    for topic in partitions.iter().map(|p| &p.topic).collect::<BTreeSet<_>>() {
        consumer.fetch_metadata(Some(topic), TIMEOUT)?;
    }
    let committed = consumer.committed_offsets(list(partitions), TIMEOUT)?;
    let elements = committed.elements();
    let mut found = Vec::with_capacity(elements.len());
    for (partition, element) in partitions.iter().zip(&elements) {
        element.error()?;
        // rdkafka panics where somebody else wrote something that is not UTF-8.
        let metadata = guard::survive(|| element.metadata().to_owned()).unwrap_or_default();
        let offset = match element.offset() {
            RdOffset::Offset(offset) => Some(offset),
            _ => None,
        };
        found.push(Committed { partition: partition.clone(), topic_id: marked(&metadata).map(str::to_owned), offset });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_counts_only_in_the_topic_it_was_committed_in() {
        let now: TopicId = "now".into();
        assert_eq!(judge(Some("now"), Some(&now)), Standing::Right);
        assert_eq!(judge(Some("before"), Some(&now)), Standing::Foreign);
        assert_eq!(judge(None, Some(&now)), Standing::Right, "nothing committed, or by another than a sidecar");
        assert_eq!(judge(Some("before"), None), Standing::Open);
    }
}
