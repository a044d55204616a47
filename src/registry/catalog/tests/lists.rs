//! Lists against a second way to make them, page by page while the catalog changes, and what a page costs.

use std::collections::BTreeMap;

use proptest::prelude::*;
use prost_types::Timestamp;

use super::{stored::Stored as _, *};
use crate::registry::{Document, DocumentKey};

type Books = BTreeMap<SmolStr, Book>;

fn hold(books: &mut Books, namespace: &str, id: &str, ports: &[u16], times: stored::Times) {
    let port = |external: &u16| Port { service: "nodejs".into(), external: *external, internal: 1 };
    let ports = ports.iter().map(port).collect();
    let application = Application { id: id.into(), ports, dependencies: Arc::default() };
    let key = DocumentKey { kind: Application::KIND, namespace: namespace.into(), name: id.into() };
    let document = Arc::new(Document { key: key.clone(), body: application.encode(times), revision: 1 });
    books.entry(namespace.into()).or_default().hold(&key, Some(&document));
}

fn drop_of(books: &mut Books, namespace: &str, id: &str) {
    let key = DocumentKey { kind: Application::KIND, namespace: namespace.into(), name: id.into() };
    books.entry(namespace.into()).or_default().hold(&key, None);
}

/// What the page has, and the place behind which the next begins.
fn page(
    books: &Books,
    query: &ApplicationQuery,
    sort: Sort,
    page: Page,
    after: Option<&Place>,
) -> (Vec<Place>, u64, bool) {
    let found = applications(books, query, sort, page, after).whole();
    (found.found.iter().map(|shown| shown.place(sort.key)).collect(), found.total, found.more)
}

/// The places of all that match, in order.
fn naive(books: &Books, query: &ApplicationQuery, sort: Sort) -> Vec<Place> {
    let all = books.iter().flat_map(|(of, book)| book.applications().values().map(move |entry| (of, entry)));
    let matching = all.filter(|(_, entry)| query.matches(&entry.value));
    let mut places: Vec<Place> = matching.map(|(of, entry)| Shelf::place(sort.key, of, entry)).collect();
    places.sort();
    if sort.descending {
        places.reverse();
    }
    places
}

fn sorts() -> impl Strategy<Value = Sort> {
    let keys = [SortKey::Age, SortKey::Id, SortKey::Port];
    (proptest::sample::select(keys.to_vec()), any::<bool>()).prop_map(|(key, descending)| Sort { key, descending })
}

fn queries() -> impl Strategy<Value = ApplicationQuery> {
    let any = ApplicationQuery::default;
    prop_oneof![
        2 => Just(any()),
        1 => Just(ApplicationQuery { ids: ["a-1".into(), "b".into(), "x".into()].into(), ..any() }),
        1 => Just(ApplicationQuery { ports: [6_006, 6_009, 6_010, 70_000].into(), ..any() }),
        1 => Just(ApplicationQuery { prefix: "a".into(), ..any() }),
        1 => Just(ApplicationQuery { text: "1".into(), services: ["nodejs".into()].into(), ..any() }),
    ]
}

const IDS: [&str; 7] = ["a", "a-1", "a.1", "a0", "ab", "b", "b-1"];

/// Who has how many ports, and since when: on clocks that were set back.
fn entry() -> impl Strategy<Value = (&'static str, &'static str, u16, i64)> {
    let namespaces = proptest::sample::select(vec!["default", "other", "third"]);
    (namespaces, proptest::sample::select(IDS.to_vec()), 0..3u16, 0..3i64)
}

proptest! {
    /// Any page is the part of the whole that it says, and pages behind one another tell everything that is there all the
    /// while once and in order, whatever else comes and goes.
    #[test]
    fn pages_are_parts_of_one_list(
        entries in proptest::collection::vec(entry(), 0..24), others in proptest::collection::vec(entry(), 0..6),
        query in queries(), sort in sorts(), limit in 1..5usize, offset in 0..5usize,
    ) {
        let mut books = Books::new();
        let number = std::cell::Cell::new(0);
        let put = |books: &mut Books, (of, id, ports, seconds): &(&str, &str, u16, i64)| {
            number.set(number.get() + 1);
            let number = number.get();
            let ports: Vec<u16> = (0..*ports).map(|port| 6_000 + u16::try_from(number).unwrap() * 3 + port).collect();
            let created_at = Timestamp { seconds: *seconds, nanos: 0 };
            hold(books, of, id, &ports, stored::Times { number, created_at, updated_at: created_at });
        };
        entries.iter().for_each(|entry| put(&mut books, entry));
        let whole = naive(&books, &query, sort);
        let (found, total, more) = page(&books, &query, sort, Page { limit, offset }, None);
        let wanted: Vec<Place> = whole.iter().skip(offset).take(limit).cloned().collect();
        prop_assert_eq!(&found, &wanted);
        prop_assert_eq!((total as usize, more), (whole.len(), offset + wanted.len() < whole.len()));

        let mut told: Vec<Place> = Vec::new();
        let mut changes = others.iter();
        let untouched = |books: &Books| {
            let all = naive(books, &query, sort);
            whole.iter().filter(|place| all.contains(place)).cloned().collect::<Vec<_>>()
        };
        let mut lasting = whole.clone();
        loop {
            let after = told.last().map(|last| Place::of(&last.token(sort), sort).unwrap());
            let (found, _, more) = page(&books, &query, sort, Page { limit, offset: 0 }, after.as_ref());
            told.extend(found);
            if !more {
                break;
            }
            if let Some(entry) = changes.next() {
                drop_of(&mut books, entry.0, IDS[number.get() as usize % IDS.len()]);
                put(&mut books, entry);
                let there = untouched(&books);
                lasting.retain(|place| there.contains(place));
            }
        }
        let mut once = told.clone();
        once.sort();
        once.dedup();
        prop_assert_eq!(once.len(), told.len(), "each once");
        let lasting_told: Vec<Place> = told.into_iter().filter(|place| lasting.contains(place)).collect();
        prop_assert_eq!(lasting_told, lasting);
    }
}

fn many() -> Books {
    let mut books = Books::new();
    for number in 1..=10_000u64 {
        let id = format!("n{}-{number}", number % 10);
        let times = stored::Times { number, ..stored::Times::default() };
        hold(&mut books, "default", &id, &[u16::try_from(number + 20_000).unwrap()], times);
    }
    books
}

/// However many there are.
#[test]
fn a_page_looks_at_what_it_shows() {
    let books = many();
    let part = Page { limit: 25, offset: 0 };
    let any = ApplicationQuery::default;
    let of = Place::of(
        &Place::Id("n5-5005".into(), "default".into()).token(Sort::parse("id").unwrap()),
        Sort::parse("id").unwrap(),
    );
    for sort in ["", "created_at", "id", "-id", "port", "-port"] {
        let sort = Sort::parse(sort).unwrap();
        let place = of.as_ref().filter(|_| sort.key == SortKey::Id);
        for query in [
            any(),
            ApplicationQuery { ids: ["n1-1".into(), "none".into()].into(), ..any() },
            ApplicationQuery { ports: [20_001, 30_000, 99_999].into(), ..any() },
        ] {
            let mut paging = applications(&books, &query, sort, part, place);
            assert!(!paging.step(27), "{sort:?} {query:?}");
        }
        let family = ApplicationQuery { prefix: "n3".into(), ..any() };
        let mut paging = applications(&books, &family, sort, part, None);
        assert!(!paging.step(1_001) && paging.end().total == 1_000, "{sort:?}");
    }
    let query = VersionQuery { numbers: [7, 9].into(), ..VersionQuery::default() };
    assert!(!versions(&books["default"], &query, part, None).step(3));
}

/// A page ends where it would be too large, and one that is too large by itself is shown alone.
#[test]
fn a_page_is_cut_by_bytes() {
    let mut books = Books::new();
    for number in 1..=20u64 {
        let id = format!("{number:02}-{}", "x".repeat(200_000));
        hold(&mut books, "default", &id, &[], stored::Times { number, ..stored::Times::default() });
    }
    hold(&mut books, "default", &"y".repeat(2_000_000), &[], stored::Times { number: 21, ..stored::Times::default() });
    let (sort, any) = (Sort::parse("id").unwrap(), ApplicationQuery::default());
    let part = Page { limit: 100, offset: 0 };
    let (mut sizes, mut after) = (Vec::new(), None);
    loop {
        let (found, _, more) = page(&books, &any, sort, part, after.as_ref());
        sizes.push(found.len());
        after = found.last().cloned();
        if !more {
            break;
        }
    }
    assert_eq!(sizes, [5, 5, 5, 5, 1]);
}

#[test]
fn a_token_is_of_its_order_only() {
    let place = Place::Port(6_010, "a".into(), "default".into());
    let sort = |text: &str| Sort::parse(text).unwrap();
    let token = place.token(sort("port"));
    assert_eq!(Place::of(&token, sort("port")), Some(place));
    for wrong in ["-port", "id", "created_at"] {
        assert_eq!(Place::of(&token, sort(wrong)), None, "{wrong}");
    }
    for wrong in ["", "x", "!", "K2k", "w7_Dv8O_"] {
        assert_eq!(Place::of(wrong, sort("port")), None, "{wrong}");
    }
}
