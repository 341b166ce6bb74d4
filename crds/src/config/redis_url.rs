//! Decides whether a Redis URL is one, and what it asks for. Pure; its messages never repeat the URL, which may hold a password.

use url::Url;

use super::{Problems, RedisConfig, Topology};
use crate::Secret;

/// What the URLs of one Redis say together.
#[derive(Clone, Debug)]
pub struct RedisUrls {
    /// The URLs, one by one.
    pub urls: Vec<Secret>,
    /// They ask for TLS.
    pub tls: bool,
    /// One of them names a user.
    pub username: bool,
    /// One of them holds a password.
    pub password: bool,
}

impl RedisUrls {
    /// What they have to do with the fields beside them; `field` says where they come from.
    pub fn agree(&self, field: &str, redis: &RedisConfig, problems: &mut Problems) {
        if self.username && redis.username_file.is_some() {
            problems.add("redis.usernameFile", format!("is set, and {field} names a user: one of the two"));
        }
        if self.password && redis.password_file.is_some() {
            problems.add("redis.passwordFile", format!("is set, and {field} holds a password: one of the two"));
        }
        let user = self.username || redis.username_file.is_some();
        if user && !self.password && redis.password_file.is_none() {
            let wrong = format!(
                "is missing, and {field} holds none: who signs in as a user needs a password, else no one does"
            );
            problems.add("redis.passwordFile", wrong);
        }
        if !self.tls && (redis.ca_file.is_some() || redis.certificate_file.is_some()) {
            let file = if redis.ca_file.is_some() { "redis.caFile" } else { "redis.certificateFile" };
            let wrong = format!("is set, and {field} asks for no TLS: a URL that does begins with rediss://");
            problems.add_like(file, wrong, "\"rediss://redis:6380\" as URL");
        }
    }
}

/// Takes a comma-separated list apart.
///
/// # Errors
/// A sentence without the URL in it, which goes on where the text that names the field ends.
pub fn parse(list: &str, topology: Topology) -> Result<RedisUrls, String> {
    let mut parsed = Vec::new();
    for (index, text) in list.split(',').map(str::trim).enumerate() {
        let which = if list.contains(',') { format!("URL {} of the list ", index + 1) } else { String::new() };
        parsed.push(one(text).map_err(|wrong| format!("{which}{wrong}"))?);
    }
    if topology == Topology::Standalone && parsed.len() > 1 {
        return Err("names several servers, which needs topology Sentinel or Cluster".to_owned());
    }
    if topology == Topology::Cluster && parsed.iter().any(|p| p.database != 0) {
        return Err("names a database, and a Redis Cluster has only 0".to_owned());
    }
    let first = &parsed[0];
    if parsed.iter().any(|p| p.asks() != first.asks()) {
        return Err("names servers that differ in scheme, user, password or database".to_owned());
    }
    Ok(RedisUrls {
        tls: first.tls,
        username: first.username.is_some(),
        password: first.password.is_some(),
        urls: list.split(',').map(|text| Secret::new(text.trim())).collect(),
    })
}

struct One {
    tls: bool,
    database: u32,
    username: Option<String>,
    password: Option<String>,
}

impl One {
    fn asks(&self) -> (bool, u32, Option<&str>, Option<&str>) {
        (self.tls, self.database, self.username.as_deref(), self.password.as_deref())
    }
}

fn one(text: &str) -> Result<One, String> {
    if !text.starts_with("redis://") && !text.starts_with("rediss://") {
        return Err("begins with neither redis:// nor rediss:// (TLS)".to_owned());
    }
    let url = Url::parse(text)
        .map_err(|_| "is no URL: check host and port, and percent-encode special characters of user and password")?;
    if url.host_str().is_none_or(str::is_empty) {
        return Err("names no host".to_owned());
    }
    if url.port() == Some(0) {
        return Err("names port 0".to_owned());
    }
    if url.fragment().is_some() {
        return Err(
            "has a # part: a TLS certificate is always checked (redis.caFile names an authority of your own)".into()
        );
    }
    if url.query().is_some() {
        return Err("has a ? part, which is not supported".to_owned());
    }
    let database = match url.path().trim_matches('/') {
        "" => 0,
        number => number.parse().map_err(|_| "names a database that is no number".to_owned())?,
    };
    Ok(One {
        tls: url.scheme() == "rediss",
        database,
        username: Some(url.username()).filter(|u| !u.is_empty()).map(str::to_owned),
        password: url.password().map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_urls_are_taken() {
        for (text, tls, password) in [
            ("redis://redis:6379", false, false),
            ("redis://redis", false, false),
            ("rediss://redis:6380/2", true, false),
            ("redis://app@10.0.0.1:6379/0", false, false),
            ("rediss://app:s%2Cecret@[::1]:6380", true, true),
            ("redis://:secret@redis", false, true),
        ] {
            let urls = parse(text, Topology::Standalone).unwrap();
            assert_eq!((urls.tls, urls.password, urls.urls.len()), (tls, password, 1), "{text}");
        }
        let nodes = parse("redis://a:1, redis://b:2", Topology::Cluster).unwrap();
        assert_eq!(nodes.urls.iter().map(Secret::expose).collect::<Vec<_>>(), ["redis://a:1", "redis://b:2"]);
    }

    #[test]
    fn wrong_urls_are_refused_without_being_repeated() {
        for (text, topology, wrong) in [
            ("", Topology::Standalone, "neither redis://"),
            ("hunter2:6379", Topology::Standalone, "neither redis://"),
            ("http://hunter2", Topology::Standalone, "neither redis://"),
            ("redis://", Topology::Standalone, "no "),
            ("redis://:hunter2@host:port", Topology::Standalone, "is no URL"),
            ("redis://:hunter2@host:99999", Topology::Standalone, "is no URL"),
            ("redis://:hunter2@host:0", Topology::Standalone, "port 0"),
            ("redis://:hunter2@host/x", Topology::Standalone, "no number"),
            ("redis://:hunter2@host/-1", Topology::Standalone, "no number"),
            ("rediss://:hunter2@host/#insecure", Topology::Standalone, "# part"),
            ("redis://:hunter2@host/?timeout=1", Topology::Standalone, "? part"),
            ("redis://a,redis://hunter2", Topology::Standalone, "several servers"),
            ("redis://a,redis://hunter2:x", Topology::Cluster, "URL 2 of the list is no URL"),
            ("redis://a/1,redis://b/1", Topology::Cluster, "only 0"),
            ("redis://:hunter2@a,redis://b", Topology::Sentinel, "differ"),
        ] {
            let told = parse(text, topology).unwrap_err();
            assert!(told.contains(wrong), "{text}: {told}");
            assert!(!told.contains("hunter2"), "{told}");
        }
    }
}
