//! Decides how a span of time is written in configuration: `24h`, `90s`, `250ms`. Pure.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a duration looks like, for schemas and rules: all that it matches is read, and nothing else. Each number has few enough digits
/// that neither Rust nor CEL overflows.
pub(crate) const PATTERN: &str = concat!(
    "^([0-9]{1,6}([.][0-9]{1,3})?h",
    "|([0-9]{1,6}h)?[0-9]{1,7}([.][0-9]{1,3})?m",
    "|([0-9]{1,6}h)?([0-9]{1,7}m)?[0-9]{1,9}([.][0-9]{1,3})?s",
    "|([0-9]{1,6}h)?([0-9]{1,7}m)?([0-9]{1,9}s)?[0-9]{1,12}ms)$",
);

/// A span of time, written as Kubernetes writes it: a number and a unit, one or more times (`24h`, `1h30m`, `250ms`).
///
/// The units are `h`, `m`, `s` and `ms`, the larger ones first; the last number may have a fraction (`1.5s`). Nothing is
/// finer than a millisecond, so that what is written is what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(std::time::Duration);

/// The text is no duration; the message shows a right one. It does not repeat the text, which may be a Secret in the wrong place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseDurationError;

impl fmt::Display for ParseDurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("is not a duration: write a number and a unit, for example `24h`, `90s` or `250ms`")
    }
}

impl std::error::Error for ParseDurationError {}

impl Duration {
    /// A duration of whole seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(std::time::Duration::from_secs(secs))
    }

    /// A duration of whole milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(std::time::Duration::from_millis(millis))
    }

    /// The same span as the standard library's type.
    #[must_use]
    pub const fn get(self) -> std::time::Duration {
        self.0
    }
}

impl From<Duration> for std::time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

impl FromStr for Duration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseDurationError;
        // jiff also takes ISO 8601 and words; only the short form is ours, so that Kubernetes and the sidecar agree.
        let short = text.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b"hms".contains(&b));
        if !short || text.is_empty() {
            return Err(wrong());
        }
        let signed: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
        let duration = std::time::Duration::try_from(signed).map_err(|_| wrong())?;
        if duration.subsec_nanos() % 1_000_000 == 0 { Ok(Self(duration)) } else { Err(wrong()) }
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut millis = self.0.as_millis();
        if millis == 0 {
            return f.write_str("0s");
        }
        for (unit, name) in [(3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")] {
            if millis >= unit {
                write!(f, "{}{name}", millis / unit)?;
                millis %= unit;
            }
        }
        Ok(())
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": PATTERN,
            "examples": ["24h", "90s", "250ms"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_kubernetes_writes() {
        for (text, millis) in
            [("24h", 86_400_000), ("1h30m", 5_400_000), ("90s", 90_000), ("250ms", 250), ("1.5s", 1_500)]
        {
            assert_eq!(text.parse(), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest_and_shows_a_right_one() {
        for text in ["", "5", "ten minutes", "-5s", "P1D", "5 s", "1d", "h", "5us", "100ns", "1.5ms", "0.0001s", "1m1h"]
        {
            let error = text.parse::<Duration>().unwrap_err();
            let error = error.to_string();
            assert!(error.contains("`24h`") && (text.len() < 2 || !error.contains(text)), "{text}: {error}");
        }
    }

    #[test]
    fn writes_what_it_reads() {
        for text in ["24h", "1h30m", "250ms", "1m0s", "0s", "1.5s", "0.25h", "26h3m4s5ms"] {
            let duration: Duration = text.parse().unwrap();
            assert_eq!(duration.to_string().parse(), Ok(duration), "{text}");
        }
    }
}
