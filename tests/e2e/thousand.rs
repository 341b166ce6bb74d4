//! Shows what a thousand resources cost: time, requests, memory.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use crds::v1alpha1::IdempotentConsumer;
use futures_util::{StreamExt, TryStreamExt, stream};
use harness::cluster::audit::{self, Audit};
use harness::cluster::operator::{self, USER};
use harness::cluster::{Space, condition, kubectl, trial_within};
use kube::api::PostParams;
use kube::runtime::watcher::{self, watcher};
use libtest_mimic::Trial;
use serde_json::json;

/// It runs alone and last: it takes the whole machine.
pub(crate) fn tests() -> Vec<Trial> {
    vec![trial_within(
        LIMIT + Duration::from_secs(120),
        "thousand::a_thousand_resources_reach_their_state",
        a_thousand_resources_reach_their_state,
    )]
}

const COUNT: usize = 1_000;
/// On two cores that run the whole cluster too, and may do other things.
const LIMIT: Duration = Duration::from_secs(360);
/// Six children that are looked for and written, one that is tried out, a secret that is looked for, the status, an event, and some room.
const REQUESTS: usize = 20;
/// The limit in the operator's manifest; measured were 154 to 193 MiB.
const MEMORY: u64 = 256 << 20;

async fn a_thousand_resources_reach_their_state(space: Arc<Space>) -> anyhow::Result<()> {
    operator::leader(&space.client).await;
    let mut consumer =
        harness::cluster::consumer::consumer("x", "events", "kafka:9092", "redis://redis:6379", "ledger:1");
    consumer["spec"]["replicas"] = 0.into();
    let api = space.api::<IdempotentConsumer>();
    let (watched, audit, started) = (api.clone(), Audit::from_now()?, Instant::now());
    let ready = tokio::spawn(async move { all_ready(watched).await });
    stream::iter(0..COUNT)
        .map(|n| {
            let mut consumer = consumer.clone();
            consumer["metadata"]["name"] = json!(format!("c-{n}"));
            let api = api.clone();
            async move {
                api.create(&PostParams::default(), &serde_json::from_value(consumer)?)
                    .await
                    .map_err(anyhow::Error::from)
            }
        })
        .buffer_unordered(16)
        .try_collect::<Vec<_>>()
        .await?;
    let created = started.elapsed();
    tokio::time::timeout(LIMIT, ready).await.with_context(|| format!("not all are ready within {LIMIT:?}"))???;
    let took = started.elapsed();

    let children = kubectl(
        &[
            "get",
            "deployments,services,poddisruptionbudgets,secrets,configmaps",
            "--namespace",
            &space.namespace,
            "--output=name",
        ],
        "",
    )
    .await?;
    let of = |kind: &str| children.lines().filter(|line| line.starts_with(kind) && line.contains("/c-")).count();
    let counts = ["deployment", "service/", "poddisruptionbudget", "secret", "configmap"].map(of);
    ensure!(counts == [COUNT, COUNT, COUNT, COUNT, 2 * COUNT], "{counts:?}");
    let requests: Vec<_> = audit.by(USER)?.into_iter().filter(|r| r.object_ref.namespace == space.namespace).collect();
    let memory = operator::peak_memory(&space.client).await?;
    eprintln!(
        "thousand: created in {created:.1?}, all ready after {took:.1?}; {:.1} requests for each, {} of them writes; the operator's peak memory {} MiB",
        requests.len() as f64 / COUNT as f64,
        requests.iter().filter(|request| request.writes()).count() as f64 / COUNT as f64,
        memory >> 20,
    );
    eprintln!("thousand: {:?}", audit::count(&requests));
    ensure!(requests.len() <= REQUESTS * COUNT, "{} requests: {:?}", requests.len(), audit::count(&requests));
    ensure!(memory <= MEMORY, "{} MiB", memory >> 20);
    Ok(())
}

/// Returns when all of them are ready.
async fn all_ready(api: kube::Api<IdempotentConsumer>) -> anyhow::Result<()> {
    let mut ready = BTreeSet::new();
    let mut changes = std::pin::pin!(watcher(api, watcher::Config::default()));
    while let Some(change) = changes.next().await {
        let (watcher::Event::Apply(consumer) | watcher::Event::InitApply(consumer)) = change? else { continue };
        if condition(&consumer, crds::conditions::READY).is_some_and(|ready| ready.status == "True") {
            ready.extend(consumer.metadata.name);
        }
        if ready.len() == COUNT {
            return Ok(());
        }
    }
    anyhow::bail!("the watch ended")
}
