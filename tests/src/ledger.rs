//! Decides whether what took effect is what was published: nothing lost, nothing twice, and the second time said so. Pure checks
//! over a ledger in memory or in a file.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// One effect: the app did its work for one event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// Which event it was by its content (see [`logical_id`]), whatever the sidecar calls it.
    pub event: String,
    /// The `idempotency-key` it came with.
    pub key: String,
    /// The `idempotency-attempt` it came with.
    pub attempt: u32,
    /// The `idempotency-protection` it came with.
    pub protection: String,
    /// The topic it came from.
    pub topic: String,
    /// The partition it came from.
    pub partition: i32,
    /// The offset it came from.
    pub offset: i64,
    /// When, in milliseconds since the epoch.
    pub at: u64,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, attempt, protection, topic, partition, offset, at, .. } = self;
        write!(f, "{topic}/{partition}@{offset} attempt {attempt}, protection {protection}, at {at}, key {key}")
    }
}

/// Where effects are written, in the order in which they took place. A clone writes to the same place.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    effects: Mutex<Vec<Effect>>,
    file: Option<(Mutex<File>, bool)>,
}

impl Ledger {
    /// A ledger in memory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A ledger that appends to a file and keeps nothing in memory. What is written outlives the process; with `fsync` it
    /// outlives the machine too.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn file(path: &Path, fsync: bool) -> anyhow::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path);
        let file = file.with_context(|| format!("cannot open the ledger {}", path.display()))?;
        Ok(Self(Arc::new(Inner { effects: Mutex::default(), file: Some((Mutex::new(file), fsync)) })))
    }

    /// Writes effects; when it returns, they count.
    ///
    /// # Panics
    /// The file cannot be written: an app that loses its ledger must not answer.
    pub fn write(&self, effects: Vec<Effect>) {
        let Some((file, fsync)) = &self.0.file else {
            self.0.effects.lock().unwrap().extend(effects);
            return;
        };
        let mut text = Vec::new();
        for effect in effects {
            serde_json::to_writer(&mut text, &effect).unwrap();
            text.push(b'\n');
        }
        let mut file = file.lock().unwrap();
        file.write_all(&text).expect("the ledger can be written");
        if *fsync {
            file.sync_data().expect("the ledger can be synced");
        }
    }

    /// The effects in memory so far.
    #[must_use]
    pub fn effects(&self) -> Vec<Effect> {
        self.0.effects.lock().unwrap().clone()
    }

    /// How many effects are in memory so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.effects.lock().unwrap().len()
    }

    /// Is there none in memory?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Compares with what was published.
    #[must_use]
    pub fn check(&self, published: &Published) -> Check {
        Check::new(published, &self.effects())
    }
}

/// The effects in a ledger file; none when there is no file. A last line without its end is not there: the app died writing it.
///
/// # Errors
/// A line is not an effect.
pub fn read(path: &Path) -> anyhow::Result<Vec<Effect>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("cannot read the ledger {}", path.display())),
    };
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).with_context(|| format!("ledger line `{line}`"))).collect()
}

/// Which event a record value is, from its content alone and not by the code under test: `data.uid` where it is an envelope
/// of [`crate::publish`], `uid` where it is the envelope's `data` alone, else a hash of the JSON value, else of the bytes.
#[must_use]
pub fn logical_id(value: &[u8]) -> String {
    let parsed = serde_json::from_slice::<serde_json::Value>(value);
    if let Some(uid) = parsed.as_ref().ok().and_then(|v| v.pointer("/data/uid").or_else(|| v.get("uid"))?.as_str()) {
        return uid.to_owned();
    }
    let mut hasher = DefaultHasher::new();
    match parsed {
        Ok(value) => ("json", value.to_string()).hash(&mut hasher),
        Err(_) => ("bytes", value).hash(&mut hasher),
    }
    format!("raw-{:016x}", hasher.finish())
}

/// What was published: each event with all its copies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Published {
    /// Where each event's copies stand: topic, partition, offset.
    pub events: BTreeMap<String, Vec<(String, i32, i64)>>,
    /// How to publish the same again; shown with failures.
    pub seed: Option<u64>,
}

impl Published {
    /// Adds one copy of an event.
    pub fn add(&mut self, event: impl Into<String>, topic: &str, partition: i32, offset: i64) {
        self.events.entry(event.into()).or_default().push((topic.to_owned(), partition, offset));
    }

    /// Adds everything of another.
    pub fn extend(&mut self, other: Self) {
        for (event, copies) in other.events {
            self.events.entry(event).or_default().extend(copies);
        }
        self.seed = self.seed.or(other.seed);
    }

    /// Different events.
    #[must_use]
    pub fn unique(&self) -> usize {
        self.events.len()
    }

    /// Records in all.
    #[must_use]
    pub fn records(&self) -> usize {
        self.events.values().map(Vec::len).sum()
    }

    /// The part whose events fulfil a condition.
    #[must_use]
    pub fn only(&self, mut wanted: impl FnMut(&str) -> bool) -> Self {
        let events =
            self.events.iter().filter(|(event, _)| wanted(event)).map(|(e, c)| (e.clone(), c.clone())).collect();
        Self { events, seed: self.seed }
    }
}

/// What was published beside what took effect.
#[derive(Clone, Debug)]
pub struct Check {
    published: Published,
    effects: BTreeMap<String, Vec<Effect>>,
}

/// Failures shown in full; the rest is counted.
const SHOWN: usize = 5;

impl Check {
    /// Compares. The effects are in the order in which they took place.
    #[must_use]
    pub fn new(published: &Published, effects: &[Effect]) -> Self {
        let mut by_event: BTreeMap<String, Vec<Effect>> = BTreeMap::new();
        for effect in effects {
            by_event.entry(effect.event.clone()).or_default().push(effect.clone());
        }
        Self { published: published.clone(), effects: by_event }
    }

    /// How often an event took effect.
    #[must_use]
    pub fn count(&self, event: &str) -> usize {
        self.effects.get(event).map_or(0, Vec::len)
    }

    /// Published events that never took effect.
    #[must_use]
    pub fn lost(&self) -> Vec<&str> {
        self.published.events.keys().filter(|event| self.count(event) == 0).map(String::as_str).collect()
    }

    /// Effects of events that were not published: the app was handed something else than the record.
    #[must_use]
    pub fn unknown(&self) -> Vec<&Effect> {
        self.effects.iter().filter(|(e, _)| !self.published.events.contains_key(*e)).flat_map(|(_, all)| all).collect()
    }

    /// Every effect of an event after its first.
    #[must_use]
    pub fn second(&self) -> Vec<&Effect> {
        self.effects.values().flat_map(|all| all.iter().skip(1)).collect()
    }

    /// # Panics
    /// An event was lost, or an effect belongs to no event.
    pub fn assert_none_lost(&self) {
        let lost = self.lost();
        let mut text = String::new();
        if !lost.is_empty() {
            let _ = writeln!(text, "{} of {} events lost:", lost.len(), self.published.unique());
            for event in lost.iter().take(SHOWN) {
                let _ = writeln!(text, "  {event}, published at {}", places(&self.published.events[*event]));
            }
        }
        let unknown = self.unknown();
        if !unknown.is_empty() {
            let _ = writeln!(text, "{} effects of events that were not published:", unknown.len());
            for effect in unknown.iter().take(SHOWN) {
                let _ = writeln!(text, "  {}: {effect}", effect.event);
            }
        }
        self.fail(&text);
    }

    /// # Panics
    /// An event was lost or came more than once, or an effect belongs to no event.
    pub fn assert_each_once(&self) {
        self.assert_none_lost();
        self.fail(&self.repeated("came more than once", |_| true));
    }

    /// # Panics
    /// An event came again with attempt 1. (Whether one was lost is [`Check::assert_none_lost`]'s.)
    pub fn second_deliveries_only_with_attempt_above_one(&self) {
        self.fail(&self.repeated("came again with attempt 1", |effect| effect.attempt <= 1));
    }

    /// # Panics
    /// An event came again with attempt 1 and full protection: the app was not told.
    pub fn second_deliveries_say_so(&self) {
        let silent = |effect: &Effect| effect.attempt <= 1 && effect.protection == "full";
        self.fail(&self.repeated("came again with attempt 1 and full protection", silent));
    }

    /// Text over the events that have a second effect which is wrong; empty when none has.
    fn repeated(&self, how: &str, wrong: impl Fn(&Effect) -> bool) -> String {
        let bad: Vec<_> = self.effects.iter().filter(|(_, all)| all.iter().skip(1).any(&wrong)).collect();
        let mut text = String::new();
        if !bad.is_empty() {
            let _ = writeln!(text, "{} of {} events {how}:", bad.len(), self.published.unique());
            for (event, all) in bad.iter().take(SHOWN) {
                let copies = self.published.events.get(*event).map(|c| places(c)).unwrap_or_default();
                let _ = writeln!(text, "  {event}, published at {copies}");
                for effect in *all {
                    let _ = writeln!(text, "    {effect}");
                }
            }
        }
        text
    }

    fn fail(&self, text: &str) {
        let seed = self.published.seed.map(|seed| format!("seed {seed}: ")).unwrap_or_default();
        assert!(text.is_empty(), "{seed}{text}");
    }
}

fn places(copies: &[(String, i32, i64)]) -> String {
    let all: Vec<_> = copies.iter().map(|(topic, partition, offset)| format!("{topic}/{partition}@{offset}")).collect();
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    fn effect(event: &str, attempt: u32, protection: &str) -> Effect {
        Effect {
            event: event.into(),
            key: "k".into(),
            attempt,
            protection: protection.into(),
            topic: "t".into(),
            partition: 0,
            offset: 7,
            at: 0,
        }
    }

    fn published(events: &[&str]) -> Published {
        let mut published = Published { seed: Some(42), ..Published::default() };
        for (offset, event) in events.iter().enumerate() {
            published.add(*event, "t", 0, offset as i64);
        }
        published
    }

    fn failure(check: &Check, assertion: fn(&Check)) -> Option<String> {
        let check = check.clone();
        catch_unwind(move || assertion(&check)).err().map(|e| *e.downcast::<String>().unwrap())
    }

    #[test]
    fn a_clean_ledger_passes() {
        let check = Check::new(&published(&["a", "b", "a"]), &[effect("b", 1, "full"), effect("a", 1, "full")]);
        check.assert_each_once();
        check.second_deliveries_say_so();
        check.second_deliveries_only_with_attempt_above_one();
    }

    #[test]
    fn a_lost_event_is_found() {
        let check = Check::new(&published(&["a", "b"]), &[effect("a", 1, "full")]);
        let text = failure(&check, Check::assert_none_lost).unwrap();
        assert!(
            text.contains("seed 42") && text.contains("1 of 2 events lost") && text.contains("b, published at t/0@1")
        );
        assert!(failure(&check, Check::assert_each_once).is_some());
    }

    #[test]
    fn a_second_effect_is_found() {
        let check = Check::new(&published(&["a"]), &[effect("a", 1, "full"), effect("a", 2, "full")]);
        assert!(failure(&check, Check::assert_each_once).unwrap().contains("attempt 2"));
        check.second_deliveries_only_with_attempt_above_one();
        check.assert_none_lost();
    }

    #[test]
    fn a_silent_second_effect_is_found() {
        let open = Check::new(&published(&["a"]), &[effect("a", 1, "full"), effect("a", 1, "local")]);
        assert!(failure(&open, Check::second_deliveries_only_with_attempt_above_one).is_some());
        open.second_deliveries_say_so();
        let silent = Check::new(&published(&["a"]), &[effect("a", 1, "full"), effect("a", 1, "full")]);
        assert!(failure(&silent, Check::second_deliveries_say_so).is_some());
    }

    #[test]
    fn an_effect_of_nothing_published_is_found() {
        let check = Check::new(&published(&["a"]), &[effect("a", 1, "full"), effect("x", 1, "full")]);
        assert!(failure(&check, Check::assert_none_lost).unwrap().contains("not published"));
    }

    #[test]
    fn a_torn_last_line_of_the_file_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        Ledger::file(&path, true).unwrap().write(vec![effect("a", 1, "full"), effect("b", 3, "none")]);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"event\":\"c\",").unwrap();
        assert_eq!(read(&path).unwrap(), [effect("a", 1, "full"), effect("b", 3, "none")]);
    }

    #[test]
    fn events_are_told_by_content() {
        assert_eq!(logical_id(br#"{"event_id":"x","data":{"uid":"7-1"}}"#), "7-1");
        assert_eq!(logical_id(br#"{"uid":"7-1"}"#), "7-1");
        assert_eq!(logical_id(br#"{"a": 1}"#), logical_id(br#"{"a":1}"#));
        assert_ne!(logical_id(b"\xff\x00"), logical_id(b"\xff\x01"));
    }
}
