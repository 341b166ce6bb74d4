//! Shows what happens while Redis is away, forgets, or holds what is not ours: nothing is lost, and the sidecar says what it can
//! promise. I/O.

use std::time::Duration;

use anyhow::{Context, ensure};
use crds::config::FailurePolicy;
use crds::status::{Protection, SidecarStatus};
use harness::app::complete;
use harness::env::{Env, trial};
use harness::fault::{deliveries, effects, slow};
use harness::ledger::Check;
use harness::publish::{Plan, Raw};
use harness::redis::RedisServer;
use harness::rig::{Rig, condition};
use harness::sidecar::Sidecar;
use harness::wait::{always, equal, eventually};
use libtest_mimic::Trial;

const SOON: Duration = Duration::from_secs(10);

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        trial("redis_away::open_delivers_on_and_writes_back", open_delivers_on_and_writes_back),
        trial("redis_away::open_loses_nothing_with_two_members", open_loses_nothing_with_two_members),
        trial("redis_away::closed_waits_and_goes_on", closed_waits_and_goes_on),
        trial("redis_away::a_frozen_redis_is_away_too", a_frozen_redis_is_away_too),
        trial("redis_away::open_delivers_without_a_redis_from_the_start", open_delivers_without_a_redis_from_the_start),
        trial("redis_away::closed_waits_for_a_redis_from_the_start", closed_waits_for_a_redis_from_the_start),
        trial("redis_away::a_flush_is_noticed_and_remembered_over", a_flush_is_noticed),
        trial("redis_away::a_redis_that_comes_back_empty_is_noticed", a_redis_that_comes_back_empty_is_noticed),
        trial(
            "redis_away::a_redis_that_comes_back_empty_is_noticed_after_any_time",
            a_redis_that_comes_back_empty_is_noticed_after_any_time,
        ),
        trial("redis_away::open_delivers_over_a_value_of_the_wrong_type", open_delivers_over_a_wrong_type),
        trial("redis_away::closed_waits_for_a_value_of_the_wrong_type", closed_waits_for_a_wrong_type),
        trial("redis_away::a_foreign_value_is_held_and_reported", a_foreign_value_is_held_and_reported),
        trial("redis_away::a_full_redis_counts_as_away", a_full_redis_counts_as_away),
        trial("redis_away::an_evicting_redis_is_warned_of", an_evicting_redis_is_warned_of),
    ]
}

/// A Redis that has its data again after it was killed, as one with persistence has.
fn lasting() -> anyhow::Result<RedisServer> {
    RedisServer::with(&["--appendonly", "yes"])
}

/// A rig with such a Redis, an app that needs a moment for each event, and a topic of two partitions.
async fn rig(env: &Env, policy: FailurePolicy) -> anyhow::Result<Rig> {
    let mut rig = Rig::new(env, 2, slow(Duration::from_millis(3))).await?.with_redis(lasting()?);
    rig.config.redis.failure_policy = policy;
    Ok(rig)
}

fn unhealthy(status: &SidecarStatus, kind: &str) -> bool {
    condition(status, kind).is_some_and(|condition| !condition.status)
}

/// Waits until the sidecar says everywhere that it is less than fully protected.
async fn wait_until_away(sidecar: &Sidecar) -> anyhow::Result<SidecarStatus> {
    let status = sidecar.wait_for("Redis is away", SOON, |status| unhealthy(status, "Protected")).await;
    ensure!(status.protection != Protection::Full, "{:?}", status.protection);
    ensure!(sidecar.metric("idempotency_condition", &["type=\"Protected\""]).await? == 0.0);
    ensure!(sidecar.metric("idempotency_protection", &[]).await? < 2.0);
    // The breaker opens a moment after the session is gone.
    eventually("the breaker is open", SOON, async || {
        sidecar.metric("idempotency_breaker_open", &[]).await.is_ok_and(|open| open == 1.0)
    })
    .await;
    Ok(status)
}

async fn wait_until_back(sidecar: &Sidecar) -> SidecarStatus {
    let back = |status: &SidecarStatus| status.protection == Protection::Full && !unhealthy(status, "Protected");
    sidecar.wait_for("Redis is back", SOON, back).await
}

async fn open_delivers_on_and_writes_back(env: Env) -> anyhow::Result<()> {
    let mut rig = rig(&env, FailurePolicy::Open).await?;
    let published = rig.publish_plan(&Plan::new(1_500, 2)).await?;
    let sidecar = rig.start().await?;
    effects(&rig.app, 200).await;
    rig.own_redis().kill()?;
    let status = wait_until_away(&sidecar).await?;
    ensure!(status.ready && status.protection == Protection::Local, "{status:?}");
    let from = rig.app.ledger().len();
    effects(&rig.app, from + 200).await;
    let away = rig.app.ledger().effects();
    ensure!(away[from + 5..].iter().all(|effect| effect.protection == "local"), "{:?}", &away[from + 5..]);
    ensure!(away.len() < 1_500, "it was over before Redis came back");
    rig.own_redis().restart()?;
    wait_until_back(&sidecar).await;
    rig.settled().await?;
    // It has all partitions, so its own memory knows every duplicate.
    rig.app.ledger().check(&published).assert_each_once();
    eventually("every event is marked done", SOON, async || equal(&rig.done().unwrap_or(0), &1_500)).await;
    ensure!(sidecar.metric("idempotency_write_back_queue", &[]).await? == 0.0);
    Ok(())
}

async fn open_loses_nothing_with_two_members(env: Env) -> anyhow::Result<()> {
    let mut rig = rig(&env, FailurePolicy::Open).await?;
    let published = rig.publish_plan(&Plan::new(1_500, 2)).await?;
    let (one, other) = (env.sidecar("one", &rig.config).await?, env.sidecar("other", &rig.config).await?);
    for sidecar in [&one, &other] {
        sidecar.wait_for("its own partition", SOON, |status| status.partitions.len() == 1).await;
    }
    rig.own_redis().kill()?;
    for sidecar in [&one, &other] {
        // Neither knows what the other has done.
        ensure!(wait_until_away(sidecar).await?.protection == Protection::None);
    }
    let from = rig.app.ledger().len();
    effects(&rig.app, from + 100).await;
    rig.own_redis().restart()?;
    for sidecar in [&one, &other] {
        wait_until_back(sidecar).await;
    }
    rig.settled().await?;
    let check = rig.app.ledger().check(&published);
    check.assert_none_lost();
    let unsaid = unsaid(&check);
    // An id that one has not written back yet is new to the other: the window that outlasts the outage by a moment.
    ensure!(unsaid < 50, "{unsaid} second deliveries under full protection");
    Ok(())
}

fn unsaid(check: &Check) -> usize {
    check.second().iter().filter(|effect| effect.protection == "full" && effect.attempt == 1).count()
}

async fn closed_waits_and_goes_on(env: Env) -> anyhow::Result<()> {
    let mut rig = rig(&env, FailurePolicy::Closed).await?;
    let published = rig.publish_plan(&Plan::new(1_500, 2)).await?;
    let sidecar = rig.start().await?;
    effects(&rig.app, 200).await;
    rig.own_redis().kill()?;
    let status = wait_until_away(&sidecar).await?;
    ensure!(!status.ready, "{status:?}");
    wait_until_quiet(&sidecar).await;
    let before = rig.app.requests();
    ensure!(before < 1_500, "it was over before Redis left");
    always("nothing is delivered", Duration::from_secs(2), async || equal(&rig.app.requests(), &before)).await;
    rig.own_redis().restart()?;
    wait_until_back(&sidecar).await;
    rig.settled().await?;
    rig.app.ledger().check(&published).assert_each_once();
    rig.all_say("full", 0)
}

/// Waits until the app has answered what it had been sent.
async fn wait_until_quiet(sidecar: &Sidecar) {
    eventually("no request is under way", SOON, async || {
        sidecar.metric("idempotency_in_flight", &[]).await.is_ok_and(|count| count == 0.0)
    })
    .await;
}

async fn a_frozen_redis_is_away_too(env: Env) -> anyhow::Result<()> {
    let mut rig = rig(&env, FailurePolicy::Open).await?;
    let published = rig.publish_plan(&Plan::new(1_500, 2)).await?;
    let sidecar = rig.start().await?;
    effects(&rig.app, 200).await;
    rig.own_redis().freeze()?;
    wait_until_away(&sidecar).await?;
    let from = rig.app.ledger().len();
    effects(&rig.app, from + 200).await;
    rig.own_redis().thaw()?;
    wait_until_back(&sidecar).await;
    rig.settled().await?;
    rig.app.ledger().check(&published).assert_each_once();
    eventually("every event is marked done", SOON, async || equal(&rig.done().unwrap_or(0), &1_500)).await;
    Ok(())
}

async fn open_delivers_without_a_redis_from_the_start(env: Env) -> anyhow::Result<()> {
    let mut rig = rig(&env, FailurePolicy::Open).await?;
    rig.own_redis().kill()?;
    let published = rig.publish_plan(&Plan::new(300, 2)).await?;
    let sidecar = rig.run().await?;
    rig.app.ledger().check(&published).assert_each_once();
    let effects = rig.app.ledger().effects();
    ensure!(effects.iter().all(|effect| effect.protection != "full"), "{effects:?}");
    rig.own_redis().restart()?;
    wait_until_back(&sidecar).await;
    eventually("every event is marked done", SOON, async || equal(&rig.done().unwrap_or(0), &300)).await;
    Ok(())
}

async fn closed_waits_for_a_redis_from_the_start(env: Env) -> anyhow::Result<()> {
    let mut rig = rig(&env, FailurePolicy::Closed).await?;
    rig.own_redis().kill()?;
    let published = rig.publish_plan(&Plan::new(300, 2)).await?;
    let sidecar = rig.start().await?;
    let held = |status: &SidecarStatus| status.partitions.iter().any(|partition| partition.buffered > 0);
    let status = sidecar.wait_for("records wait", SOON, held).await;
    ensure!(!status.ready && unhealthy(&status, "Protected"), "{status:?}");
    always("nothing is delivered", Duration::from_secs(2), async || equal(&rig.app.requests(), &0)).await;
    rig.own_redis().restart()?;
    rig.settled().await?;
    rig.app.ledger().check(&published).assert_each_once();
    rig.all_say("full", 0)
}

async fn a_flush_is_noticed(env: Env) -> anyhow::Result<()> {
    let rig = rig(&env, FailurePolicy::Open).await?;
    let plan = Plan::new(200, 2);
    let mut published = rig.publish_plan(&plan).await?;
    let sidecar = rig.run().await?;
    rig.redis.command::<()>(&["FLUSHALL"])?;
    let status = sidecar.wait_for("the loss", SOON, |status| unhealthy(status, "DataKept")).await;
    ensure!(status.protection == Protection::Local, "{:?}", status.protection);
    // Redis has forgotten them all; the sidecar has not.
    published.extend(rig.publish_plan(&plan).await?);
    published.extend(rig.publish(vec![Raw::event("new")]).await?);
    rig.settled().await?;
    rig.app.ledger().check(&published).assert_each_once();
    rig.all_say("local", 200)
}

async fn a_redis_that_comes_back_empty_is_noticed(env: Env) -> anyhow::Result<()> {
    let mut rig = rig(&env, FailurePolicy::Open).await?.with_redis(RedisServer::start()?);
    // It is back before its sessions would have run out, and before the sidecar would count it as away.
    rig.config.session.ttl = crds::Duration::from_secs(10);
    let published = rig.publish_plan(&Plan::new(1_500, 2)).await?;
    let sidecar = rig.start().await?;
    effects(&rig.app, 500).await;
    rig.own_redis().restart()?;
    let status = sidecar.wait_for("the loss", SOON, |status| unhealthy(status, "DataKept")).await;
    ensure!(status.protection == Protection::Local, "{:?}", status.protection);
    ensure!(rig.app.ledger().len() < 1_500, "it was over before the loss was noticed");
    rig.settled().await?;
    // It has all partitions, so its own memory knows every duplicate.
    rig.app.ledger().check(&published).assert_each_once();
    Ok(())
}

/// Its session has run out long since, as in any longer outage: nothing of it is missing.
async fn a_redis_that_comes_back_empty_is_noticed_after_any_time(env: Env) -> anyhow::Result<()> {
    let mut rig = rig(&env, FailurePolicy::Open).await?.with_redis(RedisServer::start()?);
    rig.config.session.ttl = crds::Duration::from_secs(2);
    let plan = Plan::new(100, 2);
    let mut published = rig.publish_plan(&plan).await?;
    let sidecar = rig.run().await?;
    rig.own_redis().kill()?;
    let away = wait_until_away(&sidecar).await?;
    ensure!(away.session.is_none(), "its session goes on: {:?}", away.session);
    always("Redis is away until the session has run out", Duration::from_secs(3), async || {
        equal(&sidecar.status().await.map(|status| unhealthy(&status, "Protected")).ok(), &Some(true))
    })
    .await;
    rig.own_redis().restart()?;
    let status = sidecar.wait_for("the loss", SOON, |status| unhealthy(status, "DataKept")).await;
    ensure!(status.protection == Protection::Local, "{:?}", status.protection);
    published.extend(rig.publish_plan(&plan).await?);
    rig.settled().await?;
    rig.app.ledger().check(&published).assert_each_once();
    Ok(())
}

/// Has one event delivered, and puts something else under its key, of which it returns the name.
async fn spoil(rig: &Rig, command: &[&str]) -> anyhow::Result<String> {
    rig.publish(vec![Raw::event("a")]).await?;
    effects(&rig.app, 1).await;
    rig.settled().await?;
    let key = rig.key_of("a");
    rig.redis.command::<()>(&["DEL", &key])?;
    let (name, rest) = command.split_first().context("no command")?;
    rig.redis.command::<i64>(&[&[*name, &key], rest].concat())?;
    rig.publish(vec![Raw::event("a")]).await?;
    Ok(key)
}

async fn wait_for_unusable(sidecar: &Sidecar, key: &str) {
    sidecar
        .wait_for("the key is named", SOON, |status| {
            let found = condition(status, "KeysReadable");
            found.is_some_and(|condition| !condition.status && condition.message.contains(key))
        })
        .await;
}

async fn open_delivers_over_a_wrong_type(env: Env) -> anyhow::Result<()> {
    let rig = rig(&env, FailurePolicy::Open).await?;
    let sidecar = rig.start().await?;
    let key = spoil(&rig, &["LPUSH", "x"]).await?;
    wait_for_unusable(&sidecar, &key).await;
    rig.settled().await?;
    let protections: Vec<_> = rig.app.ledger().effects().into_iter().map(|effect| effect.protection).collect();
    ensure!(protections == ["full", "local"], "{protections:?}");
    ensure!(sidecar.metric("idempotency_store_errors_total", &["kind=\"wrong_type\""]).await? > 0.0);
    ensure!(sidecar.metric("idempotency_breaker_open", &[]).await? == 0.0, "Redis itself is well");
    Ok(())
}

async fn closed_waits_for_a_wrong_type(env: Env) -> anyhow::Result<()> {
    let rig = rig(&env, FailurePolicy::Closed).await?;
    let sidecar = rig.start().await?;
    let key = spoil(&rig, &["LPUSH", "x"]).await?;
    wait_for_unusable(&sidecar, &key).await;
    always("it is not delivered", Duration::from_secs(1), async || equal(&rig.app.requests(), &1)).await;
    rig.redis.command::<()>(&["DEL", &key])?;
    effects(&rig.app, 2).await;
    rig.settled().await?;
    rig.all_say("full", 0)
}

async fn a_foreign_value_is_held_and_reported(env: Env) -> anyhow::Result<()> {
    let rig = rig(&env, FailurePolicy::Open).await?;
    let sidecar = rig.start().await?;
    let key = spoil(&rig, &["APPEND", "not ours"]).await?;
    rig.publish(vec![Raw::event("behind").to(0), Raw::event("behind").to(1)]).await?;
    wait_for_unusable(&sidecar, &key).await;
    ensure!(sidecar.metric("idempotency_claims_total", &["result=\"foreign\""]).await? > 0.0);
    always("it is not delivered", Duration::from_secs(1), async || {
        equal(&rig.attempts().iter().filter(|(event, _)| event == "a").count(), &1)
    })
    .await;
    rig.redis.command::<()>(&["DEL", &key])?;
    deliveries(&rig.app, 3).await;
    rig.settled().await?;
    rig.all_say("full", 0)
}

async fn a_full_redis_counts_as_away(env: Env) -> anyhow::Result<()> {
    let rig = rig(&env, FailurePolicy::Open).await?;
    let sidecar = rig.start().await?;
    let mut published = rig.publish_plan(&Plan::new(100, 2)).await?;
    rig.settled().await?;
    rig.redis.command::<()>(&["CONFIG", "SET", "maxmemory", "1"])?;
    let status = wait_until_away(&sidecar).await?;
    let message = condition(&status, "Protected").context("no condition")?.message.clone();
    ensure!(message.contains("OOM"), "it does not say why: {message}");
    published.extend(rig.publish_plan(&Plan::new(100, 2)).await?);
    rig.settled().await?;
    rig.all_say("local", 100)?;
    rig.redis.command::<()>(&["CONFIG", "SET", "maxmemory", "0"])?;
    wait_until_back(&sidecar).await;
    eventually("every event is marked done", SOON, async || equal(&rig.done().unwrap_or(0), &200)).await;
    rig.app.ledger().check(&published).assert_each_once();
    Ok(())
}

async fn an_evicting_redis_is_warned_of(env: Env) -> anyhow::Result<()> {
    let redis = RedisServer::with(&["--maxmemory-policy", "allkeys-lru"])?;
    let rig = Rig::new(&env, 1, complete()).await?.with_redis(redis);
    let sidecar = rig.start().await?;
    let status = sidecar.wait_for("the danger", SOON, |status| unhealthy(status, "EvictionSafe")).await;
    let message = &condition(&status, "EvictionSafe").context("no condition")?.message;
    ensure!(message.contains("allkeys-lru") && message.contains("maxmemory-policy noeviction"), "{message}");
    ensure!(sidecar.log().contains("EvictionSafe"), "no warning in the log");
    ensure!(sidecar.metric("idempotency_condition", &["type=\"EvictionSafe\""]).await? == 0.0);
    Ok(())
}
