//! Decides how tests use a Kubernetes cluster, any that `$KUBECONFIG` names: its client, `kubectl` and Helm. I/O.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use kube::Client;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

pub mod audit;
pub mod consumer;
pub mod diagnosis;
pub mod helm;
pub mod images;
pub mod ledger_server;
pub mod operator;
pub mod outside;
pub mod pod_app;
pub mod processes;
pub mod protocol;
pub mod reporter;
pub mod space;
pub mod stream;

pub use helm::helm;
pub use ledger_server::LedgerServer;
pub use protocol::{Mode, ToApp, What};
pub use space::{SOON, START, Space, condition, trial, trial_within};
pub use stream::Stream;

/// How long a `kubectl` may take.
const KUBECTL: Duration = Duration::from_secs(90);

/// A client of the cluster. Each test has one of its own, since it lives in the test's runtime.
///
/// # Errors
/// There is no usable `$KUBECONFIG`.
pub async fn client() -> anyhow::Result<Client> {
    const HOW: &str = "`make e2e` brings a cluster up and sets KUBECONFIG";
    let path =
        std::env::var_os("KUBECONFIG").map(PathBuf::from).with_context(|| format!("KUBECONFIG is not set: {HOW}"))?;
    if !path.is_file() {
        bail!("KUBECONFIG names {}, which is no file: {HOW}", path.display());
    }
    Client::try_default().await.with_context(|| format!("cannot use {}", path.display()))
}

/// Runs `kubectl`, with `input` as its standard input, and returns what it printed.
///
/// # Errors
/// It failed; the text is what it said.
pub async fn kubectl(args: &[&str], input: &str) -> anyhow::Result<String> {
    program("kubectl", args, input, KUBECTL).await
}

/// Runs a program that talks to the cluster, for so long at most.
async fn program(name: &str, args: &[&str], input: &str, limit: Duration) -> anyhow::Result<String> {
    let mut command = Command::new(name);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("cannot start {name}: `make e2e` puts it on PATH"))?;
    let mut stdin = child.stdin.take().context("its standard input")?;
    let run = async {
        // One that fails early does not read it all.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        child.wait_with_output().await
    };
    let what = format!("{name} {}", args.join(" "));
    let output = tokio::time::timeout(limit, run).await.with_context(|| format!("{what}: not done in {limit:?}"))??;
    if !output.status.success() {
        let said = [output.stderr, output.stdout].concat();
        bail!("{what}: {}", String::from_utf8_lossy(&said).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
