//! Shows that the harness itself works: what the other tests rely on is there and can fail. I/O.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{bail, ensure};
use bytes::Bytes;
use harness::app::event::BATCH;
use harness::app::{Act, App, Listen, Verdict, act, complete, fail_first};
use harness::env::{Env, trial};
use harness::kafka::Kafka;
use harness::ledger::{Ledger, Published};
use harness::offsets::{Offsets, read_all};
use harness::process::{Program, built, how};
use harness::publish::{Plan, Publisher, Raw};
use harness::sidecar::Sidecar;
use harness::wait::{always, equal, eventually};
use hyper::{Method, StatusCode};
use libtest_mimic::Trial;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rustix::process::Signal;
use serde_json::json;
use tokio::net::UnixStream;

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        trial("smoke::kafka_takes_and_gives_records", kafka_takes_and_gives_records),
        trial("smoke::kafka_stops_and_comes_back_with_its_data", kafka_stops_and_comes_back_with_its_data),
        trial("smoke::a_group_is_seen_to_settle", a_group_is_seen_to_settle),
        trial("smoke::the_app_keeps_its_ledger", the_app_keeps_its_ledger),
        trial("smoke::the_app_answers_as_told", the_app_answers_as_told),
        trial("smoke::a_killed_ledger_app_leaves_its_effects", a_killed_ledger_app_leaves_its_effects),
        trial("smoke::a_sidecar_that_ends_is_reported", a_sidecar_that_ends_is_reported),
        trial("smoke::a_child_outlives_the_thread_that_started_it", a_child_outlives_the_thread_that_started_it),
        trial("smoke::an_app_restarts_over_its_stale_socket_or_not", an_app_restarts_over_its_stale_socket_or_not),
    ]
}

async fn kafka_takes_and_gives_records(env: Env) -> anyhow::Result<()> {
    let bootstrap = env.kafka().await?.bootstrap();
    let topic = env.topic("in", 3).await?;
    let plan = Plan::new(200, 3);
    let published = plan.publish(&bootstrap, &topic).await?;
    ensure!(published.unique() == 200 && published.records() == plan.records().len());
    let odd = Raw { value: None, ..Raw::new("") }.key("k").to(1).header("ce_id", "7");
    let (partition, offset) = Publisher::new(&bootstrap)?.send(&topic, &odd).await?;
    let big = Raw::new(vec![b'x'; 11 << 20]).to(2);
    Publisher::new(&bootstrap)?.send(&topic, &big).await?;

    let all = read_all(&bootstrap, &topic).await?;
    ensure!(all.len() == published.records() + 2, "{} records", all.len());
    let odd = all.iter().find(|r| (r.partition, r.offset) == (partition, offset)).unwrap();
    ensure!(odd.value.is_none() && odd.key.as_deref() == Some(b"k") && odd.header("ce_id").as_deref() == Some("7"));
    for partition in 0..3 {
        let planned: Vec<_> = plan.records().into_iter().filter(|r| r.partition == Some(partition)).collect();
        let read = all.iter().filter(|r| r.partition == partition).take(planned.len());
        ensure!(read.map(|r| &r.value).eq(planned.iter().map(|r| &r.value)), "partition {partition} is not in order");
    }
    env.kafka().await?.delete_topic(&topic).await?;
    Ok(())
}

async fn kafka_stops_and_comes_back_with_its_data(env: Env) -> anyhow::Result<()> {
    let mut kafka = Kafka::start().await?;
    let topic = env.name("in");
    kafka.create_topic(&topic, 1, &[]).await?;
    Publisher::new(&kafka.bootstrap())?.send(&topic, &Raw::new("before")).await?;
    kafka.stop().await?;
    kafka.restart().await?;
    kafka.kill();
    kafka.restart().await?;
    kafka.pause()?;
    kafka.resume()?;
    let all = read_all(&kafka.bootstrap(), &topic).await?;
    ensure!(all.len() == 1 && all[0].value.as_deref() == Some(b"before"), "{all:?}");
    Ok(())
}

async fn a_group_is_seen_to_settle(env: Env) -> anyhow::Result<()> {
    let kafka = env.kafka().await?;
    let (topic, group) = (env.topic("in", 2).await?, env.name("group"));
    Plan::new(50, 2).publish(&kafka.bootstrap(), &topic).await?;
    let offsets = env.offsets(&group).await?;
    ensure!(offsets.committed(&topic).await?.is_empty() && offsets.members().await? == 0);

    let consumer: BaseConsumer = kafka
        .client_config()
        .set("group.id", &group)
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("session.timeout.ms", "6000")
        .create()?;
    consumer.subscribe(&[&topic])?;
    let reading = tokio::task::spawn_blocking(move || {
        // Keeps its membership until it is dropped by the abort of the whole runtime or by the end of the records.
        let mut idle = 0;
        while idle < 20 {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => consumer.commit_message(&message, CommitMode::Async)?,
                Some(Err(e)) => return Err(e),
                None => idle += 1,
            }
        }
        Ok(())
    });
    wait_for_members(&offsets, 1).await;
    offsets.wait_until_settled(&topic, Duration::from_secs(30)).await;
    reading.await??;
    wait_for_members(&offsets, 0).await;
    Ok(())
}

async fn wait_for_members(offsets: &Offsets, wanted: usize) {
    eventually(format!("{wanted} members"), Duration::from_secs(20), async || {
        equal(&offsets.members().await.map_err(|e| e.to_string())?, &wanted)
    })
    .await;
}

/// Sends one event in binary mode, as the sidecar would.
async fn send(app: &App, uid: &str, attempt: &str) -> anyhow::Result<StatusCode> {
    let Listen::Tcp(port) = app.at() else { bail!("a unix socket") };
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", uid),
        ("ce-type", "t"),
        ("ce-source", "s"),
        ("idempotency-key", uid),
        ("idempotency-attempt", attempt),
        ("idempotency-protection", "full"),
        ("kafka-topic", "topic"),
        ("kafka-partition", "1"),
        ("kafka-offset", "5"),
    ];
    let body = format!("{{\"data\":{{\"uid\":\"{uid}\"}}}}");
    Ok(post(*port, &headers, body, Duration::from_secs(2)).await?.0)
}

async fn post(
    port: u16,
    headers: &[(&str, &str)],
    body: String,
    timeout: Duration,
) -> anyhow::Result<(StatusCode, Bytes)> {
    harness::http::ask(([127, 0, 0, 1], port).into(), Method::POST, "/", headers, body, timeout).await
}

async fn the_app_keeps_its_ledger(_: Env) -> anyhow::Result<()> {
    let app = App::start(Listen::Tcp(0), complete())?;
    let mut published = Published::default();
    for (offset, uid) in ["a", "b", "c"].into_iter().enumerate() {
        published.add(uid, "topic", 1, offset as i64);
    }
    for uid in ["a", "b", "c"] {
        ensure!(send(&app, uid, "1").await? == StatusCode::OK);
    }
    app.ledger().check(&published).assert_each_once();
    ensure!(app.deliveries().len() == 3 && app.deliveries()[0].partition == 1);
    // A second effect is seen, and one that says so is told from one that does not.
    send(&app, "a", "2").await?;
    let check = app.ledger().check(&published);
    check.second_deliveries_only_with_attempt_above_one();
    ensure!(check.second().len() == 1);
    published.add("d", "topic", 1, 3);
    ensure!(app.ledger().check(&published).lost() == ["d"]);
    // What is not as agreed is refused and kept.
    ensure!(send(&app, "e", "0").await? == StatusCode::INTERNAL_SERVER_ERROR);
    ensure!(app.problems().len() == 1);
    Ok(())
}

async fn the_app_answers_as_told(_: Env) -> anyhow::Result<()> {
    let app = App::start(Listen::Tcp(0), fail_first(2, 503))?;
    for wanted in [503, 503, 200] {
        ensure!(send(&app, "a", "1").await? == wanted);
    }
    for (behaviour, effects) in [
        (Act::garbage(), 0),
        (Act::disconnect(), 0),
        (Act::hang(), 0),
        (Act::disconnect_after_effect(), 1),
        (Act::hang_after_effect(), 1),
    ] {
        let (before, text) = (app.ledger().len(), format!("{behaviour:?}"));
        app.behave(act(move |_| behaviour.clone()));
        ensure!(send(&app, "b", "1").await.is_err(), "{text}");
        ensure!(app.ledger().len() == before + effects, "{text}");
    }
    app.behave(act(|_| Act::reject()));
    ensure!(send(&app, "c", "1").await? == StatusCode::UNPROCESSABLE_ENTITY);

    app.behave(act(|request| Act::each(request, |e| if e.id == "2" { Verdict::Retry } else { Verdict::Success })));
    let event = |id: &str| {
        json!({"specversion": "1.0", "id": id, "type": "t", "source": "s", "idempotencykey": id, "idempotencyattempt": 1,
            "idempotencyprotection": "full", "kafkatopic": "topic", "kafkapartition": 0, "kafkaoffset": 1,
            "data": {"data": {"uid": id}}})
    };
    let Listen::Tcp(port) = app.at() else { bail!("a unix socket") };
    let body = json!([event("1"), event("2"), event("3")]).to_string();
    let (status, body) = post(*port, &[("content-type", BATCH)], body, Duration::from_secs(2)).await?;
    let wanted = json!({"results": [{"id": "1", "status": "SUCCESS"}, {"id": "2", "status": "RETRY"},
        {"id": "3", "status": "SUCCESS"}]});
    ensure!(status == StatusCode::OK && serde_json::from_slice::<serde_json::Value>(&body)? == wanted, "{body:?}");
    let effects: Vec<_> = app.ledger().effects().into_iter().map(|e| e.event).collect();
    ensure!(effects.ends_with(&["1".into(), "3".into()]), "{effects:?}");
    app.assert_no_problems();
    Ok(())
}

async fn an_app_restarts_over_its_stale_socket_or_not(env: Env) -> anyhow::Result<()> {
    let mut app = env.app("app", complete())?;
    UnixStream::connect(env.socket("app")).await?;
    app.stop();
    eventually("nobody listens", Duration::from_secs(5), async || {
        UnixStream::connect(env.socket("app")).await.is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
    })
    .await;
    let taken = app.listen_over_stale();
    ensure!(taken.is_err_and(|e| e.kind() == ErrorKind::AddrInUse), "the socket file was in the way");
    app.listen()?;
    UnixStream::connect(env.socket("app")).await?;
    Ok(())
}

async fn a_killed_ledger_app_leaves_its_effects(env: Env) -> anyhow::Result<()> {
    let ledger = env.dir().join("ledger");
    let port = harness::port::free()?;
    let mut process = Program::new("app", built("ledger-app")?)
        .args(["--port", &port.to_string(), "--fsync", "--ledger"])
        .arg(&ledger)
        .start(env.dir())?;
    // The same way in as for an app of our own; this one never listens.
    let client = App::stopped(Listen::Tcp(port), complete(), Ledger::new());
    eventually("the app answers", Duration::from_secs(10), async || send(&client, "a", "1").await).await;
    process.kill();
    let effects = harness::ledger::read(&ledger)?;
    ensure!(!effects.is_empty() && effects.iter().all(|e| e.event == "a" && e.offset == 5), "{effects:?}");
    Ok(())
}

async fn a_sidecar_that_ends_is_reported(env: Env) -> anyhow::Result<()> {
    let mut sidecar = Sidecar::spawn_text(env.dir(), "refused", "not a configuration")?;
    let text = format!("{:#}", sidecar.admin().await.unwrap_err());
    ensure!(text.contains("refused ended (exit code "), "{text}");
    Ok(())
}

async fn a_child_outlives_the_thread_that_started_it(env: Env) -> anyhow::Result<()> {
    let dir = env.dir().to_owned();
    let start = move || Program::new("sleeper", "sleep").arg("600").start(&dir);
    let mut child = std::thread::spawn(start).join().unwrap()?;
    // The kernel sends its signal when the thread ends: a child of that thread would be gone by the time of the second look.
    always("the child runs", Duration::from_millis(200), async || child.must_run().map_err(|e| e.to_string())).await;
    child.signal(Signal::TERM)?;
    let status = child.wait(Duration::from_secs(5)).await;
    ensure!(how(status) == "signal 15", "{status:?}");
    Ok(())
}
