//! Shows that a record of any bytes is delivered once, as it is; that event ids follow their rule; that a topic may be missing. I/O.

use std::time::Duration;

use anyhow::{Context, ensure};
use crds::config::EventIdRule;
use harness::app::{Event, complete};
use harness::env::{Env, trial};
use harness::publish::Raw;
use harness::rig::{Rig, condition};
use harness::sidecar::Sidecar;
use harness::wait::{equal, eventually};
use libtest_mimic::Trial;
use serde_json::{Value, json};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        trial("records::any_bytes_arrive_once_and_as_they_are", any_bytes_arrive),
        trial("records::any_bytes_arrive_once_in_batches", any_bytes_arrive_in_batches),
        trial("records::two_tombstones_are_two_events", two_tombstones_are_two_events),
        trial("records::headers_travel_within_bounds_and_forge_nothing", headers_travel_and_forge_nothing),
        trial("records::a_cloud_event_keeps_its_attributes", a_cloud_event_keeps_its_attributes),
        trial("records::the_rule_header_tells_events_by_a_header", the_rule_header),
        trial("records::the_rule_fields_tells_events_by_their_envelope", the_rule_fields),
        trial("records::a_missing_topic_is_named_and_consumed_once_it_is_there", a_missing_topic),
    ]
}

/// Records that a parser, a header or a buffer may stumble over; each is an event of its own.
fn odd_records() -> Vec<Raw> {
    let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let texts = [
        deep(10_000),
        format!(r#"{{"data":{}}}"#, deep(10_000)),
        format!(r#"{{"data":{}}}"#, deep(500)),
        "{\"data\":".repeat(10_000),
        format!(r#"{{"data":{}}}"#, "9".repeat(5_000)),
        r#"{"data":1e999}"#.into(),
        r#"{"data":NaN}"#.into(),
        r#"{"data":"\ud800 alone"}"#.into(),
        r#"{"data":"\u0000"}"#.into(),
        "{\"data\":\"a\nb\"}".into(),
        "\u{feff}{\"data\":\"behind a byte order mark\"}".into(),
        r#"{"data":1,"data":2}"#.into(),
        r#"{"data":"cut off"#.into(),
        "null".into(),
        " ".into(),
        "plain text, späte Änderung".into(),
    ];
    let bytes: [Vec<u8>; 4] = [
        (0..=255).collect(),
        b"{\"data\":\"\xff\xfe\"}".to_vec(),
        vec![0],
        (0..10 << 20).map(|n| (n % 251) as u8).collect(),
    ];
    texts.into_iter().map(Raw::new).chain(bytes.into_iter().map(Raw::new)).map(|raw| raw.to(0)).collect()
}

/// One topic for records of up to 16 MiB.
async fn roomy(env: &Env) -> anyhow::Result<Rig> {
    let topic = env.name("in");
    env.kafka().await?.create_topic(&topic, 1, &[("max.message.bytes", "16777216")]).await?;
    Rig::on(env, topic, "group", complete()).await
}

/// What came at an offset.
fn at(rig: &Rig, offset: i64) -> anyhow::Result<Event> {
    let found: Vec<_> = rig.app.deliveries().into_iter().filter(|event| event.offset == offset).collect();
    ensure!(found.len() == 1, "offset {offset} came {} times", found.len());
    found.into_iter().next().context("nothing there")
}

async fn any_bytes_arrive(env: Env) -> anyhow::Result<()> {
    let rig = roomy(&env).await?;
    let mut records = odd_records();
    records.push(Raw::new(""));
    let published = rig.publish(records.clone()).await?;
    // All of it again: what has content is known.
    rig.publish(odd_records()).await?;
    let sidecar = rig.run().await?;
    rig.app.assert_no_problems();
    rig.app.ledger().check(&published).assert_each_once();
    for (offset, record) in records.iter().enumerate() {
        let event = at(&rig, offset as i64)?;
        ensure!(record.value.as_deref() == Some(&event.value), "offset {offset} was changed");
        ensure!(event.attempt == 1 && event.protection == "full", "{event:?}");
    }
    sidecar.counts(|c| c.duplicates as usize == odd_records().len() && c.failed == 0).await;
    Ok(())
}

async fn any_bytes_arrive_in_batches(env: Env) -> anyhow::Result<()> {
    let mut rig = roomy(&env).await?;
    rig.config.delivery.batch.max_events = 8;
    let mut records = odd_records();
    records.extend([
        Raw::new("").to(0),
        Raw::tombstone().to(0),
        Raw::new(r#"{"data": {"b": [1, "ä"], "a": null}}"#).to(0),
    ]);
    rig.publish(records.clone()).await?;
    let sidecar = rig.run().await?;
    rig.app.assert_no_problems();
    for (offset, record) in records.iter().enumerate() {
        let (event, value) = (at(&rig, offset as i64)?, record.value.clone().unwrap_or_default());
        // Where it is JSON, the harness prints it anew.
        let same = match serde_json::from_slice::<Value>(&value) {
            Ok(json) => event.json().as_ref() == Some(&json),
            Err(_) => event.value == value,
        };
        ensure!(same, "offset {offset} was changed");
        ensure!((event.attribute("kafkatombstone") == Some("true")) == record.value.is_none(), "{event:?}");
    }
    sidecar.counts(|c| c.completed as usize == records.len() && c.failed == 0).await;
    Ok(())
}

async fn two_tombstones_are_two_events(env: Env) -> anyhow::Result<()> {
    let rig = Rig::new(&env, 1, complete()).await?;
    let published =
        rig.publish(vec![Raw::tombstone().key("k"), Raw::tombstone().key("k"), Raw::new("").key("k")]).await?;
    ensure!(published.unique() == 3);
    let _sidecar = rig.run().await?;
    rig.app.ledger().check(&published).assert_each_once();
    let marked: Vec<_> =
        (0..3).map(|n| Ok(at(&rig, n)?.attribute("kafka-tombstone").is_some())).collect::<anyhow::Result<_>>()?;
    ensure!(marked == [true, true, false], "{marked:?}");
    ensure!(rig.keys()?.len() == 3, "{:?}", rig.keys()?);
    Ok(())
}

async fn headers_travel_and_forge_nothing(env: Env) -> anyhow::Result<()> {
    let rig = roomy(&env).await?;
    let forged = Raw::event("forged")
        .key("späte\r\nx: y")
        .header("idempotency-attempt", "9")
        .header("idempotency-protection", "none")
        .header("X Odd/Name", "a\r\nidempotency-attempt: 8")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let huge = Raw::event("huge").header("small", "here").header("huge", vec![b'x'; 1 << 20]);
    let many = (0..500).fold(Raw::event("many"), |raw, n| raw.header(format!("h{n}"), "v"));
    let published = rig.publish(vec![forged, huge, many]).await?;
    let _sidecar = rig.run().await?;
    rig.app.assert_no_problems();
    rig.app.ledger().check(&published).assert_each_once();

    let (forged, huge, many) = (at(&rig, 0)?, at(&rig, 1)?, at(&rig, 2)?);
    ensure!((forged.attempt, forged.protection.as_str()) == (1, "full"), "{forged:?}");
    ensure!(forged.record_key.as_deref() == Some("sp%C3%A4te%0D%0Ax:%20y"), "{forged:?}");
    ensure!(forged.attribute("kafka-header-idempotency-attempt") == Some("9"), "{forged:?}");
    ensure!(forged.attribute("kafka-header-x%20odd%2fname") == Some("a%0D%0Aidempotency-attempt:%208"), "{forged:?}");
    ensure!(forged.attribute("traceparent").is_some_and(|trace| trace.starts_with("00-0af76519")), "{forged:?}");
    ensure!(huge.attribute("kafka-header-small") == Some("here"), "{huge:?}");
    ensure!(huge.attribute("idempotency-headers-omitted") == Some("1"), "{huge:?}");
    let sent = many.attributes.iter().filter(|(name, _)| name.starts_with("kafka-header-")).count();
    let omitted: usize = many.attribute("idempotency-headers-omitted").context("none omitted")?.parse()?;
    ensure!(sent > 0 && sent + omitted == 500, "{sent} sent, {omitted} omitted");
    Ok(())
}

async fn a_cloud_event_keeps_its_attributes(env: Env) -> anyhow::Result<()> {
    let rig = Rig::new(&env, 1, complete()).await?;
    let binary =
        [("specversion", "1.0"), ("id", "b-1"), ("source", "/shop"), ("type", "order.paid"), ("subject", "s 1")]
            .into_iter()
            .fold(Raw::new(r#"{"uid":"binary"}"#), |raw, (name, value)| raw.header(format!("ce_{name}"), value))
            .header("content-type", "application/json");
    let whole = json!({"specversion": "1.0", "id": "s-1", "source": "/shop", "type": "order.paid", "data": {"uid": "structured"}});
    let structured = Raw::new(whole.to_string()).header("content-type", "application/cloudevents+json");
    let published = rig.publish(vec![binary.clone(), structured.clone(), binary.clone(), structured.clone()]).await?;
    let sidecar = rig.run().await?;
    rig.app.assert_no_problems();
    rig.app.ledger().check(&published).assert_each_once();

    for (offset, id, record) in [(0, "b-1", &binary), (1, "s-1", &structured)] {
        let event = at(&rig, offset)?;
        ensure!(
            (event.id.as_str(), event.source.as_str(), event.kind.as_str()) == (id, "/shop", "order.paid"),
            "{event:?}"
        );
        ensure!(record.value.as_deref() == Some(&event.value), "{event:?}");
        ensure!(event.key.contains(":order.paid:"), "{event:?}");
    }
    ensure!(at(&rig, 0)?.attribute("ce-subject") == Some("s%201"));
    sidecar.counts(|c| (c.completed, c.duplicates, c.suspects) == (2, 2, 0)).await;
    Ok(())
}

async fn wait_for_fallbacks(sidecar: &Sidecar, wanted: f64) {
    eventually(format!("{wanted} fallbacks"), Duration::from_secs(5), async || {
        let counted = sidecar.metric("idempotency_event_id_fallbacks_total", &[]).await;
        equal(&counted.map_err(|e| e.to_string())?, &wanted)
    })
    .await;
}

async fn the_rule_header(env: Env) -> anyhow::Result<()> {
    let mut rig = Rig::new(&env, 1, complete()).await?;
    rig.config.event_id = EventIdRule::Header { header: "message-id".into() };
    let with = |uid: &str, id: &str| Raw::event(uid).header("message-id", id);
    let bare = Raw::event("bare");
    rig.publish(vec![with("a", "1"), with("b", "1"), with("a", "2"), bare.clone(), bare, Raw::event("other")]).await?;
    let sidecar = rig.run().await?;
    let offsets: Vec<_> = rig.app.deliveries().into_iter().map(|event| event.offset).collect();
    ensure!(offsets == [0, 2, 3, 5], "delivered: {offsets:?}");
    wait_for_fallbacks(&sidecar, 3.0).await;
    Ok(())
}

async fn the_rule_fields(env: Env) -> anyhow::Result<()> {
    let mut rig = Rig::new(&env, 1, complete()).await?;
    rig.config.event_id = EventIdRule::Fields { fields: vec!["/event_id".into(), "/event_type".into()] };
    let event = |id: &str, kind: &str, order: u32| {
        Raw::new(json!({"event_id": id, "event_type": kind, "data": {"order": order}}).to_string())
    };
    let lacks = Raw::new(json!({"event_id": "1", "data": {"order": 1}}).to_string());
    let records = vec![
        event("1", "created", 1),
        // The same names, another content: a duplicate by this rule.
        event("1", "created", 2),
        event("1", "cancelled", 1),
        event("2", "created", 1),
        lacks.clone(),
        lacks,
    ];
    rig.publish(records).await?;
    let sidecar = rig.run().await?;
    let offsets: Vec<_> = rig.app.deliveries().into_iter().map(|event| event.offset).collect();
    ensure!(offsets == [0, 2, 3, 4], "delivered: {offsets:?}");
    wait_for_fallbacks(&sidecar, 2.0).await;
    Ok(())
}

async fn a_missing_topic(env: Env) -> anyhow::Result<()> {
    let topic = env.name("later");
    let rig = Rig::on(&env, topic.clone(), "group", complete()).await?;
    let sidecar = rig.start().await?;
    let status = sidecar
        .wait_for("the missing topic is named", Duration::from_secs(20), |s| {
            condition(s, "TopicsFound").is_some_and(|c| !c.status && c.message.contains(&topic))
        })
        .await;
    ensure!(!status.ready && !sidecar.ready().await?, "ready without its topic");

    env.kafka().await?.create_topic(&topic, 2, &[]).await?;
    let published = rig.publish((0..20).map(|n| Raw::event(&format!("e{n}")).to(n % 2)).collect()).await?;
    rig.settled().await?;
    rig.app.ledger().check(&published).assert_each_once();
    sidecar.wait_for("ready", Duration::from_secs(10), |status| status.ready).await;
    ensure!(sidecar.ready().await?);
    Ok(())
}
