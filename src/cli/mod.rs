//! The `onair` command: what can be said on the command line, and what each command does.
//!
//! Client commands speak gRPC like any other client and know nothing of the server's inside; `serve` hands its settings
//! to `server`.

mod bench;
mod catalog;
#[cfg(unix)]
mod check;
mod curl;
mod deploy;
mod describe;
mod doctor;
mod drain;
mod failure;
#[cfg(test)]
mod fake;
mod health;
mod info;
mod join;
#[cfg(unix)]
mod keep;
#[cfg(unix)]
mod kept;
mod lease;
mod lookup;
mod namespace;
mod needs;
mod package;
mod print;
mod publish;
mod resolve;
#[cfg(unix)]
mod run;
mod serve;
mod session;
mod switch;
mod text;
mod tls;
mod token;
mod watch;

use std::{env, io, path::PathBuf, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{self, Given, Refused, Resolved, Settings};
use failure::{EXIT_CODES, Failure};

const COMPLETIONS: &str = "\
Examples, by shell:
  mkdir -p ~/.local/share/bash-completion/completions
  onair completions bash > ~/.local/share/bash-completion/completions/onair
  onair completions fish > ~/.config/fish/completions/onair.fish
  onair completions zsh > \"${fpath[1]}/_onair\"";

/// A service registry: services register and keep a lease, clients look up and watch.
#[derive(Debug, Parser)]
#[command(
    name = "onair",
    version = crate::VERSION,
    after_help = EXIT_CODES,
    max_term_width = 120
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a registry.
    Serve(serve::Args),
    /// Register an instance and keep it registered until this command is stopped.
    Join(Box<join::Args>),
    /// Run a program that is registered while it runs and works.
    #[cfg(unix)]
    Run(Box<run::Args>),
    /// Keep programs registered that know nothing of it, while they work.
    #[cfg(unix)]
    Keep(keep::Args),
    /// What `run` starts to leave nothing behind.
    #[cfg(unix)]
    #[command(name = run::INSIDE, hide = true)]
    Inside(run::InsideArgs),
    /// Take an instance out of traffic before it goes, as an operator.
    Drain(drain::Args),
    /// Take instances away, as an operator.
    Leave(lookup::LeaveArgs),
    /// Find the instances of a service.
    Lookup(lookup::LookupArgs),
    /// Find where the dependencies of a service are.
    Resolve(resolve::Args),
    /// Publish an event of an application to those who watch its service.
    Publish(publish::Args),
    /// List the known services.
    List(lookup::ListArgs),
    /// Print who is online, then every change as it happens.
    Watch(watch::Args),
    /// Make, show, list, change and delete backends: a service at one version.
    Backend(deploy::BackendArgs),
    /// Make, show, list, change and delete frontends: public names that point at backends.
    Frontend(deploy::FrontendArgs),
    /// Point a frontend at other backends, all at once.
    Switch(switch::Args),
    /// Make, show, list, change and delete applications of the catalog, and what they need.
    App(catalog::AppArgs),
    /// Make, show, list, change and delete service types: kinds of programs that applications are.
    ServiceType(catalog::ServiceTypeArgs),
    /// Print in which order to start applications.
    StartOrder(catalog::OrderArgs),
    /// Print which applications are online, which are missing, and which are on an unexpected port.
    Status(catalog::StatusArgs),
    /// Print which application has which port, and which are free beside them.
    Ports(catalog::PortsArgs),
    /// Draw the dependencies of the catalog, or report on them.
    Graph(catalog::GraphArgs),
    /// Print what an application finds in its environment: its ports, and where everything is that it needs.
    Env(catalog::EnvArgs),
    /// Write the catalog as a file of another program.
    Export(catalog::ExportArgs),
    /// Make, show, list, change, rotate and revoke tokens: who may do what.
    Token(token::Args),
    /// Show and list namespaces, and set how much they may have.
    Namespace(namespace::Args),
    /// Ask for the health of the registry, or of a service.
    Health(health::Args),
    /// Show the server's identity, limits and counts.
    Info(info::Args),
    /// Examine the registry and the way to it.
    Doctor(doctor::Args),
    /// Measure a running server under load.
    Bench(bench::Args),
    /// Make certificates for a start.
    Tls(tls::Args),
    /// Print a script that completes this command's arguments in a shell.
    #[command(after_help = COMPLETIONS)]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Does what was asked, and says on standard error why it could not be done.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(report) = failure.report() {
                use io::Write as _;
                // Without a standard error the exit code has to do.
                let _ = writeln!(io::stderr().lock(), "{report}");
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    let Some(command) = cli.command else {
        return Ok(Cli::command().print_help()?);
    };
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::Join(args) => client(join::run(*args)),
        #[cfg(unix)]
        Command::Run(args) => client(Box::pin(run::run(*args))),
        #[cfg(unix)]
        Command::Keep(args) => client(Box::pin(keep::run(args))),
        #[cfg(unix)]
        Command::Inside(args) => run::inside(args),
        Command::Drain(args) => client(drain::run(args)),
        Command::Leave(args) => client(lookup::leave(args)),
        Command::Lookup(args) => client(lookup::lookup(args)),
        Command::Resolve(args) => client(resolve::run(args)),
        Command::Publish(args) => client(publish::run(args)),
        Command::List(args) => client(lookup::list(args)),
        Command::Watch(args) => client(watch::run(args)),
        Command::Backend(args) => client(deploy::backend(args)),
        Command::Frontend(args) => client(deploy::frontend(args)),
        Command::Switch(args) => client(switch::run(args)),
        Command::App(args) => client(catalog::app(args)),
        Command::ServiceType(args) => client(catalog::service_type(args)),
        Command::StartOrder(args) => client(catalog::start_order(args)),
        Command::Status(args) => client(catalog::status(args)),
        Command::Ports(args) => client(catalog::ports(args)),
        Command::Graph(args) => client(catalog::graph(args)),
        Command::Env(args) => client(catalog::env(args)),
        Command::Export(args) => client(catalog::export_for(args)),
        Command::Token(args) => client(token::run(args)),
        Command::Namespace(args) => client(namespace::run(args)),
        Command::Health(args) => client(health::run(args)),
        Command::Info(args) => client(info::run(args)),
        Command::Doctor(args) => client(doctor::run(args)),
        Command::Bench(args) => client(bench::run(args)),
        Command::Tls(args) => tls::run(args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "onair", &mut script);
            use io::Write as _;
            Ok(io::stdout().lock().write_all(&script)?)
        }
    }
}

/// Runs a client command: one thread is plenty for one conversation.
fn client(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::Internal(format!("no runtime: {error}")))?.block_on(command)
}

/// The settings of a family from all their sources.
fn resolved<S: Settings>(given: &Given<S>) -> Result<Resolved<S>, Refused> {
    // Not refused: the environment is not ours alone.
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    config::misspelt(names).iter().for_each(|told| print::note(&text::safe(told)));
    let here = env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
    let file = config::locate::<S>(given.config.as_deref(), &here, config::platform_file().as_deref())?;
    config::resolve(given, file.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("onair {}", command.get_name())), "{} has no example", command.get_name());
        }
    }

    #[test]
    fn a_shell_is_told_the_words_of_a_choice() {
        let mut script = Vec::new();
        clap_complete::generate(clap_complete::Shell::Bash, &mut Cli::command(), "onair", &mut script);
        let script = String::from_utf8(script).unwrap();
        assert!(script.contains(r#"compgen -W "table json curl""#), "{script}");
    }

    #[test]
    fn without_a_command_there_is_help() {
        assert!(Cli::try_parse_from(["onair"]).is_ok_and(|cli| cli.command.is_none()));
    }
}
