//! How settings of the catalog are written: blocks and ports, joined by commas. Knows no table and no source.

use super::kind::{Kind, Shape};
use crate::registry::catalog::BlockPattern;

fn read<T>(text: &str, part: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(part).collect()
}

fn show<T: ToString>(values: &[T]) -> String {
    values.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

/// Blocks by a port in them or by their ending; none is said by nothing.
pub(super) struct Blocks;
impl Kind<Vec<BlockPattern>> for Blocks {
    const VALUE_NAME: &'static str = "BLOCK";
    const SHAPE: Shape = Shape::List;

    fn read(text: &str) -> Result<Vec<BlockPattern>, String> {
        read(text, str::parse)
    }

    fn show(value: &Vec<BlockPattern>) -> String {
        show(value)
    }
}

/// Ports; none is said by nothing.
pub(super) struct Ports;
impl Kind<Vec<u16>> for Ports {
    const VALUE_NAME: &'static str = "PORT";
    const SHAPE: Shape = Shape::List;

    fn read(text: &str) -> Result<Vec<u16>, String> {
        read(text, |part| part.parse().map_err(|_| format!("`{part}` is not a port")))
    }

    fn show(value: &Vec<u16>) -> String {
        show(value)
    }
}
