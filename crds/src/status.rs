//! Decides what a sidecar tells of itself at `/status`: the operator reads it into the resource's status. Pure types.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What one sidecar says of itself. Fields are only ever added.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct SidecarStatus {
    /// The sidecar's version.
    pub version: String,
    /// The consumer group.
    pub group: String,
    /// It does its work, or could: what `/readyz` answers.
    pub ready: bool,
    /// The session under which it claims, if one is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// What it can promise for a delivery that starts now.
    pub protection: Protection,
    /// What stands out, each with its reason.
    pub conditions: Vec<Condition>,
    /// The app accepts connections.
    pub app_up: bool,
    /// It is a member of the consumer group.
    pub joined: bool,
    /// Drained or paused: no delivery starts.
    pub paused: bool,
    /// The partitions it holds.
    pub partitions: Vec<PartitionStatus>,
    /// What it has counted since it started.
    pub counters: Counters,
}

/// What the sidecar can promise for a delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protection {
    /// Redis gates it.
    Full,
    /// Only this sidecar's own memory of recent ids does.
    Local,
    /// Nothing does.
    #[default]
    None,
}

impl Protection {
    /// The value of the `idempotency-protection` header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Local => "local",
            Self::None => "none",
        }
    }
}

/// Something that stands out and lasts, with the reason and since when.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Condition {
    /// What it is about, for example `Protected` or `TopicsFound`.
    pub r#type: String,
    /// `true` is the healthy state for every type.
    pub status: bool,
    /// One word in CamelCase.
    pub reason: String,
    /// A sentence that names the thing and the fix.
    pub message: String,
    /// When it last changed, RFC 3339.
    pub since: String,
}

/// One partition that the sidecar holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct PartitionStatus {
    /// The topic.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// The lowest offset not yet settled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watermark: Option<i64>,
    /// Records read and not yet settled.
    pub buffered: u64,
    /// Records in the topic behind the watermark, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
}

/// What a sidecar has counted since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Counters {
    /// Records read.
    pub received: u64,
    /// Events that the app completed.
    pub completed: u64,
    /// Events that the app rejected.
    pub rejected: u64,
    /// Deliveries that failed and will come again.
    pub failed: u64,
    /// Records skipped since their event was done.
    pub duplicates: u64,
    /// Duplicates whose envelope names another event.
    pub suspects: u64,
    /// Events written to the dead-letter topic.
    pub dead_letters: u64,
    /// Deliveries with an attempt above 1.
    pub redeliveries: u64,
    /// Deliveries under less than full protection.
    pub unprotected: u64,
}
