//! Shows that a HorizontalPodAutoscaler can work with a consumer: it finds scale, selector, and requests to compute with.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use crds::v1alpha1::IdempotentConsumer;
use harness::cluster::{Space, trial};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use libtest_mimic::Trial;
use serde_json::json;

pub(crate) fn tests() -> Vec<Trial> {
    vec![trial("hpa::an_autoscaler_finds_scale_selector_and_requests", an_autoscaler_finds_scale_selector_and_requests)]
}

async fn an_autoscaler_finds_scale_selector_and_requests(space: Arc<Space>) -> anyhow::Result<()> {
    let topic = space.topic("in", 2).await?;
    space.apply(&space.consumer("app", &topic).await?).await?;
    let autoscaler = json!({
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "app"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "idempotency.dev/v1alpha1", "kind": "IdempotentConsumer", "name": "app"},
            "minReplicas": 2,
            "maxReplicas": 3,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}],
        },
    });
    space.kubectl_apply(&autoscaler).await?;
    // Below its least, it scales by itself, without any metric.
    space.rolled_out("app", 2).await?;
    ensure!(space.get("app").await?.spec.replicas == 2, "the autoscaler's word is in the spec");
    let scale = space.api::<IdempotentConsumer>().get_scale("app").await?;
    let status = scale.status.context("a scale has a status")?;
    ensure!(status.replicas == 2 && status.selector.as_deref() == Some("idempotency.dev/consumer=app"), "{status:?}");

    // It looks for the pods' metrics, which nobody serves here: so it has found scale and selector.
    let deadline = Duration::from_secs(60);
    space
        .until::<HorizontalPodAutoscaler>("it has found scale and selector", "app", deadline, |autoscaler| {
            let conditions =
                autoscaler.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
            let of =
                |kind: &str| conditions.iter().find(|c| c.type_ == kind).map(|c| (c.status.clone(), c.reason.clone()));
            let able = of("AbleToScale").is_some_and(|(status, _)| status == "True");
            let reason = of("ScalingActive").and_then(|(_, reason)| reason);
            let active = matches!(reason.as_deref(), Some("FailedGetResourceMetric" | "ValidMetricFound"));
            if able && active { Ok(()) } else { Err(format!("{conditions:?}")) }
        })
        .await;

    let pod = space.api::<Pod>().get(&space.pods("app").await?.remove(0)).await?;
    let spec = pod.spec.context("a pod has a spec")?;
    let all = spec.init_containers.into_iter().flatten().chain(spec.containers);
    for container in all {
        let requests = container.resources.and_then(|resources| resources.requests).unwrap_or_default();
        ensure!(requests.contains_key("cpu"), "{} has no cpu request: utilisation can't be computed", container.name);
    }
    Ok(())
}
