//! Decides what can be asked on the command line, and with which code the process ends.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Args, Parser, Subcommand};

use crds::v1alpha1::Resources;

use crate::controller::upgrade::Upgrade;

/// The codes with which the process ends, after BSD's `sysexits.h`.
pub mod exit {
    /// Done, or ended as asked.
    pub const DONE: u8 = 0;
    /// The command line or a file is wrong.
    pub const BAD_INPUT: u8 = 64;
    /// Something that is required is absent: the API server, an API, the lease.
    pub const UNAVAILABLE: u8 = 69;
    /// A fault of the operator's own.
    pub const INTERNAL: u8 = 70;
}

/// Runs apps behind Kafka so that each event is processed effectively once.
#[derive(Debug, Parser)]
#[command(name = "operator", version, after_help = AFTER_HELP)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "Exit codes: 0 done or ended as asked, 64 wrong command line or file, 69 something that is required is absent \
                          (the API server, an API, the lease), 70 internal fault. The log's filter is IDEMPOTENCY_LOG.";

/// What the operator can be asked to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Reconciles consumers until SIGTERM, then finishes what is under way.
    Run(Box<RunArgs>),
    /// Prints what a consumer would become in the cluster. Contacts nobody.
    Render(RenderArgs),
    /// Prints the CustomResourceDefinition.
    Crd,
}

/// What the operator runs with.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Image of the sidecar, where a consumer names none.
    #[arg(long, env = "IDEMPOTENCY_SIDECAR_IMAGE", value_name = "IMAGE")]
    pub sidecar_image: String,
    /// What else a consumer may leave to the operator.
    #[command(flatten)]
    pub left: LeftToOperator,
    /// Namespace to look for consumers in; may be repeated, or a list with commas. Default: all.
    #[arg(long = "namespace", env = "IDEMPOTENCY_NAMESPACES", value_name = "NAME", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// What becomes of consumers that another operator rolled out.
    #[arg(long, env = "IDEMPOTENCY_UPGRADE_CONSUMERS", value_enum, default_value_t, value_name = "WHEN")]
    pub upgrade_consumers: Upgrade,
    /// Consumers that are rolled for an upgrade at once, with `Rolling`.
    #[arg(long, env = "IDEMPOTENCY_UPGRADE_CONCURRENCY", default_value_t = 3, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub upgrade_concurrency: u16,
    /// Address of probes and metrics; `[::]` is every address of either family.
    #[arg(long, env = "IDEMPOTENCY_ADMIN_BIND", default_value = "[::]:8080", value_name = "ADDRESS")]
    pub admin_bind: SocketAddr,
    /// Reconcile only while holding a lease, so that several replicas can stand by.
    #[arg(long, env = "IDEMPOTENCY_LEADER_ELECT", default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    pub leader_elect: bool,
    /// Name of the lease.
    #[arg(long, env = "IDEMPOTENCY_LEASE_NAME", default_value = "idempotent-consumer-operator", value_name = "NAME")]
    pub lease_name: String,
    /// Namespace of the lease. Default: the operator's own.
    #[arg(long, env = "IDEMPOTENCY_LEASE_NAMESPACE", value_name = "NAME")]
    pub lease_namespace: Option<String>,
    /// What this replica is called in the lease; must be another for each. Default: the pod's name with something random.
    #[arg(long, env = "IDEMPOTENCY_IDENTITY", value_name = "NAME")]
    pub identity: Option<String>,
    /// Name of this pod.
    #[arg(long, env = "POD_NAME", hide = true)]
    pub pod_name: Option<String>,
    /// Name of this host, which is the pod's.
    #[arg(long, env = "HOSTNAME", hide = true)]
    pub host_name: Option<String>,
    /// How long to wait for the API server, the CustomResourceDefinition and permissions at the start, in seconds.
    #[arg(long, env = "IDEMPOTENCY_START_TIMEOUT", default_value_t = 300, value_name = "SECONDS")]
    pub start_timeout: u64,
    /// The log's filter.
    #[arg(long, env = crate::logging::VARIABLE, hide = true)]
    pub log: Option<String>,
}

/// What a consumer may leave to the operator, beside the image.
#[derive(Clone, Debug, Default, Args)]
pub struct LeftToOperator {
    /// URL of the Redis, without a password, where a consumer names none. Default: none, so that each must name one.
    #[arg(long, env = "IDEMPOTENCY_REDIS_URL", value_name = "URL")]
    pub redis_url: Option<String>,
    /// Compute resources of the sidecar, where a consumer says nothing, as JSON: {"requests": {…}, "limits": {…}}.
    #[arg(long, env = "IDEMPOTENCY_SIDECAR_RESOURCES", value_name = "JSON", default_value = "{}")]
    #[arg(value_parser = resources)]
    pub sidecar_resources: Resources,
}

/// What to print the desired state of.
#[derive(Clone, Debug, Args)]
pub struct RenderArgs {
    /// File with one or several IdempotentConsumers, YAML or JSON; `-` is standard input.
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub file: PathBuf,
    /// File with the Secrets and ConfigMaps that they name, and the consumers' own, as `kubectl get secret,configmap -o yaml` prints
    /// them. Without it, placeholders stand for what only a cluster knows.
    #[arg(long, value_name = "FILE")]
    pub references: Option<PathBuf>,
    /// Image of the sidecar, where a consumer names none.
    #[arg(long, env = "IDEMPOTENCY_SIDECAR_IMAGE", value_name = "IMAGE", default_value = DEFAULT_IMAGE)]
    pub sidecar_image: String,
    /// What else a consumer may leave to the operator.
    #[command(flatten)]
    pub left: LeftToOperator,
}

/// The image that goes with this operator.
const DEFAULT_IMAGE: &str = concat!("idempotent-consumer/sidecar:", env!("CARGO_PKG_VERSION"));

fn resources(json: &str) -> Result<Resources, serde_json::Error> {
    serde_json::from_str(json)
}

/// Reads the process's command line. What it prints on a mistake is clap's; the code is ours.
///
/// # Errors
/// The code to end with: [`exit::BAD_INPUT`] on a mistake, 0 after `--help` and `--version`.
pub fn parse() -> Result<Arguments, ExitCode> {
    Arguments::try_parse().map_err(|error| {
        let _ = error.print();
        if error.use_stderr() { ExitCode::from(exit::BAD_INPUT) } else { ExitCode::SUCCESS }
    })
}

/// Says on standard error why the process ends, for people; the code is for machines.
pub fn tell(error: &dyn std::error::Error, code: u8) -> ExitCode {
    let _ = writeln!(io::stderr().lock(), "operator: {error}");
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn what_is_said_is_what_is_run_with() {
        let said = [
            "operator",
            "run",
            "--sidecar-image",
            "s:1",
            "--sidecar-resources",
            r#"{"limits": {"memory": "1Gi"}}"#,
            "--namespace",
            "a",
            "--namespace",
            "b,c",
            "--upgrade-consumers",
            "Rolling",
            "--leader-elect",
            "false",
        ];
        let Command::Run(run) = Arguments::try_parse_from(said).unwrap().command else { panic!() };
        assert_eq!(
            (run.namespaces, run.upgrade_consumers, run.leader_elect),
            (vec!["a".into(), "b".into(), "c".into()], Upgrade::Rolling, false)
        );
        assert!(run.left.sidecar_resources.limits.is_some() && run.left.sidecar_resources.requests.is_none());
        assert_eq!((run.upgrade_concurrency, run.admin_bind.port()), (3, 8080));
    }

    #[test]
    fn mistakes_are_refused() {
        for wrong in [
            &["operator"][..],
            &["operator", "render"],
            &["operator", "run", "--sidecar-image", "s", "--upgrade-consumers", "Sometimes"],
            &["operator", "run", "--sidecar-image", "s", "--upgrade-concurrency", "0"],
            &["operator", "run", "--sidecar-image", "s", "--sidecar-resources", "1Gi"],
            &["operator", "walk"],
        ] {
            assert!(Arguments::try_parse_from(wrong).is_err(), "{wrong:?}");
        }
    }
}
