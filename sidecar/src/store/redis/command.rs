//! Decides how an operation is said in Redis commands and what a reply means. Pure.

use std::sync::LazyLock;
use std::time::Duration;

use redis::{Cmd, Script, ServerError, ServerErrorKind, Value};

use crate::store::{Op, Reply, StoreError};

/// A script and the name under which a server that holds it knows it.
struct Lua {
    code: &'static str,
    sha: String,
}

impl Lua {
    fn new(code: &'static str) -> Self {
        Self { code, sha: Script::new(code).get_hash().to_owned() }
    }
}

/// Writes where there is nothing, else answers with what is there: `SET … NX GET` for servers older than Redis 7.
static CLAIM: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        "local v = redis.call('GET', KEYS[1]) if v then return v end \
         redis.call('SET', KEYS[1], ARGV[1], ARGV[2], ARGV[3]) return false",
    )
});

static COMPARE_AND_SET: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end \
         redis.call('SET', KEYS[1], ARGV[2], ARGV[3], ARGV[4]) return 1",
    )
});

static COMPARE_AND_DELETE: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new("if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end redis.call('DEL', KEYS[1]) return 1")
});

/// Codes of errors that Redis answers instead of executing a command. An error with another code is not Redis's own: a
/// proxy in between may have sent the command on before it gave up.
const NOT_EXECUTED: &[&str] = &[
    "ERR",
    "WRONGTYPE",
    "OOM",
    "READONLY",
    "LOADING",
    "NOPERM",
    "NOAUTH",
    "WRONGPASS",
    "NOSCRIPT",
    "MOVED",
    "ASK",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "CROSSSLOT",
    "MASTERDOWN",
    "MISCONF",
    "BUSY",
    "NOREPLICAS",
    "EXECABORT",
    "DENIED",
];

/// Texts under `ERR` by which twemproxy and Envoy say that the server behind them did not answer.
const PROXY_GAVE_UP: &[&str] = &["timed out", "reset by peer", "roken pipe", "upstream"];

/// How the operations of one round trip are said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// `SetIfAbsent` as the script, not as `SET … NX GET`.
    pub(super) claim_by_script: bool,
    /// Scripts in full, for a server that doesn't hold them.
    pub(super) in_full: bool,
}

/// What a reply means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// This is the operation's answer.
    Answer(Result<Reply, StoreError>),
    /// The server doesn't hold the script; surely not applied.
    NoScript,
    /// The server doesn't know `SET … NX GET`; surely not applied.
    OldServer,
    /// The node that serves the key's slot for good; surely not applied.
    Moved(String),
    /// The node to ask this once; surely not applied.
    Ask(String),
}

/// The command for an operation.
pub(super) fn command(op: &Op, form: Form) -> Cmd {
    match op {
        Op::SetIfAbsent { key, value, ttl } if form.claim_by_script => {
            let mut cmd = script(&CLAIM, form, key);
            cmd.arg(&value[..]);
            expiry(&mut cmd, *ttl);
            cmd
        }
        Op::SetIfAbsent { key, value, ttl } => {
            let mut cmd = set(key, value, *ttl);
            cmd.arg("NX").arg("GET");
            cmd
        }
        Op::SetIfPresent { key, value, ttl } => {
            let mut cmd = set(key, value, *ttl);
            cmd.arg("XX");
            cmd
        }
        Op::CompareAndSet { key, expect, value, ttl } => {
            let mut cmd = script(&COMPARE_AND_SET, form, key);
            cmd.arg(&expect[..]).arg(&value[..]);
            expiry(&mut cmd, *ttl);
            cmd
        }
        Op::CompareAndDelete { key, expect } => {
            let mut cmd = script(&COMPARE_AND_DELETE, form, key);
            cmd.arg(&expect[..]);
            cmd
        }
        Op::Set { key, value, ttl } => set(key, value, *ttl),
        Op::Delete { key } => {
            let mut cmd = redis::cmd("DEL");
            cmd.arg(&**key);
            cmd
        }
        Op::Exists { key } => {
            let mut cmd = redis::cmd("EXISTS");
            cmd.arg(&**key);
            cmd
        }
    }
}

fn set(key: &str, value: &[u8], ttl: Duration) -> Cmd {
    // Room for all of it, with `EX`, its number, `NX` and `GET`: two allocations, and none of them grows.
    let mut cmd = Cmd::with_capacity(7, key.len() + value.len() + 32);
    cmd.arg("SET").arg(key).arg(value);
    expiry(&mut cmd, ttl);
    cmd
}

fn script(script: &Lua, form: Form, key: &str) -> Cmd {
    let mut cmd = redis::cmd(if form.in_full { "EVAL" } else { "EVALSHA" });
    cmd.arg(if form.in_full { script.code } else { &script.sha }).arg(1).arg(key);
    cmd
}

/// Whole seconds as people read them in `MONITOR`, else milliseconds, rounded up: Redis refuses an expiry of 0.
fn expiry(cmd: &mut Cmd, ttl: Duration) {
    if ttl.subsec_nanos() == 0 && !ttl.is_zero() {
        cmd.arg("EX").arg(ttl.as_secs());
    } else {
        let millis = ttl.as_nanos().div_ceil(1_000_000).max(1);
        cmd.arg("PX").arg(u64::try_from(millis).unwrap_or(u64::MAX));
    }
}

/// What `value`, the reply to `op` said in `form`, means.
pub(super) fn meaning(op: &Op, form: Form, value: Value) -> Meaning {
    let reply = match (op, value) {
        (_, Value::ServerError(error)) => return refusal(op, form, &error),
        (Op::SetIfAbsent { .. }, Value::Nil) => Reply::Applied,
        (Op::SetIfAbsent { .. }, Value::BulkString(present)) => Reply::Present(present.into()),
        (Op::SetIfPresent { .. }, Value::Nil) => Reply::Refused,
        (Op::SetIfPresent { .. } | Op::Set { .. }, Value::Okay) => Reply::Applied,
        (
            Op::CompareAndSet { .. } | Op::CompareAndDelete { .. } | Op::Delete { .. } | Op::Exists { .. },
            Value::Int(done),
        ) => {
            if done == 0 {
                Reply::Refused
            } else {
                Reply::Applied
            }
        }
        (_, other) => {
            let text = format!("the server answered with {}, which is no answer to the command", kind(&other));
            return Meaning::Answer(Err(StoreError::Unanswered(text)));
        }
    };
    Meaning::Answer(Ok(reply))
}

/// The type of a reply, never its content.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nil",
        Value::Int(_) => "an integer",
        Value::BulkString(_) => "a string",
        Value::Array(_) => "an array",
        Value::SimpleString(_) | Value::Okay => "a status",
        _ => "a value of another type",
    }
}

fn refusal(op: &Op, form: Form, error: &ServerError) -> Meaning {
    let text = text(error);
    let detail = error.details().unwrap_or_default();
    match error.kind() {
        Some(ServerErrorKind::NoScript) if !form.in_full => return Meaning::NoScript,
        Some(ServerErrorKind::Moved) => return redirection(detail).map_or_else(|| refused(text), Meaning::Moved),
        Some(ServerErrorKind::Ask) => return redirection(detail).map_or_else(|| refused(text), Meaning::Ask),
        _ => {}
    }
    if matches!(op, Op::SetIfAbsent { .. }) && !form.claim_by_script && is_syntax_error(error) {
        return Meaning::OldServer;
    }
    // Before Redis 7 an error inside a script comes as `ERR Error running script … WRONGTYPE …`.
    if text.contains("WRONGTYPE") {
        return Meaning::Answer(Err(StoreError::WrongType(op.key().clone())));
    }
    let ours = NOT_EXECUTED.contains(&error.code());
    if matches!(error.code(), "NOPERM" | "ERR") && text.to_ascii_lowercase().contains("eval") {
        return refused(format!("{text}; the sidecar needs EVAL and EVALSHA: releases and take-overs are scripts"));
    }
    let proxy = error.code() == "ERR" && PROXY_GAVE_UP.iter().any(|gave_up| detail.contains(gave_up));
    if ours && !proxy { refused(text) } else { Meaning::Answer(Err(StoreError::Unanswered(text))) }
}

fn refused(text: String) -> Meaning {
    Meaning::Answer(Err(StoreError::Refused(text)))
}

fn is_syntax_error(error: &ServerError) -> bool {
    error.code() == "ERR" && error.details().is_some_and(|detail| detail.starts_with("syntax error"))
}

/// `3999 127.0.0.1:6381` → `127.0.0.1:6381`.
fn redirection(detail: &str) -> Option<String> {
    detail.split_ascii_whitespace().nth(1).map(str::to_owned)
}

/// An error as the server wrote it.
pub(super) fn text(error: &ServerError) -> String {
    match error.details() {
        Some(detail) => format!("{} {detail}", error.code()),
        None => error.code().to_owned(),
    }
}

/// Does this answer say that the server became a replica? Then it is the wrong server for every further operation.
pub(super) fn is_read_only(answer: &Result<Reply, StoreError>) -> bool {
    matches!(answer, Err(StoreError::Refused(text)) if text.contains("READONLY"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use redis::parse_redis_value;

    use super::*;

    const NATIVE: Form = Form { claim_by_script: false, in_full: false };
    const SCRIPT: Form = Form { claim_by_script: true, in_full: false };

    fn packed(op: &Op, form: Form) -> String {
        String::from_utf8(command(op, form).get_packed_command()).unwrap().replace("\r\n", " ")
    }

    fn claim(ttl: Duration) -> Op {
        Op::SetIfAbsent { key: "k".into(), value: Bytes::from_static(b"v"), ttl }
    }

    fn cas() -> Op {
        let (expect, value) = (Bytes::from_static(b"a"), Bytes::from_static(b"b"));
        Op::CompareAndSet { key: "k".into(), expect, value, ttl: Duration::from_secs(1) }
    }

    fn error(op: &Op, form: Form, line: &str) -> Meaning {
        meaning(op, form, parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap())
    }

    #[test]
    fn ttls_are_whole_seconds_or_milliseconds_rounded_up_and_never_zero() {
        for (ttl, said) in [
            (Duration::from_secs(86_400), "EX $5 86400"),
            (Duration::from_millis(1500), "PX $4 1500"),
            (Duration::from_micros(1500), "PX $1 2"),
            (Duration::from_nanos(1), "PX $1 1"),
            (Duration::ZERO, "PX $1 1"),
        ] {
            assert!(packed(&claim(ttl), NATIVE).contains(said), "{ttl:?}");
            assert!(packed(&claim(ttl), SCRIPT).contains(said), "{ttl:?}");
        }
    }

    #[test]
    fn a_claim_is_one_command_in_both_forms() {
        let op = claim(Duration::from_secs(9));
        assert_eq!(packed(&op, NATIVE), "*7 $3 SET $1 k $1 v $2 EX $1 9 $2 NX $3 GET ");
        assert!(packed(&op, SCRIPT).starts_with("*7 $7 EVALSHA $40 "));
        assert!(packed(&op, Form { in_full: true, ..SCRIPT }).starts_with("*7 $4 EVAL "));
    }

    #[test]
    fn errors_that_heal_are_told_from_answers() {
        let op = claim(Duration::from_secs(9));
        assert_eq!(error(&op, NATIVE, "ERR syntax error"), Meaning::OldServer);
        assert!(matches!(error(&op, SCRIPT, "ERR syntax error"), Meaning::Answer(Err(StoreError::Refused(_)))));
        assert_eq!(error(&cas(), NATIVE, "NOSCRIPT No matching script."), Meaning::NoScript);
        assert_eq!(error(&cas(), NATIVE, "MOVED 3999 127.0.0.1:6381"), Meaning::Moved("127.0.0.1:6381".to_owned()));
        assert_eq!(error(&cas(), NATIVE, "ASK 3999 ::1:6381"), Meaning::Ask("::1:6381".to_owned()));
    }

    #[test]
    fn a_wrong_type_names_its_key_also_out_of_a_script_of_an_older_server() {
        for line in [
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "ERR Error running script (call to f_0): @user_script:1: WRONGTYPE Operation against a key",
        ] {
            assert_eq!(error(&cas(), NATIVE, line), Meaning::Answer(Err(StoreError::WrongType("k".into()))));
        }
    }

    #[test]
    fn a_server_that_takes_no_scripts_is_told_what_they_are_for() {
        for line in [
            "NOPERM User app has no permissions to run the 'evalsha' command",
            "NOPERM this user has no permissions to run the 'eval' command or its subcommand",
            "ERR unknown command 'EVALSHA', with args beginning with: ",
        ] {
            let Meaning::Answer(Err(StoreError::Refused(text))) = error(&cas(), NATIVE, line) else { panic!("{line}") };
            assert!(text.starts_with(line) && text.contains("needs EVAL and EVALSHA"), "{text}");
        }
    }

    #[test]
    fn an_error_of_a_proxy_may_hide_an_applied_command() {
        for line in ["ERR Connection timed out", "UPSTREAM no healthy host", "ERR upstream failure"] {
            assert!(matches!(error(&cas(), NATIVE, line), Meaning::Answer(Err(StoreError::Unanswered(_)))), "{line}");
        }
        for line in
            ["OOM command not allowed", "READONLY You can't", "LOADING Redis is", "NOPERM this user", "ERR other"]
        {
            let Meaning::Answer(answer) = error(&cas(), NATIVE, line) else { panic!("{line}") };
            assert!(matches!(&answer, Err(StoreError::Refused(text)) if text == line), "{line}: {answer:?}");
            assert_eq!(is_read_only(&answer), line.starts_with("READONLY"));
        }
    }

    #[test]
    fn a_reply_of_the_wrong_shape_leaves_it_open_whether_the_command_was_applied() {
        let odd = meaning(&cas(), NATIVE, Value::Array(vec![]));
        assert!(matches!(odd, Meaning::Answer(Err(StoreError::Unanswered(_)))));
    }
}
