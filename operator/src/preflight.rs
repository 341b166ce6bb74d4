//! Decides whether the API server is one that the operator can work with. [`too_old`] is pure; [`check`] asks.

use std::time::Duration;

use kube::Client;
use kube::core::Status;
use tokio::time::Instant;

use crate::controller::watch::Scope;
use crate::kube_error::words;

mod permissions;

/// Native sidecars are on from this version.
const OLDEST: (u32, u32) = (1, 29);
/// What must be served: group and version, and the resource in it.
const NEEDED: [(&str, &str); 4] = [
    ("apps/v1", "deployments"),
    ("policy/v1", "poddisruptionbudgets"),
    ("coordination.k8s.io/v1", "leases"),
    ("events.k8s.io/v1", "events"),
];
/// Our own, which comes with the CustomResourceDefinition.
const OURS: (&str, &str) = ("idempotency.dev/v1alpha1", "idempotentconsumers");
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two looks.
const PAUSE: Duration = Duration::from_secs(2);

/// Why the operator can't work here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server is too old.
    #[error("the API server is Kubernetes {found}, and native sidecars need {}.{} or later", OLDEST.0, OLDEST.1)]
    TooOld {
        /// Its version.
        found: String,
    },
    /// An API is not served.
    #[error("the API server does not serve {api} ({resource})")]
    Missing {
        /// Group and version.
        api: &'static str,
        /// The resource.
        resource: &'static str,
    },
    /// The CustomResourceDefinition did not come.
    #[error(
        "the API server does not serve {} after {} s: apply the CustomResourceDefinition that `operator crd` prints",
        OURS.0, .0.as_secs()
    )]
    NoDefinition(Duration),
    /// The operator's account lacks permissions.
    #[error("{0}: give the operator's service account the role that comes with it")]
    Forbidden(String),
    /// The API server can't be reached.
    #[error("the API server does not answer: {0}")]
    Unreachable(String),
}

/// Whether a version is older than native sidecars. One that can't be read is not held against the server.
#[must_use]
pub fn too_old(major: &str, minor: &str) -> bool {
    let number = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().ok();
    number(major).zip(number(minor)).is_some_and(|version| version < OLDEST)
}

/// What the operator can't work without.
#[derive(Clone, Debug)]
pub struct Needs {
    /// Where it looks for consumers.
    pub scope: Scope,
    /// Namespace of the lease, where it holds one.
    pub leases_in: Option<String>,
    /// How long it waits for what may still come.
    pub bound: Duration,
}

/// Checks the API server, and waits for our CustomResourceDefinition and for permissions. `waiting` is told why it waits.
///
/// # Errors
/// The operator can't work here.
pub async fn check(client: &Client, needs: &Needs, waiting: impl Fn(&str)) -> Result<(), Error> {
    let bound = needs.bound;
    let until = Instant::now() + bound;
    let version = loop {
        match in_time(client.apiserver_version()).await {
            Ok(version) => break version,
            Err(error) if Instant::now() < until => {
                tracing::warn!(error, "the API server does not answer");
                waiting("waiting for the API server");
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(Error::Unreachable(error)),
        }
    };
    if too_old(&version.major, &version.minor) {
        return Err(Error::TooOld { found: version.git_version });
    }
    for (api, resource) in NEEDED {
        if !serves(client, api, resource, until).await? {
            return Err(Error::Missing { api, resource });
        }
    }
    let mut told = false;
    while !serves(client, OURS.0, OURS.1, until).await? {
        if Instant::now() >= until {
            return Err(Error::NoDefinition(bound));
        }
        if !told {
            tracing::info!(api = OURS.0, "waiting until the CustomResourceDefinition is established");
            waiting("waiting for the CustomResourceDefinition");
            told = true;
        }
        tokio::time::sleep(PAUSE).await;
    }
    while let Some(lacking) = lacking(client, needs).await {
        if Instant::now() >= until {
            return Err(Error::Forbidden(lacking));
        }
        tracing::warn!(lacking, "waiting for permissions");
        waiting(&format!("waiting for permissions: {lacking}"));
        tokio::time::sleep(PAUSE).await;
    }
    tracing::info!(version = version.git_version, "the API server is one to work with");
    Ok(())
}

/// What the operator may not do. Where the API server can't say, it shows when it is tried.
async fn lacking(client: &Client, needs: &Needs) -> Option<String> {
    match in_time(permissions::lacking(client, needs)).await {
        Ok(lacking) => lacking,
        Err(error) => {
            tracing::warn!(error, "the API server does not say what the operator may do");
            None
        }
    }
}

/// Whether a resource is served: an established definition is, and discovery is open to everybody.
async fn serves(client: &Client, api: &'static str, resource: &str, until: Instant) -> Result<bool, Error> {
    loop {
        let listed = async {
            match client.list_api_group_resources(api).await {
                Ok(list) => Ok(list.resources.iter().any(|served| served.name == resource)),
                Err(kube::Error::Api(status)) if is_absent(&status) => Ok(false),
                Err(error) => Err(error),
            }
        };
        match in_time(listed).await {
            Ok(served) => return Ok(served),
            Err(error) if Instant::now() < until => {
                tracing::warn!(api, error, "the API server does not answer");
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(Error::Unreachable(error)),
        }
    }
}

/// An answer, or in words why there is none.
async fn in_time<T>(answer: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(answer) => answer.map_err(|error| words(&error)),
        Err(_) => Err(format!("no answer within {} s", ANSWER.as_secs())),
    }
}

fn is_absent(status: &Status) -> bool {
    status.code == 404
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn native_sidecars_need_1_29() {
        for (major, minor, old) in [
            ("1", "28", true),
            ("1", "28+", true),
            ("1", "29", false),
            ("1", "37+", false),
            ("2", "0", false),
            ("", "", false),
        ] {
            assert_eq!(too_old(major, minor), old, "{major}.{minor}");
        }
    }
}
