//! Decides nothing: parses the command line, does what it says, and ends with the right code.

use std::process::ExitCode;

use operator::args::{self, Command, exit};
use operator::{logging, render, run};

fn main() -> ExitCode {
    logging::exit_on_panic(exit::INTERNAL.into());
    let arguments = match args::parse() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    match arguments.command {
        Command::Run(settings) => run::start(*settings),
        Command::Render(asked) => render::command(&asked),
        Command::Crd => render::crd(),
    }
}
