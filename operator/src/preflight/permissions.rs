//! Decides which permissions the operator needs, and asks the API server which of them it lacks. I/O.

use futures_util::stream::{self, StreamExt, TryStreamExt};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};

use super::Needs;
use crate::controller::watch::Scope;

/// Questions at once.
const AT_ONCE: usize = 16;
/// Lacking permissions that are told; where one is missing, most are.
const TOLD: usize = 4;

/// What the operator does with one kind.
#[derive(Clone, Copy, Debug)]
struct Rule {
    group: &'static str,
    resource: &'static str,
    subresource: Option<&'static str>,
    verbs: &'static [&'static str],
}

const fn rule(group: &'static str, resource: &'static str, verbs: &'static [&'static str]) -> Rule {
    Rule { group, resource, subresource: None, verbs }
}

/// A child is looked at, written by server-side apply, and deleted.
const CHILD: &[&str] = &["get", "list", "watch", "create", "patch", "delete"];

/// In every namespace with consumers. `blockOwnerDeletion` asks for `update` of `idempotentconsumers/finalizers` too, but only where
/// that is enforced.
const RULES: &[Rule] = &[
    rule("idempotency.dev", "idempotentconsumers", &["get", "list", "watch"]),
    Rule { subresource: Some("status"), ..rule("idempotency.dev", "idempotentconsumers", &["patch"]) },
    rule("", "secrets", CHILD),
    rule("", "configmaps", CHILD),
    rule("", "services", CHILD),
    rule("policy", "poddisruptionbudgets", CHILD),
    rule("apps", "deployments", CHILD),
    rule("apps", "replicasets", &["list", "watch"]),
    rule("", "pods", &["list", "watch"]),
    rule("events.k8s.io", "events", &["create", "patch"]),
];
/// In the namespace of the lease.
const LEASE: Rule = rule("coordination.k8s.io", "leases", &["get", "create", "update"]);

/// One thing that may be done, or not.
#[derive(Clone, Debug)]
struct Question {
    rule: Rule,
    verb: &'static str,
    /// `None` is every namespace.
    namespace: Option<String>,
}

/// What the operator may not do, in words; `None` if it may do everything that it needs.
///
/// # Errors
/// The API server can't say: then nobody knows before it is tried.
pub(super) async fn lacking(client: &Client, needs: &Needs) -> Result<Option<String>, kube::Error> {
    let asked = |question: Question| async move {
        let allowed = may(client, &question).await?;
        Ok::<_, kube::Error>((!allowed).then(|| question.to_string()))
    };
    let answers = stream::iter(questions(needs)).map(asked).buffered(AT_ONCE).try_collect::<Vec<_>>().await?;
    Ok(words(answers.into_iter().flatten().collect()))
}

fn questions(needs: &Needs) -> Vec<Question> {
    let namespaces = match &needs.scope {
        Scope::All => vec![None],
        Scope::Namespaces(names) => names.iter().cloned().map(Some).collect(),
    };
    let all = |rule: Rule, namespace: &Option<String>| {
        let namespace = namespace.clone();
        rule.verbs.iter().map(move |verb| Question { rule, verb, namespace: namespace.clone() })
    };
    let mut questions: Vec<Question> =
        namespaces.iter().flat_map(|namespace| RULES.iter().flat_map(|rule| all(*rule, namespace))).collect();
    questions.extend(needs.leases_in.iter().flat_map(|namespace| all(LEASE, &Some(namespace.clone()))));
    questions
}

async fn may(client: &Client, question: &Question) -> Result<bool, kube::Error> {
    let Rule { group, resource, subresource, .. } = question.rule;
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource: subresource.map(ToOwned::to_owned),
                verb: Some(question.verb.to_owned()),
                namespace: question.namespace.clone(),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let answer = Api::all(client.clone()).create(&PostParams::default(), &review).await?;
    // A server that does not answer the question is not held against the account.
    Ok(answer.status.is_none_or(|status| status.allowed))
}

impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.verb, self.rule.resource)?;
        if let Some(subresource) = self.rule.subresource {
            write!(f, "/{subresource}")?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in namespace {namespace}"),
            None => write!(f, " in all namespaces"),
        }
    }
}

fn words(lacking: Vec<String>) -> Option<String> {
    let told = lacking.iter().take(TOLD).cloned().collect::<Vec<_>>().join(", ");
    let more = lacking.len().saturating_sub(TOLD);
    match (lacking.is_empty(), more) {
        (true, _) => None,
        (_, 0) => Some(format!("the operator may not {told}")),
        _ => Some(format!("the operator may not {told}, and {more} more")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_namespace_is_asked_for_and_the_lease_in_its_own() {
        let needs = |scope| Needs { scope, leases_in: Some("operators".into()), bound: Duration::ZERO };
        let told = |scope| questions(&needs(scope)).iter().map(ToString::to_string).collect::<Vec<_>>();
        let all = told(Scope::All);
        assert!(all.contains(&"watch secrets in all namespaces".to_owned()), "{all:?}");
        assert!(all.contains(&"patch idempotentconsumers/status in all namespaces".to_owned()));
        assert!(all.contains(&"update leases in namespace operators".to_owned()));
        let two = told(Scope::Namespaces(vec!["a".into(), "b".into()]));
        assert_eq!(two.len() - 3, 2 * (all.len() - 3));
        assert!(two.contains(&"list pods in namespace b".to_owned()));
    }

    #[test]
    fn of_many_that_lack_some_are_told() {
        let lacking = |count: usize| words((0..count).map(|n| format!("list n{n}")).collect());
        assert_eq!(lacking(0), None);
        assert_eq!(lacking(2).as_deref(), Some("the operator may not list n0, list n1"));
        assert_eq!(lacking(6).as_deref(), Some("the operator may not list n0, list n1, list n2, list n3, and 2 more"));
    }
}
