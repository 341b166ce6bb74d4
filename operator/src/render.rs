//! Decides what `operator render` and `operator crd` print. I/O: reads files, prints; contacts nobody.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crds::v1alpha1::IdempotentConsumer;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use serde_json::Value;

use crate::args::{RenderArgs, exit, tell};
use crate::controller::build::{DesiredState, build};
use crate::controller::dereference::References;
use crate::controller::validate::{Defaults, Invalid, validate};

mod objects;

use objects::Objects;

/// Why nothing is printed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// A file is not YAML.
    #[error("{}: it is not YAML: {wrong}", path.display())]
    NotYaml {
        /// The file.
        path: PathBuf,
        /// What the parser says, without anything quoted from the file.
        wrong: String,
    },
    /// No document of the file is a consumer.
    #[error("{}: it holds no IdempotentConsumer", .0.display())]
    NoConsumer(PathBuf),
    /// A document has a field that is wrong or missing.
    #[error("{name}: {wrong}")]
    Document {
        /// What it is called, as far as it says.
        name: String,
        /// Where, and what.
        wrong: String,
    },
    /// A consumer can't be carried out.
    #[error("{}", tell_all(name, invalid))]
    Invalid {
        /// What it is called.
        name: String,
        /// All that is wrong.
        invalid: Invalid,
    },
    /// What was made can't be written.
    #[error("it can't be written: {0}")]
    Write(String),
}

fn tell_all(name: &str, invalid: &Invalid) -> String {
    let lines = invalid.mistakes.iter().map(|mistake| format!("{name}: {}: {}", mistake.field, mistake.message));
    lines.collect::<Vec<_>>().join("\n")
}

/// Prints the desired state of the consumers in a file.
#[must_use]
pub fn command(asked: &RenderArgs) -> ExitCode {
    print(render(asked))
}

/// Prints the CustomResourceDefinition.
#[must_use]
pub fn crd() -> ExitCode {
    let definition = crds::v1alpha1::crd().map_err(|error| Error::Write(error.to_string()));
    print(definition.and_then(|definition| yaml(&definition)))
}

fn print(text: Result<String, Error>) -> ExitCode {
    let error = match text {
        Ok(text) => match io::stdout().lock().write_all(text.as_bytes()) {
            Ok(()) => return ExitCode::from(exit::DONE),
            Err(error) => Error::Write(error.to_string()),
        },
        Err(error) => error,
    };
    let code = if matches!(error, Error::Write(_)) { exit::INTERNAL } else { exit::BAD_INPUT };
    tell(&error, code)
}

/// The desired state of every consumer in the file, as YAML documents in the order in which they are applied.
///
/// # Errors
/// A file can't be read, or a consumer in it can't be carried out.
pub fn render(asked: &RenderArgs) -> Result<String, Error> {
    let objects = match &asked.references {
        Some(path) => Some(Objects::of(documents(path)?)?),
        None => None,
    };
    let defaults = Defaults {
        sidecar_image: asked.sidecar_image.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        redis_url: asked.left.redis_url.clone(),
        sidecar_resources: asked.left.sidecar_resources.clone(),
    };
    let mut text = String::new();
    for mut consumer in consumers(&asked.file)? {
        objects::complete(&mut consumer);
        let references = references(&consumer, objects.as_ref());
        let name = consumer.name_any();
        let validated =
            validate(&consumer, &references, &defaults, false).map_err(|invalid| Error::Invalid { name, invalid })?;
        for manifest in manifests(&build(&validated)) {
            text.push_str("---\n");
            text.push_str(&yaml(manifest)?);
        }
    }
    Ok(text)
}

fn references(consumer: &IdempotentConsumer, objects: Option<&Objects>) -> References {
    References {
        values: objects::values(consumer, objects),
        secret: objects::secret(consumer, objects),
        rival: None,
        running: None,
        pods: BTreeMap::new(),
    }
}

fn manifests(desired: &DesiredState) -> impl Iterator<Item = &Value> {
    desired.children.iter().chain(desired.deployment.child()).map(|child| &child.manifest)
}

fn yaml(value: &impl serde::Serialize) -> Result<String, Error> {
    let mut text = serde_saphyr::to_string(value).map_err(|error| Error::Write(error.to_string()))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

fn consumers(path: &Path) -> Result<Vec<IdempotentConsumer>, Error> {
    let ours = documents(path)?
        .into_iter()
        .filter(|document| document.get("kind").and_then(Value::as_str) == Some("IdempotentConsumer"));
    let consumers = ours.map(|document| decode::<IdempotentConsumer>(&document)).collect::<Result<Vec<_>, _>>()?;
    if consumers.is_empty() { Err(Error::NoConsumer(path.to_owned())) } else { Ok(consumers) }
}

/// Reads a document into its type, or says which field is wrong.
fn decode<T: serde::de::DeserializeOwned>(document: &Value) -> Result<T, Error> {
    serde_path_to_error::deserialize(document).map_err(|error| Error::Document {
        name: document
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or("a document without a name")
            .to_owned(),
        wrong: format!("{}: {}", error.path(), error.inner()),
    })
}

/// Reads a Secret, or says which field is wrong, and nothing of what is in it.
fn decode_secret(document: &Value) -> Result<Secret, Error> {
    let name = document.pointer("/metadata/name").and_then(Value::as_str);
    serde_path_to_error::deserialize(document).map_err(|error| Error::Document {
        name: format!("Secret {}", name.unwrap_or("without a name")),
        wrong: format!(
            "{}: it is not of the right type: values of `stringData` are texts (in quotes, if they look like a number), those of `data` \
             are texts in base64",
            error.path()
        ),
    })
}

/// The documents of a file; a list counts as its items.
fn documents(path: &Path) -> Result<Vec<Value>, Error> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().read_to_string(&mut text).map(|_| ())
    } else {
        std::fs::read_to_string(path).map(|read| text = read)
    };
    read.map_err(|source| Error::Read { path: path.to_owned(), source })?;
    // The snippet would quote the file, and with it a Secret's value.
    let options = serde_saphyr::options! { with_snippet: false };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(&text, options)
        .map_err(|error| Error::NotYaml { path: path.to_owned(), wrong: error.to_string() })?;
    Ok(documents.into_iter().flat_map(items).collect())
}

fn items(document: Value) -> Vec<Value> {
    let is_list = document.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
    match document {
        Value::Object(mut list) if is_list => match list.remove("items") {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        },
        Value::Null => Vec::new(),
        other => vec![other],
    }
}

/// By name, in a namespace that may be left out.
type ByName<T> = BTreeMap<(Option<String>, String), T>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_counts_as_its_items() {
        let list = serde_json::json!({"kind": "List", "items": [{"kind": "Secret"}, {"kind": "ConfigMap"}]});
        assert_eq!(items(list).len(), 2);
        assert_eq!(items(serde_json::json!({"kind": "Secret"})).len(), 1);
        assert!(items(Value::Null).is_empty());
    }

    #[test]
    fn nothing_of_a_secret_is_repeated() {
        for (field, value) in [("stringData", serde_json::json!(12345)), ("data", serde_json::json!("12345!"))] {
            let mut secret = serde_json::json!({"kind": "Secret", "metadata": {"name": "redis"}});
            secret[field] = serde_json::json!({"password": value});
            let Err(error) = Objects::of(vec![secret]) else { panic!("it was taken") };
            let told = error.to_string();
            assert!(told.starts_with(&format!("Secret redis: {field}")), "{told}");
            assert!(!told.contains("12345"), "{told}");
        }
    }

    #[test]
    fn a_wrong_field_is_named() {
        let document = serde_json::json!({
            "apiVersion": "idempotency.dev/v1alpha1", "kind": "IdempotentConsumer", "metadata": {"name": "a"},
            "spec": {"topics": ["t"], "kafka": {}, "redis": {}, "template": {"spec": {}}},
        });
        let told = decode::<IdempotentConsumer>(&document).unwrap_err().to_string();
        assert!(told.starts_with("a: spec.kafka: missing field `bootstrapServers`"), "{told}");
    }
}
