//! Decides what goes over one connection for a set of operations, and what is said again. Does network I/O.

use std::sync::Arc;

use redis::Pipeline;
use tokio::time::Instant;

use super::command::{Form, Meaning, command, is_read_only, meaning};
use super::link::{Link, Live};
use crate::store::{Op, Reply, StoreError};

/// How one operation went at one server.
#[derive(Debug)]
pub(super) enum Outcome {
    /// This is the answer.
    Answer(Result<Reply, StoreError>),
    /// Surely not applied here; this node serves it.
    Moved(String),
    /// Surely not applied here; this node serves it this once.
    Ask(String),
}

/// Sends `ops` in one round trip, and again in another form those that the server surely did not apply for want of the
/// script or of `SET … NX GET`. One outcome each, in order.
pub(super) async fn exchange(
    link: &Arc<Link>,
    live: &Live,
    ops: &[&Op],
    asking: bool,
    deadline: Instant,
) -> Vec<Outcome> {
    let form = Form { claim_by_script: live.is_old(), in_full: false };
    let (mut outcomes, again) = pass(link, live, ops, form, asking, deadline).await;
    if !again.is_empty() {
        let form = Form { claim_by_script: true, in_full: true };
        let (places, rest): (Vec<_>, Vec<_>) = again.into_iter().map(|place| (place, ops[place])).unzip();
        let (second, _) = pass(link, live, &rest, form, asking, deadline).await;
        for (place, outcome) in places.into_iter().zip(second) {
            outcomes[place] = outcome;
        }
    }
    let may_be_another = |outcome: &Outcome| match outcome {
        // A proxy says so of the server behind it.
        Outcome::Answer(Err(StoreError::Unanswered(_))) => true,
        Outcome::Answer(answer) => is_read_only(answer),
        _ => false,
    };
    if outcomes.iter().any(may_be_another) {
        // A failover made it a replica: connect anew, to whichever server is the master by then.
        link.give_up(live);
    }
    outcomes
}

/// One round trip; and the places of the operations to say again in full.
async fn pass(
    link: &Arc<Link>,
    live: &Live,
    ops: &[&Op],
    form: Form,
    asking: bool,
    deadline: Instant,
) -> (Vec<Outcome>, Vec<usize>) {
    let mut pipeline = Pipeline::with_capacity(ops.len() * 2);
    for op in ops {
        if asking {
            pipeline.cmd("ASKING");
        }
        pipeline.add_command(command(op, form));
    }
    let values = match link.round_trip(live, &pipeline, deadline).await {
        Ok(values) => values,
        Err(error) => return (ops.iter().map(|_| Outcome::Answer(Err(error.clone()))).collect(), Vec::new()),
    };
    let values = values.into_iter().skip(usize::from(asking)).step_by(1 + usize::from(asking));
    let mut again = Vec::new();
    let outcomes = ops.iter().zip(values).enumerate().map(|(place, (op, value))| match meaning(op, form, value) {
        Meaning::Answer(answer) => Outcome::Answer(answer.map_err(|error| redacted(link, error))),
        Meaning::Moved(node) => Outcome::Moved(node),
        Meaning::Ask(node) => Outcome::Ask(node),
        Meaning::OldServer => {
            live.mark_old();
            again.push(place);
            Outcome::Answer(Err(StoreError::Refused("the server doesn't know SET … NX GET".to_owned())))
        }
        Meaning::NoScript => {
            again.push(place);
            Outcome::Answer(Err(StoreError::Refused("the server doesn't hold the script".to_owned())))
        }
    });
    let outcomes = outcomes.collect();
    (outcomes, again)
}

fn redacted(link: &Link, error: StoreError) -> StoreError {
    match error {
        StoreError::Unanswered(text) => StoreError::Unanswered(link.redact(text)),
        StoreError::NotSent(text) => StoreError::NotSent(link.redact(text)),
        StoreError::Refused(text) => StoreError::Refused(link.redact(text)),
        StoreError::WrongType(key) => StoreError::WrongType(key),
    }
}
