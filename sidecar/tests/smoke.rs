//! The two sides of `helm test` and a sidecar between them, as processes: with nothing else, one event goes through.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output};

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sidecar() -> Command {
    Command::new(env!("CARGO_BIN_EXE_sidecar"))
}

/// A port that was free a moment ago.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn wait(app: u16, seconds: u32) -> Output {
    let app = format!("127.0.0.1:{app}");
    sidecar().args(["smoke", "wait", "--app", &app, "--timeout", &seconds.to_string()]).output().unwrap()
}

fn app(folder: &Path, kafka: u16, answers: u16) -> Running {
    let mut command = sidecar();
    command.args(["smoke", "app", "--topic", "smoke", "--embedded-port", &kafka.to_string()]);
    command.args(["--bind", &format!("127.0.0.1:{answers}")]).arg("--socket").arg(folder.join("app.sock"));
    Running(command.spawn().unwrap())
}

#[test]
fn an_event_goes_through_without_kafka_and_redis() {
    let folder = tempfile::tempdir().unwrap();
    let (kafka, answers) = (port(), port());
    let config = folder.path().join("sidecar.yaml");
    let text = format!(
        "version: 1
group: smoke
topics: [smoke]
kafka: {{bootstrapServers: '127.0.0.1:{kafka}'}}
redis: {{url: 'redis://127.0.0.1:1'}}
delivery: {{socket: '{}'}}
admin: {{bind: '127.0.0.1:0'}}
",
        folder.path().join("app.sock").display()
    );
    std::fs::write(&config, text).unwrap();
    // As in a pod: the sidecar is there first.
    let _sidecar = Running(sidecar().arg("run").arg("--config").arg(&config).spawn().unwrap());
    let _app = app(folder.path(), kafka, answers);
    let output = wait(answers, 60);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("was published, and delivered: attempt 1, protection local"), "{said}");
}

#[test]
fn an_event_that_does_not_come_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (kafka, answers) = (port(), port());
    let alone = app(folder.path(), kafka, answers);
    let output = wait(answers, 3);
    drop(alone);
    assert_eq!(output.status.code(), Some(69));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("no event was delivered within 3 s"), "{said}");
    let nobody = wait(answers, 0);
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert!(nobody.status.code() == Some(69) && said.contains("cannot reach"), "{said}");
}
