//! Shows that a sidecar may end in any way: nothing is lost, nothing comes twice unsaid, and whoever is left goes on at once. I/O.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::ensure;
use harness::app::{Act, Behaviour, act, complete, fail_first};
use harness::env::{Env, trial};
use harness::fault::{Door, Stream, deliveries, effects, quick_group, session_of, slow};
use harness::process::how;
use harness::publish::{Plan, Raw};
use harness::rig::Rig;
use harness::sidecar::Sidecar;
use harness::wait::eventually;
use libtest_mimic::Trial;

const SOON: Duration = Duration::from_secs(15);

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        trial("restarts::sigterm_loses_and_repeats_nothing_and_leaves_the_group", sigterm_loses_and_repeats_nothing),
        trial("restarts::sigkill_loses_nothing_and_repeats_with_a_higher_attempt", sigkill_loses_nothing),
        trial("restarts::a_restarted_sidecar_takes_its_own_claims_back_at_once", takes_its_own_claims_back),
        trial("restarts::a_restarted_sidecar_ends_its_predecessors_session_at_once", ends_its_predecessors_session),
        trial("restarts::another_member_waits_for_a_killed_ones_session", another_waits_for_a_killed_ones_session),
        trial("restarts::a_frozen_sidecar_starts_nothing_under_its_old_session", a_frozen_sidecar_starts_nothing),
        trial("restarts::a_member_joins_and_leaves_ten_times", a_member_joins_and_leaves_ten_times),
        trial("restarts::claims_crosswise_with_failing_heads_do_not_stall", claims_crosswise_do_not_stall),
        trial("restarts::a_wrong_configuration_exits_with_64", a_wrong_configuration_exits_with_64),
        trial("restarts::a_taken_admin_port_exits_with_69", a_taken_admin_port_exits_with_69),
    ]
}

/// Two groups that share their claims, each with an app of its own, on one topic: what one has, the other waits for. That is
/// what two members with one event in both their partitions see, without waiting for Kafka.
async fn sharing(env: &Env, first: Behaviour, second: Behaviour) -> anyhow::Result<(Rig, Rig)> {
    let mut one = Rig::new(env, 1, first).await?;
    let mut other = Rig::on(env, one.topic.clone(), "other", second).await?;
    let prefix = format!("{}:", env.name("shared"));
    for rig in [&mut one, &mut other] {
        rig.config.key_prefix.clone_from(&prefix);
        quick_group(&mut rig.config);
    }
    Ok((one, other))
}

async fn sigterm_loses_and_repeats_nothing(env: Env) -> anyhow::Result<()> {
    let rig = Rig::new(&env, 4, slow(Duration::from_millis(2))).await?;
    let published = rig.publish_plan(&Plan::new(1_500, 4)).await?;
    let mut first = rig.start().await?;
    effects(&rig.app, 300).await;
    let status = first.terminate(SOON).await?;
    ensure!(how(status) == "exit code 0", "{status:?}");
    let done = rig.app.ledger().len();
    ensure!(done < 1_500, "it was over before the signal came");
    ensure!(rig.offsets().await?.members().await? == 0, "the group was not left");
    let second = rig.start().await?;
    second.wait_for("all partitions", Duration::from_secs(5), |status| status.partitions.len() == 4).await;
    rig.settled().await?;
    let check = rig.app.ledger().check(&published);
    check.assert_each_once();
    ensure!(rig.app.ledger().effects().iter().all(|effect| effect.attempt == 1), "a claim was left behind");
    Ok(())
}

async fn sigkill_loses_nothing(env: Env) -> anyhow::Result<()> {
    let plan = Plan::new(1_000, 4);
    // One event takes effect, and its answer comes too late.
    let late = plan.uid(100);
    let dawdle = late.clone();
    let behaviour = act(move |request| match request.event() {
        event if event.event == dawdle && event.times == 1 => Act { after: Duration::from_secs(60), ..Act::complete() },
        _ => Act::complete().after(Duration::from_millis(1)),
    });
    let mut rig = Rig::new(&env, 4, behaviour).await?;
    quick_group(&mut rig.config);
    let published = rig.publish_plan(&plan).await?;
    let mut sidecar = rig.start().await?;
    eventually("the late event's effect", SOON, async || {
        rig.app.ledger().effects().iter().any(|effect| effect.event == late)
    })
    .await;
    sidecar.kill();
    ensure!(rig.app.ledger().len() < 1_000, "it was over before the signal came");
    sidecar.restart().await?;
    rig.settled().await?;
    let check = rig.app.ledger().check(&published);
    check.assert_none_lost();
    check.second_deliveries_only_with_attempt_above_one();
    ensure!(check.count(&late) == 2, "the late event came {} times", check.count(&late));
    Ok(())
}

async fn takes_its_own_claims_back(env: Env) -> anyhow::Result<()> {
    let (mut rig, other) = sharing(&env, act(|_| Act::hang()), complete()).await?;
    let published = rig.publish(vec![Raw::event("a")]).await?;
    rig.config.session.ttl = crds::Duration::from_secs(10);
    rig.config.state_dir = Some(env.dir().join("state"));
    rig.config.kafka.properties.clear();
    let mut sidecar = rig.start().await?;
    deliveries(&rig.app, 1).await;
    sidecar.kill();
    // Kafka keeps the partition for the dead member longer than its session lives; in another group it is there at once.
    rig.config.group.clone_from(&other.config.group);
    rig.app.behave(complete());
    let _restarted = rig.start().await?;
    eventually("the event again", Duration::from_secs(5), async || rig.app.ledger().len() == 1).await;
    rig.app.ledger().check(&published).assert_each_once();
    ensure!(rig.attempts() == [("a".into(), 1), ("a".into(), 2)], "{:?}", rig.attempts());
    Ok(())
}

async fn ends_its_predecessors_session(env: Env) -> anyhow::Result<()> {
    let (mut rig, mut other) = sharing(&env, act(|_| Act::hang()), complete()).await?;
    rig.publish(vec![Raw::event("a")]).await?;
    for rig in [&mut rig, &mut other] {
        rig.config.session.ttl = crds::Duration::from_secs(10);
        rig.config.kafka.properties.clear();
    }
    rig.config.state_dir = Some(env.dir().join("state"));
    let mut sidecar = rig.start().await?;
    deliveries(&rig.app, 1).await;
    let session = session_of(&sidecar).await?;
    let waiting = other.start().await?;
    wait_for_held(&waiting, 1).await;
    sidecar.kill();
    ensure!(rig.session_exists(&session)?, "the key of a killed sidecar's session lives on");
    sidecar.restart().await?;
    eventually("the predecessor's session is gone", Duration::from_secs(1), async || {
        rig.session_exists(&session).is_ok_and(|exists| !exists)
    })
    .await;
    eventually("the other delivers", Duration::from_secs(2), async || other.app.ledger().len() == 1).await;
    ensure!(other.attempts() == [("a".into(), 2)], "{:?}", other.attempts());
    Ok(())
}

async fn another_waits_for_a_killed_ones_session(env: Env) -> anyhow::Result<()> {
    let (rig, other) = sharing(&env, act(|_| Act::hang()), complete()).await?;
    rig.publish(vec![Raw::event("a")]).await?;
    let mut sidecar = rig.start().await?;
    deliveries(&rig.app, 1).await;
    let session = session_of(&sidecar).await?;
    // Looks at the moment of the delivery whether the dead one's session lives.
    let alive = Arc::new(Mutex::new(None));
    let (seen, redis, key) = (alive.clone(), rig.redis.clone(), format!("{}{session}", rig.config.session.prefix));
    other.app.behave(act(move |_| {
        *seen.lock().unwrap() = redis.command::<bool>(&["EXISTS", &key]).ok();
        Act::complete()
    }));
    let waiting = other.start().await?;
    wait_for_held(&waiting, 1).await;
    sidecar.kill();
    eventually("the other delivers", Duration::from_secs(4), async || other.app.ledger().len() == 1).await;
    ensure!(*alive.lock().unwrap() == Some(false), "it was delivered while its owner's session lived");
    ensure!(other.attempts() == [("a".into(), 2)], "{:?}", other.attempts());
    Ok(())
}

async fn wait_for_held(sidecar: &Sidecar, count: usize) {
    eventually(format!("{count} events held"), SOON, async || {
        let held = sidecar.metric("idempotency_claims_held", &[]).await?;
        ensure!(held as usize == count, "{held}");
        anyhow::Ok(())
    })
    .await;
}

async fn a_frozen_sidecar_starts_nothing(env: Env) -> anyhow::Result<()> {
    let door = Door::closed();
    let (frozen, other) = sharing(&env, door.before("e-0"), complete()).await?;
    let events: Vec<_> = (0..50).map(|n| Raw::event(&format!("e-{n}"))).collect();
    let published = frozen.publish(events).await?;
    let sidecar = frozen.start().await?;
    deliveries(&frozen.app, 1).await;
    let prefix = format!("{}*", frozen.config.key_prefix);
    eventually("claims ahead", SOON, async || {
        frozen.redis.command::<Vec<String>>(&["KEYS", &prefix]).is_ok_and(|keys| keys.len() == 50)
    })
    .await;
    let _waiting = other.start().await?;
    sidecar.pause()?;
    effects(&other.app, 50).await;
    sidecar.resume()?;
    door.open();
    frozen.settled().await?;
    other.settled().await?;
    // What was on the wire may come twice, and says so; what was claimed only may not.
    other.app.ledger().check(&published).assert_each_once();
    ensure!(other.attempts().iter().all(|(_, attempt)| *attempt == 2), "{:?}", other.attempts());
    ensure!(frozen.attempts() == [("e-0".into(), 1)], "{:?}", frozen.attempts());
    Ok(())
}

async fn a_member_joins_and_leaves_ten_times(env: Env) -> anyhow::Result<()> {
    let mut rig = Rig::new(&env, 4, slow(Duration::from_millis(1))).await?;
    quick_group(&mut rig.config);
    let _steady = rig.start().await?;
    let stream = Stream::start(&rig, env.kafka().await?.bootstrap(), 4);
    for round in 1..=10 {
        let mut member = env.sidecar("member", &rig.config).await?;
        member.wait_for("a partition", SOON, |status| !status.partitions.is_empty()).await;
        let before = member.status().await?.counters.completed;
        member.wait_for("an event", SOON, |status| status.counters.completed > before).await;
        let status = member.terminate(SOON).await?;
        ensure!(how(status) == "exit code 0", "round {round}: {status:?}");
    }
    let published = stream.stop().await?;
    rig.settled().await?;
    rig.app.ledger().check(&published).assert_each_once();
    Ok(())
}

async fn claims_crosswise_do_not_stall(env: Env) -> anyhow::Result<()> {
    let mut rig = Rig::new(&env, 2, fail_first(2, 503)).await?;
    quick_group(&mut rig.config);
    let (one, other) = (env.sidecar("one", &rig.config).await?, env.sidecar("other", &rig.config).await?);
    for sidecar in [&one, &other] {
        sidecar.wait_for("its own partition", SOON, |status| status.partitions.len() == 1).await;
    }
    let mut records = Vec::new();
    for n in 0..40 {
        let (a, b) = (Raw::event(&format!("a-{n}")), Raw::event(&format!("b-{n}")));
        records.extend([a.clone().to(0), b.clone().to(1), b.to(0), a.to(1)]);
    }
    let published = rig.publish(records).await?;
    rig.settled().await?;
    rig.app.ledger().check(&published).assert_each_once();
    ensure!(rig.app.ledger().effects().iter().all(|effect| effect.attempt == 3), "an attempt was forgotten");
    let delivered = [one.status().await?.counters.completed, other.status().await?.counters.completed];
    ensure!(delivered.iter().all(|count| *count > 0), "one sidecar did everything: {delivered:?}");
    Ok(())
}

async fn a_wrong_configuration_exits_with_64(env: Env) -> anyhow::Result<()> {
    let mut sidecar = Sidecar::spawn_text(env.dir(), "wrong", "{version: 1, group: g, topics: [t], ttll: 1h}")?;
    let status = sidecar.wait(SOON).await;
    ensure!(how(status) == "exit code 64", "{status:?}");
    ensure!(sidecar.log().contains("ttll"), "it does not name the field: {}", sidecar.log());
    Ok(())
}

async fn a_taken_admin_port_exits_with_69(env: Env) -> anyhow::Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let mut rig = Rig::new(&env, 1, complete()).await?;
    rig.config.admin.bind = taken.local_addr()?.to_string();
    let mut sidecar = Sidecar::spawn_text(env.dir(), "taken", &serde_json::to_string(&rig.config)?)?;
    let status = sidecar.wait(SOON).await;
    ensure!(how(status) == "exit code 69", "{status:?}");
    ensure!(sidecar.log().contains("admin.bind"), "it does not name the field: {}", sidecar.log());
    Ok(())
}
