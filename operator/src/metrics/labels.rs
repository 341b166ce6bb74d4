//! Decides the label values of the metrics: closed sets, so that no resource can blow up the number of series. Pure.

use std::fmt::Write;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

use crate::controller::build::ChildKind;

/// Declares a closed set of label values.
macro_rules! values {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// Every value, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The value as it stands in the exposition.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
                encoder.write_str(self.as_str())
            }
        }
    };
}

values! {
    /// How a reconcile ended.
    Outcome {
        /// The consumer is as it shall be.
        Done = "done",
        /// The resource can't be read.
        Undecodable = "undecodable",
        /// It can't be carried out.
        Invalid = "invalid",
        /// An object of a child's name belongs to somebody else.
        NameConflict = "name_conflict",
        /// The API server refuses a child.
        Refused = "refused",
        /// What it names could not be looked up.
        DereferenceFailed = "dereference_failed",
        /// A child could not be written.
        ApplyFailed = "apply_failed",
        /// The status could not be written.
        StatusFailed = "status_failed",
        /// Pods of a former Deployment have not ended, or what belonged to a former consumer is not collected.
        Waiting = "waiting",
        /// The API server did not answer in time.
        Late = "late",
        /// The operator ended meanwhile.
        Ending = "ending",
    }
}

values! {
    /// What a condition says.
    ConditionStatus {
        /// It holds.
        True = "True",
        /// It does not.
        False = "False",
        /// Nobody can say, or it is not there yet.
        Unknown = "Unknown",
    }
}

/// Label `outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// The value.
    pub outcome: Outcome,
}

/// Label `kind`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabel {
    /// The value.
    pub kind: &'static str,
}

impl From<ChildKind> for KindLabel {
    fn from(kind: ChildKind) -> Self {
        let kind = match kind {
            ChildKind::Secret => "Secret",
            ChildKind::ConfigMap => "ConfigMap",
            ChildKind::Service => "Service",
            ChildKind::PodDisruptionBudget => "PodDisruptionBudget",
            ChildKind::Deployment => "Deployment",
        };
        Self { kind }
    }
}

/// Labels `type` and `status` of conditions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ConditionLabel {
    /// The condition.
    pub r#type: &'static str,
    /// What it says.
    pub status: ConditionStatus,
}

/// Label `what`: what is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WatchLabel {
    /// The value.
    pub what: &'static str,
}
