//! `onair serve`: settings, then the server. `--print-config` shows the settings and who gave them.

use serde_json::{Map, json};

use super::{failure::Failure, print::Printer, text::Table};
use crate::{
    config::{Given, Output, Refused, Resolved, ServeSettings},
    server::ServeError,
};

const EXAMPLES: &str = "\
Examples:
  onair serve
  onair serve --ephemeral --listen 127.0.0.1:0
  onair serve --listen 127.0.0.1:6624,[::1]:6624 --data-dir /var/lib/onair
  onair serve --listen 0.0.0.0:6624 --tls-cert server.pem --tls-key server.key --tls-client-ca ca.pem
  onair serve --print-config

Each value is taken from its flag, else from its ONAIR_* variable, else from the [serve] table of the \
file, where its key is the flag's name with underscores, else it is the default.";

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Print each setting with its value and where it came from, and exit.
    #[arg(long)]
    print_config: bool,
    /// How --print-config prints.
    #[arg(long, env = "ONAIR_OUTPUT", hide_env_values = true, value_name = "table|json", default_value = "table",
        value_parser = output)]
    output: Output,
    #[command(flatten)]
    given: Given<ServeSettings>,
}

/// Serves until it is told to stop.
///
/// # Errors
/// Settings are wrong, or the server cannot start or go on.
pub fn run(args: &Args) -> Result<(), Failure> {
    let resolved = super::resolved(&args.given)?;
    if args.print_config {
        return print_config(&Printer::new(args.output), &resolved);
    }
    crate::server::run(resolved.settings).map_err(|error| match error {
        ServeError::Tls(wrong) => Failure::Settings(Refused(wrong.iter().map(ToString::to_string).collect())),
        error => Failure::Other(error.to_string()),
    })
}

fn print_config(print: &Printer, resolved: &Resolved<ServeSettings>) -> Result<(), Failure> {
    print.is_no_call("--print-config")?;
    if print.is_json() {
        let settings: Map<_, _> = resolved
            .rows()
            .map(|(key, value, origin)| (key.to_owned(), json!({"value": value, "origin": origin.to_string()})))
            .collect();
        return print.value(&json!(settings));
    }
    let mut table = Table::new(["SETTING", "VALUE", "FROM"]);
    for (key, value, origin) in resolved.rows() {
        table.row([key.to_owned(), value, origin.to_string()]);
    }
    print.table(&table)
}

/// A variable that is set to nothing says nothing.
fn output(text: &str) -> Result<Output, String> {
    if text.is_empty() { Ok(Output::Table) } else { text.parse() }
}
