//! Decides whether the delivery part of a configuration makes sense. Pure.

use std::time::Duration;

use http::uri::PathAndQuery;

use super::super::{Problems, SidecarConfig};
use super::{absolute, between, show, topic_name, within};

/// The kernel's room for the path of a unix socket, with the byte that ends it.
const SOCKET_PATH: usize = 108;

pub(super) fn validate(config: &SidecarConfig, problems: &mut Problems) {
    way(config, problems);
    timeout(config, problems);
    let delivery = &config.delivery;
    between("delivery.concurrency", delivery.concurrency, 1, 10_000, problems);
    between("delivery.batch.maxEvents", delivery.batch.max_events, 1, 10_000, problems);
    backoff(config, problems);
    other_topics(config, problems);
    if let Some(attempts) = delivery.max_attempts {
        if attempts == 0 {
            problems.add("delivery.maxAttempts", "is 0: no event would be delivered");
        }
        if delivery.dead_letter_topic.is_none() {
            let wrong = "is missing: maxAttempts needs a topic for the events it gives up, since none is ever dropped";
            problems.add("delivery.deadLetterTopic", wrong);
        }
    }
    let day = Duration::from_secs(86_400);
    within("delivery.appDownTimeout", delivery.app_down_timeout.get(), Duration::from_secs(1), day, problems);
    let buffer = &delivery.buffer;
    between("delivery.buffer.maxRecords", buffer.max_records, 1, 1_000_000, problems);
    if buffer.max_records < delivery.batch.max_events {
        let wrong = format!(
            "is {}, below delivery.batch.maxEvents ({}): no batch would ever be full",
            buffer.max_records, delivery.batch.max_events
        );
        problems.add_like("delivery.buffer.maxRecords", wrong, (delivery.batch.max_events.max(1) * 4).to_string());
    }
    between("delivery.buffer.maxBytes", buffer.max_bytes, 1 << 20, 64 << 30, problems);
}

/// How the app is reached.
fn way(config: &SidecarConfig, problems: &mut Problems) {
    let delivery = &config.delivery;
    absolute("delivery.socket", &delivery.socket, problems);
    let length = delivery.socket.as_os_str().len();
    if length >= SOCKET_PATH {
        let wrong = format!("is {length} bytes long, and a unix socket's path is below {SOCKET_PATH}");
        problems.add("delivery.socket", wrong);
    }
    if delivery.socket.as_os_str().as_encoded_bytes().contains(&0) {
        problems.add("delivery.socket", "holds a zero byte");
    }
    if delivery.port == Some(0) {
        problems.add("delivery.port", "is 0, outside 1 to 65535");
    }
    let path = delivery.path.as_str();
    let parsed = PathAndQuery::try_from(path).ok();
    if !path.starts_with('/') {
        problems.add("delivery.path", format!("`{}` does not begin with `/`", path.escape_debug()));
    } else if path.contains('#') || parsed.is_none_or(|p| p.as_str() != path) {
        problems.add("delivery.path", format!("`{}` is no path of a URL", path.escape_debug()));
    }
}

/// No delivery may outlive the claim under which it was started.
fn timeout(config: &SidecarConfig, problems: &mut Problems) {
    let timeout = config.delivery.timeout.get();
    let claim = config.claim_ttl();
    if timeout.is_zero() {
        problems.add("delivery.timeout", "is 0: no app answers in no time");
    } else if timeout > claim / 4 {
        let wrong = format!(
            "is {}, above {}, a quarter of the shortest time that a claim lives (max(ttl, 1h), ttlOverrides too)",
            config.delivery.timeout,
            show(claim / 4)
        );
        problems.add("delivery.timeout", wrong);
    }
}

fn backoff(config: &SidecarConfig, problems: &mut Problems) {
    let backoff = &config.delivery.backoff;
    let hour = Duration::from_secs(3600);
    within("delivery.backoff.min", backoff.min.get(), Duration::from_millis(1), hour, problems);
    within("delivery.backoff.max", backoff.max.get(), Duration::from_millis(1), hour, problems);
    if backoff.min > backoff.max {
        let wrong = format!("is {}, above delivery.backoff.max ({})", backoff.min, backoff.max);
        problems.add("delivery.backoff.min", wrong);
    }
}

/// Topics that are written to: one that is read as well would feed itself.
fn other_topics(config: &SidecarConfig, problems: &mut Problems) {
    let delivery = &config.delivery;
    for (field, topic) in [
        ("delivery.deadLetterTopic", &delivery.dead_letter_topic),
        ("delivery.duplicatesTopic", &delivery.duplicates_topic),
    ] {
        let Some(topic) = topic else { continue };
        if let Err(wrong) = topic_name(topic) {
            problems.add(field, wrong);
        } else if config.topics.contains(topic) {
            problems.add(field, format!("`{topic}` is among `topics` too: it would be consumed again for ever"));
        }
    }
}
