//! Decides which children are no longer of use, and deletes them. I/O.

use std::collections::HashSet;

use kube::api::{DeleteParams, Preconditions};
use kube::core::DynamicObject;
use kube::{Resource, ResourceExt};

use super::{Error, Ledger, Target, failed};
use crate::controller::build::{ChildKind, DesiredState, annotation, config_prefix, files_prefix};
use crate::controller::deployment::{Facts, template_annotation};
use crate::controller::dereference::is_owned_by;

/// Deletes children that are not desired. A configuration and files stay while a ReplicaSet names them, so that a roll-back finds them.
///
/// # Errors
/// The API server did not answer as it should.
pub(super) async fn prune(
    target: Target<'_>,
    desired: &DesiredState,
    deployment: Option<&DynamicObject>,
    ledger: &mut Ledger,
    written: &mut Vec<ChildKind>,
) -> Result<(), Error> {
    for kind in ChildKind::ALL {
        for child in target.stores.children(kind).of(target.consumer) {
            let name = child.name_any();
            let wanted = desired.children.iter().any(|one| one.kind == kind && one.name == name)
                || (kind == ChildKind::Deployment && desired.deployment.name() == name);
            let kept = wanted
                || !is_owned_by(&child, target.uid)
                || child.meta().deletion_timestamp.is_some()
                || named_by(target, kind, &name).is_some_and(|by| is_needed(target, by, &name, deployment));
            if !kept {
                delete(target, kind, &child).await?;
                ledger.forget(kind, &name);
                written.push(kind);
            }
        }
    }
    Ok(())
}

/// The annotation by which pods name the child, where it is one that only pods of one revision read.
fn named_by(target: Target<'_>, kind: ChildKind, name: &str) -> Option<&'static str> {
    let consumer = &target.consumer.name;
    match kind {
        ChildKind::ConfigMap => name.starts_with(&config_prefix(consumer)).then_some(annotation::CONFIG),
        ChildKind::Secret => name.starts_with(&files_prefix(consumer)).then_some(annotation::FILES),
        _ => None,
    }
}

/// While pods are replaced, ReplicaSets come that the store does not show yet: until then, each may be one that is named.
fn is_needed(target: Target<'_>, by: &str, name: &str, deployment: Option<&DynamicObject>) -> bool {
    let Some(deployment) = deployment else { return true };
    if !Facts::of(deployment).complete() || template_annotation(deployment, by) == Some(name) {
        return true;
    }
    let sets = target.stores.replica_sets.of(target.consumer);
    let named: HashSet<String> = sets
        .iter()
        .filter_map(|set| {
            let template = set.spec.template.as_ref()?;
            template.metadata.as_ref()?.annotations.as_ref()?.get(by).cloned()
        })
        .collect();
    named.contains(name)
}

async fn delete(target: Target<'_>, kind: ChildKind, child: &DynamicObject) -> Result<(), Error> {
    let name = child.name_any();
    let preconditions = Some(Preconditions { uid: child.uid(), resource_version: None });
    match target.api(kind).delete(&name, &DeleteParams { preconditions, ..DeleteParams::background() }).await {
        Ok(_) => Ok(()),
        // Gone already, or another of that name by now.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(failed("delete", kind, &name, error)),
    }
}
