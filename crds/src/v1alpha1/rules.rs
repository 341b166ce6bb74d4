//! Decides which specs the API server refuses by itself, and with which words: CEL rules whose messages name the fix. Pure.
//!
//! Rules stay within the API server's cost limits because every list, map and text that they walk has a bound in the schema.

use kube::core::Rule;

use crate::duration::PATTERN;
use crate::{LABEL_PREFIX, SIDECAR_CONTAINER};

fn rule(expression: impl Into<String>, message: impl AsRef<str>) -> Rule {
    Rule::new(expression).message(message.as_ref())
}

/// A text that is no duration is told by its own rule; the others leave it alone.
fn is_duration(path: &str) -> String {
    format!("{path}.matches('{PATTERN}')")
}

/// What is asked of every duration.
pub(super) fn duration() -> Rule {
    rule(
        is_duration("self"),
        "write a number and a unit (h, m, s, ms; larger ones first), for example 24h, 90s or 250ms",
    )
}

pub(super) fn between(least: &str, most: &str) -> Rule {
    let valid = is_duration("self");
    rule(
        format!("!{valid} || (duration(self) >= duration('{least}') && duration(self) <= duration('{most}'))"),
        format!("must be {least} to {most}"),
    )
}

pub(super) fn name() -> Rule {
    rule(
        "self.metadata.name.size() <= 50 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must begin with a letter, hold only a-z, 0-9 and -, and have at most 50 characters: the Deployment, the \
         Service and a label are named after it",
    )
}

pub(super) fn group_stays() -> Rule {
    rule(
        "has(self.group) == has(oldSelf.group) && (!has(self.group) || self.group == oldSelf.group)",
        "group can't be changed: offsets and claims stand under it; create another IdempotentConsumer for another group",
    )
}

/// No delivery may outlive the claim under which it was started.
pub(super) fn timeout_within_claim() -> Rule {
    let timeout = "duration(self.delivery.timeout)";
    let four = format!("{timeout} + {timeout} + {timeout} + {timeout}");
    let valid = [is_duration("self.delivery.timeout"), is_duration("self.ttl")].join(" && ");
    let overrides = format!(
        "(!has(self.ttlOverrides) || self.ttlOverrides.all(t, !{} || {four} <= duration(self.ttlOverrides[t])))",
        is_duration("self.ttlOverrides[t]")
    );
    rule(
        format!("!({valid}) || {four} <= duration('1h') || ({four} <= duration(self.ttl) && {overrides})"),
        "delivery.timeout must be at most a quarter of the shortest time that a claim lives, which is max(ttl, 1h), ttlOverrides too: \
         lower delivery.timeout or raise ttl",
    )
}

pub(super) fn redis_timeout_within_session() -> Rule {
    let four = ["duration(self.redis.timeout)"; 4].join(" + ");
    let valid = [is_duration("self.redis.timeout"), is_duration("self.session.ttl")].join(" && ");
    rule(
        format!("!({valid}) || {four} <= duration(self.session.ttl)"),
        "redis.timeout must be at most a quarter of session.ttl: one slow answer would end the session",
    )
}

/// A topic that is written to is not read: it would feed itself.
pub(super) fn not_consumed(field: &str) -> Rule {
    rule(
        format!("!has(self.delivery.{field}) || !(self.delivery.{field} in self.topics)"),
        format!("delivery.{field} must not be among topics: it would be consumed again for ever"),
    )
}

pub(super) fn container_exists() -> Rule {
    rule(
        "!has(self.delivery.container) || self.template.spec.containers.exists(c, c.name == self.delivery.container)",
        "delivery.container must name one of template.spec.containers",
    )
}

pub(super) fn overrides() -> Rule {
    rule(
        format!(
            "self.all(t, t != '' && (!{} || (duration(self[t]) >= duration('1s') && duration(self[t]) <= duration('87600h'))))",
            is_duration("self[t]")
        ),
        "each entry must name an event type and a ttl of 1s to 87600h; for events without a type there is ttl",
    )
}

pub(super) fn key_prefix() -> Rule {
    rule(
        "self.matches('^([^{}]|[{](group|topic|type)[}])*$')",
        "the placeholders are {group}, {topic} and {type}, for example idempotency:{group}:{topic}:{type}:",
    )
}

pub(super) fn done_values() -> Rule {
    rule(
        "self.all(v, !v.startsWith('c:'))",
        "must not begin with c:, which marks an event that is claimed and not done",
    )
}

pub(super) fn session_ttl() -> Rule {
    let valid = is_duration("self.ttl");
    rule(
        format!("!{valid} || (duration(self.ttl) >= duration('1s') && duration(self.ttl) <= duration('30s'))"),
        "session.ttl must be 1s to 30s",
    )
}

pub(super) fn event_id_header() -> Rule {
    rule("(self.rule == 'Header') == has(self.header)", "header is set with rule Header, and only then")
}

pub(super) fn event_id_fields() -> Rule {
    rule("(self.rule == 'Fields') == has(self.fields)", "fields is set with rule Fields, and only then")
}

pub(super) fn one_of(one: &str, other: &str) -> Rule {
    rule(format!("has(self.{one}) != has(self.{other})"), format!("set exactly one of {one} and {other}"))
}

pub(super) fn at_most_one(one: &str, other: &str) -> Rule {
    rule(format!("!has(self.{one}) || !has(self.{other})"), format!("set one of {one} and {other}, not both"))
}

pub(super) fn certificate_and_key() -> Rule {
    rule(
        "has(self.certificateFrom) == has(self.keyFrom)",
        "certificateFrom and keyFrom come together: set both or none",
    )
}

pub(super) fn bootstrap_servers() -> Rule {
    rule(
        "self.matches('^ *[^, :]+:[0-9]{1,5} *(, *[^, :]+:[0-9]{1,5} *)*$') || self.contains('[')",
        "must be host:port, several separated by commas, for example kafka-0:9092,kafka-1:9092",
    )
}

pub(super) fn sentinel_master() -> Rule {
    rule(
        "(self.topology == 'Sentinel') == has(self.sentinelMaster)",
        "sentinelMaster is set with topology Sentinel, and only then",
    )
}

pub(super) fn redis_user() -> Rule {
    rule(
        "!has(self.usernameFrom) || has(self.passwordFrom) || has(self.urlFrom)",
        "usernameFrom needs the user's password: set passwordFrom",
    )
}

pub(super) fn redis_url() -> Rule {
    rule("self.matches('^rediss?://')", "must begin with redis:// or rediss:// (TLS), for example redis://redis:6379")
}

pub(super) fn redis_url_has_no_password() -> Rule {
    rule(
        "!self.matches('//[^/@,]*:[^/@,]*@')",
        "must not hold a password: put the URL into a Secret and name it in urlFrom, or the password in passwordFrom",
    )
}

pub(super) fn attempts_need_dead_letters() -> Rule {
    rule(
        "!has(self.maxAttempts) || has(self.deadLetterTopic)",
        "maxAttempts needs deadLetterTopic, a topic for the events it gives up, since none is ever dropped",
    )
}

pub(super) fn buffer_holds_a_batch() -> Rule {
    rule(
        "self.buffer.maxRecords >= self.batch.maxEvents",
        "buffer.maxRecords must not be below batch.maxEvents: no batch would ever be full",
    )
}

pub(super) fn batch() -> Rule {
    rule("self.maxEvents >= 1 && self.maxEvents <= 10000", "batch.maxEvents must be 1 to 10000")
}

pub(super) fn backoff() -> Rule {
    let valid = [is_duration("self.min"), is_duration("self.max")].join(" && ");
    rule(
        format!(
            "!({valid}) || (duration('1ms') <= duration(self.min) && duration(self.min) <= duration(self.max) && duration(self.max) <= \
             duration('1h'))"
        ),
        "backoff.min must be 1ms or more, and not above backoff.max, which is at most 1h",
    )
}

pub(super) fn buffer() -> Rule {
    rule(
        "self.maxRecords >= 1 && self.maxRecords <= 1000000 && self.maxBytes >= 1048576 && self.maxBytes <= 68719476736",
        "buffer.maxRecords must be 1 to 1000000, and buffer.maxBytes 1048576 (1 MiB) to 68719476736 (64 GiB)",
    )
}

pub(super) fn no_container_of_ours() -> Rule {
    rule(
        format!("self.all(c, c.name != '{SIDECAR_CONTAINER}')"),
        format!("no container may be called {SIDECAR_CONTAINER}: the operator adds the one of that name"),
    )
}

pub(super) fn no_label_of_ours() -> Rule {
    rule(
        format!("self.all(l, !l.startsWith('{LABEL_PREFIX}'))"),
        format!("no label may begin with {LABEL_PREFIX}: the operator sets those"),
    )
}
