//! Decides what a configuration file says: YAML (or JSON) in, [`SidecarConfig`] or every mistake with its path out. Pure.

use crds::config::{Problem, Problems, SidecarConfig, example};
use serde::Deserialize;
use serde_json::Value;
use serde_path_to_error::{Segment, Track};

/// No file has more mistakes than this that are worth telling.
const MAX_PROBLEMS: usize = 64;

/// The file is not YAML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NotYaml {
    /// What the parser says, without anything quoted from the file.
    pub(super) wrong: String,
    /// The line, from 1, where known.
    pub(super) line: Option<u64>,
}

/// What a file says, as far as it can be read, and what is wrong in it.
#[derive(Debug)]
pub(super) struct Reading {
    /// The configuration, where mistakes were mended by a default or an example so that the rest can be looked at too.
    pub(super) config: Option<SidecarConfig>,
    /// The mistakes; the configuration is of use only when there is none.
    pub(super) problems: Vec<Problem>,
}

/// Reads a file's text.
pub(super) fn read(text: &str) -> Result<Reading, NotYaml> {
    // The snippet would quote the file, and with it a password that stands where it should not.
    let options = serde_saphyr::options! { with_snippet: false };
    let mut value: Value = serde_saphyr::from_str_with_options(text, options).map_err(|error| NotYaml {
        line: error.location().map(|l| l.line()),
        wrong: without_quotes(&error.to_string()),
    })?;
    let mut problems = Problems::default();
    if !value.is_object() {
        problems.add(".", "the file holds no fields");
        return Ok(Reading { config: None, problems: problems.0 });
    }
    rule_without_members(&mut value, &mut problems);
    let mut config = None;
    while problems.0.len() < MAX_PROBLEMS {
        match attempt(&value) {
            Ok(read) => {
                config = Some(read);
                break;
            }
            Err(fault) => {
                let told = problems.0.iter().any(|p| p.field == fault.field);
                if !told {
                    problems.add_like(&fault.field, &fault.wrong, fault.example());
                }
                if !fault.mend(&mut value, told) {
                    break;
                }
            }
        }
    }
    Ok(Reading { config, problems: problems.0 })
}

/// serde lets further members of a variant without fields pass; `{rule: Data, header: ce_id}` would not mean what it says.
fn rule_without_members(value: &mut Value, problems: &mut Problems) {
    let Some(rule) = value.get_mut("eventId").and_then(Value::as_object_mut) else { return };
    let Some(name @ ("Data" | "Record")) = rule.get("rule").and_then(Value::as_str) else { return };
    let wrong = format!("no such field with rule {name}");
    let like = format!("eventId: {{rule: {name}}}");
    for member in rule.keys().filter(|member| *member != "rule") {
        problems.add_like(format!("eventId.{member}"), &wrong, &like);
    }
    rule.retain(|member, _| member == "rule");
}

/// Keeps what a parser says, and drops what it quotes.
fn without_quotes(message: &str) -> String {
    let mut kept = String::new();
    let mut quote = None;
    for c in message.chars() {
        match quote {
            Some(open) if c == open => {
                quote = None;
                kept.push('…');
                kept.push(c);
            }
            Some(_) => {}
            None => {
                kept.push(c);
                if matches!(c, '`' | '"') {
                    quote = Some(c);
                }
            }
        }
    }
    kept
}

/// One mistake that serde found.
struct Fault {
    field: String,
    wrong: String,
    keys: Vec<Key>,
    unknown: bool,
}

enum Key {
    Name(String),
    Index(usize),
}

fn attempt(value: &Value) -> Result<SidecarConfig, Fault> {
    let mut track = Track::new();
    let result = SidecarConfig::deserialize(serde_path_to_error::Deserializer::new(value, &mut track));
    result.map_err(|error| Fault::new(track.path().iter(), &error.to_string()))
}

impl Fault {
    fn new<'a>(segments: impl Iterator<Item = &'a Segment>, message: &str) -> Self {
        let mut keys: Vec<Key> = segments
            .filter_map(|segment| match segment {
                Segment::Seq { index } => Some(Key::Index(*index)),
                Segment::Map { key } => Some(Key::Name(key.clone())),
                Segment::Enum { .. } | Segment::Unknown => None,
            })
            .collect();
        let missing = quoted_after(message, "missing field `");
        let unknown = quoted_after(message, "unknown field `");
        if let Some(name) = missing.or(unknown) {
            // serde names the struct; for an unknown field sometimes the field already.
            if !matches!(keys.last(), Some(Key::Name(last)) if last == name && unknown.is_some()) {
                keys.push(Key::Name(name.to_owned()));
            }
        }
        let wrong = match (missing, unknown) {
            (Some(_), _) => "is missing".to_owned(),
            (_, Some(_)) => format!("no such field{}", expected(message)),
            _ => plain(message),
        };
        Self { field: path(&keys), wrong, keys, unknown: unknown.is_some() }
    }

    fn example(&self) -> String {
        let parent = path(&self.keys[..self.keys.len().saturating_sub(1)]);
        let (field, within) = if self.unknown { (parent.as_str(), " in its place") } else { (self.field.as_str(), "") };
        example(field).map_or_else(|| "see docs/reference/sidecar-config.md".to_owned(), |e| format!("{e}{within}"))
    }

    /// Takes the mistake out of `value`; an example is put in where it must not be missing. False when nothing helps.
    fn mend(&self, value: &mut Value, again: bool) -> bool {
        let Some((last, parents)) = self.keys.split_last() else { return false };
        let mut node = value;
        for key in parents {
            let inner = match key {
                Key::Name(name) => node.get_mut(name),
                Key::Index(index) => node.get_mut(index),
            };
            match inner {
                Some(inner) => node = inner,
                None => return false,
            }
        }
        match (node, last) {
            (Value::Object(map), Key::Name(name)) => {
                if map.remove(name).is_some() && !again {
                    return true;
                }
                let right = example(&self.field).and_then(|e| serde_saphyr::from_str::<Value>(e).ok());
                match right {
                    Some(right) if !self.unknown => map.insert(name.clone(), right).is_none(),
                    _ => false,
                }
            }
            (Value::Array(list), Key::Index(index)) if *index < list.len() => {
                list.remove(*index);
                true
            }
            _ => false,
        }
    }
}

fn path(keys: &[Key]) -> String {
    let mut path = String::new();
    for key in keys {
        match key {
            Key::Name(name) if path.is_empty() => path.push_str(name),
            Key::Name(name) => path.extend([".", name]),
            Key::Index(index) => path.push_str(&format!("[{index}]")),
        }
    }
    if path.is_empty() { ".".to_owned() } else { path }
}

fn quoted_after<'a>(message: &'a str, head: &str) -> Option<&'a str> {
    message.strip_prefix(head)?.split('`').next()
}

/// What serde would rather have seen, if it says so.
fn expected(message: &str) -> String {
    message.rfind(", expected ").map_or_else(String::new, |at| message[at..].to_owned())
}

/// serde's message in plain words; a text from the file is not repeated, since it may be a Secret in the wrong place.
fn plain(message: &str) -> String {
    if message.starts_with("unknown variant `") {
        return format!("is none of the words there are{}", expected(message));
    }
    let Some(rest) = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: ")) else {
        return message.to_owned();
    };
    let found = if rest.starts_with("string ") { "a text" } else { rest.split(", expected ").next().unwrap_or("?") };
    let wanted = expected(message);
    let wanted = match wanted.trim_start_matches(", expected ") {
        w if w.starts_with("struct ") || w.starts_with("internally tagged") || w.starts_with("a map") => {
            "a map of fields"
        }
        "usize" | "u16" | "u32" => "a whole number, 0 or more",
        "a string" | "str" => "a text (put it in quotes)",
        "path string" => "a path",
        "a sequence" => "a list",
        "a boolean" => "true or false",
        other => other,
    };
    format!("is {found}, expected {wanted}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "version: 1\ngroup: g\ntopics: [t]\nkafka: {bootstrapServers: 'k:9092'}\nredis: {url: 'redis://r'}\n";

    fn fields(text: &str) -> Vec<String> {
        let reading = read(text).unwrap();
        reading.problems.iter().map(|p| p.field.clone()).collect()
    }

    #[test]
    fn yaml_and_json_say_the_same() {
        let yaml = read(GOOD).unwrap();
        assert_eq!(yaml.problems, []);
        let json = serde_json::to_string(&yaml.config).unwrap();
        assert_eq!(read(&json).unwrap().config, yaml.config);
    }

    #[test]
    fn every_mistake_is_told_with_its_path() {
        let text = "version: one\ntopics: [t, {a: 1}]\nkafka: {bootstrapServers: 5, tsl: {}}\nredis: {}\n\
                    delivery: {backoff: {min: soon, maxx: 1s}, batch: 4, port: 70000}\neventId: {rule: Header}\n\
                    ttlOverrides: {A: 5}\n";
        let mut found = fields(text);
        found.sort();
        assert_eq!(
            found,
            [
                "delivery.backoff.maxx",
                "delivery.backoff.min",
                "delivery.batch",
                "delivery.port",
                "eventId.header",
                "group",
                "kafka.bootstrapServers",
                "kafka.tsl",
                "topics[1]",
                "ttlOverrides.A",
                "version",
            ]
        );
    }

    #[test]
    fn the_rest_is_readable_after_mistakes() {
        let reading = read(&format!("{GOOD}ttl: soon\nbogus: 1\n")).unwrap();
        assert_eq!(reading.problems.len(), 2);
        assert_eq!(reading.config.unwrap(), read(GOOD).unwrap().config.unwrap());
    }

    #[test]
    fn a_text_in_the_wrong_place_is_not_repeated() {
        let reading = read(&GOOD.replace("{url: 'redis://r'}", "'redis://:hunter2@r'")).unwrap();
        let told = format!("{:?}", reading.problems);
        assert!(told.contains("redis") && told.contains("a map of fields"), "{told}");
        assert!(!told.contains("hunter2"), "{told}");
        let broken = read("redis:\n  url: \"redis://:hunter2@r\n kafka: [").unwrap_err();
        assert!(!broken.wrong.contains("hunter2"), "{broken:?}");
        for wrong in ["ttl: hunter2", "eventId: {rule: hunter2}", "redis: {url: 'redis://r', failurePolicy: hunter2}"] {
            let reading = read(&format!("{}{wrong}\n", GOOD.replace("redis: {url: 'redis://r'}\n", ""))).unwrap();
            let told = format!("{:?}", reading.problems);
            assert!(told.contains("wrong") && !told.contains("hunter2"), "{told}");
        }
        assert!(broken.line.is_some());
    }

    #[test]
    fn a_member_that_another_rule_has_is_refused() {
        for (rule, field) in [
            ("{rule: Data, header: ce_id}", "eventId.header"),
            ("{rule: Record, fields: [/a]}", "eventId.fields"),
            ("{rule: Header, header: ce_id, fields: [/a]}", "eventId.fields"),
        ] {
            assert_eq!(fields(&format!("{GOOD}eventId: {rule}\n")), [field], "{rule}");
        }
        assert_eq!(fields(&format!("{GOOD}eventId: {{rule: Data}}\n")), [""; 0]);
    }

    #[test]
    fn a_repeated_field_and_an_empty_file_are_refused() {
        assert!(read(&format!("{GOOD}group: h\n")).unwrap_err().wrong.contains("uplicate"));
        for text in ["", "[]", "hello", "---\n"] {
            assert_eq!(fields(text), ["."], "{text:?}");
        }
    }
}
