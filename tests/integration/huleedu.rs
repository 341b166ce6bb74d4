//! Shows that the four services of `examples/huleedu` get what their platform had from the decorator: its ids, its keys, its outcomes;
//! and one batch that goes through all four of them while Redis goes away. I/O.

use std::time::Duration;

use anyhow::ensure;
use harness::app::{Act, Behaviour, act, complete};
use harness::decorator::PREFIX;
use harness::env::{Env, trial, trial_within};
use harness::fault::{deliveries, quick_group};
use harness::huleedu::{self, Account, DEAD_LETTERS, Duplicator, SPELLCHECK_REQUESTED, Service, TOPICS, local};
use harness::offsets::read_all;
use harness::publish::{Publisher, Raw};
use harness::redis::RedisServer;
use harness::rig::Rig;
use harness::wait::{equal, eventually};
use libtest_mimic::Trial;
use serde_json::json;

/// SHA-256 of what Python's `json.dumps(…, sort_keys=True, separators=(",", ":"))` makes of the essay below.
const ESSAY: &str = "608fdc1334ac2150669174841c75270f6a35e462f0bfe22d3b48f705acca2173";
const SOON: Duration = Duration::from_secs(15);

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        trial_within(
            Duration::from_secs(180),
            "huleedu::a_batch_goes_through_all_four_while_redis_goes_away",
            a_batch_goes_through_all_four_while_redis_goes_away,
        ),
        trial("huleedu::one_data_has_one_id_in_all_four", one_data_has_one_id_in_all_four),
        trial("huleedu::a_key_is_found_refused_and_deleted_as_the_decorators", a_key_is_found_refused_and_deleted),
        trial("huleedu::a_failed_event_is_free_at_once_for_another_service", a_failed_event_is_free_at_once),
        trial("huleedu::a_rejected_event_is_done_for_every_service_that_shares", a_rejected_event_is_done),
    ]
}

/// The same essay in another envelope each time.
fn essay(kind: &str) -> Raw {
    let data = json!({
        "text": "Größe",
        "metadata": {"entity": {"entity_type": "essay", "entity_id": "essay-1"}},
        "score": 1.0,
    });
    huleedu::event(kind, "essay-1", &data)
}

async fn one_data_has_one_id_in_all_four(env: Env) -> anyhow::Result<()> {
    for service in Service::all()? {
        let config = local::rendered(&service)?;
        let mut rig = Rig::on(&env, env.topic(service.name(), 1).await?, service.name(), complete()).await?;
        (rig.config.event_id, rig.config.key_prefix) = (config.event_id, config.key_prefix);
        let kind = service.topics()[0];
        rig.publish(vec![essay(kind), essay(kind), essay(kind)]).await?;
        let sidecar = rig.run().await?;
        let keys: Vec<_> = rig.app.deliveries().into_iter().map(|event| event.key).collect();
        let wanted = format!("idempotency:{}:{}:{kind}:{ESSAY}", rig.config.group, rig.topic);
        ensure!(keys == [wanted], "{}: {keys:?}", service.name());
        sidecar.counts(|c| (c.completed, c.duplicates, c.suspects) == (1, 2, 2)).await;
    }
    Ok(())
}

/// A service with the decorator's keys on a Redis with AOF, as the platform has it.
async fn sharing(env: &Env, redis: RedisServer, behaviour: Behaviour) -> anyhow::Result<Rig> {
    let mut rig = Rig::new(env, 1, behaviour).await?.with_redis(redis);
    rig.config.key_prefix = PREFIX.into();
    quick_group(&mut rig.config);
    Ok(rig)
}

/// A second service on the same topic, Redis and keys.
async fn beside(env: &Env, one: &Rig, behaviour: Behaviour) -> anyhow::Result<Rig> {
    let mut other = Rig::on(env, one.topic.clone(), "other", behaviour).await?;
    other.config.redis.url.clone_from(&one.config.redis.url);
    other.redis = one.redis.clone();
    other.config.key_prefix = PREFIX.into();
    Ok(other)
}

fn lasting() -> anyhow::Result<RedisServer> {
    RedisServer::with(&["--appendonly", "yes"])
}

async fn a_key_is_found_refused_and_deleted(env: Env) -> anyhow::Result<()> {
    let mut rig = sharing(&env, lasting()?, complete()).await?;
    rig.config.ttl_overrides = local::rendered(&Service::named("spell-checker")?)?.ttl_overrides;
    rig.publish(vec![essay(SPELLCHECK_REQUESTED)]).await?;
    let mut sidecar = rig.run().await?;
    let keys: Vec<String> = rig.redis.command(&["KEYS", &format!("{PREFIX}*")])?;
    let key = format!("{PREFIX}{ESSAY}");
    ensure!(keys == [key.clone()], "{keys:?}");
    ensure!(rig.stored(&key)?.is_some_and(|value| value == "1" || value.starts_with("1:")));
    let left: i64 = rig.redis.command(&["TTL", &key])?;
    ensure!((3_500..=3_600).contains(&left), "a spell check is remembered for an hour: {left} s left");
    // What the decorator asks: is it there, may I set it.
    ensure!(rig.redis.command::<i64>(&["EXISTS", &key])? == 1);
    let refused: Option<String> = rig.redis.command(&["SET", &key, "1", "EX", "86400", "NX"])?;
    ensure!(refused.is_none(), "the decorator would process what we have processed");

    // What a person does to have an event processed again.
    ensure!(rig.redis.command::<i64>(&["DEL", &key])? == 1);
    sidecar.restart().await?;
    rig.publish(vec![essay(SPELLCHECK_REQUESTED)]).await?;
    rig.settled().await?;
    ensure!(rig.app.deliveries().len() == 2, "{:?}", rig.attempts());
    ensure!(rig.redis.command::<i64>(&["EXISTS", &key])? == 1);
    Ok(())
}

async fn a_failed_event_is_free_at_once(env: Env) -> anyhow::Result<()> {
    // It fails, and asks not to be asked for a minute.
    let failing = act(|_| Act::status(503).header("retry-after", "60"));
    let one = sharing(&env, lasting()?, failing).await?;
    let other = beside(&env, &one, complete()).await?;
    one.publish(vec![essay(SPELLCHECK_REQUESTED)]).await?;
    let _failing = one.start().await?;
    deliveries(&one.app, 1).await;
    let key = format!("{PREFIX}{ESSAY}");
    eventually("the event is released", Duration::from_secs(2), async || {
        equal(&one.stored(&key).map_err(|e| e.to_string())?, &Some("c:-:1".into()))
    })
    .await;
    let _taking = other.start().await?;
    eventually("the other has it", SOON, async || other.app.ledger().len() == 1).await;
    let attempts: Vec<_> = other.app.deliveries().into_iter().map(|event| event.attempt).collect();
    ensure!(attempts == [2], "it may have had its effect at the first: {attempts:?}");
    Ok(())
}

async fn a_rejected_event_is_done(env: Env) -> anyhow::Result<()> {
    let one = sharing(&env, lasting()?, act(|_| Act::reject())).await?;
    let other = beside(&env, &one, complete()).await?;
    one.publish(vec![essay(SPELLCHECK_REQUESTED), essay(SPELLCHECK_REQUESTED)]).await?;
    let rejecting = one.run().await?;
    rejecting.counts(|c| (c.rejected, c.duplicates) == (1, 1)).await;
    let skipping = other.run().await?;
    skipping.counts(|c| (c.completed, c.duplicates) == (0, 2)).await;
    ensure!(one.app.requests() == 1 && other.app.requests() == 0);
    Ok(())
}

async fn a_batch_goes_through_all_four_while_redis_goes_away(env: Env) -> anyhow::Result<()> {
    const ESSAYS: usize = 100;
    const PARTITIONS: i32 = 2;
    let kafka = env.kafka().await?;
    for (topic, partitions) in TOPICS.map(|topic| (topic, PARTITIONS)).into_iter().chain([(DEAD_LETTERS, 1)]) {
        kafka.create_topic(topic, partitions, &[]).await?;
    }
    let mut redis = lasting()?;
    let services = Service::all()?;
    let mut running = Vec::new();
    for service in &services {
        running.push(local::Running::start(&env, service, &redis.url()).await?);
    }
    let duplicates = Duplicator::start(&kafka.bootstrap(), PARTITIONS)?;
    let publisher = Publisher::new(&kafka.bootstrap())?;
    publisher.send(TOPICS[0], &huleedu::registered("batch", ESSAYS)).await?;
    for _ in 0..2 {
        publisher.send(SPELLCHECK_REQUESTED, &huleedu::without_text("blank")).await?;
    }

    let checked = |redis: &RedisServer| huleedu::count(redis, "spell_checker_service", SPELLCHECK_REQUESTED);
    eventually("spell checks", Duration::from_secs(40), async || checked(&redis).is_ok_and(|n| n > 10)).await;
    redis.kill()?;
    for service in &running {
        service
            .sidecar
            .wait_for("it says so", SOON, |s| s.conditions.iter().any(|c| c.r#type == "Protected" && !c.status))
            .await;
    }
    // The services' own books are in this Redis, so that nothing can be done meanwhile.
    redis.restart()?;
    ensure!(checked(&redis)? <= ESSAYS, "it was over before Redis went away");

    eventually("the batch is assessed", Duration::from_secs(90), async || {
        let outcome = huleedu::phase(&redis, "batch", "cj_assessment").map_err(|e| e.to_string())?;
        equal(&outcome, &Some("COMPLETED".into()))
    })
    .await;
    let copies = duplicates.finish().await?;
    for (service, running) in services.iter().zip(&running) {
        for topic in service.topics() {
            env.offsets(&running.group).await?.wait_until_settled(topic, SOON).await;
        }
    }
    let account = Account::read(&kafka.bootstrap(), &redis, &services, "batch", ESSAYS).await?;
    eprintln!("{}", account.table());
    account.check(1)?;
    ensure!(account.duplicates() > copies, "the blank essay's second request is a duplicate too");
    let letters = read_all(&kafka.bootstrap(), DEAD_LETTERS).await?;
    ensure!(letters.len() == 1, "{} dead letters for one essay without a text", letters.len());
    Ok(())
}
