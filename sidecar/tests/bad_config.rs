//! A wrong configuration or command line ends the real program with 64, before any port is bound, and without a Secret in
//! what it says.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const GOOD: &str = "version: 1
group: essays
topics: [orders.v1]
kafka: {bootstrapServers: '127.0.0.1:1'}
redis: {url: 'redis://127.0.0.1:1'}
admin: {bind: '127.0.0.1:0'}
";

/// What no output may hold.
const SECRET: &str = "hunter2";

/// Lines that take the place of the good file's fields of the same name; the field that is told; a word of the reason; the
/// example.
const CASES: &[(&str, &str, &str, &str)] = &[
    ("bogus: 1", "bogus", "no such field", "{version: 1"),
    ("group:", "group", "null", "essay-lifecycle"),
    ("topics: orders", "topics", "a list", "[orders.v1]"),
    ("topics: ['a b']", "topics[0]", "letters, digits", "orders.v1"),
    ("ttl: forever", "ttl", "is not a duration", "24h"),
    ("ttl: 5", "ttl", "expected", "24h"),
    ("version: 7", "version", "reads 1", "1"),
    ("eventId: {rule: Guess}", "eventId.rule", "none of the words", "Data"),
    ("keyPrefix: '{user}:'", "keyPrefix", "{user}", "{group}"),
    ("kafka: {}", "kafka.bootstrapServers", "is missing", "kafka-0:9092"),
    ("kafka: {bootstrapServers: kafka}", "kafka.bootstrapServers", "no port", "kafka-0:9092"),
    (
        "kafka: {bootstrapServers: 'k:1', properties: {enable.auto.commit: 'true'}}",
        "kafka.properties.enable.auto.commit",
        "commits the watermark itself",
        "leave it out",
    ),
    (
        "kafka: {bootstrapServers: 'k:1', properties: {sasl.password: hunter2}}",
        "kafka.properties.sasl.password",
        "passwordFile",
        "leave it out",
    ),
    (
        "kafka: {bootstrapServers: 'k:1', sasl: {mechanism: PLAIN, usernameFile: $DIR/word, passwordFile: $DIR/none}}",
        "kafka.sasl.passwordFile",
        "can't be read",
        "/etc/idempotency/kafka/password",
    ),
    ("redis: {}", "redis.url", "is missing", "redis://redis:6379"),
    ("redis: 'redis://:hunter2@r'", "redis", "expected a map", "{url:"),
    ("redis: {url: 'http://:hunter2@r'}", "redis.url", "neither redis://", "redis://redis:6379"),
    ("redis: {url: 'redis://:hunter2@r:port'}", "redis.url", "is no URL", "redis://redis:6379"),
    ("redis: {url: 'redis://:hunter2@r'}", "redis.url", "into a Secret", "passwordFile"),
    ("redis: {urlFile: $DIR/bad-url}", "redis.urlFile", "is no URL", "redis://redis:6379"),
    ("redis: {urlFile: $DIR/none}", "redis.urlFile", "mount the Secret", "/etc/idempotency/redis/url"),
    ("redis: {urlFile: $DIR/empty}", "redis.urlFile", "is empty", "/etc/idempotency/redis/url"),
    ("redis: {url: 'rediss://r', caFile: $DIR/word}", "redis.caFile", "no PEM certificate", "/ca.crt"),
    ("delivery: {backoff: {min: 1h, max: 1s}}", "delivery.backoff.min", "above delivery.backoff.max", "100ms"),
    ("delivery: {port: 70000}", "delivery.port", "70000", "8080"),
    ("delivery: {maxAttempts: 3}", "delivery.deadLetterTopic", "maxAttempts needs", "dead-letters"),
    ("delivery: {timeout: 24h}", "delivery.timeout", "quarter", "60s"),
    ("admin: {bind: everywhere}", "admin.bind", "no IP address", "[::]:9464"),
    ("admin: {bind: '127.0.0.1:0', drainTokenFile: $DIR}", "admin.drainTokenFile", "can't be read", "/etc/"),
];

fn sidecar(arguments: &[&str], folder: &Path, environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sidecar"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("IDEMPOTENCY_LOG")
        .env_remove("IDEMPOTENCY_SOCKET")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Writes the good file with these lines in it, and the files that they name.
fn write(folder: &Path, lines: &str) {
    let field = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
    let changed: Vec<String> = lines.lines().map(field).collect();
    let kept: String = GOOD.lines().filter(|l| !changed.contains(&field(l))).map(|l| format!("{l}\n")).collect();
    let text = format!("{kept}{lines}\n").replace("$DIR", folder.to_str().unwrap());
    fs::write(folder.join("sidecar.yaml"), text).unwrap();
    fs::write(folder.join("word"), format!("{SECRET}\n")).unwrap();
    fs::write(folder.join("bad-url"), format!("redis://:{SECRET}@r:port\n")).unwrap();
    fs::write(folder.join("empty"), "").unwrap();
}

/// The program's standard error, after it was seen to end with 64 and to have logged nothing: no listener, no connection.
fn refused(output: &Output, what: &str) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(64), "{what}: {out}{err}");
    assert_eq!(out, "", "{what}");
    assert!(!err.contains(SECRET), "{what}: {err}");
    assert!(!err.contains("panicked"), "{what}: {err}");
    err.into_owned()
}

#[test]
fn a_wrong_field_is_named_with_the_reason_and_a_right_value() {
    let folder = tempfile::tempdir().unwrap();
    for (lines, field, reason, example) in CASES {
        write(folder.path(), lines);
        for command in ["run", "check"] {
            let told = refused(&sidecar(&[command, "--config", "sidecar.yaml"], folder.path(), &[]), lines);
            let line = told.lines().find(|l| l.trim_start().starts_with(&format!("{field}: ")));
            let line = line.unwrap_or_else(|| panic!("{command} {lines}: {field} is not named in\n{told}"));
            let (wrong, right) = line.split_once("; for example: ").unwrap_or_else(|| panic!("no example: {line}"));
            assert!(wrong.contains(reason), "{command} {lines}: {line}");
            assert!(right.contains(example), "{command} {lines}: {line}");
        }
    }
}

#[test]
fn several_mistakes_are_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "ttl: x\ntopics: []\nredis: {urlFile: $DIR/none}\ndelivery: {path: x, bogus: 1}");
    let told = refused(&sidecar(&["check", "--config", "sidecar.yaml"], folder.path(), &[]), "several");
    assert!(told.contains("sidecar.yaml: 5 mistakes found"), "{told}");
    for field in ["ttl", "topics", "redis.urlFile", "delivery.path", "delivery.bogus"] {
        assert!(told.contains(&format!("\n  {field}: ")), "{field}: {told}");
    }
}

#[test]
fn a_file_that_is_none_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let run = |text: &str| {
        fs::write(folder.path().join("sidecar.yaml"), text).unwrap();
        refused(&sidecar(&["run", "--config", "sidecar.yaml"], folder.path(), &[]), text)
    };
    assert!(run("").contains("  .: the file holds no fields; for example: {version: 1"));
    assert!(run("group: [\nredis: \"redis://:hunter2@r").contains("is not YAML"));
    assert!(run("group: a\ngroup: b").contains("is not YAML"));
    let none = sidecar(&["run", "--config", "none.yaml"], folder.path(), &[]);
    assert!(refused(&none, "none").contains("none.yaml can't be read"));
}

#[test]
fn the_environment_is_checked_too() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "paused: false");
    for command in ["run", "check"] {
        let with = |name, value| sidecar(&[command, "--config", "sidecar.yaml"], folder.path(), &[(name, value)]);
        let told = refused(&with("IDEMPOTENCY_LOG", "verbose"), "log");
        assert!(told.contains("IDEMPOTENCY_LOG: ") && told.contains("for example: info"), "{told}");
        let told = refused(&with("IDEMPOTENCY_SOCKET", "app.sock"), "socket");
        assert!(told.contains("delivery.socket: ") && told.contains("/run/idempotency/app.sock"), "{told}");
    }
}

#[test]
fn a_wrong_command_line_is_64_and_help_is_0() {
    let folder = tempfile::tempdir().unwrap();
    for wrong in [&[][..], &["walk"], &["run"], &["check", "--config"], &["demo", "--duplicates", "200"]] {
        let told = refused(&sidecar(wrong, folder.path(), &[]), &format!("{wrong:?}"));
        assert!(told.contains("Usage: ") || told.contains("--help"), "{wrong:?}: {told}");
    }
    for right in ["--help", "--version"] {
        assert_eq!(sidecar(&[right], folder.path(), &[]).status.code(), Some(0), "{right}");
    }
}

#[test]
fn check_prints_what_is_in_effect_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "redis: {url: 'redis://r', passwordFile: $DIR/word}\nadmin: {drainTokenFile: $DIR/word}");
    let arguments = ["check", "--config", "sidecar.yaml"];
    let output = sidecar(&arguments, folder.path(), &[("IDEMPOTENCY_SOCKET", "/run/other.sock")]);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(0), "{err}");
    for line in ["group: essays", "ttl: 24h", "  socket: /run/other.sock", "  failurePolicy: Open"] {
        assert!(out.lines().any(|l| l == line), "no `{line}` in\n{out}");
    }
    assert!(err.contains("warning: redis.passwordFile: "), "{err}");
    assert!(!out.contains(SECRET) && !err.contains(SECRET));
    // What is printed is a configuration that means the same.
    fs::write(folder.path().join("again.yaml"), &out).unwrap();
    let again = sidecar(&["check", "--config", "again.yaml"], folder.path(), &[]);
    assert_eq!(String::from_utf8(again.stdout).unwrap(), out);
}
