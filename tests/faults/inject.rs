//! Decides how each fault is done and undone. I/O: signals, links, Redis's own commands.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use harness::link::Link;
use harness::process::{Program, built};
use harness::proxy::{Action, Proxy};
use harness::redis::{RedisSentinel, RedisServer};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use redis::Value;
use rustix::process::Signal;
use sidecar::fail_point::STEPS;
use tokio::task::block_in_place;
use tokio::time::sleep;

use crate::app::now;
use crate::history::Interval;
use crate::kind::{Kind, Target};
use crate::pod::Pod;
use crate::schedule::Fault;
use crate::world::{PODS, Store, World, faketime};

/// How long a sidecar may take until it passes a step: then it is disarmed, and the fault was the end of a sidecar.
const PASSES: Duration = Duration::from_secs(15);

/// How long a broker that is alone may hold still.
const ALONE: Duration = Duration::from_secs(1);

/// Injects a fault and takes it back; what was done, and when it was.
pub(crate) async fn inject(world: &World, fault: Fault) -> anyhow::Result<Interval> {
    let start = now();
    let of = |kind, pod, start| Interval { kind, pod, start, end: now() };
    Ok(match fault.kind.target() {
        Target::Pod if fault.kind == Kind::Storm => storm(world, fault).await?,
        Target::Pod => {
            let _shared = world.all_pods.read().await;
            let (kind, start) = match on_links(world, fault).await? {
                Some(start) => (fault.kind, start),
                None => on_processes(world, fault).await?,
            };
            of(kind, Some(fault.pod), start)
        }
        Target::Pods => {
            let _all = world.all_pods.write().await;
            for pod in &world.pods {
                pod.lock().await.restart_sidecar().await?;
            }
            of(fault.kind, None, start)
        }
        Target::Broker => of(fault.kind, None, on_broker(world, fault).await?),
        Target::Redis => {
            let (start, end) = on_redis(world, fault).await?;
            Interval { kind: fault.kind, pod: None, start, end }
        }
    })
}

/// When a fault of a pod's links began; `None` where it is one of its processes, which may be struck beside.
async fn on_links(world: &World, fault: Fault) -> anyhow::Result<Option<u64>> {
    let links = &world.links[fault.pod];
    let _alone = links.struck.lock().await;
    let start = now();
    let redis = || links.redis.as_ref().context("this world has no link to Redis");
    match fault.kind {
        Kind::CutKafka => links.kafka.iter().for_each(Link::cut),
        Kind::CutRedis => redis()?.link.cut(),
        Kind::CutBoth => {
            links.kafka.iter().for_each(Link::cut);
            redis()?.link.cut();
        }
        Kind::SlowRedis => redis()?.link.slow(Duration::from_millis(20 + fault.seed % 400)),
        Kind::LoseReplies => lose(&redis()?.proxy, fault, Action::LoseReply).await,
        Kind::LoseRequests => lose(&redis()?.proxy, fault, Action::LoseRequest).await,
        Kind::LateRequests => lose(&redis()?.proxy, fault, Action::HoldRequest).await,
        _ => return Ok(None),
    }
    sleep(fault.span).await;
    links.redis.iter().for_each(|redis| redis.link.mend());
    links.kafka.iter().for_each(Link::mend);
    Ok(Some(start))
}

/// What was done to a pod's processes, and when it began.
async fn on_processes(world: &World, fault: Fault) -> anyhow::Result<(Kind, u64)> {
    let mut pod = world.pods[fault.pod].lock().await;
    let start = now();
    match fault.kind {
        Kind::KillSidecar => {
            pod.kill_sidecar();
            pod.restart_sidecar().await?;
        }
        Kind::KillApp => {
            pod.kill_app();
            pod.tend()?;
        }
        Kind::KillPod => pod.replace()?,
        Kind::EndSidecar => pod.restart_sidecar().await?,
        Kind::FreezeSidecar => {
            pod.signal_sidecar(Signal::STOP);
            sleep(fault.span).await;
            pod.signal_sidecar(Signal::CONT);
        }
        Kind::FreezeApp => {
            pod.signal_app(Signal::STOP);
            sleep(fault.span).await;
            pod.signal_app(Signal::CONT);
        }
        Kind::KillAtStep(step) if !kill_at(&mut pod, STEPS[step], fault).await? => {
            return Ok((Kind::EndSidecar, start));
        }
        Kind::KillAtStep(_) => {}
        Kind::ClockJump => jump(&mut pod, fault).await?,
        other => anyhow::bail!("{other:?} is no fault of a pod"),
    }
    Ok((fault.kind, start))
}

/// Lets the sidecar kill itself at a step; false where it does not come by, and is only started anew.
async fn kill_at(pod: &mut Pod, step: &str, fault: Fault) -> anyhow::Result<bool> {
    pod.arm(step, 1 + usize::try_from(fault.seed % 40)?);
    pod.restart_sidecar().await?;
    let armed = tokio::time::Instant::now();
    while !pod.sidecar_has_ended()? {
        if armed.elapsed() > PASSES {
            pod.disarm();
            pod.restart_sidecar().await?;
            return Ok(false);
        }
        sleep(Duration::from_millis(5)).await;
    }
    pod.tend()?;
    Ok(true)
}

/// The wall clock goes an hour or so forth, and back further than where it was.
async fn jump(pod: &mut Pod, fault: Fault) -> anyhow::Result<()> {
    let clock = pod.fake_clock(&faketime()?);
    let seconds = 60 + fault.seed % 7_200;
    std::fs::write(&clock, "+0\n")?;
    pod.restart_sidecar().await?;
    for offset in [format!("+{seconds}\n"), format!("-{seconds}\n")] {
        sleep(fault.span).await;
        std::fs::write(&clock, offset)?;
    }
    sleep(fault.span).await;
    // Not asked to end: under the library that lies about the time a process now and then does not, by waits that the library does not know.
    pod.kill_sidecar();
    pod.tend().map(|_| ())
}

/// A few messages, chosen among all kinds: claims, releases, completions, renewals.
async fn lose(proxy: &Proxy, fault: Fault, action: Action) {
    let mut rng = StdRng::seed_from_u64(fault.seed);
    for _ in 0..3 {
        let mut skip: u32 = rng.random_range(0..30);
        let chosen = std::sync::Mutex::new(move || {
            skip = skip.saturating_sub(1);
            skip == 0
        });
        proxy.on(move |_| chosen.lock().is_ok_and(|mut chosen| chosen()), action, 1);
        sleep(Duration::from_millis(700)).await;
        proxy.release();
    }
    proxy.clear();
    proxy.release();
}

/// A further pod comes and goes.
async fn storm(world: &World, fault: Fault) -> anyhow::Result<Interval> {
    let number = PODS + world.guests.fetch_add(1, Ordering::Relaxed);
    let (home, config) = world.guest(number)?;
    let file = home.join("sidecar.yaml");
    std::fs::write(&file, serde_json::to_string(&config)?)?;
    let app = Program::new("app", std::env::current_exe()?)
        .args(["app", "--socket"])
        .arg(&config.delivery.socket)
        .arg("--ledger")
        .arg(Pod::ledger(world.path(), number))
        .start(&home)?;
    let start = now();
    for _ in 0..3 {
        let mut member =
            Program::new("sidecar", built("sidecar")?).args(["run", "--config"]).arg(&file).start(&home)?;
        sleep(Duration::from_millis(800 + fault.seed % 1_200)).await;
        member.signal(Signal::TERM)?;
        member.wait(Duration::from_secs(40)).await;
    }
    drop(app);
    Ok(Interval { kind: fault.kind, pod: Some(number), start, end: now() })
}

async fn on_broker(world: &World, fault: Fault) -> anyhow::Result<u64> {
    let mut kafka = world.kafka.lock().await;
    let alone = kafka.is_one();
    let broker = kafka.broker(fault.seed)?;
    let start = now();
    match fault.kind {
        Kind::KillBroker => {
            broker.kill();
            sleep(fault.span).await;
            kafka.restart(fault.seed).await?;
        }
        _ => {
            // One that its controller has taken for dead tells clients that there are no brokers, and librdkafka forgets all addresses (its
            // issue 5301). A sidecar ends then, and starts anew; the clients of this harness would not.
            let span = if alone { fault.span.min(ALONE) } else { fault.span };
            broker.pause()?;
            sleep(span).await;
            broker.resume()?;
        }
    }
    Ok(start)
}

/// When it began, and when no write was lost by it any more.
async fn on_redis(world: &World, fault: Fault) -> anyhow::Result<(u64, u64)> {
    let mut redis = world.redis.lock().await;
    let start = now();
    let end = match &mut *redis {
        Store::Alone(redis) => on_lone_redis(redis, fault).await.map(|()| now())?,
        Store::Sentinel(set) => on_sentinel(set, fault).await?,
    };
    Ok((start, end))
}

/// Sidecars look each second whether their master is the one that is named.
const FOLLOWED: u64 = 2_000;

async fn on_sentinel(set: &mut RedisSentinel, fault: Fault) -> anyhow::Result<u64> {
    match fault.kind {
        Kind::FailOver => block_in_place(|| set.promote())?,
        Kind::LoseMaster => {
            set.stop_replication()?;
            sleep(fault.span).await;
            block_in_place(|| set.lose_master())?;
        }
        Kind::FreezeMaster => {
            let master = set.master()?;
            set.servers[master].freeze()?;
            sleep(fault.span).await;
            set.servers[master].thaw()?;
        }
        Kind::Flush => send(&set.servers[set.master()?], &["FLUSHALL"])?,
        other => anyhow::bail!("{other:?} is no fault of a master and a replica"),
    }
    let end = if fault.kind == Kind::Flush { now() } else { now() + FOLLOWED };
    block_in_place(|| set.wait_until_whole())?;
    Ok(end)
}

async fn on_lone_redis(redis: &mut RedisServer, fault: Fault) -> anyhow::Result<()> {
    match fault.kind {
        Kind::KillRedis => {
            redis.kill()?;
            sleep(fault.span).await;
            redis.restart()?;
        }
        Kind::FreezeRedis => {
            redis.freeze()?;
            sleep(fault.span).await;
            redis.thaw()?;
        }
        Kind::ReadOnly => {
            // The master that it follows is nowhere; it keeps what it has.
            send(redis, &["REPLICAOF", "127.0.0.1", "1"])?;
            sleep(fault.span).await;
            send(redis, &["REPLICAOF", "NO", "ONE"])?;
        }
        Kind::OutOfMemory => {
            send(redis, &["CONFIG", "SET", "maxmemory", "100kb"])?;
            sleep(fault.span).await;
            send(redis, &["CONFIG", "SET", "maxmemory", "0"])?;
        }
        Kind::Flush => send(redis, &["FLUSHALL"])?,
        Kind::Rollback => {
            let snapshot = redis.snapshot()?;
            sleep(fault.span).await;
            redis.restore(&snapshot)?;
        }
        other => anyhow::bail!("{other:?} is no fault of a Redis that is alone"),
    }
    Ok(())
}

fn send(redis: &RedisServer, command: &[&str]) -> anyhow::Result<()> {
    redis.command::<Value>(command).map(|_| ())
}
