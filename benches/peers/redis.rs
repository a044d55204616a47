//! Redis: an instance is a key that expires, a service a set of the names of its instances, a change is published.
//!
//! Its protocol is written and read here, in batches: a client library would cost more than the server does.

use std::{ops::Range, process::Command, rc::Rc, time::Instant};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    task::JoinSet,
};

use crate::{
    Result,
    etcd::number,
    events::{Fan, Lapses},
    load::{Meter, Until, batches, measure},
    model::{Job, Plan, Sample},
    onair::restarted,
    record,
    server::{Home, Server},
};

/// Seconds that keys live which shall not expire.
const LONG: &str = "3600";
/// The channel of the change that all watch.
const FAN: &str = "fan";

/// With the append-only file, written out each second as it comes: what it was told last may be lost.
pub fn launch(command: &mut Command, home: &Home) {
    command.args(["--port", &home.ports[0].to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]);
    command.args(["--notify-keyspace-events", "Ex", "--maxclients", "15000"]).arg("--dir").arg(home.data());
}

/// A reply.
#[derive(Debug, PartialEq)]
enum Reply {
    Text(Vec<u8>),
    Number(i64),
    Nothing,
    List(Vec<Self>),
}

/// A connection: commands are written together, then their replies read.
struct Connection {
    socket: BufReader<TcpStream>,
    commands: Vec<u8>,
}

impl Connection {
    async fn open(address: &str) -> std::io::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Self { socket: BufReader::with_capacity(64 << 10, socket), commands: Vec::new() })
    }

    fn say(&mut self, words: &[&[u8]]) {
        self.commands.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        for word in words {
            self.commands.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            self.commands.extend_from_slice(word);
            self.commands.extend_from_slice(b"\r\n");
        }
    }

    async fn send(&mut self) -> std::io::Result<()> {
        self.socket.get_mut().write_all(&self.commands).await?;
        self.commands.clear();
        Ok(())
    }

    /// The next reply; an error of the server's is one.
    async fn reply(&mut self) -> std::result::Result<Reply, String> {
        let (kind, length) = self.line().await?;
        Ok(match kind {
            b'*' => {
                let mut list = Vec::new();
                for _ in 0..length.max(0) {
                    // A list of lists is not asked for, so that this needs no stack of its own.
                    let (kind, length) = self.line().await?;
                    list.push(self.one(kind, length).await?);
                }
                Reply::List(list)
            }
            kind => self.one(kind, length).await?,
        })
    }

    async fn one(&mut self, kind: u8, length: i64) -> std::result::Result<Reply, String> {
        match (kind, usize::try_from(length)) {
            (b'$', Ok(length)) => {
                let mut text = vec![0; length + 2];
                self.socket.read_exact(&mut text).await.map_err(|error| error.to_string())?;
                text.truncate(length);
                Ok(Reply::Text(text))
            }
            (b'$', Err(_)) => Ok(Reply::Nothing),
            (b'+', _) => Ok(Reply::Nothing),
            (b':', _) => Ok(Reply::Number(length)),
            _ => Err(format!("a reply of kind {:?}", kind as char)),
        }
    }

    /// The first byte of a line and the number after it.
    async fn line(&mut self) -> std::result::Result<(u8, i64), String> {
        let mut line = Vec::new();
        let read = self.socket.read_until(b'\n', &mut line).await.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(line.get(1..).unwrap_or_default());
        match line.first() {
            Some(b'-') => Err(text.trim().to_owned()),
            Some(kind) if read > 1 => Ok((*kind, text.trim().parse().unwrap_or(0))),
            _ => Err("the connection ended".to_owned()),
        }
    }
}

fn key(instance: usize) -> String {
    format!("i:{instance:07}")
}

fn service(instance: usize) -> String {
    format!("s:{:07}", instance / 10)
}

/// Redis under load.
pub struct Redis {
    server: Server,
    connections: Vec<Connection>,
    registered: usize,
}

/// Instances from the first on: each a key that expires, and a member of its service.
async fn register(connection: &mut Connection, part: Range<usize>, seconds: &str) -> std::result::Result<u64, String> {
    for instance in part.clone() {
        let (key, service) = (key(instance), service(instance));
        connection.say(&[b"SET", key.as_bytes(), &record(instance), b"EX", seconds.as_bytes()]);
        connection.say(&[b"SADD", service.as_bytes(), key.as_bytes()]);
    }
    connection.send().await.map_err(|error| error.to_string())?;
    for _ in part.clone() {
        let (set, added) = (connection.reply().await?, connection.reply().await?);
        if set != Reply::Nothing || added != Reply::Number(1) {
            return Err(format!("a registration was answered {set:?} and {added:?}"));
        }
    }
    Ok(part.len() as u64)
}

async fn renew(connection: &mut Connection, part: Range<usize>, of: usize) -> std::result::Result<u64, String> {
    for turn in part.clone() {
        connection.say(&[b"EXPIRE", key(turn.wrapping_mul(104_729) % of).as_bytes(), LONG.as_bytes()]);
    }
    connection.send().await.map_err(|error| error.to_string())?;
    for _ in part.clone() {
        match connection.reply().await? {
            Reply::Number(1) => {}
            other => return Err(format!("a renewal was answered {other:?}")),
        }
    }
    Ok(part.len() as u64)
}

/// The names of a service's instances, then their records.
async fn lookup(connection: &mut Connection, part: Range<usize>, of: usize) -> std::result::Result<u64, String> {
    let broken = |error: std::io::Error| error.to_string();
    for turn in part.clone() {
        connection.say(&[b"SMEMBERS", service(turn % of * 10).as_bytes()]);
    }
    connection.send().await.map_err(broken)?;
    for _ in part.clone() {
        let Reply::List(names) = connection.reply().await? else { return Err("a service that is no set".to_owned()) };
        let names = names.iter().filter_map(|name| if let Reply::Text(name) = name { Some(&name[..]) } else { None });
        let words: Vec<_> = [&b"MGET"[..]].into_iter().chain(names).collect();
        connection.say(&words);
    }
    connection.send().await.map_err(broken)?;
    let wanted = record(0).len();
    for _ in part.clone() {
        let Reply::List(found) = connection.reply().await? else { return Err("no list of records".to_owned()) };
        let right = found.iter().all(|reply| matches!(reply, Reply::Text(text) if text.len() == wanted));
        if found.len() != 10 || !right {
            return Err(format!("a lookup found {} instances, not 10", found.len()));
        }
    }
    Ok(part.len() as u64)
}

impl Redis {
    /// Waits until it answers.
    pub async fn new(mut server: Server, plan: &Plan) -> Result<Self> {
        let ping = async |home: &Home| {
            let mut connection = Connection::open(&home.address()).await.map_err(|error| error.to_string())?;
            connection.say(&[b"PING"]);
            connection.send().await.map_err(|error| error.to_string())?;
            connection.reply().await
        };
        server.until_right(ping).await?;
        let mut connections = Vec::new();
        for _ in 0..plan.connections {
            connections.push(Connection::open(&server.home.address()).await?);
        }
        Ok(Self { server, connections, registered: 0 })
    }

    /// Its process.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Does a job; none if it has no such thing.
    pub async fn job(&mut self, job: Job, plan: &Plan) -> Result<Option<Sample>> {
        let (process, depth, of) = (self.server.process(), plan.depth(), self.registered);
        let (connections, forever) = (&mut self.connections[..], Until::seconds(plan.seconds));
        Ok(Some(match job {
            Job::Register => {
                let until = Until::calls(plan.instances as usize, plan.seconds * 4.0);
                let sample = measure(process, job, Rc::default(), async |meter| {
                    batches(&meter, connections, depth, until, async |connection, part| {
                        register(connection, part, LONG).await
                    })
                    .await
                })
                .await?;
                self.registered = sample.count as usize / 10 * 10;
                sample
            }
            Job::Renew | Job::RenewStream => {
                let depth = if job == Job::Renew { depth } else { plan.stream_depth as usize };
                measure(process, job, Rc::default(), async |meter| {
                    let turn = async |connection: &mut _, part| renew(connection, part, of).await;
                    batches(&meter, connections, depth, forever, turn).await
                })
                .await?
            }
            Job::Lookup => {
                measure(process, job, Rc::default(), async |meter| {
                    let turn = async |connection: &mut _, part| lookup(connection, part, of / 10).await;
                    batches(&meter, connections, depth, forever, turn).await
                })
                .await?
            }
            Job::Fanout => self.fanout(plan).await?,
            Job::Expire => self.expire(plan).await?,
            Job::Restart => self.restart().await?,
            _ => return Ok(None),
        }))
    }

    /// A connection for each watcher: one subscribes once to a channel.
    async fn fanout(&mut self, plan: &Plan) -> Result<Sample> {
        let fan = Fan::new(plan.watchers);
        let mut readers = JoinSet::new();
        for _ in 0..plan.watchers {
            let mut connection = Connection::open(&self.server.home.address()).await?;
            connection.say(&[b"SUBSCRIBE", FAN.as_bytes()]);
            connection.send().await?;
            let fan = fan.clone();
            readers.spawn_local(async move {
                let mut last = 0;
                loop {
                    match connection.reply().await {
                        Ok(Reply::List(words)) => match &words[..] {
                            [Reply::Text(kind), _, Reply::Text(change)] if kind == b"message" => {
                                fan.heard(&mut last, number(change));
                            }
                            _ => fan.opened(1),
                        },
                        Ok(other) => fan.broken(format!("{other:?}")),
                        Err(why) => return fan.broken(why),
                    }
                }
            });
        }
        fan.ready().await?;
        let mut changer = Connection::open(&self.server.home.address()).await?;
        let told = i64::from(plan.watchers);
        let change = async |number: u64| {
            changer.say(&[b"PUBLISH", FAN.as_bytes(), number.to_string().as_bytes()]);
            changer.send().await?;
            match changer.reply().await? {
                Reply::Number(count) if count == told => Ok(()),
                other => Err(format!("a change was told to {other:?}").into()),
            }
        };
        let process = self.server.process();
        measure(process, Job::Fanout, fan.meter(), async |_| fan.change(plan.seconds, change).await).await
    }

    /// Keys that nobody keeps, and who is told of what expires.
    async fn expire(&mut self, plan: &Plan) -> Result<Sample> {
        let lapses = Lapses::new(plan.ttl);
        let mut told = Connection::open(&self.server.home.address()).await?;
        told.say(&[b"SUBSCRIBE", b"__keyevent@0__:expired"]);
        told.send().await?;
        told.reply().await?;
        let mut reader = JoinSet::new();
        let heard = lapses.clone();
        reader.spawn_local(async move {
            while let Ok(Reply::List(words)) = told.reply().await {
                if let Some(Reply::Text(name)) = words.last() {
                    heard.lapsed(&String::from_utf8_lossy(name));
                }
            }
        });
        let (first, ttl) = (9_000_000, plan.ttl.to_string());
        let until = Until::calls(plan.lapses as usize, f64::from(plan.ttl) / 2.0);
        let meter = Meter::default();
        batches(&meter, &mut self.connections, plan.depth(), until, async |connection, part| {
            let asked = Instant::now();
            let part = first + part.start..first + part.end;
            let done = register(connection, part.clone(), &ttl).await?;
            part.for_each(|instance| lapses.kept(key(instance), asked));
            Ok(done)
        })
        .await?;
        lapses.measure(self.server.process()).await
    }

    async fn restart(&mut self) -> Result<Sample> {
        let begin = self.server.crash()?;
        let look = async |home: &Home| {
            let mut connection = Connection::open(&home.address()).await.map_err(|error| error.to_string())?;
            lookup(&mut connection, 0..1, 1).await
        };
        self.server.until_right(look).await?;
        Ok(restarted(begin))
    }
}
