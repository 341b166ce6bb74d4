//! Decides how each fault is done and undone. I/O: signals, links, Redis's own commands.

use std::sync::atomic::Ordering;
use std::time::Duration;

use harness::process::{Program, built};
use harness::proxy::Action;
use harness::redis::RedisServer;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use redis::Value;
use rustix::process::Signal;
use sidecar::fail_point::STEPS;
use tokio::time::sleep;

use crate::app::now;
use crate::history::Interval;
use crate::kind::{Kind, Target};
use crate::pod::Pod;
use crate::schedule::Fault;
use crate::world::{PODS, World, faketime};

/// How long a sidecar may take until it passes a step: then it is disarmed, and the fault counts as not injected.
const PASSES: Duration = Duration::from_secs(15);

/// Injects a fault and takes it back; when it was. `None` where it could not be.
pub(crate) async fn inject(world: &World, fault: Fault) -> anyhow::Result<Option<Interval>> {
    let pod = (fault.kind.target() == Target::Pod).then_some(fault.pod);
    let start = now();
    let interval = |start| Interval { kind: fault.kind, pod, start, end: now() };
    Ok(match fault.kind.target() {
        Target::Pod if fault.kind == Kind::Storm => Some(storm(world, fault).await?),
        Target::Pod => {
            let _shared = world.all_pods.read().await;
            on_pod(world, fault).await?.map(interval)
        }
        Target::Pods => {
            let _all = world.all_pods.write().await;
            for pod in &world.pods {
                pod.lock().await.restart_sidecar().await?;
            }
            Some(interval(start))
        }
        Target::Broker => Some(interval(on_broker(world, fault).await?)),
        Target::Redis => Some(interval(on_redis(world, fault).await?)),
    })
}

/// When it began.
async fn on_pod(world: &World, fault: Fault) -> anyhow::Result<Option<u64>> {
    let links = &world.links[fault.pod];
    // Links are struck beside the pod's processes: both may be wrong at once.
    let links_alone = links.struck.lock().await;
    let start = now();
    match fault.kind {
        Kind::CutKafka => {
            links.kafka.cut();
            sleep(fault.span).await;
            links.kafka.mend();
            return Ok(Some(start));
        }
        Kind::CutRedis => {
            links.redis.cut();
            sleep(fault.span).await;
            links.redis.mend();
            return Ok(Some(start));
        }
        Kind::CutBoth => {
            links.kafka.cut();
            links.redis.cut();
            sleep(fault.span).await;
            links.redis.mend();
            links.kafka.mend();
            return Ok(Some(start));
        }
        Kind::SlowRedis => {
            links.redis.slow(Duration::from_millis(20 + fault.seed % 400));
            sleep(fault.span).await;
            links.redis.mend();
            return Ok(Some(start));
        }
        Kind::LoseReplies => return lose(world, fault, Action::LoseReply).await.map(Some),
        Kind::LoseRequests => return lose(world, fault, Action::LoseRequest).await.map(Some),
        Kind::LateRequests => return lose(world, fault, Action::HoldRequest).await.map(Some),
        _ => {}
    }
    drop(links_alone);
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
        Kind::KillAtStep(step) => {
            pod.arm(STEPS[step], 1 + usize::try_from(fault.seed % 40)?);
            pod.restart_sidecar().await?;
            let armed = tokio::time::Instant::now();
            while !pod.sidecar_has_ended()? {
                if armed.elapsed() > PASSES {
                    pod.tend()?;
                    pod.restart_sidecar().await?;
                    return Ok(None);
                }
                sleep(Duration::from_millis(5)).await;
            }
            pod.tend()?;
        }
        Kind::ClockJump => jump(&mut pod, fault).await?,
        other => anyhow::bail!("{other:?} is no fault of a pod"),
    }
    Ok(Some(start))
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
    pod.end_sidecar().await?;
    pod.tend().map(|_| ())
}

/// A few messages, chosen among all kinds: claims, releases, completions, renewals.
async fn lose(world: &World, fault: Fault, action: Action) -> anyhow::Result<u64> {
    let proxy = &world.links[fault.pod].proxy;
    let mut rng = StdRng::seed_from_u64(fault.seed);
    let start = now();
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
    Ok(start)
}

/// A further pod comes and goes.
async fn storm(world: &World, fault: Fault) -> anyhow::Result<Interval> {
    let number = PODS + world.guests.fetch_add(1, Ordering::Relaxed);
    let (home, config) = world.guest(number).await?;
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
    let start = now();
    match fault.kind {
        Kind::KillBroker => {
            kafka.kill();
            sleep(fault.span).await;
            kafka.restart().await?;
        }
        _ => {
            kafka.pause()?;
            sleep(fault.span).await;
            kafka.resume()?;
        }
    }
    Ok(start)
}

async fn on_redis(world: &World, fault: Fault) -> anyhow::Result<u64> {
    let mut redis = world.redis.lock().await;
    let start = now();
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
            set(&redis, &["REPLICAOF", "127.0.0.1", "1"])?;
            sleep(fault.span).await;
            set(&redis, &["REPLICAOF", "NO", "ONE"])?;
        }
        Kind::OutOfMemory => {
            set(&redis, &["CONFIG", "SET", "maxmemory", "100kb"])?;
            sleep(fault.span).await;
            set(&redis, &["CONFIG", "SET", "maxmemory", "0"])?;
        }
        Kind::Flush => set(&redis, &["FLUSHALL"])?,
        _ => {
            let snapshot = redis.snapshot()?;
            sleep(fault.span).await;
            redis.restore(&snapshot)?;
        }
    }
    Ok(start)
}

fn set(redis: &RedisServer, command: &[&str]) -> anyhow::Result<()> {
    redis.command::<Value>(command).map(|_| ())
}
