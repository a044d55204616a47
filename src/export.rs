//! The catalog as texts that other programs read. Knows the messages of the API; asks nobody.

mod compose;
mod dot;
mod json;
mod svg;
mod variables;
mod yaml;

pub use self::{
    compose::compose,
    dot::{DOT_END, DOT_HEAD, dot, dot_part},
    json::json,
    svg::{SVG_APPLICATIONS_MAX, svg},
    variables::{Variable, distinct, dotenv, shell, variable, variables_json},
    yaml::yaml,
};
