//! `onair tls`: certificates for a start, in files, and the lines to use them with. Calls no registry.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use clap::{Subcommand, builder::RangedU64ValueParser};

use super::{failure::Failure, print::Printer};
use crate::{
    config::Output,
    http::curl::quoted,
    private::Private,
    tls::mint::{Mint, MintError, Minted, ends},
};

/// Every server is called so by its own machine.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// The lines to use the files with.
const USES: &str = include_str!("tls/uses.txt");
const EXAMPLES: &str = "\
Examples:
  onair tls init
  onair tls init --dir certs --host registry.example --client shop --client billing
  onair tls init --dir certs --keep-ca --client stock
  onair tls init --dir certs --keep-ca --force --host registry.example";

/// What `onair tls` is told.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a small authority, a certificate for the server and one for each client.
    #[command(after_help = EXAMPLES)]
    Init(InitArgs),
}

/// Arguments of `init`.
#[derive(Debug, clap::Args)]
struct InitArgs {
    /// Directory for the files, made if it is not there: ca, server and each client, with .pem for the certificate and .key
    /// for its private key, which nobody else may read.
    #[arg(long, value_name = "DIRECTORY", default_value = "tls")]
    dir: PathBuf,
    /// Names and addresses by which the server is called, besides localhost, 127.0.0.1 and ::1; the first is in the lines
    /// that are printed.
    #[arg(long = "host", value_name = "HOST", value_delimiter = ',')]
    hosts: Vec<String>,
    /// Names of the clients, a certificate each.
    #[arg(long = "client", value_name = "NAME", value_delimiter = ',', default_value = "client")]
    clients: Vec<String>,
    /// How many days the certificates of server and clients are valid; the authority's is for ten years at least.
    #[arg(long, default_value_t = 365, value_parser = RangedU64ValueParser::<u32>::new().range(1..=36_500))]
    days: u32,
    /// Sign with the authority that is there; pairs that are there stay as they are.
    #[arg(long)]
    keep_ca: bool,
    /// Replace pairs that are there; without --keep-ca also the authority.
    #[arg(long)]
    force: bool,
}

/// Makes them.
///
/// # Errors
/// Something is there already, is no name, or cannot be written.
pub fn run(args: Args) -> Result<(), Failure> {
    let Command::Init(args) = args.command;
    // There are file systems to which two cases of a name are one.
    let is_taken = |name: &str| ["ca", "server"].iter().any(|taken| taken.eq_ignore_ascii_case(name));
    let clashing = args.clients.iter().find(|name| is_taken(name) || name.contains('*'));
    if let Some(name) = clashing {
        return Err(Failure::Usage(format!("--client {name}: that name is taken by other files")));
    }
    let mint = if args.keep_ca {
        Mint::again(read(&args.dir, "ca")?).map_err(|why| Failure::Other(format!("{}: {why}", args.dir.display())))?
    } else {
        Mint::new(args.days).map_err(failed)?
    };
    let hosts: Vec<String> = args.hosts.iter().cloned().chain(LOCAL.map(str::to_owned)).collect();
    let mut pairs = vec![("server", mint.server(&hosts, args.days).map_err(failed)?)];
    for name in &args.clients {
        pairs.push((name, mint.client(name, args.days).map_err(failed)?));
    }
    if !args.keep_ca {
        pairs.insert(0, ("ca", mint.itself.clone()));
    }
    let there = |name: &str| [".pem", ".key"].iter().any(|end| args.dir.join(format!("{name}{end}")).exists());
    if args.keep_ca && !args.force {
        pairs.retain(|(name, _)| !there(name));
    }
    // All are looked for before one is written.
    if let Some((name, _)) = pairs.iter().find(|(name, _)| !args.force && there(name)) {
        let pem = args.dir.join(format!("{name}.pem"));
        return Err(Failure::Other(format!(
            "{} is there already: choose another --dir, sign with the authority that is there by --keep-ca, or replace \
             all of it by --force",
            pem.display()
        )));
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&args.dir).map_err(cannot(&args.dir))?;
    for (name, pair) in &pairs {
        write(&args.dir, name, pair)?;
    }
    show(&args, &pairs)
}

fn failed(error: MintError) -> Failure {
    Failure::Usage(error.to_string())
}

fn cannot(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::Other(format!("{}: {error}", path.display()))
}

fn read(dir: &Path, name: &str) -> Result<Minted, Failure> {
    let text = |end| {
        let path = dir.join(format!("{name}.{end}"));
        fs::read_to_string(&path).map_err(cannot(&path))
    };
    Ok(Minted { certificate: text("pem")?, key: text("key")? })
}

/// Each file is whole or not there, and the key is nobody else's from its first byte. Whoever reads both while they are
/// replaced may find one of each: a server keeps what it has until they fit.
fn write(dir: &Path, name: &str, pair: &Minted) -> Result<(), Failure> {
    for (end, mode, text) in [("key", 0o600, &pair.key), ("pem", 0o644, &pair.certificate)] {
        let path = dir.join(format!("{name}.{end}"));
        Private::create(&path, mode).and_then(|file| file.fill(text)).map_err(cannot(&path))?;
    }
    Ok(())
}

fn show(args: &InitArgs, pairs: &[(&str, Minted)]) -> Result<(), Failure> {
    let print = Printer::new(Output::Table);
    let dir = args.dir.display().to_string();
    if pairs.is_empty() {
        return print.line(&format!("Nothing is missing in {dir}: --force replaces what is there."));
    }
    let names: Vec<_> = pairs.iter().map(|(name, _)| format!("{name}.pem, {name}.key")).collect();
    print.line(&format!("Made in {dir}: {}; good until {}.", names.join(", "), ends(args.days)))?;
    print.line("Whoever has ca.key can make certificates that all of these believe: keep it away from servers.")?;
    // A pattern is for many hosts, of which none is known.
    let host = args.hosts.iter().find(|host| !host.contains('*')).map_or("localhost", String::as_str);
    let host = if host.parse::<std::net::Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() };
    let client = args.clients.first().map_or("client", String::as_str);
    // In a line for a shell it is a word, elsewhere a text.
    let lines = USES.trim_end().lines().map(|line| {
        let of_shell = ["onair ", "export ", "grpcurl ", "curl "].iter().any(|start| line.starts_with(start));
        let dir = if of_shell { quoted(&dir) } else { dir.clone() };
        line.replace("{dir}", &dir).replace("{host}", &host).replace("{client}", client)
    });
    print.line(&lines.collect::<Vec<_>>().join("\n"))
}
