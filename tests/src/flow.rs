//! Decides what tests of a running consumer stand on: planned events that keep flowing, an account of all that was published, and
//! an app that can be held up. I/O.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::app::{Act, App, Behaviour, behave};
use crate::env::Env;
use crate::ledger::Published;
use crate::offsets::Offsets;
use crate::publish::Plan;
use crate::rig::Rig;
use crate::sidecar::Sidecar;

/// How long anything may take that should happen soon.
pub const SOON: Duration = Duration::from_secs(20);

/// A [`Rig`], with an account of what was published to it.
#[derive(Debug)]
pub struct Flow {
    /// The test's own names and folder.
    pub env: Env,
    /// Its group's offsets.
    pub offsets: Offsets,
    /// What was published so far.
    pub published: Published,
    partitions: i32,
    rig: Rig,
}

impl Deref for Flow {
    type Target = Rig;

    fn deref(&self) -> &Rig {
        &self.rig
    }
}

impl DerefMut for Flow {
    fn deref_mut(&mut self) -> &mut Rig {
        &mut self.rig
    }
}

impl Flow {
    /// A topic with so many partitions, and an app on a unix socket that listens.
    ///
    /// # Errors
    /// Kafka or Redis can't be started.
    pub async fn new(env: Env, partitions: i32, behaviour: Behaviour) -> anyhow::Result<Self> {
        let app = env.app("app", behaviour)?;
        Self::with_app(env, partitions, app).await
    }

    /// The same with any app, which need not listen yet.
    ///
    /// # Errors
    /// Kafka or Redis can't be started.
    pub async fn with_app(env: Env, partitions: i32, app: App) -> anyhow::Result<Self> {
        let topic = env.topic("in", partitions).await?;
        let rig = Rig::with_app(&env, topic, "group", app).await?;
        Ok(Self { offsets: rig.offsets().await?, env, published: Published::default(), partitions, rig })
    }

    /// Publishes so many new events and 30 % duplicates, over all partitions.
    ///
    /// # Errors
    /// Kafka refuses one.
    pub async fn publish(&mut self, unique: usize) -> anyhow::Result<()> {
        self.publish_plan(&Plan::new(unique, self.partitions)).await
    }

    /// Publishes so many new events without duplicates, so that no partition's head waits for another's.
    ///
    /// # Errors
    /// Kafka refuses one.
    pub async fn publish_unique(&mut self, unique: usize) -> anyhow::Result<()> {
        self.publish_plan(&Plan { duplicates: 0.0, ..Plan::new(unique, self.partitions) }).await
    }

    /// Publishes what a plan says.
    ///
    /// # Errors
    /// Kafka refuses a record.
    pub async fn publish_plan(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let published = self.rig.publish_plan(plan).await?;
        self.published.extend(published);
        Ok(())
    }

    /// A sidecar by the configuration as it is now.
    ///
    /// # Errors
    /// It is not built, or it ended.
    pub async fn sidecar(&self, name: &str) -> anyhow::Result<Sidecar> {
        self.env.sidecar(name, &self.config).await
    }

    /// Waits until every record is settled and committed.
    ///
    /// # Panics
    /// Not soon.
    pub async fn settled(&self) {
        self.offsets.wait_until_settled(&self.topic, SOON).await;
    }

    /// Waits until every record is settled, and checks that each event took effect once.
    ///
    /// # Panics
    /// Not soon, or an event is missing or came twice.
    pub async fn settled_each_once(&self) {
        self.settled().await;
        self.app.ledger().check(&self.published).assert_each_once();
        self.app.assert_no_problems();
    }
}

/// A gate in an app: requests wait at it until the test lets them through.
#[derive(Clone, Debug)]
pub struct Turnstile(Arc<Semaphore>);

impl Default for Turnstile {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }
}

impl Turnstile {
    /// Lets so many requests through, now or when they come.
    pub fn let_through(&self, requests: usize) {
        self.0.add_permits(requests);
    }

    /// Lets all requests through from now on.
    pub fn open(&self) {
        self.0.close();
    }

    /// Completes each request once it is let through.
    #[must_use]
    pub fn complete(&self) -> Behaviour {
        let turnstile = self.clone();
        behave(move |_| {
            let turnstile = turnstile.clone();
            async move {
                turnstile.pass().await;
                Act::complete()
            }
        })
    }

    /// Waits to be let through.
    pub async fn pass(&self) {
        // A closed one lets everything through.
        if let Ok(permit) = self.0.acquire().await {
            permit.forget();
        }
    }
}
