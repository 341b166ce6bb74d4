//! Decides the label values of the metrics: closed sets, so that no record can blow up the number of series. Pure.

use std::fmt::Write;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

/// Declares a closed set of label values, the label set that carries it, and the list of all of them.
macro_rules! label {
    ($(#[$set_doc:meta])* $set:ident { $label:ident: $(#[$doc:meta])* $value:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ } }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $value {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $value {
            /// Every value, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The value as it stands in the exposition.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl EncodeLabelValue for $value {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
                encoder.write_str(self.as_str())
            }
        }

        $(#[$set_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub struct $set {
            /// The value.
            pub $label: $value,
        }

        impl From<$value> for $set {
            fn from($label: $value) -> Self {
                Self { $label }
            }
        }
    };
}

label! {
    /// Label `outcome`.
    OutcomeLabel {
        outcome:
        /// How a record's event ended, or did not yet.
        EventOutcome {
            /// The app did it.
            Completed = "completed",
            /// The app refused it for good: business failure.
            Rejected = "rejected",
            /// The delivery failed and will come again.
            Failed = "failed",
            /// The event was done already; the record was skipped.
            Duplicate = "duplicate",
        }
    }
}

label! {
    /// Label `protection`.
    ProtectionLabel {
        protection:
        /// What the sidecar could promise for a delivery.
        ProtectionValue {
            /// Redis gated it.
            Full = "full",
            /// Only this sidecar's memory of recent ids did.
            Local = "local",
            /// Nothing did.
            None = "none",
        }
    }
}

impl From<crds::status::Protection> for ProtectionLabel {
    fn from(protection: crds::status::Protection) -> Self {
        use crds::status::Protection;
        Self::from(match protection {
            Protection::Full => ProtectionValue::Full,
            Protection::Local => ProtectionValue::Local,
            Protection::None => ProtectionValue::None,
        })
    }
}

label! {
    /// Label `result` of claims.
    ClaimLabel {
        result:
        /// What came of a look at an event's key.
        ClaimResult {
            /// Nothing was there: the first claim.
            First = "first",
            /// A dead session's, an older one's or a released claim was taken over.
            TakenOver = "taken_over",
            /// The event is done.
            Duplicate = "duplicate",
            /// A living session holds it: wait.
            Held = "held",
            /// The value is not ours: wait until its TTL ends.
            Foreign = "foreign",
            /// A claim was given back.
            Released = "released",
        }
    }
}

label! {
    /// Label `kind` of store errors.
    StoreErrorLabel {
        kind:
        /// How the store failed.
        StoreErrorKind {
            /// The request may have left, and no answer came.
            Unanswered = "unanswered",
            /// No connection: the request never left.
            NotSent = "not_sent",
            /// The server answered with an error.
            Refused = "refused",
            /// The key holds another type than a string.
            WrongType = "wrong_type",
        }
    }
}

impl From<&crate::store::StoreError> for StoreErrorLabel {
    fn from(error: &crate::store::StoreError) -> Self {
        use crate::store::StoreError;
        Self::from(match error {
            StoreError::Unanswered(_) => StoreErrorKind::Unanswered,
            StoreError::NotSent(_) => StoreErrorKind::NotSent,
            StoreError::Refused(_) => StoreErrorKind::Refused,
            StoreError::WrongType(_) => StoreErrorKind::WrongType,
        })
    }
}

label! {
    /// Label `result` of commits.
    CommitLabel {
        result:
        /// What came of a commit of offsets.
        CommitResult {
            /// The broker took it.
            Done = "done",
            /// The broker refused it, or did not answer; the next commit covers it.
            Failed = "failed",
        }
    }
}

label! {
    /// Label `kind` of rebalances.
    RebalanceLabel {
        kind:
        /// What the consumer group did to this member.
        RebalanceKind {
            /// Partitions came.
            Assigned = "assigned",
            /// Partitions were asked back, with time to settle and commit.
            Revoked = "revoked",
            /// Partitions are another member's already: no commit.
            Lost = "lost",
        }
    }
}

/// Label `topic`: one of the configured topics.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TopicLabel {
    /// The topic.
    pub topic: String,
}

/// Labels `topic` and `partition`: a partition that this sidecar holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PartitionLabel {
    /// The topic.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
}

impl From<&crate::record::TopicPartition> for PartitionLabel {
    fn from(origin: &crate::record::TopicPartition) -> Self {
        Self { topic: origin.topic.to_string(), partition: origin.partition }
    }
}

/// Label `type`: the type of a condition in `/status`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ConditionLabel {
    /// The condition's type.
    pub r#type: String,
}
