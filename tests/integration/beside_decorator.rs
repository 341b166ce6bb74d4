//! Shows the sidecar beside services that still have the one-phase decorator, on one Redis with one prefix: what either has completed
//! the other skips, and what is given up by it. I/O.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use harness::app::{Act, Behaviour, act, complete};
use harness::decorator::{self, Handler, PREFIX, Places};
use harness::env::{Env, trial};
use harness::fault::{deliveries, quick_group, slow};
use harness::ledger::Published;
use harness::process::Process;
use harness::publish::{Plan, Raw};
use harness::redis::RedisServer;
use harness::rig::Rig;
use harness::sidecar::Sidecar;
use harness::wait::{equal, eventually};
use libtest_mimic::Trial;
use rustix::process::Signal;

const SOON: Duration = Duration::from_secs(30);

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        trial("beside_decorator::what_either_has_completed_the_other_skips", what_either_has_completed_the_other_skips),
        trial("beside_decorator::it_skips_what_we_hold_and_we_finish_it_after_a_kill", it_skips_what_we_hold),
        trial("beside_decorator::it_skips_what_we_have_released_and_we_finish_it", it_skips_what_we_have_released),
        trial("beside_decorator::what_it_marked_and_did_not_finish_is_lost_for_both", what_it_marked_is_lost_for_both),
        trial("beside_decorator::a_group_goes_on_where_the_other_kind_has_left_it", a_group_goes_on),
    ]
}

/// One topic, one Redis: a sidecar with its app, and a decorated consumer with its handler.
struct Both {
    env: Env,
    ours: Rig,
    theirs: Handler,
}

impl Both {
    async fn new(env: Env, partitions: i32, behaviour: Behaviour) -> anyhow::Result<Self> {
        let redis = RedisServer::with(&["--appendonly", "yes"])?;
        let mut ours = Rig::new(&env, partitions, behaviour).await?.with_redis(redis);
        ours.config.key_prefix = PREFIX.into();
        quick_group(&mut ours.config);
        let theirs = Handler::start(&env.socket("theirs"))?;
        Ok(Self { env, ours, theirs })
    }

    /// Starts the decorated consumer.
    async fn decorated(&self) -> anyhow::Result<Process> {
        let (kafka, redis) = (self.env.kafka().await?.bootstrap(), self.ours.redis.url());
        let (group, socket) = (self.their_group(), self.env.socket("theirs"));
        let places = Places { kafka: &kafka, topic: &self.ours.topic, group: &group, redis: &redis, socket: &socket };
        decorator::start(self.env.dir(), "decorated", &places, &[])
    }

    fn their_group(&self) -> String {
        self.env.name("decorated")
    }

    /// Waits until the decorated consumer has committed everything.
    async fn they_have_settled(&self) -> anyhow::Result<()> {
        self.env.offsets(&self.their_group()).await?.wait_until_settled(&self.ours.topic, SOON).await;
        Ok(())
    }

    /// What Redis holds for the one event there is.
    fn stored(&self) -> anyhow::Result<String> {
        let keys: Vec<String> = self.ours.redis.command(&["KEYS", &format!("{PREFIX}*")])?;
        ensure!(keys.len() == 1, "{keys:?}");
        self.ours.redis.command(&["GET", &keys[0]])
    }

    /// Both together have done each event once.
    fn each_once(&self, published: &Published) -> anyhow::Result<()> {
        let ours = self.ours.app.ledger().effects().into_iter().map(|effect| effect.event);
        let mut times = BTreeMap::<String, usize>::new();
        for event in ours.chain(self.theirs.done()) {
            *times.entry(event).or_default() += 1;
        }
        let wanted: BTreeMap<_, _> = published.events.keys().map(|event| (event.clone(), 1)).collect();
        equal(&times, &wanted).map_err(anyhow::Error::msg)
    }
}

async fn what_either_has_completed_the_other_skips(env: Env) -> anyhow::Result<()> {
    let both = Both::new(env, 2, slow(Duration::from_millis(2))).await?;
    let mut all = both.ours.publish_plan(&Plan::new(60, 2)).await?;
    let mut decorated = both.decorated().await?;
    both.they_have_settled().await?;
    ensure!(both.theirs.done().len() == 60);
    decorated.kill();
    let records = all.records() as u64;
    let sidecar = both.ours.run().await?;
    sidecar.counts(|c| (c.completed, c.duplicates) == (0, records)).await;

    all.extend(both.ours.publish_plan(&Plan::new(60, 2)).await?);
    both.ours.settled().await?;
    ensure!(both.ours.app.ledger().len() == 60);
    let _decorated = both.decorated().await?;
    both.they_have_settled().await?;
    ensure!(both.theirs.done().len() == 60, "it did what we had done");

    // And both at once.
    all.extend(both.ours.publish_plan(&Plan::new(300, 2)).await?);
    both.ours.settled().await?;
    both.they_have_settled().await?;
    both.each_once(&all)
}

async fn it_skips_what_we_hold(env: Env) -> anyhow::Result<()> {
    let both = Both::new(env, 1, act(|_| Act::hang())).await?;
    let published = both.ours.publish(vec![Raw::event("a")]).await?;
    let sidecar = both.ours.start().await?;
    deliveries(&both.ours.app, 1).await;
    ensure!(both.stored()?.starts_with("c:"), "{}", both.stored()?);
    we_finish_it(&both, sidecar, &published).await
}

async fn it_skips_what_we_have_released(env: Env) -> anyhow::Result<()> {
    let both = Both::new(env, 1, act(|_| Act::status(503).header("retry-after", "60"))).await?;
    let published = both.ours.publish(vec![Raw::event("a")]).await?;
    let sidecar = both.ours.start().await?;
    eventually("the event is released", SOON, async || {
        equal(&both.stored().map_err(|e| e.to_string())?, &"c:-:1".to_owned())
    })
    .await;
    we_finish_it(&both, sidecar, &published).await
}

/// The decorated consumer skips the one event, which we have begun, and commits past it; we are killed, and then finish it.
async fn we_finish_it(both: &Both, mut sidecar: Sidecar, published: &Published) -> anyhow::Result<()> {
    let _decorated = both.decorated().await?;
    both.they_have_settled().await?;
    ensure!(both.theirs.begun() == 0, "it took what we had begun");
    sidecar.kill();
    both.ours.app.behave(complete());
    sidecar.restart().await?;
    both.ours.settled().await?;
    ensure!(both.ours.attempts() == [("a".into(), 1), ("a".into(), 2)], "{:?}", both.ours.attempts());
    both.each_once(published)
}

/// What sharing gives up: the mark of a decorator says that an event is done while it is not. `docs/migrate-from-decorator.md` tells of it.
async fn what_it_marked_is_lost_for_both(env: Env) -> anyhow::Result<()> {
    let both = Both::new(env, 1, complete()).await?;
    both.theirs.hang(true);
    both.ours.publish(vec![Raw::event("a")]).await?;
    let mut decorated = both.decorated().await?;
    eventually("its handler has begun", SOON, async || both.theirs.begun() == 1).await;
    ensure!(both.stored()? == "1", "{}", both.stored()?);
    decorated.kill();
    both.theirs.hang(false);

    let sidecar = both.ours.run().await?;
    sidecar.counts(|c| (c.completed, c.duplicates) == (0, 1)).await;
    let _again = both.decorated().await?;
    both.they_have_settled().await?;
    ensure!(both.theirs.begun() == 1 && both.theirs.done().is_empty(), "it came back for the event");
    ensure!(both.ours.app.requests() == 0);
    Ok(())
}

/// The switch and the way back, as the guide has them: one group, first decorated, then ours, then decorated again.
async fn a_group_goes_on(env: Env) -> anyhow::Result<()> {
    let mut both = Both::new(env, 1, complete()).await?;
    let event = |uid: &str| vec![Raw::event(uid)];
    let mut all = both.ours.publish(event("a")).await?;
    let mut decorated = both.decorated().await?;
    both.they_have_settled().await?;
    // It ends with its next event.
    decorated.signal(Signal::TERM)?;
    all.extend(both.ours.publish(event("b")).await?);
    decorated.wait(SOON).await;

    both.ours.config.group = both.their_group();
    all.extend(both.ours.publish(event("c")).await?);
    let mut sidecar = both.ours.run().await?;
    sidecar.counts(|c| (c.received, c.completed) == (1, 1)).await;
    sidecar.terminate(SOON).await?;

    all.extend(both.ours.publish(event("d")).await?);
    let _decorated = both.decorated().await?;
    both.they_have_settled().await?;
    equal(&both.theirs.done(), &["a", "b", "d"].map(String::from).to_vec()).map_err(anyhow::Error::msg)?;
    both.each_once(&all)
}
