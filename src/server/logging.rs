//! Logs on standard error: for people on a terminal, as JSON otherwise.

use std::io::{IsTerminal as _, stderr};

use tracing_subscriber::{EnvFilter, fmt, util::SubscriberInitExt as _};

use crate::config::{LogFormat, ServeSettings};

/// The storage library tells its own story at `info`; whoever asks for it by name still gets it.
const QUIET: &str = "fjall=warn,lsm_tree=warn";

/// Sets the log up as asked for. A second call in one process changes nothing.
pub(super) fn init(settings: &ServeSettings) {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", settings.log)).unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = stderr().is_terminal();
    let json = match settings.log_format {
        LogFormat::Human => false,
        LogFormat::Json => true,
        LogFormat::Auto => !terminal,
    };
    let builder = fmt().with_env_filter(filter).with_writer(stderr).with_ansi(terminal);
    let set = if json { builder.json().finish().try_init() } else { builder.finish().try_init() };
    if set.is_err() {
        tracing::debug!("logging was set up before");
    }
}
