//! Whole files in, settings or mistakes out.

use std::collections::BTreeMap;
use std::fs;

use super::*;

const GOOD: &str = "version: 1
group: essays
topics: [orders.v1, orders.v2]
kafka: {bootstrapServers: 'kafka-0:9092, kafka-1:9092'}
redis: {url: 'redis://redis:6379'}
";

/// A throw-away certificate and its key, for `localhost`, valid until 2126.
const CERTIFICATE: &str = include_str!("testdata/cert.pem");
const KEY: &str = include_str!("testdata/key.pem");
const OTHER_KEY: &str = include_str!("testdata/other-key.pem");

fn load_with(text: &str, environment: &HashMap<&str, &str>) -> Result<Settings, SettingsError> {
    let folder = tempfile::tempdir().unwrap();
    let text = text.replace("$DIR", folder.path().to_str().unwrap());
    for (name, contents) in [
        ("password", "hunter2\n"),
        ("username", "app"),
        ("url", "rediss://app:hunter2@redis:6380\n"),
        ("plain-url", "redis://:hunter2@redis\n"),
        ("bare-url", "redis://redis\n"),
        ("user-url", "redis://app@redis\n"),
        ("bad-url", "redis://:hunter2@redis:port\n"),
        ("cert.pem", CERTIFICATE),
        ("key.pem", KEY),
        ("other-key.pem", OTHER_KEY),
        ("empty", ""),
        ("file.yaml", &text),
    ] {
        fs::write(folder.path().join(name), contents).unwrap();
    }
    super::load(environment, &folder.path().join("file.yaml"))
}

fn load(text: &str) -> Result<Settings, SettingsError> {
    load_with(text, &HashMap::new())
}

/// The good file with these lines beside it; a line of the same field takes the good one's place.
fn with(lines: &str) -> String {
    let field = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
    let changed: Vec<String> = lines.lines().map(field).collect();
    let kept: String = GOOD.lines().filter(|l| !changed.contains(&field(l))).map(|l| format!("{l}\n")).collect();
    format!("{kept}{lines}\n")
}

/// The mistakes in the good file with these lines.
fn mistakes(lines: &str) -> BTreeMap<String, String> {
    match load(&with(lines)) {
        Ok(_) => BTreeMap::new(),
        Err(error) => {
            assert!(!error.to_string().contains("hunter2"), "{error}");
            let SettingsError::Invalid { problems, .. } = error else { panic!("{error}") };
            problems.into_iter().map(|p| (p.field.clone(), p.to_string())).collect()
        }
    }
}

fn properties(settings: &Settings) -> BTreeMap<&str, &str> {
    settings.kafka.properties.iter().map(|(n, v)| (n.as_str(), v.expose())).collect()
}

#[test]
fn a_small_file_has_good_defaults() {
    let settings = load(GOOD).unwrap();
    assert_eq!(settings.config.ttl, crds::Duration::from_secs(86_400));
    assert_eq!(settings.redis.urls, [Secret::new("redis://redis:6379")]);
    assert_eq!(settings.redis.timeout, Duration::from_millis(250));
    let expected = BTreeMap::from([
        ("bootstrap.servers", "kafka-0:9092,kafka-1:9092"),
        ("security.protocol", "plaintext"),
        ("session.timeout.ms", "15000"),
    ]);
    assert_eq!(properties(&settings), expected);
    assert_eq!(settings.warnings(), [""; 0]);
}

#[test]
fn kafka_believes_a_member_alive_for_longer_than_its_session_lives() {
    for (lines, timeout) in [
        ("session: {ttl: 20s}", "30000"),
        ("session: {ttl: 1s}", "15000"),
        ("kafka: {bootstrapServers: 'k:9092', properties: {session.timeout.ms: '45000'}}", "45000"),
    ] {
        let settings = load(&with(lines)).unwrap();
        assert_eq!(properties(&settings)["session.timeout.ms"], timeout, "{lines}");
    }
}

#[test]
fn secrets_are_read_and_never_shown() {
    let settings = load(&format!(
        "{}kafka:\n  bootstrapServers: kafka:9093\n  tls: {{caFile: $DIR/cert.pem, certificateFile: $DIR/cert.pem, \
         keyFile: $DIR/key.pem}}\n  sasl: {{mechanism: SCRAM-SHA-512, usernameFile: $DIR/username, passwordFile: \
         $DIR/password}}\n  properties: {{fetch.max.bytes: '1000000'}}\nredis: {{urlFile: $DIR/url, caFile: \
         $DIR/cert.pem, certificateFile: $DIR/cert.pem, keyFile: $DIR/key.pem}}\nadmin: {{drainTokenFile: \
         $DIR/password}}\n",
        GOOD.lines().take(3).map(|l| format!("{l}\n")).collect::<String>()
    ))
    .unwrap();
    let kafka = properties(&settings);
    for (name, value) in [
        ("security.protocol", "sasl_ssl"),
        ("sasl.mechanism", "SCRAM-SHA-512"),
        ("sasl.username", "app"),
        ("sasl.password", "hunter2"),
        ("fetch.max.bytes", "1000000"),
    ] {
        assert_eq!(kafka[name], value);
    }
    assert!(kafka["ssl.ca.location"].ends_with("/cert.pem") && kafka["ssl.key.location"].ends_with("/key.pem"));
    assert_eq!(settings.redis.urls, [Secret::new("rediss://app:hunter2@redis:6380")]);
    assert_eq!(settings.redis.ca_pem.as_deref(), Some(CERTIFICATE.as_bytes()));
    assert_eq!(settings.redis.client_pem, Some((CERTIFICATE.into(), Secret::new(KEY))));
    assert_eq!(settings.drain_token, Some(Secret::new("hunter2")));
    let shown = format!("{settings:?}{}", serde_saphyr::to_string(&settings.config).unwrap());
    assert!(!shown.contains("hunter2") && !shown.contains("PRIVATE KEY"), "{shown}");
}

#[test]
fn the_environment_names_the_socket() {
    let with = |socket| load_with(GOOD, &HashMap::from([(SOCKET_VARIABLE, socket)]));
    assert_eq!(with("/run/other.sock").unwrap().config.delivery.socket, Path::new("/run/other.sock"));
    let told = with("other.sock").unwrap_err().to_string();
    assert!(told.contains("delivery.socket") && told.contains("no absolute path"), "{told}");
    let told = with("/run/\u{fffd}.sock").unwrap_err().to_string();
    assert!(told.contains("delivery.socket") && told.contains("not UTF-8"), "{told}");
}

#[test]
fn an_environment_that_is_not_utf_8_is_not_taken_for_an_empty_one() {
    use std::os::unix::ffi::OsStrExt;
    assert_eq!(lossy(Some(std::ffi::OsStr::from_bytes(b"/run/\xff").to_owned())).as_deref(), Some("/run/\u{fffd}"));
    assert_eq!(lossy(None), None);
}

#[test]
fn what_is_written_is_read_back() {
    let settings = load(GOOD).unwrap();
    let text = serde_saphyr::to_string(&settings.config).unwrap();
    assert_eq!(load(&text).unwrap().config, settings.config, "{text}");
}

#[test]
fn each_mistake_is_told_by_its_field() {
    let long = "x".repeat(250);
    let socket = format!("delivery: {{socket: /{}}}", "x".repeat(107));
    let cases: &[(&str, &str, &str)] = &[
        ("version: 2", "version", "is 2"),
        ("group: ' '", "group", "is empty"),
        ("topics: []", "topics", "is empty"),
        ("topics: [a, a]", "topics[1]", "named twice"),
        ("topics: [..]", "topics[0]", "Kafka refuses"),
        ("topics: [a/b]", "topics[0]", "letters"),
        (&format!("topics: [{long}]"), "topics[0]", "249"),
        ("ttl: 999ms", "ttl", "outside 1s to"),
        ("ttl: 100000h", "ttl", "outside"),
        ("ttlOverrides: {A: 0s}", "ttlOverrides.A", "outside"),
        ("ttlOverrides: {'': 1h}", "ttlOverrides.", "no event type"),
        ("eventId: {rule: Header, header: ''}", "eventId.header", "is empty"),
        ("eventId: {rule: Fields, fields: []}", "eventId.fields", "is empty"),
        ("eventId: {rule: Fields, fields: [/a, /a]}", "eventId.fields[1]", "named twice"),
        ("eventId: {rule: Fields, fields: [a]}", "eventId.fields[0]", "begins with `/`"),
        ("eventId: {rule: Fields, fields: ['/a~2']}", "eventId.fields[0]", "~0"),
        ("keyPrefix: ''", "keyPrefix", "is empty"),
        ("keyPrefix: 'a:{id}:'", "keyPrefix", "{id}"),
        ("keyPrefix: 'a:{group:'", "keyPrefix", "brace"),
        ("keyPrefix: 'a:group}:'", "keyPrefix", "brace"),
        ("keyPrefix: 'idempotency:'", "keyPrefix", "session.prefix"),
        ("keyPrefix: 'idempotency:session:{type}'", "keyPrefix", "session.prefix"),
        ("group: session", "keyPrefix", "session.prefix"),
        ("doneValues: ['']", "doneValues[0]", "is empty"),
        ("doneValues: [ok, 'c:x:1']", "doneValues[1]", "claimed"),
        ("session: {ttl: 500ms}", "session.ttl", "outside 1s to 30s"),
        ("session: {ttl: 31s}", "session.ttl", "outside 1s to 30s"),
        ("session: {prefix: ''}", "session.prefix", "is empty"),
        ("kafka: {bootstrapServers: k}", "kafka.bootstrapServers", "has no port"),
        (
            "kafka: {bootstrapServers: 'k:9092,SASL_SSL://u:hunter2@k:9092'}",
            "kafka.bootstrapServers",
            "server 2 of the list is a URL",
        ),
        ("kafka: {bootstrapServers: 'k:9092', tls: {keyFile: $DIR/key.pem}}", "kafka.tls.certificateFile", "missing"),
        ("kafka: {bootstrapServers: 'k:9092', tls: {certificateFile: $DIR/cert.pem}}", "kafka.tls.keyFile", "missing"),
        ("kafka: {bootstrapServers: 'k:9092', tls: {caFile: $DIR/password}}", "kafka.tls.caFile", "no PEM"),
        ("kafka: {bootstrapServers: 'k:9092', properties: {acks: '1'}}", "kafka.properties.acks", "is refused"),
        ("kafka: {bootstrapServers: 'k:9092', properties: {fetch.x: '1'}}", "kafka.properties.fetch.x", "No such"),
        ("kafka: {bootstrapServers: 'k:9092', properties: {session.timeout.ms: '9000'}}", "session.ttl", "not below"),
        (
            "kafka: {bootstrapServers: 'k:9092', properties: {max.poll.interval.ms: '10000'}}",
            "drainTimeout",
            "not below",
        ),
        ("redis: {}", "redis.url", "is missing"),
        ("redis: {url: 'redis://r', urlFile: $DIR/url}", "redis.urlFile", "one of the two"),
        ("redis: {url: 'redis://:hunter2@r'}", "redis.url", "into a Secret"),
        ("redis: {url: 'redis://:hunter2@r:port'}", "redis.url", "is no URL"),
        ("redis: {urlFile: $DIR/bad-url}", "redis.urlFile", "is no URL"),
        ("redis: {urlFile: $DIR/none}", "redis.urlFile", "/none can't be read"),
        ("redis: {urlFile: $DIR}", "redis.urlFile", "can't be read"),
        ("redis: {urlFile: $DIR/empty}", "redis.urlFile", "/empty is empty"),
        ("redis: {urlFile: $DIR/url, passwordFile: $DIR/password}", "redis.passwordFile", "one of the two"),
        ("redis: {urlFile: $DIR/plain-url, caFile: $DIR/cert.pem}", "redis.caFile", "rediss://"),
        ("redis: {url: 'redis://r', caFile: $DIR/cert.pem}", "redis.caFile", "rediss://"),
        ("redis: {url: 'rediss://r', keyFile: $DIR/key.pem}", "redis.certificateFile", "missing"),
        ("redis: {url: 'redis://r', usernameFile: $DIR/username}", "redis.passwordFile", "missing"),
        ("redis: {url: 'redis://r', topology: Sentinel}", "redis.sentinelMaster", "is missing"),
        ("redis: {url: 'redis://r', sentinelMaster: m}", "redis.sentinelMaster", "not Sentinel"),
        ("redis: {url: 'redis://r', timeout: 5ms}", "redis.timeout", "outside 10ms to 10s"),
        ("redis: {url: 'redis://r', timeout: 2501ms}", "redis.timeout", "quarter of session.ttl"),
        ("redis: {url: 'redis://app@redis:6379'}", "redis.passwordFile", "missing"),
        ("redis: {urlFile: $DIR/bare-url, usernameFile: $DIR/username}", "redis.passwordFile", "missing"),
        ("redis: {urlFile: $DIR/user-url}", "redis.passwordFile", "missing"),
        ("delivery: {socket: app.sock}", "delivery.socket", "no absolute path"),
        (&socket, "delivery.socket", "108 bytes long"),
        ("delivery: {port: 0}", "delivery.port", "1 to 65535"),
        ("delivery: {path: events}", "delivery.path", "begin with `/`"),
        ("delivery: {path: '/a b'}", "delivery.path", "no path of a URL"),
        ("delivery: {path: '/a#b'}", "delivery.path", "no path of a URL"),
        ("delivery: {timeout: 0s}", "delivery.timeout", "is 0"),
        ("delivery: {timeout: 6h1s}", "delivery.timeout", "above 6h"),
        ("ttlOverrides: {A: 1s}\ndelivery: {timeout: 16m}", "delivery.timeout", "above 15m"),
        ("delivery: {concurrency: 0}", "delivery.concurrency", "1 to 10000"),
        ("delivery: {batch: {maxEvents: 0}}", "delivery.batch.maxEvents", "1 to 10000"),
        ("delivery: {backoff: {min: 0s}}", "delivery.backoff.min", "outside 1ms"),
        ("delivery: {backoff: {min: 1m}}", "delivery.backoff.min", "above delivery.backoff.max (30s)"),
        ("delivery: {maxAttempts: 0, deadLetterTopic: d}", "delivery.maxAttempts", "is 0"),
        ("delivery: {maxAttempts: 3}", "delivery.deadLetterTopic", "is missing"),
        ("delivery: {deadLetterTopic: orders.v1}", "delivery.deadLetterTopic", "among `topics`"),
        ("delivery: {duplicatesTopic: 'a b'}", "delivery.duplicatesTopic", "letters"),
        ("delivery: {appDownTimeout: 0s}", "delivery.appDownTimeout", "outside 1s"),
        ("delivery: {batch: {maxEvents: 9}, buffer: {maxRecords: 8}}", "delivery.buffer.maxRecords", "below"),
        ("delivery: {buffer: {maxBytes: 1000}}", "delivery.buffer.maxBytes", "1048576"),
        ("admin: {bind: 'localhost:9464'}", "admin.bind", "no IP address"),
        ("admin: {drainTokenFile: $DIR/empty}", "admin.drainTokenFile", "is empty"),
        ("stateDir: run", "stateDir", "no absolute path"),
        ("pausedFile: paused", "pausedFile", "no absolute path"),
    ];
    for (lines, field, wrong) in cases {
        let found = mistakes(lines);
        let told = found.get(*field).unwrap_or_else(|| panic!("{lines}: {field} is not among {found:?}"));
        assert!(told.contains(wrong) && told.contains("; for example: "), "{lines}: {told}");
        assert!(!told.contains("hunter2"), "{lines}: {told}");
        assert_eq!(found.len(), 1, "{lines}: {found:?}");
    }
}

#[test]
fn right_values_at_their_bounds_are_taken() {
    for lines in [
        "ttl: 1s",
        "ttl: 87600h",
        "ttl: 1s\ndelivery: {timeout: 15m}",
        "keyPrefix: 'huleedu:events:seen:'",
        "keyPrefix: '{type}'",
        "session: {ttl: 30s}",
        "session: {ttl: 1s}",
        "eventId: {rule: Header, header: ce_id}",
        "eventId: {rule: Fields, fields: [/event_id, '/a~1b/~0']}",
        "redis: {url: 'redis://a, redis://b', topology: Sentinel, sentinelMaster: m}",
        "redis: {url: 'redis://r', usernameFile: $DIR/username, passwordFile: $DIR/password}",
        "delivery: {path: '/events?from=kafka', port: 65535, maxAttempts: 1, deadLetterTopic: d}",
        "admin: {bind: '[::]:0'}",
        "pausedFile: /nowhere/paused",
    ] {
        assert_eq!(mistakes(lines), BTreeMap::new(), "{lines}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let lines = "ttl: soon\nbogus: 1\nt: 1\ntopics: []\ndelivery: {path: x, batch: {maxEvents: many}, buffer: {maxRecords: 8}}\n\
                 redis: {urlFile: $DIR/none, passwordFile: $DIR/empty}";
    let found: Vec<String> = mistakes(lines).into_keys().collect();
    let expected = [
        "bogus",
        "delivery.batch.maxEvents",
        "delivery.path",
        "redis.passwordFile",
        "redis.urlFile",
        "t",
        "topics",
        "ttl",
    ];
    assert_eq!(found, expected);
}

#[test]
fn librdkafkas_refusals_stand_among_the_others() {
    let kafka = "kafka: {bootstrapServers: k, properties: {acks: '1', fetch.max.byte: '1', group.id: g}}";
    let error = load(&format!("{}\n{kafka}\ndelivery: {{path: x}}\n", GOOD.replace("kafka: ", "doneValues: []\n# ")));
    let Err(SettingsError::Invalid { problems, .. }) = error else { panic!("{error:?}") };
    let told: Vec<_> = problems.iter().map(|p| p.field.trim_start_matches("kafka.")).collect();
    let properties = ["properties.acks", "properties.fetch.max.byte", "properties.group.id"];
    assert_eq!(told, [&["bootstrapServers"], &properties[..], &["delivery.path"]].concat());
}

#[test]
fn a_certificate_and_another_ones_key_are_refused() {
    let files = "{certificateFile: $DIR/cert.pem, keyFile: $DIR/other-key.pem}";
    let found = mistakes(&format!("kafka: {{bootstrapServers: 'k:9092', tls: {files}}}"));
    assert!(found["kafka"].contains("librdkafka refuses it"), "{found:?}");
}

#[test]
fn what_is_allowed_and_risky_is_warned_of() {
    let file = format!(
        "{}kafka: {{bootstrapServers: 'k:9092', sasl: {{mechanism: PLAIN, usernameFile: $DIR/username, passwordFile: \
         $DIR/password}}}}\nredis: {{url: 'redis://r', passwordFile: $DIR/password}}\n",
        GOOD.lines().take(3).map(|l| format!("{l}\n")).collect::<String>()
    );
    let warnings = load(&file).unwrap().warnings();
    assert!(warnings[0].starts_with("kafka.sasl: ") && warnings[1].starts_with("redis.passwordFile: "), "{warnings:?}");
    assert!(!warnings.concat().contains("hunter2"));
    let warnings = |lines: &str| {
        let kept: String = GOOD.lines().filter(|l| !lines.contains(&l[..6])).map(|l| format!("{l}\n")).collect();
        load(&format!("{kept}{lines}\n")).unwrap().warnings()
    };
    let told = warnings("redis: {urlFile: $DIR/plain-url}");
    assert!(told[0].starts_with("redis.urlFile: ") && !told[0].contains("hunter2"), "{told:?}");
    assert_eq!(warnings("redis: {urlFile: $DIR/url}"), [""; 0], "over TLS");
    for (name, value, risky) in [
        ("enable.ssl.certificate.verification", "false", true),
        ("enable.ssl.certificate.verification", "FALSE", true),
        ("enable.ssl.certificate.verification", "f", true),
        ("enable.ssl.certificate.verification", "0", true),
        ("enable.ssl.certificate.verification", "true", false),
        ("ssl.endpoint.identification.algorithm", "none", true),
        ("ssl.endpoint.identification.algorithm", "https", false),
    ] {
        let told = warnings(&format!("kafka: {{bootstrapServers: 'k:9092', properties: {{{name}: '{value}'}}}}"));
        assert_eq!(told.iter().any(|told| told.contains(name)), risky, "{name}: {value}: {told:?}");
    }
}

#[test]
fn a_file_that_is_not_there_or_no_yaml_is_told() {
    let told = super::load(&HashMap::new(), Path::new("/nowhere/sidecar.yaml")).unwrap_err().to_string();
    assert!(told.contains("--config") && told.contains("/nowhere/sidecar.yaml"), "{told}");
    let told = load("group: [\nredis: 'redis://:hunter2@r").unwrap_err().to_string();
    assert!(told.contains("file.yaml") && told.contains("is not YAML") && !told.contains("hunter2"), "{told}");
}
