//! Tables and properties of selectors.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Selector {
    Selector::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn json(value: &serde_json::Value) -> prost_types::Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(*value),
        serde_json::Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap()),
        serde_json::Value::String(value) => Kind::StringValue(value.clone()),
        serde_json::Value::Array(values) => {
            Kind::ListValue(prost_types::ListValue { values: values.iter().map(json).collect() })
        }
        serde_json::Value::Object(fields) => {
            let fields: BTreeMap<_, _> = fields.iter().map(|(name, value)| (name.clone(), json(value))).collect();
            Kind::StructValue(prost_types::Struct { fields })
        }
    };
    prost_types::Value { kind: Some(kind) }
}

fn sample() -> Instance {
    Instance {
        namespace: "default".into(),
        service: "web".into(),
        id: "10.0.0.1:80".into(),
        host: "10.0.0.1".into(),
        version: "1.2.3".into(),
        status: Status::Serving.into(),
        metadata: Some(json(&serde_json::json!({
            "team": "blue", "canary": true, "shards": 3, "load": 1.5, "big": 1e21, "none": null, "empty": "", "one": "1",
            "minus": -0.0, "kubernetes": { "app": "web", "labels": { "app.io/name": "x y" } }, "list": ["a"], "a,b": "c)"
        }))),
        ..Instance::default()
    }
}

/// What matches `sample`.
const TERMS: &[(&str, bool)] = &[
    ("", true),
    (" \t", true),
    ("id=10.0.0.1:80", true),
    ("id", true),
    ("!id", false),
    ("host = 10.0.0.1", true),
    ("host in (10.0.0.2,10.0.0.1)", true),
    ("host notin(10.0.0.2, 10.0.0.1)", false),
    // The zone is missing.
    ("zone", false),
    ("!zone", true),
    ("! zone", true),
    ("zone=a", false),
    ("zone!=a", true),
    ("zone in (a,b)", false),
    ("zone notin (a,b)", true),
    ("status=serving", true),
    ("status=SERVING", true),
    ("status=STATUS_SERVING", true),
    ("status in (draining,suspect)", false),
    ("status!=draining", true),
    ("status=*", true),
    ("status", true),
    ("!status", false),
    ("version=1.2.3", true),
    ("version!=1.2.3", false),
    ("version=^1.2", true),
    ("version=1.x", true),
    ("version in (1.2,^2)", false),
    ("version=\">=1, <2\"", true),
    ("version!=~1.3", true),
    // An absent weight is 1.
    ("weight=1", true),
    ("weight", true),
    ("!weight", false),
    ("weight in (0,2)", false),
    ("metadata.team=blue", true),
    ("metadata.team=\"blue\"", true),
    ("metadata.\"team\"=\"bl\\u0075e\"", true),
    ("metadata.team!=red,metadata.team", true),
    ("metadata.team=red", false),
    ("metadata.canary=true", true),
    ("metadata.canary=false", false),
    ("metadata.shards=3", true),
    ("metadata.shards=3.0", false),
    ("metadata.load=1.5", true),
    ("metadata.big=1e+21", true),
    ("metadata.minus=0", true),
    ("metadata.one=1", true),
    ("metadata.none=null", true),
    ("metadata.none", true),
    ("metadata.empty=\"\"", true),
    ("metadata.empty", true),
    ("metadata.kubernetes.app=web", true),
    ("metadata.kubernetes", true),
    ("metadata.kubernetes=web", false),
    ("metadata.kubernetes!=web", true),
    ("metadata.kubernetes.labels.\"app.io/name\"=\"x y\"", true),
    ("metadata.kubernetes.app.deeper", false),
    ("metadata.list", true),
    ("metadata.list=a", false),
    ("metadata.list.0", false),
    ("metadata.\"a,b\"=\"c)\"", true),
    ("metadata.absent", false),
    ("!metadata.absent", true),
    ("metadata.absent!=x", true),
    ("metadata.absent notin (x)", true),
    ("metadata.team=blue , zone!=a,weight=1", true),
    ("metadata.team=blue,zone=a", false),
];

#[test]
fn terms_against_an_instance() {
    let instance = sample();
    for (text, matches) in TERMS {
        assert_eq!(parse(text).matches(&instance), *matches, "{text:?}");
    }
    let bare = Instance { weight: Some(0), ..Instance::default() };
    for (text, matches) in
        [("metadata.a", false), ("metadata.a!=1", true), ("version", false), ("version!=^1", true), ("weight=0", true)]
    {
        assert_eq!(parse(text).matches(&bare), matches, "{text:?}");
    }
}

#[test]
fn faults() {
    let long = format!("metadata.{}", "a".repeat(MAX_SELECTOR_BYTES));
    let terms = vec!["zone"; MAX_TERMS + 1].join(",");
    let values = format!("id in ({})", vec!["a"; MAX_VALUES + 1].join(","));
    for (text, position, part) in [
        (long.as_str(), 0, "at most 4096 bytes"),
        (&terms, 320, "at most 64 terms"),
        (&values, 519, "at most 256 values"),
        ("zon=a", 0, "unknown field \"zon\": there are id, host"),
        ("zone=a,Zone=b", 7, "unknown field"),
        ("zone.a=b", 4, "expected `=`, `!=`, `in`, `notin`, `,` or the end, found '.'"),
        ("metadata=b", 8, "expected `.` and a path"),
        ("metadata", 8, "expected `.` and a path"),
        ("metadata.=b", 9, "expected a part of the path"),
        ("metadata.a..b", 11, "expected a part of the path"),
        ("metadata.a[0]=b", 10, "found '['"),
        ("zone=", 5, "expected a value (in quotes, if it has special characters), found the end"),
        ("zone==a", 5, "expected a value"),
        ("zone=a b", 7, "expected `,` or the end, found 'b'"),
        ("zone=a,", 7, "expected a field"),
        (",zone=a", 0, "expected a field"),
        ("zone=a,,id", 7, "expected a field"),
        ("!zone=a", 5, "expected `,` or the end"),
        ("zone in a", 8, "expected `(`"),
        ("zone in ()", 9, "expected a value"),
        ("zone in (a", 10, "expected `,` or `)`"),
        ("zone in (a,)", 11, "expected a value"),
        ("zone within (a)", 5, "expected `=`, `!=`, `in`"),
        ("zone=\"a", 5, "a string that begins here does not end"),
        ("zone=\"a\\\"", 5, "does not end"),
        ("zone=\"\\x\"", 5, "not a JSON string"),
        ("zone=\"\"", 5, "never empty"),
        ("version=\"\"", 8, "never empty"),
        ("version=^a", 8, "in this version at its byte 1: expected a number or `x`, found 'a'"),
        ("status=up", 7, "unknown status \"up\": there are starting"),
        ("status=Serving", 7, "unknown status"),
        ("status=unspecified", 7, "unknown status"),
        ("status!=*", 8, "unknown status"),
        ("status in (*,serving)", 11, "unknown status"),
        ("weight=-1", 7, "a whole number"),
        ("weight=+1", 7, "a whole number"),
        ("weight=\"\"", 7, "a whole number"),
        ("weight=4294967296", 7, "a whole number"),
        ("é=1", 0, "expected a field, found 'é'"),
    ] {
        let error = Selector::parse(text).expect_err(text);
        assert_eq!(error.position, position, "{text:?}: {error}");
        assert!(error.to_string().contains(part), "{text:?}: {error}");
        assert!(error.to_string().ends_with(&format!(" (at byte {position})")), "{error}");
    }
}

#[test]
fn canonical_texts() {
    for (text, canonical) in [
        ("  ", ""),
        ("zone = b , id = a", "id=a,zone=b"),
        ("zone=a,zone=a", "zone=a"),
        ("zone in (b, a,b)", "zone in (a,b)"),
        ("zone in (a)", "zone=a"),
        ("zone notin (a)", "zone!=a"),
        ("status=*", "status"),
        ("status in (*)", "status"),
        ("status in (STATUS_SERVING,DRAINING)", "status in (draining,serving)"),
        ("weight=007", "weight=7"),
        ("metadata.\"a\".\"b.c\"=\"d\"", "metadata.a.\"b.c\"=d"),
        ("metadata.a=\"\"", "metadata.a=\"\""),
        ("metadata.a=\"x y\"", "metadata.a=\"x y\""),
        ("metadata.\"\"", "metadata.\"\""),
        ("version=\"<2 >=1\"", "version=\">=1 <2\""),
        ("version=1.x", "version=\"=1\""),
        ("!zone", "!zone"),
    ] {
        assert_eq!(parse(text).to_string(), canonical, "{text:?}");
    }
}

#[test]
fn speaking_of_status() {
    for (text, speaks) in [("", false), ("zone=status", false), ("status", true), ("zone=a,status!=draining", true)] {
        assert_eq!(parse(text).speaks_of_status(), speaks, "{text:?}");
    }
}

#[test]
fn numbers_have_one_text() {
    for (number, text) in [
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (-1.5, "-1.5"),
        (100.0, "100"),
        (123_456.789, "123456.789"),
        (9_007_199_254_740_993.0, "9007199254740992"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (1.25e22, "1.25e+22"),
        (0.1, "0.1"),
        (0.000_001, "0.000001"),
        (0.000_012_3, "0.0000123"),
        (1.5e-7, "1.5e-7"),
        (5e-324, "5e-324"),
        (f64::MAX, "1.7976931348623157e+308"),
    ] {
        assert_eq!(number_text(number), text);
        assert_eq!(JsonText::read(text).unwrap().number.map(f64::from_bits), Some(number + 0.0), "{text}");
    }
    for text in ["01", "1.0", "+1", "1e5", "inf", "NaN", "-0", ".5", ""] {
        assert_eq!(JsonText::read(text).unwrap().number, None, "{text}");
    }
}

/// Texts that are likely to be selectors, or nearly so.
fn texts() -> impl Strategy<Value = String> {
    let field = prop::sample::select(vec![
        "id",
        "host",
        "zone",
        "status",
        "version",
        "weight",
        "metadata.team",
        "metadata.a.\"b c\"",
        "metadata.shards",
        "x",
    ]);
    let value = || {
        let fixed =
            vec!["a", "blue", "1", "3", "serving", "DRAINING", "^1.2", "\"a b\"", "\"\"", "\"\\n\"", "é", "*", ""];
        prop_oneof![9 => prop::sample::select(fixed).prop_map(str::to_owned), 1 => "\"[a-z ,.]{0,5}\""]
    };
    let test = prop_oneof![
        3 => (prop::sample::select(vec!["=", "!=", " = ", "=="]), value()).prop_map(|(op, value)| format!("{op}{value}")),
        3 => (prop::sample::select(vec![" in ", " notin", "in"]), prop::collection::vec(value(), 0..4))
            .prop_map(|(op, values)| format!("{op}({})", values.join(", "))),
        1 => Just(String::new()),
    ];
    let term =
        (prop::sample::select(vec!["", "", "", "!"]), field, test).prop_map(|(not, f, test)| format!("{not}{f}{test}"));
    prop::collection::vec(term, 0..4).prop_map(|terms| terms.join(","))
}

fn instances() -> impl Strategy<Value = Instance> {
    let text = || prop::sample::select(vec!["", "a", "blue", "1", "é", "a b"]).prop_map(str::to_owned);
    let version = prop::sample::select(vec!["", "1.2.3", "1", "a"]);
    let metadata = prop::sample::select(vec![
        serde_json::json!({"team": "blue", "shards": 3, "a": {"b c": true}}),
        serde_json::json!({"team": 1, "shards": "3", "a": {"b c": null}}),
        serde_json::json!(null),
    ]);
    (text(), text(), version, 0..6i32, prop::option::of(0..4u32), prop::option::of(metadata)).prop_map(
        |(id, zone, version, status, weight, metadata)| Instance {
            host: id.clone(),
            id,
            zone,
            version: version.to_owned(),
            status,
            weight,
            metadata: metadata.as_ref().map(json),
            ..Instance::default()
        },
    )
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(
        text in any::<String>(), prefix in prop::sample::select(vec!["", "zone=", "metadata.", "id in (\""]),
    ) {
        let text = format!("{prefix}{text}");
        let position = Selector::parse(&text).map_or_else(|error| error.position, |_| 0);
        prop_assert!(text.is_char_boundary(position));
    }

    #[test]
    fn the_canonical_text_means_the_same(text in texts(), instance in instances()) {
        if let Ok(selector) = Selector::parse(&text) {
            let canonical = selector.to_string();
            let again = parse(&canonical);
            prop_assert_eq!(&again, &selector);
            prop_assert_eq!(again.to_string(), canonical);
            prop_assert_eq!(again.matches(&instance), selector.matches(&instance));
        }
    }

    #[test]
    fn all_terms_must_hold(a in texts(), b in texts(), instance in instances()) {
        let [left, right, both] = [&a, &b, &format!("{a},{b}")].map(|text| Selector::parse(text));
        if let (Ok(left), Ok(right), Ok(both)) = (left, right, both) {
            prop_assert_eq!(both.matches(&instance), left.matches(&instance) && right.matches(&instance));
        }
    }

    #[test]
    fn opposites(field in prop::sample::select(vec!["id", "zone", "version", "metadata.team", "metadata.a.\"b c\""]),
                 value in prop::sample::select(vec!["a", "blue", "1", "true", "1.2.3"]), instance in instances()) {
        for (is, is_not) in [
            (format!("{field}={value}"), format!("{field}!={value}")),
            (format!("{field} in ({value},x)"), format!("{field} notin ({value},x)")),
            (field.to_owned(), format!("!{field}")),
        ] {
            prop_assert_ne!(parse(&is).matches(&instance), parse(&is_not).matches(&instance), "{}", is);
        }
    }
}
