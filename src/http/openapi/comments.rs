//! The comments of the protos as text: what a description says, and what an RPC's comment says of its errors.

use std::collections::BTreeMap;

use prost_types::FileDescriptorProto;

use tonic::Code;

use crate::grpc::status::{Reason, code_name, code_of, reason_name};

/// The text before what `path` leads to, without what makes it a comment; empty if there is none.
#[must_use]
pub fn comment(file: &FileDescriptorProto, path: &[i32]) -> String {
    let locations = file.source_code_info.as_ref().map_or(&[][..], |info| &info.location);
    let found = locations.iter().find(|location| location.path == path);
    let lines = found.map_or("", |location| location.leading_comments()).lines();
    let lines: Vec<_> = lines.map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end()).collect();
    lines.join("\n").trim().to_owned()
}

/// What an RPC's comment names after `Errors`: the codes, each with the reasons that go with it, as in ``INVALID_ARGUMENT
/// (…), ABORTED `SUPERSEDED` ``.
#[must_use]
pub fn errors(comment: &str) -> BTreeMap<i32, Vec<Reason>> {
    let mut errors = BTreeMap::<i32, Vec<Reason>>::new();
    let mut current = None;
    let told = comment.find("\nErrors").map_or("", |at| &comment[at..]);
    for word in told.split(|c: char| !(c.is_ascii_uppercase() || c == '_')) {
        let code = (1..=16).map(Code::from_i32).find(|code| code_name(*code) == word);
        let reason = reasons().find(|reason| reason_name(*reason) == word);
        match (reason, code) {
            // NOT_FOUND is both: a code at first, then its reason.
            (Some(reason), _) if current == Some(code_of(reason)) => {
                errors.entry(code_of(reason) as i32).or_default().push(reason);
            }
            (_, Some(code)) => {
                errors.entry(code as i32).or_default();
                current = Some(code);
            }
            _ => {}
        }
    }
    errors
}

/// Every reason that there is.
pub fn reasons() -> impl Iterator<Item = Reason> {
    (1..).map_while(|number| Reason::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_rpc_tells_its_errors() {
        let told = errors(
            "Finds a thing, `a.b`, or\nnot. More of it.\n\nErrors: INVALID_ARGUMENT (X_Y), ABORTED `SUPERSEDED` (of \
             `lease_token`),\nNOT_FOUND `NOT_FOUND`, RESOURCE_EXHAUSTED `LIMIT` or `OVERLOADED`.",
        );
        let expected = [
            (Code::InvalidArgument as i32, vec![]),
            (Code::NotFound as i32, vec![Reason::NotFound]),
            (Code::ResourceExhausted as i32, vec![Reason::Limit, Reason::Overloaded]),
            (Code::Aborted as i32, vec![Reason::Superseded]),
        ];
        assert_eq!(told, expected.into());
        assert!(errors("Speaks of INVALID_ARGUMENT.").is_empty());
    }

    #[test]
    fn there_are_all_reasons() {
        let names: Vec<_> = reasons().map(reason_name).collect();
        assert!(names.contains(&"INVALID") && names.contains(&"SLOW_BODY"), "{names:?}");
    }
}
