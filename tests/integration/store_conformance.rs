//! One contract, every claim store: memory and real Redis (plain, by script, over TLS with a limited user, behind a
//! sentinel, in a cluster). What only Redis can do wrong is in `store_faults`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "store_conformance/faults.rs"]
mod faults;
#[path = "store_conformance/subject.rs"]
mod subject;

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use libtest_mimic::Trial;
use sidecar::store::{Op, Reply, StoreError};

use subject::{Kind, Subject};

const TTL: Duration = Duration::from_secs(60);

/// Every trial of the stores.
pub(super) fn tests() -> Vec<Trial> {
    let mut trials = Vec::new();
    for kind in Kind::ALL {
        // Servers of these kinds take seconds to start: all cases on one set of them.
        if matches!(kind, Kind::Sentinel | Kind::Cluster) {
            trials.push(trial(format!("store::{kind}::contract"), async move || {
                let subject = Subject::start(kind);
                for (_, case) in cases() {
                    case(&subject).await;
                }
            }));
            continue;
        }
        for (name, case) in cases() {
            trials.push(trial(format!("store::{kind}::{name}"), async move || case(&Subject::start(kind)).await));
        }
    }
    trials.extend(faults::tests());
    trials
}

fn trial<F: AsyncFnOnce() + Send + 'static>(name: String, test: F) -> Trial {
    Trial::test(name, move || Ok(harness::block_on(test())?))
}

type Case = for<'a> fn(&'a Subject) -> std::pin::Pin<Box<dyn Future<Output = ()> + 'a>>;

fn cases() -> Vec<(&'static str, Case)> {
    macro_rules! list {
        ($($name:ident),* $(,)?) => { vec![$((stringify!($name), (|subject| Box::pin($name(subject))) as Case)),*] };
    }
    list![
        set_if_absent,
        set_if_present,
        compare_and_set,
        compare_and_delete,
        set,
        delete,
        exists,
        expired_keys_are_absent,
        ttls_are_set_and_replaced,
        wrong_type,
        any_bytes_in_any_key,
        one_of_many_claims_wins,
        compare_and_set_races,
        a_thousand_at_once,
        nothing_at_all,
    ]
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn claim(key: &str, value: &str) -> Op {
    Op::SetIfAbsent { key: key.into(), value: bytes(value), ttl: TTL }
}

fn put(key: &str, value: &str, ttl: Duration) -> Op {
    Op::Set { key: key.into(), value: bytes(value), ttl }
}

fn renew(key: &str, value: &str) -> Op {
    Op::SetIfPresent { key: key.into(), value: bytes(value), ttl: TTL }
}

fn swap(key: &str, expect: &str, value: &str) -> Op {
    Op::CompareAndSet { key: key.into(), expect: bytes(expect), value: bytes(value), ttl: TTL }
}

fn remove(key: &str, expect: &str) -> Op {
    Op::CompareAndDelete { key: key.into(), expect: bytes(expect) }
}

/// Runs one operation on a key that holds `before`, and checks the answer and what the key holds then.
async fn check(s: &Subject, before: Option<&str>, op: impl Fn(&str) -> Op, answer: Reply, after: Option<&str>) {
    let key = s.key("state");
    let op = op(&key);
    s.one(Op::Delete { key: key.as_str().into() }).await.unwrap();
    if let Some(before) = before {
        s.one(put(&key, before, TTL * 10)).await.unwrap();
    }
    assert_eq!(s.one(op.clone()).await, Ok(answer), "{op:?} on {before:?}");
    assert_eq!(s.get(&key).as_deref(), after.map(str::as_bytes), "{op:?} on {before:?}");
}

async fn set_if_absent(s: &Subject) {
    check(s, None, |key| claim(key, "new"), Reply::Applied, Some("new")).await;
    check(s, Some("new"), |key| claim(key, "new"), Reply::Present(bytes("new")), Some("new")).await;
    check(s, Some("old"), |key| claim(key, "new"), Reply::Present(bytes("old")), Some("old")).await;
    check(s, Some(""), |key| claim(key, "new"), Reply::Present(bytes("")), Some("")).await;
}

async fn set_if_present(s: &Subject) {
    check(s, None, |key| renew(key, "new"), Reply::Refused, None).await;
    check(s, Some("new"), |key| renew(key, "new"), Reply::Applied, Some("new")).await;
    check(s, Some("old"), |key| renew(key, "new"), Reply::Applied, Some("new")).await;
}

async fn compare_and_set(s: &Subject) {
    check(s, None, |key| swap(key, "old", "new"), Reply::Refused, None).await;
    check(s, Some("old"), |key| swap(key, "old", "new"), Reply::Applied, Some("new")).await;
    check(s, Some("other"), |key| swap(key, "old", "new"), Reply::Refused, Some("other")).await;
    check(s, Some("old2"), |key| swap(key, "old", "new"), Reply::Refused, Some("old2")).await;
    check(s, None, |key| swap(key, "", "new"), Reply::Refused, None).await;
}

async fn compare_and_delete(s: &Subject) {
    check(s, None, |key| remove(key, "old"), Reply::Refused, None).await;
    check(s, Some("old"), |key| remove(key, "old"), Reply::Applied, None).await;
    check(s, Some("other"), |key| remove(key, "old"), Reply::Refused, Some("other")).await;
}

async fn set(s: &Subject) {
    for before in [None, Some("new"), Some("old")] {
        check(s, before, |key| put(key, "new", TTL), Reply::Applied, Some("new")).await;
    }
}

async fn delete(s: &Subject) {
    check(s, None, |key| Op::Delete { key: key.into() }, Reply::Refused, None).await;
    check(s, Some("old"), |key| Op::Delete { key: key.into() }, Reply::Applied, None).await;
}

async fn exists(s: &Subject) {
    check(s, None, |key| Op::Exists { key: key.into() }, Reply::Refused, None).await;
    check(s, Some("old"), |key| Op::Exists { key: key.into() }, Reply::Applied, Some("old")).await;
}

/// An operation on an expired key, its answer, and what the key holds then.
type Expired = (fn(&str) -> Op, Reply, Option<&'static str>);

async fn expired_keys_are_absent(s: &Subject) {
    let expired: [Expired; 7] = [
        (|key| claim(key, "new"), Reply::Applied, Some("new")),
        (|key| renew(key, "new"), Reply::Refused, None),
        (|key| swap(key, "old", "new"), Reply::Refused, None),
        (|key| remove(key, "old"), Reply::Refused, None),
        (|key| put(key, "new", TTL), Reply::Applied, Some("new")),
        (|key| Op::Delete { key: key.into() }, Reply::Refused, None),
        (|key| Op::Exists { key: key.into() }, Reply::Refused, None),
    ];
    for (index, (op, answer, after)) in expired.into_iter().enumerate() {
        let key = s.key(&format!("expired-{index}"));
        s.one(put(&key, "old", Duration::from_millis(30))).await.unwrap();
        s.gone(&key).await;
        let op = op(&key);
        assert_eq!(s.one(op.clone()).await, Ok(answer), "{op:?}");
        assert_eq!(s.get(&key).as_deref(), after.map(str::as_bytes), "{op:?}");
    }
}

async fn ttls_are_set_and_replaced(s: &Subject) {
    for ttl in [Duration::from_secs(30), Duration::from_millis(90_500)] {
        let key = s.key(&format!("ttl-{}", ttl.as_millis()));
        let (k, value) = (|| key.as_str().into(), || bytes("v"));
        let ops = [
            Op::SetIfAbsent { key: k(), value: value(), ttl },
            Op::SetIfPresent { key: k(), value: value(), ttl },
            Op::CompareAndSet { key: k(), expect: value(), value: value(), ttl },
            Op::Set { key: k(), value: value(), ttl },
        ];
        for op in ops {
            // A TTL of its own before, far from the one to come; none for a claim, which must find nothing.
            let before = put(&key, "v", Duration::from_secs(5000));
            let first = if matches!(op, Op::SetIfAbsent { .. }) { Op::Delete { key: k() } } else { before };
            s.one(first).await.unwrap();
            assert_eq!(s.one(op.clone()).await, Ok(Reply::Applied));
            let left = s.ttl(&key).unwrap();
            assert!(left <= ttl && left > ttl - Duration::from_secs(20), "{op:?}: {left:?}");
        }
        let left = s.ttl(&key).unwrap();
        s.one(Op::SetIfAbsent { key: k(), value: value(), ttl: ttl * 100 }).await.unwrap();
        s.one(Op::CompareAndSet { key: k(), expect: bytes("x"), value: value(), ttl: ttl * 100 }).await.unwrap();
        assert!(s.ttl(&key).unwrap() <= left, "what is refused leaves the TTL alone");
    }
}

async fn wrong_type(s: &Subject) {
    let key = s.key("list");
    if !s.make_list(&key) {
        return;
    }
    let fine = s.key("fine");
    let wrong = || Err(StoreError::WrongType(key.as_str().into()));
    // Between two good ones: only the one key is concerned.
    let ops = vec![claim(&fine, "v"), claim(&key, "v"), swap(&key, "a", "b"), remove(&key, "a"), claim(&fine, "w")];
    let replies = s.all(ops).await;
    assert_eq!(replies, [Ok(Reply::Applied), wrong(), wrong(), wrong(), Ok(Reply::Present(bytes("v")))]);
    assert!(wrong().unwrap_err().to_string().contains(&key));
    assert_eq!(s.one(Op::Exists { key: key.as_str().into() }).await, Ok(Reply::Applied));
    assert_eq!(s.one(put(&key, "v", TTL)).await, Ok(Reply::Applied), "whatever is there, of whatever type");
    assert_eq!(s.get(&key).as_deref(), Some(&b"v"[..]));
    assert!(s.make_list(&key));
    assert_eq!(s.one(renew(&key, "v")).await, Ok(Reply::Applied));
    assert!(s.make_list(&key));
    assert_eq!(s.one(Op::Delete { key: key.as_str().into() }).await, Ok(Reply::Applied));
}

async fn any_bytes_in_any_key(s: &Subject) {
    let value = Bytes::from((0..=255).collect::<Vec<u8>>());
    for name in ["", " \r\n$5\r\n", "{tag}x", "{}", "ключ", "*"] {
        let key = s.key(name);
        let set = Op::SetIfAbsent { key: key.as_str().into(), value: value.clone(), ttl: TTL };
        assert_eq!(s.one(set.clone()).await, Ok(Reply::Applied), "{name:?}");
        assert_eq!(s.one(set).await, Ok(Reply::Present(value.clone())), "{name:?}");
        let done = Op::CompareAndDelete { key: key.as_str().into(), expect: value.clone() };
        assert_eq!(s.one(done).await, Ok(Reply::Applied), "{name:?}");
    }
}

async fn one_of_many_claims_wins(s: &Subject) {
    for round in 0..5 {
        let key = s.key(&format!("race-{round}"));
        let replies = join_all((0..64).map(|me| s.one(claim(&key, &me.to_string())))).await;
        let held = s.get(&key).unwrap();
        let winners: Vec<_> = replies.iter().enumerate().filter(|(_, reply)| **reply == Ok(Reply::Applied)).collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(held, winners[0].0.to_string().as_bytes());
        let lost = Ok(Reply::Present(held.into()));
        assert_eq!(replies.iter().filter(|reply| **reply == lost).count(), 63);
    }
}

async fn compare_and_set_races(s: &Subject) {
    let key = s.key("cas-race");
    s.one(put(&key, "0", TTL)).await.unwrap();
    // Each of 20 counts up 5 times: a lost update would leave the number too low.
    join_all((0..20).map(async |_| {
        for _ in 0..5 {
            loop {
                let held = String::from_utf8(s.get(&key).unwrap()).unwrap();
                let next = (held.parse::<u32>().unwrap() + 1).to_string();
                if s.one(swap(&key, &held, &next)).await.unwrap() == Reply::Applied {
                    break;
                }
            }
        }
    }))
    .await;
    assert_eq!(s.get(&key).unwrap(), b"100");
}

async fn a_thousand_at_once(s: &Subject) {
    let keys: Vec<_> = (0..1000).map(|i| s.key(&format!("bulk-{}", i % 700))).collect();
    let replies = s.all(keys.iter().enumerate().map(|(i, key)| claim(key, &i.to_string())).collect()).await;
    assert_eq!(replies.len(), 1000);
    let applied: HashSet<_> = (0..1000).filter(|i| replies[*i] == Ok(Reply::Applied)).map(|i| &keys[i]).collect();
    assert_eq!(applied.len(), 700);
    assert_eq!(replies.iter().filter(|reply| **reply == Ok(Reply::Applied)).count(), 700, "each key once");
    // In their order: each answer is about its own key.
    let ops = keys.iter().take(700).enumerate().map(|(i, key)| match i % 3 {
        0 => Op::Exists { key: key.as_str().into() },
        1 => swap(key, "never", "x"),
        _ => claim(key, "x"),
    });
    for (i, reply) in s.all(ops.collect()).await.into_iter().enumerate() {
        let held = || s.get(&keys[i]).unwrap().into();
        let expected = match i % 3 {
            0 => Reply::Applied,
            1 => Reply::Refused,
            _ if i % 50 == 2 => Reply::Present(held()),
            _ => reply.clone().unwrap(),
        };
        assert_eq!(reply, Ok(expected), "{i}");
    }
}

async fn nothing_at_all(s: &Subject) {
    assert_eq!(s.all(Vec::new()).await, []);
}
