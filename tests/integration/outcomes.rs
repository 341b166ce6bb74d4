//! Shows what follows from the app's answers: rejected, failed, timed out, nonsense, and dead letters. I/O.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use crds::status::SidecarStatus;
use harness::app::{Act, Behaviour, Event, Reply, Verdict, act};
use harness::env::{Env, trial};
use harness::publish::{Plan, Raw};
use harness::rig::{Rig, condition};
use harness::wait::{always, equal, eventually};
use libtest_mimic::Trial;
use sidecar::dead_letter::Verdict as Fate;

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        trial("outcomes::a_rejected_event_keeps_its_key_and_becomes_a_dead_letter", rejected_events),
        trial("outcomes::a_failed_event_is_released_and_comes_again_in_order", failed_events),
        trial("outcomes::retry_after_is_kept", retry_after_is_kept),
        trial("outcomes::an_event_that_failed_max_attempts_times_becomes_a_dead_letter", max_attempts),
        trial("outcomes::a_status_in_the_body_wins_over_the_code", a_status_in_the_body_wins),
        trial("outcomes::a_time_out_after_the_effect_comes_back_with_attempt_2", a_time_out_after_the_effect),
        trial("outcomes::nonsense_answers_are_failures", nonsense_answers),
        trial("outcomes::malformed_batch_answers_are_failures", malformed_batch_answers),
        // The sidecar waits 30 s before it writes again what the broker has refused for good.
        trial("outcomes::a_refused_dead_letter_stops_its_partition_alone", a_refused_dead_letter),
    ]
}

/// A behaviour by event, one a request.
fn by_event(f: impl Fn(&Event) -> Act + Send + Sync + 'static) -> Behaviour {
    act(move |request| f(request.event()))
}

/// No effect, this code, this body.
fn answer(status: u16, body: &'static str) -> Act {
    Act { reply: Reply::Http { status, headers: Vec::new(), body: body.into() }, ..Act::status(status) }
}

fn events(uids: &[&str]) -> Vec<Raw> {
    uids.iter().map(|uid| Raw::event(uid).to(0)).collect()
}

/// What the app is to have been handed: events with their attempts.
fn handed(wanted: &[(&str, u32)]) -> Vec<(String, u32)> {
    wanted.iter().map(|(uid, attempt)| ((*uid).to_owned(), *attempt)).collect()
}

async fn rejected_events(env: Env) -> anyhow::Result<()> {
    let reject = by_event(|event| match event.event.as_str() {
        "bad-400" => Act::status(400),
        "bad-409" => Act::status(409),
        "bad-422" => Act::status(422),
        _ => Act::complete(),
    });
    let mut rig = Rig::new(&env, 1, reject).await?;
    let topic = rig.dead_letter_topic(&[]).await?;
    let uids = ["good", "bad-400", "bad-409", "bad-422", "last"];
    let records: Vec<_> = events(&uids).into_iter().map(|r| r.key("k").header("tenant", "t7")).collect();
    rig.publish(records.clone()).await?;
    // Again, behind the first: what was rejected is done.
    rig.publish(records.clone()).await?;
    let sidecar = rig.run().await?;

    ensure!(rig.attempts() == handed(&uids.map(|uid| (uid, 1))), "{:?}", rig.attempts());
    sidecar.counts(|c| (c.rejected, c.dead_letters, c.duplicates) == (3, 3, 5)).await;
    let letters = rig.copies(&topic).await?;
    ensure!(letters.len() == 3, "{} dead letters", letters.len());
    for ((record, about), (offset, code)) in letters.iter().zip([(1, "400"), (2, "409"), (3, "422")]) {
        ensure!(
            *about.origin.topic == *rig.topic && about.origin.partition == 0 && about.offset == offset,
            "{about:?}"
        );
        ensure!(about.outcome == Fate::Rejected && about.attempts == 1 && about.reason.contains(code), "{about:?}");
        ensure!(about.group == rig.config.group && about.idempotency_key == rig.key_of(&format!("bad-{code}")));
        ensure!(record.value == records[offset as usize].value && record.key.as_deref() == Some(b"k"), "{record:?}");
        ensure!(record.header("tenant").as_deref() == Some("t7"), "{record:?}");
        let stored = rig.stored(&about.idempotency_key)?.context("the key is gone")?;
        ensure!(stored == "1" || stored.starts_with("1:"), "{stored}");
    }
    Ok(())
}

async fn failed_events(env: Env) -> anyhow::Result<()> {
    let twice = by_event(|event| match (event.event.as_str(), event.times) {
        ("b", ..=2) => Act::status(503),
        _ => Act::complete(),
    });
    let mut rig = Rig::new(&env, 1, twice).await?;
    // A pause of one to two seconds, in which there is time to look.
    rig.config.delivery.backoff.min = crds::Duration::from_secs(2);
    rig.config.delivery.backoff.max = crds::Duration::from_secs(2);
    let published = rig.publish(events(&["a", "b", "c", "d"])).await?;
    let _sidecar = rig.start().await?;
    for requests in [2, 3] {
        eventually("b has failed", Duration::from_secs(20), async || rig.app.requests() == requests).await;
        let key = rig.key_of("b");
        let released = format!("c:-:{}", requests - 1);
        eventually("b is released", Duration::from_secs(1), async || {
            equal(&rig.stored(&key).map_err(|e| e.to_string())?, &Some(released.clone()))
        })
        .await;
        // Nothing behind it is claimed: `a` is done, `b` released, and that is all.
        eventually("c and d are given back", Duration::from_secs(1), async || {
            equal(&rig.keys().map_err(|e| e.to_string())?.len(), &2)
        })
        .await;
    }
    rig.settled().await?;
    rig.app.ledger().check(&published).assert_each_once();
    let wanted = handed(&[("a", 1), ("b", 1), ("b", 2), ("b", 3), ("c", 1), ("d", 1)]);
    ensure!(rig.attempts() == wanted, "{:?}", rig.attempts());
    Ok(())
}

async fn retry_after_is_kept(env: Env) -> anyhow::Result<()> {
    let times = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&times);
    let later = by_event(move |event| {
        seen.lock().unwrap().push(Instant::now());
        if event.times == 1 { Act::status(503).header("retry-after", "2") } else { Act::complete() }
    });
    // Without it the pause is at most 500 ms.
    let rig = Rig::new(&env, 1, later).await?;
    let published = rig.publish(events(&["a"])).await?;
    let _sidecar = rig.run().await?;
    rig.app.ledger().check(&published).assert_each_once();
    let times = times.lock().unwrap();
    ensure!(times.len() == 2 && times[1] - times[0] >= Duration::from_secs(2), "{times:?}");
    Ok(())
}

async fn max_attempts(env: Env) -> anyhow::Result<()> {
    let never = by_event(|event| if event.event == "b" { Act::status(500) } else { Act::complete() });
    let mut rig = Rig::new(&env, 1, never).await?;
    let topic = rig.dead_letter_topic(&[]).await?;
    rig.config.delivery.max_attempts = Some(3);
    rig.publish(events(&["a", "b", "c"])).await?;
    let sidecar = rig.run().await?;
    let wanted = handed(&[("a", 1), ("b", 1), ("b", 2), ("b", 3), ("c", 1)]);
    ensure!(rig.attempts() == wanted, "{:?}", rig.attempts());
    let letters = rig.copies(&topic).await?;
    let [(_, about)] = &letters[..] else { anyhow::bail!("{letters:?}") };
    ensure!((about.offset, about.attempts, about.outcome) == (1, 3, Fate::Failed), "{about:?}");
    ensure!(about.reason.contains("500"), "{about:?}");
    let stored = rig.stored(&rig.key_of("b"))?.context("the key is gone")?;
    ensure!(stored.starts_with('1'), "{stored}");
    sidecar.counts(|c| c.dead_letters == 1).await;
    Ok(())
}

async fn a_status_in_the_body_wins(env: Env) -> anyhow::Result<()> {
    let words = by_event(|event| match (event.event.as_str(), event.times) {
        ("success", _) => answer(500, r#"{"status":"SUCCESS"}"#).with_effect(),
        ("retry-200", 1) => answer(200, r#"{"status":"RETRY"}"#),
        ("retry-422", 1) => answer(422, r#"{"status":"RETRY"}"#),
        ("drop", _) => answer(200, r#"{"status":"DROP"}"#),
        _ => Act::complete(),
    });
    let mut rig = Rig::new(&env, 1, words).await?;
    let topic = rig.dead_letter_topic(&[]).await?;
    rig.publish(events(&["success", "retry-200", "retry-422", "drop"])).await?;
    let sidecar = rig.run().await?;
    let wanted = [("success", 1), ("retry-200", 1), ("retry-200", 2), ("retry-422", 1), ("retry-422", 2), ("drop", 1)];
    ensure!(rig.attempts() == handed(&wanted), "{:?}", rig.attempts());
    sidecar.counts(|c| (c.completed, c.failed, c.rejected) == (3, 2, 1)).await;
    let letters = rig.copies(&topic).await?;
    ensure!(letters.len() == 1 && letters[0].1.reason.contains("DROP"), "{letters:?}");
    Ok(())
}

async fn a_time_out_after_the_effect(env: Env) -> anyhow::Result<()> {
    let hang_once = by_event(|event| match (event.event.as_str(), event.times) {
        ("b", 1) => Act::hang_after_effect(),
        ("c", 1) => Act::disconnect_after_effect(),
        _ => Act::complete(),
    });
    let mut rig = Rig::new(&env, 1, hang_once).await?;
    rig.config.delivery.timeout = crds::Duration::from_millis(700);
    let published = rig.publish(events(&["a", "b", "c", "d"])).await?;
    let _sidecar = rig.run().await?;
    let check = rig.app.ledger().check(&published);
    check.assert_none_lost();
    check.second_deliveries_only_with_attempt_above_one();
    let wanted = handed(&[("a", 1), ("b", 1), ("b", 2), ("c", 1), ("c", 2), ("d", 1)]);
    ensure!(rig.attempts() == wanted, "{:?}", rig.attempts());
    Ok(())
}

async fn nonsense_answers(env: Env) -> anyhow::Result<()> {
    let nonsense = by_event(|event| match event.times {
        1 => Act::garbage(),
        2 => Act::too_long((1 << 20) + 1),
        3 => Act::disconnect(),
        4 => Act::garbage(),
        5 => Act::status(404),
        6 => Act::status(302),
        7 => Act { reply: Reply::Raw("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nshort".into()), ..Act::garbage() },
        8 => Act { reply: Reply::Raw("HTTP/1.1 200 OK\r\n".into()), ..Act::garbage() },
        _ => Act::complete(),
    });
    let rig = Rig::new(&env, 1, nonsense).await?;
    let published = rig.publish(events(&["a", "a"])).await?;
    let sidecar = rig.run().await?;
    rig.app.ledger().check(&published).assert_each_once();
    let attempts: Vec<_> = rig.attempts().into_iter().map(|(_, attempt)| attempt).collect();
    ensure!(attempts == [1, 2, 3, 4, 5, 6, 7, 8, 9], "{attempts:?}");
    sidecar.counts(|c| (c.failed, c.completed, c.duplicates) == (8, 1, 1)).await;
    Ok(())
}

async fn malformed_batch_answers(env: Env) -> anyhow::Result<()> {
    let malformed = act(|request| match request.number {
        1 => Act::body(r#"{"results":[{"id":"#),
        2 => Act::body(r#"{"results":[{"id":7,"status":"SUCCESS"}]}"#),
        3 => Act::body("SUCCESS"),
        4 => Act::garbage(),
        5 => Act::each(request, |_| Verdict::Word("PERHAPS".into())),
        _ => Act::each(request, |_| Verdict::Success),
    });
    let mut rig = Rig::new(&env, 1, malformed).await?;
    rig.config.delivery.batch.max_events = 10;
    let published = rig.publish_plan(&Plan { duplicates: 0.0, ..Plan::new(25, 1) }).await?;
    let _sidecar = rig.run().await?;
    rig.app.ledger().check(&published).assert_each_once();
    rig.app.assert_no_problems();
    ensure!(rig.app.requests() > 5, "{} requests", rig.app.requests());
    Ok(())
}

async fn a_refused_dead_letter(env: Env) -> anyhow::Result<()> {
    let reject = by_event(|event| if event.event == "big" { Act::reject() } else { Act::complete() });
    let mut rig = Rig::new(&env, 2, reject).await?;
    let topic = rig.dead_letter_topic(&[("max.message.bytes", "1024")]).await?;
    let big = format!(r#"{{"event_id":"1","data":{{"uid":"big"}},"padding":"{}"}}"#, "x".repeat(4_096));
    let mut published = rig.publish(vec![Raw::event("a").to(0), Raw::new(big).to(0)]).await?;
    let sidecar = rig.start().await?;
    let deadline = Duration::from_secs(20);
    let refused = sidecar.wait_for("a copy is refused", deadline, |status| !copies_taken(status)).await;
    let message = &condition(&refused, "CopiesTaken").context("no such condition")?.message;
    ensure!(message.contains(&topic) && message.contains("max.message.bytes"), "{message}");

    let behind = vec![Raw::event("behind").to(0)];
    published.extend(rig.publish(behind).await?);
    published.extend(rig.publish((0..20).map(|n| Raw::event(&format!("other-{n}")).to(1)).collect()).await?);
    let offsets = rig.offsets().await?;
    let stands = async || {
        let committed = offsets.committed(&rig.topic).await.map_err(|e| e.to_string())?;
        equal(&committed, &BTreeMap::from([(0, 1), (1, 20)]))?;
        equal(&rig.app.deliveries().iter().any(|e| e.event == "behind"), &false)
    };
    eventually("the other partition flows", Duration::from_secs(10), stands).await;
    always("its own stands", Duration::from_secs(1), stands).await;

    env.kafka().await?.alter_topic(&topic, "max.message.bytes", "1048576").await?;
    rig.settled().await?;
    rig.app.ledger().check(&published.only(|event| event != "big")).assert_each_once();
    let letters = rig.copies(&topic).await?;
    ensure!(letters.len() == 1 && letters[0].1.offset == 1, "{letters:?}");
    sidecar.wait_for("the condition is over", Duration::from_secs(5), copies_taken).await;
    Ok(())
}

fn copies_taken(status: &SidecarStatus) -> bool {
    condition(status, "CopiesTaken").is_none_or(|condition| condition.status)
}
