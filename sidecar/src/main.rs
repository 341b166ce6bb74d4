//! Decides nothing: parses the command line, prepares, runs, and ends with the right code.

use std::io;
use std::process::ExitCode;

use sidecar::args::{self, Command, exit};
use sidecar::{demo, event_id, logging, run, smoke};
use tokio::runtime::Builder;

/// Static binaries link musl, whose own allocator makes every thread wait for one lock.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
        Command::Smoke(asked) => smoke::run(&asked),
    }
}

fn consume(settings: sidecar::settings::Settings) -> ExitCode {
    // Two threads. One turns the loop and does what it asks for: requests and round trips are short, and to hand them to
    // another thread costs more than they do. The other reads from Kafka and identifies what it reads.
    let main = Builder::new_current_thread().enable_all().build();
    let kafka = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let (main, kafka) = match (main, kafka) {
        (Ok(main), Ok(kafka)) => (main, kafka),
        (Err(error), _) | (_, Err(error)) => return args::tell(&error, exit::INTERNAL),
    };
    let ended = main.block_on(run::run(settings, kafka.handle()));
    let code = ended.err().map_or(exit::DRAINED, |error| {
        tracing::error!(%error, "the sidecar ends");
        args::tell(&error, error.exit_code());
        error.exit_code()
    });
    // Not by returning: the runtimes would wait, without a bound, for what waits for Kafka, as a commit to a broker that is away. What that
    // would still do comes again.
    std::process::exit(code.into())
}
