//! Shows what waits for what: partitions in order, keys in order beside each other, nothing for anything; and batches. I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::ensure;
use crds::config::Ordering;
use harness::app::{Act, Event, Request, Verdict, act, behave, complete};
use harness::env::{Env, trial};
use harness::publish::{Plan, Raw};
use harness::rig::Rig;
use harness::wait::{equal, eventually};
use libtest_mimic::Trial;
use sidecar::dead_letter::Verdict as Fate;

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        trial("ordering::a_partition_keeps_its_order_under_failures", a_partition_keeps_its_order),
        trial("ordering::keys_are_in_order_and_several_at_once", keys_are_in_order_and_several_at_once),
        trial("ordering::a_failing_key_blocks_no_other", a_failing_key_blocks_no_other),
        trial("ordering::unordered_keeps_its_bound", unordered_keeps_its_bound),
        trial("ordering::unordered_a_failing_event_blocks_nobody", unordered_a_failing_event_blocks_nobody),
        trial("ordering::what_follows_a_failed_event_in_a_batch_waits", what_follows_a_failed_event_waits),
        trial("ordering::what_an_app_did_behind_a_failed_event_comes_again", what_an_app_did_behind_comes_again),
        trial("ordering::unordered_a_failed_event_leaves_its_batch_alone", a_failed_event_leaves_its_batch_alone),
        trial("ordering::a_poisoned_batch_is_halved_in_order", |env| a_poisoned_batch(env, Ordering::Partition)),
        trial("ordering::a_poisoned_batch_is_halved_by_key", |env| a_poisoned_batch(env, Ordering::Key)),
        trial("ordering::a_poisoned_batch_is_halved_unordered", |env| a_poisoned_batch(env, Ordering::Unordered)),
    ]
}

fn numbered(range: std::ops::Range<i32>) -> Vec<Raw> {
    range.map(|n| Raw::event(&format!("e{n}")).to(0)).collect()
}

/// Offsets in the order of `all`, by queue.
fn offsets_by<K: Ord, T>(all: &[T], queue: impl Fn(&T) -> K, offset: impl Fn(&T) -> i64) -> BTreeMap<K, Vec<i64>> {
    let mut queues: BTreeMap<K, Vec<i64>> = BTreeMap::new();
    for one in all {
        queues.entry(queue(one)).or_default().push(offset(one));
    }
    queues
}

async fn a_partition_keeps_its_order(env: Env) -> anyhow::Result<()> {
    let flaky = act(|request| {
        let event = request.event();
        // Every fifth event fails, the first ones three times.
        if event.offset % 5 == 0 && i64::from(event.times) <= 3 - event.offset / 20 {
            Act::status(503)
        } else {
            Act::complete()
        }
    });
    let rig = Rig::new(&env, 3, flaky).await?;
    let published = rig.publish_plan(&Plan::new(120, 3)).await?;
    let sidecar = rig.run().await?;
    rig.app.ledger().check(&published).assert_each_once();
    ensure!(sidecar.status().await?.counters.failed > 10);
    for (partition, offsets) in offsets_by(&rig.app.deliveries(), |e| e.partition, |e| e.offset) {
        ensure!(offsets.is_sorted(), "partition {partition}: {offsets:?}");
    }
    Ok(())
}

fn key(event: &Event) -> String {
    format!("{}/{}", event.partition, event.record_key.as_deref().unwrap_or_default())
}

/// Completes after a little work, and notes when two events of one key are at work at once.
fn one_of_a_key(overlaps: &Arc<Mutex<Vec<String>>>) -> harness::app::Behaviour {
    let (overlaps, working) = (Arc::clone(overlaps), Arc::new(Mutex::new(BTreeSet::new())));
    behave(move |request| {
        let (overlaps, working) = (Arc::clone(&overlaps), Arc::clone(&working));
        async move {
            let key = key(request.event());
            if !working.lock().unwrap().insert(key.clone()) {
                overlaps.lock().unwrap().push(key.clone());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            working.lock().unwrap().remove(&key);
            let event = request.event();
            if event.offset % 7 == 0 && event.times == 1 { Act::status(503) } else { Act::complete() }
        }
    })
}

async fn keys_are_in_order_and_several_at_once(env: Env) -> anyhow::Result<()> {
    let overlaps = Arc::default();
    let mut rig = Rig::new(&env, 2, one_of_a_key(&overlaps)).await?;
    rig.config.delivery.ordering = Ordering::Key;
    rig.config.delivery.concurrency = 6;
    let published = rig.publish_plan(&Plan { keys: 8, ..Plan::new(300, 2) }).await?;
    let _sidecar = rig.run().await?;
    rig.app.ledger().check(&published).assert_each_once();
    ensure!(overlaps.lock().unwrap().is_empty(), "two at once: {overlaps:?}");
    for (key, offsets) in offsets_by(&rig.app.deliveries(), key, |e| e.offset) {
        ensure!(offsets.is_sorted(), "key {key}: {offsets:?}");
    }
    let peak = rig.app.peak();
    ensure!((2..=6).contains(&peak), "{peak} requests at once");
    Ok(())
}

async fn a_failing_key_blocks_no_other(env: Env) -> anyhow::Result<()> {
    let stuck =
        act(|r| if r.event().record_key.as_deref() == Some("key-0") { Act::status(503) } else { Act::complete() });
    let mut rig = Rig::new(&env, 1, stuck).await?;
    rig.config.delivery.ordering = Ordering::Key;
    let published = rig.publish_plan(&Plan { keys: 4, duplicates: 0.0, ..Plan::new(80, 1) }).await?;
    let _sidecar = rig.start().await?;
    eventually("all other keys are done", Duration::from_secs(20), async || equal(&rig.app.ledger().len(), &60)).await;
    let stuck: BTreeSet<_> =
        rig.app.deliveries().into_iter().filter(|e| key(e).ends_with("key-0")).map(|e| e.event).collect();
    ensure!(stuck.len() == 1, "behind the failing one came {stuck:?}");
    rig.app.behave(complete());
    rig.settled().await?;
    rig.app.ledger().check(&published).assert_each_once();
    let offsets: Vec<_> = rig.app.ledger().effects().iter().skip(60).map(|effect| effect.offset).collect();
    ensure!(offsets.len() == 20 && offsets.is_sorted(), "{offsets:?}");
    Ok(())
}

async fn unordered_keeps_its_bound(env: Env) -> anyhow::Result<()> {
    let slow = act(|_| Act::complete().after(Duration::from_millis(20)));
    let mut rig = Rig::new(&env, 2, slow).await?;
    rig.config.delivery.ordering = Ordering::Unordered;
    rig.config.delivery.concurrency = 5;
    let published = rig.publish_plan(&Plan::new(200, 2)).await?;
    let _sidecar = rig.run().await?;
    rig.app.ledger().check(&published).assert_each_once();
    ensure!(rig.app.peak() == 5, "{} requests at once", rig.app.peak());
    Ok(())
}

async fn unordered_a_failing_event_blocks_nobody(env: Env) -> anyhow::Result<()> {
    let stuck = act(|request| if request.event().event == "e0" { Act::status(503) } else { Act::complete() });
    let mut rig = Rig::new(&env, 1, stuck).await?;
    rig.config.delivery.ordering = Ordering::Unordered;
    let published = rig.publish(numbered(0..100)).await?;
    let _sidecar = rig.start().await?;
    eventually("all others are done", Duration::from_secs(20), async || equal(&rig.app.ledger().len(), &99)).await;
    let committed = rig.offsets().await?.committed(&rig.topic).await?;
    ensure!(committed.get(&0).is_none_or(|offset| *offset == 0), "an unsettled record was passed: {committed:?}");
    rig.app.behave(complete());
    rig.settled().await?;
    rig.app.ledger().check(&published).assert_each_once();
    Ok(())
}

/// Does one event after the other, and stops at one that fails for the first time.
fn stop_at(request: &Request, fails: &str) -> Act {
    let mut stopped = false;
    Act::each(request, |event| match event.event == fails && event.times == 1 {
        _ if stopped => Verdict::Missing,
        true => {
            stopped = true;
            Verdict::Retry
        }
        false => Verdict::Success,
    })
}

async fn what_follows_a_failed_event_waits(env: Env) -> anyhow::Result<()> {
    let mut rig = Rig::new(&env, 1, act(|request| stop_at(request, "e13"))).await?;
    rig.config.delivery.batch.max_events = 10;
    let published = rig.publish(numbered(0..40)).await?;
    let _sidecar = rig.run().await?;
    rig.app.ledger().check(&published).assert_each_once();
    rig.app.assert_no_problems();
    let offsets: Vec<_> = rig.app.ledger().effects().iter().map(|effect| effect.offset).collect();
    ensure!(offsets.is_sorted(), "{offsets:?}");
    ensure!(rig.app.requests() < 20, "{} requests for 40 events: no batches", rig.app.requests());
    Ok(())
}

async fn what_an_app_did_behind_comes_again(env: Env) -> anyhow::Result<()> {
    let goes_on = act(|request| {
        Act::each(
            request,
            |event| if event.event == "e3" && event.times == 1 { Verdict::Retry } else { Verdict::Success },
        )
    });
    let mut rig = Rig::new(&env, 1, goes_on).await?;
    rig.config.delivery.batch.max_events = 10;
    let published = rig.publish(numbered(0..20)).await?;
    let _sidecar = rig.run().await?;
    let check = rig.app.ledger().check(&published);
    check.assert_none_lost();
    check.second_deliveries_only_with_attempt_above_one();
    let again: BTreeSet<_> = check.second().iter().map(|effect| effect.offset).collect();
    ensure!(again.iter().all(|offset| *offset > 3), "came again: {again:?}");
    // Who hears each event's last delivery alone hears them in order.
    let last: BTreeMap<_, _> = rig.app.deliveries().into_iter().enumerate().map(|(at, e)| (e.offset, at)).collect();
    ensure!(last.len() == 20 && last.values().is_sorted(), "{last:?}");
    Ok(())
}

async fn a_failed_event_leaves_its_batch_alone(env: Env) -> anyhow::Result<()> {
    let fails = act(|request| {
        Act::each(
            request,
            |event| if event.event == "e7" && event.times <= 3 { Verdict::Retry } else { Verdict::Success },
        )
    });
    let mut rig = Rig::new(&env, 1, fails).await?;
    rig.config.delivery.ordering = Ordering::Unordered;
    rig.config.delivery.batch.max_events = 20;
    let published = rig.publish(numbered(0..60)).await?;
    let _sidecar = rig.run().await?;
    rig.app.ledger().check(&published).assert_each_once();
    let again: Vec<_> = rig.attempts().into_iter().filter(|(_, attempt)| *attempt > 1).collect();
    ensure!(again == [2, 3, 4].map(|attempt| ("e7".to_owned(), attempt)), "came again: {again:?}");
    Ok(())
}

/// One event brings down every request it is in. It ends as a dead letter, and nobody else does.
async fn a_poisoned_batch(env: Env, ordering: Ordering) -> anyhow::Result<()> {
    let poisoned = act(|r| if r.events.iter().any(|e| e.event == "e5") { Act::status(500) } else { Act::complete() });
    let mut rig = Rig::new(&env, 1, poisoned).await?;
    let topic = rig.dead_letter_topic(&[]).await?;
    rig.config.delivery.ordering = ordering;
    rig.config.delivery.batch.max_events = 16;
    rig.config.delivery.max_attempts = Some(2);
    let records = numbered(0..48).into_iter().enumerate().map(|(n, raw)| raw.key(format!("key-{}", n % 24))).collect();
    let published = rig.publish(records).await?;
    let _sidecar = rig.run().await?;
    rig.app.assert_no_problems();
    let letters = rig.copies(&topic).await?;
    let [(_, about)] = &letters[..] else { anyhow::bail!("{} dead letters: {letters:?}", letters.len()) };
    ensure!(about.offset == 5 && about.outcome == Fate::Failed && about.attempts >= 2, "{about:?}");
    let rest = published.only(|event| event != "e5");
    rig.app.ledger().check(&rest).assert_each_once();
    if ordering == Ordering::Partition {
        let offsets: Vec<_> = rig.app.ledger().effects().iter().map(|effect| effect.offset).collect();
        ensure!(offsets.is_sorted(), "{offsets:?}");
    }
    Ok(())
}
