//! Decides how the operator logs: one JSON object a line on standard output, filtered by an environment variable. I/O.

use std::{io, panic};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// The variable that holds the log filter.
pub const VARIABLE: &str = "IDEMPOTENCY_LOG";
/// What is logged when nothing is said. An answer that the client can't read may be a Secret, and the client logs it whole.
const DEFAULT: &str = "info";
const ALWAYS: [&str; 1] = ["kube_client::client=off"];

/// The log filter is none.
#[derive(Debug, thiserror::Error)]
#[error("{VARIABLE}: `{text}` is no log filter: {wrong}; for example: info,operator::controller=debug")]
pub struct FilterError {
    text: String,
    wrong: String,
}

/// The filter that a text asks for: levels by module, `info` when there is none.
///
/// # Errors
/// The text names no level or no module path.
pub fn filter(text: Option<String>) -> Result<EnvFilter, FilterError> {
    let text = text.filter(|text| !text.trim().is_empty()).unwrap_or_else(|| DEFAULT.to_owned());
    // EnvFilter takes any word for a module's name, so that `verbose` would silence everything.
    let plain = text.split(',').map(str::trim).find(|word| !word.contains(['=', '[', ':']) && !is_level(word));
    if let Some(word) = plain {
        let wrong = format!("`{word}` is none of off, error, warn, info, debug, trace");
        return Err(FilterError { text, wrong });
    }
    let with_ours = ALWAYS.into_iter().fold(text.clone(), |all, one| format!("{all},{one}"));
    EnvFilter::builder().parse(with_ours).map_err(|error| FilterError { wrong: error.to_string(), text })
}

fn is_level(word: &str) -> bool {
    ["off", "error", "warn", "info", "debug", "trace"].iter().any(|level| word.eq_ignore_ascii_case(level))
}

/// Logs to standard output from now on.
///
/// # Errors
/// Somebody logs already in this process.
pub fn init(filter: EnvFilter) -> Result<(), TryInitError> {
    // Fields stand beside `timestamp` (RFC 3339, UTC), `level`, `target` and `message`, where log collectors look for them.
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_writer(io::stdout);
    tracing_subscriber::registry().with(filter).with(lines).try_init()
}

/// Ends the process with `code` on a panic in any thread, after it was logged: an operator that starts anew loses nothing.
pub fn exit_on_panic(code: i32) {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        tell(info);
        tracing::error!(panic = %info, "internal error: the operator ends");
        std::process::exit(code);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_none_is_told_by_name() {
        for right in ["", " ", "info", "WARN", "info,operator::controller=debug"] {
            filter(Some(right.to_owned())).unwrap_or_else(|error| panic!("{right}: {error}"));
        }
        for wrong in ["verbose", "info,operator=loud", "info,nosuch"] {
            let told = filter(Some(wrong.to_owned())).unwrap_err().to_string();
            assert!(told.starts_with("IDEMPOTENCY_LOG: ") && told.contains("for example: info,"), "{told}");
        }
    }

    #[test]
    fn what_the_client_reads_is_never_logged() {
        let filter = filter(Some("trace".to_owned())).unwrap();
        assert!(filter.to_string().contains("kube_client::client=off"), "{filter}");
    }
}
