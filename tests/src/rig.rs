//! Decides what most tests set up: a topic, an app, and what a sidecar between them is told. I/O.

use std::sync::Arc;
use std::time::Duration;

use ::sidecar::dead_letter::DeadLetter;
use ::sidecar::record::Header;
use anyhow::Context;
use crds::config::SidecarConfig;
use crds::status::{Condition, SidecarStatus};

use crate::app::{App, Behaviour};
use crate::env::Env;
use crate::ledger::Published;
use crate::offsets::{Offsets, Read, read_all};
use crate::publish::{Plan, Publisher, Raw};
use crate::redis::RedisServer;
use crate::sidecar::Sidecar;

/// How long a test's records may take until all are settled, where it names no other limit.
pub const SETTLED: Duration = Duration::from_secs(40);

/// One topic, one app, one consumer group. The sidecar between them is started once the test has changed `config` as it wants.
#[derive(Debug)]
pub struct Rig {
    env: Env,
    /// The topic.
    pub topic: String,
    /// What the sidecar is told.
    pub config: SidecarConfig,
    /// The app.
    pub app: App,
    /// Where its events are gated: shared with other tests, which have other groups.
    pub redis: Arc<RedisServer>,
}

impl Rig {
    /// A topic of so many partitions and an app that listens.
    ///
    /// # Errors
    /// Kafka or Redis cannot be started.
    pub async fn new(env: &Env, partitions: i32, behaviour: Behaviour) -> anyhow::Result<Self> {
        Self::on(env, env.topic("in", partitions).await?, "group", behaviour).await
    }

    /// Another group with an app of its own on a topic that is there, or is not.
    ///
    /// # Errors
    /// As [`Rig::new`].
    pub async fn on(env: &Env, topic: String, group: &str, behaviour: Behaviour) -> anyhow::Result<Self> {
        Self::with_app(env, topic, group, env.app(group, behaviour)?).await
    }

    /// The same with any app, which need not listen yet.
    ///
    /// # Errors
    /// As [`Rig::new`].
    pub async fn with_app(env: &Env, topic: String, group: &str, app: App) -> anyhow::Result<Self> {
        let redis = env.redis().await?;
        let mut config = env.config(&env.name(group), &topic, &redis.url(), app.at()).await?;
        config.session.ttl = crds::Duration::from_secs(2);
        Ok(Self { env: env.clone(), topic, config, app, redis })
    }

    /// Starts a sidecar.
    ///
    /// # Errors
    /// It ended.
    pub async fn start(&self) -> anyhow::Result<Sidecar> {
        let name = format!("sidecar-{}", self.app_name());
        self.env.sidecar(&name, &self.config).await
    }

    /// Starts a sidecar, and waits until it has settled what the topic holds.
    ///
    /// # Errors
    /// It ended.
    ///
    /// # Panics
    /// It has not settled all within [`SETTLED`].
    pub async fn run(&self) -> anyhow::Result<Sidecar> {
        let sidecar = self.start().await?;
        self.settled().await?;
        Ok(sidecar)
    }

    /// Waits until the group has settled what the topic holds.
    ///
    /// # Errors
    /// Kafka cannot be asked.
    ///
    /// # Panics
    /// It has not within [`SETTLED`].
    pub async fn settled(&self) -> anyhow::Result<()> {
        self.offsets().await?.wait_until_settled(&self.topic, SETTLED).await;
        Ok(())
    }

    /// The group's offsets.
    ///
    /// # Errors
    /// Kafka cannot be asked.
    pub async fn offsets(&self) -> anyhow::Result<Offsets> {
        self.env.offsets(&self.config.group).await
    }

    /// Produces records to the topic.
    ///
    /// # Errors
    /// The broker refused one.
    pub async fn publish(&self, records: Vec<Raw>) -> anyhow::Result<Published> {
        Publisher::new(&self.env.kafka().await?.bootstrap())?.send_all(&self.topic, records).await
    }

    /// Produces a plan's records to the topic.
    ///
    /// # Errors
    /// The broker refused one.
    pub async fn publish_plan(&self, plan: &Plan) -> anyhow::Result<Published> {
        plan.publish(&self.env.kafka().await?.bootstrap(), &self.topic).await
    }

    /// Makes a further topic of the test's own, with options.
    ///
    /// # Errors
    /// Kafka refuses it.
    pub async fn topic(&self, what: &str, config: &[(&str, &str)]) -> anyhow::Result<String> {
        let name = self.env.name(what);
        self.env.kafka().await?.create_topic(&name, 1, config).await?;
        Ok(name)
    }

    /// Makes a topic for dead letters, and tells the sidecar of it.
    ///
    /// # Errors
    /// Kafka refuses it.
    pub async fn dead_letter_topic(&mut self, config: &[(&str, &str)]) -> anyhow::Result<String> {
        let topic = self.topic("dead", config).await?;
        self.config.delivery.dead_letter_topic = Some(topic.clone());
        Ok(topic)
    }

    /// The copies of records that a topic holds, with what their headers say; by origin, since they may overtake each other.
    ///
    /// # Errors
    /// A record has not the headers of a copy.
    pub async fn copies(&self, topic: &str) -> anyhow::Result<Vec<(Read, DeadLetter)>> {
        let records = read_all(&self.env.kafka().await?.bootstrap(), topic).await?;
        let read = |record: Read| {
            let header = |(name, value): &(String, Option<Vec<u8>>)| Header {
                name: name.clone(),
                value: value.clone().map(Into::into),
            };
            let headers: Vec<_> = record.headers.iter().map(header).collect();
            let about = DeadLetter::from_headers(&headers).with_context(|| format!("{record:?}"))?;
            Ok((record, about))
        };
        let mut copies = records.into_iter().map(read).collect::<anyhow::Result<Vec<(Read, DeadLetter)>>>()?;
        copies.sort_by_key(|(_, about)| (about.origin.partition, about.offset));
        Ok(copies)
    }

    /// The key of an event the app was handed.
    ///
    /// # Panics
    /// It was not.
    #[must_use]
    pub fn key_of(&self, event: &str) -> String {
        let found = self.app.deliveries().into_iter().find(|delivered| delivered.event == event);
        found.unwrap_or_else(|| panic!("{event} was never delivered")).key
    }

    /// What Redis holds under a key.
    ///
    /// # Errors
    /// Redis does not answer, or the key holds no text.
    pub fn stored(&self, key: &str) -> anyhow::Result<Option<String>> {
        self.redis.command(&["GET", key])
    }

    /// The keys of this group's events, by the default prefix, sorted.
    ///
    /// # Errors
    /// Redis does not answer.
    pub fn keys(&self) -> anyhow::Result<Vec<String>> {
        let mut keys: Vec<String> = self.redis.command(&["KEYS", &format!("idempotency:{}:*", self.config.group)])?;
        keys.sort();
        Ok(keys)
    }

    /// The events the app was handed, in order, each with its attempt.
    #[must_use]
    pub fn attempts(&self) -> Vec<(String, u32)> {
        self.app.deliveries().into_iter().map(|event| (event.event, event.attempt)).collect()
    }

    fn app_name(&self) -> &str {
        self.config.group.rsplit('-').next().unwrap_or_default()
    }
}

/// A condition in a status.
#[must_use]
pub fn condition<'a>(status: &'a SidecarStatus, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.r#type == kind)
}
