//! Decides whether the Redis part of a configuration makes sense. Pure; never repeats a URL, which may hold a password.

use std::time::Duration;

use super::super::{Problems, RedisConfig, SidecarConfig, Topology, redis_url};
use super::{both, within, words};

pub(super) fn validate(config: &SidecarConfig, problems: &mut Problems) {
    let redis = &config.redis;
    match (&redis.url, &redis.url_file) {
        (None, None) => problems.add("redis.url", "is missing: set url, or urlFile for one with a password in it"),
        (Some(_), Some(_)) => problems.add_like("redis.urlFile", "is set beside url: one of the two", "leave one out"),
        (Some(url), None) => inline(url, redis, problems),
        (None, Some(_)) => {}
    }
    both("redis", redis.certificate_file.is_some(), redis.key_file.is_some(), problems);
    match (redis.topology, redis.sentinel_master.as_deref()) {
        (Topology::Sentinel, None) => problems.add("redis.sentinelMaster", "is missing: topology Sentinel needs it"),
        (Topology::Sentinel, Some(name)) => {
            if let Err(wrong) = words(name) {
                problems.add("redis.sentinelMaster", wrong);
            }
        }
        (_, Some(_)) => problems.add_like(
            "redis.sentinelMaster",
            "is set, and the topology is not Sentinel",
            "{topology: Sentinel, sentinelMaster: mymaster}",
        ),
        (_, None) => {}
    }
    timeout(config, problems);
}

/// A URL that stands in the file itself.
fn inline(url: &str, redis: &RedisConfig, problems: &mut Problems) {
    match redis_url::parse(url, redis.topology) {
        Err(wrong) => problems.add("redis.url", wrong),
        Ok(urls) if urls.password => problems.add_like(
            "redis.url",
            "holds a password: put it into a Secret, and name its file in redis.urlFile or redis.passwordFile",
            "{url: \"redis://redis:6379\", passwordFile: /etc/idempotency/redis/password}",
        ),
        Ok(urls) => urls.agree("redis.url", redis, problems),
    }
}

fn timeout(config: &SidecarConfig, problems: &mut Problems) {
    let timeout = config.redis.timeout.get();
    within("redis.timeout", timeout, Duration::from_millis(10), Duration::from_secs(10), problems);
    // A renewal is sent after a third of the TTL and may take twice the time-out, to connect and to be answered: that leaves a
    // sixth of the TTL for the next one.
    let most = config.session.ttl.get() / 4;
    // A wrong session.ttl is told there; measured against it, every time-out would be wrong as well.
    let sound = most >= Duration::from_secs(1) / 4 && timeout <= Duration::from_secs(10);
    if sound && timeout > most {
        let wrong = format!(
            "is {}, more than a quarter of session.ttl ({}): one slow answer would end the session",
            config.redis.timeout, config.session.ttl
        );
        problems.add("redis.timeout", wrong);
    }
}
