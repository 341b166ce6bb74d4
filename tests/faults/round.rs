//! Decides how a round goes: a world, load, faults in lanes for a time, all healed, all settled, and the evidence. I/O.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use harness::ledger::logical_id;
use harness::offsets::{Offsets, read_all};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::app::{self, now};
use crate::check::{Committed, Evidence};
use crate::history::History;
use crate::inject::inject;
use crate::kind::Kind;
use crate::load;
use crate::pod::{Gate, Pod};
use crate::schedule::Lane;
use crate::world::{DEAD, GROUP, PODS, Setup, TOPIC, World};

/// How long all may take to settle when nothing is wrong any more.
const SETTLED: Duration = Duration::from_secs(120);
/// How often it is looked what is committed.
const LOOK: Duration = Duration::from_millis(400);

/// What a round is told.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) setup: Setup,
    pub(crate) gate: Gate,
    /// How long faults go on.
    pub(crate) faults: Duration,
    /// What goes wrong.
    pub(crate) kinds: Vec<Kind>,
    /// How much at once.
    pub(crate) lanes: u64,
    /// How long a lane rests between two faults, beside a short while at random.
    pub(crate) rest: Duration,
    /// Records a second.
    pub(crate) rate: f64,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) evidence: Evidence,
    /// Sidecars that ended by themselves.
    pub(crate) unasked: u64,
    /// It has settled everything; if not, why.
    pub(crate) settled: Result<(), String>,
    /// Where it took place, with its files.
    pub(crate) world: Arc<World>,
}

/// Plays a round. Where it can't be played to its end, its files are kept.
pub(crate) async fn play(plan: Plan) -> anyhow::Result<Outcome> {
    let world = World::new(plan.setup, plan.gate).await?;
    let played = AssertUnwindSafe(play_in(&world, &plan)).catch_unwind().await;
    if !matches!(played, Ok(Ok(_))) {
        keep(&world);
    }
    played.unwrap_or_else(|panic| resume_unwind(panic))
}

async fn play_in(world: &Arc<World>, plan: &Plan) -> anyhow::Result<Outcome> {
    let (over, stop) = watch::channel(false);
    let tending = tokio::spawn({
        let world = Arc::clone(world);
        async move { world.tend().await }
    });
    let load = tokio::spawn(load::publish(world.bootstrap.clone(), plan.rate, plan.seed, stop.clone()));
    let commits = Arc::new(Mutex::new(Vec::new()));
    let looking = tokio::spawn(look(world.bootstrap.clone(), Arc::clone(&commits), stop.clone()));
    let offsets = Offsets::of(&world.bootstrap, GROUP)?;
    flows(&offsets).await;

    let until = Instant::now() + plan.faults;
    // A thread for each: one that blocks must not hold the others up.
    let strike = |lane| {
        let (world, plan, runtime) = (Arc::clone(world), plan.clone(), Handle::current());
        spawn_blocking(move || runtime.block_on(strike(&world, &plan, lane, until)))
    };
    for lane in (0..plan.lanes).map(strike).collect::<Vec<_>>() {
        lane.await??;
    }
    over.send_replace(true);
    let published = load.await??;
    looking.await??;
    let settled = settled(&offsets).await;
    world.end().await?;
    tending.await??;

    let mut effects = Vec::new();
    for pod in 0..PODS + world.guests.load(std::sync::atomic::Ordering::Relaxed) {
        let entries = app::read(&Pod::ledger(world.path(), pod))?;
        effects.extend(entries.into_iter().map(|entry| (pod, entry)));
    }
    let dead = read_all(&world.bootstrap, DEAD).await?;
    let dead = dead
        .into_iter()
        .filter_map(|record| Some((logical_id(record.value.as_ref()?), u64::try_from(record.timestamp?).ok()?)));
    let mut dead: Vec<(String, u64)> = dead.collect();
    if plan.gate == Gate::OnePhase {
        // It has no dead letters: what the app refuses is done with, as it is for the decorators.
        let refused = published.events.keys().filter(|event| app::fate(event) == app::Fate::Reject);
        dead.extend(refused.map(|event| (event.clone(), 0)));
    }
    let history = History { faults: world.struck.lock().unwrap().clone(), open: plan.setup.open };
    let commits = std::mem::take(&mut *commits.lock().await);
    let evidence = Evidence { published, effects, dead, commits, history };
    let unasked = world.unasked.load(std::sync::atomic::Ordering::Relaxed);
    Ok(Outcome { evidence, unasked, settled, world: Arc::clone(world) })
}

/// Leaves the round's files, and when its faults were, for a person to look at.
pub(crate) fn keep(world: &World) {
    let faults = world.struck.lock().unwrap().iter().map(|fault| format!("{fault:?}\n")).collect::<String>();
    let written = std::fs::write(world.path().join("faults"), faults);
    let name = world.path().file_name().unwrap_or_default().to_string_lossy();
    let copy = std::env::temp_dir().join(format!("{name}-kept"));
    let copied = std::process::Command::new("cp").arg("-r").arg(world.path()).arg(&copy).status();
    eprintln!("files of the round: {} ({written:?}, {copied:?})", copy.display());
}

/// Waits until something was committed: a fault before that shows little.
async fn flows(offsets: &Offsets) {
    harness::wait::patiently("the flow", Duration::from_secs(60), async || {
        let committed = offsets.committed(TOPIC).await.map_err(|error| format!("{error:#}"))?;
        if committed.values().any(|offset| *offset > 0) { Ok(()) } else { Err("nothing is committed".to_owned()) }
    })
    .await;
}

/// Injects one fault after another.
async fn strike(world: &World, plan: &Plan, lane: u64, until: Instant) -> anyhow::Result<()> {
    let seed = plan.seed.wrapping_mul(31).wrapping_add(lane);
    for fault in Lane::new(seed, PODS, &plan.kinds) {
        if Instant::now() >= until {
            break;
        }
        let struck = inject(world, fault).await.with_context(|| format!("{fault:?}"))?;
        world.struck.lock().unwrap().push(struck);
        sleep(fault.pause + plan.rest).await;
    }
    Ok(())
}

/// Notes what is committed, again and again.
async fn look(
    bootstrap: String,
    commits: Arc<Mutex<Vec<Committed>>>,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let offsets = Offsets::of(&bootstrap, GROUP)?;
    while !*stop.borrow() {
        // A broker that is away has nothing to say.
        if let Ok(committed) = offsets.committed(TOPIC).await {
            commits.lock().await.push((now(), committed));
        }
        tokio::select! {
            () = sleep(LOOK) => {}
            _ = stop.changed() => {}
        }
    }
    Ok(())
}

/// Waits until everything is settled; what is not, where it does not.
async fn settled(offsets: &Offsets) -> Result<(), String> {
    let until = Instant::now() + SETTLED;
    loop {
        let looked = async { anyhow::Ok((offsets.ends(TOPIC).await?, offsets.committed(TOPIC).await?)) };
        let last = match looked.await {
            Ok((ends, committed)) if ends.iter().all(|(partition, end)| committed.get(partition) == Some(end)) => {
                return Ok(());
            }
            Ok((ends, committed)) => format!("committed {committed:?} of {ends:?}"),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= until {
            return Err(last);
        }
        sleep(LOOK).await;
    }
}
