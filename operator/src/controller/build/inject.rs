//! Decides how an app's pods get their sidecar: the user's pod template in, the one that runs out. Pure, and can't fail.
//!
//! # Guarantees
//! - What the template says is kept, also fields that this operator does not know; members are only added.
//! - The sidecar starts before the app, and ends after it: it is a native sidecar (an init container with `restartPolicy: Always`), the
//!   last of them, so that what the user's own sidecars bring (a proxy, say) is there while it works.
//! - When the pod is deleted, the app gets no SIGTERM before the sidecar has drained: its preStop asks for it. Where the app has a
//!   preStop of its own, that one stays and the sidecar's preStop asks; both fire together.

use crds::{CONSUMER_LABEL, SIDECAR_CONTAINER};
use serde_json::{Map, Value, json};

use super::super::validate::Validated;
use super::{Reads, annotation, config, path, secret_name, variable, volume};

/// Kubernetes' own, where the template says none.
const DEFAULT_GRACE: i64 = 30;
/// Beyond the drain and the app's own grace: the sidecar leaves the group and ends.
const LEAVING: i64 = 5;
/// User of the sidecar where the template names none for the app.
const USER: i64 = 65532;
/// What the annotation that kubectl follows is called: `kubectl logs` and `exec` mean the app.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The pod template that runs.
pub(super) fn inject(consumer: &Validated, reads: &Reads) -> Value {
    json!({"metadata": metadata(consumer, reads), "spec": spec(consumer, reads)})
}

fn metadata(consumer: &Validated, reads: &Reads) -> Value {
    let user = &consumer.template.metadata;
    let mut labels = user.labels.clone();
    labels.insert(CONSUMER_LABEL.into(), consumer.name.clone());
    let mut annotations = user.annotations.clone();
    annotations.insert(annotation::CONFIG.into(), reads.config.clone());
    if let Some(files) = &reads.files {
        annotations.insert(annotation::FILES.into(), files.clone());
    }
    annotations.insert(annotation::IDENTITY.into(), consumer.digests.identity.clone());
    if !consumer.references.is_empty() {
        annotations.insert(annotation::REFERENCES.into(), consumer.references.clone());
    }
    let containers = consumer.template.spec.get("containers");
    let app = containers.and_then(|c| c.pointer(&format!("/{}/name", consumer.template.app))).and_then(Value::as_str);
    if let Some(app) = app {
        annotations.entry(DEFAULT_CONTAINER.into()).or_insert_with(|| app.to_owned());
    }
    json!({"labels": labels, "annotations": annotations})
}

fn spec(consumer: &Validated, reads: &Reads) -> Value {
    let mut spec = consumer.template.spec.clone();
    let socket = consumer.config.delivery.port.is_none();
    let mut drains_itself = false;
    for (index, container) in list(&mut spec, "containers").iter_mut().enumerate() {
        let Some(container) = container.as_object_mut() else { continue };
        if socket {
            list(container, "env").push(json!({"name": variable::SOCKET, "value": path::SOCKET}));
            list(container, "volumeMounts").push(json!({"name": volume::RUN, "mountPath": path::RUN}));
        }
        if index == consumer.template.app {
            drains_itself = !ask_for_drain(container, drain(consumer));
        }
    }
    let user = user(&spec, consumer.template.app);
    list(&mut spec, "initContainers").push(sidecar(consumer, drains_itself, user));
    list(&mut spec, "volumes").extend(volumes(consumer, reads));
    let own = spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(DEFAULT_GRACE);
    let drain = consumer.config.drain_timeout.get();
    let drain = i64::try_from(drain.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
    spec.insert("terminationGracePeriodSeconds".into(), own.saturating_add(drain).saturating_add(LEAVING).into());
    Value::Object(spec)
}

/// The list of that name, made where there is none.
fn list<'a>(of: &'a mut Map<String, Value>, name: &str) -> &'a mut Vec<Value> {
    let list = of.entry(name).or_insert(Value::Null);
    if !list.is_array() {
        *list = json!([]);
    }
    match list {
        Value::Array(list) => list,
        _ => unreachable!("it was just made a list"),
    }
}

/// The hook that drains the sidecar and waits for it.
fn drain(consumer: &Validated) -> Value {
    json!({
        "httpGet": {
            "path": "/drain",
            "port": consumer.sidecar.admin_port,
            "httpHeaders": [{"name": "Authorization", "value": format!("Bearer {}", consumer.secret.token)}],
        },
    })
}

/// Gives the app a preStop that asks for a drain. False when it has one of its own, which stays.
fn ask_for_drain(container: &mut Map<String, Value>, hook: Value) -> bool {
    let lifecycle = container.entry("lifecycle").or_insert_with(|| json!({}));
    if lifecycle.is_null() {
        *lifecycle = json!({});
    }
    let Some(lifecycle) = lifecycle.as_object_mut() else { return false };
    if lifecycle.get("preStop").is_some_and(|hook| !hook.is_null()) {
        return false;
    }
    lifecycle.insert("preStop".into(), hook);
    true
}

/// User and group of the app where the template names them: the sidecar must be able to open a socket that the app made.
#[derive(Clone, Copy)]
struct User {
    /// The container's own, else none: the pod's then counts for both.
    user: Option<i64>,
    group: Option<i64>,
    /// It is root, whoever says so.
    root: bool,
}

fn user(spec: &Map<String, Value>, app: usize) -> User {
    let pod = spec.get("securityContext");
    let container = spec.get("containers").and_then(|c| c.pointer(&format!("/{app}/securityContext")));
    let read = |of: Option<&Value>, field: &str| of.and_then(|c| c.get(field)).and_then(Value::as_i64);
    let inherited = read(pod, "runAsUser");
    let user = read(container, "runAsUser").or(if inherited.is_none() { Some(USER) } else { None });
    let group = read(container, "runAsGroup");
    let alone = user == Some(USER) && group.is_none() && read(pod, "runAsGroup").is_none();
    User { user, group: if alone { Some(USER) } else { group }, root: user.or(inherited) == Some(0) }
}

fn sidecar(consumer: &Validated, drains_itself: bool, user: User) -> Value {
    let port = consumer.sidecar.admin_port;
    let probe = |path: &str, period: u32, failures: u32| {
        json!({
            "httpGet": {"path": path, "port": port},
            "periodSeconds": period,
            "timeoutSeconds": 2,
            "failureThreshold": failures,
        })
    };
    let mount = |name: &str, path: &str, read_only: bool| {
        let mut mount = json!({"name": name, "mountPath": path});
        if read_only {
            mount["readOnly"] = true.into();
        }
        mount
    };
    let mut container = json!({
        "name": SIDECAR_CONTAINER,
        "image": consumer.sidecar_image,
        "args": ["run", "--config", format!("{}/{}", path::CONFIG, path::CONFIG_FILE)],
        "restartPolicy": "Always",
        "ports": [{"name": "idempotency", "containerPort": port, "protocol": "TCP"}],
        "resources": resources(consumer),
        "securityContext": security(user),
        // It answers before it has found Kafka or the app: the app starts only after it.
        "startupProbe": probe("/livez", 1, 60),
        "livenessProbe": probe("/livez", 10, 3),
        "readinessProbe": probe("/readyz", 5, 2),
        "volumeMounts": [
            mount(volume::CONFIG, path::CONFIG, true),
            mount(volume::SWITCHES, path::SWITCHES, true),
            mount(volume::FILES, path::FILES, true),
            mount(volume::RUN, path::RUN, false),
            mount(volume::STATE, path::STATE, false),
        ],
    });
    if let Some(policy) = consumer.sidecar.image_pull_policy {
        container["imagePullPolicy"] = json!(policy);
    }
    if let Some(filter) = &consumer.sidecar.log_level {
        container["env"] = json!([{"name": variable::LOG, "value": filter}]);
    }
    if drains_itself {
        container["lifecycle"] = json!({"preStop": drain(consumer)});
    }
    container
}

fn resources(consumer: &Validated) -> Value {
    let resources = &consumer.sidecar.resources;
    json!({"requests": resources.requests, "limits": resources.limits})
}

/// What Pod Security `restricted` asks for. Root only where the template makes the app root, since nobody else could open its socket.
fn security(user: User) -> Value {
    let mut security = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": !user.root,
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    if let Some(user) = user.user {
        security["runAsUser"] = user.into();
    }
    if let Some(group) = user.group {
        security["runAsGroup"] = group.into();
    }
    security
}

fn volumes(consumer: &Validated, reads: &Reads) -> Vec<Value> {
    let in_memory = |name: &str| json!({"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": "4Mi"}});
    let config_map = |name: &str, of: &str| json!({"name": name, "configMap": {"name": of}});
    let token = json!({
        "secret": {"name": secret_name(&consumer.name), "items": [{"key": "token", "path": path::DRAIN_TOKEN}]},
    });
    let items = consumer.files.iter().map(|file| json!({"key": config::key(&file.path), "path": file.path}));
    let items: Vec<Value> = items.collect();
    let files = reads.files.iter().map(|name| json!({"secret": {"name": name, "items": items}}));
    let sources: Vec<Value> = std::iter::once(token).chain(files).collect();
    vec![
        in_memory(volume::RUN),
        in_memory(volume::STATE),
        config_map(volume::CONFIG, &reads.config),
        config_map(volume::SWITCHES, &config::switches_name(&consumer.name)),
        json!({"name": volume::FILES, "projected": {"sources": sources}}),
    ]
}
