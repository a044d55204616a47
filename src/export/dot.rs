//! The graph of the dependencies in the language that Graphviz draws.

use std::fmt::Write as _;

use crate::proto::ListedApplication;

/// A text as it stands between quotes.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

/// A text between quotes.
fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

/// How a graph begins.
pub const DOT_HEAD: &str = "digraph catalog {\n  rankdir=LR;\n  node [shape=box];\n";
/// How it ends.
pub const DOT_END: &str = "}\n";

/// A part of a graph: an arrow from each application to each one that it needs.
#[must_use]
pub fn dot_part(applications: &[ListedApplication]) -> String {
    let mut text = String::new();
    for of in applications {
        let id = quoted(&of.id);
        let ports = of.ports.iter().map(|port| format!("{} {}", port.service, port.external.unwrap_or_default()));
        let lines: Vec<String> = std::iter::once(of.id.clone()).chain(ports).collect();
        // Between the lines is the language's own line break.
        let label: Vec<String> = lines.iter().map(|line| escaped(line)).collect();
        // Writing to a text never fails.
        let _ = writeln!(text, "  {id} [label=\"{}\"];", label.join("\\n"));
        for needed in &of.dependencies {
            let _ = writeln!(text, "  {id} -> {};", quoted(needed));
        }
    }
    text
}

/// A whole graph.
#[must_use]
pub fn dot(applications: &[ListedApplication]) -> String {
    format!("{DOT_HEAD}{}{DOT_END}", dot_part(applications))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ListedPort;

    #[test]
    fn arrows_lead_to_what_is_needed() {
        let port = ListedPort { service: "play".into(), external: Some(6011), internal: Some(9000) };
        let api = ListedApplication {
            id: "api".into(),
            ports: vec![port],
            dependencies: vec!["db".into()],
            ..Default::default()
        };
        let db = ListedApplication { id: "db".into(), ..ListedApplication::default() };
        let wanted = "digraph catalog {\n  rankdir=LR;\n  node [shape=box];\n  \"api\" [label=\"api\\nplay 6011\"];\n  \
                      \"api\" -> \"db\";\n  \"db\" [label=\"db\"];\n}\n";
        assert_eq!(dot(&[api, db]), wanted);
        let hostile = ListedApplication { id: "a\"] b\\ \"".into(), ..ListedApplication::default() };
        assert!(dot(&[hostile]).contains(r#"  "a\"] b\\ \"" [label="a\"] b\\ \""];"#));
    }
}
