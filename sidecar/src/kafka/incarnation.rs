//! Decides which topic of a name is meant: one that was deleted and created again is another, and the offsets of the first mean
//! nothing in it. Pure, but for remembering.
//!
//! librdkafka learns the id of each topic with its metadata, and goes on reading at the old position when it changes (its
//! source says so: "an offset reset must be triggered"). The id itself it tells in a debug line only.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::lock;

/// What the broker calls a topic, other than by its name.
pub(super) type TopicId = Arc<str>;

/// librdkafka's way to say that it knows none.
const NONE: &str = "AAAAAAAAAAAAAAAAAAAAAA";
/// Stands before the id in the metadata of a commit.
const MARK: &str = "topic-id=";

/// The ids of topics, as far as they are known.
#[derive(Debug, Default)]
pub(super) struct TopicIds(Mutex<HashMap<String, TopicId>>);

/// A topic has another id than before.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) topic: String,
    pub(super) before: TopicId,
    pub(super) now: TopicId,
}

impl TopicIds {
    /// The topic's id. Brokers older than Kafka 2.8 have none.
    pub(super) fn get(&self, topic: &str) -> Option<TopicId> {
        lock(&self.0).get(topic).cloned()
    }

    /// Reads one of librdkafka's lines: `[thrd:main]: Topic <name> changed id from <id> to <id>`. Tells of a change only where
    /// the id was known before: librdkafka forgets topics that nobody uses.
    pub(super) fn read(&self, facility: &str, line: &str) -> Option<Changed> {
        if facility != "METADATA" {
            return None;
        }
        let (place, ids) = line.split_once(" changed id from ")?;
        let topic = place.rsplit(' ').next()?;
        let (_, now) = ids.split_once(" to ")?;
        if now == NONE || now.is_empty() {
            return None;
        }
        let now: TopicId = now.into();
        let before = lock(&self.0).insert(topic.to_owned(), now.clone())?;
        (before != now).then(|| Changed { topic: topic.to_owned(), before, now })
    }
}

/// What goes with a committed offset, so that a reader of it can tell which topic it was.
pub(super) fn mark(id: &TopicId) -> String {
    format!("{MARK}{id}")
}

/// The topic in which an offset was committed, if a sidecar committed it.
pub(super) fn marked(metadata: &str) -> Option<&str> {
    metadata.strip_prefix(MARK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(from: &str, to: &str) -> String {
        format!("[thrd:main]: Topic a.b-c_d changed id from {from} to {to}")
    }

    #[test]
    fn a_change_is_told_where_the_id_was_known() {
        let ids = TopicIds::default();
        assert_eq!(ids.read("METADATA", &line(NONE, "first")), None);
        assert_eq!(ids.get("a.b-c_d").as_deref(), Some("first"));
        assert_eq!(ids.read("METADATA", &line(NONE, "first")), None, "librdkafka had forgotten it");
        assert_eq!(ids.read("METADATA", &line("first", NONE)), None, "a broker that knows no ids");
        let changed = Changed { topic: "a.b-c_d".into(), before: "first".into(), now: "second".into() };
        assert_eq!(ids.read("METADATA", &line(NONE, "second")), Some(changed), "it had forgotten the first one");
        assert_eq!(ids.get("a.b-c_d").as_deref(), Some("second"));
    }

    #[test]
    fn other_lines_say_nothing() {
        let ids = TopicIds::default();
        assert_eq!(ids.read("TOPIC", &line("first", "second")), None);
        assert_eq!(ids.read("METADATA", "[thrd:main]: Topic t [0] Leader 1 Epoch 0"), None);
        assert_eq!(ids.get("a.b-c_d"), None);
    }

    #[test]
    fn a_mark_is_read_back_and_a_stranger_s_is_none() {
        assert_eq!(marked(&mark(&"first".into())), Some("first"));
        assert_eq!(marked(""), None);
        assert_eq!(marked("somebody's note"), None);
    }
}
