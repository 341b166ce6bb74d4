//! Shows what a drain, a pause and an end do to events under way, and what the admin endpoint says meanwhile. I/O.

use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use crds::status::{Counters, SidecarStatus};
use harness::app::{Behaviour, complete};
use harness::env::{Env, trial};
use harness::flow::{Flow, SOON, Turnstile};
use harness::openmetrics::{self, sum};
use harness::process::how;
use harness::rig::condition;
use harness::sidecar::Sidecar;
use harness::wait::{always, equal, eventually};
use hyper::StatusCode;
use libtest_mimic::Trial;
use rustix::process::Signal;
use serde_json::Value;

const TOKEN: &str = "the-operators-token";

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        trial(
            "drain::what_is_under_way_is_committed_before_the_answer",
            what_is_under_way_is_committed_before_the_answer,
        ),
        trial("drain::deliveries_resume_once_the_app_restarted", deliveries_resume_once_the_app_restarted),
        trial("drain::deliveries_resume_if_the_app_stays", deliveries_resume_if_the_app_stays),
        trial("drain::a_wrong_token_drains_nothing", a_wrong_token_drains_nothing),
        trial("drain::a_hung_app_is_not_waited_for_for_ever", a_hung_app_is_not_waited_for_for_ever),
        trial("drain::a_commit_that_fails_is_not_called_settled", a_commit_that_fails_is_not_called_settled),
        trial("drain::a_drain_and_sigterm_at_once_both_end_well", a_drain_and_sigterm_at_once_both_end_well),
        trial(
            "drain::a_paused_consumer_delivers_nothing_and_shows_its_lag",
            a_paused_consumer_delivers_nothing_and_shows_its_lag,
        ),
        trial("drain::a_file_stops_and_resumes_a_running_consumer", a_file_stops_and_resumes_a_running_consumer),
        trial("drain::the_admin_endpoint_is_right_at_every_stage", the_admin_endpoint_is_right_at_every_stage),
    ]
}

async fn what_is_under_way_is_committed_before_the_answer(env: Env) -> anyhow::Result<()> {
    let turnstile = Turnstile::default();
    let (mut flow, sidecar) = with_token(env, 3, turnstile.complete()).await?;
    flow.publish_unique(60).await?;
    turnstile.let_through(9);
    eventually("every partition has a request under way", SOON, async || flow.app.requests() == 12).await;
    let drain = drain(&sidecar);
    sidecar.wait_for("it drains", SOON, |status| status.paused).await;
    turnstile.let_through(3);
    let (code, report) = drain.await?;
    let (done, committed) = (flow.app.ledger().len(), flow.offsets.committed(&flow.topic).await?);
    ensure!(code == StatusCode::OK && report["settled"] == true && report["remaining"] == 0, "{code} {report}");
    ensure!(done == 12, "{done} effects");
    for effect in flow.app.ledger().effects() {
        let committed = committed.get(&effect.partition);
        ensure!(
            committed.is_some_and(|committed| *committed > effect.offset),
            "{effect} is not committed: {committed:?}"
        );
    }
    always("nothing is delivered after the answer", Duration::from_secs(2), async || equal(&flow.app.requests(), &12))
        .await;
    Ok(())
}

async fn deliveries_resume_once_the_app_restarted(env: Env) -> anyhow::Result<()> {
    let (mut flow, sidecar) = with_token(env, 2, complete()).await?;
    for _ in 0..2 {
        flow.publish(50).await?;
        let (_, report) = drain(&sidecar).await?;
        ensure!(report["settled"] == true, "{report}");
        let before = flow.app.requests();
        flow.publish(50).await?;
        flow.app.stop();
        flow.app.listen()?;
        let back = Instant::now();
        eventually("deliveries resume", SOON, async || flow.app.requests() > before).await;
        eprintln!("deliveries resumed {:?} after the app's restart", back.elapsed());
        flow.settled_each_once().await;
    }
    ensure!(!sidecar.status().await?.paused);
    Ok(())
}

async fn deliveries_resume_if_the_app_stays(env: Env) -> anyhow::Result<()> {
    let mut flow = Flow::new(env, 2, complete()).await?;
    flow.config.delivery.app_down_timeout = "2s".parse()?;
    let sidecar = flow.sidecar("sidecar").await?;
    let (code, report) = drain(&sidecar).await?;
    ensure!(code == StatusCode::OK && report["settled"] == true, "no token is set, none is asked for: {code} {report}");
    let drained = Instant::now();
    flow.publish(50).await?;
    eventually("the app that was not restarted gets events again", SOON, async || flow.app.requests() > 0).await;
    ensure!(drained.elapsed() > Duration::from_millis(1900), "resumed after {:?}", drained.elapsed());
    flow.settled_each_once().await;
    Ok(())
}

async fn a_wrong_token_drains_nothing(env: Env) -> anyhow::Result<()> {
    let (mut flow, sidecar) = with_token(env, 1, complete()).await?;
    for token in [None, Some("another"), Some("")] {
        let (code, body) = sidecar.drain(token).await?;
        ensure!(code == StatusCode::UNAUTHORIZED && !body.is_empty(), "{token:?}: {code}");
    }
    always("it goes on", Duration::from_millis(500), async || {
        equal(&sidecar.status().await.map(|status| status.paused).ok(), &Some(false))
    })
    .await;
    flow.publish(20).await?;
    flow.settled_each_once().await;
    Ok(())
}

async fn a_hung_app_is_not_waited_for_for_ever(env: Env) -> anyhow::Result<()> {
    let turnstile = Turnstile::default();
    let mut flow = Flow::new(env, 2, turnstile.complete()).await?;
    flow.config.drain_timeout = "1s".parse()?;
    let sidecar = flow.sidecar("sidecar").await?;
    flow.publish_unique(20).await?;
    eventually("both heads hang", SOON, async || flow.app.requests() == 2).await;
    let asked = Instant::now();
    let (code, report) = drain(&sidecar).await?;
    let took = asked.elapsed();
    ensure!(took > Duration::from_millis(900) && took < Duration::from_secs(3), "answered after {took:?}");
    ensure!(code == StatusCode::OK && report["settled"] == false && report["remaining"] == 2, "{report}");
    // What was under way settles yet; the rest waits for the app's restart.
    turnstile.open();
    eventually("the hung ones settle", SOON, async || {
        equal(&sidecar.status().await.map(|status| status.counters.completed).ok(), &Some(2))
    })
    .await;
    ensure!(flow.app.requests() == 2, "delivered after the answer");
    flow.app.stop();
    flow.app.listen()?;
    flow.settled_each_once().await;
    Ok(())
}

async fn a_commit_that_fails_is_not_called_settled(env: Env) -> anyhow::Result<()> {
    let mut kafka = harness::kafka::Kafka::start().await?;
    let turnstile = Turnstile::default();
    let mut flow = Flow::new(env, 1, turnstile.complete()).await?;
    kafka.create_topic(&flow.topic, 1, &[]).await?;
    flow.config.kafka.bootstrap_servers = kafka.bootstrap();
    flow.config.drain_timeout = "2s".parse()?;
    let sidecar = flow.sidecar("sidecar").await?;
    let plan = harness::publish::Plan { duplicates: 0.0, ..harness::publish::Plan::new(2, 1) };
    plan.publish(&kafka.bootstrap(), &flow.topic).await?;
    eventually("the first is under way", SOON, async || flow.app.requests() == 1).await;
    kafka.kill();
    let drain = drain(&sidecar);
    sidecar.wait_for("it drains", SOON, |status| status.paused).await;
    turnstile.open();
    let (_, report) = drain.await?;
    ensure!(report["settled"] == false && report["remaining"] == 0, "{report}");
    ensure!(flow.app.ledger().len() == 1);
    Ok(())
}

async fn a_drain_and_sigterm_at_once_both_end_well(env: Env) -> anyhow::Result<()> {
    let turnstile = Turnstile::default();
    let mut flow = Flow::new(env, 2, turnstile.complete()).await?;
    flow.publish_unique(60).await?;
    for (round, drain_first) in [true, false].into_iter().enumerate() {
        let mut sidecar = flow.sidecar("sidecar").await?;
        let wanted = flow.app.requests() + 2;
        eventually("both heads are under way", SOON, async || flow.app.requests() == wanted).await;
        if !drain_first {
            sidecar.process().signal(Signal::TERM)?;
            sidecar.wait_for("it drains", SOON, |status| status.paused).await;
        }
        let drain = drain(&sidecar);
        if drain_first {
            sidecar.wait_for("it drains", SOON, |status| status.paused).await;
            sidecar.process().signal(Signal::TERM)?;
        }
        always("it waits for the app", Duration::from_millis(300), async || {
            sidecar.process().must_run().map_err(|e| e.to_string())
        })
        .await;
        turnstile.let_through(2);
        let (code, report) = drain.await?;
        ensure!(code == StatusCode::OK && report["settled"] == true, "round {round}: {code} {report}");
        let ended = how(sidecar.wait(SOON).await);
        ensure!(ended == "exit code 0", "round {round}: {ended}");
        ensure!(flow.offsets.members().await? == 0, "round {round}: it has not left the group");
        ensure!(flow.app.requests() == wanted, "round {round}: delivered while it drained");
    }
    turnstile.open();
    let _sidecar = flow.sidecar("sidecar").await?;
    flow.settled_each_once().await;
    Ok(())
}

async fn a_paused_consumer_delivers_nothing_and_shows_its_lag(env: Env) -> anyhow::Result<()> {
    let mut flow = Flow::new(env, 2, complete()).await?;
    flow.publish(70).await?;
    flow.config.paused = true;
    let mut sidecar = flow.sidecar("sidecar").await?;
    let records = flow.published.records() as i64;
    let shown = |status: &SidecarStatus| lag(status) == Some(records) && status.paused && status.ready;
    sidecar.wait_for("it is ready, and shows all of the lag", SOON, shown).await;
    always("nothing is delivered", Duration::from_secs(1), async || equal(&flow.app.requests(), &0)).await;
    ensure!(flow.offsets.committed(&flow.topic).await?.is_empty(), "something was committed");
    let ended = how(sidecar.terminate(SOON).await?);
    ensure!(ended == "exit code 0", "{ended}");
    flow.config.paused = false;
    let _sidecar = flow.sidecar("sidecar").await?;
    flow.settled_each_once().await;
    Ok(())
}

async fn a_file_stops_and_resumes_a_running_consumer(env: Env) -> anyhow::Result<()> {
    let turnstile = Turnstile::default();
    let mut flow = Flow::new(env, 2, turnstile.complete()).await?;
    let volume = flow.env.dir().join("flow");
    std::fs::create_dir(&volume)?;
    std::os::unix::fs::symlink("..data/paused", volume.join("paused"))?;
    mount(&volume, "true")?;
    flow.config.paused_file = Some(volume.join("paused"));
    flow.publish_unique(60).await?;
    let mut sidecar = flow.sidecar("sidecar").await?;
    let published = flow.published.records() as i64;
    let shown = |status: &SidecarStatus| lag(status) == Some(published) && status.paused && status.ready;
    sidecar.wait_for("it is paused from the beginning, and ready", SOON, shown).await;
    for round in 0..3 {
        let before = flow.app.requests();
        mount(&volume, "false\n")?;
        eventually("both partitions have a request under way", SOON, async || {
            equal(&flow.app.requests(), &(before + 2))
        })
        .await;
        sidecar.wait_for("it is not paused", SOON, |status| !status.paused).await;
        mount(&volume, if round == 0 { "true" } else { "true\n" })?;
        sidecar.wait_for("it is paused", SOON, |status| status.paused).await;
        turnstile.let_through(2);
        let settled = before as i64 + 2;
        eventually("what was under way is committed", SOON, async || {
            let committed = flow.offsets.committed(&flow.topic).await?;
            ensure!(committed.values().sum::<i64>() == settled, "{committed:?}");
            Ok(())
        })
        .await;
        // What can't be understood changes nothing.
        mount(&volume, "maybe")?;
        always("nothing else is delivered", Duration::from_secs(2), async || {
            equal(&flow.app.requests(), &(before + 2))
        })
        .await;
        let kept = |status: &SidecarStatus| status.paused && status.joined && status.partitions.len() == 2;
        sidecar.wait_for("it keeps its partitions", SOON, kept).await;
    }
    ensure!(sidecar.log().matches("says neither").count() >= 3, "it does not say what is wrong with the file");
    turnstile.open();
    flow.publish(60).await?;
    // Without the file `paused` counts again, which is false.
    std::fs::remove_file(volume.join("..data"))?;
    flow.settled_each_once().await;
    let report = flow.app.ledger();
    ensure!(report.effects().iter().all(|effect| effect.attempt == 1), "a pause is no failed delivery");
    let ended = how(sidecar.terminate(SOON).await?);
    ensure!(ended == "exit code 0", "{ended}");
    Ok(())
}

/// Puts a file `paused` with that text into a folder as the kubelet does for a ConfigMap: behind a link that is replaced at once.
fn mount(volume: &Path, text: &str) -> anyhow::Result<()> {
    let fresh = tempfile::tempdir_in(volume)?.keep();
    std::fs::write(fresh.join("paused"), text)?;
    let link = fresh.with_extension("link");
    std::os::unix::fs::symlink(fresh.file_name().context("a name")?, &link)?;
    std::fs::rename(link, volume.join("..data"))?;
    Ok(())
}

async fn the_admin_endpoint_is_right_at_every_stage(env: Env) -> anyhow::Result<()> {
    let (mut flow, sidecar) = with_token(env, 2, complete()).await?;
    flow.publish(80).await?;
    flow.settled().await;
    counted_all(&flow, &sidecar).await;
    check_admin(&flow, &sidecar, true).await?;
    let (_, report) = drain(&sidecar).await?;
    ensure!(report["settled"] == true, "{report}");
    flow.publish(20).await?;
    sidecar
        .wait_for("a drained one keeps its partitions", SOON, |s| s.paused && s.joined && s.partitions.len() == 2)
        .await;
    check_admin(&flow, &sidecar, true).await?;
    flow.app.stop();
    sidecar.wait_for("the app's end is seen", SOON, |status| !status.app_up).await;
    check_admin(&flow, &sidecar, false).await?;
    flow.app.listen()?;
    flow.settled_each_once().await;
    sidecar.wait_for("it is ready again", SOON, |status| status.ready).await;
    counted_all(&flow, &sidecar).await;
    check_admin(&flow, &sidecar, true).await
}

/// Waits until every record is counted as what became of it.
async fn counted_all(flow: &Flow, sidecar: &Sidecar) {
    let (received, completed) = (flow.published.records() as u64, flow.published.unique() as u64);
    let wanted = Counters { received, completed, duplicates: received - completed, ..Counters::default() };
    sidecar.wait_for("it has counted every record", SOON, |status| status.counters == wanted).await;
}

/// Every path answers, and they agree.
async fn check_admin(flow: &Flow, sidecar: &Sidecar, ready: bool) -> anyhow::Result<()> {
    let wanted = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    ensure!(sidecar.get("/livez").await?.0 == StatusCode::OK);
    let (code, text) = sidecar.get("/readyz").await?;
    ensure!(code == wanted, "/readyz: {code} {text:?}");
    ensure!(ready || String::from_utf8_lossy(&text).contains("AppUp"), "/readyz does not say why: {text:?}");
    let samples = openmetrics::parse(&sidecar.metrics().await?).context("/metrics")?;
    let status = sidecar.status().await?;
    let of = |name: &str, labels: &[&str]| sum(&samples, name, labels) as u64;
    for (outcome, count) in [("completed", status.counters.completed), ("duplicate", status.counters.duplicates)] {
        let shown = of("idempotency_events_total", &[&format!("outcome=\"{outcome}\"")]);
        ensure!(shown == count, "{outcome}: {shown} in /metrics, {count} in /status");
    }
    ensure!(of("idempotency_deliveries_total", &["protection=\"full\""]) == status.counters.completed);
    ensure!(of("idempotency_app_up", &[]) == u64::from(status.app_up));
    ensure!(of("idempotency_condition", &["AppUp"]) == u64::from(condition(&status, "AppUp").context("AppUp")?.status));
    ensure!(status.ready == ready && status.group == flow.config.group, "{status:?}");
    Ok(())
}

/// The sum over the partitions; `None` if one is not known.
fn lag(status: &SidecarStatus) -> Option<i64> {
    let all: Option<Vec<i64>> = status.partitions.iter().map(|partition| partition.lag).collect();
    all.filter(|all| !all.is_empty()).map(|all| all.iter().sum())
}

async fn with_token(env: Env, partitions: i32, behaviour: Behaviour) -> anyhow::Result<(Flow, Sidecar)> {
    let mut flow = Flow::new(env, partitions, behaviour).await?;
    let file = flow.env.dir().join("token");
    std::fs::write(&file, TOKEN)?;
    flow.config.admin.drain_token_file = Some(file);
    let sidecar = flow.sidecar("sidecar").await?;
    Ok((flow, sidecar))
}

/// Asks for a drain in a task of its own; the answer is awaited later.
fn drain(sidecar: &Sidecar) -> impl Future<Output = anyhow::Result<(StatusCode, Value)>> + use<> {
    let address = sidecar.address();
    let asked = tokio::spawn(async move {
        let bearer = format!("Bearer {TOKEN}");
        let headers = [("authorization", bearer.as_str())];
        let address = address?;
        harness::http::ask(address, hyper::Method::POST, "/drain", &headers, Bytes::new(), Duration::from_secs(60))
            .await
    });
    async move {
        let (code, body) = asked.await??;
        Ok((code, serde_json::from_slice(&body).with_context(|| format!("{code} {body:?}"))?))
    }
}
