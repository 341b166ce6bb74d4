//! Tests of stored values, keys, decisions and settlements.

use proptest::prelude::*;

use super::*;

const ME: SessionId = session(1);
const OTHER: SessionId = session(2);

const fn session(n: u128) -> SessionId {
    SessionId::new(Uuid::from_u128(n))
}

fn key() -> Key {
    KeyPrefix::render("p:", "g", "t", "").key(&EventId([7; 32]))
}

fn parse(value: impl AsRef<[u8]>) -> Stored {
    Stored::parse(value.as_ref(), &[])
}

fn any_stored() -> impl Strategy<Value = Stored> {
    prop_oneof![
        any::<Option<[u8; 4]>>().prop_map(|fp| Stored::Done(fp.map(Fingerprint))),
        (any::<u128>(), any::<u32>()).prop_map(|(id, attempt)| Stored::Claimed { session: session(id), attempt }),
        any::<u32>().prop_map(|attempt| Stored::Released { attempt }),
    ]
}

fn format(stored: &Stored) -> Option<Bytes> {
    Some(match stored {
        Stored::Done(fingerprint) => done_value(*fingerprint),
        Stored::Claimed { session, attempt } => claim_value(*session, *attempt),
        Stored::Released { attempt } => released_value(*attempt),
        Stored::Foreign => return None,
    })
}

#[test]
fn values_are_written_as_documented() {
    assert_eq!(done_value(None), "1");
    assert_eq!(done_value(Some(Fingerprint([0, 0xab, 1, 0xff]))), "1:00ab01ff");
    assert_eq!(claim_value(ME, 3), "c:00000000-0000-0000-0000-000000000001:3");
    assert_eq!(released_value(2), "c:-:2");
}

#[test]
fn what_is_not_exactly_ours_is_foreign() {
    let uuid = ME.to_string();
    let odd = [
        String::new(),
        "0".into(),
        "2".into(),
        "11".into(),
        "1 ".into(),
        "1\n".into(),
        "1:".into(),
        "1:abc".into(),
        "1:00ab01fff".into(),
        "1:00AB01FF".into(),
        "1:+0ab01ff".into(),
        "c".into(),
        "c:".into(),
        "c:-".into(),
        "c:-:".into(),
        "c:-:-1".into(),
        "c:-:+1".into(),
        "c:-:01".into(),
        "c:-:4294967296".into(),
        "c:--:1".into(),
        format!("c:{uuid}"),
        format!("c:{uuid}:"),
        format!("c:{uuid}:x"),
        format!("c:{{{uuid}}}:1"),
        format!("c:urn:uuid:{uuid}:1"),
        format!("c:{}:1", uuid.replace('-', "")),
        format!("C:{uuid}:1"),
        "processing".into(),
        "{\"status\":\"done\"}".into(),
    ];
    for value in odd {
        assert_eq!(parse(&value), Stored::Foreign, "{value:?}");
    }
    assert_eq!(parse([b'1', b':', 0xff, 0xff]), Stored::Foreign);
}

#[test]
fn further_done_values_can_be_named_and_only_whole() {
    let done = ["processed".to_owned(), "c:-:1".to_owned()];
    assert_eq!(Stored::parse(b"processed", &done), Stored::Done(None));
    assert_eq!(Stored::parse(b"c:-:1", &done), Stored::Done(None), "the user's word counts");
    assert_eq!(Stored::parse(b"processed!", &done), Stored::Foreign);
    assert_eq!(Stored::parse(b"1", &done), Stored::Done(None));
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(stored in any_stored()) {
        prop_assert_eq!(parse(format(&stored).unwrap()), stored);
    }

    #[test]
    fn nothing_else_is_read_as_ours(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let stored = parse(&bytes);
        prop_assert!(stored == Stored::Foreign || format(&stored).unwrap() == bytes);
    }

    #[test]
    fn near_misses_are_not_read_as_ours(text in "(1|c):?[-0-9a-fA-F+:]{0,12}[:x ]?[-+0-9]{0,3}") {
        let stored = parse(&text);
        prop_assert!(stored == Stored::Foreign || format(&stored).unwrap() == text.as_bytes(), "{}", text);
    }

    #[test]
    fn a_damaged_value_is_never_read_as_another_kind_of_done(stored in any_stored(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut value = format(&stored).unwrap().to_vec();
        let at = at.index(value.len());
        value[at] = byte;
        let read = parse(&value);
        prop_assert!(read == Stored::Foreign || format(&read).unwrap() == value);
    }
}

#[test]
fn a_prefix_fills_each_placeholder_once_and_leaves_other_braces() {
    let render = |template: &str, group: &str, topic: &str, event: &str| {
        let prefix = KeyPrefix::render(template, group, topic, event);
        prefix.key(&EventId([0; 32])).text().strip_suffix(&"0".repeat(64)).unwrap().to_owned()
    };
    assert_eq!(render("idempotency:{group}:{topic}:{type}:", "g", "t", "e"), "idempotency:g:t:e:");
    assert_eq!(render("huleedu:events:seen:", "g", "t", "e"), "huleedu:events:seen:");
    assert_eq!(render("{group}{type}-{topic}", "g", "t", "e"), "g:e-t", "two values never touch");
    assert_eq!(render("{group}%", "g", "", ""), "g:%");
    assert_eq!(render("{topic}:", "", "{type}", "{group}"), "{type}:", "a value is not filled again");
    assert_eq!(render("{type}:{group}", "g", "t", "{topic}"), "{topic}:g");
    assert_eq!(render("{{group}}:{other}:{type", "g", "t", "e"), "{g}:{other}:{type");
    assert_eq!(render("{", "g", "t", "e"), "{");
    assert_eq!(render("é{type}ü", "g", "t", "ß"), "éßü");
    let (longest, longer) = ("x".repeat(256), "x".repeat(257));
    assert_eq!(render("{type}", "", "", &longest), longest);
    assert_eq!(render("{type}", "", "", &longer).len(), 66, "a stranger's long word stands as its hash");
    let hash = EventId(Sha256::digest(&longer).into()).to_string();
    assert_ne!(render("{type}", "", "", &longer), render("{type}", "", "", &hash), "and not as a type of that name");
    assert_ne!(render("{type}", "", "", &longer), render("{type}", "", "", &"x".repeat(258)));
}

#[test]
fn a_separator_inside_a_value_is_escaped_and_what_has_none_stands_as_it_is() {
    let render = |template: &str, group: &str, event: &str| KeyPrefix::render(template, group, "t", event).text;
    assert_eq!(render("{group}:{type}:", "a.b_c-d/e", "é urn"), "a.b_c-d/e:é urn:");
    assert_eq!(render("{group}:{type}:", "a:b", "50%"), "a%3Ab:50%25:");
    assert_eq!(render("{group}/{type}é", "a/b", "ée/"), "a%2Fb/%C3%A9e/é");
    assert_eq!(render("seen:", "a:b", "50%"), "seen:", "a fixed prefix is nobody's to change");
}

/// Few letters, so that much is alike: those that separate, those that escape, and plain ones.
fn any_word() -> impl Strategy<Value = String> {
    prop_oneof![9 => "[a:%/2{}-]{0,4}", 1 => "[ab]{257}"]
}

fn any_template() -> impl Strategy<Value = String> {
    (
        proptest::sample::subsequence(vec!["{group}", "{topic}", "{type}"], 3).prop_shuffle(),
        "[a:%/2{}-]{0,2}",
        "[a:%/2{}-]{0,2}",
        "[a:%/2{}-]{0,2}",
    )
        .prop_map(|(names, one, two, three)| format!("p{}{one}{}{two}{}{three}", names[0], names[1], names[2]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn two_events_of_different_groups_topics_or_types_never_share_a_key(
        template in any_template(),
        one in (any_word(), any_word(), any_word()),
        other in (any_word(), any_word(), any_word()),
    ) {
        let render = |(group, topic, event): &(String, String, String)| KeyPrefix::render(&template, group, topic, event).text;
        prop_assert_eq!(render(&one) == render(&other), one == other, "{} {:?} {:?}", render(&one), one, other);
    }
}

#[test]
fn two_groups_never_share_the_keys_of_a_type_with_colons() {
    let render =
        |group, topic, event| KeyPrefix::render("idempotency:{group}:{topic}:{type}:", group, topic, event).text;
    assert_ne!(render("orders", "events", "billing:Created"), render("orders:events", "billing", "Created"));
}

#[test]
fn a_key_is_prefix_and_hex_and_its_digest_tells_prefixes_and_ids_apart() {
    let mut id = [0; 32];
    (id[0], id[31]) = (0xa0, 0x0f);
    let one = KeyPrefix::render("a:", "", "", "").key(&EventId(id));
    assert_eq!(&**one.text(), format!("a:{}", EventId(id)));
    assert_ne!(one, KeyPrefix::render("b:", "", "", "").key(&EventId(id)));
    id[0] = 0xa1;
    assert_ne!(one, KeyPrefix::render("a:", "", "", "").key(&EventId(id)));
}

fn decided(reply: &Reply, attempt: u32, owner: Owner) -> Decision {
    let key = key();
    let request = ClaimRequest { key: &key, session: ME, attempt, sent_at: Time::default() };
    decide(reply, request, &["processed".to_owned()], |asked| {
        assert_eq!(asked, OTHER, "the owner is asked for by the session in the value");
        owner
    })
}

#[test]
fn decisions_for_every_stored_state_owner_and_attempt() {
    use Decision::{Ask, Duplicate, Foreign, Held, TakeOver};
    let fp = Fingerprint([1, 2, 3, 4]);
    for owner in [Owner::Mine, Owner::Dead, Owner::Alive, Owner::Unknown] {
        for asked in [1, 2, 5, u32::MAX] {
            let present = |value: Bytes| decided(&Reply::Present(value), asked, owner);
            assert_eq!(present("1".into()), Duplicate(None));
            assert_eq!(present(done_value(Some(fp))), Duplicate(Some(fp)));
            assert_eq!(present("processed".into()), Duplicate(None));
            assert_eq!(present("what".into()), Foreign);
            assert_eq!(present("".into()), Foreign);
            assert_eq!(decided(&Reply::Refused, asked, owner), Held, "no answer to the question");
            for stored in [0, 1, 3, u32::MAX] {
                // Above what the store knows, and not below what was asked for.
                let attempt = asked.max(stored.saturating_add(1));
                assert_eq!(present(released_value(stored)), TakeOver { attempt }, "released {stored}, asked {asked}");
                let expected = match owner {
                    Owner::Mine | Owner::Dead => TakeOver { attempt },
                    Owner::Alive => Held,
                    Owner::Unknown => Ask(OTHER),
                };
                assert_eq!(present(claim_value(OTHER, stored)), expected, "{owner:?}, stored {stored}, asked {asked}");
            }
        }
    }
}

#[test]
fn an_applied_claim_is_granted_as_it_was_asked_for() {
    let key = key();
    let sent_at = Time::at(Duration::from_secs(100));
    let request = ClaimRequest { key: &key, session: ME, attempt: 4, sent_at };
    let Decision::Deliver(claim) = decide(&Reply::Applied, request, &[], |_| panic!("nobody to ask for")) else {
        panic!("not granted")
    };
    assert_eq!((claim.key(), claim.session(), claim.attempt()), (&key, Some(ME), 4));
    assert_eq!(claim.age(sent_at + Duration::from_secs(9)), Duration::from_secs(9), "counted from sending");
}

fn ended(attempt: u32, settlement: Settlement) -> Option<Op> {
    let key = key();
    let claim = ClaimRequest { key: &key, session: ME, attempt, sent_at: Time::default() }.granted();
    settle(claim, settlement, Duration::from_secs(5), Duration::from_secs(3_600))
}

#[test]
fn done_is_written_whatever_is_there() {
    let fp = Some(Fingerprint([9; 4]));
    let expected = |fp| Some(Op::Set { key: key().text().clone(), value: done_value(fp), ttl: Duration::from_secs(5) });
    assert_eq!(ended(1, Settlement::Done(None)), expected(None));
    assert_eq!(ended(7, Settlement::Done(fp)), expected(fp));
    let unguarded = Claim::unguarded(key(), 2, Time::default());
    let op = settle(unguarded, Settlement::Done(fp), Duration::from_secs(5), Duration::from_secs(3_600));
    assert_eq!(op, expected(fp));
}

#[test]
fn a_release_compares_and_remembers_what_may_have_been_sent() {
    let released = |attempt: u32, reached: u32| {
        let (expect, value) = (claim_value(ME, attempt), released_value(reached));
        Some(Op::CompareAndSet { key: key().text().clone(), expect, value, ttl: Duration::from_secs(3_600) })
    };
    assert_eq!(ended(1, Settlement::Release { sent: true }), released(1, 1));
    assert_eq!(ended(3, Settlement::Release { sent: true }), released(3, 3));
    assert_eq!(ended(3, Settlement::Release { sent: false }), released(3, 2));
    let expect = claim_value(ME, 1);
    let deleted = Some(Op::CompareAndDelete { key: key().text().clone(), expect });
    assert_eq!(ended(1, Settlement::Release { sent: false }), deleted);
}

#[test]
fn an_unguarded_claim_has_nothing_to_release() {
    for sent in [true, false] {
        let claim = Claim::unguarded(key(), 1, Time::default());
        assert_eq!(settle(claim, Settlement::Release { sent }, Duration::ZERO, Duration::ZERO), None);
    }
}

#[test]
fn only_two_known_and_different_fingerprints_are_suspect() {
    let (a, b) = (Some(Fingerprint([1; 4])), Some(Fingerprint([2; 4])));
    assert!(suspect(a, b));
    for (done, record) in [(a, a), (a, None), (None, b), (None, None)] {
        assert!(!suspect(done, record));
    }
}
