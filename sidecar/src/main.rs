//! Decides nothing: parses the command line, prepares, runs, and ends with the right code.

use std::io;
use std::process::ExitCode;

use sidecar::args::{self, Command, exit};
use sidecar::{demo, event_id, logging, run};

fn main() -> ExitCode {
    logging::exit_on_panic(exit::INTERNAL.into());
    let arguments = match args::parse() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    match arguments.command {
        Command::Run(at) => args::prepare(&at.config).map_or_else(|code| code, consume),
        Command::Check(at) => args::check(&at.config),
        Command::EventId(asked) => {
            ExitCode::from(event_id::command::run(asked, &mut io::stdout().lock(), &mut io::stderr().lock()))
        }
        Command::Demo(asked) => demo::run(&asked),
    }
}

fn consume(settings: sidecar::settings::Settings) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return args::tell(&error, exit::INTERNAL),
    };
    match runtime.block_on(run::run(settings)) {
        Ok(()) => ExitCode::from(exit::DRAINED),
        Err(error) => {
            tracing::error!(%error, "the sidecar ends");
            args::tell(&error, error.exit_code())
        }
    }
}
