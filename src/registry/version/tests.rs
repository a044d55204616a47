//! Tables and properties of version texts. The range tables agree with npm's own implementation, read strictly.

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> VersionMatch {
    VersionMatch::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

#[test]
fn any_exact_or_range() {
    for (text, kind) in [
        ("", "any"),
        ("1.2.3", "exact"),
        ("1.2", "exact"),
        ("v1.2.3", "exact"),
        ("1.2.3-x", "exact"),
        ("1.2.3-x.7", "exact"),
        ("1.2.3+x", "exact"),
        ("x-large", "exact"),
        ("release.x", "exact"),
        ("2026.x.1.4", "exact"),
        ("main", "exact"),
        ("a|b", "exact"),
        ("é", "exact"),
        ("x", "range"),
        ("*", "range"),
        ("1.x", "range"),
        ("v1.X", "range"),
        ("1.2.*", "range"),
        ("1.2.x-beta", "range"),
        ("=1.2.3", "range"),
        ("^0.2", "range"),
        ("1 2", "range"),
        ("1,", "range"),
        (" ", "range"),
        ("1||2", "range"),
    ] {
        let found = match parse(text) {
            VersionMatch::Any => "any",
            VersionMatch::Exact(_) => "exact",
            VersionMatch::Range(_) => "range",
        };
        assert_eq!(found, kind, "{text:?}");
    }
}

#[test]
fn matching() {
    for (text, yes, no) in [
        ("", "1.2.3 main -", ""),
        ("1.2.3", "1.2.3", "v1.2.3 1.2.3+b 1.2.30"),
        ("1.2", "1.2", "1.2.0"),
        ("=1.2.3", "1.2.3 v1.2.3 1.2.3+b", "1.2.3-a 1.2.4"),
        ("=v1.2.3+build", "1.2.3 1.2.3+other", "1.2.4"),
        ("^1.2", "1.2.0 1.9.0", "1.1.9 2.0.0 2.0.0-0 1.3.0-rc.1 1.2 main 01.2.0 1.2.3.4"),
        ("^0.2", "0.2.0 0.2.9", "0.3.0 0.1.9"),
        ("^0.0.3", "0.0.3", "0.0.4 0.0.2"),
        ("^0.0", "0.0.0 0.0.9", "0.1.0"),
        ("^0", "0.0.0 0.9.9", "1.0.0"),
        ("^1.2.3-beta.2", "1.2.3-beta.2 1.2.3-beta.10 1.2.3-rc 1.2.3 1.9.0", "1.2.3-beta.1 1.2.4-beta.3"),
        ("~1", "1.0.0 1.9.9", "2.0.0 0.9.0"),
        ("~1.2", "1.2.0 1.2.9", "1.3.0"),
        ("~1.2.3", "1.2.3 1.2.9", "1.2.2 1.3.0"),
        ("~>1.2.3", "1.2.9", "1.3.0"),
        ("1.x", "1.0.0 1.9.9", "2.0.0 0.9.9 1.0.0-a 1.x"),
        ("*", "0.0.0 9.9.9", "1.0.0-a main"),
        (">=1 <2", "1.0.0 1.9.9", "2.0.0 0.9.9"),
        (">=1, <2", "1.0.0 1.9.9", "2.0.0 0.9.9"),
        (">= 1.2 , < 1.4", "1.2.0 1.3.9", "1.4.0"),
        (">1", "2.0.0", "1.9.9"),
        (">1.2", "1.3.0", "1.2.9"),
        ("<=1.2", "1.2.9 0.1.0", "1.3.0"),
        ("<2", "1.9.9", "2.0.0 2.0.0-a"),
        ("<1.2.3-b", "1.2.3-a 1.2.2", "1.2.3-b 1.2.2-a"),
        (">=1.2.3-a <1.2.4-b", "1.2.3-a 1.2.4-a 1.2.3 1.2.3-rc", "1.2.4-b"),
        ("1.2.3 - 2.3.4", "1.2.3 2.3.4", "1.2.2 2.3.5"),
        ("1.2 - 2.3", "1.2.0 2.3.9", "2.4.0"),
        ("1 - 2 || 7", "1.0.0 2.9.9 7.1.0", "3.0.0 8.0.0"),
        ("^1 || ^3", "1.5.0 3.5.0", "2.5.0"),
        ("1.2.3 || ", "1.2.3 5.0.0", "5.0.0-a"),
        // Each part of a union keeps its say on pre-releases.
        ("^1.2.3-b || *", "1.2.3-c 0.1.0", "1.2.4-c"),
        (">=0.0.0 ^0.0.0-a", "0.0.0", "0.0.0-a"),
        // What cannot hold together holds for nothing.
        (">=2 <1", "", "0.5.0 1.0.0 2.0.0 3.0.0"),
        ("^1 ^2", "", "1.0.0 2.0.0"),
        ("<*", "", "0.0.0 0.0.0-0"),
        (">=1 >=1.2.3-b", "1.2.3-b 2.0.0", "1.2.3-a 1.0.0"),
        ("=1.0.0-99999999999999999999", "1.0.0-99999999999999999999", "1.0.0-99999999999999999998"),
    ] {
        let wanted = parse(text);
        for (versions, expected) in [(yes, true), (no, false)] {
            for version in versions.split_whitespace() {
                assert_eq!(wanted.matches(version), expected, "{text:?} against {version}");
            }
        }
    }
    assert!(parse("").matches("") && !parse("*").matches("") && !parse("1").matches(""));
}

#[test]
fn pre_releases_in_order() {
    let ordered =
        ["0", "1", "2", "10", "-", "1a", "alpha", "alpha.0", "alpha.1", "alpha.1.0", "alpha.beta", "beta", "rc", ""];
    for (i, a) in ordered.iter().enumerate() {
        for (j, b) in ordered.iter().enumerate() {
            assert_eq!(compare_pre(a, b), i.cmp(&j), "{a:?} and {b:?}");
        }
    }
}

#[test]
fn faults() {
    let long = "1".repeat(MAX_VERSION_BYTES + 1);
    for (text, fault) in [
        (long.as_str(), "a version has at most 128 bytes, this has 129 (at byte 0)"),
        ("^", "expected a number or `x`, found the end (at byte 1)"),
        ("^1 garbage", "expected a number or `x`, found 'g' (at byte 3)"),
        (">=1.2.3.4", "expected a space, a comma or `||`, found '.' (at byte 7)"),
        ("^01", "a number in a version has no leading zero (at byte 1)"),
        ("^1.2.3-01", "a number in a version has no leading zero (at byte 7)"),
        ("=1.2.3-", "expected a letter, a digit or `-`, found the end (at byte 7)"),
        ("=1.2.3beta", "expected a space, a comma or `||`, found 'b' (at byte 6)"),
        (">9007199254740991", "a number in a version is at most 9007199254740991 (at byte 0)"),
        ("=9007199254740992.0.0", "a number in a version is at most 9007199254740991 (at byte 1)"),
        ("1 - 2 3", "expected `||` or nothing after a hyphen range, found '3' (at byte 6)"),
        ("^1 | ^2", "expected a number or `x`, found '|' (at byte 3)"),
        ("1.x.3", "a number in a version cannot follow a wildcard (at byte 4)"),
        ("^x.1", "a number in a version cannot follow a wildcard (at byte 3)"),
        ("1.*.foo", "expected a number or `x`, found 'f' (at byte 4)"),
        ("==1", "expected a number or `x`, found '=' (at byte 1)"),
        ("release 7", "expected a number or `x`, found 'r' (at byte 0)"),
    ] {
        assert_eq!(VersionMatch::parse(text).map_err(|error| error.to_string()), Err(fault.to_owned()), "{text:?}");
    }
}

#[test]
fn canonical_texts() {
    for (text, canonical) in [
        ("", ""),
        ("v1.2.3", "v1.2.3"),
        ("  ", "*"),
        ("x.x", "*"),
        ("||", "*"),
        ("v1.x", "=1"),
        ("1.2.3 ", "=1.2.3"),
        ("<2,>=1", ">=1 <2"),
        ("~> v1.2.x", "~1.2"),
        ("^1.2.3-b+7 || ^1.2.3-b", "^1.2.3-b"),
        ("3||1||3", "1||3"),
        ("^1 *", "^1"),
        ("1  -  2.x", "1 - 2"),
        ("* - 2", "<=2"),
        ("1 - *", ">=1"),
        (">x", "<*"),
        (">* <x", "<*"),
        ("^1||", "||^1"),
    ] {
        assert_eq!(parse(text).to_string(), canonical, "{text:?}");
    }
}

/// Texts that are likely to be ranges, or nearly so.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec!["<", ">", "<=", ">=", "=", "^", "~", "~>", "||", " ", ", ", " - ", "v", "x", "*"]),
        6 => prop::sample::select(vec!["0", "1", "2", "1.2", "1.2.3", "0.0.1", "1.2.3-b.1", "1.x", "0.*.x", "2.0.0-0+b"]),
        1 => prop::sample::select(vec!["-", ".", "+", "01", "é", "\t", "9007199254740991", "main", "\u{0}"]),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in any::<String>(), version in any::<String>()) {
        let position = match VersionMatch::parse(&text) {
            Ok(wanted) => usize::from(wanted.matches(&version)) * text.len(),
            Err(error) => error.position,
        };
        prop_assert!(text.is_char_boundary(position));
    }

    #[test]
    fn the_canonical_text_means_the_same(text in texts(), version in texts()) {
        if let Ok(wanted) = VersionMatch::parse(&text) {
            let canonical = wanted.to_string();
            prop_assert!(canonical.len() <= text.len(), "{text:?} became {canonical:?}");
            prop_assert_eq!(&parse(&canonical), &wanted);
            for version in [version.as_str(), "1.2.3", "0.0.1", "1.2.3-b.1", "2.0.0-0", "1.5.0", "2.0.0"] {
                prop_assert_eq!(parse(&canonical).matches(version), wanted.matches(version));
            }
        }
    }

    #[test]
    fn a_union_matches_what_a_part_matches(a in texts(), b in texts(), version in texts()) {
        let [or, left, right] = [format!("{a}||{b}"), format!(" {a}"), format!(" {b}")].map(|text| VersionMatch::parse(&text));
        if let (Ok(or), Ok(left), Ok(right)) = (or, left, right) {
            for version in [version.as_str(), "1.2.3", "0.0.1", "1.2.3-b.1", "2.0.0"] {
                prop_assert_eq!(or.matches(version), left.matches(version) || right.matches(version), "{}", version);
            }
        }
    }
}
