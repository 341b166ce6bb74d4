//! Shows what an operator costs that has nothing to do: no write for an unchanged resource, figures once a minute at most.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use harness::cluster::audit::{self, Audit};
use harness::cluster::operator::USER;
use harness::cluster::{Mode, SOON, Space, trial_within};
use harness::publish::{Plan, Publisher, Raw};
use harness::wait::{patiently, throughout};
use libtest_mimic::Trial;
use serde_json::json;

pub(crate) fn tests() -> Vec<Trial> {
    vec![trial_within(
        Duration::from_secs(330),
        "quiet::an_unchanged_resource_is_written_never_and_figures_once_a_minute",
        an_unchanged_resource_is_written_never_and_figures_once_a_minute,
    )]
}

/// Long enough for two of the minutes.
const WATCHED: Duration = Duration::from_secs(130);

async fn an_unchanged_resource_is_written_never_and_figures_once_a_minute(space: Arc<Space>) -> anyhow::Result<()> {
    let (idle, busy) = (space.topic("idle", 1).await?, space.topic("busy", 1).await?);
    space.ledger.behave(Mode::Complete);
    space.apply(&space.consumer("idle", &idle).await?).await?;
    space.apply(&space.consumer("busy", &busy).await?).await?;
    space.rolled_out("idle", 1).await?;
    space.rolled_out("busy", 1).await?;
    let publisher = Publisher::new(&space.kafka().await?.bootstrap())?;
    // Until all that there is to say of the start is said: the first event is settled, and the figures tell it.
    for (name, topic) in [("idle", &idle), ("busy", &busy)] {
        publisher.send_all(topic, vec![Raw::event(name)]).await?;
        patiently(format!("{name} has told its first event"), Duration::from_secs(100), async || {
            let status = space.get(name).await?.status.unwrap_or_default();
            let events = status.events.clone().unwrap_or_default();
            ensure!(events.completed == 1 && events.lag == Some(0), "{status:?}");
            Ok(())
        })
        .await;
    }

    let audit = Audit::from_now()?;
    // What wakes a reconcile and changes nothing.
    space.change("idle", json!({"metadata": {"annotations": {"somebody": "was here"}}})).await?;
    throughout("it stays quiet", WATCHED, async || {
        let records = Plan::new(3, 1).records();
        publisher.send_all(&busy, records).await.map(|_| ()).map_err(|e| e.to_string())
    })
    .await;
    space.settled("busy", &busy).await?;
    let all: Vec<_> = audit.by(USER)?.into_iter().filter(|r| r.object_ref.namespace == space.namespace).collect();
    let writes: Vec<_> = all.iter().filter(|request| request.writes()).collect();
    let of = |name: &str| writes.iter().copied().filter(|w| w.object_ref.name.starts_with(name)).collect::<Vec<_>>();
    ensure!(of("idle").is_empty(), "an unchanged resource was written: {:?}", audit::count(of("idle")));
    let counts = audit::count(of("busy"));
    let statuses = counts.get("patch idempotentconsumers/status").copied().unwrap_or(0);
    ensure!(counts.len() <= 1 && (1..=3).contains(&statuses), "in {WATCHED:?}: {counts:?}");
    let times: Vec<_> =
        of("busy").iter().map(|w| w.request_received_timestamp.parse::<jiff::Timestamp>()).collect::<Result<_, _>>()?;
    for pair in times.windows(2) {
        let gap = pair[1].duration_since(pair[0]);
        ensure!(gap.as_secs() >= 59, "figures were written twice within {gap:?}");
    }
    eprintln!("quiet: requests of the operator for two consumers in {WATCHED:?}: {:?}", audit::count(&all));
    // What there is to say is said at once, all the same.
    space.change("idle", json!({"spec": {"replicas": 0}})).await?;
    space.condition("idle", crds::conditions::READY, "True", SOON).await;
    Ok(())
}
