//! Decides what tests of faults share: an app that holds requests back, members that are missed soon, a Redis of the test's own. I/O.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use crds::config::SidecarConfig;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::app::{Act, App, Behaviour, behave};
use crate::ledger::Published;
use crate::publish::Plan;
use crate::redis::RedisServer;
use crate::rig::Rig;
use crate::sidecar::Sidecar;
use crate::wait::{LOOK_AGAIN, eventually};

/// Events that a stream lets wait at the app.
const BACKLOG: usize = 600;

/// Holds the app's requests back until it is opened. A clone is the same door.
#[derive(Clone, Debug)]
pub struct Door(watch::Sender<bool>);

impl Default for Door {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Door {
    /// A closed door.
    #[must_use]
    pub fn closed() -> Self {
        Self::default()
    }

    /// Lets everything through from now on, also what waits.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until it is open.
    pub async fn pass(&self) {
        // The sender lives in `self`, so waiting can't fail.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }

    /// Completes everything; the event of that name only once the door is open.
    #[must_use]
    pub fn before(&self, event: &str) -> Behaviour {
        let (door, held) = (self.clone(), event.to_owned());
        behave(move |request| {
            let (door, held) = (door.clone(), request.event().event == held);
            async move {
                if held {
                    door.pass().await;
                }
                Act::complete()
            }
        })
    }
}

/// Completes everything, and takes that long for each.
#[must_use]
pub fn slow(work: Duration) -> Behaviour {
    crate::app::act(move |_| Act::complete().after(work))
}

/// Kafka notices quickly that a member is gone, or new. The session's TTL has to be shorter.
pub fn quick_group(config: &mut SidecarConfig) {
    for (name, value) in [("session.timeout.ms", "3000"), ("heartbeat.interval.ms", "200")] {
        config.kafka.properties.insert(name.into(), value.into());
    }
}

/// Waits until so many effects took place.
///
/// # Panics
/// They have not within half a minute.
pub async fn effects(app: &App, count: usize) {
    eventually(format!("{count} effects"), Duration::from_secs(30), async || {
        let there = app.ledger().len();
        if there >= count { Ok(()) } else { Err(format!("{there}; problems: {:?}", app.problems())) }
    })
    .await;
}

/// Waits until the app was sent so many events, whatever became of them.
///
/// # Panics
/// It was not within half a minute.
pub async fn deliveries(app: &App, count: usize) {
    eventually(format!("{count} deliveries"), Duration::from_secs(30), async || {
        let there = app.deliveries().len();
        if there >= count { Ok(()) } else { Err(format!("{there}; problems: {:?}", app.problems())) }
    })
    .await;
}

/// The session under which a sidecar claims, once it has one.
///
/// # Errors
/// It does not say.
///
/// # Panics
/// It has none within half a minute.
pub async fn session_of(sidecar: &Sidecar) -> anyhow::Result<String> {
    let status = sidecar.wait_for("a session", Duration::from_secs(30), |status| status.session.is_some()).await;
    status.session.context("no session")
}

/// Events that keep coming, as fast as the app takes them, until it is stopped.
#[derive(Debug)]
pub struct Stream {
    over: watch::Sender<()>,
    publishing: JoinHandle<anyhow::Result<Published>>,
}

impl Stream {
    /// Starts one into that rig's topic.
    #[must_use]
    pub fn start(rig: &Rig, bootstrap: String, partitions: i32) -> Self {
        let (over, running) = watch::channel(());
        let (topic, ledger) = (rig.topic.clone(), rig.app.ledger().clone());
        let publishing = tokio::spawn(async move {
            let mut published = Published::default();
            // An error means that the sender is gone.
            while running.has_changed().is_ok() {
                if published.unique() > ledger.len() + BACKLOG {
                    tokio::time::sleep(LOOK_AGAIN).await;
                } else {
                    published.extend(Plan::new(300, partitions).publish(&bootstrap, &topic).await?);
                }
            }
            Ok(published)
        });
        Self { over, publishing }
    }

    /// Ends it, and tells what it has published.
    ///
    /// # Errors
    /// The broker refused a record.
    pub async fn stop(self) -> anyhow::Result<Published> {
        drop(self.over);
        self.publishing.await?
    }
}

impl Rig {
    /// The same with a Redis of the test's own.
    #[must_use]
    pub fn with_redis(mut self, redis: RedisServer) -> Self {
        self.config.redis.url = Some(redis.url());
        self.redis = Arc::new(redis);
        self
    }

    /// The Redis of the test's own, to stop and start it.
    ///
    /// # Panics
    /// It is shared.
    pub fn own_redis(&mut self) -> &mut RedisServer {
        Arc::get_mut(&mut self.redis).expect("a Redis of the test's own")
    }

    /// How many of this group's keys say that their event is done.
    ///
    /// # Errors
    /// Redis does not answer.
    pub fn done(&self) -> anyhow::Result<usize> {
        let mut done = 0;
        for key in self.keys()? {
            done += usize::from(self.stored(&key)?.is_some_and(|value| value == "1" || value.starts_with("1:")));
        }
        Ok(done)
    }

    /// Does the key of that session exist?
    ///
    /// # Errors
    /// Redis does not answer.
    pub fn session_exists(&self, session: &str) -> anyhow::Result<bool> {
        self.redis.command(&["EXISTS", &format!("{}{session}", self.config.session.prefix)])
    }

    /// # Errors
    /// A delivery did not say so.
    pub fn all_say(&self, protection: &str, from: usize) -> anyhow::Result<()> {
        let effects = self.app.ledger().effects();
        let other = effects.iter().skip(from).find(|effect| effect.protection != protection);
        ensure!(other.is_none(), "not under protection {protection}: {other:?}");
        effects.get(from).map(|_| ()).context("no delivery at all")
    }
}
