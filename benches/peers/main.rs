//! onair beside its peers, in one run on one machine: `cargo bench --bench peers -- run`.
//!
//! Each server has one core to itself and the load another; peers take turns, so that all see the same machine. What is
//! found goes to JSON, and tables and pictures are made of that. See docs/benchmarks/ for what it showed.

mod bars;
mod bursts;
mod consul;
mod etcd;
mod events;
mod footprint;
mod http;
mod load;
mod machine;
mod model;
mod onair;
mod output;
mod picture;
mod redis;
mod rounds;
mod scale;
mod server;
mod table;
mod taken;
mod zookeeper;

use std::{error::Error, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// As the server has it: the load is not to be what is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What the command is told.
#[derive(Parser)]
#[command(name = "cargo bench --bench peers --", about = "onair beside its peers, in one run on one machine")]
struct Args {
    #[command(subcommand)]
    command: Option<What>,
    /// What cargo itself adds.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum What {
    /// Fetch the peers, run them and onair in turn, and keep what is found.
    Run(rounds::Args),
    /// What things cost onair as there are more of them.
    Scale(scale::Args),
    /// What onair does when very much comes at once, and whether those who only beat notice.
    Bursts(bursts::Args),
    /// What onair takes when nothing happens: memory, CPU, size, time to start.
    Footprint(footprint::Args),
    /// Make tables and pictures of what a run kept.
    Render {
        /// The JSON that it kept.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Some(What::Run(args)) => rounds::run(&args),
        Some(What::Scale(args)) => scale::run(&args),
        Some(What::Bursts(args)) => bursts::run(&args),
        Some(What::Footprint(args)) => footprint::run(&args),
        Some(What::Render { file }) => rounds::render(&file),
        // As one of all benches: peers are fetched and machines are filled on demand only.
        None => {
            println!("peers: on demand only, as `cargo bench --bench peers -- run`");
            Ok(true)
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What an instance says of itself, in about as many bytes as its record at onair.
fn record(instance: usize) -> Vec<u8> {
    let filler = "x".repeat(116);
    format!(
        r#"{{"id":"i-{instance:07}","host":"10.0.0.1","port":8080,"version":"1.4.2","zone":"z1","metadata":{{"team":"platform","note":"{filler}"}}}}"#
    )
    .into_bytes()
}
