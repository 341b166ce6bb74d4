//! Decides what an answer of the app means for each event, and how long a failed one waits. Pure.
//!
//! | answer | outcome |
//! |---|---|
//! | body `{"status": "SUCCESS" / "DROP" / "RETRY"}`, with any code | completed / rejected / failed |
//! | 2xx | completed |
//! | 2xx with another `status` text in the body | failed: the app meant to say something, and it was not understood |
//! | 400, 409, 422 | rejected |
//! | everything else | failed |
//!
//! The status words are read in any case. A `status` that is empty, or no text (`{"status": 400}`), says nothing: the code counts.
//!
//! A batch answers with `{"results": [{"id", "status"}]}`, whatever its code; see [`judge_batch`].

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crds::config::BackoffConfig;
use serde::Deserialize;
use serde_json::Value;

use crate::deliver::Answer;

/// A longer `Retry-After` is cut to this: a wrong one must not stop a partition for days.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// What became of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The app has processed it.
    Completed,
    /// Business failure: the app will never accept it.
    Rejected(Reason),
    /// Infrastructure failure: it comes again.
    Failed {
        /// Why.
        reason: Reason,
        /// How long the app asked to wait, at least.
        retry_after: Option<Duration>,
        /// The request may have left: the event may have had its effect.
        sent: bool,
    },
}

/// Why an event was rejected or failed. The text is for people, [`Reason::label`] for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The status code says so.
    Status(u16),
    /// The app answered `DROP`.
    Drop,
    /// The app answered `RETRY`.
    Retry,
    /// The app answered a status that is none of the three; its first characters.
    UnknownStatus(String),
    /// No byte of the request left.
    NotSent(String),
    /// No usable answer came.
    Broken(String),
    /// No answer came in time.
    TimedOut,
    /// The answer to a batch is no document of results.
    NotResults(String),
    /// The answer to a batch does not name this event.
    NoResult,
    /// The answer to a batch names this event twice, and not alike.
    Contradiction,
    /// An event before it in the batch failed, and order counts.
    BehindFailed,
}

impl Reason {
    /// One word of a fixed set.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Status(_) => "status",
            Self::Drop => "drop",
            Self::Retry => "retry",
            Self::UnknownStatus(_) => "unknown_status",
            Self::NotSent(_) => "not_sent",
            Self::Broken(_) => "broken",
            Self::TimedOut => "timed_out",
            Self::NotResults(_) => "not_results",
            Self::NoResult => "no_result",
            Self::Contradiction => "contradiction",
            Self::BehindFailed => "behind_failed",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(code) => write!(f, "the app answered {code}"),
            Self::Drop => f.write_str("the app answered DROP"),
            Self::Retry => f.write_str("the app answered RETRY"),
            Self::UnknownStatus(text) => write!(
                f,
                "the app answered the unknown status {text:?}: answer SUCCESS, RETRY or DROP, or leave the body out"
            ),
            Self::NotSent(text) => f.write_str(text),
            Self::Broken(text) => write!(f, "no usable answer: {text}"),
            Self::TimedOut => f.write_str("the app did not answer in time"),
            Self::NotResults(text) => {
                write!(f, "the answer to a batch is not {{\"results\": [{{\"id\", \"status\"}}]}}: {text}")
            }
            Self::NoResult => f.write_str("the answer to the batch has no result for this event"),
            Self::Contradiction => f.write_str("the answer to the batch has two different results for this event"),
            Self::BehindFailed => f.write_str("an event before it in the batch failed"),
        }
    }
}

/// The names under which an event was sent in a batch, and by which its result may name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventName {
    /// The attribute `idempotencykey`.
    pub key: Arc<str>,
    /// The attribute `id`.
    pub id: Arc<str>,
}

/// What the answer to a single event means.
#[must_use]
pub fn judge_one(answer: &Answer) -> Outcome {
    match answer {
        Answer::Http { status, retry_after, body } => {
            judge_status(status_text(body).as_deref(), *status, *retry_after, Reason::Status(*status))
        }
        other => unanswered(other),
    }
}

/// What the answer to a batch means for each of its events, in their order.
///
/// - Results name events by `idempotencykey` or by `id`. Where several events bear one name, they take its results in order.
/// - An event without a result, or with one that is not understood, is failed.
/// - No body at all and a 2xx: all are completed. Any other answer that holds no results: all are failed.
/// - `{"status"}` counts for the whole batch. But one bad event must not drop the rest: for more than one event, `DROP` and the codes
///   400, 409, 422 mean failed, so that the batch is halved until the bad event stands alone and is rejected.
#[must_use]
pub fn judge_batch(answer: &Answer, names: &[EventName]) -> Vec<Outcome> {
    let Answer::Http { status, retry_after, body } = answer else {
        return vec![unanswered(answer); names.len()];
    };
    let success = (200..300).contains(status);
    if body.trim_ascii().is_empty() {
        return vec![
            whole(judge_status(None, *status, *retry_after, Reason::Status(*status)), names.len());
            names.len()
        ];
    }
    let failed = |reason| Outcome::Failed { reason, retry_after: *retry_after, sent: true };
    match serde_json::from_slice::<Document>(body) {
        Ok(Document { results: Some(results), .. }) => match_results(&results, names, *retry_after),
        Ok(Document { status: Some(Value::String(text)), .. }) if success || known(&text).is_some() => {
            whole_batch(Some(&text), *status, *retry_after, names.len())
        }
        _ if !success => whole_batch(None, *status, *retry_after, names.len()),
        Ok(_) => vec![failed(Reason::NotResults("it has neither `results` nor `status`".into())); names.len()],
        Err(error) => vec![failed(Reason::NotResults(error.to_string())); names.len()],
    }
}

/// Keeps order within a batch: what follows the first failed event counts as failed, and as sent. Where it has no result of its
/// own, the app stopped before it, and it is not to blame.
#[must_use]
pub fn in_order(mut outcomes: Vec<Outcome>) -> Vec<Outcome> {
    let first = outcomes.iter().position(|outcome| matches!(outcome, Outcome::Failed { .. }));
    for outcome in outcomes.iter_mut().skip(first.map_or(usize::MAX, |at| at + 1)) {
        if !matches!(outcome, Outcome::Failed { reason, .. } if *reason != Reason::NoResult) {
            *outcome = Outcome::Failed { reason: Reason::BehindFailed, retry_after: None, sent: true };
        }
    }
    outcomes
}

/// How long to wait after the `failures`-th failure in a row (from 1): `min` doubled each time, at most `max`, of which `jitter`
/// (from 0 to 1) takes a part, but never less than half of `min`; and never less than the app asked for, up to [`MAX_RETRY_AFTER`].
#[must_use]
pub fn backoff(failures: u32, config: &BackoffConfig, retry_after: Option<Duration>, jitter: f64) -> Duration {
    let (min, max) = (config.min.get(), config.max.get());
    let doubled = min.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(max);
    let least = (min / 2).min(doubled);
    let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 1.0 };
    let pause = least + (doubled - least).mul_f64(jitter);
    retry_after.map_or(pause, |asked| pause.max(asked.min(MAX_RETRY_AFTER)))
}

#[derive(Deserialize)]
struct Document {
    results: Option<Vec<Entry>>,
    status: Option<Value>,
}

#[derive(Deserialize)]
struct Entry {
    id: String,
    #[serde(default)]
    status: Value,
}

/// What the protocol's status words say.
#[derive(Clone, Copy)]
enum Word {
    Success,
    Retry,
    Drop,
}

fn known(text: &str) -> Option<Word> {
    [("success", Word::Success), ("retry", Word::Retry), ("drop", Word::Drop)]
        .into_iter()
        .find_map(|(name, word)| name.eq_ignore_ascii_case(text.trim()).then_some(word))
}

/// The `status` text of a JSON object. Any other body says nothing.
fn status_text(body: &[u8]) -> Option<String> {
    let trimmed = body.trim_ascii_start();
    if trimmed.first() != Some(&b'{') {
        return None;
    }
    #[derive(Deserialize)]
    struct Status {
        status: Option<Value>,
    }
    match serde_json::from_slice(trimmed) {
        Ok(Status { status: Some(Value::String(text)) }) if !text.trim().is_empty() => Some(text),
        _ => None,
    }
}

fn judge_status(text: Option<&str>, code: u16, retry_after: Option<Duration>, by_code: Reason) -> Outcome {
    let failed = |reason| Outcome::Failed { reason, retry_after, sent: true };
    let success = (200..300).contains(&code);
    match (text, text.and_then(known)) {
        (_, Some(Word::Success)) => Outcome::Completed,
        (_, Some(Word::Drop)) => Outcome::Rejected(Reason::Drop),
        (_, Some(Word::Retry)) => failed(Reason::Retry),
        _ if success => Outcome::Completed,
        _ if matches!(code, 400 | 409 | 422) => Outcome::Rejected(by_code),
        _ => failed(by_code),
    }
}

fn whole_batch(text: Option<&str>, code: u16, retry_after: Option<Duration>, count: usize) -> Vec<Outcome> {
    let text = text.filter(|text| !text.trim().is_empty());
    // Here the word stands for the events' own results: one that is none of ours says nothing of them.
    if let Some(unknown) = text.filter(|text| known(text).is_none() && (200..300).contains(&code)) {
        let reason = Reason::UnknownStatus(unknown.chars().take(64).collect());
        return vec![Outcome::Failed { reason, retry_after, sent: true }; count];
    }
    vec![whole(judge_status(text, code, retry_after, Reason::Status(code)), count); count]
}

/// One answer for several events can't reject them all: the batch is halved until the bad one stands alone.
fn whole(outcome: Outcome, count: usize) -> Outcome {
    match outcome {
        Outcome::Rejected(reason) if count > 1 => Outcome::Failed { reason, retry_after: None, sent: true },
        other => other,
    }
}

fn unanswered(answer: &Answer) -> Outcome {
    let (reason, sent) = match answer {
        Answer::NotSent(text) => (Reason::NotSent(text.clone()), false),
        Answer::Broken(text) => (Reason::Broken(text.clone()), true),
        Answer::TimedOut => (Reason::TimedOut, true),
        Answer::Http { status, .. } => (Reason::Status(*status), true),
    };
    Outcome::Failed { reason, retry_after: None, sent }
}

/// Gives each result to the event that it names.
fn match_results(results: &[Entry], names: &[EventName], retry_after: Option<Duration>) -> Vec<Outcome> {
    let failed = |reason| Outcome::Failed { reason, retry_after, sent: true };
    let mut outcomes: Vec<Option<Outcome>> = vec![None; names.len()];
    let mut index = None;
    for (at, result) in results.iter().enumerate() {
        let outcome = match &result.status {
            Value::String(text) if known(text).is_some() => {
                judge_status(Some(text), 200, retry_after, Reason::NoResult)
            }
            Value::String(text) if !text.trim().is_empty() => {
                failed(Reason::UnknownStatus(text.chars().take(64).collect()))
            }
            _ => failed(Reason::NoResult),
        };
        // Nearly all apps answer in order; only for the others is an index worth its cost.
        let here = names.get(at).filter(|name| *name.key == *result.id || *name.id == *result.id);
        let place = match here.filter(|_| outcomes[at].is_none()) {
            Some(_) => at,
            None => {
                let bearers = index.get_or_insert_with(|| index_names(names)).get(result.id.as_str());
                let Some(bearers) = bearers else { continue };
                let free = bearers.iter().copied().find(|&place| outcomes[place].is_none());
                let Some(place) = free.or_else(|| bearers.last().copied()) else { continue };
                place
            }
        };
        let contradicts = outcomes[place].as_ref().is_some_and(|before| *before != outcome);
        outcomes[place] = Some(if contradicts { failed(Reason::Contradiction) } else { outcome });
    }
    outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| failed(Reason::NoResult))).collect()
}

fn index_names(names: &[EventName]) -> HashMap<&str, Vec<usize>> {
    let mut index: HashMap<&str, Vec<usize>> = HashMap::with_capacity(names.len() * 2);
    for (at, name) in names.iter().enumerate() {
        index.entry(&name.key).or_default().push(at);
        if name.id != name.key {
            index.entry(&name.id).or_default().push(at);
        }
    }
    index
}

#[cfg(test)]
mod tests;
