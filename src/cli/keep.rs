//! `onair keep`: keeps programs registered that know nothing of it, each while its check passes. The keeping of one is in
//! `kept`.

use std::{collections::BTreeSet, fmt, net::Ipv6Addr, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{sync::watch, time::sleep};

use super::{
    check::{Check, Looks, Place},
    failure::Failure,
    kept::{Kept, Stands},
    lease::{self, Teller},
    print::note,
    run::{SHORTEST_INTERVAL, Signals},
    session::{Session, duration_argument, to_wire},
};
use crate::{
    config::{ClientSettings, Given, Refused},
    proto::{Instance, RegisterRequest},
};

/// What does not work at first is told after this time.
const PATIENCE: Duration = Duration::from_secs(2);

const EXAMPLES: &str = "\
Examples:
  onair keep db@16.4:5432 cache:6379
  onair keep web@2.1.0:10.0.0.7:8000 api:8001 --check http:/healthz
  onair keep db:5432 web:8000 --check tcp --check web=http:/healthz
  onair keep db:5432 --check 'cmd:pg_isready -q -p $PORT' --output json

Without a host they are on this machine. Each is registered when its check passes first, taken out of traffic when it \
fails, and gone when it has failed for a TTL; when it passes again, it is back. They go on without this command: SIGTERM, \
SIGINT and a closed terminal take all of them away, and nothing else. What another process has registered is told and left alone. Exit \
code 4: that was so.";

/// Arguments of `keep`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The programs: NAME@VERSION:PORT each, or NAME@VERSION:HOST:PORT; without @VERSION if there is none to tell.
    #[arg(required = true, value_name = "PROGRAM")]
    programs: Vec<String>,
    /// When one works, as for `onair run`: tcp, http:/PATH, grpc[:SERVICE] or cmd:COMMAND, which finds PORT and HOST in its
    /// environment; with NAME= before it for one of them. May be repeated. Default: tcp.
    #[arg(long, value_name = "[NAME=]CHECK")]
    check: Vec<String>,
    /// How often each is checked.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration_argument)]
    check_interval: Duration,
    /// How long each stays registered after its last heartbeat, 1s to 1h. Default: the url's `ttl`, else 10s.
    #[arg(long, value_name = "DURATION", value_parser = duration_argument, allow_hyphen_values = true)]
    ttl: Option<Duration>,
    /// Where they run.
    #[arg(long, default_value = "", hide_default_value = true)]
    zone: String,
    /// Scheme of their urls. Default: http.
    #[arg(long, default_value = "", hide_default_value = true)]
    protocol: String,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Foreign {
    name: String,
    version: String,
    place: Place,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.name, self.place)
    }
}

/// Keeps them until a signal comes, or none is left to be kept.
///
/// # Errors
/// Everything that is wrong with the arguments; or what became of a registration.
pub async fn run(args: Args) -> Result<(), Failure> {
    let session = Session::open(&args.given)?;
    session.print.is_no_call("keeping programs registered")?;
    let programs = understood(&args.programs, &args.check).map_err(|wrong| Failure::Settings(Refused(wrong)))?;
    let requests: Vec<_> = programs.iter().map(|(program, _)| request(program, &args, &session)).collect();
    let wrong: Vec<_> = requests.iter().flat_map(lease::refused).collect();
    if !wrong.is_empty() {
        return Err(Failure::Settings(Refused(wrong)));
    }
    let mut signals = Signals::listen()?;
    let (stop, stopped) = watch::channel(false);
    let (client, teller) = (session.client(), Teller::new(Some(session.print.clone()), ""));
    let interval = args.check_interval.max(SHORTEST_INTERVAL);
    let mut lives = FuturesUnordered::new();
    for ((program, check), request) in programs.into_iter().zip(requests) {
        let looks = Looks::start(check, program.place, interval, interval);
        let teller = teller.beside(&program.name);
        let kept = Kept::new(client.clone(), request, teller, looks, watch::Sender::new(Stands::default()));
        lives.push(keep(kept, stopped.clone()));
    }
    let mut first = Ok(());
    loop {
        tokio::select! {
            ended = lives.next() => match ended {
                None => return first,
                Some(Ok(())) => {}
                // What is told at the end is not told twice.
                Some(Err(failure)) if first.is_ok() && lives.is_empty() => return Err(failure),
                Some(Err(failure)) => {
                    note(failure.report().unwrap_or_default().trim_start_matches("onair: "));
                    first = first.and(Err(failure.told()));
                }
            },
            told = signals.next() => match told {
                told if !told.is_end() => {}
                told if *stop.borrow() => return Err(Failure::Program { what: None, code: told.code() }),
                _ => _ = stop.send_replace(true),
            },
        }
    }
}

/// Keeps one.
async fn keep(mut kept: Kept, mut stopped: watch::Receiver<bool>) -> Result<(), Failure> {
    let mut is_news = true;
    loop {
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => return kept.leave().await,
            failure = kept.keep() => return Err(failure),
            () = sleep(PATIENCE), if is_news => {
                is_news = false;
                kept.tell_waiting()?;
            }
        }
    }
}

fn request(program: &Foreign, args: &Args, session: &Session) -> RegisterRequest {
    let Foreign { name, version, place } = program.clone();
    let instance = Instance {
        namespace: session.namespace.clone(),
        service: name,
        version,
        host: place.host,
        port: place.port.into(),
        zone: args.zone.clone(),
        protocol: args.protocol.clone(),
        ..Instance::default()
    };
    let ttl = args.ttl.or(session.ttl).and_then(to_wire);
    RegisterRequest { instance: Some(instance), ttl, ..RegisterRequest::default() }
}

/// The programs and how each is looked at.
fn understood(words: &[String], checks: &[String]) -> Result<Vec<(Foreign, Check)>, Vec<String>> {
    let (mut wrong, mut programs, mut places) = (Vec::new(), Vec::new(), BTreeSet::new());
    for word in words {
        match foreign(word) {
            Ok(program) => {
                if places.insert(program.to_string()) {
                    programs.push((program, None));
                } else {
                    wrong.push(format!("{program} is given twice"));
                }
            }
            Err(why) => wrong.push(format!("`{}`: {why}", word.escape_debug())),
        }
    }
    let mut of_all = None;
    for text in checks {
        let unreadable = match (text.parse::<Check>(), text.split_once('=')) {
            (Ok(check), _) => of_all.replace(check).map(|_| "a check for all is given twice".to_owned()),
            (Err(_), Some((name, check))) => match check.parse::<Check>() {
                Ok(check) => {
                    let mut named = programs.iter_mut().filter(|(program, _)| program.name == name).peekable();
                    let is_nobody = named.peek().is_none();
                    let is_twice = named.fold(false, |twice, (_, of)| of.replace(check.clone()).is_some() || twice);
                    match (is_nobody, is_twice) {
                        (true, _) => Some("none of the programs is called so".to_owned()),
                        (_, true) => Some("a check for it is given twice".to_owned()),
                        _ => None,
                    }
                }
                Err(why) => Some(why),
            },
            (Err(why), None) => Some(why),
        };
        wrong.extend(unreadable.map(|why| format!("--check `{}`: {why}", text.escape_debug())));
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let of_all = of_all.unwrap_or(Check::Tcp);
    Ok(programs.into_iter().map(|(program, check)| (program, check.unwrap_or_else(|| of_all.clone()))).collect())
}

/// Reads `name@version:host:port`, of which version and host may be left out.
fn foreign(word: &str) -> Result<Foreign, String> {
    let form = || "it is not NAME@VERSION:PORT, like web@2.1.0:8000".to_owned();
    let (named, place) = word.split_once(':').ok_or_else(form)?;
    let (name, version) = named.rsplit_once('@').unwrap_or((named, ""));
    let (host, port) = place.rsplit_once(':').unwrap_or(("", place));
    if name.is_empty() || (named.contains('@') && version.is_empty()) || (place.contains(':') && host.is_empty()) {
        return Err(form());
    }
    let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if in_brackets.map_or(host.contains(':'), |host| host.parse::<Ipv6Addr>().is_err()) {
        return Err("its host is neither a name nor an address: one of IPv6 stands in brackets".to_owned());
    }
    let port = port.parse().ok().filter(|port| *port != 0);
    let port = port.ok_or_else(|| "its port is not a number from 1 to 65535".to_owned())?;
    let place = Place { host: host.to_owned(), ..Place::here(port) };
    Ok(Foreign { name: name.to_owned(), version: version.to_owned(), place })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_read() {
        for (word, name, version, host, port) in [
            ("web@2.1.0:8000", "web", "2.1.0", "", 8_000),
            ("web:8000", "web", "", "", 8_000),
            ("@shop/web@1:80".trim_start_matches("@shop/"), "web", "1", "", 80),
            ("web@1:db.example:80", "web", "1", "db.example", 80),
            ("web:[::1]:80", "web", "", "[::1]", 80),
        ] {
            let expected = Foreign {
                name: name.to_owned(),
                version: version.to_owned(),
                place: Place { host: host.to_owned(), ..Place::here(port) },
            };
            assert_eq!(foreign(word), Ok(expected), "{word}");
        }
        let wrong = "  web web@1 :80 web@:80 web: web:0 web:70000 web:http web::80 web:1:2:3:4 web:::1:80 web:[::g]:80";
        for word in wrong.split(' ') {
            assert!(foreign(word).is_err(), "{word}");
        }
    }

    #[test]
    fn each_has_its_check_and_all_that_is_wrong_is_told() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let read = understood(&texts(&["a:1", "b:2"]), &texts(&["http:/x?y=z", "b=cmd:test 1 = 1"])).unwrap();
        let checks: Vec<_> = read.into_iter().map(|(_, check)| check).collect();
        assert_eq!(checks, [Check::Http("/x?y=z".into()), Check::Command("test 1 = 1".into())]);
        let wrong = understood(&texts(&["a", "b:2", "b:2"]), &texts(&["udp", "c=tcp", "b=udp", "tcp", "tcp"]));
        let wrong = wrong.unwrap_err();
        for (got, expected) in wrong.iter().zip([
            "`a`: ",
            "b on port 2 is",
            "--check `udp`",
            "--check `c=tcp`: none",
            "--check `b=udp`",
            "--check `tcp`",
        ]) {
            assert!(got.starts_with(expected), "{got} for {expected}");
        }
        assert_eq!(wrong.len(), 6, "{wrong:#?}");
    }
}
