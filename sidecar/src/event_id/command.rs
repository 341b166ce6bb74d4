//! Placeholder.
/// Placeholder.
#[derive(Debug, clap::Args)]
pub struct EventIdArgs {}
/// Placeholder.
#[must_use]
pub fn run(_: &EventIdArgs) -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
