//! Random documents, valid and broken, read by us and by the machine's `python3` side by side.
//!
//! The seed is printed; `CANONICAL_SEED` sets it, `CANONICAL_CASES` the number of documents.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code outside #[test] functions"
)]

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sidecar::canonical::{MAX_DEPTH, canonical};

/// Reads base64 lines; answers `=` and the canonical text in base64, or `!` and why there is none.
const PYTHON: &str = r#"
import base64, json, sys
# Python's own limit depends on its caller, so it is lifted and ours is put in its place.
sys.setrecursionlimit(5000)
sys.get_int_max_str_digits()

def depth(text):
    now = most = 0
    quoted = escaped = False
    for c in text:
        if quoted:
            if escaped: escaped = False
            elif c == "\\": escaped = True
            elif c == '"': quoted = False
        elif c == '"': quoted = True
        elif c in "[{":
            now += 1
            most = max(most, now)
        elif c in "]}": now -= 1
    return most

for line in sys.stdin:
    try:
        text = base64.b64decode(line).decode("utf-8-sig")
        value = json.loads(text)
        if depth(text) > MAX_DEPTH: raise ValueError("too deep")
        out = json.dumps(value, sort_keys=True, separators=(",", ":"))
        answer = "=" + base64.b64encode(out.encode("ascii")).decode()
    except (ValueError, RecursionError) as e:
        answer = "!" + repr(e)[:200]
    print(answer, flush=True)
"#;

struct Python {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Python {
    fn start() -> Self {
        let script = PYTHON.replace("MAX_DEPTH", &MAX_DEPTH.to_string());
        let mut child = Command::new("python3")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| {
                panic!("this test needs python3 (3.11 or later) on the PATH; apt install python3: {e}")
            });
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    fn canonical(&mut self, document: &[u8]) -> Result<Vec<u8>, String> {
        let sent = writeln!(self.input, "{}", STANDARD.encode(document)).and_then(|()| self.input.flush());
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(
            sent.is_ok() && !line.is_empty(),
            "python3 ended early; its message is above (3.11 or later is needed)"
        );
        match line.trim_end().split_at(1) {
            ("=", text) => Ok(STANDARD.decode(text).unwrap()),
            (_, why) => Err(why.to_owned()),
        }
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// SplitMix64: the same documents from the same seed, whatever version of whatever crate.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'t>(&mut self, from: &[&'t str]) -> &'t str {
        from[self.below(from.len())]
    }
}

/// Parts of strings as they stand in a document; those in `BROKEN` make it invalid.
const PARTS: &[&str] = &[
    "a",
    "b",
    "ab",
    "data",
    "event_id",
    "0",
    "9",
    "10",
    " ",
    "/",
    "\\/",
    "\\\"",
    "\\\\",
    "\\n",
    "\\r",
    "\\t",
    "\\b",
    "\\f",
    "\\u0000",
    "\\u001f",
    "\\u007f",
    "\u{7f}",
    "\u{80}",
    "é",
    "e\u{301}",
    "\\u00e9",
    "\\u00E9",
    "\\u0061",
    "日本",
    "\u{ffff}",
    "\u{e000}",
    "\\ue000",
    "😀",
    "\u{10ffff}",
    "\u{10000}",
    "\\ud83d\\ude00",
    "\\uD83D\\uDE00",
    "\\ud83d",
    "\\ude00",
    "\\udfff",
    "\\ud83d\\ud83d\\ude00",
    "\\ud800\\u0080",
    "\u{feff}",
    "\\ufeff",
    "\u{2028}",
    "xxxxxxxxxxxxxxxxxxxxxxx",
    "~",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "NaN",
];
const BROKEN: &[&str] = &["\n", "\t", "\u{1f}", "\\x", "\\u12", "\\ud83d\\u12g4", "\\", "\"", "\\u+123", "\0"];
const NUMBERS: &[&str] = &[
    "0",
    "-0",
    "-0.0",
    "0.0",
    "0e0",
    "-0e-5",
    "0E+400",
    "1",
    "-1",
    "1.0",
    "100.0",
    "1e2",
    "1E+2",
    "1e-2",
    "1e15",
    "1e16",
    "1e17",
    "123456789012345678",
    "9007199254740993.0",
    "1e22",
    "1e23",
    "1e-4",
    "0.0001",
    "0.00010",
    "0.00001",
    "9.9999e-5",
    "5e-324",
    "2.4703282292062327e-324",
    "2.4703282292062328e-324",
    "1.7976931348623157e308",
    "1.7976931348623159e308",
    "1e400",
    "-1E400",
    "1e-400",
    "4.35",
    "0.1",
    "0.30000000000000004",
    "2.2250738585072014e-308",
    "9999999999999998.0",
    "999999999999999.9",
    "99999999999999990.0",
    "0.000123456789012345",
    "0.123456789012345",
    "0.1234567890123456",
    "123456789012345.0",
    "1234567890123456.0",
    "5.684341886080802e-14",
    "9.5367431640625e-07",
    "NaN",
    "Infinity",
    "-Infinity",
];
const BROKEN_NUMBERS: &[&str] =
    &["01", "-", "+1", "1.", ".5", "1e", "1e+", "-NaN", "nan", "Inf", "0x10", "--1", "1_0", "-Inf", "1.e5", "-01", "١"];

struct Writer {
    random: Random,
    out: Vec<u8>,
    /// One in so many parts is broken; 0: none.
    broken: usize,
}

impl Writer {
    fn put(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn wrong(&mut self) -> bool {
        self.broken > 0 && self.random.one_in(self.broken)
    }

    fn space(&mut self) {
        while self.random.one_in(4) {
            let space = self.random.pick(&[" ", "\t", "\n", "\r\n", "  "]);
            self.put(space);
        }
        if self.wrong() {
            let space = self.random.pick(&["\u{a0}", "\u{b}", "\u{feff}", "\u{c}", "//"]);
            self.put(space);
        }
    }

    fn string(&mut self) {
        self.put("\"");
        for _ in 0..self.random.below(5) {
            let part = self.random.pick(PARTS);
            self.put(part);
            if self.wrong() {
                let part = self.random.pick(BROKEN);
                self.put(part);
            }
        }
        self.put("\"");
    }

    fn number(&mut self) {
        if self.wrong() {
            let number = self.random.pick(BROKEN_NUMBERS);
            return self.put(number);
        }
        let number = match self.random.below(9) {
            0 | 1 => self.random.pick(NUMBERS).to_owned(),
            2 => format!("{}", self.random.next() as i64),
            3 => {
                let float = f64::from_bits(self.random.next());
                if float.is_finite() { format!("{float:e}") } else { "1.5".to_owned() }
            }
            // Powers of two lie unevenly between their neighbours: where digit generators differ.
            4 => format!("{:e}", 2_f64.powi(self.random.below(2100) as i32 - 1074)),
            // Halfway between two shortest forms, more often than chance would have it.
            8 => format!(
                "{:.9}",
                ((1 << 50) + self.random.next() as i64 % (1 << 52)) as f64 / f64::from(1 << self.random.below(10))
            ),
            5 => format!(
                "{}{}.{}",
                self.random.pick(&["", "-"]),
                self.random.below(100_000),
                self.random.below(1_000_000)
            ),
            6 => format!(
                "{}.{:0width$}",
                self.random.below(10),
                self.random.below(1000),
                width = 3 + self.random.below(14)
            ),
            _ => {
                let digits =
                    if self.random.one_in(8) { 4295 + self.random.below(10) } else { 1 + self.random.below(60) };
                let mut text = self.random.pick(&["", "-"]).to_owned();
                text.push('7');
                text.extend((1..digits).map(|_| char::from(b'0' + self.random.below(10) as u8)));
                text.push_str(self.random.pick(&["", "", ".0", "e-30", ".25E3"]));
                text
            }
        };
        self.put(&number);
    }

    fn value(&mut self, depth: usize) {
        match self.random.below(if depth > 5 { 6 } else { 10 }) {
            0..=2 => self.string(),
            3 | 4 => self.number(),
            5 => {
                let word = self.random.pick(&["true", "false", "null"]);
                self.put(word);
            }
            6 => self.list(depth, false),
            _ => self.list(depth, true),
        }
    }

    fn list(&mut self, depth: usize, object: bool) {
        self.put(if object { "{" } else { "[" });
        for i in 0..self.random.below(6) {
            if i > 0 {
                self.put(",");
            }
            self.space();
            if object {
                self.string();
                self.space();
                self.put(":");
                self.space();
            }
            self.value(depth + 1);
            self.space();
        }
        if self.wrong() {
            self.put(",");
        }
        self.put(if object { "}" } else { "]" });
    }

    /// Nesting on both sides of the limit, with keys out of order on the way.
    fn deep(&mut self) {
        let depth = if self.random.one_in(2) { MAX_DEPTH - 3 + self.random.below(6) } else { self.random.below(2000) };
        let mut closing = Vec::new();
        for _ in 0..depth {
            let (open, close) =
                [("[", "]"), ("{\"b\":", "}"), ("{\"b\":", ",\"a\":1}"), ("[0,", "]")][self.random.below(4)];
            self.put(open);
            closing.push(close);
        }
        self.put("1");
        for close in closing.into_iter().rev() {
            self.put(close);
        }
    }

    fn document(&mut self) -> Vec<u8> {
        self.out.clear();
        self.broken = [0, 0, 0, 200, 40][self.random.below(5)];
        if self.random.one_in(20) {
            self.put("\u{feff}");
        }
        self.space();
        match self.random.below(40) {
            0 => self.deep(),
            1..=8 => self.value(0),
            _ => self.list(0, true),
        }
        self.space();
        let mut document = std::mem::take(&mut self.out);
        if self.random.one_in(6) {
            self.damage(&mut document);
        }
        document
    }

    /// Changes, drops or adds single bytes, or cuts the end off.
    fn damage(&mut self, document: &mut Vec<u8>) {
        for _ in 0..=self.random.below(2) {
            let at = self.random.below(document.len().max(1));
            let byte = match self.random.below(3) {
                0 => self.random.next() as u8,
                _ => b"\"\\,:{}[]0-.eE \xff\xed\xc0"[self.random.below(17)],
            };
            match self.random.below(4) {
                0 if at < document.len() => document[at] = byte,
                1 if at < document.len() => drop(document.remove(at)),
                2 => document.insert(at.min(document.len()), byte),
                _ => document.truncate(at),
            }
        }
    }
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn random_documents_read_as_in_python() {
    let seed = from_env("CANONICAL_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
    let cases = from_env("CANONICAL_CASES").unwrap_or(10_000);
    println!("CANONICAL_SEED={seed} CANONICAL_CASES={cases}");
    let mut python = Python::start();
    let mut writer = Writer { random: Random(seed), out: Vec::new(), broken: 0 };
    let (mut accepted, mut refused) = (0, 0);
    for case in 0..cases {
        let document = writer.document();
        let (theirs, ours) = (python.canonical(&document), canonical(&document));
        let same = match (&theirs, &ours) {
            (Ok(theirs), Ok(ours)) => theirs == ours,
            (Err(_), Err(_)) => true,
            _ => false,
        };
        assert!(
            same,
            "CANONICAL_SEED={seed}, case {case}, document in base64: {}\npython: {:?}\n  ours: {:?}",
            STANDARD.encode(&document),
            theirs.map(|t| String::from_utf8_lossy(&t).into_owned()),
            ours.map(|t| String::from_utf8_lossy(&t).into_owned()),
        );
        if theirs.is_ok() { accepted += 1 } else { refused += 1 }
    }
    println!("{accepted} documents accepted, {refused} refused, by both");
    // A generator that makes one kind only would compare nothing.
    assert!(cases < 1000 || (accepted > cases / 3 && refused > cases / 10), "{accepted} accepted, {refused} refused");
}
