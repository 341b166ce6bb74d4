//! Measures delivery over a unix socket: requests a second, and CPU time of the client alone (its thread's clock; the app has its own).
//!
//! `cargo bench --bench deliver`

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::convert::Infallible;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use crds::config::DeliveryConfig;
use crds::status::Protection;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::time::{ClockId, clock_gettime};
use sidecar::deliver::cloudevent::{batch, binary_request, target};
use sidecar::deliver::{Answer, Deliver, HttpDelivery, Parcel};
use sidecar::event_id::{EventId, Identity};
use sidecar::outcome::judge_one;
use sidecar::record::{Header, Record, TopicPartition};

fn parcel() -> Parcel {
    let value =
        format!("{{\"event_id\":\"{}\",\"data\":{{\"text\":\"{}\",\"n\":1}}}}", "e".repeat(36), "x y ".repeat(235));
    let record = Record {
        origin: TopicPartition { topic: "huleedu.essay.spellcheck.completed.v1".into(), partition: 3 },
        offset: 123_456,
        timestamp: Some(1_700_000_000_123),
        key: Some("9a3b5c7d-0000-4000-8000-000000000000".into()),
        value: Some(value.into()),
        headers: vec![Header { name: "event_type".into(), value: Some("EssayChecked".into()) }],
    };
    Parcel {
        record: Arc::new(record),
        identity: Arc::new(Identity {
            id: EventId([0xab; 32]),
            fallback: false,
            event_type: "EssayChecked".into(),
            fingerprint: None,
            cloud_event: None,
        }),
        idempotency_key: format!(
            "idempotency:g:huleedu.essay.spellcheck.completed.v1:EssayChecked:{}",
            "ab".repeat(32)
        )
        .into(),
        attempt: 1,
        protection: Protection::Full,
    }
}

/// This thread's CPU time.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// An app that reads the body and answers 200.
fn app(socket: PathBuf) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(
                TokioIo::new(stream),
                service_fn(async |request: hyper::Request<hyper::body::Incoming>| {
                    black_box(request.into_body().collect().await.unwrap().to_bytes());
                    Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::new())))
                }),
            ));
        }
    });
}

fn measure(name: &str, socket: &Path, connections: usize, events: usize, requests: usize) {
    let mut config = DeliveryConfig { socket: socket.into(), concurrency: connections, ..DeliveryConfig::default() };
    config.batch.max_events = events;
    let delivery = HttpDelivery::new(&config);
    let one = vec![parcel(); events];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let run = |requests: usize| {
        runtime.block_on(futures_util::future::join_all((0..connections).map(|_| async {
            // Tasks of their own would need an owner for the delivery; the work is the same.
            for _ in 0..requests / connections {
                let answer = delivery.deliver(one.clone()).await;
                assert!(matches!(answer, Answer::Http { status: 200, .. }), "{answer:?}");
                black_box(judge_one(&answer));
            }
        })));
    };
    run(requests / 10);
    let mut rounds: Vec<(f64, f64)> = (0..5)
        .map(|_| {
            let (wall, busy) = (Instant::now(), cpu());
            run(requests);
            let sent = (requests / connections * connections) as f64;
            (sent / wall.elapsed().as_secs_f64(), (cpu() - busy).as_secs_f64() * 1e6 / sent)
        })
        .collect();
    rounds.sort_by(|a, b| a.1.total_cmp(&b.1));
    let (rate, busy) = rounds[2];
    println!("{name:<28} {rate:>9.0} requests/s {:>9.0} events/s {busy:>7.2} us CPU/request", rate * events as f64);
}

fn pure(name: &str, events: usize, mut work: impl FnMut()) {
    let mut rounds: Vec<f64> = (0..5)
        .map(|_| {
            let busy = cpu();
            for _ in 0..20_000 / events {
                work();
            }
            (cpu() - busy).as_secs_f64() * 1e6 / (20_000 / events * events) as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    println!("{name:<28} {:>7.2} us CPU/event", rounds[2]);
}

fn main() {
    let (folder, target) = (tempfile::tempdir().unwrap(), target("/"));
    let (mut scratch, one, many) = (BytesMut::new(), parcel(), vec![parcel(); 100]);
    pure("build binary request", 1, || drop(black_box(binary_request(&one, &target, &mut scratch))));
    pure("build batch of 100", 100, || drop(black_box(batch::batch_request(&many, &target, &mut scratch))));
    let socket = folder.path().join("app.sock");
    let path = socket.clone();
    std::thread::spawn(move || app(path));
    while !socket.exists() {
        std::thread::yield_now();
    }
    for connections in [1, 12, 64] {
        measure(&format!("binary, {connections} connections"), &socket, connections, 1, 30_000);
    }
    measure("batch of 100, 4 connections", &socket, 4, 100, 2_000);
}
