//! Shows the four services of `examples/huleedu` on the cluster: a batch of essays goes through all of them, everything that they
//! publish can come twice, and at each stage the pod at work is killed. Each essay is assessed once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use crds::conditions::PROTECTED;
use harness::cluster::consumer::merge;
use harness::cluster::outside::service;
use harness::cluster::{SOON, Space, images, trial_within};
use harness::huleedu::{
    self, Account, DEAD_LETTERS, Duplicator, ESSAYS_READY, INITIATE_ASSESSMENT, SPELLCHECK_COMPLETED,
    SPELLCHECK_REQUESTED, Service, TOPICS,
};
use harness::kafka::Kafka;
use harness::offsets::read_all;
use harness::publish::Publisher;
use harness::redis::RedisServer;
use harness::wait::{equal, patiently};
use libtest_mimic::Trial;
use serde_json::{Value, json};

pub(crate) fn tests() -> Vec<Trial> {
    vec![trial_within(
        Duration::from_secs(330),
        "huleedu::each_essay_of_a_batch_is_assessed_once_whatever_dies",
        each_essay_of_a_batch_is_assessed_once_whatever_dies,
    )]
}

const ESSAYS: usize = 500;
const PARTITIONS: i32 = 6;
/// Pods of each service.
const PODS: usize = 2;
const BATCH: &str = "batch-1";
/// The app's port for probes.
const HEALTH: u16 = 8080;

/// When a service's pod is killed: it has been handed that many events of a type, of which there are more.
struct Stage {
    service: &'static str,
    kind: &'static str,
    after: usize,
    of: usize,
}

const STAGES: [Stage; 4] = [
    Stage { service: "spell_checker_service", kind: SPELLCHECK_REQUESTED, after: ESSAYS / 6, of: ESSAYS },
    Stage { service: "essay_lifecycle_service", kind: SPELLCHECK_COMPLETED, after: ESSAYS / 3, of: ESSAYS },
    // One event alone: the pod dies while it works on it.
    Stage { service: "batch_orchestrator_service", kind: ESSAYS_READY, after: 1, of: 2 },
    Stage { service: "cj_assessment_service", kind: INITIATE_ASSESSMENT, after: 25, of: ESSAYS / huleedu::SET },
];

async fn each_essay_of_a_batch_is_assessed_once_whatever_dies(space: Arc<Space>) -> anyhow::Result<()> {
    let kafka = space.kafka().await?;
    // As the platform has it; the services' own books are in it too.
    let redis = RedisServer::with(&["--appendonly", "yes"])?;
    let services = Service::all()?;
    make_platform(&space, &kafka, &redis).await?;
    for one in &services {
        space.apply(&on_this_cluster(one)).await?;
    }
    for one in &services {
        space.rolled_out(one.name(), PODS).await?;
        space.condition(one.name(), PROTECTED, "True", SOON).await;
        healthy(&space, one).await?;
    }

    let started = std::time::Instant::now();
    let duplicates = Duplicator::start(&kafka.bootstrap(), PARTITIONS)?;
    let publisher = Publisher::new(&kafka.bootstrap())?;
    publisher.send(TOPICS[0], &huleedu::registered(BATCH, ESSAYS)).await?;
    for _ in 0..2 {
        publisher.send(SPELLCHECK_REQUESTED, &huleedu::without_text("blank")).await?;
    }
    for stage in &STAGES {
        kill_at(&space, &redis, stage).await?;
    }
    patiently("the batch is assessed", Duration::from_secs(120), async || {
        let outcome = huleedu::phase(&redis, BATCH, "cj_assessment").map_err(|e| e.to_string())?;
        equal(&outcome, &Some("COMPLETED".into()))
    })
    .await;
    eprintln!("huleedu: a batch of {ESSAYS} essays in {:?}", started.elapsed());
    duplicates.finish().await?;
    for one in &services {
        space.rolled_out(one.name(), PODS).await?;
        for topic in one.topics() {
            space.settled(one.name(), topic).await?;
        }
    }
    let account = Account::read(&kafka.bootstrap(), &redis, &services, BATCH, ESSAYS).await?;
    eprintln!("{}", account.table());
    account.check(1)?;
    let share = account.duplicates() as f64 / account.records() as f64;
    ensure!((0.2..0.4).contains(&share), "{share} of the records were duplicates");
    let letters = read_all(&kafka.bootstrap(), DEAD_LETTERS).await?;
    ensure!(letters.len() == 1, "{} dead letters for one essay without a text", letters.len());
    Ok(())
}

/// What the manifests expect in their namespace: Kafka and Redis under these names, and the topics.
async fn make_platform(space: &Space, kafka: &Kafka, redis: &RedisServer) -> anyhow::Result<()> {
    for (topic, partitions) in TOPICS.map(|topic| (topic, PARTITIONS)).into_iter().chain([(DEAD_LETTERS, 1)]) {
        kafka.create_topic(topic, partitions, &[]).await?;
    }
    let redis = redis.url().replace("redis://", "");
    for (name, port, address) in [("kafka", 9092, kafka.bootstrap()), ("redis", 6379, redis)] {
        for object in service(name, port, address.parse().with_context(|| address.clone())?) {
            space.kubectl_apply(&object).await?;
        }
    }
    Ok(())
}

/// The manifest, with shorter times, so that the test does not wait for a dead member as long as a platform may.
fn on_this_cluster(service: &Service) -> Value {
    let mut manifest = service.manifest.clone();
    merge(
        &mut manifest,
        json!({"spec": {
            "session": {"ttl": "2s"},
            "kafka": {"properties": {"session.timeout.ms": "5000", "heartbeat.interval.ms": "500"}},
            "delivery": {"backoff": {"min": "20ms", "max": "500ms"}},
            "drainTimeout": "10s",
            "sidecar": {"resources": {"requests": {"cpu": "10m", "memory": "32Mi"}}},
        }}),
    );
    manifest["spec"]["template"]["spec"]["containers"][0]["image"] = images::huleedu().into();
    manifest
}

/// Every pod says that it is well: the app at its own port, the sidecar at its.
async fn healthy(space: &Space, service: &Service) -> anyhow::Result<()> {
    for pod in space.pods(service.name()).await? {
        let path = format!("/api/v1/namespaces/{}/pods/{pod}:{HEALTH}/proxy/healthz", space.namespace);
        let health: Value = space.client.request(hyper::Request::get(path).body(Vec::new())?).await?;
        ensure!(health == json!({"service": service.app(), "status": "healthy"}), "{pod}: {health}");
        let status = space.sidecar_status(&pod).await?;
        ensure!(status.ready, "{pod}: {status:?}");
    }
    Ok(())
}

/// Kills the pod that was handed an event last, once the stage is reached.
async fn kill_at(space: &Space, redis: &RedisServer, stage: &Stage) -> anyhow::Result<()> {
    let of_stage = |delivery: &huleedu::Delivery| delivery.service == stage.service && delivery.kind == stage.kind;
    let what = format!("{} is handed {} of {}", stage.service, stage.after, stage.kind);
    let pod = patiently(what, Duration::from_secs(90), async || {
        let all: Vec<_> = huleedu::deliveries(redis)?.into_iter().filter(of_stage).collect();
        ensure!(all.len() >= stage.after, "{}", all.len());
        Ok(all.last().map(|last| last.pod.clone()).unwrap_or_default())
    })
    .await;
    space.kill_pod(&pod).await?;
    let handled: BTreeSet<_> = huleedu::deliveries(redis)?.into_iter().filter(of_stage).map(|d| d.key).collect();
    eprintln!("huleedu: {pod} was killed after {} of {}", handled.len(), stage.kind);
    ensure!(handled.len() < stage.of, "{} was over before the pod was killed", stage.kind);
    Ok(())
}
