//! The documents are true where a test can tell: links lead somewhere, the tests they name are there, settings and
//! limits are all told of, and what is shown of another file is what it says. Knows nothing of what they explain.

use std::{
    fs,
    path::{Path, PathBuf},
};

use onair::{
    config::{ClientSettings, ServeSettings, Settings},
    http::routes::Table,
    metrics::{Metrics, Row, Value},
};

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = top().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All documents, relative to the top.
fn documents() -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("README.md"), PathBuf::from("CHANGELOG.md")];
    let examples = ["", "/go", "/python", "/node", "/java", "/rust"].map(|of| format!("examples{of}"));
    for dir in ["docs", "docs/decisions"].map(str::to_owned).into_iter().chain(examples) {
        let entries = fs::read_dir(top().join(&dir)).unwrap().map(|entry| entry.unwrap().file_name());
        let markdown = entries.filter(|name| name.to_string_lossy().ends_with(".md"));
        found.extend(markdown.map(|name| Path::new(&dir).join(name)));
    }
    found
}

/// What stands between `open` and `close`, each time.
fn between<'a>(text: &'a str, open: &'a str, close: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(open).skip(1).filter_map(move |rest| rest.split_once(close)).map(|(inner, _)| inner)
}

/// The name by which a link within a page finds a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().chars();
    kept.filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn links_lead_somewhere() {
    for document in documents() {
        let text = read(&document);
        for link in between(&text, "](", ")").filter(|link| !link.starts_with("http")) {
            let (path, section) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { document.clone() } else { document.parent().unwrap().join(path) };
            assert!(top().join(&target).exists(), "{}: {link}", document.display());
            let is_there = |text: String| text.lines().any(|line| line.starts_with('#') && anchor(line) == section);
            assert!(section.is_empty() || is_there(read(&target)), "{}: {link}", document.display());
        }
    }
}

/// In tables of promises, a file is followed by the names of its tests.
#[test]
fn promises_name_tests_that_are_there() {
    let protocol = read("docs/protocol.md");
    let tests = |row: &str| row.trim_end_matches(" |").rsplit(" | ").next().unwrap().to_owned();
    let is_promise = |line: &str| line.strip_prefix("| ").is_some_and(|rest| rest.starts_with(char::is_numeric));
    let promises = protocol.lines().filter(|line| is_promise(line)).count();
    assert!(promises >= 18, "{promises} promises");
    // And wherever else a table names tests.
    for row in
        protocol.lines().filter(|line| is_promise(line) || line.starts_with("| ") && tests(line).contains(".rs`"))
    {
        let tests = tests(row);
        let (mut source, mut named) = (String::new(), 0);
        for word in tests.split('`').skip(1).step_by(2) {
            if word.ends_with(".rs") {
                source = if word.starts_with("src/") { read(word) } else { read(Path::new("tests").join(word)) };
            } else if word.contains('_') {
                assert!(source.contains(&format!("fn {word}(")), "{row}\n{word} is not there");
                named += 1;
            }
        }
        assert!(named > 0, "{row}\nnames no test");
    }
}

#[test]
fn every_setting_is_told_of() {
    fn told<S: Settings>(document: &str) {
        for row in S::table().iter().filter(|row| !row.hidden) {
            let named = document.contains(&format!("`{}`", row.key));
            assert!(named, "docs/operating.md: {} of [{}] is missing", row.key, S::SECTION);
        }
    }
    let operating = read("docs/operating.md");
    told::<ServeSettings>(&operating);
    told::<ClientSettings>(&operating);
}

#[test]
fn every_metric_is_told_of_as_it_is_shown() {
    let metrics = Metrics::default();
    let told = |(row, value): (Row, &dyn Value)| {
        let labels: Vec<_> = value.labels().iter().map(|label| format!("`{label}`")).collect();
        let kind = value.kind();
        format!("| `{}` | {} | {} | {} |", row.sample(kind), kind.as_str(), labels.join(", "), row.help)
            .replace("  ", " ")
    };
    let wanted: Vec<_> = metrics.rows().into_iter().map(told).collect();
    let operating = read("docs/operating.md");
    let is_of_one = |line: &&str| line.starts_with("| `onair_") || line.starts_with("| `process_");
    let found: Vec<_> = operating.lines().filter(is_of_one).collect();
    assert!(found == wanted, "the table of docs/operating.md should be:\n{}", wanted.join("\n"));
}

/// Every metric that the rules and queries of the documents name is there, with labels that it has.
#[test]
fn queries_name_metrics_that_are_there() {
    let metrics = Metrics::default();
    let rows = metrics.rows();
    let samples: Vec<_> = rows.iter().map(|(row, value)| row.sample(value.kind())).collect();
    let operating = read("docs/operating.md");
    let queries: String =
        between(&operating, "```yaml\n", "```").chain(between(&operating, "```promql\n", "```")).collect();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut named = 0;
    for name in queries.split(|c| !is_name(c)).filter(|word| word.starts_with("onair_") || word.starts_with("process_"))
    {
        let family = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| name.strip_suffix(suffix));
        assert!(
            samples.iter().any(|sample| sample == name || Some(sample.as_str()) == family),
            "{name} is not a metric"
        );
        named += 1;
    }
    assert!(named > 10, "{named} metrics are named");
}

#[test]
fn every_reason_and_limit_is_told_of() {
    let protocol = read("docs/protocol.md");
    let names = |file: &str, within: &str| -> Vec<String> {
        let text = read(Path::new("proto/onair/v1").join(file));
        let (_, rest) = text.split_once(within).unwrap_or_else(|| panic!("{file} has no {within}"));
        let body = rest.split_once("\n}").unwrap().0;
        let fields = body.lines().map(str::trim).filter(|line| !line.starts_with("//"));
        fields.filter_map(|line| Some(line.split_once(" = ")?.0.rsplit(' ').next()?.to_owned())).collect()
    };
    // Never sent, or not yet.
    let later = ["UNSPECIFIED", "MISSING_DEPENDENCY"];
    let reasons = names("error.proto", "enum ErrorReason {");
    let reasons: Vec<_> = reasons.iter().filter_map(|reason| reason.strip_prefix("ERROR_REASON_")).collect();
    assert!(reasons.len() > 15, "{reasons:?}");
    for reason in reasons.into_iter().filter(|reason| !later.contains(reason)) {
        assert!(protocol.contains(&format!("`{reason}` |")), "docs/protocol.md: {reason} is missing");
    }
    for limit in names("registry.proto", "message Limits {") {
        assert!(protocol.contains(&format!("`{limit}`")), "docs/protocol.md: {limit} is missing");
    }
}

#[test]
fn prometheus_is_configured_as_it_is_tested() {
    let operating = read("docs/operating.md");
    let shown: Vec<_> = between(&operating, "```yaml\n", "```").collect();
    assert_eq!(shown, [read("docs/prometheus/prometheus.yml"), read("docs/prometheus/alerts.yml")]);
}

#[test]
fn every_route_is_told_of() {
    let protocol = read("docs/protocol.md");
    let table = Table::of_api().unwrap();
    for route in table.routes() {
        let told = format!("| `{} {}` | `{}`", route.method, route.path, route.rpc.name());
        assert!(protocol.contains(&told), "docs/protocol.md: {told} is missing");
    }
    let told = protocol.lines().filter(|line| {
        ["GET", "PUT", "POST", "PATCH", "DELETE"].iter().any(|method| line.starts_with(&format!("| `{method} /v1/")))
    });
    assert_eq!(told.count(), table.routes().len(), "docs/protocol.md tells of a request that is not there");
}

#[test]
fn the_service_config_is_the_one_that_is_tested() {
    let (protocol, config) = (read("docs/protocol.md"), read("tests/clients/service_config.json"));
    let shown = between(&protocol, "```json\n", "```").next().unwrap();
    assert_eq!(shown.trim_end(), config.trim_end());
}

#[test]
fn the_client_in_a_browser_is_the_one_of_the_example() {
    let (protocol, example) = (read("docs/protocol.md"), read("examples/watch.html"));
    let shown = between(&protocol, "```js\n", "```").next().unwrap();
    assert_eq!(shown, between(&example, "<script>\n", "</script>").next().unwrap());
}
