//! Decides which other consumer is in the way: the same group at the same Kafka, with other topics. Pure.

use std::collections::BTreeSet;

use crds::v1alpha1::IdempotentConsumer;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Rival;
use crate::controller::key::Key;
use crate::controller::validate::{group, is_group};

/// The oldest consumer in the way of this one, if there is one: of two, the older goes on.
#[must_use]
pub fn rival<'a>(consumer: &IdempotentConsumer, others: impl Iterator<Item = &'a IdempotentConsumer>) -> Option<Rival> {
    let (mine, topics, servers) = (group(consumer), topics(consumer), servers(consumer));
    others
        .filter(|other| is_group(other, &mine))
        .filter(|other| age(other) < age(consumer) && other.metadata.deletion_timestamp.is_none())
        .filter(|other| self::servers(other) == servers && self::topics(other) != topics)
        .min_by_key(|other| age(other))
        .map(|other| Rival { consumer: Key::of(other).to_string(), topics: other.spec.topics.clone() })
}

/// By which of two is the older; none is as old as another.
fn age(consumer: &IdempotentConsumer) -> (Option<&Time>, Option<&str>, Option<&str>) {
    let meta = &consumer.metadata;
    (meta.creation_timestamp.as_ref(), meta.namespace.as_deref(), meta.name.as_deref())
}

fn topics(consumer: &IdempotentConsumer) -> BTreeSet<&str> {
    consumer.spec.topics.iter().map(String::as_str).collect()
}

fn servers(consumer: &IdempotentConsumer) -> BTreeSet<&str> {
    consumer.spec.kafka.bootstrap_servers.split(',').map(str::trim).filter(|server| !server.is_empty()).collect()
}
