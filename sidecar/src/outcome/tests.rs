//! Tests of the outcome table, row by row, and of the back-off.

use bytes::Bytes;
use crds::Duration as Span;

use super::*;

fn http(status: u16, body: &str) -> Answer {
    Answer::Http { status, retry_after: None, body: Bytes::copy_from_slice(body.as_bytes()) }
}

fn failed(reason: Reason) -> Outcome {
    Outcome::Failed { reason, retry_after: None, sent: true }
}

fn rejected(reason: Reason) -> Outcome {
    Outcome::Rejected(reason)
}

fn names(ids: &[&str]) -> Vec<EventName> {
    ids.iter().map(|id| EventName { key: format!("k:{id}").into(), id: Arc::from(*id) }).collect()
}

#[test]
fn every_code_has_its_row() {
    for code in 100..=599 {
        let want = match code {
            200..=299 => Outcome::Completed,
            400 | 409 | 422 => rejected(Reason::Status(code)),
            _ => failed(Reason::Status(code)),
        };
        for body in [
            "",
            "ok",
            "{}",
            "[]",
            r#"{"status":""}"#,
            r#"{"status":400}"#,
            r#"{"status":null}"#,
            "{\"status\":\"RETRY\"",
        ] {
            assert_eq!(judge_one(&http(code, body)), want, "{code} {body}");
        }
    }
}

#[test]
fn a_known_status_wins_over_the_code() {
    for code in [200, 204, 404, 422, 500, 503] {
        assert_eq!(judge_one(&http(code, r#"{"status":"SUCCESS","x":[1]}"#)), Outcome::Completed);
        assert_eq!(judge_one(&http(code, "\n {\"status\" : \"drop\"} ")), rejected(Reason::Drop));
        assert_eq!(judge_one(&http(code, r#"{"status":"RETRY"}"#)), failed(Reason::Retry));
    }
}

#[test]
fn an_unknown_status_leaves_the_code_as_it_is() {
    assert_eq!(judge_one(&http(200, r#"{"status":"ok"}"#)), Outcome::Completed, "the commonest answer of all");
    assert_eq!(judge_one(&http(422, r#"{"status":"invalid"}"#)), rejected(Reason::Status(422)));
    assert_eq!(judge_one(&http(500, r#"{"status":"error"}"#)), failed(Reason::Status(500)));
}

#[test]
fn only_what_was_not_sent_is_free_of_suspicion() {
    let not_sent = Outcome::Failed { reason: Reason::NotSent("x".into()), retry_after: None, sent: false };
    assert_eq!(judge_one(&Answer::NotSent("x".into())), not_sent);
    assert_eq!(judge_batch(&Answer::NotSent("x".into()), &names(&["a", "b"])), vec![not_sent.clone(), not_sent]);
    assert_eq!(judge_one(&Answer::Broken("x".into())), failed(Reason::Broken("x".into())));
    assert_eq!(judge_one(&Answer::TimedOut), failed(Reason::TimedOut));
    assert_eq!(judge_batch(&Answer::TimedOut, &names(&["a"])), vec![failed(Reason::TimedOut)]);
}

#[test]
fn retry_after_is_kept_on_failures() {
    let wait = Some(Duration::from_secs(7));
    for (status, body) in [(503, ""), (200, r#"{"status":"RETRY"}"#)] {
        let answer = Answer::Http { status, retry_after: wait, body: Bytes::from_static(body.as_bytes()) };
        assert!(matches!(judge_one(&answer), Outcome::Failed { retry_after, .. } if retry_after == wait));
        let batch = judge_batch(&answer, &names(&["a", "b"]));
        assert!(batch.iter().all(|o| matches!(o, Outcome::Failed { retry_after, .. } if *retry_after == wait)));
    }
}

#[test]
fn a_batch_takes_one_status_per_event() {
    let body = r#"{"results":[{"id":"k:c","status":"DROP"},{"id":"a","status":"SUCCESS"},{"id":"nobody","status":"DROP"},
        {"id":"d","status":"nonsense"},{"id":"e"}]}"#;
    for code in [200, 207, 500] {
        let outcomes = judge_batch(&http(code, body), &names(&["a", "b", "c", "d", "e"]));
        let want = [
            Outcome::Completed,
            failed(Reason::NoResult),
            rejected(Reason::Drop),
            failed(Reason::UnknownStatus("nonsense".into())),
            failed(Reason::NoResult),
        ];
        assert_eq!(outcomes, want, "{code}");
    }
}

#[test]
fn events_of_one_name_take_its_results_in_order() {
    let results = |list: &[(&str, &str)]| {
        let list: Vec<String> = list.iter().map(|(id, s)| format!(r#"{{"id":"{id}","status":"{s}"}}"#)).collect();
        http(200, &format!(r#"{{"results":[{}]}}"#, list.join(",")))
    };
    let twins = names(&["a", "x", "a"]);
    let outcomes = judge_batch(&results(&[("a", "SUCCESS"), ("a", "DROP"), ("x", "SUCCESS")]), &twins);
    assert_eq!(outcomes, [Outcome::Completed, Outcome::Completed, rejected(Reason::Drop)]);
    let outcomes = judge_batch(&results(&[("a", "SUCCESS"), ("x", "SUCCESS")]), &twins);
    assert_eq!(outcomes[2], failed(Reason::NoResult), "one result does not settle two events");
    let outcomes = judge_batch(&results(&[("a", "RETRY"), ("a", "SUCCESS")]), &names(&["a"]));
    assert_eq!(outcomes, [failed(Reason::Contradiction)]);
}

#[test]
fn a_batch_without_results() {
    let (two, one) = (names(&["a", "b"]), names(&["a"]));
    for body in ["", " \n"] {
        assert_eq!(judge_batch(&http(204, body), &two), vec![Outcome::Completed; 2]);
    }
    assert_eq!(judge_batch(&http(200, r#"{"status":"SUCCESS"}"#), &two), vec![Outcome::Completed; 2]);
    assert_eq!(judge_batch(&http(200, r#"{"status":"RETRY"}"#), &two), vec![failed(Reason::Retry); 2]);
    for body in
        ["ok", "[]", "{}", r#"{"results":7}"#, r#"{"results":[{"id":1,"status":"SUCCESS"}]}"#, r#"{"results":[{"#]
    {
        let outcomes = judge_batch(&http(200, body), &two);
        assert!(outcomes.iter().all(|o| matches!(o, Outcome::Failed { reason: Reason::NotResults(_), .. })), "{body}");
    }
    assert_eq!(judge_batch(&http(200, r#"{"status":"ok"}"#), &one), vec![failed(Reason::UnknownStatus("ok".into()))]);
    assert_eq!(judge_batch(&http(500, r#"{"status":"ok"}"#), &two), vec![failed(Reason::Status(500)); 2]);
    assert_eq!(judge_batch(&http(502, "<html>"), &two), vec![failed(Reason::Status(502)); 2]);
}

#[test]
fn one_bad_event_does_not_drop_the_rest() {
    let (two, one) = (names(&["a", "b"]), names(&["a"]));
    for code in [400, 409, 422] {
        for body in ["", "no", "{}"] {
            assert_eq!(judge_batch(&http(code, body), &two), vec![failed(Reason::Status(code)); 2]);
            assert_eq!(judge_batch(&http(code, body), &one), vec![rejected(Reason::Status(code))]);
        }
    }
    assert_eq!(judge_batch(&http(200, r#"{"status":"DROP"}"#), &two), vec![failed(Reason::Drop); 2]);
    assert_eq!(judge_batch(&http(200, r#"{"status":"DROP"}"#), &one), vec![rejected(Reason::Drop)]);
}

#[test]
fn what_follows_the_first_failed_is_failed() {
    let retry = failed(Reason::Retry);
    let outcomes = vec![Outcome::Completed, rejected(Reason::Drop), retry.clone(), Outcome::Completed, retry.clone()];
    let want = [Outcome::Completed, rejected(Reason::Drop), retry.clone(), failed(Reason::BehindFailed), retry];
    assert_eq!(in_order(outcomes), want);
    assert_eq!(in_order(vec![Outcome::Completed; 3]), vec![Outcome::Completed; 3]);
    let stopped = vec![failed(Reason::NoResult), failed(Reason::NoResult), failed(Reason::Drop)];
    let want = [failed(Reason::NoResult), failed(Reason::BehindFailed), failed(Reason::Drop)];
    assert_eq!(in_order(stopped), want, "who was not reached is not to blame");
}

#[test]
fn backoff_grows_to_its_bound_and_keeps_what_was_asked() {
    let config = BackoffConfig { min: Span::from_millis(100), max: Span::from_secs(30) };
    let ms = Duration::from_millis;
    for (failures, jitter, want) in [
        (0, 1.0, 100),
        (1, 1.0, 100),
        (1, 0.0, 50),
        (2, 1.0, 200),
        (2, 0.0, 50),
        (3, 0.5, 225),
        (60, 1.0, 30_000),
        (u32::MAX, 0.0, 50),
    ] {
        assert_eq!(backoff(failures, &config, None, jitter), ms(want), "{failures} {jitter}");
    }
    assert_eq!(backoff(1, &config, Some(ms(5_000)), 1.0), ms(5_000));
    assert_eq!(backoff(20, &config, Some(ms(5_000)), 1.0), ms(30_000), "a lower bound, no more");
    assert_eq!(backoff(1, &config, Some(Duration::MAX), 1.0), MAX_RETRY_AFTER);
    for jitter in [f64::NAN, f64::INFINITY, -3.0, 9.0] {
        assert!(backoff(3, &config, None, jitter) <= ms(400), "{jitter}");
    }
    let odd = BackoffConfig { min: Span::from_secs(5), max: Span::from_secs(1) };
    assert_eq!(backoff(9, &odd, None, 0.0), Duration::from_secs(1), "max counts, even below min");
}
