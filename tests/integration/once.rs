//! Shows that an event is delivered once: whatever its copies, partitions and groups are, and whoever marked it done. I/O.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use harness::app::{Act, behave, complete, fail_first};
use harness::env::{Env, trial};
use harness::publish::{Plan, Raw};
use harness::rig::Rig;
use harness::wait::{always, equal, eventually};
use libtest_mimic::Trial;
use serde_json::json;
use sidecar::dead_letter::Verdict;
use tokio::sync::watch;

/// SHA-256 of `{"order":1}`, as `printf '{"order":1}' | sha256sum` says.
const ORDER_1: &str = "a781679e01308cfef90983a4c1350319a7e3993c3a3f5a8c8439781a326d7c8d";
/// The same for `{"order":2}`.
const ORDER_2: &str = "cfffdf09bccf4a6136b4232ccf442edd05372b454ff140d206a460124c9d4fe2";

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        trial("once::every_event_comes_once_with_30_percent_duplicates", every_event_comes_once),
        trial("once::duplicates_in_other_envelopes_are_suspects", duplicates_in_other_envelopes_are_suspects),
        trial("once::one_id_in_two_partitions_at_once_is_delivered_once", one_id_in_two_partitions_at_once),
        trial("once::a_duplicate_waits_while_its_event_backs_off", a_duplicate_waits_while_its_event_backs_off),
        trial("once::two_groups_both_see_everything", two_groups_both_see_everything),
        trial("once::two_groups_with_one_prefix_share", two_groups_with_one_prefix_share),
        trial("once::keys_of_the_python_form_are_honoured", keys_of_the_python_form_are_honoured),
        trial("once::keys_are_named_by_the_template_and_live_their_ttl", keys_are_named_and_live_their_ttl),
        trial("once::every_skipped_record_is_copied", every_skipped_record_is_copied),
    ]
}

fn order(number: u32, kind: &str) -> Raw {
    Raw::new(json!({"event_id": format!("{kind}-{number}"), "event_type": kind, "data": {"order": number}}).to_string())
}

async fn every_event_comes_once(env: Env) -> anyhow::Result<()> {
    let rig = Rig::new(&env, 6, complete()).await?;
    let published = rig.publish_plan(&Plan::new(1_000, 6)).await?;
    let sidecar = rig.run().await?;
    rig.app.ledger().check(&published).assert_each_once();
    rig.app.assert_no_problems();
    let counters = sidecar.status().await?.counters;
    ensure!(counters.duplicates as usize == published.records() - 1_000, "{counters:?}");
    ensure!((counters.completed, counters.suspects, counters.redeliveries) == (1_000, 0, 0), "{counters:?}");
    Ok(())
}

async fn duplicates_in_other_envelopes_are_suspects(env: Env) -> anyhow::Result<()> {
    let rig = Rig::new(&env, 3, complete()).await?;
    let published = rig.publish_plan(&Plan { fresh_envelopes: true, ..Plan::new(300, 3) }).await?;
    let sidecar = rig.run().await?;
    rig.app.ledger().check(&published).assert_each_once();
    let counters = sidecar.status().await?.counters;
    let copies = (published.records() - 300) as u64;
    ensure!((counters.duplicates, counters.suspects) == (copies, copies), "{counters:?}, {copies} copies");
    Ok(())
}

async fn one_id_in_two_partitions_at_once(env: Env) -> anyhow::Result<()> {
    let (go, going) = watch::channel(false);
    let wait = behave(move |_| {
        let mut going = going.clone();
        async move {
            let _ = going.wait_for(|go| *go).await;
            Act::complete()
        }
    });
    let rig = Rig::new(&env, 2, wait).await?;
    let published = rig.publish(vec![Raw::event("a").to(0), Raw::event("a").to(1)]).await?;
    let sidecar = rig.start().await?;
    sidecar.wait_for("both records are read", Duration::from_secs(20), |s| s.counters.received == 2).await;
    eventually("one is delivered", Duration::from_secs(5), async || rig.app.requests() == 1).await;
    always("one alone is", Duration::from_millis(500), async || equal(&rig.app.requests(), &1)).await;
    go.send(true)?;
    rig.settled().await?;
    rig.app.ledger().check(&published).assert_each_once();
    ensure!(rig.app.requests() == 1 && sidecar.status().await?.counters.duplicates == 1);
    Ok(())
}

async fn a_duplicate_waits_while_its_event_backs_off(env: Env) -> anyhow::Result<()> {
    let mut rig = Rig::new(&env, 2, fail_first(2, 503)).await?;
    rig.config.delivery.backoff.min = crds::Duration::from_millis(500);
    let published = rig.publish(vec![Raw::event("a").to(0), Raw::event("a").to(1)]).await?;
    let sidecar = rig.run().await?;
    rig.app.ledger().check(&published).assert_each_once();
    let attempts: Vec<_> = rig.attempts().into_iter().map(|(_, attempt)| attempt).collect();
    ensure!(attempts == [1, 2, 3], "the other record did not wait: {attempts:?}");
    ensure!(sidecar.status().await?.counters.duplicates == 1);
    Ok(())
}

async fn two_groups_both_see_everything(env: Env) -> anyhow::Result<()> {
    let one = Rig::new(&env, 3, complete()).await?;
    let two = Rig::on(&env, one.topic.clone(), "other", complete()).await?;
    let published = one.publish_plan(&Plan::new(200, 3)).await?;
    let _sidecars = (one.start().await?, two.start().await?);
    for group in [&one, &two] {
        group.settled().await?;
        group.app.ledger().check(&published).assert_each_once();
    }
    Ok(())
}

async fn two_groups_with_one_prefix_share(env: Env) -> anyhow::Result<()> {
    let mut one = Rig::new(&env, 3, complete()).await?;
    let mut two = Rig::on(&env, one.topic.clone(), "other", complete()).await?;
    for group in [&mut one, &mut two] {
        group.config.key_prefix = format!("{}:", env.name("events-seen"));
        // So that both have a part of it.
        group.config.delivery.buffer.max_records = 4;
    }
    let published = one.publish_plan(&Plan::new(200, 3)).await?;
    let sidecars = (one.start().await?, two.start().await?);
    let mut effects = Vec::new();
    for group in [&one, &two] {
        group.settled().await?;
        effects.extend(group.app.ledger().effects());
    }
    harness::ledger::Check::new(&published, &effects).assert_each_once();
    let counters = (sidecars.0.status().await?.counters, sidecars.1.status().await?.counters);
    ensure!(counters.0.completed + counters.1.completed == 200, "{counters:?}");
    ensure!((counters.0.duplicates + counters.1.duplicates) as usize == 2 * published.records() - 200, "{counters:?}");
    Ok(())
}

async fn keys_of_the_python_form_are_honoured(env: Env) -> anyhow::Result<()> {
    let mut rig = Rig::new(&env, 1, complete()).await?;
    let prefix = format!("{}:", env.name("huleedu-events-seen"));
    rig.config.key_prefix.clone_from(&prefix);
    let (seen, fresh) = (format!("{prefix}{ORDER_1}"), format!("{prefix}{ORDER_2}"));
    let as_python = |key: &str| rig.redis.command::<Option<String>>(&["SET", key, "1", "EX", "86400", "NX"]);
    ensure!(as_python(&seen)?.as_deref() == Some("OK"));
    rig.publish(vec![order(1, "order.created"), order(2, "order.created")]).await?;
    let sidecar = rig.run().await?;
    let keys: Vec<_> = rig.app.deliveries().into_iter().map(|event| event.key).collect();
    ensure!(keys == [fresh.clone()], "delivered: {keys:?}");
    let counters = sidecar.status().await?.counters;
    ensure!((counters.duplicates, counters.suspects) == (1, 0), "{counters:?}");
    ensure!(rig.stored(&seen)?.as_deref() == Some("1"), "it was touched");
    ensure!(as_python(&fresh)?.is_none(), "a Python service would process what we have processed");
    Ok(())
}

async fn keys_are_named_and_live_their_ttl(env: Env) -> anyhow::Result<()> {
    let mut rig = Rig::new(&env, 1, complete()).await?;
    rig.config.ttl = crds::Duration::from_secs(7_200);
    rig.config.ttl_overrides.insert("order.cancelled".into(), crds::Duration::from_secs(90));
    let bare = Raw::new(json!({"data": {"order": 1}}).to_string());
    rig.publish(vec![order(1, "order.created"), order(1, "order.cancelled"), bare]).await?;
    let sidecar = rig.run().await?;
    let name = |kind: &str| format!("idempotency:{}:{}:{kind}:{ORDER_1}", rig.config.group, rig.topic);
    let mut wanted = [name("order.created"), name("order.cancelled"), name("")];
    wanted.sort();
    ensure!(rig.keys()? == wanted, "{:?}", rig.keys()?);
    for (kind, ttl) in [("order.created", 7_200_000), ("order.cancelled", 90_000), ("", 7_200_000)] {
        let left: i64 = rig.redis.command(&["PTTL", &name(kind)])?;
        ensure!((ttl - 60_000..=ttl).contains(&left), "{kind}: {left} ms left of {ttl}");
    }
    let session = sidecar.status().await?.session.context("no session is open")?;
    let left: i64 = rig.redis.command(&["PTTL", &format!("idempotency:session:{session}")])?;
    ensure!((1..=2_000).contains(&left), "the session has {left} ms left of 2000");
    Ok(())
}

async fn every_skipped_record_is_copied(env: Env) -> anyhow::Result<()> {
    let mut rig = Rig::new(&env, 2, complete()).await?;
    let topic = rig.topic("duplicates", &[]).await?;
    rig.config.delivery.duplicates_topic = Some(topic.clone());
    let mut published = rig.publish_plan(&Plan::new(60, 2)).await?;
    published.extend(rig.publish_plan(&Plan { fresh_envelopes: true, ..Plan::new(60, 2) }).await?);
    let sidecar = rig.run().await?;
    rig.app.ledger().check(&published).assert_each_once();

    let delivered: BTreeSet<_> = rig.app.deliveries().into_iter().map(|e| (e.partition, e.offset)).collect();
    let all = published.events.values().flatten().map(|(_, partition, offset)| (*partition, *offset));
    let skipped: BTreeSet<_> = all.filter(|place| !delivered.contains(place)).collect();
    let copies = rig.copies(&topic).await?;
    let copied: BTreeSet<_> = copies.iter().map(|(_, about)| (about.origin.partition, about.offset)).collect();
    ensure!(copied == skipped && copies.len() == skipped.len(), "skipped: {skipped:?}, copied: {copied:?}");

    let source = harness::offsets::read_all(&env.kafka().await?.bootstrap(), &rig.topic).await?;
    let mut suspects = 0;
    for (copy, about) in &copies {
        let origin = source.iter().find(|r| (r.partition, r.offset) == (about.origin.partition, about.offset)).unwrap();
        ensure!(*about.origin.topic == *rig.topic && about.group == rig.config.group, "{about:?}");
        ensure!(copy.value == origin.value && about.timestamp == origin.timestamp, "{about:?}");
        ensure!(about.idempotency_key.ends_with(&about.event_id.to_string()), "{about:?}");
        ensure!(matches!(about.outcome, Verdict::Duplicate | Verdict::Suspect), "{about:?}");
        suspects += u64::from(about.outcome == Verdict::Suspect);
    }
    ensure!(suspects > 0 && suspects == sidecar.status().await?.counters.suspects, "{suspects} suspects");
    Ok(())
}
