//! Decides what can be asked on the command line, and with which code the process ends. I/O: reads files, prints.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::event_id::command::EventIdArgs;
use crate::logging;
use crate::settings::{self, Environment, Settings};

/// The codes with which the process ends, after BSD's `sysexits.h`.
pub mod exit {
    /// Drained: everything under way is settled and committed.
    pub const DRAINED: u8 = 0;
    /// The command line or the configuration is wrong.
    pub const BAD_CONFIG: u8 = 64;
    /// A dependency that is required is absent.
    pub const UNAVAILABLE: u8 = 69;
    /// A fault of the sidecar's own.
    pub const INTERNAL: u8 = 70;
}

/// Hands each event of a Kafka topic to an app over a local socket, effectively once.
#[derive(Debug, Parser)]
#[command(name = "sidecar", version, after_help = AFTER_HELP)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "Exit codes: 0 drained or done, 64 wrong command line or configuration, 69 a dependency that is \
                          required is absent, 70 internal fault.";

/// What the sidecar can be asked to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Consumes, gates and delivers until SIGTERM, then drains.
    Run(ConfigArgs),
    /// Checks a configuration and the Secrets it names, and prints what would be in effect. Contacts nobody.
    Check(ConfigArgs),
    /// Prints the event id of records, to see why one is a duplicate of another.
    EventId(EventIdArgs),
    /// Shows the sidecar at work, with a broker, a store and an app inside this process.
    Demo(DemoArgs),
    /// The two sides of the chart's test, `helm test`.
    #[command(subcommand)]
    Smoke(SmokeCommand),
}

/// The two sides of the chart's test.
#[derive(Debug, Subcommand)]
pub enum SmokeCommand {
    /// Publishes one event, and is the app that takes it. Ends on SIGTERM.
    App(AppArgs),
    /// Asks that app until it has its event, and prints how it came.
    Wait(WaitArgs),
}

/// What the test's app runs with.
#[derive(Clone, Debug, Args)]
pub struct AppArgs {
    /// Kafka to publish to. Default: one inside this process.
    #[arg(long, value_name = "HOST:PORT,…")]
    pub bootstrap_servers: Option<String>,
    /// Port of the Kafka inside this process, on the loopback address.
    #[arg(long, default_value_t = 9092, value_name = "PORT")]
    pub embedded_port: u16,
    /// Topic to publish to.
    #[arg(long, value_name = "NAME")]
    pub topic: String,
    /// Socket on which the sidecar delivers.
    #[arg(long, env = "IDEMPOTENCY_SOCKET", value_name = "FILE")]
    pub socket: PathBuf,
    /// Address on which it says whether the event has come.
    #[arg(long, default_value = "[::]:8080", value_name = "ADDRESS")]
    pub bind: SocketAddr,
}

/// Whom to ask, and for how long.
#[derive(Clone, Debug, Args)]
pub struct WaitArgs {
    /// Where the app is.
    #[arg(long, value_name = "HOST:PORT")]
    pub app: String,
    /// How long to ask, in seconds.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub timeout: u64,
}

/// Where the configuration is.
#[derive(Clone, Debug, Args)]
pub struct ConfigArgs {
    /// Configuration file, YAML or JSON (docs/reference/sidecar-config.md).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// How large a demo is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub struct DemoArgs {
    /// Records to produce, duplicates among them.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub events: u32,
    /// Partitions of the topic.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub partitions: u16,
    /// Duplicates among the records, in per cent.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u8).range(0..=90))]
    pub duplicates: u8,
    /// Seed of everything random; absent means a new one, which is printed.
    #[arg(long)]
    pub seed: Option<u64>,
}

/// Reads the process's command line. What it prints on a mistake is clap's; the code is ours.
///
/// # Errors
/// The code to end with: [`exit::BAD_CONFIG`] on a mistake, 0 after `--help` and `--version`.
pub fn parse() -> Result<Arguments, ExitCode> {
    Arguments::try_parse().map_err(|error| {
        let _ = error.print();
        if error.use_stderr() { ExitCode::from(exit::BAD_CONFIG) } else { ExitCode::SUCCESS }
    })
}

/// Reads and checks the settings, and starts logging. A mistake goes to standard error before anything is opened.
///
/// # Errors
/// The code to end with: [`exit::BAD_CONFIG`], or [`exit::INTERNAL`] when logging can't start.
pub fn prepare(config: &Path) -> Result<Settings, ExitCode> {
    let filter = logging::filter(&Environment).map_err(|error| refuse(&error))?;
    let settings = settings::load(&Environment, config).map_err(|error| refuse(&error))?;
    logging::init(filter).map_err(|error| tell(&error, exit::INTERNAL))?;
    for warning in settings.warnings() {
        tracing::warn!("{warning}");
    }
    Ok(settings)
}

/// Prints the configuration that is in effect; Secrets are not part of it.
pub fn check(config: &Path) -> ExitCode {
    let settings = match logging::filter(&Environment) {
        Err(error) => return refuse(&error),
        Ok(_) => match settings::load(&Environment, config) {
            Err(error) => return refuse(&error),
            Ok(settings) => settings,
        },
    };
    for warning in settings.warnings() {
        let _ = writeln!(io::stderr().lock(), "warning: {warning}");
    }
    match serde_saphyr::to_string(&settings.config) {
        Ok(text) => match io::stdout().lock().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => tell(&error, exit::INTERNAL),
        },
        Err(error) => tell(&error, exit::INTERNAL),
    }
}

fn refuse(error: &dyn std::error::Error) -> ExitCode {
    tell(error, exit::BAD_CONFIG)
}

/// Says on standard error why the process ends, for people; the code is for machines.
pub fn tell(error: &dyn std::error::Error, code: u8) -> ExitCode {
    let _ = writeln!(io::stderr().lock(), "sidecar: {error}");
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
    fn the_demo_has_the_size_that_the_readme_says() {
        let parsed = Arguments::try_parse_from(["sidecar", "demo"]).unwrap();
        let Command::Demo(demo) = parsed.command else { panic!("{parsed:?}") };
        assert_eq!(demo, DemoArgs { events: 20_000, partitions: 6, duplicates: 30, seed: None });
    }

    #[test]
    fn mistakes_are_refused() {
        for wrong in [
            &["sidecar"][..],
            &["sidecar", "run"],
            &["sidecar", "run", "--config"],
            &["sidecar", "walk"],
            &["sidecar", "demo", "--duplicates", "91"],
            &["sidecar", "demo", "--partitions", "0"],
            &["sidecar", "smoke"],
            &["sidecar", "smoke", "wait"],
        ] {
            assert!(Arguments::try_parse_from(wrong).is_err(), "{wrong:?}");
        }
    }
}
