//! Placeholder.
/// Placeholder.
#[must_use]
pub fn run(_: &crate::args::DemoArgs) -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
