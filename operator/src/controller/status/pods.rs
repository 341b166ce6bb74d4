//! Decides why pods are not ready, from what Kubernetes and their sidecars say. Pure.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;

use crate::controller::observe::Answer;

/// Why pods are not ready: one word, and a sentence with the pod's name.
pub(super) type Trouble = (&'static str, String);

/// The first trouble among the pods, the plainest kind first.
pub(super) fn trouble<'a>(pods: impl Iterator<Item = &'a Pod> + Clone, answers: &[Answer]) -> Option<Trouble> {
    let of_pods = |look: fn(&Pod) -> Option<Trouble>| pods.clone().filter(|pod| !is_ready(pod)).find_map(look);
    of_pods(containers).or_else(|| of_pods(scheduling)).or_else(|| sidecars(answers))
}

fn is_ready(pod: &Pod) -> bool {
    has(pod, "Ready", "True").is_some()
}

fn has<'a>(pod: &'a Pod, about: &str, status: &str) -> Option<&'a str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == about && condition.status == status)?;
    Some(found.message.as_deref().unwrap_or_default())
}

/// A container that can't start, or ends again and again.
fn containers(pod: &Pod) -> Option<Trouble> {
    let status = pod.status.as_ref()?;
    let statuses = [&status.init_container_statuses, &status.container_statuses];
    statuses.into_iter().flatten().flatten().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let said = waiting.message.as_deref().unwrap_or_default();
        let place = format!("pod {}, container {}", pod.name_any(), container.name);
        let reason = match waiting.reason.as_deref()? {
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => "ImagePullFailed",
            "CrashLoopBackOff" => {
                return Some(("CrashLoop", format!("{place} ends again and again{}", ending(container))));
            }
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => "ContainerNotCreated",
            _ => return None,
        };
        Some((reason, format!("{place}: {}: {said}", waiting.reason.as_deref().unwrap_or_default())))
    })
}

/// How a container ended last: its exit code, and what it said where the kubelet kept that.
fn ending(container: &ContainerStatus) -> String {
    let Some(last) = container.last_state.as_ref().and_then(|state| state.terminated.as_ref()) else {
        return String::new();
    };
    let meaning = match (last.exit_code, last.reason.as_deref()) {
        (64, _) => " (its configuration is wrong)".to_owned(),
        (_, Some(reason)) if reason != "Error" => format!(" ({reason})"),
        _ => String::new(),
    };
    let said = last.message.as_deref().map(|message| format!(": {}", message.trim())).unwrap_or_default();
    format!(", last with exit code {}{meaning}{said}", last.exit_code)
}

fn scheduling(pod: &Pod) -> Option<Trouble> {
    let message = has(pod, "PodScheduled", "False")?;
    Some(("Unschedulable", format!("pod {} finds no node: {message}", pod.name_any())))
}

/// What keeps a sidecar from being ready.
fn sidecars(answers: &[Answer]) -> Option<Trouble> {
    answers.iter().find_map(|answer| {
        let said = answer.said.as_ref().ok().filter(|said| !said.ready)?;
        // Those that stand out are told, not all of which keep it from being ready; the essential ones come first.
        let broken = said.conditions.iter().find(|condition| !condition.status)?;
        Some(("SidecarNotReady", format!("pod {}: {}: {}", answer.pod, broken.r#type, broken.message)))
    })
}
