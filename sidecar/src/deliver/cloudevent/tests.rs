//! Tests of binary mode: what the app reads, and that no record can make it read anything else.

use std::sync::Arc;

use crds::status::Protection;
use http_body_util::BodyExt;
use percent_encoding::percent_decode_str;
use proptest::prelude::*;

use super::*;
use crate::event_id::{CloudEvent, EventId, Identity};
use crate::record::{Header, Record, TopicPartition};

pub(super) fn parcel() -> Parcel {
    Parcel {
        record: Arc::new(Record {
            origin: TopicPartition { topic: "orders".into(), partition: 3 },
            offset: 7,
            timestamp: Some(1_700_000_000_123),
            key: Some("k 1".into()),
            value: Some("{\"data\":{\"order\":1}}".into()),
            headers: Vec::new(),
        }),
        identity: Arc::new(Identity {
            id: EventId([0xab; 32]),
            fallback: false,
            event_type: "OrderCreated".into(),
            fingerprint: None,
            cloud_event: None,
        }),
        idempotency_key: format!("idempotency:g:orders:OrderCreated:{}", "ab".repeat(32)).into(),
        attempt: 2,
        protection: Protection::Local,
    }
}

pub(super) fn with_record(change: impl FnOnce(&mut Record)) -> Parcel {
    let mut parcel = parcel();
    change(Arc::make_mut(&mut parcel.record));
    parcel
}

pub(super) fn header(name: &str, value: impl Into<Bytes>) -> Header {
    Header { name: name.into(), value: Some(value.into()) }
}

pub(super) fn cloud_event(structured: bool, attributes: &[(&str, &str)]) -> Parcel {
    let mut parcel = parcel();
    let attributes = attributes.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Arc::make_mut(&mut parcel.identity).cloud_event = Some(Box::new(CloudEvent { attributes, structured }));
    parcel
}

fn request(parcel: &Parcel) -> Request<Full<Bytes>> {
    binary_request(parcel, &target("/events"), &mut BytesMut::new())
}

fn lines(parcel: &Parcel) -> Vec<String> {
    let request = request(parcel);
    request.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
}

fn value<'a>(request: &'a Request<Full<Bytes>>, name: &str) -> Option<&'a str> {
    request.headers().get(name).map(|value| value.to_str().unwrap())
}

#[test]
fn an_ordinary_record() {
    assert_eq!(
        lines(&parcel()),
        [
            "host: localhost".into(),
            "ce-specversion: 1.0".into(),
            format!("ce-id: {}", "ab".repeat(32)),
            "ce-source: /kafka/orders#OrderCreated".into(),
            "ce-type: OrderCreated".into(),
            "ce-time: 2023-11-14T22:13:20.123Z".into(),
            "content-type: application/json".into(),
            format!("idempotency-key: idempotency:g:orders:OrderCreated:{}", "ab".repeat(32)),
            "idempotency-attempt: 2".into(),
            "idempotency-protection: local".into(),
            "kafka-topic: orders".into(),
            "kafka-partition: 3".into(),
            "kafka-offset: 7".into(),
            "kafka-key: k%201".into(),
        ]
    );
    let request = request(&parcel());
    assert_eq!((request.method(), request.uri().to_string()), (&Method::POST, "/events".into()));
}

#[test]
fn a_record_without_anything() {
    let mut parcel = with_record(|record| {
        record.timestamp = None;
        record.key = None;
        record.value = None;
    });
    Arc::make_mut(&mut parcel.identity).event_type = "".into();
    let request = request(&parcel);
    assert_eq!(value(&request, "ce-type"), Some(DEFAULT_TYPE));
    assert_eq!(value(&request, "ce-source"), Some("/kafka/orders"));
    assert_eq!(value(&request, "content-type"), Some("application/octet-stream"));
    assert_eq!(value(&request, "kafka-tombstone"), Some("true"));
    assert_eq!((value(&request, "ce-time"), value(&request, "kafka-key")), (None, None));
    let empty = with_record(|record| record.value = Some(Bytes::new()));
    assert_eq!(value(&super::tests::request(&empty), "kafka-tombstone"), None);
    for time in [-1, i64::MIN, i64::MAX, 253_402_300_800_000] {
        assert_eq!(value(&super::tests::request(&with_record(|r| r.timestamp = Some(time))), "ce-time"), None);
    }
}

#[test]
fn a_cloud_event_keeps_its_attributes() {
    let mut parcel = cloud_event(
        false,
        &[
            ("specversion", "1.0"),
            ("id", "a b"),
            ("source", "/\u{20ac}\"%"),
            ("type", "t"),
            ("time", "2020-01-01T00:00:00Z"),
            ("subject", "old"),
            ("subject", "s"),
            ("Bad-Name", "x"),
            ("data", "x"),
            ("idempotencykey", "forged"),
            ("kafkaoffset", "forged"),
        ],
    );
    Arc::make_mut(&mut parcel.record).headers = vec![
        header("ce_id", "a b"),
        header("ce_subject", "s"),
        header("ce_kafkaoffset", "forged"),
        header("content-type", "text/plain; a=b"),
    ];
    let request = request(&parcel);
    assert_eq!(value(&request, "ce-id"), Some("a%20b"));
    assert_eq!(value(&request, "ce-source"), Some("/%E2%82%AC%22%25"), "the binding's own example");
    assert_eq!(value(&request, "ce-time"), Some("2020-01-01T00:00:00Z"));
    assert_eq!(request.headers().get_all("ce-subject").iter().count(), 1);
    assert_eq!(value(&request, "ce-subject"), Some("s"));
    assert_eq!(value(&request, "content-type"), Some("text/plain; a=b"));
    for absent in [
        "ce-bad-name",
        "ce-data",
        "ce-idempotencykey",
        "ce-kafkaoffset",
        "kafka-header-ce_id",
        "kafka-header-content-type",
    ] {
        assert_eq!(value(&request, absent), None, "{absent}");
    }
    assert_eq!(
        value(&request, "kafka-header-ce_kafkaoffset"),
        Some("forged"),
        "left out as attribute, so kept as header"
    );
}

#[test]
fn a_structured_event_goes_as_it_is() {
    let parcel = cloud_event(true, &[("id", "a"), ("type", "t")]);
    let request = request(&parcel);
    assert_eq!(value(&request, "content-type"), Some("application/cloudevents+json"));
    assert!(request.headers().keys().all(|name| !name.as_str().starts_with("ce-")));
    assert_eq!(value(&request, "idempotency-attempt"), Some("2"));
}

#[test]
fn a_record_header_takes_none_of_our_names() {
    let names = [
        "idempotency-key",
        "Idempotency-Attempt",
        "kafka-offset",
        "ce-id",
        "host",
        "content-length",
        "transfer-encoding",
        "Connection",
    ];
    let parcel = with_record(|record| {
        record.headers = names.iter().map(|name| header(name, "forged")).collect();
        record.headers.push(header("content-type", "application/cloudevents+json"));
    });
    let request = request(&parcel);
    for name in names {
        let all: Vec<_> = request.headers().get_all(name.to_ascii_lowercase()).iter().collect();
        assert!(all.len() <= 1 && all.iter().all(|value| *value != "forged"), "{name}: {all:?}");
        assert_eq!(value(&request, &format!("kafka-header-{}", name.to_ascii_lowercase())), Some("forged"));
    }
    assert_eq!(
        value(&request, "content-type"),
        Some("application/json"),
        "a plain record can't pretend to be structured"
    );
}

#[test]
fn headers_may_repeat_be_null_and_have_any_name() {
    let parcel = with_record(|record| {
        record.headers = vec![
            header("A b:\r\n\u{e9}", "1"),
            header("a B:\r\n\u{e9}", "2"),
            Header { name: "null".into(), value: None },
            header("", "empty"),
            header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            header("tracestate", "bad\n"),
        ]
    });
    let lines = lines(&parcel);
    let tail: Vec<_> = lines.iter().skip_while(|line| !line.starts_with("traceparent")).collect();
    assert_eq!(
        tail,
        [
            "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "kafka-header-a%20b%3a%0d%0a%c3%a9: 1",
            "kafka-header-a%20b%3a%0d%0a%c3%a9: 2",
            "kafka-header-null: ",
            "kafka-header-: empty",
            "kafka-header-tracestate: bad%0A",
        ]
    );
}

#[test]
fn what_is_too_large_is_left_out_and_counted() {
    let parcel = with_record(|record| {
        record.key = Some(vec![0; 1 << 20].into());
        record.headers =
            vec![header("large", vec![b'x'; 1 << 20]), header("small", "s"), header(&"n".repeat(70_000), "x")];
        record.headers.extend((0..100_000).map(|_| header("ce_time", "x")));
    });
    let request = request(&parcel);
    assert_eq!(value(&request, "kafka-header-small"), Some("s"));
    assert_eq!(request.headers().get_all("kafka-header-ce_time").iter().count(), 63);
    assert_eq!(value(&request, "idempotency-headers-omitted"), Some("99940"));

    let mut parcel = cloud_event(false, &[("id", &"i".repeat(2000)), ("type", &"t".repeat(2000))]);
    Arc::make_mut(&mut parcel.identity).event_type = "t".repeat(2000).into();
    parcel.idempotency_key = "t".repeat(2000).into();
    let request = super::tests::request(&parcel);
    assert_eq!(value(&request, "ce-id"), Some(&*"ab".repeat(32)));
    assert_eq!(value(&request, "ce-type"), Some(DEFAULT_TYPE));
    let key = value(&request, "idempotency-key").unwrap();
    assert!(key.starts_with("sha256:") && key.len() == 71, "{key}");
}

#[test]
fn a_record_of_100_000_attributes_takes_no_time() {
    let attributes: Vec<(String, String)> = (0..100_000).map(|n| (format!("a{n}"), "x".into())).collect();
    let attributes: Vec<(&str, &str)> = attributes.iter().map(|(name, value)| (&**name, &**value)).collect();
    let mut parcel = cloud_event(false, &attributes);
    Arc::make_mut(&mut parcel.record).headers =
        attributes.iter().map(|(name, _)| header(&format!("ce_{name}"), "x")).collect();
    let begun = std::time::Instant::now();
    assert!(request(&parcel).headers().len() < 100);
    assert!(begun.elapsed() < std::time::Duration::from_secs(2), "quadratic: {:?}", begun.elapsed());
}

#[test]
fn any_configured_path_makes_a_target() {
    for (path, want) in [
        ("/", "/"),
        ("", "/"),
        ("events", "/events"),
        ("/a b\r\nx: y?q=1#f", "/a%20b%0D%0Ax:%20y?q=1%23f"),
        ("//host/x", "//host/x"),
        ("/\u{e9}", "/%C3%A9"),
    ] {
        assert_eq!(target(path).to_string(), want, "{path:?}");
    }
}

#[test]
fn names_are_what_is_sent() {
    let names = event_names(&[parcel(), cloud_event(false, &[("id", "own")])]);
    assert_eq!(*names[0].key, format!("idempotency:g:orders:OrderCreated:{}", "ab".repeat(32)));
    assert_eq!((&*names[0].id, &*names[1].id), (&*"ab".repeat(32), "own"));
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

prop_compose! {
    pub(super) fn any_parcel()(
        key in proptest::option::of(any_bytes()),
        value in proptest::option::of(any_bytes()),
        topic in "\\PC*|.*", event_type in ".*", store_key in ".*",
        headers in proptest::collection::vec((prop_oneof![".*", "ce_[a-z]{1,4}", "[A-Za-z-]{1,9}", Just("content-type".to_owned()), Just("traceparent".to_owned())], proptest::option::of(any_bytes())), 0..9),
        attributes in proptest::option::of(proptest::collection::vec((prop_oneof![".*", "[a-z]{1,5}", Just("id".to_owned()), Just("time".to_owned())], ".*"), 0..6)),
        structured in any::<bool>(), offset in any::<i64>(), partition in any::<i32>(), timestamp in any::<Option<i64>>(), attempt in any::<u32>(),
    ) -> Parcel {
        let mut parcel = parcel();
        let record = Arc::make_mut(&mut parcel.record);
        record.headers = headers.into_iter().map(|(name, value)| Header { name, value }).collect();
        (record.key, record.value, record.offset, record.timestamp) = (key, value, offset, timestamp);
        record.origin = TopicPartition { topic: topic.into(), partition };
        let identity = Arc::make_mut(&mut parcel.identity);
        identity.event_type = event_type.into();
        identity.cloud_event = attributes.map(|attributes| Box::new(CloudEvent { attributes, structured }));
        (parcel.idempotency_key, parcel.attempt) = (store_key.into(), attempt);
        parcel
    }
}

proptest! {
    #[test]
    fn no_record_makes_an_invalid_request(parcel in any_parcel()) {
        let request = request(&parcel);
        let ours = ["host", "ce-", "content-type", "content-length", "idempotency-", "kafka-", "traceparent", "tracestate"];
        for (name, value) in request.headers() {
            prop_assert!(ours.iter().any(|prefix| name.as_str().starts_with(prefix)), "{name}");
            prop_assert!(value.as_bytes().iter().all(|byte| (b' '..=b'~').contains(byte)), "{name}: {value:?}");
        }
        for name in ["host", "content-type", "idempotency-key", "idempotency-attempt", "kafka-topic", "kafka-offset", "ce-id", "ce-type"] {
            let structured = name.starts_with("ce-") && parcel.identity.cloud_event.as_ref().is_some_and(|event| event.structured);
            prop_assert_eq!(request.headers().get_all(name).iter().count(), usize::from(!structured), "{}", name);
        }
        let decode = |name| value(&request, name).map(|text| percent_decode_str(text).collect::<Vec<u8>>());
        prop_assert_eq!(decode("kafka-key"), parcel.record.key.as_deref().map(<[u8]>::to_vec));
        prop_assert_eq!(decode("kafka-topic"), Some(parcel.record.origin.topic.as_bytes().to_vec()));
        let body = request.into_body().collect();
        let body = futures_util::FutureExt::now_or_never(body).unwrap().unwrap().to_bytes();
        prop_assert_eq!(body, parcel.record.value.clone().unwrap_or_default());
    }
}
