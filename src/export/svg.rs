//! The graph of the dependencies as a picture, without a program that draws it.

use std::collections::HashMap;

use layout::{
    backends::svg::SVGWriter,
    core::{base::Orientation, geometry::Point, style::StyleAttr},
    std_shapes::shapes::{Arrow, Element, ShapeKind},
    topo::layout::VisualGraph,
};

use crate::proto::ListedApplication;

/// Most applications of a picture, and most arrows: one of more is no help to anybody, and takes long to lay out.
pub const SVG_APPLICATIONS_MAX: usize = 100;
const ARROWS_MAX: usize = 150;
/// The size of a letter, and of what is around a label.
const LETTER: (f64, f64) = (9.0, 18.0);
const MARGIN: (f64, f64) = (24.0, 16.0);

/// Text as the picture may have it: its letters are never read as its structure.
fn plain(text: &str) -> String {
    let known = |letter: char| letter.is_ascii_alphanumeric() || "-_. ".contains(letter);
    text.chars().map(|letter| if known(letter) { letter } else { '?' }).collect()
}

/// The picture: an arrow from each application to each one that it needs, from left to right.
///
/// # Errors
/// There are too many.
pub fn svg(applications: &[ListedApplication]) -> Result<String, String> {
    let count = applications.len();
    let arrows: usize = applications.iter().map(|of| of.dependencies.len()).sum();
    if count > SVG_APPLICATIONS_MAX || arrows > ARROWS_MAX {
        return Err(format!(
            "a picture has at most {SVG_APPLICATIONS_MAX} applications and {ARROWS_MAX} arrows, not {count} and {arrows}"
        ));
    }
    let mut graph = VisualGraph::new(Orientation::LeftToRight);
    let mut nodes = HashMap::new();
    for of in applications {
        let ports = of.ports.iter().map(|port| format!("{} {}", port.service, port.external.unwrap_or_default()));
        let lines: Vec<String> = std::iter::once(of.id.clone()).chain(ports).map(|line| plain(&line)).collect();
        let widest = lines.iter().map(String::len).max().unwrap_or(0);
        let size = Point::new(widest as f64 * LETTER.0 + MARGIN.0, lines.len() as f64 * LETTER.1 + MARGIN.1);
        let shape = ShapeKind::new_box(&lines.join("\n"));
        let node = graph.add_node(Element::create(shape, StyleAttr::simple(), Orientation::LeftToRight, size));
        nodes.insert(of.id.as_str(), node);
    }
    for of in applications {
        for needed in &of.dependencies {
            if let (Some(from), Some(to)) = (nodes.get(of.id.as_str()), nodes.get(needed.as_str())) {
                graph.add_edge(Arrow::simple(""), *from, *to);
            }
        }
    }
    let mut picture = SVGWriter::new();
    // The library cannot lay out nothing.
    if applications.is_empty() {
        return Ok(picture.finalize());
    }
    graph.do_it(false, false, false, &mut picture);
    Ok(picture.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_names_everyone_and_nothing_in_it_is_read_as_structure() {
        let of = |id: &str, needs: &[&str]| ListedApplication {
            id: id.into(),
            dependencies: needs.iter().map(|id| (*id).to_owned()).collect(),
            ..ListedApplication::default()
        };
        let picture = svg(&[of("api", &["db", "gone"]), of("db", &[]), of("<script>&", &["db"])]).expect("a picture");
        assert!(picture.starts_with("<?xml") && picture.trim_end().ends_with("</svg>"), "{picture}");
        assert!(picture.contains(">api<") && picture.contains(">db<") && !picture.contains("<script"), "{picture}");
        assert_eq!(picture.matches("<path ").count(), 2, "an arrow for each that is there: {picture}");
        assert!(svg(&vec![of("x", &[]); SVG_APPLICATIONS_MAX + 1]).is_err());
        assert!(svg(&[of("x", &["y"; ARROWS_MAX + 1])]).is_err());
        assert!(svg(&[]).is_ok_and(|picture| picture.trim_end().ends_with("</svg>")));
    }
}
