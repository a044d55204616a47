//! Where in a message something is, written only when it has to be said.

use std::fmt;

/// Most characters of a name that somebody sent, as it is told back.
const NAME_MAX: usize = 64;

/// A place in a message: a step, and the place that it is taken from.
#[derive(Clone, Copy, Debug)]
pub enum Path<'a> {
    /// The message.
    Root,
    /// A field of a message.
    Field(&'a Path<'a>, &'a str),
    /// An element of a list.
    Index(&'a Path<'a>, usize),
    /// An entry of a map.
    Key(&'a Path<'a>, &'a str),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Self::Root, name) => f.write_str(&cut(name)),
            Self::Field(up, name) => write!(f, "{up}.{}", cut(name)),
            Self::Index(up, index) => write!(f, "{up}[{index}]"),
            Self::Key(up, key) => write!(f, "{up}[{:?}]", cut(key)),
        }
    }
}

/// The beginning of a name that is too long to be repeated.
fn cut(name: &str) -> String {
    match name.char_indices().nth(NAME_MAX) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_as_the_registry_writes_them() {
        let instance = Path::Field(&Path::Root, "instance");
        let ports = Path::Field(&instance, "ports");
        assert_eq!(Path::Key(&ports, "a\"b").to_string(), r#"instance.ports["a\"b"]"#);
        let beat = Path::Field(&Path::Root, "beats");
        let beat = Path::Index(&beat, 2);
        assert_eq!(Path::Field(&beat, "status").to_string(), "beats[2].status");
        let long = "é".repeat(100_000);
        assert_eq!(Path::Field(&Path::Root, &long).to_string().chars().count(), NAME_MAX + 1);
    }
}
