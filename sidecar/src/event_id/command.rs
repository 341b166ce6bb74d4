//! Decides nothing: `sidecar event-id` reads files and prints the event ids that a consumer would give them. I/O.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::sync::Arc;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use crds::config::EventIdRule;

use super::{Basis, Scratch, basis};
use crate::canonical::{PointerError, check_pointer};
use crate::record::{Header, Record, TopicPartition};

/// Every file was read and every record has an id.
const DONE: u8 = 0;
/// A file could not be read, or a record has no id outside its topic.
const SOME_FAILED: u8 = 1;
/// The arguments make no sense together (sysexits' EX_USAGE).
const USAGE: u8 = 64;

/// Prints event ids as sha256sum prints checksums: why is this a duplicate?
#[derive(Args, Clone, Debug)]
pub struct EventIdArgs {
    /// Files to read; `-` is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    files: Vec<OsString>,

    /// One record a line (ended by a line feed alone) instead of one a file
    #[arg(long)]
    lines: bool,

    /// How an event is told from another: spec.eventId.rule of the consumer
    #[arg(long, value_enum, default_value_t = Rule::Data)]
    rule: Rule,

    /// For --rule fields: a JSON pointer into the record, for example /event_id; may be repeated
    #[arg(long = "field", value_name = "POINTER")]
    fields: Vec<String>,

    /// For --rule header: the record header that holds the id, for example ce_id
    #[arg(long, value_name = "NAME")]
    header_name: Option<String>,

    /// A record header that every record is taken to have; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,

    /// Print what is hashed instead of the id, so that two events can be compared with diff
    #[arg(long)]
    canonical: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Rule {
    /// The envelope's `data` member in canonical JSON
    Data,
    /// The raw value
    Record,
    /// Fields of the envelope, named by --field
    Fields,
    /// A record header, named by --header-name
    Header,
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE, for example ce_id=4f1c".to_owned()),
    }
}

#[derive(Debug, thiserror::Error)]
enum UsageError {
    #[error("--rule fields needs a field, for example --field /event_id")]
    NoField,
    #[error("--field {field}: {source}")]
    Pointer { field: String, source: PointerError },
    #[error("--rule header needs the header's name, for example --header-name ce_id --header ce_id=4f1c")]
    NoHeaderName,
    #[error("--field goes with --rule fields")]
    StrayField,
    #[error("--header-name goes with --rule header")]
    StrayHeaderName,
}

impl EventIdArgs {
    fn rule(&self) -> Result<EventIdRule, UsageError> {
        let rule = match self.rule {
            Rule::Data => EventIdRule::Data,
            Rule::Record => EventIdRule::Record,
            Rule::Fields if self.fields.is_empty() => return Err(UsageError::NoField),
            Rule::Fields => EventIdRule::Fields { fields: self.fields.clone() },
            Rule::Header => EventIdRule::Header { header: self.header_name.clone().ok_or(UsageError::NoHeaderName)? },
        };
        if !matches!(rule, EventIdRule::Fields { .. }) && !self.fields.is_empty() {
            return Err(UsageError::StrayField);
        }
        if !matches!(rule, EventIdRule::Header { .. }) && self.header_name.is_some() {
            return Err(UsageError::StrayHeaderName);
        }
        for field in &self.fields {
            check_pointer(field).map_err(|source| UsageError::Pointer { field: field.clone(), source })?;
        }
        Ok(rule)
    }
}

/// Runs the command and returns its exit code: 0; 1 if a file could not be read or a record was empty; 64 if the arguments
/// make no sense together. It goes on after a bad file, and ends in silence when nobody reads its output any more.
pub fn run(args: EventIdArgs, out: &mut impl Write, err: &mut impl Write) -> u8 {
    run_with(args, &mut io::stdin().lock(), out, err)
}

fn run_with(args: EventIdArgs, stdin: &mut impl BufRead, out: &mut impl Write, err: &mut impl Write) -> u8 {
    let rule = match args.rule() {
        Ok(rule) => rule,
        Err(e) => {
            complain(err, format_args!("{e}"));
            return USAGE;
        }
    };
    let headers = args.headers.iter().cloned().map(|(name, v)| Header { name, value: Some(Bytes::from(v)) }).collect();
    let record = Record {
        origin: TopicPartition { topic: Arc::from(""), partition: 0 },
        offset: 0,
        timestamp: None,
        key: None,
        value: None,
        headers,
    };
    let mut printer =
        Printer { rule, canonical: args.canonical, record, scratch: Scratch::default(), out, err, failed: false };
    let mut done = Ok(());
    for file in &args.files {
        done = if file == "-" { printer.input(file, args.lines, stdin) } else { printer.file(file, args.lines) };
        if done.is_err() {
            break;
        }
    }
    match done.and_then(|()| printer.out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => DONE,
        Err(e) => {
            complain(err, format_args!("standard output: {e}"));
            SOME_FAILED
        }
        Ok(()) if printer.failed => SOME_FAILED,
        Ok(()) => DONE,
    }
}

/// A message that cannot be written has no other place to go.
fn complain(err: &mut impl Write, message: std::fmt::Arguments<'_>) {
    let _ = writeln!(err, "sidecar event-id: {message}");
}

struct Printer<'a, O, E> {
    rule: EventIdRule,
    canonical: bool,
    /// What every record has; its value changes.
    record: Record,
    scratch: Scratch,
    out: &'a mut O,
    err: &'a mut E,
    failed: bool,
}

/// Its errors are those of the output alone; a bad input is reported and counted.
impl<O: Write, E: Write> Printer<'_, O, E> {
    fn file(&mut self, path: &OsStr, lines: bool) -> io::Result<()> {
        match File::open(path) {
            Ok(file) => self.input(path, lines, &mut BufReader::new(file)),
            Err(e) => self.fail(format_args!("{}: {e}", path.display())),
        }
    }

    fn input(&mut self, name: &OsStr, lines: bool, input: &mut impl BufRead) -> io::Result<()> {
        if !lines {
            let mut value = Vec::new();
            return match input.read_to_end(&mut value) {
                Ok(_) => self.record(value, name, None),
                Err(e) => self.fail(format_args!("{}: {e}", name.display())),
            };
        }
        for line in 1_u64.. {
            let mut value = Vec::new();
            match input.read_until(b'\n', &mut value) {
                Ok(0) => break,
                Ok(_) => {}
                Err(e) => return self.fail(format_args!("{}: {e}", name.display())),
            }
            if value.last() == Some(&b'\n') {
                value.pop();
            }
            self.record(value, name, Some(line))?;
        }
        Ok(())
    }

    fn record(&mut self, value: Vec<u8>, name: &OsStr, line: Option<u64>) -> io::Result<()> {
        self.record.value = Some(Bytes::from(value));
        let basis = basis(&self.record, &self.rule, &mut self.scratch);
        let place = line.map_or_else(String::new, |line| format!(":{line}"));
        if basis == Basis::Place {
            complain(
                self.err,
                format_args!(
                    "{}{place}: no value: the id of an empty record is its place in the topic \
                     (topic, partition, offset, timestamp)",
                    name.display()
                ),
            );
            self.failed = true;
            return Ok(());
        }
        if !self.canonical {
            let id = basis.id(&self.record);
            let (mark, name) = escape_name(name.as_encoded_bytes());
            write!(self.out, "{mark}{id}  ")?;
            self.out.write_all(&name)?;
            return writeln!(self.out, "{place}");
        }
        if basis.is_fallback(&self.rule) {
            let why = "the rule finds nothing here, so the raw value is hashed";
            complain(self.err, format_args!("{}{place}: {why}", name.display()));
        }
        match basis {
            Basis::Canonical(text) | Basis::Fields(text) | Basis::Raw(text) => self.out.write_all(text)?,
            Basis::Header { name, value } => {
                write!(self.out, "{name}: ")?;
                self.out.write_all(value)?;
            }
            Basis::Place => {}
        }
        writeln!(self.out)
    }

    fn fail(&mut self, message: std::fmt::Arguments<'_>) -> io::Result<()> {
        complain(self.err, message);
        self.failed = true;
        Ok(())
    }
}

/// As sha256sum: a name with a line break or backslash is escaped, and its line begins with a backslash.
fn escape_name(name: &[u8]) -> (&'static str, Vec<u8>) {
    if !name.iter().any(|b| matches!(b, b'\\' | b'\n' | b'\r')) {
        return ("", name.to_vec());
    }
    let mut escaped = Vec::with_capacity(name.len() + 2);
    for byte in name {
        match byte {
            b'\\' => escaped.extend_from_slice(b"\\\\"),
            b'\n' => escaped.extend_from_slice(b"\\n"),
            b'\r' => escaped.extend_from_slice(b"\\r"),
            _ => escaped.push(*byte),
        }
    }
    ("\\", escaped)
}

#[cfg(test)]
mod tests;
