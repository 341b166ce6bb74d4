//! Decides what was asked of the API server, by its audit log. I/O: it reads the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::PathBuf;

use anyhow::Context;
use serde::Deserialize;

/// One request, when it was done.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`…
    pub verb: String,
    /// Where it went.
    #[serde(rename = "requestURI")]
    pub uri: String,
    /// Who asked.
    pub user: User,
    /// What it was about, where it was about an object.
    #[serde(default)]
    pub object_ref: Object,
    /// When it came, RFC 3339.
    pub request_received_timestamp: String,
    stage: String,
    /// What became of it.
    #[serde(default)]
    pub response_status: Status,
}

/// Who asked.
#[derive(Clone, Debug, Deserialize)]
pub struct User {
    /// The user's name.
    pub username: String,
}

/// An object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Object {
    /// Plural of its kind.
    pub resource: String,
    /// `status`, `scale`…, or empty.
    pub subresource: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What became of a request.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The HTTP code.
    pub code: u16,
    /// Why, where it was refused.
    pub message: String,
}

impl Request {
    /// It changes something, if it is granted.
    #[must_use]
    pub fn writes(&self) -> bool {
        ["create", "update", "patch", "delete", "deletecollection"].contains(&self.verb.as_str())
    }

    /// It was refused for want of a permission. Who writes into a namespace that ends gets the same code.
    #[must_use]
    pub fn lacks_permission(&self) -> bool {
        let Status { code, message } = &self.response_status;
        matches!(code, 401 | 403) && !message.contains("because it is being terminated")
    }

    /// It made something: what is applied and not there is created, which takes that permission, too.
    #[must_use]
    pub fn creates(&self) -> bool {
        self.response_status.code == 201
    }

    /// `patch deployments/scale`.
    #[must_use]
    pub fn what(&self) -> String {
        let Object { resource, subresource, .. } = &self.object_ref;
        let slash = if subresource.is_empty() { "" } else { "/" };
        format!("{} {resource}{slash}{subresource}", self.verb)
    }
}

/// The audit log, from a point in time on.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    from: u64,
}

impl Audit {
    /// From now on.
    ///
    /// # Errors
    /// There is no audit log to read.
    pub fn from_now() -> anyhow::Result<Self> {
        let path = path()
            .context("no audit log: set E2E_AUDIT_LOG to the API server's (the node of tests/cluster writes one)")?;
        let from = std::fs::metadata(&path).with_context(|| format!("audit log {}", path.display()))?.len();
        Ok(Self { path, from })
    }

    /// From its beginning.
    ///
    /// # Errors
    /// There is no audit log to read.
    pub fn whole() -> anyhow::Result<Self> {
        Ok(Self { from: 0, ..Self::from_now()? })
    }

    /// The requests since, of those users whose name ends so.
    ///
    /// # Errors
    /// The log can't be read.
    pub fn by(&self, user: &str) -> anyhow::Result<Vec<Request>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.from))?;
        let mut found = Vec::new();
        for text in BufReader::new(file).lines() {
            let text = text?;
            // Most lines are others'; and the last may be half there.
            if !text.contains(user) {
                continue;
            }
            let Ok(request) = serde_json::from_str::<Request>(&text) else { continue };
            // A watch is logged when it opens, too.
            if request.stage == "ResponseComplete" && request.user.username.ends_with(user) {
                found.push(request);
            }
        }
        Ok(found)
    }
}

/// How many requests of each sort.
#[must_use]
pub fn count<'a>(requests: impl IntoIterator<Item = &'a Request>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for request in requests {
        *counts.entry(request.what()).or_default() += 1;
    }
    counts
}

fn path() -> Option<PathBuf> {
    let named = std::env::var_os("E2E_AUDIT_LOG").map(PathBuf::from);
    named.or_else(|| Some(PathBuf::from(std::env::var_os("CLUSTER_STATE")?).join("log/audit.log")))
}
