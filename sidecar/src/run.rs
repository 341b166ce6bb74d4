//! Placeholder.
use crate::settings::Settings;
/// Placeholder.
#[derive(Debug, thiserror::Error)]
#[error("placeholder")]
pub struct RunError;
impl RunError {
    /// Placeholder.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        70
    }
}
/// Placeholder.
///
/// # Errors
/// Always.
pub async fn run(_: Settings) -> Result<(), RunError> {
    Err(RunError)
}
