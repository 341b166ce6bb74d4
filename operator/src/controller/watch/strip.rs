//! Decides what of an object is kept, and what of it counts as a change. Pure.

use crds::SIDECAR_CONTAINER;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodCondition, PodSpec, PodStatus,
    PodTemplateSpec,
};
use kube::core::{DynamicObject, ObjectMeta, PartialObjectMeta};
use kube::{Resource, ResourceExt};
use serde_json::Value;

use crate::controller::build::{ChildKind, annotation};
use crate::controller::store::{Guarded, digest};

/// Drops who wrote which field.
pub(super) fn consumer(consumer: &mut Guarded) {
    consumer.managed_fields_mut().clear();
}

/// What the user wishes: our own writes to the status don't count.
pub(super) fn wish(consumer: &Guarded) -> u64 {
    let meta = consumer.meta();
    digest(&(&meta.uid, meta.generation, &meta.labels, &meta.annotations, &meta.deletion_timestamp))
}

/// A child is kept as it was applied; of the status only the Deployment's is of use.
pub(super) fn of_child(kind: ChildKind) -> fn(&mut DynamicObject) {
    fn with_status(child: &mut DynamicObject) {
        child.managed_fields_mut().clear();
    }
    fn without(child: &mut DynamicObject) {
        with_status(child);
        if let Value::Object(fields) = &mut child.data {
            fields.remove("status");
            // What can't change is not looked at: its name says what it holds.
            if fields.get("immutable") == Some(&Value::Bool(true)) {
                fields.remove("data");
            }
        }
    }
    if kind == ChildKind::Deployment { with_status } else { without }
}

/// Everything but the version counts: a write that changed nothing we keep wakes nobody.
pub(super) fn contents(child: &DynamicObject) -> u64 {
    let meta = &child.metadata;
    let identity =
        (&meta.uid, &meta.labels, &meta.annotations, &meta.owner_references, &meta.deletion_timestamp, meta.generation);
    digest(&(identity, &child.data))
}

/// Which ConfigMap and which Secret its pods read, and whose it is.
pub(super) fn replica_set(set: &mut ReplicaSet) {
    let template = set.spec.template.take().and_then(|template| template.metadata);
    let mut all = template.and_then(|meta| meta.annotations).unwrap_or_default();
    let reads = [annotation::CONFIG, annotation::FILES].into_iter().filter_map(|name| all.remove_entry(name)).collect();
    set.metadata = identity(std::mem::take(&mut set.metadata));
    set.status = None;
    let metadata = Some(ObjectMeta { annotations: Some(reads), ..ObjectMeta::default() });
    set.spec = ReplicaSetSpec {
        template: Some(PodTemplateSpec { metadata, ..PodTemplateSpec::default() }),
        ..ReplicaSetSpec::default()
    };
}

/// How it is, where its sidecar answers, and what its claims stand on. Nothing else, since each change wakes its consumer: a roll-out of
/// hundreds of pods would bring more events than a reconcile waits out.
pub(in crate::controller) fn pod(pod: &mut Pod) {
    let containers = pod.spec.take().and_then(|spec| spec.init_containers).unwrap_or_default();
    let sidecar = containers.into_iter().find(|container| container.name == SIDECAR_CONTAINER);
    let sidecar =
        sidecar.map(|container| Container { name: container.name, ports: container.ports, ..Container::default() });
    pod.spec = Some(PodSpec { init_containers: sidecar.map(|sidecar| vec![sidecar]), ..PodSpec::default() });
    let meta = std::mem::take(&mut pod.metadata);
    let stands_on = meta.annotations.as_ref().and_then(|all| all.get_key_value(annotation::IDENTITY));
    let annotations = stands_on.map(|(name, value)| [(name.clone(), value.clone())].into());
    pod.metadata = ObjectMeta { annotations, ..identity(meta) };
    pod.status = pod.status.take().map(|status| PodStatus {
        phase: status.phase,
        pod_ip: status.pod_ip,
        conditions: status.conditions.map(|all| all.into_iter().filter_map(condition).collect()),
        init_container_statuses: status.init_container_statuses.map(|all| all.into_iter().map(container).collect()),
        container_statuses: status.container_statuses.map(|all| all.into_iter().map(container).collect()),
        ..PodStatus::default()
    });
}

/// A condition that says why a pod does not work, without its times.
fn condition(condition: PodCondition) -> Option<PodCondition> {
    matches!(condition.type_.as_str(), "Ready" | "PodScheduled").then(|| PodCondition {
        type_: condition.type_,
        status: condition.status,
        message: condition.message,
        ..PodCondition::default()
    })
}

/// Whether a container has started, what it waits for, and how it ended last.
fn container(status: ContainerStatus) -> ContainerStatus {
    let waiting = status.state.and_then(|state| state.waiting);
    let ended = status.last_state.and_then(|state| state.terminated).map(|last| ContainerStateTerminated {
        exit_code: last.exit_code,
        reason: last.reason,
        message: last.message,
        ..ContainerStateTerminated::default()
    });
    ContainerStatus {
        name: status.name,
        started: status.started,
        state: waiting.map(|waiting| ContainerState { waiting: Some(waiting), ..ContainerState::default() }),
        last_state: ended.map(|ended| ContainerState { terminated: Some(ended), ..ContainerState::default() }),
        ..ContainerStatus::default()
    }
}

/// That it is there, and in which version. Annotations may hold a copy of a Secret's values.
pub(super) fn metadata<K>(object: &mut PartialObjectMeta<K>) {
    let meta = std::mem::take(&mut object.metadata);
    object.metadata = ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        resource_version: meta.resource_version,
        ..ObjectMeta::default()
    };
}

fn identity(meta: ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        labels: meta.labels,
        owner_references: meta.owner_references,
        deletion_timestamp: meta.deletion_timestamp,
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn stripped(change: impl Fn(&mut Value)) -> Value {
        let mut of = json!({
            "metadata": {"name": "a-1"},
            "status": {
                "phase": "Running", "podIP": "10.0.0.1", "startTime": "2026-01-01T00:00:00Z",
                "conditions": [
                    {"type": "Ready", "status": "False", "message": "why", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                    {"type": "Initialized", "status": "True"},
                ],
                "initContainerStatuses": [{
                    "name": "s", "image": "i", "imageID": "i", "ready": false, "restartCount": 1, "started": false,
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": {"exitCode": 64, "finishedAt": "2026-01-01T00:00:00Z"}},
                }],
            },
        });
        change(&mut of);
        let mut pod: Pod = serde_json::from_value(of).unwrap();
        super::pod(&mut pod);
        serde_json::to_value(pod).unwrap()
    }

    #[test]
    fn of_a_pod_what_is_read_is_kept_and_nothing_else_is_a_change() {
        let before = stripped(|_| {});
        let container = &before["status"]["initContainerStatuses"][0];
        assert_eq!(
            (&container["started"], &container["state"]["waiting"]["reason"]),
            (&json!(false), &json!("CrashLoopBackOff"))
        );
        assert_eq!(container["lastState"]["terminated"]["exitCode"], 64);
        assert_eq!(before["status"]["conditions"][0]["message"], "why");
        let quiet = [
            ("/status/conditions/0/lastTransitionTime", json!("2026-01-02T00:00:00Z")),
            ("/status/conditions/1/status", json!("False")),
            ("/status/startTime", json!("2026-01-02T00:00:00Z")),
            ("/status/initContainerStatuses/0/restartCount", json!(2)),
        ];
        for (path, value) in quiet {
            assert_eq!(stripped(|pod| *pod.pointer_mut(path).unwrap() = value.clone()), before, "{path}");
        }
        let loud = [("/status/phase", json!("Failed")), ("/status/initContainerStatuses/0/started", json!(true))];
        for (path, value) in loud {
            assert_ne!(stripped(|pod| *pod.pointer_mut(path).unwrap() = value.clone()), before, "{path}");
        }
    }
}
