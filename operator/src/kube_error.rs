//! Decides what an answer of the API server means, and how it is told. Pure.

use kube::Error;
use kube::core::Status;

/// What the API server said, in its own words and without our client's wrapping.
#[must_use]
pub(crate) fn words(error: &Error) -> String {
    match error {
        Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        Error::Api(status) if !status.reason.is_empty() => format!("{} ({})", status.reason, status.code),
        other => other.to_string(),
    }
}

/// Server-side apply tells a field that its schema doesn't know, or a value of a wrong type or form, as an internal error.
const TYPED: [&str; 3] =
    ["failed to create typed patch object", "not declared in schema", "unable to convert unstructured object"];

/// The request itself is refused: sent again, it is refused again. Everything else may pass by waiting, or is the operator's trouble.
#[must_use]
pub(crate) fn refuses(error: &Error) -> bool {
    let Error::Api(status) = error else { return false };
    match status.code {
        400 | 422 => true,
        403 => !lacks_permission(status) && !namespace_ends(error),
        500 => TYPED.iter().any(|words| status.message.contains(words)),
        _ => false,
    }
}

/// Nothing can be made in the namespace any more, since it is being deleted. It never comes back from that.
#[must_use]
pub(crate) fn namespace_ends(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 403 && status.message.contains("because it is being terminated"))
}

/// What RBAC answers; an admission plugin that refuses words it otherwise.
fn lacks_permission(status: &Status) -> bool {
    status.message.contains(" cannot ") && status.message.contains("User ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: u16, message: &str) -> Error {
        Error::Api(Status::failure(message, "Tested").with_code(code).boxed())
    }

    #[test]
    fn a_namespace_that_ends_is_told_from_what_is_forbidden() {
        let ends =
            "secrets \"a\" is forbidden: unable to create new content in namespace x because it is being terminated";
        assert!(namespace_ends(&error(403, ends)) && !refuses(&error(403, ends)));
        assert!(!namespace_ends(&error(403, "secrets \"a\" is forbidden: exceeded quota")));
    }

    #[test]
    fn only_what_would_be_refused_again_is_a_refusal() {
        for (code, message, refused) in [
            (422, "Deployment.apps \"a\" is invalid: spec.template.spec.containers[0].image: Required value", true),
            (400, "strict decoding error: unknown field \"spec.template.spec.foo\"", true),
            (
                500,
                "failed to create typed patch object (ns/a; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema",
                true,
            ),
            (
                500,
                "failed to convert new object (ns/a; apps/v1, Kind=Deployment) to proper version: unable to convert unstructured object to apps/v1, Kind=Deployment: quantities must match",
                true,
            ),
            (403, "admission webhook \"policy\" denied the request: no latest tags", true),
            (
                403,
                "deployments.apps \"a\" is forbidden: User \"system:serviceaccount:o:o\" cannot patch resource \"deployments\"",
                false,
            ),
            (403, "unable to create new content in namespace ns because it is being terminated", false),
            (500, "etcdserver: request timed out", false),
            (409, "the object has been modified", false),
            (429, "too many requests", false),
        ] {
            assert_eq!(refuses(&error(code, message)), refused, "{code} {message}");
        }
    }

    #[test]
    fn the_servers_words_are_told_without_ours() {
        assert_eq!(words(&error(422, "not so")), "not so");
    }
}
