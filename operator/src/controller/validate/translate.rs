//! Decides what a consumer's spec means for its sidecars: the configuration that they read, the files that it names, and the other way
//! round where a mistake is. Pure.

use crds::config::{
    AdminConfig, DeliveryConfig, EventIdRule, KafkaConfig, KafkaSasl, KafkaTls, Problem, RedisConfig, SidecarConfig,
    VERSION,
};
use crds::v1alpha1::{
    EventIdRuleName, EventIdSpec, FileSource, IdempotentConsumer, IdempotentConsumerSpec, KafkaSpec, KeyRef, RedisSpec,
    SecretSource, TlsSpec,
};

use super::super::build::path;
use super::super::dereference::{Kind, Reference};
use super::{Mistake, NamedFile, Reason, group};

/// What the sidecars are told.
pub(super) fn config(consumer: &IdempotentConsumer) -> SidecarConfig {
    let spec = &consumer.spec;
    SidecarConfig {
        version: VERSION,
        group: group(consumer),
        topics: spec.topics.clone(),
        ttl: spec.ttl,
        ttl_overrides: spec.ttl_overrides.clone(),
        event_id: event_id(&spec.event_id),
        key_prefix: spec.key_prefix.clone(),
        done_values: spec.done_values.clone(),
        // A switch of its own, which reaches running pods, says whether the flow is stopped.
        paused: false,
        paused_file: Some(path::PAUSED.into()),
        session: spec.session.clone(),
        kafka: kafka(&spec.kafka),
        redis: redis(&spec.redis),
        delivery: delivery(spec),
        admin: AdminConfig {
            bind: format!("[::]:{}", spec.sidecar.admin_port),
            drain_token_file: Some(path::file(path::DRAIN_TOKEN).into()),
        },
        drain_timeout: spec.drain_timeout,
        state_dir: Some(path::STATE.into()),
    }
}

/// Validation refuses a rule without its field; until then it reads as an empty one.
fn event_id(spec: &EventIdSpec) -> EventIdRule {
    match spec.rule {
        EventIdRuleName::Data => EventIdRule::Data,
        EventIdRuleName::Record => EventIdRule::Record,
        EventIdRuleName::Header => EventIdRule::Header { header: spec.header.clone().unwrap_or_default() },
        EventIdRuleName::Fields => EventIdRule::Fields { fields: spec.fields.clone().unwrap_or_default() },
    }
}

fn kafka(spec: &KafkaSpec) -> KafkaConfig {
    let mounted = |present: bool, name: &str| present.then(|| path::file(name).into());
    KafkaConfig {
        bootstrap_servers: spec.bootstrap_servers.clone(),
        tls: spec.tls.as_ref().map(|tls| KafkaTls {
            ca_file: mounted(tls.ca_from.is_some(), "kafka/ca.crt"),
            certificate_file: mounted(tls.certificate_from.is_some(), "kafka/tls.crt"),
            key_file: mounted(tls.key_from.is_some(), "kafka/tls.key"),
        }),
        sasl: spec.sasl.as_ref().map(|sasl| KafkaSasl {
            mechanism: sasl.mechanism,
            username_file: path::file("kafka/username").into(),
            password_file: path::file("kafka/password").into(),
        }),
        properties: spec.properties.clone(),
    }
}

fn redis(spec: &RedisSpec) -> RedisConfig {
    let mounted = |present: bool, name: &str| present.then(|| path::file(name).into());
    let tls = spec.tls.clone().unwrap_or_default();
    RedisConfig {
        url: spec.url.clone(),
        url_file: mounted(spec.url_from.is_some(), "redis/url"),
        username_file: mounted(spec.username_from.is_some(), "redis/username"),
        password_file: mounted(spec.password_from.is_some(), "redis/password"),
        ca_file: mounted(tls.ca_from.is_some(), "redis/ca.crt"),
        certificate_file: mounted(tls.certificate_from.is_some(), "redis/tls.crt"),
        key_file: mounted(tls.key_from.is_some(), "redis/tls.key"),
        topology: spec.topology,
        sentinel_master: spec.sentinel_master.clone(),
        claim_command: spec.claim_command,
        failure_policy: spec.failure_policy,
        timeout: spec.timeout,
    }
}

/// A number that the schema bounds; outside of it, it reads as 0, which the sidecar's own rules refuse.
fn number<N: TryFrom<i32> + Default>(number: i32) -> N {
    N::try_from(number).unwrap_or_default()
}

fn delivery(spec: &IdempotentConsumerSpec) -> DeliveryConfig {
    let delivery = &spec.delivery;
    DeliveryConfig {
        socket: path::SOCKET.into(),
        port: delivery.port.map(number),
        path: delivery.path.clone(),
        timeout: delivery.timeout,
        ordering: delivery.ordering,
        concurrency: number(delivery.concurrency),
        batch: delivery.batch.clone(),
        backoff: delivery.backoff.clone(),
        max_attempts: delivery.max_attempts.map(number),
        dead_letter_topic: delivery.dead_letter_topic.clone(),
        duplicates_topic: delivery.duplicates_topic.clone(),
        app_down_timeout: delivery.app_down_timeout,
        buffer: delivery.buffer.clone(),
    }
}

/// The files that the configuration names, all but the drain token, and what each holds.
pub(super) fn files(spec: &IdempotentConsumerSpec) -> Vec<NamedFile> {
    let mut files = Vec::new();
    let mut mount = |folder: &str, name: &str, source: Option<Reference>| {
        if let Some(source) = source {
            files.push(NamedFile { path: format!("{folder}/{name}"), source });
        }
    };
    let mut tls = |folder: &str, tls: &TlsSpec| {
        mount(folder, "ca.crt", tls.ca_from.as_ref().and_then(of_file));
        mount(folder, "tls.crt", tls.certificate_from.as_ref().and_then(of_file));
        mount(folder, "tls.key", tls.key_from.as_ref().map(of_secret));
    };
    if let Some(kafka) = &spec.kafka.tls {
        tls("kafka", kafka);
    }
    if let Some(redis) = &spec.redis.tls {
        tls("redis", redis);
    }
    if let Some(sasl) = &spec.kafka.sasl {
        mount("kafka", "username", Some(of_secret(&sasl.username_from)));
        mount("kafka", "password", Some(of_secret(&sasl.password_from)));
    }
    mount("redis", "url", spec.redis.url_from.as_ref().map(of_secret));
    mount("redis", "username", spec.redis.username_from.as_ref().map(of_secret));
    mount("redis", "password", spec.redis.password_from.as_ref().map(of_secret));
    files
}

pub(super) fn of_secret(source: &SecretSource) -> Reference {
    reference(Kind::Secret, &source.secret_key_ref)
}

/// `None` where neither is named, which the schema refuses.
fn of_file(source: &FileSource) -> Option<Reference> {
    match (&source.secret_key_ref, &source.config_map_key_ref) {
        (Some(key), _) => Some(reference(Kind::Secret, key)),
        (None, Some(key)) => Some(reference(Kind::ConfigMap, key)),
        (None, None) => None,
    }
}

fn reference(kind: Kind, key: &KeyRef) -> Reference {
    Reference { kind, name: key.name.clone(), key: key.key.clone() }
}

/// The field of the resource from which a mounted file comes.
pub(super) fn field_of_file(path: &str) -> String {
    let (folder, name) = path.split_once('/').unwrap_or(("", path));
    let field = match name {
        "ca.crt" => "tls.caFrom",
        "tls.crt" => "tls.certificateFrom",
        "tls.key" => "tls.keyFrom",
        "url" => "urlFrom",
        "username" if folder == "kafka" => "sasl.usernameFrom",
        "password" if folder == "kafka" => "sasl.passwordFrom",
        "username" => "usernameFrom",
        "password" => "passwordFrom",
        other => other,
    };
    format!("spec.{folder}.{field}")
}

/// How the fields of the sidecar's file that name files are called in the resource.
const RENAMED: &[(&str, &str)] = &[
    ("redis.caFile", "redis.tls.caFrom"),
    ("redis.certificateFile", "redis.tls.certificateFrom"),
    ("redis.keyFile", "redis.tls.keyFrom"),
    ("caFile", "caFrom"),
    ("certificateFile", "certificateFrom"),
    ("keyFile", "keyFrom"),
    ("urlFile", "urlFrom"),
    ("usernameFile", "usernameFrom"),
    ("passwordFile", "passwordFrom"),
];

/// What is wrong with the configuration, told in the resource's words.
pub(super) fn mistake(problem: Problem) -> Mistake {
    let renamed = |text: &str| RENAMED.iter().fold(text.to_owned(), |text, (file, from)| text.replace(file, from));
    // The example of a renamed field would be the path of a file.
    let example = RENAMED.iter().all(|(file, _)| !problem.field.ends_with(file));
    let wrong = renamed(&problem.wrong);
    Mistake {
        reason: Reason::InvalidSpec,
        field: format!("spec.{}", renamed(&problem.field)),
        message: if example { format!("{wrong}; for example: {}", problem.example) } else { wrong },
    }
}
