//! Explores the protocol, its windows, and the protocol with one clause taken out, and prints what came of it. Exits with 1 where a
//! property fails that should hold, or holds that should fail.
//!
//!     model            everything
//!     model --slice    what a test run has time for
//!     model TEXT       the worlds whose name holds that text
#![allow(clippy::print_stdout)]

use std::process::ExitCode;

use model::check::{Found, check};
use model::config::Config;
use model::suite;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let slice = arguments.iter().any(|argument| argument == "--slice");
    let text = arguments.into_iter().find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let named = |name: &str| name.contains(&text);
    let mut sound = true;
    println!("The protocol as it is: every property holds in every state.\n");
    for config in suite::protocol(slice).into_iter().filter(|config| named(config.name)) {
        let found = check(config, 2);
        tell(config.name, &found);
        show(&found);
        sound &= found.is_sound();
    }
    println!("\nEach window: with it closed, the second effect is found.\n");
    for (window, config) in suite::windows().into_iter().filter(|(_, config)| named(config.name)) {
        let found = check(Config { windows: config.windows & !(1 << window), ..config }, 1);
        tell(config.name, &found);
        sound &= found.broken == Some("no second effect");
    }
    println!("\nWithout one clause, with the shortest way to what breaks.\n");
    for control in suite::controls().into_iter().filter(|control| named(&control.name())) {
        let found = check(control.config, 1);
        tell(&control.name(), &found);
        sound &= found.broken == control.breaks && found.whole == control.breaks.is_none();
        show(&found);
    }
    println!("\n{}", if sound { "All as it must be." } else { "NOT as it must be." });
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell(name: &str, found: &Found) {
    let result = found.broken.map_or_else(|| "holds".to_owned(), |property| format!("breaks: {property}"));
    let seconds = found.took.as_secs_f64();
    println!("  {name:<62} {:>9} states, depth {:>3}, {seconds:>6.1} s  {result}", found.states, found.depth);
}

fn show(found: &Found) {
    for line in &found.way {
        println!("      {line}");
    }
}
