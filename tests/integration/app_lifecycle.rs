//! Shows that the app may come late, go away, come back, hang and run as another user, and that nothing is lost by it. I/O.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use harness::app::{App, Listen, complete};
use harness::env::{Env, trial};
use harness::flow::{Flow, SOON, Turnstile};
use harness::ledger::{Check, Ledger, read};
use harness::process::{Program, built};
use harness::rig::condition;
use harness::sidecar::Sidecar;
use harness::wait::{always, equal, eventually};
use libtest_mimic::Trial;
use rustix::process::geteuid;
use tokio::net::{UnixSocket, UnixStream};

/// Longer than the sidecar lets a stale socket file lie.
const LONGER_THAN_STALE: Duration = Duration::from_millis(2500);
/// Users that are nobody else, where we may become them.
const SIDECAR_USER: u32 = 40_001;
const APP_USER: u32 = 40_002;

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        trial("app::the_group_is_joined_once_the_app_is_there", the_group_is_joined_once_the_app_is_there),
        trial("app::a_stale_socket_is_cleared_for_a_restarted_app", a_stale_socket_is_cleared_for_a_restarted_app),
        trial("app::a_regular_file_in_the_sockets_place_stays", a_regular_file_in_the_sockets_place_stays),
        trial("app::a_socket_with_a_full_accept_queue_stays", a_socket_with_a_full_accept_queue_stays),
        trial("app::an_app_killed_amid_requests_loses_nothing", an_app_killed_amid_requests_loses_nothing),
        trial("app::a_dead_app_costs_no_attempts", a_dead_app_costs_no_attempts),
        trial("app::an_app_that_stays_down_leaves_the_group", an_app_that_stays_down_leaves_the_group),
        trial(
            "app::an_app_that_dies_while_nothing_comes_leaves_the_group",
            an_app_that_dies_while_nothing_comes_leaves_the_group,
        ),
        trial("app::a_hung_app_stays_in_the_group", a_hung_app_stays_in_the_group),
        trial("app::another_users_socket_is_told_and_left_alone", another_users_socket_is_told_and_left_alone),
        trial("app::an_app_of_the_same_user_or_group_works", an_app_of_the_same_user_or_group_works),
        trial("app::another_users_app_works_over_a_port", another_users_app_works_over_a_port),
        trial("app::a_loopback_port_keeps_its_connection", a_loopback_port_keeps_its_connection),
    ]
}

async fn the_group_is_joined_once_the_app_is_there(env: Env) -> anyhow::Result<()> {
    let app = App::stopped(Listen::Unix(env.socket("app")), complete(), Ledger::new());
    let mut flow = Flow::with_app(env, 2, app).await?;
    flow.publish(50).await?;
    let sidecar = flow.sidecar("sidecar").await?;
    let told =
        |status: &_| condition(status, "AppUp").is_some_and(|c| !c.status && c.message.contains("$IDEMPOTENCY_SOCKET"));
    sidecar.wait_for("it says which socket the app must listen on", SOON, told).await;
    always("it is not ready and joins nothing", Duration::from_secs(2), async || {
        let (ready, members) = (sidecar.ready().await, flow.offsets.members().await);
        equal(&(ready.ok(), members.ok()), &(Some(false), Some(0)))
    })
    .await;
    flow.app.listen()?;
    flow.settled_each_once().await;
    sidecar.wait_for("it is ready", SOON, |status| status.ready && status.app_up && status.joined).await;
    Ok(())
}

async fn a_stale_socket_is_cleared_for_a_restarted_app(env: Env) -> anyhow::Result<()> {
    let mut flow = Flow::new(env, 2, complete()).await?;
    let _sidecar = flow.sidecar("sidecar").await?;
    flow.publish(50).await?;
    flow.settled().await;
    flow.app.stop();
    flow.publish(50).await?;
    let down = Instant::now();
    let app = &mut flow.app;
    eventually("an app that knows nothing of stale files can listen again", SOON, async || app.listen_over_stale())
        .await;
    ensure!(down.elapsed() > Duration::from_millis(900), "cleared after {:?}: an app may be starting", down.elapsed());
    flow.settled_each_once().await;
    Ok(())
}

async fn a_regular_file_in_the_sockets_place_stays(env: Env) -> anyhow::Result<()> {
    let path = env.socket("app");
    std::fs::write(&path, "somebody's work")?;
    let app = App::stopped(Listen::Unix(path.clone()), complete(), Ledger::new());
    let flow = Flow::with_app(env, 1, app).await?;
    let sidecar = flow.sidecar("sidecar").await?;
    sidecar.wait_for("it says that nobody listens", SOON, says_app_is_down).await;
    always("the file stays", LONGER_THAN_STALE, async || {
        equal(&std::fs::read(&path).map_err(|e| e.to_string())?.as_slice(), &b"somebody's work".as_slice())
    })
    .await;
    Ok(())
}

async fn a_socket_with_a_full_accept_queue_stays(env: Env) -> anyhow::Result<()> {
    let path = env.socket("app");
    let socket = UnixSocket::new_stream()?;
    socket.bind(&path)?;
    let _listener = socket.listen(0)?;
    let _first = UnixStream::connect(&path).await?;
    let full = UnixStream::connect(&path).await;
    ensure!(full.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock), "the queue is not full");
    let app = App::stopped(Listen::Unix(path.clone()), complete(), Ledger::new());
    let mut flow = Flow::with_app(env, 1, app).await?;
    flow.config.delivery.timeout = "300ms".parse()?;
    let sidecar = flow.sidecar("sidecar").await?;
    sidecar.wait_for("it says that the app does not accept", SOON, says_app_is_down).await;
    always("the socket stays", LONGER_THAN_STALE, async || {
        std::fs::symlink_metadata(&path).map(drop).map_err(|e| e.to_string())
    })
    .await;
    Ok(())
}

async fn an_app_killed_amid_requests_loses_nothing(env: Env) -> anyhow::Result<()> {
    let (socket, ledger) = (env.socket("app"), env.dir().join("ledger"));
    let app = App::stopped(Listen::Unix(socket.clone()), complete(), Ledger::new());
    let mut flow = Flow::with_app(env, 4, app).await?;
    flow.publish(600).await?;
    let sidecar = flow.sidecar("sidecar").await?;
    for kill in 0..4 {
        let mut process = ledger_app(&socket, &ledger, 5, None)?.start(flow.env.dir())?;
        let enough = 100 * (kill + 1);
        eventually(format!("{enough} effects"), SOON, async || {
            read(&ledger).is_ok_and(|effects| effects.len() >= enough)
        })
        .await;
        process.kill();
        sidecar.wait_for("the kill is seen", SOON, |status| !status.app_up).await;
    }
    let _last = ledger_app(&socket, &ledger, 0, None)?.start(flow.env.dir())?;
    flow.settled().await;
    let check = Check::new(&flow.published, &read(&ledger)?);
    check.assert_none_lost();
    check.second_deliveries_only_with_attempt_above_one();
    // A killed request was on the wire: its next attempt must say so, whether or not it took effect.
    ensure!(sidecar.status().await?.counters.redeliveries > 0, "no request was under way at any kill");
    Ok(())
}

async fn a_dead_app_costs_no_attempts(env: Env) -> anyhow::Result<()> {
    let mut flow = Flow::new(env, 3, complete()).await?;
    let sidecar = flow.sidecar("sidecar").await?;
    flow.publish(30).await?;
    flow.settled().await;
    flow.app.stop();
    flow.publish(60).await?;
    let waiting = |status: &crds::status::SidecarStatus| {
        !status.app_up && !status.ready && status.partitions.iter().map(|p| p.buffered).sum::<u64>() > 60
    };
    sidecar.wait_for("the app's end is seen, and events wait", SOON, waiting).await;
    let (before, back) = (flow.app.requests(), Instant::now());
    flow.app.listen()?;
    eventually("deliveries resume", Duration::from_secs(1), async || flow.app.requests() > before).await;
    eprintln!("deliveries resumed {:?} after the app's return", back.elapsed());
    flow.settled_each_once().await;
    let counters = sidecar.status().await?.counters;
    ensure!(flow.app.deliveries().iter().all(|event| event.attempt == 1), "an attempt was counted that sent nothing");
    ensure!(counters.failed == 0 && counters.redeliveries == 0, "{counters:?}");
    Ok(())
}

async fn an_app_that_stays_down_leaves_the_group(env: Env) -> anyhow::Result<()> {
    let mut flow = Flow::new(env, 2, complete()).await?;
    flow.config.delivery.app_down_timeout = "1s".parse()?;
    let sidecar = flow.sidecar("sidecar").await?;
    flow.publish(30).await?;
    flow.settled().await;
    for _ in 0..2 {
        flow.app.stop();
        flow.publish(30).await?;
        members(&flow, 0).await;
        sidecar.wait_for("it holds nothing", SOON, |status| !status.joined && status.partitions.is_empty()).await;
        flow.publish(30).await?;
        flow.app.listen()?;
        flow.settled_each_once().await;
        members(&flow, 1).await;
    }
    ensure!(flow.app.deliveries().iter().all(|event| event.attempt == 1), "an attempt was counted that sent nothing");
    Ok(())
}

async fn an_app_that_dies_while_nothing_comes_leaves_the_group(env: Env) -> anyhow::Result<()> {
    let mut flow = Flow::new(env, 2, complete()).await?;
    flow.config.delivery.app_down_timeout = "1s".parse()?;
    let sidecar = flow.sidecar("sidecar").await?;
    members(&flow, 1).await;
    flow.app.stop();
    sidecar.wait_for("the app is down", SOON, |status| !status.app_up && !status.joined).await;
    members(&flow, 0).await;
    Ok(())
}

async fn a_hung_app_stays_in_the_group(env: Env) -> anyhow::Result<()> {
    let turnstile = Turnstile::default();
    let mut flow = Flow::new(env, 2, turnstile.complete()).await?;
    let properties = [("max.poll.interval.ms", "6000"), ("session.timeout.ms", "6000")];
    flow.config.kafka.properties = properties.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    flow.config.session.ttl = "1s".parse()?;
    flow.config.drain_timeout = "1s".parse()?;
    let sidecar = flow.sidecar("sidecar").await?;
    flow.publish_unique(40).await?;
    eventually("both partitions' heads hang", SOON, async || flow.app.requests() == 2).await;
    // Both of Kafka's limits pass, and many session TTLs.
    always("it stays a member", Duration::from_secs(8), async || equal(&flow.offsets.members().await.ok(), &Some(1)))
        .await;
    turnstile.open();
    flow.settled_each_once().await;
    ensure!(flow.app.deliveries().iter().all(|event| event.attempt == 1), "a hung event was delivered again");
    ensure!(sidecar.metric("idempotency_rebalances_total", &["kind=\"assigned\""]).await? == 1.0, "it was put out");
    Ok(())
}

async fn another_users_socket_is_told_and_left_alone(env: Env) -> anyhow::Result<()> {
    let socket = shared_folder(&env, 0o777)?.join("app.sock");
    let app = App::stopped(Listen::Unix(socket.clone()), complete(), Ledger::new());
    let mut flow = Flow::with_app(env, 1, app).await?;
    flow.publish(10).await?;
    let ledger = socket.with_file_name("ledger");
    let _app = ledger_app(&socket, &ledger, 0, as_root((APP_USER, APP_USER)))?.start(flow.env.dir())?;
    eventually("the app listens", SOON, async || socket.exists()).await;
    if !geteuid().is_root() {
        // Another user can't be had: the owner without the right to write is refused in the same way.
        std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o444))?;
    }
    let sidecar = as_sidecar_user(&flow).await?;
    let advised = |status: &_| {
        let advice = ["securityContext.runAsUser", "group-writable", "delivery.port"];
        condition(status, "AppUp").is_some_and(|c| !c.status && advice.iter().all(|word| c.message.contains(word)))
    };
    sidecar.wait_for("it says what to set", SOON, advised).await;
    always("the app's socket stays, though the sidecar could remove it", LONGER_THAN_STALE, async || {
        std::fs::symlink_metadata(&socket).map(drop).map_err(|e| e.to_string())
    })
    .await;
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o666))?;
    flow.settled().await;
    Check::new(&flow.published, &read(&ledger)?).assert_each_once();
    Ok(())
}

async fn an_app_of_the_same_user_or_group_works(env: Env) -> anyhow::Result<()> {
    let socket = shared_folder(&env, 0o777)?.join("app.sock");
    let app = App::stopped(Listen::Unix(socket.clone()), complete(), Ledger::new());
    let mut flow = Flow::with_app(env, 1, app).await?;
    let ledger = socket.with_file_name("ledger");
    let _sidecar = as_sidecar_user(&flow).await?;
    for (round, (user, group)) in [(SIDECAR_USER, APP_USER), (APP_USER, SIDECAR_USER)].into_iter().enumerate() {
        flow.publish(10).await?;
        let mut app = ledger_app(&socket, &ledger, 0, as_root((user, group)))?.start(flow.env.dir())?;
        eventually("the app listens", SOON, async || UnixStream::connect(&socket).await).await;
        if round == 1 {
            std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o770))?;
        }
        flow.settled().await;
        app.kill();
        std::fs::set_permissions(&ledger, PermissionsExt::from_mode(0o666))?;
        // The sidecar may have cleared it by now.
        let _ = std::fs::remove_file(&socket);
    }
    Check::new(&flow.published, &read(&ledger)?).assert_each_once();
    Ok(())
}

async fn another_users_app_works_over_a_port(env: Env) -> anyhow::Result<()> {
    let ledger = shared_folder(&env, 0o777)?.join("ledger");
    let app = App::stopped(Listen::Tcp(harness::port::free()?), complete(), Ledger::new());
    let mut flow = Flow::with_app(env, 2, app).await?;
    let Listen::Tcp(port) = *flow.app.at() else { bail!("a unix socket") };
    flow.publish(30).await?;
    let sidecar = as_sidecar_user(&flow).await?;
    let advised =
        |status: &_| condition(status, "AppUp").is_some_and(|c| !c.status && c.message.contains("delivery.port"));
    sidecar.wait_for("it says where the app must listen", SOON, advised).await;
    let app = Program::new("app", built("ledger-app")?).args(["--port", &port.to_string(), "--ledger"]).arg(&ledger);
    let _app = run_as(app, as_root((APP_USER, APP_USER))).start(flow.env.dir())?;
    flow.settled().await;
    Check::new(&flow.published, &read(&ledger)?).assert_each_once();
    Ok(())
}

async fn a_loopback_port_keeps_its_connection(env: Env) -> anyhow::Result<()> {
    let mut flow = Flow::with_app(env, 1, App::start(Listen::Tcp(0), complete())?).await?;
    let sidecar = flow.sidecar("sidecar").await?;
    flow.publish(300).await?;
    flow.settled_each_once().await;
    let (requests, connections) = (flow.app.requests(), flow.app.connections());
    // One partition sends one request at a time: one connection, and the one that looked whether the app is there. A pause in
    // the reading may age one.
    ensure!(requests == 300 && connections <= 5, "{requests} requests over {connections} connections");
    flow.app.stop();
    flow.publish(30).await?;
    sidecar.wait_for("the app's end is seen", SOON, says_app_is_down).await;
    flow.app.listen()?;
    flow.settled_each_once().await;
    Ok(())
}

fn says_app_is_down(status: &crds::status::SidecarStatus) -> bool {
    condition(status, "AppUp").is_some_and(|c| !c.status && c.message.contains("does not accept")) && !status.ready
}

async fn members(flow: &Flow, wanted: usize) {
    eventually(format!("{wanted} members"), SOON, async || {
        equal(&flow.offsets.members().await.map_err(|e| e.to_string())?, &wanted)
    })
    .await;
}

/// A folder of the test that others may use, as an emptyDir is.
fn shared_folder(env: &Env, mode: u32) -> anyhow::Result<PathBuf> {
    let folder = env.dir().join("shared");
    std::fs::create_dir(&folder)?;
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(mode))?;
    Ok(folder)
}

/// The app as a process of its own, by user and group where we may become them.
fn ledger_app(socket: &Path, ledger: &Path, work: u64, user: Option<(u32, u32)>) -> anyhow::Result<Program> {
    let program = Program::new("app", built("ledger-app")?).arg("--socket").arg(socket).arg("--ledger").arg(ledger);
    Ok(run_as(program.args(["--work", &work.to_string()]), user))
}

fn run_as(program: Program, user: Option<(u32, u32)>) -> Program {
    match user {
        Some((uid, gid)) => program.user(uid, gid),
        None => program,
    }
}

/// Only root can become another user; without it both run as we do, and file modes alone decide.
fn as_root(user: (u32, u32)) -> Option<(u32, u32)> {
    geteuid().is_root().then_some(user)
}

/// The sidecar as a user whom permissions bind.
async fn as_sidecar_user(flow: &Flow) -> anyhow::Result<Sidecar> {
    if !geteuid().is_root() {
        return flow.sidecar("sidecar").await;
    }
    let mut sidecar = Sidecar::spawn_as(flow.env.dir(), "sidecar", &flow.config, SIDECAR_USER, SIDECAR_USER)?;
    sidecar.admin().await?;
    Ok(sidecar)
}
