//! Decides how the app behaves under faults: it writes each effect to its ledger, with fsync, before it answers, and answers some events
//! wrongly on purpose. Which ones is told by their names, so that the checker knows too. I/O.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use harness::app::{Act, App, Effects, Event, Listen, Reply, Request, act};
use harness::ledger::{Effect, Ledger};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// What the app is told.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    #[arg(long)]
    socket: PathBuf,
    #[arg(long)]
    ledger: PathBuf,
}

/// One line of its ledger.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    #[serde(flatten)]
    pub(crate) effect: Effect,
    /// The app answers that it did it. Whether that arrives is another matter.
    pub(crate) answered: bool,
}

/// What an event gets for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Done.
    Complete,
    /// Refused for good, without an effect.
    Reject,
    /// Failed at first, without an effect.
    Fail,
    /// Done, and told as a failure at first.
    FailAfterEffect,
    /// Done, and not answered at first.
    HangAfterEffect,
    /// Done, and the connection ends at first.
    DisconnectAfterEffect,
}

/// The fate of an event, by its name.
pub(crate) fn fate(event: &str) -> Fate {
    let mut hasher = DefaultHasher::new();
    event.hash(&mut hasher);
    match hasher.finish() % 1_000 {
        0..10 => Fate::Reject,
        10..20 => Fate::Fail,
        20..25 => Fate::FailAfterEffect,
        25..28 => Fate::HangAfterEffect,
        28..30 => Fate::DisconnectAfterEffect,
        _ => Fate::Complete,
    }
}

/// Serves until it is killed.
pub(crate) async fn serve(settings: Settings) -> anyhow::Result<()> {
    let ledger = Arc::new(Mutex::new(OpenOptions::new().append(true).create(true).open(&settings.ledger)?));
    let seen = Mutex::new(HashMap::<String, u32>::new());
    let behaviour = act(move |request| {
        let fates: Vec<Fate> = request.events.iter().map(|event| first(&seen, event)).collect();
        write(&ledger, request, &fates);
        answer(request, &fates)
    });
    let mut app = App::stopped(Listen::Unix(settings.socket), behaviour, Ledger::new());
    app.keep_nothing();
    app.listen()?;
    std::future::pending().await
}

/// What it gets this time: only the first time, in this life of the app, is something wrong.
fn first(seen: &Mutex<HashMap<String, u32>>, event: &Event) -> Fate {
    let fate = fate(&event.event);
    if matches!(fate, Fate::Complete | Fate::Reject) {
        return fate;
    }
    let mut seen = seen.lock().unwrap();
    let times = seen.entry(event.event.clone()).or_default();
    *times += 1;
    if *times == 1 { fate } else { Fate::Complete }
}

fn write(ledger: &Mutex<File>, request: &Request, fates: &[Fate]) {
    let at = now();
    let silent = fates.iter().any(|fate| matches!(fate, Fate::HangAfterEffect | Fate::DisconnectAfterEffect));
    // What follows a failed event in a batch counts as failed, whatever is said of it.
    let mut answered = !silent;
    let mut text = Vec::new();
    for (event, fate) in request.events.iter().zip(fates) {
        answered &= matches!(fate, Fate::Complete | Fate::Reject);
        if matches!(fate, Fate::Reject | Fate::Fail) {
            continue;
        }
        let entry = Entry { effect: event.effect(at), answered };
        serde_json::to_writer(&mut text, &entry).unwrap();
        text.push(b'\n');
    }
    let mut file = ledger.lock().unwrap();
    file.write_all(&text).and_then(|()| file.sync_data()).expect("an app that loses its ledger must not answer");
}

fn answer(request: &Request, fates: &[Fate]) -> Act {
    let silence = fates.iter().find_map(|fate| match fate {
        Fate::HangAfterEffect => Some(Reply::Hang),
        Fate::DisconnectAfterEffect => Some(Reply::Disconnect),
        _ => None,
    });
    let reply = silence.unwrap_or_else(|| {
        let mut words = fates.iter().map(|fate| match fate {
            Fate::Complete => "SUCCESS",
            Fate::Reject => "DROP",
            _ => "RETRY",
        });
        let body = if request.batch {
            let results =
                request.events.iter().zip(words).map(|(event, status)| json!({"id": event.id, "status": status}));
            json!({"results": results.collect::<Vec<_>>()})
        } else {
            json!({"status": words.next()})
        };
        Reply::Http { status: 200, headers: Vec::new(), body: body.to_string().into() }
    });
    Act { effects: Effects::None, reply, before: Duration::ZERO, after: Duration::ZERO }
}

/// The lines of a ledger; none where there is no file. A last line without its end is not there: the app died writing it.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Entry>> {
    let text = if path.exists() { std::fs::read_to_string(path)? } else { String::new() };
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    Ok(whole.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// Milliseconds since the epoch: of the one clock of this machine.
#[allow(clippy::disallowed_methods, reason = "processes compare their times by it")]
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| span.as_millis() as u64)
}
