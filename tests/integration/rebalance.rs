//! Shows that partitions change hands without a loss, without a repetition, and without a commit past what is settled. I/O.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use harness::app::{Act, act, behave, complete};
use harness::env::{Env, trial};
use harness::flow::{Flow, SOON, Turnstile};
use harness::ledger::{Ledger, Published};
use harness::process::how;
use harness::rig::condition;
use harness::sidecar::Sidecar;
use harness::wait::{LOOK_AGAIN, always, eventually};
use libtest_mimic::Trial;
use tokio::task::JoinHandle;

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        trial("rebalance::members_join_and_leave_while_events_flow", members_join_and_leave_while_events_flow),
        trial("rebalance::a_slow_event_is_settled_by_its_old_owner", a_slow_event_is_settled_by_its_old_owner),
        trial("rebalance::a_hung_event_is_kept_until_its_delivery_ends", a_hung_event_is_kept_until_its_delivery_ends),
        trial(
            "rebalance::partitions_of_a_member_that_ends_flow_at_once",
            partitions_of_a_member_that_ends_flow_at_once,
        ),
        trial(
            "rebalance::a_killed_members_partitions_flow_after_its_session",
            a_killed_members_partitions_flow_after_its_session,
        ),
        trial("rebalance::reading_goes_on_where_records_were_deleted", reading_goes_on_where_records_were_deleted),
    ]
}

async fn members_join_and_leave_while_events_flow(env: Env) -> anyhow::Result<()> {
    let slow = act(|_| Act::complete().after(Duration::from_millis(4)));
    let mut flow = Flow::new(env, 6, slow).await?;
    flow.publish(4000).await?;
    let watch = CommitWatch::start(&flow);
    let mut members = Vec::new();
    for n in 0..3 {
        members.push(flow.sidecar(&format!("member-{n}")).await?);
        owns(&members[n], 6 / (n + 1)).await;
        more_effects(&flow, 300).await;
    }
    let mut first = members.remove(0);
    let ended = how(first.terminate(SOON).await?);
    ensure!(ended == "exit code 0", "{ended}");
    more_effects(&flow, 300).await;
    members.push(flow.sidecar("member-3").await?);
    for member in &members {
        owns(member, 2).await;
    }
    flow.settled_each_once().await;
    let looks = watch.stop().await?;
    ensure!(looks > 20, "commits were looked at only {looks} times");
    ensure!(flow.app.deliveries().iter().all(|event| event.attempt == 1), "an event was delivered again");
    Ok(())
}

async fn a_slow_event_is_settled_by_its_old_owner(env: Env) -> anyhow::Result<()> {
    let turnstile = Turnstile::default();
    let mut flow = Flow::new(env, 2, turnstile.complete()).await?;
    flow.publish_unique(100).await?;
    let old = flow.sidecar("old").await?;
    eventually("a slow event in each partition", SOON, async || flow.app.requests() == 2).await;
    let new = flow.sidecar("new").await?;
    revoked(&old).await;
    // It is given the time that a slow handler takes, and nobody else gets the partition meanwhile.
    always("the old owner keeps what is under way", Duration::from_secs(2), async || {
        let held = new.status().await.map_err(|e| e.to_string())?.partitions.len();
        if held == 0 && flow.app.requests() == 2 { Ok(()) } else { Err(format!("{held} partitions at the new one")) }
    })
    .await;
    turnstile.open();
    flow.settled_each_once().await;
    ensure!(flow.app.deliveries().iter().all(|event| event.attempt == 1), "an event was delivered again");
    new.wait_for("the new member does its share", SOON, |status| status.counters.completed > 10).await;
    Ok(())
}

async fn a_hung_event_is_kept_until_its_delivery_ends(env: Env) -> anyhow::Result<()> {
    let hang = behave(|request| async move {
        // Beyond the session's ttl, so that only a living session can keep the claim.
        if request.number <= 2 { Act::hang() } else { Act::complete() }
    });
    let mut flow = Flow::new(env, 2, hang).await?;
    flow.config.drain_timeout = "1s".parse()?;
    flow.config.delivery.timeout = "8s".parse()?;
    flow.publish_unique(40).await?;
    let old = flow.sidecar("old").await?;
    eventually("both heads hang", SOON, async || flow.app.requests() == 2).await;
    let hung = Instant::now();
    let new = flow.sidecar("new").await?;
    owns(&new, 1).await;
    eventually("the new owner finds the hung event held", SOON, async || {
        Ok::<_, anyhow::Error>(new.metric("idempotency_claims_held", &[]).await? == 1.0)
            .and_then(|held| held.then_some(()).context("not held"))
    })
    .await;
    let moved = new.status().await?.partitions[0].partition;
    let head = flow.app.deliveries().into_iter().find(|event| event.partition == moved).context("no head")?;
    let again = || flow.app.deliveries().into_iter().filter(|event| event.event == head.event).nth(1);
    let second = eventually("it comes again", SOON, async || again()).await;
    let kept = hung.elapsed();
    ensure!(kept > Duration::from_millis(6500), "after {kept:?}: before the old delivery was over");
    ensure!(second.attempt == 2 && second.protection == "full", "attempt {}, {}", second.attempt, second.protection);
    flow.settled_each_once().await;
    ensure!(new.status().await?.counters.redeliveries == 1 && old.status().await?.counters.redeliveries == 1);
    Ok(())
}

async fn partitions_of_a_member_that_ends_flow_at_once(env: Env) -> anyhow::Result<()> {
    let (mut flow, mut leaver, stayer) = two_members(env).await?;
    let asked = Instant::now();
    let ended = leaver.terminate(SOON).await?;
    flow.publish(200).await?;
    flow.settled_each_once().await;
    let took = asked.elapsed();
    eprintln!("partitions of a member that ended flowed {took:?} after SIGTERM ({})", how(ended));
    ensure!(took < Duration::from_secs(5), "{took:?}");
    owns(&stayer, 4).await;
    Ok(())
}

async fn a_killed_members_partitions_flow_after_its_session(env: Env) -> anyhow::Result<()> {
    let (mut flow, mut leaver, stayer) = two_members(env).await?;
    flow.publish(400).await?;
    leaver.kill();
    let killed = Instant::now();
    flow.publish(200).await?;
    flow.settled().await;
    eprintln!(
        "partitions of a killed member flowed {:?} after SIGKILL (Kafka's session time-out is 6 s)",
        killed.elapsed()
    );
    let check = flow.app.ledger().check(&flow.published);
    check.assert_none_lost();
    check.second_deliveries_only_with_attempt_above_one();
    owns(&stayer, 4).await;
    Ok(())
}

async fn reading_goes_on_where_records_were_deleted(env: Env) -> anyhow::Result<()> {
    let mut flow = Flow::new(env, 1, complete()).await?;
    flow.publish_unique(50).await?;
    let mut before = flow.sidecar("before").await?;
    flow.settled_each_once().await;
    let good = before.wait_for("it is ready", SOON, |status| status.ready).await;
    ensure!(condition(&good, "OffsetsInRange").context("OffsetsInRange")?.status, "nothing was deleted yet");
    before.terminate(SOON).await?;
    flow.publish_unique(50).await?;
    flow.env.kafka().await?.delete_records(&flow.topic, 0, 80).await?;
    let after = flow.sidecar("after").await?;
    flow.settled().await;
    let told = |status: &_| {
        condition(status, "OffsetsInRange")
            .is_some_and(|c| !c.status && c.message.contains(&flow.topic) && c.reason == "OffsetReset")
    };
    let status = after.wait_for("it says that records are gone", SOON, told).await;
    ensure!(status.ready, "it does its work: {status:?}");
    let offsets: Vec<i64> = flow.app.deliveries().iter().skip(50).map(|event| event.offset).collect();
    ensure!(offsets == (80..100).collect::<Vec<_>>(), "{offsets:?}");
    ensure!(flow.offsets.committed(&flow.topic).await? == BTreeMap::from([(0, 100)]));
    Ok(())
}

/// Two members that have two partitions each, and have settled something.
async fn two_members(env: Env) -> anyhow::Result<(Flow, Sidecar, Sidecar)> {
    let slow = act(|_| Act::complete().after(Duration::from_millis(2)));
    let mut flow = Flow::new(env, 4, slow).await?;
    flow.config.kafka.properties.insert("session.timeout.ms".into(), "6000".into());
    flow.publish(100).await?;
    let (leaver, stayer) = (flow.sidecar("leaver").await?, flow.sidecar("stayer").await?);
    owns(&leaver, 2).await;
    owns(&stayer, 2).await;
    flow.settled_each_once().await;
    Ok((flow, leaver, stayer))
}

async fn owns(member: &Sidecar, partitions: usize) {
    let what = format!("it has {partitions} partitions");
    member.wait_for(&what, SOON, |status| status.partitions.len() == partitions).await;
}

async fn revoked(member: &Sidecar) {
    eventually("a partition is revoked", SOON, async || {
        let revokes = member.metric("idempotency_rebalances_total", &["kind=\"revoked\""]).await?;
        ensure!(revokes >= 1.0, "{revokes}");
        Ok(())
    })
    .await;
}

/// Waits until so many more events have taken effect.
async fn more_effects(flow: &Flow, more: usize) {
    let wanted = flow.app.ledger().len() + more;
    eventually(format!("{more} more effects"), SOON, async || flow.app.ledger().len() >= wanted).await;
}

/// Looks all the time whether a commit has passed a record whose event has not taken effect.
struct CommitWatch {
    task: JoinHandle<anyhow::Result<usize>>,
    end: Arc<AtomicBool>,
}

impl CommitWatch {
    fn start(flow: &Flow) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let (offsets, topic, ledger) = (flow.offsets.clone(), flow.topic.clone(), flow.app.ledger().clone());
        let (published, ended) = (flow.published.clone(), Arc::clone(&end));
        let task = tokio::spawn(async move {
            let mut looks = 0;
            while !ended.load(Ordering::Relaxed) {
                // A question that the broker does not answer is asked again.
                if let Ok(committed) = offsets.committed(&topic).await {
                    // The ledger after the commits: what is committed by now has taken effect before.
                    check_commits(&committed, &ledger, &published)?;
                    looks += 1;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Ok(looks)
        });
        Self { task, end }
    }

    /// How often it looked.
    async fn stop(self) -> anyhow::Result<usize> {
        self.end.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

fn check_commits(committed: &BTreeMap<i32, i64>, ledger: &Ledger, published: &Published) -> anyhow::Result<()> {
    let check = ledger.check(published);
    for (event, copies) in &published.events {
        for (_, partition, offset) in copies {
            let passed = committed.get(partition).is_some_and(|committed| committed > offset);
            ensure!(
                !passed || check.count(event) > 0,
                "{partition}@{offset} ({event}) is committed, and has not taken effect"
            );
        }
    }
    Ok(())
}
