//! What a service needs of others: names with a version or range each, stand-ins, and what becomes of it when one is
//! missing. Reads requests, says which instances answer for a need, and chooses one. Knows neither state nor waiting.

use std::{collections::BTreeMap, fmt, time::Duration};

use smol_str::SmolStr;

use super::{
    Status, Violation,
    name::{DEFAULT_NAMESPACE, check_name},
    outline::Outline,
    pick::{Candidate, Choice, pick},
    record::Record,
    service::ServiceSet,
    version::VersionMatch,
};

/// Most dependencies of one request, and most mocks.
pub const MAX_DEPENDENCIES: usize = 1_000;
/// Longest url of a mock, in bytes.
const MOCK_BYTES_MAX: usize = 2_048;

/// What to do when a dependency is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IfMissing {
    /// Refuse.
    #[default]
    Fail,
    /// Wait for it.
    Wait,
    /// Go ahead without it.
    Ignore,
}

/// One dependency that is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// The service's name.
    pub service: SmolStr,
    /// Which versions do.
    pub version: VersionMatch,
    /// The version as it was asked for.
    text: SmolStr,
}

impl Need {
    /// Whether this instance answers for it: routable, with a weight above 0, of a version that does.
    #[must_use]
    pub fn accepts(&self, record: &Record) -> bool {
        record.is_routable() && self.fits(Outline::of(record.bytes()))
    }

    /// The same of one that is routable.
    pub(super) fn fits(&self, outline: Outline<'_>) -> bool {
        outline.weight > 0 && self.version.matches(outline.version)
    }
}

/// `api@^2.0`, or the name alone where any version does.
impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.service)?;
        if self.text.is_empty() { Ok(()) } else { write!(f, "@{}", self.text) }
    }
}

/// The dependencies of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Where they are looked for.
    pub namespace: SmolStr,
    /// Those that are looked for, in order of name.
    pub wanted: Vec<Need>,
    /// Those that a stand-in answers for, with its url.
    pub mocked: Vec<(SmolStr, SmolStr)>,
    /// What to do when one is missing.
    pub if_missing: IfMissing,
    /// How long to wait for what is missing, if that is what to do.
    pub wait: Duration,
    /// Random bits, by which one of several instances is chosen.
    pub seed: u64,
}

/// What answers for a dependency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Its name.
    pub service: SmolStr,
    /// Where it is.
    pub url: SmolStr,
    /// The instance; none: a mock, or one that comes online in the same revision.
    pub record: Option<Record>,
}

impl Needs {
    /// Reads the maps of a request. A mock of what is no dependency is passed over.
    ///
    /// # Errors
    /// All violations; of a map that is too large, those of as many entries as it may have.
    pub fn parse(
        namespace: &str,
        dependencies: &BTreeMap<String, String>,
        mocks: &BTreeMap<String, String>,
        if_missing: IfMissing,
    ) -> Result<Self, Vec<Violation>> {
        let mut violations = Vec::new();
        let namespace = if namespace.is_empty() { DEFAULT_NAMESPACE } else { namespace };
        for (map, count) in [("dependencies", dependencies.len()), ("mocks", mocks.len())] {
            if count > MAX_DEPENDENCIES {
                let description = format!("must be at most {MAX_DEPENDENCIES} (max_dependencies), not {count}");
                violations.push(Violation { field: map.to_owned(), description });
            }
        }
        let mut needs = Self { namespace: namespace.into(), if_missing, ..Self::default() };
        for (name, url) in mocks.iter().take(MAX_DEPENDENCIES) {
            let field = field("mocks", name);
            check_name(&field, name, &mut violations);
            if let Some(description) = fault_of_mock(url) {
                violations.push(Violation { field, description });
            }
        }
        for (name, version) in dependencies.iter().take(MAX_DEPENDENCIES) {
            let field = field("dependencies", name);
            check_name(&field, name, &mut violations);
            match (VersionMatch::parse(version), mocks.get(name)) {
                (Err(error), _) => violations.push(Violation { field, description: error.to_string() }),
                (Ok(_), Some(url)) => needs.mocked.push((name.into(), url.into())),
                (Ok(found), None) => {
                    needs.wanted.push(Need { service: name.into(), version: found, text: version.into() });
                }
            }
        }
        if violations.is_empty() { Ok(needs) } else { Err(violations) }
    }

    /// Whether nothing is needed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty() && self.mocked.is_empty()
    }

    /// The stand-ins, as answers.
    pub(super) fn mocks(&self) -> impl Iterator<Item = Resolved> {
        let answer =
            |(service, url): &(SmolStr, SmolStr)| Resolved { service: service.clone(), url: url.clone(), record: None };
        self.mocked.iter().map(answer)
    }

    /// The random bits for the need at `place`.
    pub(super) fn draw(&self, place: usize) -> Draw {
        Draw(self.seed ^ (place as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Finds an instance for each need, and the places of what is missing. `service` gives the instances of the service
    /// of the need at a place; one that `except` names answers for nothing.
    pub fn resolve<'a>(
        &self,
        zone: &str,
        service: impl Fn(usize) -> Option<&'a ServiceSet>,
        except: impl Fn(&Record) -> bool,
    ) -> (Vec<Resolved>, Vec<usize>) {
        let (mut resolved, mut missing): (Vec<_>, _) = (self.mocks().collect(), Vec::new());
        for (place, need) in self.wanted.iter().enumerate() {
            let found = service(place).and_then(|set| choose(need, set, zone, self.draw(place), &except));
            match found {
                Some(record) => {
                    let url = Outline::of(record.bytes()).url.into();
                    resolved.push(Resolved { service: need.service.clone(), url, record: Some(record) });
                }
                None => missing.push(place),
            }
        }
        (resolved, missing)
    }

    /// The needs at these places, as they are named to people.
    #[must_use]
    pub fn names(&self, places: &[usize]) -> Vec<String> {
        places.iter().filter_map(|place| self.wanted.get(*place)).map(Need::to_string).collect()
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014) from given bits.
pub(super) struct Draw(u64);

impl Draw {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// One of the instances that answer, as the pick WEIGHTED of a lookup gives it: at random by weight, those of `zone`
/// first, SUSPECT ones last.
fn choose(
    need: &Need,
    set: &ServiceSet,
    zone: &str,
    mut draw: Draw,
    except: &impl Fn(&Record) -> bool,
) -> Option<Record> {
    let answers: Vec<_> = set
        .iter()
        .filter(|record| record.is_routable())
        .map(|record| (record, Outline::of(record.bytes())))
        .filter(|(record, outline)| need.fits(*outline) && !except(record))
        .collect();
    if let [(only, _)] = answers[..] {
        return Some(only.clone());
    }
    let candidates: Vec<Candidate<'_>> = answers
        .iter()
        .map(|(record, outline)| {
            let suspect = record.status == Status::Suspect;
            Candidate { id: record.names().2, zone: outline.zone, weight: outline.weight, suspect }
        })
        .collect();
    let picked = pick(Choice::Weighted, &candidates, 1, zone, &mut || draw.next());
    picked.first().and_then(|place| answers.get(*place)).map(|(record, _)| (*record).clone())
}

/// A mock is handed out as it is given: a url, or host and port, is its writer's choice.
fn fault_of_mock(url: &str) -> Option<String> {
    if url.is_empty() {
        return Some("must not be empty".to_owned());
    }
    if url.len() > MOCK_BYTES_MAX {
        return Some(format!("must be at most {MOCK_BYTES_MAX} bytes, not {}", url.len()));
    }
    let blank = url.chars().any(|c| c.is_control() || c.is_whitespace());
    blank.then(|| "must not contain control characters or white space".to_owned())
}

/// `map["name"]`, with what cannot be shown escaped and a long name cut.
fn field(map: &str, name: &str) -> String {
    match name.char_indices().nth(64) {
        Some((end, _)) => format!("{map}[\"{}…\"]", name[..end].escape_debug()),
        None => format!("{map}[\"{}\"]", name.escape_debug()),
    }
}
