//! Decides whether a child must be written: what was applied last and what is there now, in; yes or no out. Pure.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use kube::ResourceExt;
use kube::core::DynamicObject;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::controller::build::{Child, ChildKind};

type Sum = [u8; 32];

/// What is remembered of one child's last apply.
#[derive(Clone, Debug, PartialEq)]
struct Record {
    /// The manifest that was applied.
    manifest: Sum,
    /// The fields of the manifest, as the API server answered: it may write a quantity in another way.
    answered: Sum,
    /// Versions from before our last write, the newest last. While the store shows one of them, it is behind.
    older: VecDeque<String>,
    /// The API server's last answer, of a Deployment: what runs is decided by it while the store is behind.
    answer: Option<Arc<DynamicObject>>,
}

/// Versions from before that are remembered: more writes than that do not happen before a watch shows one of them.
const OLDER: usize = 16;

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
        if record.manifest != sum(&essence(&child.manifest)) {
            return true;
        }
        !record.is_older(live) && record.answered != projected(live, &child.manifest)
    }

    /// Notes an apply: what the store showed before, and what the API server answered.
    pub fn applied(&mut self, child: &Child, before: Option<&DynamicObject>, answer: &DynamicObject) {
        let of = (child.kind, child.name.clone());
        let mut record = Record {
            manifest: sum(&essence(&child.manifest)),
            answered: projected(answer, &child.manifest),
            older: self.records.remove(&of).map(|record| record.older).unwrap_or_default(),
            answer: None,
        };
        record.note(child.kind, before, answer);
        self.records.insert(of, record);
    }

    /// Notes a write of a few fields to what was applied before, or by another process.
    pub fn patched(&mut self, kind: ChildKind, name: &str, before: &DynamicObject, answer: &DynamicObject) {
        // No manifest has this sum: the next apply is not left out for it.
        let fresh =
            || Record { manifest: Sum::default(), answered: Sum::default(), older: VecDeque::new(), answer: None };
        self.records.entry((kind, name.to_owned())).or_insert_with(fresh).note(kind, Some(before), answer);
    }

    /// A child as it is: what the store shows, or the API server's answer to our last write while the store is behind it. Each kind has
    /// a watch of its own, so that the event of another object may come first.
    #[must_use]
    pub fn live(&self, kind: ChildKind, name: &str, shown: Option<Arc<DynamicObject>>) -> Option<Arc<DynamicObject>> {
        let shown = shown?;
        let record = self.records.get(&(kind, name.to_owned())).filter(|record| record.is_older(&shown));
        record.and_then(|record| record.answer.clone()).or(Some(shown))
    }

    /// The child was written by this process, so that one that the store does not show may be there.
    #[must_use]
    pub fn knows(&self, kind: ChildKind, name: &str) -> bool {
        self.records.contains_key(&(kind, name.to_owned()))
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

impl Record {
    fn is_older(&self, live: &DynamicObject) -> bool {
        let known = live.metadata.resource_version.as_ref().is_some_and(|version| self.older.contains(version));
        // Between what the store showed and our write, another may have written.
        let between = self.answer.as_ref().is_some_and(|answer| {
            answer.metadata.uid == live.metadata.uid && live.metadata.generation < answer.metadata.generation
        });
        known || between
    }

    fn note(&mut self, kind: ChildKind, before: Option<&DynamicObject>, answer: &DynamicObject) {
        let version = |object: &DynamicObject| object.resource_version();
        // A write that changed nothing leaves the version: what another writes next shall be seen.
        if let Some(before) = before.and_then(version).filter(|before| Some(before) != version(answer).as_ref()) {
            self.older.push_back(before);
            if self.older.len() > OLDER {
                self.older.pop_front();
            }
        }
        if kind == ChildKind::Deployment {
            let mut answer = answer.clone();
            answer.managed_fields_mut().clear();
            self.answer = Some(Arc::new(answer));
        }
    }
}

fn projected(live: &DynamicObject, manifest: &Value) -> Sum {
    let live = serde_json::to_value(live).unwrap_or_default();
    sum(&project(&live, &essence(manifest)))
}

/// What of a manifest is compared: of an immutable one not its data, which may be large, can't be changed, and is told by its name.
fn essence(manifest: &Value) -> Cow<'_, Value> {
    if manifest.get("immutable") != Some(&Value::Bool(true)) {
        return Cow::Borrowed(manifest);
    }
    let without = |(name, value): (&String, &Value)| (name != "data").then(|| (name.clone(), value.clone()));
    Cow::Owned(manifest.as_object().into_iter().flatten().filter_map(without).collect::<Map<_, _>>().into())
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
    fn while_the_store_is_behind_the_last_answer_counts() {
        let mut ledger = Ledger::default();
        let child = |value: &str| Child { kind: ChildKind::Deployment, ..child(value) };
        let shown = |version: &str| Some(Arc::new(live(version, "any")));
        let is = |ledger: &Ledger, version: &str| {
            ledger.live(ChildKind::Deployment, "a", shown(version)).and_then(|live| live.resource_version())
        };
        ledger.applied(&child("v"), Some(&live("1", "old")), &live("2", "v"));
        ledger.applied(&child("w"), Some(&live("2", "v")), &live("3", "w"));
        ledger.patched(ChildKind::Deployment, "a", &live("3", "w"), &live("4", "w"));
        for (version, counts) in [("1", "4"), ("2", "4"), ("3", "4"), ("4", "4"), ("5", "5")] {
            assert_eq!(is(&ledger, version).as_deref(), Some(counts), "{version}");
        }
        assert!(ledger.live(ChildKind::Deployment, "a", None).is_none());
        ledger.forget(ChildKind::Deployment, "a");
        assert_eq!(is(&ledger, "1").as_deref(), Some("1"));
    }

    #[test]
    fn a_version_between_the_one_shown_and_our_write_is_an_older_one() {
        let mut ledger = Ledger::default();
        let child = Child { kind: ChildKind::Deployment, ..child("v") };
        let at = |version: &str, generation: i64| {
            let mut live = live(version, "v");
            live.metadata.generation = Some(generation);
            live
        };
        ledger.applied(&child, Some(&at("1", 1)), &at("3", 3));
        let counts = |version: &str, generation: i64| {
            let live = ledger.live(ChildKind::Deployment, "a", Some(Arc::new(at(version, generation))));
            live.and_then(|live| live.resource_version())
        };
        assert_eq!((counts("2", 2).as_deref(), counts("4", 3).as_deref()), (Some("3"), Some("4")));
    }

    #[test]
    fn what_is_immutable_is_compared_without_its_data() {
        let mut ledger = Ledger::default();
        let mut copy = child("v");
        copy.manifest["immutable"] = true.into();
        let shown: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "resourceVersion": "2"}, "immutable": true,
        }))
        .unwrap();
        ledger.applied(&copy, None, &live("2", "v"));
        assert!(ledger.wants(&copy, Some(&shown)), "what was answered was not immutable");
        let mut answer = live("2", "v");
        answer.data["immutable"] = true.into();
        ledger.applied(&copy, None, &answer);
        assert!(!ledger.wants(&copy, Some(&shown)), "the store keeps no data of it");
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
