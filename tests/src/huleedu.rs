//! Decides how the four services of `examples/huleedu` are driven: which there are, what starts a batch, and where they keep what
//! they have done. I/O: it reads the example's manifests and the services' Redis.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::in_repo;
use crate::publish::Raw;
use crate::redis::RedisServer;

pub mod account;
pub mod duplicates;
pub mod local;

pub use account::{Account, Delivery, deliveries};
pub use duplicates::Duplicator;

/// A topic, and its one event type.
pub const ESSAYS_REGISTERED: &str = "huleedu.batch.essays.registered.v1";
/// Tells Essay Lifecycle to have a batch's essays checked.
pub const INITIATE_SPELLCHECK: &str = "huleedu.batch.spellcheck.initiate.command.v1";
/// Tells Spell Checker to check one essay.
pub const SPELLCHECK_REQUESTED: &str = "huleedu.essay.spellcheck.requested.v1";
/// One essay is checked.
pub const SPELLCHECK_COMPLETED: &str = "huleedu.essay.spellcheck.completed.v1";
/// All essays of a batch are.
pub const ESSAYS_READY: &str = "huleedu.els.batch.essays.ready.v1";
/// A phase of a batch is over.
pub const PHASE_OUTCOME: &str = "huleedu.els.batch.phase.outcome.v1";
/// Tells CJ Assessment to assess a set of essays.
pub const INITIATE_ASSESSMENT: &str = "huleedu.batch.cj_assessment.initiate.command.v1";
/// One set is assessed.
pub const ASSESSMENT_COMPLETED: &str = "huleedu.cj_assessment.completed.v1";

/// All of them, in the order in which a batch goes through them.
pub const TOPICS: [&str; 8] = [
    ESSAYS_REGISTERED,
    INITIATE_SPELLCHECK,
    SPELLCHECK_REQUESTED,
    SPELLCHECK_COMPLETED,
    ESSAYS_READY,
    INITIATE_ASSESSMENT,
    ASSESSMENT_COMPLETED,
    PHASE_OUTCOME,
];
/// Where Spell Checker's business failures go.
pub const DEAD_LETTERS: &str = "huleedu.essay.spellcheck.dead.v1";
/// How many essays CJ Assessment compares with each other.
pub const SET: usize = 5;

/// One of the four services, as its manifest says.
#[derive(Clone, Debug)]
pub struct Service {
    /// The manifest.
    pub manifest: Value,
}

impl Service {
    /// The four, read from the example.
    ///
    /// # Errors
    /// A manifest is not there, or no YAML.
    pub fn all() -> anyhow::Result<Vec<Self>> {
        let names = ["batch-orchestrator", "essay-lifecycle", "spell-checker", "cj-assessment"];
        names.into_iter().map(Self::named).collect()
    }

    /// The one of that name.
    ///
    /// # Errors
    /// Its manifest is not there, or no YAML.
    pub fn named(name: &str) -> anyhow::Result<Self> {
        let path = in_repo(&format!("examples/huleedu/consumers/{name}.yaml"));
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let manifest: Value = serde_saphyr::from_str(&text).with_context(|| path.display().to_string())?;
        ensure!(manifest["metadata"]["name"] == name, "{} is about {}", path.display(), manifest["metadata"]);
        Ok(Self { manifest })
    }

    /// Its resource's name.
    ///
    /// # Panics
    /// The manifest has none.
    #[must_use]
    pub fn name(&self) -> &str {
        self.manifest["metadata"]["name"].as_str().expect("a name")
    }

    /// What the app calls itself.
    ///
    /// # Panics
    /// The manifest does not say.
    #[must_use]
    pub fn app(&self) -> &str {
        self.variable("SERVICE").expect("a service to play")
    }

    /// A variable of the app's environment.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        let all = self.manifest["spec"]["template"]["spec"]["containers"][0]["env"].as_array()?;
        all.iter().find(|variable| variable["name"] == name)?["value"].as_str()
    }

    /// The topics that it reads.
    #[must_use]
    pub fn topics(&self) -> Vec<&str> {
        self.manifest["spec"]["topics"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }
}

/// The event that starts a batch of so many essays.
#[must_use]
pub fn registered(batch: &str, essays: usize) -> Raw {
    let essays: Vec<_> = (0..essays).map(|n| json!({"essay_id": essay(batch, n), "text": text(n)})).collect();
    event(ESSAYS_REGISTERED, batch, &json!({"metadata": metadata("batch", batch), "essays": essays}))
}

/// A request to check an essay that has no text: a business failure.
#[must_use]
pub fn without_text(essay: &str) -> Raw {
    let data = json!({"metadata": metadata("essay", essay), "batch_id": "of-one", "text": ""});
    event(SPELLCHECK_REQUESTED, essay, &data)
}

/// An event in the platform's envelope.
#[must_use]
pub fn event(kind: &str, entity: &str, data: &Value) -> Raw {
    let envelope = json!({
        "event_id": uuid::Uuid::new_v4().to_string(),
        "event_type": kind,
        "event_timestamp": "2026-01-01T00:00:00Z",
        "source_service": "class_management_service",
        "correlation_id": format!("correlation-of-{entity}"),
        "data": data,
    });
    Raw::new(envelope.to_string()).key(entity)
}

/// The id of a batch's essay.
#[must_use]
pub fn essay(batch: &str, number: usize) -> String {
    format!("{batch}-essay-{number:04}")
}

/// How a phase of a batch ended, once it has.
///
/// # Errors
/// Redis does not answer.
pub fn phase(redis: &RedisServer, batch: &str, phase: &str) -> anyhow::Result<Option<String>> {
    redis.command(&["HGET", &format!("huleedu:batch:{batch}"), phase])
}

/// How many deliveries of one type a service has noted so far.
///
/// # Errors
/// Redis does not answer.
pub fn count(redis: &RedisServer, service: &str, kind: &str) -> anyhow::Result<usize> {
    Ok(deliveries(redis)?.iter().filter(|d| d.service == service && d.kind == kind).count())
}

fn metadata(kind: &str, id: &str) -> Value {
    json!({"entity": {"entity_type": kind, "entity_id": id}})
}

/// Many essays have the same text: what tells their events apart is whom they are about.
fn text(number: usize) -> String {
    let words = ["teh", "essay", "that", "we", "recieve", "wich", "Größe", "is", "long"];
    words[..4 + number % 6].join(" ")
}
