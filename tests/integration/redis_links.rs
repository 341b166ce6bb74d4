//! Shows that the way to Redis may be old, guarded, slow or broken: nothing is lost, nothing comes twice, nothing stays stuck. I/O.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use crds::config::{ClaimCommand, FailurePolicy, SidecarConfig, Topology};
use crds::status::{Protection, SidecarStatus};
use harness::app::{Behaviour, complete, fail_first};
use harness::env::{Env, trial};
use harness::fault::{Door, Stream, deliveries, effects, quick_group, session_of, slow};
use harness::proxy::{Action, Proxy};
use harness::publish::{Plan, Raw};
use harness::redis::{Certificates, RedisSentinel, RedisServer};
use harness::rig::{Rig, condition};
use harness::wait::{always, equal, eventually};
use libtest_mimic::Trial;

const SOON: Duration = Duration::from_secs(15);
const USER: &str = "sidecar-of-essays";
const PASSWORD: &str = "correct-horse:battery/staple@4711";

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        trial("redis_links::the_script_path_of_older_redis_does_all", the_script_path_does_all),
        trial("redis_links::tls_and_a_limited_user_are_enough", tls_and_a_limited_user_are_enough),
        trial("redis_links::a_user_without_scripts_is_reported_at_once", a_user_without_scripts_is_reported_at_once),
        trial("redis_links::a_wrong_password_is_reported_and_never_told", a_wrong_password_is_reported),
        trial("redis_links::a_lost_reply_to_a_claim_hides_nothing", |env| lost_claim(env, Action::LoseReply)),
        trial("redis_links::a_claim_that_times_out_hides_nothing", |env| lost_claim(env, Action::SwallowReply)),
        trial("redis_links::a_late_claim_stands_in_nobodys_way", a_late_claim_stands_in_nobodys_way),
        trial("redis_links::a_lost_reply_to_a_release_sticks_nothing", |env| lost_release(env, Action::LoseReply)),
        trial("redis_links::a_release_that_times_out_sticks_nothing", |env| lost_release(env, Action::SwallowReply)),
        trial("redis_links::a_lost_release_sticks_nothing", |env| lost_release(env, Action::LoseRequest)),
        trial("redis_links::a_late_release_frees_no_live_claim", a_late_release_frees_no_live_claim),
        trial("redis_links::a_lost_reply_to_a_completion_repeats_nothing", |env| {
            lost_completion(env, Action::LoseReply)
        }),
        trial("redis_links::a_completion_that_times_out_repeats_nothing", |env| {
            lost_completion(env, Action::SwallowReply)
        }),
        trial("redis_links::a_lost_completion_repeats_nothing", |env| lost_completion(env, Action::LoseRequest)),
        trial("redis_links::late_replies_repeat_nothing", late_replies_repeat_nothing),
        trial("redis_links::connections_cut_under_load_lose_and_repeat_nothing", connections_cut_under_load),
        trial("redis_links::a_failover_under_load_loses_nothing", a_failover_under_load_loses_nothing),
    ]
}

async fn the_script_path_does_all(env: Env) -> anyhow::Result<()> {
    let mut rig = Rig::new(&env, 2, fail_first(1, 503)).await?.with_redis(RedisServer::start()?);
    rig.config.redis.claim_command = ClaimCommand::Script;
    rig.config.delivery.backoff.max = crds::Duration::from_millis(20);
    let published = rig.publish_plan(&Plan::new(200, 2)).await?;
    let _sidecar = rig.run().await?;
    rig.app.ledger().check(&published).assert_each_once();
    ensure!(rig.app.ledger().effects().iter().all(|effect| effect.attempt == 2), "a release was forgotten");
    rig.all_say("full", 0)?;
    let stats: String = rig.redis.command(&["INFO", "commandstats"])?;
    let calls =
        |name: &str| stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":calls=")?.split(',').next());
    let scripts: u64 = calls("cmdstat_evalsha").context("no script ran")?.parse()?;
    ensure!(scripts >= 400, "{scripts} scripts for 200 claims and 200 releases");
    Ok(())
}

/// A Redis with TLS and a user who may do what the sidecar's documentation asks for and nothing else.
fn guarded(certificates: &Certificates, prefix: &str) -> anyhow::Result<RedisServer> {
    let redis = RedisServer::with_tls(certificates, &[])?;
    let (password, keys) = (format!(">{PASSWORD}"), format!("~{prefix}*"));
    let rule = "~idempotency:session:* resetchannels -@all +set +get +del +exists +eval +evalsha";
    let head = ["ACL", "SETUSER", USER, "on", &password, "resetkeys", &keys];
    redis.command::<()>(&head.into_iter().chain(rule.split(' ')).collect::<Vec<_>>())?;
    Ok(redis)
}

/// Tells the sidecar how to sign in.
fn sign_in(env: &Env, config: &mut SidecarConfig, certificates: &Certificates, password: &str) -> anyhow::Result<()> {
    let (user, secret) = (env.dir().join("user"), env.dir().join("password"));
    std::fs::write(&user, format!("{USER}\n"))?;
    std::fs::write(&secret, format!("{password}\n"))?;
    config.redis.username_file = Some(user);
    config.redis.password_file = Some(secret);
    config.redis.ca_file = Some(certificates.ca.clone());
    config.redis.certificate_file = Some(certificates.client_cert.clone());
    config.redis.key_file = Some(certificates.client_key.clone());
    Ok(())
}

async fn tls_and_a_limited_user_are_enough(env: Env) -> anyhow::Result<()> {
    let certificates = Certificates::generate()?;
    let mut rig = Rig::new(&env, 2, fail_first(1, 503)).await?;
    let prefix = format!("idempotency:{}:", rig.config.group);
    let redis = guarded(&certificates, &prefix)?;
    let url = redis.rediss_url()?;
    rig = rig.with_redis(redis);
    rig.config.redis.url = Some(url);
    rig.config.delivery.backoff.max = crds::Duration::from_millis(20);
    sign_in(&env, &mut rig.config, &certificates, PASSWORD)?;
    let published = rig.publish_plan(&Plan::new(100, 2)).await?;
    let mut sidecar = rig.run().await?;
    rig.app.ledger().check(&published).assert_each_once();
    rig.all_say("full", 0)?;
    ensure!(sidecar.terminate(SOON).await?.success());
    let denied: Vec<redis::Value> = rig.redis.command(&["ACL", "LOG"])?;
    let other = denied.iter().map(|entry| format!("{entry:?}")).find(|entry| !entry.contains("info"));
    ensure!(other.is_none(), "the rule in the documentation is too narrow: {other:?}");
    Ok(())
}

/// It could claim, and never take over or give back.
async fn a_user_without_scripts_is_reported_at_once(env: Env) -> anyhow::Result<()> {
    let mut rig = Rig::new(&env, 1, fail_first(1, 503)).await?.with_redis(RedisServer::start()?);
    rig.config.redis.failure_policy = FailurePolicy::Closed;
    rig.config.delivery.backoff.max = crds::Duration::from_millis(20);
    rig.redis.command::<()>(&["ACL", "SETUSER", "default", "-eval", "-evalsha"])?;
    let published = rig.publish(vec![Raw::event("a"), Raw::event("b")]).await?;
    let sidecar = rig.start().await?;
    let named = |status: &SidecarStatus| {
        condition(status, "Protected").is_some_and(|c| !c.status && c.message.contains("needs EVAL and EVALSHA"))
    };
    let status = sidecar.wait_for("the missing right is named", SOON, named).await;
    ensure!(!status.ready && rig.app.requests() == 0 && rig.keys()?.is_empty(), "something was claimed: {status:?}");
    rig.redis.command::<()>(&["ACL", "SETUSER", "default", "+eval", "+evalsha"])?;
    rig.settled().await?;
    rig.app.ledger().check(&published).assert_each_once();
    rig.all_say("full", 0)
}

async fn a_wrong_password_is_reported(env: Env) -> anyhow::Result<()> {
    let certificates = Certificates::generate()?;
    let mut rig = Rig::new(&env, 1, complete()).await?;
    let redis = guarded(&certificates, "idempotency:")?;
    rig.config.redis.url = Some(redis.rediss_url()?);
    rig.config.redis.failure_policy = FailurePolicy::Closed;
    let wrong = "not-the-password-8f14e45f";
    sign_in(&env, &mut rig.config, &certificates, wrong)?;
    rig.publish(vec![Raw::event("a")]).await?;
    let sidecar = rig.start().await?;
    let status = sidecar
        .wait_for("the password is named", SOON, |status| {
            let found = condition(status, "Protected");
            found.is_some_and(|c| !c.status && c.message.contains("authentication failed"))
        })
        .await;
    ensure!(!status.ready && rig.app.requests() == 0, "{status:?}");
    for told in [serde_json::to_string(&status)?, sidecar.metrics().await?, sidecar.log()] {
        ensure!(!told.contains(wrong) && !told.contains(USER), "a secret is told: {told}");
    }
    Ok(())
}

/// A rig whose sidecars reach their Redis through a proxy.
async fn behind_proxy(env: &Env, partitions: i32, behaviour: Behaviour) -> anyhow::Result<(Rig, Arc<Proxy>)> {
    let mut rig = Rig::new(env, partitions, behaviour).await?.with_redis(RedisServer::start()?);
    let proxy = Proxy::start(rig.redis.port()).await?;
    rig.config.redis.url = Some(proxy.url());
    Ok((rig, Arc::new(proxy)))
}

fn contains(request: &[u8], text: &str) -> bool {
    request.windows(text.len()).any(|window| window == text.as_bytes())
}

/// A claim of an event of that group: `SET … NX GET`. (A session's key has another prefix.)
fn claim_of(rig: &Rig) -> impl Fn(&[u8]) -> bool + Send + use<> {
    let prefix = format!("idempotency:{}:", rig.config.group);
    move |request| contains(request, &prefix) && contains(request, "\r\nNX\r\n")
}

/// A release of a delivered event of that group: a script that writes `c:-:1`, by its hash or in full.
fn release_of(rig: &Rig) -> impl Fn(&[u8]) -> bool + Send + use<> {
    let prefix = format!("idempotency:{}:", rig.config.group);
    move |request| contains(request, &prefix) && contains(request, "\r\nEVAL") && contains(request, "\r\nc:-:1\r\n")
}

/// A completion of an event of that group.
fn completion_of(rig: &Rig) -> impl Fn(&[u8]) -> bool + Send + use<> {
    let prefix = format!("idempotency:{}:", rig.config.group);
    move |request| contains(request, &prefix) && contains(request, "\r\nSET\r\n") && !contains(request, "\r\nNX\r\n")
}

async fn lost_claim(env: Env, action: Action) -> anyhow::Result<()> {
    let (rig, proxy) = behind_proxy(&env, 1, complete()).await?;
    let sidecar = rig.start().await?;
    let before = session_of(&sidecar).await?;
    proxy.on(claim_of(&rig), action, 1);
    let published = rig.publish(vec![Raw::event("a"), Raw::event("b")]).await?;
    rig.settled().await?;
    proxy.fired(1).await;
    rig.app.ledger().check(&published).assert_each_once();
    rig.all_say("full", 0)?;
    ensure!(rig.attempts()[0] == ("a".into(), 2), "its first claim may have been applied: {:?}", rig.attempts());
    ensure!(session_of(&sidecar).await? != before, "the claim was repeated under its session");
    ensure!(!rig.session_exists(&before)?, "the replaced session lives on");
    Ok(())
}

async fn a_late_claim_stands_in_nobodys_way(env: Env) -> anyhow::Result<()> {
    let (rig, proxy) = behind_proxy(&env, 1, complete()).await?;
    let sidecar = rig.start().await?;
    session_of(&sidecar).await?;
    // It reaches Redis only after its event is done, or would be: nobody else can be told by it.
    proxy.on(claim_of(&rig), Action::HoldRequest, 1);
    let published = rig.publish(vec![Raw::event("a"), Raw::event("b")]).await?;
    rig.settled().await?;
    let answered = proxy.answered();
    proxy.release();
    proxy.wait_answered(answered + 1).await;
    ensure!(rig.done()? == 2, "a late claim undid what was done");
    rig.app.ledger().check(&published).assert_each_once();
    Ok(())
}

async fn lost_release(env: Env, action: Action) -> anyhow::Result<()> {
    let (rig, proxy) = behind_proxy(&env, 1, fail_first(1, 503)).await?;
    proxy.on(release_of(&rig), action, 1);
    let published = rig.publish(vec![Raw::event("a"), Raw::event("b")]).await?;
    let _sidecar = rig.run().await?;
    proxy.fired(1).await;
    rig.app.ledger().check(&published).assert_each_once();
    ensure!(rig.app.ledger().effects().iter().all(|effect| effect.attempt > 1), "{:?}", rig.attempts());
    ensure!(rig.app.requests() == 4, "{:?}", rig.attempts());
    Ok(())
}

async fn a_late_release_frees_no_live_claim(env: Env) -> anyhow::Result<()> {
    let door = Door::closed();
    let slow_second = {
        let door = door.clone();
        harness::app::behave(move |request| {
            let door = door.clone();
            async move {
                if request.event().times == 1 {
                    return harness::app::Act::status(503);
                }
                door.pass().await;
                harness::app::Act::complete()
            }
        })
    };
    let (mut rig, proxy) = behind_proxy(&env, 1, slow_second).await?;
    rig.config.key_prefix = format!("idempotency:{}:", rig.config.group);
    proxy.on(release_of(&rig), Action::HoldRequest, 1);
    let published = rig.publish(vec![Raw::event("a")]).await?;
    let _sidecar = rig.start().await?;
    deliveries(&rig.app, 2).await;
    // Another group with the same keys, on a way of its own.
    let mut other = Rig::on(&env, rig.topic.clone(), "other", complete()).await?;
    other.config.redis.url = Some(rig.redis.url());
    other.config.key_prefix.clone_from(&rig.config.key_prefix);
    let waiting = other.start().await?;
    let answered = proxy.answered();
    proxy.release();
    proxy.wait_answered(answered + 1).await;
    eventually("the other waits", SOON, async || {
        waiting.metric("idempotency_claims_held", &[]).await.is_ok_and(|held| held == 1.0)
    })
    .await;
    always("the claim lives", Duration::from_secs(2), async || equal(&other.app.requests(), &0)).await;
    door.open();
    other.settled().await?;
    rig.settled().await?;
    rig.app.ledger().check(&published).assert_each_once();
    ensure!(other.app.requests() == 0 && rig.attempts()[1].1 == 2, "{:?}", rig.attempts());
    Ok(())
}

async fn lost_completion(env: Env, action: Action) -> anyhow::Result<()> {
    let (rig, proxy) = behind_proxy(&env, 1, complete()).await?;
    proxy.on(completion_of(&rig), action, 1);
    let published = rig.publish(vec![Raw::event("a"), Raw::event("b"), Raw::event("a")]).await?;
    let _sidecar = rig.run().await?;
    proxy.fired(1).await;
    rig.app.ledger().check(&published).assert_each_once();
    ensure!(rig.done()? == 2, "a completion was not said again");
    Ok(())
}

async fn late_replies_repeat_nothing(env: Env) -> anyhow::Result<()> {
    let (rig, proxy) = behind_proxy(&env, 2, slow(Duration::from_millis(1))).await?;
    let published = rig.publish_plan(&Plan::new(800, 2)).await?;
    let _sidecar = rig.start().await?;
    for round in 1..=5 {
        let seen = rig.app.ledger().len();
        effects(&rig.app, (seen + 50).min(800)).await;
        // The next reply comes after the time-out, and whatever stands behind it.
        proxy.on(|_| true, Action::HoldReply, 1);
        proxy.fired(round).await;
        effects(&rig.app, (rig.app.ledger().len() + 20).min(800)).await;
        proxy.release();
    }
    rig.settled().await?;
    rig.app.ledger().check(&published).assert_each_once();
    rig.all_say("full", 0)
}

async fn connections_cut_under_load(env: Env) -> anyhow::Result<()> {
    let (mut rig, proxy) = behind_proxy(&env, 4, slow(Duration::from_millis(1))).await?;
    quick_group(&mut rig.config);
    let (one, _other) = (env.sidecar("one", &rig.config).await?, env.sidecar("other", &rig.config).await?);
    one.wait_for("its share", SOON, |status| status.partitions.len() == 2).await;
    let published = rig.publish_plan(&Plan::new(3_000, 4)).await?;
    let mut cuts = 0;
    while rig.app.ledger().len() < 2_500 {
        let seen = rig.app.ledger().len();
        effects(&rig.app, seen + 100).await;
        proxy.cut();
        cuts += 1;
    }
    rig.settled().await?;
    ensure!(cuts >= 10, "only {cuts} cuts");
    ensure!(one.metric("idempotency_store_errors_total", &[]).await? > 0.0, "no cut was felt");
    rig.app.ledger().check(&published).assert_each_once();
    rig.all_say("full", 0)
}

async fn a_failover_under_load_loses_nothing(env: Env) -> anyhow::Result<()> {
    let servers = RedisSentinel::start()?;
    let mut rig = Rig::new(&env, 2, slow(Duration::from_millis(3))).await?;
    rig.config.redis.topology = Topology::Sentinel;
    rig.config.redis.sentinel_master = Some(RedisSentinel::MASTER.into());
    rig.config.redis.url = Some(servers.url());
    let sidecar = rig.start().await?;
    let stream = Stream::start(&rig, env.kafka().await?.bootstrap(), 2);
    effects(&rig.app, 200).await;
    let servers = tokio::task::spawn_blocking(move || servers.promote().map(|()| servers)).await??;
    // The old master takes writes for seconds more, and loses them: the sidecar must not go on with it.
    eventually("claims go to the new master", Duration::from_secs(4), async || {
        let last = rig.app.deliveries().pop().context("no delivery")?;
        ensure!(servers.servers[1].command::<bool>(&["EXISTS", &last.key])?, "{} is not there", last.key);
        anyhow::Ok(())
    })
    .await;
    let there = rig.app.ledger().len();
    effects(&rig.app, there + 300).await;
    let published = stream.stop().await?;
    rig.settled().await?;
    let check = rig.app.ledger().check(&published);
    check.assert_none_lost();
    // What was acknowledged in the last moment before the failover may be lost with the old master.
    ensure!(check.second().len() < 20, "{} second deliveries", check.second().len());
    sidecar.wait_for("a master", SOON, |status| status.protection != Protection::None).await;
    ensure!(!sidecar.log().contains("READONLY"), "it stayed until the old master was made a replica");
    Ok(())
}
