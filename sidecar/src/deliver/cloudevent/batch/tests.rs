//! Tests of the batch format.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::tests::{any_parcel, cloud_event, header, parcel, with_record};
use super::*;

fn events(parcels: &[Parcel]) -> Vec<Value> {
    let mut out = BytesMut::new();
    write_batch(parcels, &mut out);
    serde_json::from_slice(&out).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&out)))
}

fn event(parcel: &Parcel) -> Value {
    events(std::slice::from_ref(parcel)).remove(0)
}

fn of_value(value: impl Into<Bytes>) -> Value {
    event(&with_record(|record| record.value = Some(value.into())))
}

#[test]
fn an_ordinary_record() {
    let id = "ab".repeat(32);
    let want = json!({
        "specversion": "1.0", "id": id, "source": "/kafka/orders#OrderCreated", "type": "OrderCreated",
        "time": "2023-11-14T22:13:20.123Z", "idempotencykey": format!("idempotency:g:orders:OrderCreated:{id}"),
        "idempotencyattempt": 2, "idempotencyprotection": "local", "kafkatopic": "orders", "kafkapartition": 3,
        "kafkaoffset": "7", "kafkakey": "k 1", "datacontenttype": "application/json", "data": {"data": {"order": 1}},
    });
    assert_eq!(events(&[parcel(), parcel()]), [want.clone(), want]);
    assert_eq!(events(&[]), Vec::<Value>::new());
}

#[test]
fn json_is_embedded_as_it_is_and_the_rest_as_base64() {
    let mut out = BytesMut::new();
    write_batch(
        &[with_record(|r| r.value = Some(" { \"a\" : 1.50 , \"a\":123456789012345678901234567890 }\n".into()))],
        &mut out,
    );
    assert!(
        String::from_utf8_lossy(&out).contains("\"data\": { \"a\" : 1.50 , \"a\":123456789012345678901234567890 }\n}")
    );
    assert_eq!(of_value("7")["data"], json!(7));
    assert_eq!(of_value("7")["datacontenttype"], "application/json");
    for value in [
        &b""[..],
        b"NaN",
        b"{\"a\":NaN}",
        b"{\"a\":1} x",
        b"{\"a\":1",
        b"\"\xff\"",
        b"{\"\xff\":1}",
        b"\xef\xbb\xbf{}",
        b"01",
        b"[1,]",
        b"\0",
    ] {
        let event = of_value(value);
        assert_eq!(STANDARD.decode(event["data_base64"].as_str().unwrap()).unwrap(), value);
        assert!(event.get("data").is_none(), "{value:?}");
    }
    let tombstone = event(&with_record(|record| record.value = None));
    assert_eq!(tombstone["kafkatombstone"], true);
    assert!(tombstone.get("data").is_none() && tombstone.get("data_base64").is_none());
}

#[test]
fn json_that_strict_parsers_refuse_is_not_embedded() {
    let long = "9".repeat(400);
    for value in ["1e999", "-1e999", long.as_str(), r#"{"a":["\ud800"]}"#, r#"{"\udc00":1}"#] {
        assert_eq!(of_value(value.to_owned())["data_base64"], json!(STANDARD.encode(value)), "{value}");
    }
    for value in ["1e-999", "1e308", r#""\ud83d\ude00""#, r#"{"a":[null,true,-1,1.5,{}]}"#] {
        assert!(of_value(value.to_owned()).get("data").is_some(), "{value}");
    }
}

#[test]
fn depth_never_spoils_a_batch() {
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    assert!(of_value(nested(MAX_DEPTH)).get("data").is_some());
    for depth in [MAX_DEPTH + 1, 10_000, 1_000_000] {
        assert!(of_value(nested(depth)).get("data_base64").is_some(), "{depth}");
    }
    assert!(of_value(format!("[{}1]", "[[1]],\"]\\\"[\",".repeat(500))).get("data").is_some(), "wide is not deep");
}

#[test]
fn keys_and_headers_of_any_bytes() {
    let event = event(&with_record(|record| {
        record.key = Some(Bytes::from_static(b"\xff\0"));
        record.headers = vec![header("a b", "1"), header("a b", &b"&=\xff"[..]), header("tracestate", "a=b,c=\"d\"")];
    }));
    assert_eq!(event["kafkakeybase64"], "/wA=");
    assert_eq!(event["kafkaheaders"], "a%20b=1&a%20b=%26%3D%FF");
    assert_eq!(event["tracestate"], "a=b,c=\"d\"");
    let large = super::tests::event(&with_record(|record| record.headers = vec![header("a", vec![0; 5000])]));
    assert_eq!(large["idempotencyheadersomitted"], 1);
}

#[test]
fn a_binary_cloud_event_keeps_its_attributes() {
    let event = event(&cloud_event(
        false,
        &[("id", "own"), ("subject", "\"\n"), ("kafkaoffset", "forged"), ("datacontenttype", "text/x-json")],
    ));
    assert_eq!((&event["id"], &event["subject"], &event["kafkaoffset"]), (&json!("own"), &json!("\"\n"), &json!("7")));
    assert_eq!(event["datacontenttype"], "text/x-json");
}

#[test]
fn a_structured_cloud_event_keeps_its_members() {
    let mut parcel = cloud_event(true, &[("id", "own")]);
    let value = r#" { "id" : "old", "id":"own" , "d\u0061ta" : {"x":[1,"}\"",{}]}, "type":7, "kafkaoffset":"forged", "idempotencyattempt":1,
        "subject":"s","ext":true,"Bad":1,"specversion":"1.0","source":"" } "#;
    Arc::make_mut(&mut parcel.record).value = Some(value.into());
    let event = event(&parcel);
    assert_eq!(event["id"], "own");
    assert_eq!(event["data"], json!({"x": [1, "}\"", {}]}));
    assert_eq!(
        (&event["type"], &event["source"]),
        (&json!("OrderCreated"), &json!("/kafka/orders#OrderCreated")),
        "not usable, so ours"
    );
    assert_eq!((&event["kafkaoffset"], &event["idempotencyattempt"]), (&json!("7"), &json!(2)));
    assert_eq!((&event["subject"], &event["ext"], event.get("Bad")), (&json!("s"), &json!(true), None));
    for value in ["[1]", "not json", ""] {
        Arc::make_mut(&mut parcel.record).value = Some(value.into());
        let event = super::tests::event(&parcel);
        assert!(event.get("data").is_some() || event.get("data_base64").is_some(), "{value}");
    }
}

/// Names must be unique in an object, or parsers differ in what they read.
fn assert_unique_names(json: &str) {
    let mut names: Vec<String> = members(json).unwrap().into_iter().map(|(name, _)| name.into_owned()).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count, "{json}");
}

proptest! {
    #[test]
    fn no_record_spoils_a_batch(parcels in proptest::collection::vec(any_parcel(), 1..4)) {
        let events = events(&parcels);
        prop_assert_eq!(events.len(), parcels.len());
        for (event, parcel) in events.iter().zip(&parcels) {
            let mut out = BytesMut::new();
            write_batch(std::slice::from_ref(parcel), &mut out);
            assert_unique_names(std::str::from_utf8(&out[1..out.len() - 1]).unwrap());
            let offset = parcel.record.offset.to_string();
            prop_assert_eq!(event["kafkaoffset"].as_str(), Some(&*offset));
            prop_assert_eq!(event["kafkatopic"].as_str(), Some(&*parcel.record.origin.topic));
            for required in ["specversion", "id", "source", "type"] {
                prop_assert!(event[required].as_str().is_some_and(|text| !text.is_empty()), "{}", required);
            }
        }
    }

    #[test]
    fn a_structured_event_reads_as_its_json_does(value in any_object()) {
        let mut parcel = cloud_event(true, &[]);
        Arc::make_mut(&mut parcel.record).value = Some(value.to_string().into());
        let event = event(&parcel);
        for name in ["data", "ext", "subject"] {
            prop_assert_eq!(event.get(name), value.get(name), "{}", name);
        }
    }
}

fn any_object() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".*".prop_map(Value::from)
    ];
    let tree = leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(".{0,4}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    let name = prop_oneof![
        Just("data".to_owned()),
        Just("ext".to_owned()),
        Just("subject".to_owned()),
        ".{0,4}".prop_map(|s| s)
    ];
    proptest::collection::btree_map(name, tree, 0..6).prop_map(|map| Value::Object(map.into_iter().collect()))
}
