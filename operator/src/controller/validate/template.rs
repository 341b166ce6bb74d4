//! Decides whether the user's pod template can take the sidecar. Pure. What Kubernetes itself refuses is found by a dry run.

use crds::v1alpha1::{IdempotentConsumerSpec, TemplateMetadata};
use crds::{LABEL_PREFIX, SIDECAR_CONTAINER};
use serde_json::{Map, Value};

use super::super::build::{path, variable, volume};
use super::{Mistake, Reason};

/// The user's pod template, looked through: what inject relies on is there.
#[derive(Clone, Debug)]
pub struct Template {
    pub(in crate::controller) metadata: TemplateMetadata,
    pub(in crate::controller) spec: Map<String, Value>,
    /// Index of the app among the containers.
    pub(in crate::controller) app: usize,
}

pub(super) fn check(spec: &IdempotentConsumerSpec, mistakes: &mut Vec<Mistake>) -> Template {
    let mut tell = |field: String, message: String| {
        mistakes.push(Mistake { reason: Reason::InvalidTemplate, field, message });
    };
    let template = &spec.template;
    let (metadata, pod) = (&template.metadata, &template.spec);
    for (kind, names) in [("labels", metadata.labels.keys()), ("annotations", metadata.annotations.keys())] {
        for name in names.filter(|name| name.starts_with(LABEL_PREFIX)) {
            let field = format!("spec.template.metadata.{kind}");
            tell(field, format!("`{name}` is the operator's to set: leave it out"));
        }
    }
    let containers = list(pod, "containers");
    let app = match &spec.delivery.container {
        None => Some(0).filter(|_| !containers.is_empty()),
        Some(name) => containers.iter().position(|container| text(container, "name") == Some(name)),
    };
    if app.is_none() {
        tell("spec.delivery.container".into(), "names none of spec.template.spec.containers".into());
    }
    names(pod, &mut tell);
    ports(spec, containers, &mut tell);
    if spec.delivery.port.is_none() {
        socket(containers, &mut tell);
    }
    Template { metadata: metadata.clone(), spec: pod.clone(), app: app.unwrap_or_default() }
}

/// Containers and volumes of ours have names of their own.
fn names(pod: &Map<String, Value>, tell: &mut impl FnMut(String, String)) {
    for field in ["containers", "initContainers"] {
        for (index, container) in list(pod, field).iter().enumerate() {
            if text(container, "name") == Some(SIDECAR_CONTAINER) {
                let message = format!("`{SIDECAR_CONTAINER}` is the operator's container: choose another name");
                tell(format!("spec.template.spec.{field}[{index}].name"), message);
            }
        }
    }
    for (index, found) in list(pod, "volumes").iter().enumerate() {
        if let Some(name) = text(found, "name").filter(|name| name.starts_with(volume::PREFIX)) {
            let message =
                format!("`{name}`: names that begin with `{}` are the operator's: choose another", volume::PREFIX);
            tell(format!("spec.template.spec.volumes[{index}].name"), message);
        }
    }
}

/// All containers of a pod share its ports.
fn ports(spec: &IdempotentConsumerSpec, containers: &[Value], tell: &mut impl FnMut(String, String)) {
    let admin = spec.sidecar.admin_port;
    let message = format!("{admin} is the sidecar's port: choose another here, or for spec.sidecar.adminPort");
    if spec.delivery.port == Some(admin) {
        tell("spec.delivery.port".into(), message.clone());
    }
    for (index, container) in containers.iter().enumerate() {
        let ports = container.get("ports").and_then(Value::as_array).into_iter().flatten();
        for (at, _) in
            ports.enumerate().filter(|(_, p)| p.get("containerPort").and_then(Value::as_i64) == Some(i64::from(admin)))
        {
            tell(format!("spec.template.spec.containers[{index}].ports[{at}].containerPort"), message.clone());
        }
    }
}

/// The socket's folder and its variable are given to every container.
fn socket(containers: &[Value], tell: &mut impl FnMut(String, String)) {
    for (index, container) in containers.iter().enumerate() {
        let member = |field: &str| container.get(field).and_then(Value::as_array).into_iter().flatten().enumerate();
        for (at, _) in member("volumeMounts").filter(|(_, mount)| text(mount, "mountPath") == Some(path::RUN)) {
            let message =
                format!("`{}` is where the operator mounts the socket's folder: choose another path", path::RUN);
            tell(format!("spec.template.spec.containers[{index}].volumeMounts[{at}].mountPath"), message);
        }
        for (at, _) in member("env").filter(|(_, set)| text(set, "name") == Some(variable::SOCKET)) {
            let message =
                format!("`{}` is the operator's to set: leave it out, and listen where it says", variable::SOCKET);
            tell(format!("spec.template.spec.containers[{index}].env[{at}].name"), message);
        }
    }
}

fn list<'a>(pod: &'a Map<String, Value>, field: &str) -> &'a [Value] {
    pod.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(of: &'a Value, field: &str) -> Option<&'a str> {
    of.get(field).and_then(Value::as_str)
}
