//! Shows that lag and logs are right, and that no secret gets out. I/O.

use anyhow::{Context, ensure};
use crds::status::SidecarStatus;
use harness::app::{Act, act, complete};
use harness::env::{Env, trial};
use harness::flow::{Flow, SOON, Turnstile};
use harness::openmetrics::{self, sum};
use harness::redis::RedisServer;
use harness::sidecar::Sidecar;
use harness::wait::eventually;
use libtest_mimic::Trial;
use serde_json::Value;

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        trial("status::lag_is_what_is_not_settled", lag_is_what_is_not_settled),
        trial("status::lag_is_known_at_rest_after_a_restart", lag_is_known_at_rest_after_a_restart),
        trial("status::each_decision_is_one_line_at_debug", each_decision_is_one_line_at_debug),
        trial("status::no_secret_gets_out", no_secret_gets_out),
    ]
}

async fn lag_is_what_is_not_settled(env: Env) -> anyhow::Result<()> {
    let turnstile = Turnstile::default();
    let mut flow = Flow::new(env, 2, turnstile.complete()).await?;
    flow.publish(60).await?;
    let sidecar = flow.sidecar("sidecar").await?;
    let records = flow.published.records() as i64;
    lag_is(&sidecar, records).await;
    turnstile.open();
    flow.settled_each_once().await;
    lag_is(&sidecar, 0).await;
    flow.app.stop();
    flow.publish(40).await?;
    lag_is(&sidecar, flow.published.records() as i64 - records).await;
    flow.app.listen()?;
    flow.settled_each_once().await;
    lag_is(&sidecar, 0).await;
    Ok(())
}

async fn lag_is_known_at_rest_after_a_restart(env: Env) -> anyhow::Result<()> {
    let mut flow = Flow::new(env, 2, complete()).await?;
    flow.publish(20).await?;
    let mut sidecar = flow.sidecar("sidecar").await?;
    flow.settled_each_once().await;
    let ends = flow.offsets.ends(&flow.topic).await?;
    sidecar.terminate(SOON).await?;
    let after = flow.sidecar("after").await?;
    let at_rest = |status: &SidecarStatus| {
        let known =
            status.partitions.iter().filter(|p| p.lag == Some(0) && p.watermark == ends.get(&p.partition).copied());
        known.count() == 2
    };
    after.wait_for("no record came, and the lag is known to be 0", SOON, at_rest).await;
    Ok(())
}

/// Waits until `/status` and `/metrics` both say so.
async fn lag_is(sidecar: &Sidecar, wanted: i64) {
    eventually(format!("the lag is {wanted}"), SOON, async || {
        let status = sidecar.status().await?;
        let known: Option<Vec<i64>> = status.partitions.iter().map(|partition| partition.lag).collect();
        ensure!(known.context("unknown")?.iter().sum::<i64>() == wanted, "{:?}", status.partitions);
        let shown = sum(&openmetrics::parse(&sidecar.metrics().await?)?, "idempotency_watermark_lag", &[]);
        ensure!(shown == wanted as f64, "{shown} in /metrics");
        Ok(())
    })
    .await;
}

async fn each_decision_is_one_line_at_debug(env: Env) -> anyhow::Result<()> {
    let some_fail = act(|request| match (request.event().times, request.event().offset % 5) {
        (1, 0) => Act::status(503),
        (_, 1) => Act::reject(),
        _ => Act::complete(),
    });
    let mut flow = Flow::new(env, 2, some_fail).await?;
    flow.publish(40).await?;
    let mut sidecar = flow.sidecar("sidecar").await?;
    flow.settled().await;
    sidecar.terminate(SOON).await?;
    let log = sidecar.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}")))
        .collect::<anyhow::Result<_>>()?;
    for line in &lines {
        ensure!(["timestamp", "level", "target"].iter().all(|field| line[field].is_string()), "{line}");
    }
    let of = |decision: &str| lines.iter().filter(|line| line["decision"] == decision).collect::<Vec<_>>();
    let deliveries = flow.app.deliveries();
    let completed = flow.app.ledger().len();
    let rejected = flow.published.unique() - completed;
    let duplicates = flow.published.records() - flow.published.unique();
    for (decision, wanted) in [
        ("deliver", deliveries.len()),
        ("completed", completed),
        ("rejected", rejected),
        ("failed", deliveries.len() - completed - rejected),
        ("skip", duplicates),
    ] {
        ensure!(of(decision).len() == wanted, "{} lines `{decision}`, wanted {wanted}", of(decision).len());
        let whole =
            |line: &&Value| line["topic"] == flow.topic && line["partition"].is_i64() && line["offset"].is_i64();
        ensure!(of(decision).iter().all(whole) && wanted > 0, "`{decision}`: {:?}", of(decision));
    }
    let told: Vec<_> = of("deliver").iter().map(|line| line["key"].clone()).collect();
    ensure!(deliveries.iter().all(|event| told.contains(&event.key.clone().into())), "a line lacks its key");
    Ok(())
}

async fn no_secret_gets_out(env: Env) -> anyhow::Result<()> {
    const SECRETS: [&str; 4] =
        ["redis-password-4711", "redis-url-password-4712", "drain-token-4713", "key-password-4714"];
    let mut flow = Flow::new(env.clone(), 1, complete()).await?;
    let redis = RedisServer::start()?;
    redis.command::<String>(&["CONFIG", "SET", "requirepass", SECRETS[0]])?;
    let file = |name: &str, text: &str| -> anyhow::Result<_> {
        let path = env.dir().join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    };
    let url = redis.url().replace("redis://", &format!("redis://:{}@", SECRETS[1]));
    flow.config.redis.url = None;
    flow.config.redis.url_file = Some(file("url", &url)?);
    flow.config.admin.drain_token_file = Some(file("token", SECRETS[2])?);
    let password = file("password", SECRETS[0])?;
    flow.publish(10).await?;
    // With a wrong password, where errors are told, then with the right one, where all goes well. Everything is logged.
    let mut refused = logging_all(&flow, "refused").await?;
    eventually("the log tells why", SOON, async || refused.log().contains("Password authentication failed")).await;
    check_nothing_shows(&refused, &SECRETS).await?;
    refused.terminate(SOON).await?;
    flow.config.redis.url_file = Some(file("url", &redis.url())?);
    flow.config.redis.password_file = Some(password);
    flow.publish(10).await?;
    let accepted = logging_all(&flow, "accepted").await?;
    flow.settled().await;
    accepted.wait_for("Redis takes it", SOON, |status| status.protection == crds::status::Protection::Full).await;
    let (code, _) = accepted.drain(Some(SECRETS[2])).await?;
    ensure!(code == 200);
    check_nothing_shows(&accepted, &SECRETS).await
}

async fn logging_all(flow: &Flow, name: &str) -> anyhow::Result<Sidecar> {
    let mut sidecar = Sidecar::spawn_logging(flow.env.dir(), name, &flow.config, "trace")?;
    sidecar.admin().await?;
    Ok(sidecar)
}

async fn check_nothing_shows(sidecar: &Sidecar, secrets: &[&str]) -> anyhow::Result<()> {
    let mut said = vec![("the log", sidecar.log())];
    for path in ["/status", "/metrics", "/readyz", "/livez"] {
        said.push((path, String::from_utf8_lossy(&sidecar.get(path).await?.1).into_owned()));
    }
    ensure!(said[0].1.lines().count() > 50, "it logs too little to tell");
    for (place, text) in said {
        let line = text.lines().find(|line| secrets.iter().any(|secret| line.contains(secret)));
        ensure!(line.is_none(), "{place}: {line:?}");
    }
    Ok(())
}
