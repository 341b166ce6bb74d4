//! Tests of the canonical form against what Python writes.

use proptest::prelude::*;

use super::*;

fn ours(input: impl AsRef<[u8]>) -> Result<String, Refused> {
    canonical(input.as_ref()).map(|text| String::from_utf8(text).unwrap())
}

/// Each input with the canonical text it must have.
fn all(cases: &[(&str, &str)]) {
    for (input, wanted) in cases {
        assert_eq!(ours(input).as_deref(), Ok(*wanted), "{input}");
    }
}

fn refused(cases: &[&str]) {
    for input in cases {
        assert!(matches!(ours(input), Err(Refused::Syntax { .. })), "{input:?}: {:?}", ours(input));
    }
}

#[test]
fn keys_sort_by_code_point_of_what_they_stand_for() {
    all(&[
        (r#"{"b":1,"a":2}"#, r#"{"a":2,"b":1}"#),
        (r#"{"ab":1,"a":2,"":3}"#, r#"{"":3,"a":2,"ab":1}"#),
        // An escape sorts as its character: U+0062 after `a`, though a backslash sorts before it.
        (r#"{"\u0062":1,"a":2,"c":3}"#, r#"{"a":2,"b":1,"c":3}"#),
        (r#"{"\"":1,"!":2,"\u007f":3,"~":4,"\n":5}"#, r#"{"\n":5,"!":2,"\"":1,"~":4,"\u007f":3}"#),
        // Code points, not UTF-16 units: U+FFFF before U+1F600, whose first unit is smaller.
        ("{\"😀\":1,\"\u{ffff}\":2}", r#"{"\uffff":2,"\ud83d\ude00":1}"#),
        // A lone surrogate sorts as its own number, below U+E000 and far below the pair that begins with it.
        (r#"{"\ud83d\ude00":1,"\ue000":2,"\ud83d":3}"#, r#"{"\ud83d":3,"\ue000":2,"\ud83d\ude00":1}"#),
    ]);
}

#[test]
fn of_equal_keys_the_last_wins_however_they_are_written() {
    all(&[
        (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
        (r#"{"a":1,"b":2,"\u0061":3,"a":4,"b":5}"#, r#"{"a":4,"b":5}"#),
        (r#"{"x":{"z":1,"y":2},"x":{"b":{"d":1,"c":2},"a":0}}"#, r#"{"x":{"a":0,"b":{"c":2,"d":1}}}"#),
        (r#"{"a":{"a":1,"a":2},"a":{"a":3,"a":4}}"#, r#"{"a":{"a":4}}"#),
    ]);
}

#[test]
fn objects_out_of_order_inside_each_other_all_come_in_order() {
    all(&[
        (
            r#"{"b":{"b":{"b":1,"a":2},"a":3},"a":{"b":4,"a":5}}"#,
            r#"{"a":{"a":5,"b":4},"b":{"a":3,"b":{"a":2,"b":1}}}"#,
        ),
        (r#"[{"b":1,"a":2},{"a":1,"b":[{"d":1,"c":2}]}]"#, r#"[{"a":2,"b":1},{"a":1,"b":[{"c":2,"d":1}]}]"#),
        (r#"{"a":{"d":1,"c":{}},"b":[{"z":[],"y":0},1]}"#, r#"{"a":{"c":{},"d":1},"b":[{"y":0,"z":[]},1]}"#),
    ]);
}

#[test]
fn strings_are_escaped_as_python_escapes_them() {
    all(&[
        (r#""\/\"\\\b\f\n\r\t""#, r#""/\"\\\b\f\n\r\t""#),
        ("\"\u{7f} é 日 😀 \u{10ffff}\"", r#""\u007f \u00e9 \u65e5 \ud83d\ude00 \udbff\udfff""#),
        (r#""\u0000\u001F\u0041\u00E9\uD83D\uDE00""#, r#""\u0000\u001fA\u00e9\ud83d\ude00""#),
        (r#""\ud83d\ud83d\ude00\ude00\ud83dx""#, r#""\ud83d\ud83d\ude00\ude00\ud83dx""#),
        ("\"0123456\u{7f}0123456\\\\0123456é01234567\"", r#""0123456\u007f0123456\\0123456\u00e901234567""#),
    ]);
    refused(&[
        "\"a\nb\"",
        "\"\u{1f}\"",
        "\"",
        "\"\\\"",
        r#""\x""#,
        r#""\u12""#,
        r#""\u12g4""#,
        r#""\u+123""#,
        "'a'",
        r#""\ud83d\u12""#,
    ]);
}

#[test]
fn numbers_are_written_as_python_writes_them() {
    let digits = "9".repeat(MAX_INTEGER_DIGITS);
    all(&[
        ("-0", "0"),
        ("18446744073709551616", "18446744073709551616"),
        (&digits, &digits),
        ("1.0", "1.0"),
        ("-0.0", "-0.0"),
        ("-0e9", "-0.0"),
        ("100e-2", "1.0"),
        ("12.50", "12.5"),
        ("1E400", "Infinity"),
        ("-1E400", "-Infinity"),
        ("[NaN, Infinity, -Infinity]", "[NaN,Infinity,-Infinity]"),
        ("5e-324", "5e-324"),
        ("1e-400", "0.0"),
        ("0.0001", "0.0001"),
        ("0.00010", "0.0001"),
        ("0.00001", "1e-05"),
        ("0.000012", "1.2e-05"),
        ("1e15", "1000000000000000.0"),
        ("1e16", "1e+16"),
        ("12345678901234567890.0", "1.2345678901234567e+19"),
        ("1.7976931348623157e308", "1.7976931348623157e+308"),
        ("0.30000000000000004", "0.30000000000000004"),
        // Halfway between two shortest forms: the even digit.
        ("2028438218455928.25", "2028438218455928.2"),
        ("2028438218455928.75", "2028438218455928.8"),
        ("5.6843418860808015e-14", "5.684341886080802e-14"),
    ]);
    refused(&["01", "-", "+1", "1.", ".5", "1e", "1e+", "-NaN", "nan", "Inf", "-01", "1_0", "0x1", "1.e5"]);
    let long = "9".repeat(MAX_INTEGER_DIGITS + 1);
    assert_eq!(ours(format!("[-{long}]")), Err(Refused::LongInteger { at: 1 }));
    assert_eq!(ours(format!("{long}.0")).as_deref(), Ok("Infinity"), "a float may be of any length");
}

#[test]
fn white_space_and_a_byte_order_mark_do_not_count() {
    all(&[(" \t\r\n{ \"a\" : [ 1 , { } , [ ] ] } \n", r#"{"a":[1,{},[]]}"#), ("\u{feff} 1 ", "1")]);
    refused(&["", " ", "\u{feff}", "\u{feff}\u{feff}1", " \u{feff}1", "1\u{feff}", "\u{a0}1", "1\u{c}", "1 2", "1\0"]);
}

#[test]
fn half_and_misplaced_structure_is_refused() {
    refused(&[
        "{",
        "[",
        "]",
        "}",
        "[}",
        "{]",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{1:2}",
        "{\"a\":1",
        "{\"a\" 1}",
        "{\"a\":1 \"b\":2}",
        "[1:2]",
        "[1}",
        "{\"a\":1]",
        "tru",
        "truee",
        "nul",
        "True",
        "/**/1",
    ]);
    assert_eq!(ours(b"[\"\xed\xa0\x80\"]"), Err(Refused::NotUtf8 { at: 2 }), "a surrogate is not UTF-8");
    assert_eq!(ours(b"\xff"), Err(Refused::NotUtf8 { at: 0 }));
}

#[test]
fn nesting_is_bounded_and_never_overflows_the_stack() {
    for (open, close) in [("[", "]"), ("{\"b\":", "}"), ("{\"b\":", ",\"a\":0}")] {
        let nested = |depth: usize| format!("{}0{}", open.repeat(depth), close.repeat(depth));
        assert!(ours(nested(MAX_DEPTH)).is_ok(), "{open}");
        let at = MAX_DEPTH * open.len();
        assert_eq!(ours(nested(MAX_DEPTH + 1)), Err(Refused::TooDeep { at }), "{open}");
        assert_eq!(ours(nested(10_000)), Err(Refused::TooDeep { at }), "{open}");
    }
    assert_eq!(ours("[".repeat(1 << 20)), Err(Refused::TooDeep { at: MAX_DEPTH }));
    // Depth is how many are open, not how many there are.
    assert!(ours(format!("[{}[]]", "[[]],".repeat(10_000))).is_ok());
}

#[test]
fn the_worst_nesting_fits_in_a_small_stack_and_copies_each_byte_once() {
    let text = format!("{}\"{}\"{}", "{\"b\":".repeat(MAX_DEPTH), "x".repeat(1 << 20), ",\"a\":0}".repeat(MAX_DEPTH));
    // Half of what tokio gives its threads.
    let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(move || ours(text)).unwrap();
    let text = thread.join().unwrap().unwrap();
    assert!(text.starts_with("{\"a\":0,\"b\":{\"a\":0,") && text.ends_with(&"}".repeat(MAX_DEPTH)));
}

#[test]
fn members_are_found_by_what_their_names_stand_for() {
    let mut reader = Reader::default();
    let document = reader.read(br#"{"data":1,"d\u0061ta":{"b":2,"a":3},"x":{"data":4},"\ud800":5}"#).unwrap();
    let mut buffer = Vec::new();
    assert_eq!(document.canonical(document.member("data").unwrap(), &mut buffer), br#"{"a":3,"b":2}"#);
    assert_eq!(document.member("b"), None, "members of members are not the document's");
    let names: Vec<String> = document.members().map(|(name, _)| name).collect();
    assert_eq!(names, ["data", "data", "x"], "in the input's order, without what is no text");

    let document = reader.read(br#"[{"data":1}]"#).unwrap();
    assert!(!document.is_object());
    assert_eq!((document.member("data"), document.members().count()), (None, 0));
    assert!(reader.read(br#"{"data":1"#).is_err());
    assert_eq!(reader.read(b"{}").unwrap().member("data"), None, "nothing is left of the document before");
}

#[test]
fn pointers_name_values_as_rfc_6901_says() {
    let text = r#"{"foo":["bar","baz",[],{"k":null}],"":0,"a/b":1,"m~n":2,"é\"}":3,"o":{"k":5,"k":{"z":6}},"~1":7}"#;
    let mut reader = Reader::default();
    let document = reader.read(text.as_bytes()).unwrap();
    let at = |pointer: &str| document.pointer(pointer).map(|s| String::from_utf8(document.text(s).to_vec()).unwrap());
    for (pointer, wanted) in [
        ("/foo/0", "\"bar\""),
        ("/foo/1", "\"baz\""),
        ("/foo/2", "[]"),
        ("/foo/3/k", "null"),
        ("/", "0"),
        ("/a~1b", "1"),
        ("/m~0n", "2"),
        ("/é\"}", "3"),
        ("/o/k/z", "6"),
        ("/~01", "7"),
    ] {
        assert_eq!(at(pointer).as_deref(), Some(wanted), "{pointer}");
    }
    assert_eq!(at("").map(|t| t.len()), Some(document.span().len()));
    for pointer in [
        "/foo/4", "/foo/00", "/foo/01", "/foo/-", "/foo/+1", "/foo/", "/foo/2/0", "/none", "/o/k/z/y", "foo", "/a~b",
        "/~2",
    ] {
        assert_eq!(at(pointer), None, "{pointer}");
    }
    assert_eq!(check_pointer("event_id"), Err(PointerError::NoSlash));
    assert_eq!(check_pointer("/a~"), Err(PointerError::Tilde));
}

/// A JSON value that can be written in many ways.
#[derive(Clone, Debug)]
enum Json {
    Scalar(&'static str),
    Text(String),
    Array(Vec<Json>),
    Object(std::collections::BTreeMap<String, Json>),
}

fn json() -> impl Strategy<Value = Json> {
    let scalar = prop::sample::select(&["null", "true", "0", "-1.5", "1e+30", "NaN", "123456789012345678901"][..]);
    let text =
        prop::collection::vec(prop::sample::select(&['a', 'b', '"', '\\', '\n', 'é', '\u{ffff}', '😀'][..]), 0..4)
            .prop_map(|chars| chars.into_iter().collect::<String>());
    let leaf = prop_oneof![scalar.prop_map(Json::Scalar), text.clone().prop_map(Json::Text)];
    leaf.prop_recursive(5, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Json::Array),
            prop::collection::btree_map(text.clone(), inner, 0..6).prop_map(Json::Object),
        ]
    })
}

impl Json {
    /// Writes the value in the way that the numbers of `ways` choose.
    fn spell(&self, ways: &mut impl FnMut(usize) -> usize, out: &mut String) {
        fn space(ways: &mut impl FnMut(usize) -> usize, out: &mut String) {
            out.push_str(["", "", " ", "\r\n\t"][ways(4)]);
        }
        fn text(text: &str, ways: &mut impl FnMut(usize) -> usize, out: &mut String) {
            out.push('"');
            for c in text.chars() {
                if ways(2) == 0 || matches!(c, '"' | '\\' | '\n') {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&if ways(2) == 0 { format!("\\u{unit:04x}") } else { format!("\\u{unit:04X}") });
                    }
                } else {
                    out.push(c);
                }
            }
            out.push('"');
        }
        space(ways, out);
        match self {
            Self::Scalar(word) => out.push_str(word),
            Self::Text(value) => text(value, ways, out),
            Self::Array(values) => {
                out.push('[');
                for (i, value) in values.iter().enumerate() {
                    out.push_str(if i > 0 { "," } else { "" });
                    value.spell(ways, out);
                }
                out.push(']');
            }
            Self::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                for i in (1..members.len()).rev() {
                    members.swap(i, ways(i + 1));
                }
                out.push('{');
                for (i, (name, value)) in members.into_iter().enumerate() {
                    out.push_str(if i > 0 { "," } else { "" });
                    space(ways, out);
                    text(name, ways, out);
                    space(ways, out);
                    out.push(':');
                    if ways(8) == 0 {
                        // An earlier member of the same name does not count.
                        out.push_str("[1,{\"b\":0,\"a\":0}],");
                        text(name, ways, out);
                        out.push(':');
                    }
                    value.spell(ways, out);
                }
                out.push('}');
            }
        }
        space(ways, out);
    }

    fn spelled(&self, seed: u64) -> String {
        let mut state = seed;
        let mut out = String::new();
        self.spell(
            &mut |n| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as usize % n
            },
            &mut out,
        );
        out
    }
}

proptest! {
    #[test]
    fn all_spellings_of_a_value_are_one(value in json(), seeds: (u64, u64)) {
        let (one, other) = (value.spelled(seeds.0), value.spelled(seeds.1));
        prop_assert_eq!(ours(&one), ours(&other), "{}\n{}", one, other);
        prop_assert!(ours(&one).is_ok(), "{}", one);
    }

    #[test]
    fn the_canonical_form_is_its_own(value in json(), seed: u64) {
        let once = ours(value.spelled(seed)).unwrap();
        prop_assert_eq!(ours(&once), Ok(once.clone()));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
        let _ = canonical(&bytes);
    }

    #[test]
    fn any_bytes_inside_a_string_are_read_or_refused(text in "[\\x00-\\x{ff}\\\\u\"d8cf0-9]{0,40}") {
        let _ = ours(format!("{{\"{text}\":\"{text}\"}}"));
    }
}
