//! Shows what a consumer says and does while its Redis is away, under both policies.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use crds::conditions::PROTECTED;
use harness::cluster::{SOON, Space, trial_within};
use harness::redis::RedisServer;
use harness::wait::throughout;
use libtest_mimic::Trial;
use serde_json::json;

pub(crate) fn tests() -> Vec<Trial> {
    vec![trial_within(
        Duration::from_secs(200),
        "redis_away::open_flows_and_says_so_and_closed_waits",
        open_flows_and_says_so_and_closed_waits,
    )]
}

/// `Protected` follows the sidecars within this time.
const FOLLOWS: Duration = Duration::from_secs(15);

async fn open_flows_and_says_so_and_closed_waits(space: Arc<Space>) -> anyhow::Result<()> {
    // The harness's own, also where `E2E_REDIS` names another: this test stops it. It comes back with its data.
    let mut redis = RedisServer::with(&["--appendonly", "yes", "--appendfsync", "always"])?;
    let (open_topic, closed_topic) = (space.topic("open", 2).await?, space.topic("closed", 2).await?);
    for (name, topic, policy) in [("open", &open_topic, "Open"), ("closed", &closed_topic, "Closed")] {
        let mut consumer = space.consumer(name, topic).await?;
        consumer["spec"]["redis"] = json!({"url": redis.url(), "failurePolicy": policy});
        space.apply(&consumer).await?;
    }
    let mut published = [space.publish(&open_topic, 40, 2).await?, space.publish(&closed_topic, 40, 2).await?];
    for (name, topic) in [("open", &open_topic), ("closed", &closed_topic)] {
        space.ready(name).await;
        space.condition(name, PROTECTED, "True", SOON).await;
        space.settled(name, topic).await?;
    }

    redis.kill()?;
    for name in ["open", "closed"] {
        let condition = space.condition(name, PROTECTED, "False", FOLLOWS).await;
        ensure!(condition.reason == "StoreAway", "{condition:?}");
        space.event(name, "StoreAway").await;
    }
    published[1].extend(space.publish(&closed_topic, 40, 2).await?);
    published[0].extend(space.publish(&open_topic, 40, 2).await?);
    space.settled("open", &open_topic).await?;
    let unprotected = space.ledger.effects().into_iter().filter(|effect| effect.protection != "full");
    ensure!(unprotected.count() == 40, "all that flowed says that it is not protected");
    throughout("nothing of the closed one flows", Duration::from_secs(3), async || {
        match space.ledger.effects().iter().filter(|effect| effect.topic == closed_topic).count() {
            40 => Ok(()),
            other => Err(format!("{other} effects")),
        }
    })
    .await;

    redis.restart()?;
    space.settled("closed", &closed_topic).await?;
    for name in ["open", "closed"] {
        space.condition(name, PROTECTED, "True", SOON).await;
    }
    let [mut all, closed] = published;
    all.extend(closed);
    let check = space.ledger.check(&all);
    check.assert_none_lost();
    check.second_deliveries_say_so();
    Ok(())
}
