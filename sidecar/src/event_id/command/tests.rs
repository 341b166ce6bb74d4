//! Tests of `sidecar event-id`: what it prints, and what it says of bad input.

use std::path::PathBuf;

use clap::Parser;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::*;
use crate::event_id::EventId;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: EventIdArgs,
}

/// Exit code, output and messages of the command with these arguments.
fn called(args: &[&OsStr], stdin: &[u8]) -> (u8, String, String) {
    let cli = Cli::try_parse_from([OsStr::new("event-id")].iter().chain(args)).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = run_with(cli.args, &mut &stdin[..], &mut out, &mut err);
    (code, String::from_utf8_lossy(&out).into_owned(), String::from_utf8(err).unwrap())
}

fn on_stdin(args: &[&str], stdin: &str) -> (u8, String, String) {
    let args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
    called(&args, stdin.as_bytes())
}

fn sha(bytes: &str) -> EventId {
    EventId(Sha256::digest(bytes).into())
}

fn file(dir: &TempDir, name: &str, content: &str) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    path
}

#[test]
fn the_arguments_fit_together() {
    <Cli as clap::CommandFactory>::command().debug_assert();
}

#[test]
fn files_are_listed_as_sha256sum_lists_them() {
    let dir = TempDir::new().unwrap();
    let (one, two) = (file(&dir, "one", r#"{"data":[1 ]}"#), file(&dir, "two", "raw"));
    let (code, out, err) = called(&[one.as_os_str(), two.as_os_str()], b"");
    let wanted = format!("{}  {}\n{}  {}\n", sha("[1]"), one.display(), sha("raw"), two.display());
    assert_eq!((code, out, err), (0, wanted, String::new()));
}

#[test]
fn standard_input_is_read_when_no_file_is_named() {
    let wanted = format!("{}  -\n", sha("1"));
    assert_eq!(on_stdin(&[], r#"{"data":1}"#), (0, wanted.clone(), String::new()));
    assert_eq!(on_stdin(&["-"], r#"{"data":1}"#), (0, wanted, String::new()));
}

#[test]
fn lines_are_records_and_only_a_line_feed_ends_them() {
    let (code, out, err) = on_stdin(&["--lines", "-"], "{\"data\":1}\n{\"data\": 1}\r\nraw\r\nlast");
    let wanted = [sha("1"), sha("1"), sha("raw\r"), sha("last")].into_iter().enumerate();
    let wanted: String = wanted.map(|(i, id)| format!("{id}  -:{}\n", i + 1)).collect();
    assert_eq!((code, out, err), (0, wanted, String::new()));
}

#[test]
fn an_unreadable_file_is_named_and_the_others_still_read() {
    let dir = TempDir::new().unwrap();
    let good = file(&dir, "good", "raw");
    let missing = dir.path().join("missing");
    let (code, out, err) = called(&[missing.as_os_str(), dir.path().as_os_str(), good.as_os_str()], b"");
    assert_eq!((code, out), (1, format!("{}  {}\n", sha("raw"), good.display())));
    let messages: Vec<&str> = err.lines().collect();
    assert_eq!(messages.len(), 2, "{err}");
    assert!(messages[0].starts_with(&format!("sidecar event-id: {}: ", missing.display())), "{err}");
    assert!(messages[1].starts_with(&format!("sidecar event-id: {}: ", dir.path().display())), "{err}");
}

#[test]
fn an_empty_record_has_no_id_without_its_place() {
    let (code, out, err) = on_stdin(&["--lines"], "a\n\nb\n");
    assert_eq!((code, out), (1, format!("{}  -:1\n{}  -:3\n", sha("a"), sha("b"))));
    assert!(err.contains("-:2: ") && err.contains("place in the topic"), "{err}");
    assert_eq!(on_stdin(&[], "").0, 1);
    assert_eq!(on_stdin(&["--lines"], ""), (0, String::new(), String::new()), "no lines, no records");
}

#[test]
fn each_rule_can_be_asked_for() {
    let value = r#"{"event_id":"1","data": 2}"#;
    let id = |args: &[&str]| on_stdin(args, value).1.split("  ").next().unwrap_or_default().to_owned();
    assert_eq!(id(&["--rule", "record"]), sha(value).to_string());
    assert_eq!(
        id(&["--rule", "fields", "--field", "/event_id", "--field", "/data"]),
        sha("idempotent-consumer/fields\0{\"/data\":2,\"/event_id\":\"1\"}").to_string()
    );
    let header = id(&["--rule", "header", "--header-name", "ce_id", "--header", "ce_id=a=b"]);
    assert_eq!(header, sha("idempotent-consumer/header\0\0\0\0\x05ce_ida=b").to_string());
}

#[test]
fn arguments_that_make_no_sense_are_refused_before_anything_is_read() {
    for (args, says) in [
        (&["--rule", "fields"][..], "--field /event_id"),
        (&["--rule", "fields", "--field", "event_id"], "begins with `/`"),
        (&["--rule", "header"], "--header-name ce_id"),
        (&["--field", "/a"], "--rule fields"),
        (&["--header-name", "a"], "--rule header"),
    ] {
        let (code, out, err) = on_stdin(args, "raw");
        assert_eq!((code, out.as_str()), (64, ""), "{args:?}");
        assert!(err.contains(says), "{args:?}: {err}");
    }
    assert!(Cli::try_parse_from(["event-id", "--header", "novalue"]).is_err());
    assert!(Cli::try_parse_from(["event-id", "--rule", "other"]).is_err());
}

#[test]
fn canonical_shows_what_is_hashed() {
    let shown = |args: &[&str], value: &str| on_stdin(&[&["--canonical"], args].concat(), value);
    assert_eq!(
        shown(&[], r#"{"data":{"b":1e5,"a":"é"}}"#),
        (0, "{\"a\":\"\\u00e9\",\"b\":100000.0}\n".into(), String::new())
    );
    let header = ["--rule", "header", "--header-name", "h", "--header", "h=v"];
    assert_eq!(shown(&header, "x"), (0, "h: v\n".into(), String::new()));
    let (code, out, err) = shown(&[], "raw");
    assert_eq!((code, out.as_str()), (0, "raw\n"));
    assert!(err.contains("-: the rule finds nothing here"), "{err}");
}

#[test]
fn odd_file_names_are_escaped_as_sha256sum_escapes_them() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "a\n\\b", "raw");
    let (_, out, _) = called(&[path.as_os_str()], b"");
    assert_eq!(out, format!("\\{}  {}/a\\n\\\\b\n", sha("raw"), dir.path().display()));
}

/// Takes so many bytes, then answers with an error.
struct Closing(usize, io::ErrorKind);

impl Write for Closing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        if taken == 0 { Err(self.1.into()) } else { Ok(taken) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_broken_pipe_is_quiet_and_a_full_disk_is_not() {
    let ended = |kind| {
        let cli = Cli::try_parse_from(["event-id", "--lines"]).unwrap();
        let mut err = Vec::new();
        let input = "raw\n".repeat(100);
        let code = run_with(cli.args, &mut input.as_bytes(), &mut Closing(100, kind), &mut err);
        (code, String::from_utf8(err).unwrap())
    };
    assert_eq!(ended(io::ErrorKind::BrokenPipe), (0, String::new()));
    let (code, err) = ended(io::ErrorKind::StorageFull);
    assert_eq!(code, 1);
    assert!(err.starts_with("sidecar event-id: standard output: "), "{err}");
}
