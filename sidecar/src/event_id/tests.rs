//! Tests of event ids, types and fingerprints: by rule, and by what a record lacks.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::record::{Header, TopicPartition};

fn record(value: impl AsRef<[u8]>) -> Record {
    let origin = TopicPartition { topic: Arc::from("essays"), partition: 3 };
    let value = Some(Bytes::copy_from_slice(value.as_ref()));
    Record { origin, offset: 7, timestamp: Some(9), key: None, value, headers: Vec::new() }
}

fn with_headers(mut record: Record, headers: &[(&str, &str)]) -> Record {
    record.headers.extend(
        headers
            .iter()
            .map(|(n, v)| Header { name: (*n).to_owned(), value: Some(Bytes::copy_from_slice(v.as_bytes())) }),
    );
    record
}

fn by(rule: &EventIdRule, record: &Record) -> Identity {
    identify(record, rule, &mut Scratch::default())
}

fn data(value: impl AsRef<[u8]>) -> Identity {
    by(&EventIdRule::Data, &record(value))
}

fn sha(bytes: impl AsRef<[u8]>) -> EventId {
    EventId(Sha256::digest(bytes).into())
}

fn header_rule(name: &str) -> EventIdRule {
    EventIdRule::Header { header: name.to_owned() }
}

fn fields_rule(fields: &[&str]) -> EventIdRule {
    EventIdRule::Fields { fields: fields.iter().map(|f| (*f).to_owned()).collect() }
}

#[test]
fn ids_are_written_and_read_as_hex() {
    let id = sha("");
    let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!((id.to_string().as_str(), &*id.to_hex()), (hex, hex));
    assert_eq!(hex.parse(), Ok(id));
    for wrong in
        ["", &hex[1..], &format!("{hex}0"), &hex.to_uppercase(), &hex.replace('e', "g"), &hex.replacen("e3", "é", 1)]
    {
        assert_eq!(wrong.parse::<EventId>(), Err(NotAnEventId), "{wrong}");
    }
    assert_eq!(Fingerprint([0, 1, 0xab, 0xff]).to_string(), "0001abff");
}

#[test]
fn data_hashes_the_canonical_member_and_not_its_envelope() {
    let one = data(r#"{"event_id":"1","data":{"b":1.50,"a":"é"}}"#);
    assert_eq!(one.id, sha(r#"{"a":"\u00e9","b":1.5}"#));
    assert!(!one.fallback);
    assert_eq!(one.id, data("\u{feff}{\"data\" : {\"a\":\"\\u00E9\", \"b\":1.5}, \"event_id\":\"2\"}").id);
    assert_eq!(data(r#"{"data":null}"#).id, sha("null"));
    assert!(!data(r#"{"data":null}"#).fallback);
}

#[test]
fn data_hashes_raw_bytes_where_there_is_no_data() {
    let deep = format!("{{\"data\":{}{}}}", "[".repeat(900), "]".repeat(900));
    let long = format!("{{\"data\":1,\"n\":{}}}", "1".repeat(4301));
    for value in [r#"{"a":1}"#, r#"{"a": 1}"#, "[]", "no", "{\"data\":1", "{\"data\":\"\n\"}", &deep, &long] {
        let identity = data(value);
        assert_eq!(identity.id, sha(value), "{value}");
        assert!(identity.fallback, "{value}");
    }
    let binary = [0xff, 0xfe, 0];
    assert_eq!(data(binary).id, sha(binary));
}

#[test]
fn hostile_records_have_an_id_too() {
    for value in [vec![b'['; 1 << 20], "{\"data\":".repeat(10_000).into_bytes(), vec![0; 10 << 20]] {
        assert_eq!(data(&value).id, sha(&value));
    }
}

#[test]
fn a_record_without_a_value_is_its_place() {
    let rules = [EventIdRule::Data, EventIdRule::Record, header_rule("ce_id"), fields_rule(&["/a"])];
    for rule in rules {
        let tombstone = Record { value: None, ..record("") };
        let identity = by(&rule, &tombstone);
        assert!(identity.fallback, "{rule:?}");
        assert_eq!(identity.id, by(&rule, &record("")).id, "null and empty alike");
        assert_eq!(identity.id, by(&rule, &tombstone).id, "the same record again is the same event");
        let mut others = [
            Record { offset: 8, ..tombstone.clone() },
            Record { timestamp: Some(10), ..tombstone.clone() },
            Record { timestamp: None, ..tombstone.clone() },
            tombstone.clone(),
            tombstone.clone(),
        ];
        others[3].origin.partition = 4;
        others[4].origin.topic = Arc::from("essay");
        let mut ids: Vec<EventId> = others.iter().map(|r| by(&rule, r).id).chain([identity.id]).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 6, "{rule:?}: other places are other events");
    }
}

#[test]
fn a_place_without_a_time_differs_from_the_epoch() {
    let at = |timestamp| by(&EventIdRule::Data, &Record { timestamp, ..record("") }).id;
    assert_ne!(at(None), at(Some(0)));
}

#[test]
fn record_hashes_every_byte() {
    let identity = by(&EventIdRule::Record, &record(r#"{"data":1}"#));
    assert_eq!((identity.id, identity.fallback), (sha(r#"{"data":1}"#), false));
    assert_ne!(identity.id, by(&EventIdRule::Record, &record(r#"{"data": 1}"#)).id);
}

#[test]
fn header_hashes_name_and_value() {
    let id = |headers: &[(&str, &str)], rule: &str| by(&header_rule(rule), &with_headers(record("v"), headers));
    let one = id(&[("ce_id", "1")], "ce_id");
    assert!(!one.fallback);
    assert_eq!(one.id, EventId(Sha256::digest(b"idempotent-consumer/header\0\0\0\0\x05ce_id1").into()));
    assert_eq!(one.id, id(&[("ce_id", "0"), ("ce_id", "1"), ("x", "y")], "ce_id").id, "the last of equal names");
    assert_ne!(one.id, id(&[("ce_id", "2")], "ce_id").id);
    assert_ne!(one.id, id(&[("ce_i", "d1")], "ce_i").id);
    let tombstone = with_headers(Record { value: None, ..record("") }, &[("ce_id", "1")]);
    assert_eq!(by(&header_rule("ce_id"), &tombstone).id, one.id, "the header is enough");
}

#[test]
fn without_the_header_the_raw_value_is_hashed() {
    for headers in [&[][..], &[("CE_ID", "1")], &[("ce_id", "")], &[("ce_id", "1"), ("ce_id", "")]] {
        let identity = by(&header_rule("ce_id"), &with_headers(record("v"), headers));
        assert_eq!((identity.id, identity.fallback), (sha("v"), true), "{headers:?}");
    }
}

/// What the fields of a record hash to: their canonical form behind the rule's tag.
fn sha_of_fields(canonical: &str) -> EventId {
    sha(format!("idempotent-consumer/fields\0{canonical}"))
}

#[test]
fn a_record_that_looks_like_anothers_fields_is_another_event() {
    let rule = fields_rule(&["/event_id"]);
    let (one, raw) = (by(&rule, &record(r#"{"event_id":"e1"}"#)), by(&rule, &record(r#"{"/event_id":"e1"}"#)));
    assert!(!one.fallback && raw.fallback);
    assert_ne!(one.id, raw.id);
}

#[test]
fn fields_are_hashed_with_their_names() {
    let value = r#"{"event_type":"T","event_id":"1","n":{"b":[1.0,{"z":1,"y":2}]},"x":0}"#;
    let identity = by(&fields_rule(&["/n/b/1", "/event_id", "/event_id"]), &record(value));
    assert_eq!((identity.id, identity.fallback), (sha_of_fields(r#"{"/event_id":"1","/n/b/1":{"y":2,"z":1}}"#), false));
    let respelled = r#"{"event_id": "\u0031", "n": {"b": [null, {"y": 2, "z": 1}]}}"#;
    assert_eq!(by(&fields_rule(&["/event_id", "/n/b/1"]), &record(respelled)).id, identity.id);
    assert_eq!(by(&fields_rule(&[""]), &record("[1 ]")).id, sha_of_fields(r#"{"":[1]}"#));
    assert_ne!(by(&fields_rule(&["/x"]), &record(value)).id, by(&fields_rule(&["/y"]), &record(r#"{"y":0}"#)).id);
}

#[test]
fn with_a_field_missing_the_raw_value_is_hashed() {
    for (value, fields) in [
        (r#"{"a":1}"#, &["/a", "/b"][..]),
        (r#"{"a":1,"b":null}"#, &["/a", "/b"]),
        (r#"{"a":1,"b":""}"#, &["/a", "/b"]),
        (r#"{"a":1"#, &["/a"]),
        (r#"{"a":1}"#, &["a"]),
        (r#"{"a":1}"#, &[]),
    ] {
        let identity = by(&fields_rule(fields), &record(value));
        assert_eq!((identity.id, identity.fallback), (sha(value), true), "{value} {fields:?}");
    }
}

#[test]
fn the_type_comes_from_the_first_that_names_one() {
    const STRUCTURED: (&str, &str) = ("content-type", "application/cloudevents+json; charset=utf-8");
    let envelope = r#"{"event_type":"envelope","type":"structured","data":1}"#;
    let of = |value: &str, headers: &[(&str, &str)], rule: &EventIdRule| {
        by(rule, &with_headers(record(value), headers)).event_type.to_string()
    };
    for rule in [EventIdRule::Data, EventIdRule::Record, header_rule("x"), fields_rule(&["/data"])] {
        let all = [("ce_type", "ce"), ("event_type", "header"), STRUCTURED];
        assert_eq!(of(envelope, &all, &rule), "ce");
        assert_eq!(of(envelope, &all[1..], &rule), "structured");
        assert_eq!(of(envelope, &all[1..2], &rule), "header");
        assert_eq!(of(envelope, &[("event_type", ""), ("ce_type", "")], &rule), "envelope");
        assert_eq!(of(envelope, &[("content-type", "application/json")], &rule), "envelope");
        assert_eq!(of(r#"{"event_type":1}"#, &[], &rule), "");
        assert_eq!(of(r#"{"event_type":""}"#, &[], &rule), "");
        assert_eq!(of(r#"{"event_type":"\u00e9\n"}"#, &[], &rule), "é\n");
        assert_eq!(of("no json", &[], &rule), "");
    }
}

#[test]
fn one_type_is_one_string() {
    let mut scratch = Scratch::default();
    let mut of = |value: String| identify(&record(value), &EventIdRule::Data, &mut scratch).event_type;
    let first = of(r#"{"event_type":"T"}"#.to_owned());
    assert!(Arc::ptr_eq(&first, &of(r#"{"event_type":"T","x":1}"#.to_owned())));
    // A producer that writes a new type each time fills no memory.
    for i in 0..5 * Types::MOST {
        of(format!("{{\"event_type\":\"{i}\"}}"));
    }
    of(format!("{{\"event_type\":\"{}\"}}", "long".repeat(1000)));
    assert!(scratch.types.0.len() <= Types::MOST);
    assert!(scratch.types.0.iter().all(|name| name.len() <= Types::LONGEST));
}

#[test]
fn the_fingerprint_tells_the_producers_own_ids_apart() {
    let of = |value: &str, headers: &[(&str, &str)]| data_with(value, headers).fingerprint.map(|f| f.to_string());
    let short = |text: &str| Some(sha(text).to_string()[..8].to_owned());
    let envelope = r#"{"event_id":"e","id":"s","data":1}"#;
    let structured = ("content-type", "application/cloudevents+json");
    assert_eq!(of(envelope, &[("ce_id", "h"), structured]), short("h"));
    assert_eq!(of(envelope, &[structured]), short("s"));
    assert_eq!(of(envelope, &[]), short(r#""e""#));
    assert_eq!(of(r#"{"event_id":{"b":1,"a":2}}"#, &[]), short(r#"{"a":2,"b":1}"#));
    assert_eq!(of(r#"{"event_id":null}"#, &[]), None);
    assert_eq!(of("no json", &[]), None);
}

fn data_with(value: &str, headers: &[(&str, &str)]) -> Identity {
    by(&EventIdRule::Data, &with_headers(record(value), headers))
}

fn pairs(event: &CloudEvent) -> Vec<(&str, &str)> {
    event.attributes.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect()
}

#[test]
fn binary_cloud_events_keep_their_attributes() {
    let mut record = with_headers(
        record("{}"),
        &[("ce_specversion", "1.0"), ("ce_id", "1"), ("x", "y"), ("ce_Source", "/s"), ("ce_id", "2"), ("ce_a-b", "no")],
    );
    record.headers.push(Header { name: "ce_time".into(), value: Some(Bytes::from_static(b"\xff")) });
    record.headers.push(Header { name: "ce_subject".into(), value: None });
    let event = by(&EventIdRule::Data, &record).cloud_event.unwrap();
    assert!(!event.structured);
    assert_eq!(pairs(&event), [("specversion", "1.0"), ("id", "2"), ("source", "/s")]);
    assert_eq!(data_with("{}", &[("ce_id", "1")]).cloud_event, None, "no specversion, no CloudEvent");
    assert_eq!(data_with("{}", &[("ce_id", ""), ("ce_specversion", "1.0")]).cloud_event, None);
}

#[test]
fn structured_cloud_events_keep_their_attributes() {
    let value = r#"{"specversion":"1.0","type":"t","id":"1","source":"\u002fs","count":1.50,"flag":true,"none":null,"UP":"x",
        "list":[1],"lone":"\ud800","data":{"b":1,"a":2},"data_base64":"eA==","id":"2"}"#;
    let identity = data_with(value, &[("Content-Type", "Application/CloudEvents+JSON")]);
    assert_eq!((identity.id, identity.fallback), (sha(r#"{"a":2,"b":1}"#), false));
    let event = identity.cloud_event.unwrap();
    assert!(event.structured);
    let wanted =
        [("specversion", "1.0"), ("type", "t"), ("id", "2"), ("source", "/s"), ("count", "1.5"), ("flag", "true")];
    assert_eq!(pairs(&event), wanted);

    // Also where headers and rule leave nothing else to look for in the value.
    let headers = [("ce_id", "h"), ("ce_type", "h"), ("content-type", "application/cloudevents+json")];
    let record = with_headers(record(value), &headers);
    assert_eq!(by(&EventIdRule::Record, &record).cloud_event.as_deref().map(pairs), Some(wanted.to_vec()));

    let structured = [("content-type", "application/cloudevents+json")];
    for value in ["[]", "no json", r#"{"id":"1"}"#, r#"{"specversion":"1.0"}"#] {
        assert_eq!(data_with(value, &structured).cloud_event, None, "{value}");
    }
    for other in ["application/json", "application/cloudevents-batch+json", "application/cloudevents"] {
        assert_eq!(data_with(value, &[("content-type", other)]).cloud_event, None, "{other}");
    }
}

#[test]
fn a_flood_of_attributes_is_no_cloud_event() {
    let event = |n: usize| {
        let extra: String = (0..n).map(|i| format!(",\"x{i}\":1")).collect();
        let value = format!("{{\"specversion\":\"1.0\",\"id\":\"1\"{extra}}}");
        data_with(&value, &[("content-type", "application/cloudevents+json")]).cloud_event.map(|e| e.attributes.len())
    };
    assert_eq!(event(98), Some(100));
    assert_eq!(event(99), None);
    assert_eq!(event(100_000), None);
}

proptest! {
    /// The order of members and what stands around `data` do not change the id; a change in `data` does.
    #[test]
    fn only_data_counts(
        members in prop::collection::btree_map("[a-z]{0,3}", any::<i64>(), 0..8),
        order: u64,
        around in "[a-zA-Z0-9 ]{0,12}",
    ) {
        let mut shuffled: Vec<_> = members.iter().collect();
        let mut state = order;
        for i in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            shuffled.swap(i, (state >> 33) as usize % (i + 1));
        }
        let object = |list: Vec<(&String, &i64)>, space: &str| {
            let list: Vec<String> = list.into_iter().map(|(k, v)| format!("\"{k}\"{space}:{v}{space}")).collect();
            format!("{{{}}}", list.join(","))
        };
        let sorted = object(members.iter().collect(), "");
        let one = data(format!("{{\"data\":{sorted}}}"));
        let spelled = object(shuffled, "\n ");
        let other = data(format!("{{\"event_id\":\"{around}\",\"data\":{spelled},\"zzz\":[\"{around}\"]}}"));
        prop_assert_eq!(one.id, other.id);
        prop_assert_eq!(one.id, sha(&sorted));
        let changed = data(format!("{{\"data\":[{sorted}]}}"));
        prop_assert_ne!(one.id, changed.id);
    }

    #[test]
    fn any_bytes_have_an_id_under_any_rule(value: Vec<u8>, name in "ce_[a-z]{1,3}", header in "\\PC{0,8}") {
        let record = with_headers(record(value), &[(&name, &header), ("content-type", "application/cloudevents+json")]);
        for rule in [EventIdRule::Data, EventIdRule::Record, header_rule("ce_id"), fields_rule(&["/a"])] {
            let mut scratch = Scratch::default();
            let identity = identify(&record, &rule, &mut scratch);
            let basis = basis(&record, &rule, &mut scratch);
            prop_assert_eq!((identity.id, identity.fallback), (basis.id(&record), basis.is_fallback(&rule)));
        }
    }
}
