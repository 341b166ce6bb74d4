//! Decides whether a child must be written: what was applied last and what is there now, in; yes or no out. Pure.

use std::collections::HashMap;
use std::time::Instant;

use kube::ResourceExt;
use kube::core::DynamicObject;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::controller::build::{Child, ChildKind};

type Sum = [u8; 32];

/// What is remembered of one child's last apply.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    /// The manifest that was applied.
    manifest: Sum,
    /// The fields of the manifest, as the API server answered: it may write a quantity in another way.
    answered: Sum,
    /// The version that the store showed before. While it shows that one, it is behind our own write.
    before: Option<String>,
}

/// A Deployment that the API server refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    manifest: Sum,
    /// Not asked again before, unless something else is asked for.
    pub until: Instant,
    /// Times in a row.
    pub times: u32,
    /// The API server's words.
    pub message: String,
}

/// What was applied for one consumer.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    records: HashMap<(ChildKind, String), Record>,
    refusal: Option<Refusal>,
}

impl Ledger {
    /// The child must be applied: never was by this process, shall be otherwise, or was changed by another.
    #[must_use]
    pub fn wants(&self, child: &Child, live: Option<&DynamicObject>) -> bool {
        let Some(live) = live else { return true };
        let Some(record) = self.records.get(&(child.kind, child.name.clone())) else { return true };
        if record.manifest != sum(&child.manifest) {
            return true;
        }
        let behind = record.before.is_some() && record.before == live.resource_version();
        !behind && record.answered != projected(live, &child.manifest)
    }

    /// Notes an apply: what the store showed before, and what the API server answered.
    pub fn applied(&mut self, child: &Child, before: Option<&DynamicObject>, answer: &DynamicObject) {
        let before = before.and_then(ResourceExt::resource_version);
        let record = Record {
            manifest: sum(&child.manifest),
            answered: projected(answer, &child.manifest),
            // An apply that changed nothing leaves the version: what another writes next shall be seen.
            before: before.filter(|before| Some(before) != answer.resource_version().as_ref()),
        };
        self.records.insert((child.kind, child.name.clone()), record);
    }

    /// The child is gone.
    pub fn forget(&mut self, kind: ChildKind, name: &str) {
        self.records.remove(&(kind, name.to_owned()));
    }

    /// The refusal of this very child, if there was one.
    #[must_use]
    pub fn refusal(&self, child: &Child) -> Option<&Refusal> {
        self.refusal.as_ref().filter(|refusal| refusal.manifest == sum(&child.manifest))
    }

    /// Notes that the API server refuses the child; not asked again before `until`.
    pub fn refused(&mut self, child: &Child, message: String, until: Instant) {
        let times = self.refusal(child).map_or(0, |refusal| refusal.times).saturating_add(1);
        self.refusal = Some(Refusal { manifest: sum(&child.manifest), until, times, message });
    }

    /// The API server takes it.
    pub fn accepted(&mut self) {
        self.refusal = None;
    }
}

fn projected(live: &DynamicObject, manifest: &Value) -> Sum {
    let live = serde_json::to_value(live).unwrap_or_default();
    sum(&project(&live, manifest))
}

fn sum(value: &Value) -> Sum {
    // Object keys are sorted, since serde_json keeps maps as B-trees.
    Sha256::digest(value.to_string()).into()
}

/// What `live` says of the fields that `desired` has: objects by the same keys, arrays by index where they are equally long, else whole.
#[must_use]
pub fn project(live: &Value, desired: &Value) -> Value {
    match (live, desired) {
        (Value::Object(live), Value::Object(desired)) => {
            let field = |(key, value): (&String, &Value)| {
                (key.clone(), live.get(key).map_or(Value::Null, |live| project(live, value)))
            };
            Value::Object(desired.iter().map(field).collect::<Map<_, _>>())
        }
        (Value::Array(live), Value::Array(desired)) if live.len() == desired.len() => {
            live.iter().zip(desired).map(|(live, desired)| project(live, desired)).collect()
        }
        _ => live.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn child(value: &str) -> Child {
        let manifest =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": value}});
        Child { kind: ChildKind::ConfigMap, name: "a".into(), manifest }
    }

    fn live(version: &str, value: &str) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "a", "resourceVersion": version, "labels": {"theirs": "1"}},
            "data": {"k": value, "theirs": "2"},
        }))
        .unwrap()
    }

    #[test]
    fn only_fields_of_the_manifest_are_compared() {
        let desired = json!({"a": 1, "list": [{"x": 1}], "other": [1], "gone": null});
        let live = json!({"a": 2, "b": 3, "list": [{"x": 1, "y": 2}], "other": [1, 2]});
        assert_eq!(project(&live, &desired), json!({"a": 2, "list": [{"x": 1}], "other": [1, 2], "gone": null}));
    }

    #[test]
    fn what_was_applied_and_stays_is_not_written_again() {
        let mut ledger = Ledger::default();
        assert!(ledger.wants(&child("v"), None));
        assert!(ledger.wants(&child("v"), Some(&live("1", "v"))), "another process may have applied other fields");
        // The server writes the value in its own way.
        ledger.applied(&child("v"), Some(&live("1", "old")), &live("2", "V"));
        assert!(!ledger.wants(&child("v"), Some(&live("2", "V"))));
        assert!(!ledger.wants(&child("v"), Some(&live("1", "old"))), "the store is behind our own write");
        assert!(ledger.wants(&child("w"), Some(&live("2", "V"))), "another manifest");
        assert!(ledger.wants(&child("v"), Some(&live("3", "x"))), "drift");
        assert!(ledger.wants(&child("v"), None), "deleted");
    }

    #[test]
    fn a_refusal_holds_for_what_was_refused() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.refused(&child("v"), "no".into(), now);
        ledger.refused(&child("v"), "no".into(), now);
        assert_eq!(ledger.refusal(&child("v")).map(|refusal| refusal.times), Some(2));
        assert_eq!(ledger.refusal(&child("w")), None);
        ledger.accepted();
        assert_eq!(ledger.refusal(&child("v")), None);
    }
}
