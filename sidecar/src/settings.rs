//! Decides what the sidecar runs with: file, environment and mounted Secrets in, checked settings out. Reads files, binds no port.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crds::config::kafka_properties::session_timeout;
use crds::config::{ClaimCommand, Problem, Problems, SaslMechanism, SidecarConfig, Topology, redis_url};

mod files;
mod kafka_properties;
mod read;

pub use crds::Secret;

/// Environment variable that takes the place of `delivery.socket`: the app reads the same one.
pub const SOCKET_VARIABLE: &str = "IDEMPOTENCY_SOCKET";
/// Environment variable with the log filter, for example `info` or `info,sidecar::gate=debug`.
pub const LOG_VARIABLE: &str = "IDEMPOTENCY_LOG";

/// Where named texts come from: the process's environment, or a map in tests.
pub trait Strings {
    /// The text of that name, if there is one; with U+FFFD for what is not UTF-8.
    fn get(&self, name: &str) -> Option<String>;
}

/// The process's environment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Environment;

impl Strings for Environment {
    fn get(&self, name: &str) -> Option<String> {
        lossy(std::env::var_os(name))
    }
}

/// A text that is not UTF-8 is told by the sign that takes the place of what can't be read.
fn lossy(text: Option<std::ffi::OsString>) -> Option<String> {
    text.map(|text| text.to_string_lossy().into_owned())
}

impl Strings for HashMap<&str, &str> {
    fn get(&self, name: &str) -> Option<String> {
        HashMap::get(self, name).map(|&text| text.to_owned())
    }
}

/// Everything the sidecar runs with, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configuration as written, validated.
    pub config: SidecarConfig,
    /// What the Redis store needs, with the Secrets read.
    pub redis: RedisSettings,
    /// What librdkafka needs, with the Secrets read.
    pub kafka: KafkaSettings,
    /// The token that `/drain` asks for.
    pub drain_token: Option<Secret>,
}

/// What the Redis store needs.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// URLs: one, or several nodes or sentinels.
    pub urls: Vec<Secret>,
    /// ACL user, where it is not in the URL.
    pub username: Option<Secret>,
    /// Password, where it is not in the URL.
    pub password: Option<Secret>,
    /// Authorities to trust, PEM; `None` means the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// Client certificate and key, PEM.
    pub client_pem: Option<(Vec<u8>, Secret)>,
    /// How the servers stand together.
    pub topology: Topology,
    /// Name of the master set, for [`Topology::Sentinel`].
    pub sentinel_master: Option<String>,
    /// How a claim is written.
    pub claim_command: ClaimCommand,
    /// How long one round trip may take.
    pub timeout: Duration,
}

/// What librdkafka needs, beside what the sidecar sets itself.
#[derive(Clone, Debug)]
pub struct KafkaSettings {
    /// librdkafka properties from the configuration: bootstrap servers, TLS, SASL, further ones. Secrets among them.
    pub properties: Vec<(String, Secret)>,
    /// The consumer group.
    pub group: String,
    /// The topics.
    pub topics: Vec<String>,
}

/// Why the sidecar can't run with what it was given. Every message names the field and a right value, and no Secret.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The configuration file itself can't be read.
    #[error("--config: the file {} can't be read: {source}; for example: --config /etc/idempotency/sidecar.yaml", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is neither YAML nor JSON.
    #[error("{}{}: is not YAML: {wrong}; for example: {}", path.display(), at(*line), "`group: essay-lifecycle`")]
    NotYaml {
        /// The file.
        path: PathBuf,
        /// The line, from 1, where known.
        line: Option<u64>,
        /// What the parser says, without anything from the file.
        wrong: String,
    },
    /// Fields are missing, unknown or wrong, or the files that they name.
    #[error("{}: {} found\n{}", path.display(), mistakes(problems.len()), listed(problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All mistakes.
        problems: Vec<Problem>,
    },
}

fn at(line: Option<u64>) -> String {
    line.map_or_else(String::new, |line| format!(":{line}"))
}

fn mistakes(count: usize) -> String {
    if count == 1 { "1 mistake".to_owned() } else { format!("{count} mistakes") }
}

fn listed(problems: &[Problem]) -> String {
    problems.iter().map(|p| format!("  {p}")).collect::<Vec<_>>().join("\n")
}

/// Reads the configuration file and the Secrets that it names, and checks everything. Binds no port, contacts nobody.
///
/// # Errors
/// All mistakes at once, each with the field's path, what is wrong and a right value.
pub fn load(source: &impl Strings, path: &Path) -> Result<Settings, SettingsError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| SettingsError::Unreadable { path: path.to_owned(), source })?;
    let reading = read::read(&text).map_err(|error| SettingsError::NotYaml {
        path: path.to_owned(),
        line: error.line,
        wrong: error.wrong,
    })?;
    let mut told = reading.problems;
    let settings = reading.config.and_then(|mut config| {
        let mut problems = Problems::default();
        if let Some(socket) = source.get(SOCKET_VARIABLE) {
            if socket.contains('\u{fffd}') {
                problems.add("delivery.socket", format!("${SOCKET_VARIABLE} takes its place and is not UTF-8"));
            }
            config.delivery.socket = socket.into();
        }
        crds::config::validate(&config, &kafka_properties::check, &mut problems);
        let settings = complete(config, &mut problems);
        // A field that was mended to look at the rest has been told already.
        let mended = |field: &str| {
            told.iter().any(|p| field.strip_prefix(&p.field).is_some_and(|r| r.is_empty() || r.starts_with(['.', '['])))
        };
        let fresh: Vec<Problem> = problems.0.into_iter().filter(|p| !mended(&p.field)).collect();
        told.extend(fresh);
        settings
    });
    match settings {
        Some(settings) if told.is_empty() => Ok(settings),
        _ => Err(SettingsError::Invalid { path: path.to_owned(), problems: told }),
    }
}

/// Reads the files that a configuration names. `None` when something is wrong, which is noted.
fn complete(config: SidecarConfig, problems: &mut Problems) -> Option<Settings> {
    let redis = redis_settings(&config, problems);
    let kafka = kafka_settings(&config, problems);
    let file = config.admin.drain_token_file.as_deref();
    let drain_token = files::optional("admin.drainTokenFile", file, problems);
    if problems.0.is_empty() {
        kafka_properties::check_together(&kafka.properties, problems);
    }
    let redis = redis.filter(|_| problems.0.is_empty())?;
    Some(Settings { config, redis, kafka, drain_token })
}

fn redis_settings(config: &SidecarConfig, problems: &mut Problems) -> Option<RedisSettings> {
    let redis = &config.redis;
    let username = files::optional("redis.usernameFile", redis.username_file.as_deref(), problems);
    let password = files::optional("redis.passwordFile", redis.password_file.as_deref(), problems);
    let ca_pem = redis.ca_file.as_deref().and_then(|f| files::certificates("redis.caFile", f, problems));
    let certificate =
        redis.certificate_file.as_deref().and_then(|f| files::certificates("redis.certificateFile", f, problems));
    let key = redis.key_file.as_deref().and_then(|f| files::private_key("redis.keyFile", f, problems));
    let urls = match (&redis.url, &redis.url_file) {
        (Some(url), None) => redis_url::parse(url, redis.topology).ok()?.urls,
        (None, Some(file)) => {
            let list = files::secret("redis.urlFile", file, problems)?;
            match redis_url::parse(list.expose(), redis.topology) {
                Ok(urls) => {
                    urls.agree("the URL in redis.urlFile", redis, problems);
                    urls.urls
                }
                Err(wrong) => {
                    let wrong = format!("the URL in {} {wrong}", file.display());
                    problems.add_like("redis.urlFile", wrong, "a file that holds redis://redis:6379");
                    return None;
                }
            }
        }
        // Both or none: validation has told it.
        _ => return None,
    };
    Some(RedisSettings {
        urls,
        username,
        password,
        ca_pem,
        client_pem: certificate.zip(key),
        topology: redis.topology,
        sentinel_master: redis.sentinel_master.clone(),
        claim_command: redis.claim_command,
        timeout: redis.timeout.get(),
    })
}

fn kafka_settings(config: &SidecarConfig, problems: &mut Problems) -> KafkaSettings {
    let kafka = &config.kafka;
    if let Some(tls) = &kafka.tls {
        // librdkafka reads these files itself; they are looked at here so that the mistake is told with its field.
        if let Some(file) = &tls.ca_file {
            files::certificates("kafka.tls.caFile", file, problems);
        }
        if let Some(file) = &tls.certificate_file {
            files::certificates("kafka.tls.certificateFile", file, problems);
        }
        if let Some(file) = &tls.key_file {
            files::private_key("kafka.tls.keyFile", file, problems);
        }
    }
    let mut read = |field, file: Option<&Path>| files::optional(field, file, problems);
    let username = read("kafka.sasl.usernameFile", kafka.sasl.as_ref().map(|s| s.username_file.as_path()));
    let password = read("kafka.sasl.passwordFile", kafka.sasl.as_ref().map(|s| s.password_file.as_path()));
    let mut properties = kafka_properties::properties(kafka, username, password);
    let timeout = session_timeout(&kafka.properties, config.session.ttl.get()).as_millis();
    properties.push(("session.timeout.ms".to_owned(), Secret::new(timeout.to_string())));
    KafkaSettings { properties, group: config.group.clone(), topics: config.topics.clone() }
}

impl Settings {
    /// What is allowed and worth a warning, one sentence each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let kafka = &self.config.kafka;
        if kafka.tls.is_none() && kafka.sasl.as_ref().is_some_and(|s| s.mechanism == SaslMechanism::Plain) {
            warnings
                .push("kafka.sasl: PLAIN without kafka.tls sends the password readable over the network".to_owned());
        }
        let tls = self.redis.urls.iter().all(|url| url.expose().starts_with("rediss:"));
        let in_url = |url: &Secret| redis_url::parse(url.expose(), Topology::Standalone).is_ok_and(|url| url.password);
        let field = match &self.redis.password {
            Some(_) => Some("redis.passwordFile"),
            None => self.redis.urls.iter().any(in_url).then_some("redis.urlFile"),
        };
        if let Some(field) = field.filter(|_| !tls) {
            warnings.push(format!("{field}: without rediss:// the password goes readable over the network"));
        }
        // Each as librdkafka reads it.
        for (name, off) in [
            ("enable.ssl.certificate.verification", &["false", "f", "0"][..]),
            ("ssl.endpoint.identification.algorithm", &["none"]),
        ] {
            let value = kafka.properties.get(name).map(|value| value.to_ascii_lowercase());
            if value.is_some_and(|value| off.contains(&&*value)) {
                warnings.push(format!("kafka.properties.{name}: without it anybody can pose as the broker"));
            }
        }
        warnings
    }
}

#[cfg(test)]
mod tests;
