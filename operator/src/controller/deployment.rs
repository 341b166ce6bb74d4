//! Decides what a live Deployment says of itself: annotations and status in, a few facts out. Pure.

use kube::ResourceExt;
use kube::core::DynamicObject;
use serde_json::Value;

use super::build::annotation;
use super::dereference::Running;

/// A Deployment, as far as it decides how to go on and what is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Pods that it shall have.
    pub wanted: i64,
    /// Pods there are.
    pub replicas: i64,
    /// Pods that are ready.
    pub ready: i64,
    /// Pods of the newest revision.
    pub updated: i64,
    /// Pods that have been ready long enough.
    pub available: i64,
    /// Its controller has seen the newest spec, so that the numbers speak of it.
    pub observed: bool,
    /// Its last roll-out has ended well. A pod that fails later does not change that.
    pub rolled_out: bool,
    /// Why it makes no progress, once it has given up.
    pub stuck: Option<String>,
    /// Why no pod can be made, for example a quota.
    pub failure: Option<String>,
    /// Image of the sidecar that was rolled out.
    pub sidecar_image: String,
}

impl Facts {
    /// Reads a live Deployment.
    #[must_use]
    pub fn of(deployment: &DynamicObject) -> Self {
        let number = |path: &str| deployment.data.pointer(path).and_then(Value::as_i64).unwrap_or(0);
        let observed = deployment.data.pointer("/status/observedGeneration").and_then(Value::as_i64);
        Self {
            wanted: deployment.data.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1),
            replicas: number("/status/replicas"),
            ready: number("/status/readyReplicas"),
            updated: number("/status/updatedReplicas"),
            available: number("/status/availableReplicas"),
            rolled_out: observed >= deployment.metadata.generation
                && find(deployment, "Progressing").and_then(|found| word(found, "reason"))
                    == Some("NewReplicaSetAvailable"),
            observed: observed.is_some() && observed >= deployment.metadata.generation,
            stuck: condition(deployment, "Progressing", "False"),
            failure: condition(deployment, "ReplicaFailure", "True"),
            sidecar_image: text(deployment, annotation::SIDECAR_IMAGE),
        }
    }

    /// Every pod is of the newest revision and available.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.observed && self.updated == self.wanted && self.replicas == self.updated && self.available == self.wanted
    }
}

/// The token with which its pods ask for a drain.
#[must_use]
pub fn drain_token(deployment: &DynamicObject) -> Option<&str> {
    let spec = deployment.data.pointer("/spec/template/spec")?;
    let containers =
        ["initContainers", "containers"].into_iter().filter_map(|list| spec.get(list)?.as_array()).flatten();
    let hooks = containers.filter_map(|container| container.pointer("/lifecycle/preStop/httpGet"));
    let ours = hooks.filter(|hook| hook.get("path").and_then(Value::as_str) == Some("/drain"));
    let headers = ours.filter_map(|hook| hook.get("httpHeaders")?.as_array()).flatten();
    headers.filter_map(|header| header.get("value")?.as_str()?.strip_prefix("Bearer ")).next()
}

/// What of the Deployment decides how to go on.
#[must_use]
pub fn running(deployment: &DynamicObject) -> Running {
    Running {
        input: text(deployment, annotation::INPUT),
        identity: text(deployment, annotation::IDENTITY),
        revision: text(deployment, annotation::REVISION),
        sidecar_image: text(deployment, annotation::SIDECAR_IMAGE),
        recreates: strategy(deployment) == Some("Recreate"),
        complete: Facts::of(deployment).complete(),
        broken: None,
    }
}

/// How it replaces pods.
#[must_use]
pub fn strategy(deployment: &DynamicObject) -> Option<&str> {
    deployment.data.pointer("/spec/strategy/type").and_then(Value::as_str)
}

/// An annotation of its pod template.
#[must_use]
pub fn template_annotation<'a>(deployment: &'a DynamicObject, name: &str) -> Option<&'a str> {
    deployment.data.pointer("/spec/template/metadata/annotations")?.get(name)?.as_str()
}

fn text(deployment: &DynamicObject, name: &str) -> String {
    deployment.annotations().get(name).cloned().unwrap_or_default()
}

/// The message of a condition that has that status.
fn condition(deployment: &DynamicObject, about: &str, status: &str) -> Option<String> {
    let found = find(deployment, about).filter(|found| word(found, "status") == Some(status))?;
    Some(word(found, "message").unwrap_or(about).to_owned())
}

fn find<'a>(deployment: &'a DynamicObject, about: &str) -> Option<&'a Value> {
    let conditions = deployment.data.pointer("/status/conditions")?.as_array()?;
    conditions.iter().find(|condition| word(condition, "type") == Some(about))
}

fn word<'a>(condition: &'a Value, field: &str) -> Option<&'a str> {
    condition.get(field).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(status: Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "a", "generation": 2, "annotations": {annotation::REVISION: "r"}},
            "spec": {"replicas": 2, "strategy": {"type": "Recreate"}},
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn it_is_complete_only_when_the_numbers_speak_of_the_newest_spec() {
        let full = json!({"observedGeneration": 2, "replicas": 2, "readyReplicas": 2, "updatedReplicas": 2, "availableReplicas": 2});
        assert!(Facts::of(&deployment(full.clone())).complete());
        for (field, value) in
            [("observedGeneration", 1), ("replicas", 3), ("updatedReplicas", 1), ("availableReplicas", 1)]
        {
            let mut status = full.clone();
            status[field] = value.into();
            assert!(!Facts::of(&deployment(status)).complete(), "{field}");
        }
        assert!(!Facts::of(&deployment(json!({}))).complete());
    }

    #[test]
    fn what_the_operator_wrote_is_read_again() {
        let stuck = json!({"conditions": [{"type": "Progressing", "status": "False", "message": "timed out"}]});
        let running = running(&deployment(stuck.clone()));
        assert_eq!((running.revision.as_str(), running.recreates, running.complete), ("r", true, false));
        assert_eq!(Facts::of(&deployment(stuck)).stuck.as_deref(), Some("timed out"));
    }
}
