//! ZooKeeper: an instance is an ephemeral node below its service's, and a session stands for many of them, because each
//! costs a connection. Each write is on the disk before its answer.

use std::{ops::Range, process::Command, rc::Rc, time::Instant};

use tokio::task::JoinSet;

use crate::{
    Result,
    etcd::number,
    events::{Fan, Lapses},
    load::{Meter, Until, batches, calls, measure},
    model::{Job, Plan, Sample},
    onair::restarted,
    record,
    server::{Home, Server},
};

mod wire;

use wire::{Connection, EVENT, Fields, Op};

/// Milliseconds that sessions live which shall not lapse: the most that the server grants.
const LONG: i32 = 40_000;
/// The node that changes.
const FAN: &str = "/fan";
/// Above the nodes of those that lapse.
const LAPSING: &str = "/lapse";
/// Of events: a node is gone.
const DELETED: i32 = 2;

/// With a heap that holds what is measured; the rest as it comes.
pub fn launch(command: &mut Command, home: &Home) {
    command.env("PEER_JAVA", "-Xmx2g -Dzookeeper.admin.enableServer=false");
    command.arg(home.ports[0].to_string()).arg(home.data()).arg("2000").arg("15000");
}

fn service(service: usize) -> String {
    format!("/bench/s{service:07}")
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// ZooKeeper under load.
pub struct ZooKeeper {
    server: Server,
    connections: Vec<Connection>,
    registered: usize,
}

/// Ephemeral nodes for these instances. A service's own node is made before.
async fn register(connection: &mut Connection, part: Range<usize>) -> std::result::Result<u64, String> {
    for instance in part.clone() {
        let path = format!("{}/i{instance:07}", service(instance / 10));
        connection.create(&path, &record(instance), true);
    }
    connection.send().await.map_err(words)?;
    for instance in part.clone() {
        let path = connection.reply().await?.body.text();
        if !path.ends_with(&format!("{instance:07}")) {
            return Err(format!("a registration was answered {path}"));
        }
    }
    Ok(part.len() as u64)
}

/// Nodes that stay, for services.
async fn services(connection: &mut Connection, part: Range<usize>) -> std::result::Result<u64, String> {
    part.clone().for_each(|number| connection.create(&service(number), b"", false));
    connection.send().await.map_err(words)?;
    for _ in part.clone() {
        connection.reply().await?;
    }
    Ok(0)
}

/// Pings: each keeps the session, and all that it stands for.
async fn renew(connection: &mut Connection, pings: usize) -> std::result::Result<u64, String> {
    (0..pings).for_each(|_| connection.say(Op::Ping, Fields::default()));
    connection.send().await.map_err(words)?;
    for _ in 0..pings {
        connection.reply().await?;
    }
    Ok(pings as u64)
}

/// The names of each service's instances, then their records.
async fn lookup(connection: &mut Connection, part: Range<usize>, of: usize) -> std::result::Result<u64, String> {
    for turn in part.clone() {
        connection.say(Op::GetChildren, Fields::default().bytes(service(turn % of).as_bytes()).flag(false));
    }
    connection.send().await.map_err(words)?;
    for turn in part.clone() {
        let mut names = connection.reply().await?.body;
        let count = names.number();
        if count != 10 {
            return Err(format!("a lookup found {count} instances, not 10"));
        }
        for _ in 0..count {
            let path = format!("{}/{}", service(turn % of), names.text());
            connection.say(Op::GetData, Fields::default().bytes(path.as_bytes()).flag(false));
        }
    }
    connection.send().await.map_err(words)?;
    let wanted = record(0).len();
    for _ in 0..part.len() * 10 {
        if connection.reply().await?.body.bytes().len() != wanted {
            return Err("a lookup found another record".to_owned());
        }
    }
    Ok(part.len() as u64)
}

impl ZooKeeper {
    /// Waits until it takes a write.
    pub async fn new(mut server: Server, plan: &Plan) -> Result<Self> {
        let make = async |home: &Home| {
            let mut connection = Connection::open(&home.address(), LONG).await.map_err(words)?;
            ["/bench", FAN, LAPSING].into_iter().for_each(|path| connection.create(path, b"0", false));
            connection.send().await.map_err(words)?;
            for _ in 0..3 {
                connection.reply_or_there().await?;
            }
            Ok::<_, String>(())
        };
        server.until_right(make).await?;
        let mut connections = Vec::new();
        for _ in 0..plan.connections {
            connections.push(Connection::open(&server.home.address(), LONG).await?);
        }
        Ok(Self { server, connections, registered: 0 })
    }

    /// Its process.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Does a job; none if it has no such thing.
    pub async fn job(&mut self, job: Job, plan: &Plan) -> Result<Option<Sample>> {
        for connection in &mut self.connections {
            renew(connection, 1).await?;
        }
        let (process, depth, of) = (self.server.process(), plan.depth(), self.registered);
        let connections = &mut self.connections[..];
        Ok(Some(match job {
            Job::Register => {
                let (nodes, meter) = (Until::calls(plan.services(), plan.seconds * 4.0), Meter::default());
                batches(&meter, connections, depth, nodes, async |connection, part| services(connection, part).await)
                    .await?;
                let until = Until::calls(plan.instances as usize, plan.seconds * 4.0);
                let sample = measure(process, job, Rc::default(), async |meter| {
                    let turn = async |connection: &mut _, part| register(connection, part).await;
                    batches(&meter, connections, depth, until, turn).await
                })
                .await?;
                self.registered = sample.count as usize / 10 * 10;
                sample
            }
            Job::RenewStream => {
                measure(process, job, Rc::default(), async |meter| {
                    let depth = plan.stream_depth as usize;
                    let turn = async |connection: &mut _, part: Range<_>| renew(connection, part.len()).await;
                    batches(&meter, connections, depth, Until::seconds(plan.seconds), turn).await
                })
                .await?
            }
            Job::Lookup => {
                measure(process, job, Rc::default(), async |meter| {
                    let turn = async |connection: &mut _, part| lookup(connection, part, of / 10).await;
                    batches(&meter, connections, depth, Until::seconds(plan.seconds), turn).await
                })
                .await?
            }
            Job::Fanout => self.fanout(plan).await?,
            Job::Expire => self.expire(plan).await?,
            Job::Restart => self.restart().await?,
            _ => return Ok(None),
        }))
    }

    /// A session for each watcher: one has a path's watch once.
    async fn fanout(&mut self, plan: &Plan) -> Result<Sample> {
        let fan = Fan::new(plan.watchers);
        let mut readers = JoinSet::new();
        for _ in 0..plan.watchers {
            let mut connection = Connection::open(&self.server.home.address(), LONG).await?;
            let fan = fan.clone();
            readers.spawn_local(async move {
                let why = watch(&mut connection, &fan).await.err().unwrap_or_default();
                fan.broken(why);
            });
        }
        fan.ready().await?;
        let changer = &mut self.connections[0];
        let change = async |number: u64| {
            let fields = Fields::default().bytes(FAN.as_bytes()).bytes(number.to_string().as_bytes()).number(-1);
            changer.say(Op::SetData, fields);
            changer.send().await?;
            changer.reply().await?;
            Ok(())
        };
        let process = self.server.process();
        measure(process, Job::Fanout, fan.meter(), async |_| fan.change(plan.seconds, change).await).await
    }

    /// Sessions that say nothing any more, each with a node of its own, and who watches those.
    async fn expire(&mut self, plan: &Plan) -> Result<Sample> {
        let lapses = Lapses::new(plan.ttl);
        let address = self.server.home.address();
        let mut told = Connection::open(&address, LONG).await?;
        told.say(Op::AddWatch, Fields::default().bytes(LAPSING.as_bytes()).number(1));
        told.send().await?;
        told.reply().await?;
        let (mut reader, heard) = (JoinSet::new(), lapses.clone());
        reader.spawn_local(async move {
            while let Ok(Ok(mut event)) = tokio::time::timeout(std::time::Duration::from_secs(60), told.reply()).await {
                let (kind, _, path) = (event.body.number(), event.body.number(), event.body.text());
                if event.number == EVENT && kind == DELETED {
                    heard.lapsed(&path);
                }
            }
        });
        let silent = std::cell::RefCell::new(Vec::new());
        let register = async |_, number| {
            let path = format!("{LAPSING}/i{number:07}");
            let mut connection = Connection::open(&address, plan.ttl as i32 * 1_000).await.map_err(words)?;
            let asked = Instant::now();
            connection.create(&path, &record(number), true);
            connection.send().await.map_err(words)?;
            connection.reply().await?;
            lapses.kept(path, asked);
            silent.borrow_mut().push(connection);
            Ok(0)
        };
        let until = Until::calls(plan.lapses as usize, f64::from(plan.ttl) / 2.0);
        calls(&Meter::default(), plan.in_flight as usize, until, register).await?;
        lapses.measure(self.server.process()).await
    }

    async fn restart(&mut self) -> Result<Sample> {
        let begin = self.server.crash()?;
        let look = async |home: &Home| {
            let mut connection = Connection::open(&home.address(), LONG).await.map_err(words)?;
            lookup(&mut connection, 0..1, 1).await
        };
        self.server.until_right(look).await?;
        Ok(restarted(begin))
    }
}

/// Reads the node that changes, and again each time that it did: an event says only that.
async fn watch(connection: &mut Connection, fan: &Fan) -> std::result::Result<(), String> {
    let mut last = None;
    loop {
        connection.say(Op::GetData, Fields::default().bytes(FAN.as_bytes()).flag(true));
        connection.send().await.map_err(words)?;
        // The event of the next change may come before the reply is read.
        let (mut event, mut read) = (false, false);
        while !(event && read) {
            let mut reply = connection.reply().await?;
            if reply.number == EVENT {
                event = true;
                continue;
            }
            read = true;
            let change = number(reply.body.bytes());
            match &mut last {
                None => {
                    last = Some(change);
                    fan.opened(1);
                }
                Some(last) => fan.heard(last, change),
            }
        }
    }
}
