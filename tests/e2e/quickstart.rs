//! Shows the first thing that a stranger does: `kubectl apply -f examples/quickstart/`, and 5,000 events with 30 % duplicates.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use crds::conditions::PROTECTED;
use harness::cluster::outside::service;
use harness::cluster::{Space, kubectl, trial_within};
use harness::in_repo;
use harness::wait::patiently;
use libtest_mimic::Trial;
use serde_json::json;

pub(crate) fn tests() -> Vec<Trial> {
    vec![trial_within(
        Duration::from_secs(240),
        "quickstart::five_thousand_events_take_effect_once",
        five_thousand_events_take_effect_once,
    )]
}

const EVENTS: usize = 5_000;
const PARTITIONS: i32 = 6;

async fn five_thousand_events_take_effect_once(space: Arc<Space>) -> anyhow::Result<()> {
    // What the example expects in its namespace: Kafka and Redis under these names, and where the app keeps its books.
    let kafka = space.kafka().await?;
    let redis = space.redis_url().await?;
    for (name, port, address) in [("kafka", 9092, kafka.bootstrap()), ("redis", 6379, redis.replace("redis://", ""))] {
        for object in service(name, port, address.parse().with_context(|| address.clone())?) {
            space.kubectl_apply(&object).await?;
        }
    }
    let settings = json!({"LEDGER_SERVER": space.ledger.address()});
    space
        .kubectl_apply(
            &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "sample-app"}, "data": settings}),
        )
        .await?;
    let topic = "orders";
    kafka.create_topic(topic, PARTITIONS, &[]).await?;

    let example = in_repo("examples/quickstart");
    let example = example.to_str().context("a path in UTF-8")?;
    kubectl(&["apply", "--namespace", &space.namespace, "--filename", example], "").await?;
    // As its README says.
    space.kubectl(&["wait", "--for=condition=Ready", "icon/orders", "--timeout=90s"]).await?;
    space.condition("orders", PROTECTED, "True", Duration::from_secs(30)).await;

    let started = std::time::Instant::now();
    let published = space.publish(topic, EVENTS, PARTITIONS).await?;
    space.ledger.wait_for(EVENTS, Duration::from_secs(120)).await;
    eprintln!("quickstart: {} records, {EVENTS} events in {:?}", published.records(), started.elapsed());
    space.settled("orders", topic).await?;
    space.ledger.check(&published).assert_each_once();

    // Figures reach the status once a minute at most. A record that is read again, when its partition goes to the other pod before it is
    // committed, is one duplicate more.
    let duplicates = (published.records() - EVENTS) as i64;
    patiently("the figures are in the status", Duration::from_secs(90), async || {
        let events = space.get("orders").await?.status.and_then(|status| status.events).context("no figures")?;
        let right = events.lag == Some(0) && events.duplicates >= duplicates && events.completed == EVENTS as i64;
        ensure!(right, "{duplicates} duplicates at least are expected: {events:?}");
        Ok(())
    })
    .await;
    let table = space.kubectl(&["get", "icon"]).await?;
    eprintln!("{table}");
    let mut lines = table.lines();
    let head: Vec<_> = lines.next().unwrap_or_default().split_whitespace().collect();
    let row: Vec<_> = lines.next().unwrap_or_default().split_whitespace().collect();
    let wanted = ["NAME", "READY", "PROTECTED", "REPLICAS", "AVAILABLE", "LAG", "DUPLICATES", "AGE"];
    ensure!(head == wanted, "{table}");
    ensure!(row[..6] == ["orders", "True", "True", "2", "2", "0"] && row[6].parse::<i64>()? >= duplicates, "{table}");
    Ok(())
}
