//! What TLS and the check of rights cost: `cargo bench --bench access`. A server for each way to be asked who one is takes
//! the same load of `onair bench` in turns, on one core, with the load on another where there is one; what is told are
//! ratios to the server that speaks in the clear and asks nobody. Then handshakes, and wrong credentials by the thousand.
//! Linux only: it reads the processor time of processes.

mod credentials;
mod machine;
mod server;
mod ways;

use std::error::Error;

use clap::Parser;
use onair::tls::{ClientFiles, Pem};

use machine::{described, load_average, memory};
use server::{Cores, Figures};
use ways::{Way, Ways};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What the command is told.
#[derive(Parser)]
#[command(name = "cargo bench --bench access --", about = "What TLS and the check of rights cost")]
struct Args {
    /// Turns of each; what is told are medians.
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// Seconds of each load in each turn.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Handshakes of each kind in each turn.
    #[arg(long, default_value_t = 500)]
    handshakes: u32,
    /// Wrong credentials a second.
    #[arg(long, default_value_t = 10_000)]
    wrong: u32,
    /// What cargo itself adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What each turn does.
const LOADS: [(&str, &[&str]); 2] = [
    ("unary heartbeat", &["heartbeat", "--leases", "1000"]),
    ("lookup of 10 instances", &["lookup", "--services", "100"]),
];
/// Beats of somebody else while wrong credentials come.
const PACED: [&str; 5] = ["heartbeat", "--leases", "100", "--rate", "500"];

fn main() -> Result<()> {
    let args = Args::parse();
    // What is kept to a core sees no other.
    println!("{}", described());
    println!("load average before: {}; {} turns of {} s\n", load_average(), args.turns, args.seconds);
    let cores = Cores::here();
    let ways = Ways::start(cores)?;
    for (name, load) in LOADS {
        loads(&args, &ways, name, load)?;
    }
    handshakes(&args, &ways)?;
    for name in [ways::TOKEN, ways::HS256, ways::ES256] {
        wrong(&args, ways.of(name)?)?;
    }
    println!("load average after: {}", load_average());
    Ok(())
}

/// The same load by every way in turn, as ratios to the first.
fn loads(args: &Args, ways: &Ways, name: &str, load: &[&str]) -> Result<()> {
    let mut turns: Vec<Vec<Figures>> = Vec::new();
    for _ in 0..args.turns {
        turns.push(ways.all.iter().map(|way| way.bench(load, args.seconds)).collect::<Result<_>>()?);
    }
    println!("| {name} | server CPU each | of the clear | calls a second | of the clear | load |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for (at, way) in ways.all.iter().enumerate() {
        let of = |pick: fn(&Figures) -> f64| Spread::of(turns.iter().map(|turn| pick(&turn[at])));
        let ratio = |pick: fn(&Figures) -> f64| Spread::of(turns.iter().map(|turn| pick(&turn[at]) / pick(&turn[0])));
        println!(
            "| {} | {:.2} µs | {} | {:.0} | {} | {:.0} % |",
            way.name,
            of(|figures| figures.server_us).middle,
            ratio(|figures| figures.server_us),
            of(|figures| figures.per_second).middle,
            ratio(|figures| figures.per_second),
            of(|figures| figures.load_share).middle * 100.0
        );
    }
    println!();
    Ok(())
}

/// What a connection costs until the server has said its first word on it.
fn handshakes(args: &Args, ways: &Ways) -> Result<()> {
    let files = &ways.files;
    let one_sided = ClientFiles { ca: Some(Pem::File(files.ca.clone().into())), pair: None };
    let (certificate, key) = (Pem::File(files.client.0.clone().into()), Pem::File(files.client.1.clone().into()));
    let mutual = ClientFiles { pair: Some((certificate, key)), ..one_sided.clone() };
    println!("| a connection | server CPU | one after the other |");
    println!("| --- | --- | --- |");
    for (name, way, tls, again) in [
        ("in the clear", ways::CLEAR, None, false),
        ("TLS", ways::TLS, Some(&one_sided), false),
        ("TLS, a session gone on with", ways::TLS, Some(&one_sided), true),
        ("TLS with client certificates", ways::MUTUAL, Some(&mutual), false),
    ] {
        let way = ways.of(way)?;
        let turns = (0..args.turns).map(|_| way.server.connections(tls, again, args.handshakes));
        let turns = turns.collect::<Result<Vec<_>>>()?;
        let micros = Spread::of(turns.iter().map(|turn| turn.0));
        println!("| {name} | {:.0} µs | {:.0} a second |", micros.middle, Spread::of(turns.iter().map(|t| t.1)).middle);
    }
    println!();
    Ok(())
}

/// Wrong credentials from one address, and what the beats of somebody else notice of them.
fn wrong(args: &Args, way: &Way) -> Result<()> {
    let process = way.server.process();
    let rate = args.wrong.to_string();
    let (mut quiet, mut flooded, mut costs, mut shares) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let before = memory(process);
    for _ in 0..args.turns {
        costs.push(way.bench(&["refused"], args.seconds)?.server_us);
        quiet.push(way.bench(&PACED, args.seconds)?);
        let flood = way.begin(&["refused", "--rate", &rate], args.seconds + 3.0)?;
        flooded.push(way.bench(&PACED, args.seconds)?);
        let flood = flood.end()?;
        shares.push((flood.per_second, flood.server_share));
    }
    let p99 = |figures: &[Figures]| Spread::of(figures.iter().map(|figures| figures.p99));
    println!("{}: wrong credentials by one character, from one address", way.name);
    println!("- a refusal costs the server {} µs", Spread::of(costs.into_iter()));
    println!(
        "- {:.0} a second take {:.0} % of its core; its memory is {:.1} MiB, and was {:.1}",
        Spread::of(shares.iter().map(|share| share.0)).middle,
        Spread::of(shares.iter().map(|share| share.1)).middle * 100.0,
        memory(process),
        before
    );
    println!(
        "- p99 of another's 500 heartbeats a second: {} µs without, {} µs meanwhile\n",
        p99(&quiet),
        p99(&flooded)
    );
    Ok(())
}

/// The middle of some numbers, and how far they are apart.
struct Spread {
    middle: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(numbers: impl Iterator<Item = f64>) -> Self {
        let mut numbers: Vec<f64> = numbers.collect();
        numbers.sort_by(f64::total_cmp);
        let at = |at: usize| numbers.get(at).copied().unwrap_or(f64::NAN);
        Self { middle: at(numbers.len() / 2), least: at(0), most: at(numbers.len().saturating_sub(1)) }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ({:.2} to {:.2})", self.middle, self.least, self.most)
    }
}
