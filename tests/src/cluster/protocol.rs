//! Decides what an app in a pod and the harness's ledger tell each other: one JSON document a line, over TCP. Pure.

use std::str::FromStr;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::ledger::Effect;

/// From the app to the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FromApp {
    /// The first line of a connection.
    Hello {
        /// Name of the pod.
        pod: String,
    },
    /// Something happened; it counts once the ledger has acknowledged the number.
    Report {
        /// Number of the report on this connection.
        number: u64,
        /// What happened.
        what: What,
    },
}

/// What an app reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum What {
    /// Its process started.
    Started,
    /// A request came, and work on it begins. Reported only where the work takes a second or more.
    Begun {
        /// The event.
        event: String,
        /// The attempt.
        attempt: u32,
    },
    /// The work took effect.
    Effects(Vec<Effect>),
    /// SIGTERM came. The process ends at once.
    Terminated,
}

/// From the ledger to the app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ToApp {
    /// The report of that number is on disk.
    Kept(u64),
    /// Behave so from the next request on.
    Behave(Mode),
    /// End at once, as by SIGKILL.
    Die,
    /// Kill the sidecar's process (SIGKILL), where the pod shares its process namespace.
    KillSidecar,
    /// Answer the liveness probe so from now on.
    Live(bool),
}

/// How the app behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// Every event takes effect and is completed.
    #[default]
    Complete,
    /// The same, after so many milliseconds of work.
    Work(u64),
    /// Nothing takes effect, and that is the answer's status.
    Status(u16),
    /// Nothing takes effect, and no answer comes.
    Hang,
}

/// Name of the record header that tells the app how to behave for this one event: a [`Mode`] as text.
pub const MODE_HEADER: &str = "act";

impl FromStr for Mode {
    type Err = anyhow::Error;

    /// Reads `complete`, `work=MILLISECONDS`, `status=CODE` or `hang`.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        Ok(match text.split_once('=').unwrap_or((text, "")) {
            ("complete", "") => Self::Complete,
            ("work", time) => Self::Work(time.parse().context("work=MILLISECONDS")?),
            ("status", code) => Self::Status(code.parse().context("status=CODE")?),
            ("hang", "") => Self::Hang,
            _ => bail!("`{text}` is none of complete, work=MILLISECONDS, status=CODE and hang"),
        })
    }
}
