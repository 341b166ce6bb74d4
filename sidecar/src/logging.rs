//! Decides how the sidecar logs: one JSON object a line on standard output, filtered by an environment variable. I/O.

use std::io;
use std::panic;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::settings::{LOG_VARIABLE, Strings};

/// What is logged when nothing is said: the summary of each minute and all that stands out.
const DEFAULT: &str = "info";

/// The log filter is none.
#[derive(Debug, thiserror::Error)]
#[error("{LOG_VARIABLE}: `{text}` is no log filter: {wrong}; for example: info,sidecar::gate=debug")]
pub struct FilterError {
    text: String,
    wrong: String,
}

/// The filter that the environment asks for: levels by module, `info` when it is silent.
///
/// # Errors
/// The text names no level or no module path.
pub fn filter(source: &impl Strings) -> Result<EnvFilter, FilterError> {
    let text = source.get(LOG_VARIABLE).filter(|text| !text.trim().is_empty()).unwrap_or_else(|| DEFAULT.to_owned());
    // EnvFilter takes any word for a module's name, so that `verbose` would silence everything.
    let plain = text.split(',').map(str::trim).find(|d| !d.contains(['=', '[', ':']) && !is_level(d));
    if let Some(word) = plain {
        let wrong = format!("`{word}` is none of off, error, warn, info, debug, trace");
        return Err(FilterError { text, wrong });
    }
    EnvFilter::builder().parse(&text).map_err(|error| FilterError { wrong: error.to_string(), text })
}

fn is_level(word: &str) -> bool {
    ["off", "error", "warn", "info", "debug", "trace"].iter().any(|level| word.eq_ignore_ascii_case(level))
}

/// Logs to standard output from now on, librdkafka's lines included.
///
/// # Errors
/// Somebody logs already in this process.
pub fn init(filter: EnvFilter) -> Result<(), TryInitError> {
    subscriber(filter, io::stdout).try_init()
}

/// Fields stand beside `timestamp` (RFC 3339, UTC), `level`, `target` and `message`, where log collectors look for them.
fn subscriber<W>(filter: EnvFilter, writer: W) -> impl SubscriberInitExt + tracing::Subscriber + Send + Sync + 'static
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_writer(writer);
    tracing_subscriber::registry().with(filter).with(lines)
}

/// Ends the process with `code` on a panic in any thread, after it was logged: what state it left is not known, and a
/// sidecar that starts anew loses nothing. Panics inside [`crate::guard::survive`] are left to it.
pub fn exit_on_panic(code: i32) {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if crate::guard::is_expected() {
            return;
        }
        tell(info);
        tracing::error!(panic = %info, "internal error: the sidecar ends");
        std::process::exit(code);
    }));
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use serde_json::Value;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn with(filter: &str) -> Result<EnvFilter, FilterError> {
        super::filter(&HashMap::from([(LOG_VARIABLE, filter)]))
    }

    #[test]
    fn a_line_is_one_flat_json_object() {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = subscriber(with("info").unwrap(), move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(topic = "orders", offset = 7, "de\ncided \"it\"");
            tracing::debug!("too fine");
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "de\ncided \"it\"");
        assert_eq!((&line["topic"], &line["offset"], &line["level"]), (&"orders".into(), &7.into(), &"INFO".into()));
        let time: jiff::Timestamp = line["timestamp"].as_str().unwrap().parse().unwrap();
        assert!(time > jiff::Timestamp::UNIX_EPOCH);
    }

    #[test]
    fn a_filter_that_is_none_is_told_by_name() {
        for right in ["", " ", "info", "WARN", "info,sidecar::gate=debug,librdkafka=off"] {
            with(right).unwrap_or_else(|e| panic!("{right}: {e}"));
        }
        for wrong in ["verbose", "info,sidecar=loud", "info,nosuch"] {
            let told = with(wrong).unwrap_err().to_string();
            assert!(told.starts_with("IDEMPOTENCY_LOG: ") && told.contains("for example: info,"), "{told}");
        }
    }
}
