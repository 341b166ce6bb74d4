//! Decides whether a configuration makes sense: every field by itself, and those that depend on each other. Pure.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::{EventIdRule, Problem, Problems, SidecarConfig, VERSION, kafka_properties};

mod delivery;
mod kafka;
mod redis;

/// The longest time that a settled event is remembered.
const MAX_TTL: Duration = Duration::from_secs(3650 * 86_400);
/// No claim lives shorter.
const MIN_CLAIM_TTL: Duration = Duration::from_secs(3600);

impl SidecarConfig {
    /// Everything that is wrong with it, in the words of the sidecar that refuses it.
    ///
    /// The files that it names need not be there, and what only librdkafka knows of `kafka.properties` is not looked at.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        validate(self, &|_, _, _| {}, &mut problems);
        problems.0
    }

    /// How long the shortest-lived claim lives: max(ttl, 1 h) over `ttl` and `ttlOverrides`.
    #[must_use]
    pub fn claim_ttl(&self) -> Duration {
        let shortest = self.ttl_overrides.values().chain([&self.ttl]).map(|ttl| ttl.get()).min();
        shortest.unwrap_or_default().max(MIN_CLAIM_TTL)
    }
}

/// Notes everything that is wrong in a configuration, without looking into the files that it names. `property` is asked about each
/// further Kafka property, by name and value, that is not refused by its name: who has librdkafka looks there.
pub fn validate(config: &SidecarConfig, property: &dyn Fn(&str, &str, &mut Problems), problems: &mut Problems) {
    if config.version != VERSION {
        problems.add("version", format!("is {}, and this sidecar reads {VERSION}", config.version));
    }
    if let Err(wrong) = words(&config.group) {
        problems.add("group", wrong);
    }
    topics(config, problems);
    ttls(config, problems);
    event_id(&config.event_id, problems);
    key_prefix(config, problems);
    done_values(&config.done_values, problems);
    session(config, problems);
    kafka::validate(&config.kafka, property, problems);
    redis::validate(config, problems);
    delivery::validate(config, problems);
    whole(config, problems);
}

/// A name of at least one and at most 255 characters, none of them a control character.
fn words(text: &str) -> Result<(), &'static str> {
    if text.trim().is_empty() {
        Err("is empty")
    } else if text.chars().any(char::is_control) {
        Err("holds a control character")
    } else if text.chars().count() > 255 {
        Err("is longer than 255 characters")
    } else {
        Ok(())
    }
}

/// Kafka's rules for the name of a topic.
fn topic_name(name: &str) -> Result<(), String> {
    let wrong = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > 249 {
        format!("has {} characters, and Kafka takes 249", name.len())
    } else if name == "." || name == ".." {
        format!("is `{name}`, which Kafka refuses")
    } else if let Some(c) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
        format!("`{}` holds {c:?}; Kafka takes letters, digits, `.`, `_` and `-`", name.escape_debug())
    } else {
        return Ok(());
    };
    Err(wrong)
}

fn topics(config: &SidecarConfig, problems: &mut Problems) {
    if config.topics.is_empty() {
        problems.add("topics", "is empty: name at least one topic");
    }
    let mut seen = BTreeSet::new();
    for (index, topic) in config.topics.iter().enumerate() {
        let field = format!("topics[{index}]");
        if let Err(wrong) = topic_name(topic) {
            problems.add_like(field, wrong, "orders.v1");
        } else if !seen.insert(topic) {
            problems.add_like(field, format!("`{topic}` is named twice"), "leave it out");
        }
    }
}

fn ttls(config: &SidecarConfig, problems: &mut Problems) {
    within("ttl", config.ttl.get(), Duration::from_secs(1), MAX_TTL, problems);
    for (event_type, ttl) in &config.ttl_overrides {
        let field = format!("ttlOverrides.{event_type}");
        if event_type.is_empty() {
            problems.add(field, "names no event type: use `ttl` for events without one");
        } else {
            within(&field, ttl.get(), Duration::from_secs(1), MAX_TTL, problems);
        }
    }
}

fn event_id(rule: &EventIdRule, problems: &mut Problems) {
    match rule {
        EventIdRule::Data | EventIdRule::Record => {}
        EventIdRule::Header { header } => {
            if let Err(wrong) = words(header) {
                problems.add("eventId.header", wrong);
            }
        }
        EventIdRule::Fields { fields } => {
            if fields.is_empty() {
                problems.add("eventId.fields", "is empty: name at least one member of the envelope");
            }
            let mut seen = BTreeSet::new();
            for (index, pointer) in fields.iter().enumerate() {
                let field = format!("eventId.fields[{index}]");
                if let Err(wrong) = json_pointer(pointer) {
                    problems.add_like(field, wrong, "/event_id");
                } else if !seen.insert(pointer) {
                    problems.add_like(field, format!("`{pointer}` is named twice"), "leave it out");
                }
            }
        }
    }
}

/// RFC 6901, without the empty pointer, which is the whole envelope.
fn json_pointer(text: &str) -> Result<(), &'static str> {
    if !text.starts_with('/') {
        return Err("is no JSON pointer: it begins with `/`");
    }
    let mut rest = text.split('~').skip(1);
    if rest.any(|part| !part.starts_with(['0', '1'])) {
        return Err("is no JSON pointer: `~` is written `~0`, and a `/` in a name `~1`");
    }
    Ok(())
}

/// One piece of a key template.
enum Piece<'a> {
    Text(&'a str),
    Name(&'a str),
}

/// Takes a template apart; the error says what is wrong with its braces.
fn pieces(template: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        pieces.push(Piece::Text(&rest[..at]));
        let tail = &rest[at..];
        let end = tail.find('}').filter(|_| tail.starts_with('{')).ok_or("has a brace without its other one")?;
        match &tail[1..end] {
            name @ ("group" | "topic" | "type") => pieces.push(Piece::Name(name)),
            other => {
                return Err(format!("has the placeholder {{{other}}}; there are {{group}}, {{topic}} and {{type}}"));
            }
        }
        rest = &tail[end + 1..];
    }
    pieces.push(Piece::Text(rest));
    Ok(pieces)
}

fn key_prefix(config: &SidecarConfig, problems: &mut Problems) {
    if let Err(wrong) = words(&config.key_prefix) {
        problems.add("keyPrefix", wrong);
        return;
    }
    let pieces = match pieces(&config.key_prefix) {
        Ok(pieces) => pieces,
        Err(wrong) => return problems.add("keyPrefix", wrong),
    };
    // The keys of events and of sessions must be told apart by their beginning, in ACLs and by people. What a record's
    // type can be is not known, so the comparison ends there.
    let session = config.session.prefix.as_str();
    for topic in &config.topics {
        let mut head = String::new();
        let mut whole = true;
        let mut behind_value = false;
        for piece in &pieces {
            // As the sidecar fills it in: a value is kept apart from another one, and from a `%`.
            let apart = match piece {
                Piece::Name(_) => true,
                Piece::Text(text) => text.starts_with('%'),
            };
            if behind_value && apart {
                head.push(':');
            }
            match piece {
                Piece::Text(text) => head.push_str(text),
                Piece::Name("group") => head.push_str(&config.group),
                Piece::Name("topic") => head.push_str(topic),
                Piece::Name(_) => {
                    whole = false;
                    break;
                }
            }
            behind_value = matches!(piece, Piece::Name(_)) || (behind_value && matches!(piece, Piece::Text("")));
        }
        let inside = head.starts_with(session) || (whole && session.starts_with(&head));
        if inside && !session.is_empty() {
            let wrong = format!("gives keys that begin as session.prefix does (`{session}`): change one of the two");
            return problems.add_like("keyPrefix", wrong, "\"idempotency:events:{group}:{topic}:{type}:\"");
        }
    }
}

fn done_values(values: &[String], problems: &mut Problems) {
    for (index, value) in values.iter().enumerate() {
        let field = format!("doneValues[{index}]");
        if value.is_empty() {
            problems.add_like(field, "is empty", "processed");
        } else if value.starts_with("c:") {
            let wrong = "begins with `c:`, which marks an event that is claimed and not done";
            problems.add_like(field, wrong, "processed");
        }
    }
}

fn session(config: &SidecarConfig, problems: &mut Problems) {
    if let Err(wrong) = words(&config.session.prefix) {
        problems.add("session.prefix", wrong);
    } else if config.session.prefix.contains(['{', '}']) {
        problems.add("session.prefix", "has no placeholders: it is the same for all sidecars that share event keys");
    }
    let ttl = config.session.ttl.get();
    within("session.ttl", ttl, Duration::from_secs(1), Duration::from_secs(30), problems);
    let kafka = kafka_properties::session_timeout(&config.kafka.properties, ttl);
    if ttl >= kafka {
        let wrong = format!(
            "is {}, not below Kafka's session.timeout.ms ({}): the claims of a dead sidecar must be void before its \
             partitions come to another",
            show(ttl),
            show(kafka)
        );
        problems.add_like("session.ttl", wrong, show(kafka / 3));
    }
}

fn whole(config: &SidecarConfig, problems: &mut Problems) {
    if config.admin.bind.parse::<std::net::SocketAddr>().is_err() {
        problems.add("admin.bind", "is no IP address with a port");
    }
    let revoke = kafka_properties::max_poll_interval(&config.kafka.properties);
    if config.drain_timeout.get() >= revoke {
        let wrong = format!(
            "is {}, not below Kafka's max.poll.interval.ms ({}): the group would take the partitions away meanwhile",
            config.drain_timeout,
            show(revoke)
        );
        problems.add_like("drainTimeout", wrong, show(revoke / 10));
    }
    if let Some(file) = &config.paused_file {
        absolute("pausedFile", file, problems);
    }
    if let Some(folder) = &config.state_dir {
        absolute("stateDir", folder, problems);
    }
}

fn within(field: &str, value: Duration, min: Duration, max: Duration, problems: &mut Problems) {
    if value < min || value > max {
        problems.add(field, format!("is {}, outside {} to {}", show(value), show(min), show(max)));
    }
}

fn between(field: &str, value: usize, min: usize, max: usize, problems: &mut Problems) {
    if value < min || value > max {
        problems.add(field, format!("is {value}, outside {min} to {max}"));
    }
}

fn absolute(field: &str, path: &Path, problems: &mut Problems) {
    if !path.is_absolute() {
        problems.add(field, format!("`{}` is no absolute path", path.display()));
    }
}

/// A client certificate and its key come together.
fn both(parent: &str, certificate: bool, key: bool, problems: &mut Problems) {
    if certificate && !key {
        problems.add(format!("{parent}.keyFile"), "is missing: certificateFile needs its key");
    } else if key && !certificate {
        problems.add(format!("{parent}.certificateFile"), "is missing: keyFile needs its certificate");
    }
}

/// A span of time as it is written in the file.
fn show(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    crate::Duration::from_millis(millis).to_string()
}

#[cfg(test)]
mod tests;
