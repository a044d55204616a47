//! What becomes of what is found: printed, and kept with what people look at beside it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::Result;

/// Where it goes.
#[derive(clap::Args)]
pub struct Output {
    /// Print JSON instead of the table.
    #[arg(long, value_name = "FORMAT", default_value = "table", value_parser = ["table", "json"])]
    output: String,
    /// Where to keep the JSON, and tables and pictures beside it; without it nothing is kept.
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
}

impl Output {
    /// Prints what was found, as `told` where it is for people, and keeps it; `render` puts tables and pictures beside it.
    pub fn take<T: Serialize>(
        &self,
        found: &T,
        told: fn(&T) -> String,
        render: fn(&T, &Path) -> Result<()>,
    ) -> Result<()> {
        match self.output.as_str() {
            "json" => println!("{}", serde_json::to_string_pretty(found)?),
            _ => println!("{}", told(found)),
        }
        if let Some(file) = &self.keep {
            fs::write(file, serde_json::to_string(found)? + "\n")?;
            render(found, file)?;
        }
        Ok(())
    }
}
