//! etcd: an instance is a key with a lease of its own, a service its prefix. Each write is on the disk before its answer.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    process::Command,
    rc::Rc,
    time::{Duration, Instant},
};

use prost::Message;
use tokio::{sync::mpsc, task::JoinSet, time::timeout_at};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{
    Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use crate::{
    Result,
    events::{Fan, Lapses},
    load::{Meter, Until, calls, measure},
    model::{Job, Plan, Sample},
    onair::restarted,
    record,
    server::{Home, Server},
};

mod messages;

use messages::{
    Granted, KeepAlive, KeptAlive, LeaseGrant, Put, PutDone, Range, RangeFound, WatchCreate, WatchRequest, Watched,
};

/// Seconds that leases live which shall not lapse.
const LONG: i64 = 3_600;
/// The service of those that lapse.
const LAPSING: usize = 9_999_999;
/// The key that changes.
const FAN: &[u8] = b"fan";
const PUT: &str = "/etcdserverpb.KV/Put";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
/// How long after the end replies are waited for.
const DRAIN: Duration = Duration::from_secs(5);

/// As it comes, with a log of its own.
pub fn launch(command: &mut Command, home: &Home) {
    let clients = format!("http://{}", home.address());
    let peers = format!("http://127.0.0.1:{}", home.ports[1]);
    command.args(["--name", "one", "--log-level", "error", "--quota-backend-bytes", "8589934592"]);
    command.arg("--data-dir").arg(home.data());
    command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
    command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
    command.args(["--initial-cluster", &format!("one={peers}")]);
}

/// etcd under load.
pub struct Etcd {
    server: Server,
    channels: Vec<Channel>,
    /// The lease of each instance that was registered.
    leases: Vec<i64>,
}

fn key_of(service: usize, instance: usize) -> Vec<u8> {
    format!("bench/{service:07}/{instance:07}").into_bytes()
}

/// The instances of a service: from its prefix up to what follows all that begin with it.
fn service_range(service: usize) -> Range {
    let of = |end: char| format!("bench/{service:07}{end}").into_bytes();
    Range { key: of('/'), range_end: of('0') }
}

async fn unary<Q, R>(channel: &Channel, path: &'static str, request: Q) -> std::result::Result<R, String>
where
    Q: Message + Send + Sync + 'static,
    R: Message + Default + Send + Sync + 'static,
{
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| error.to_string())?;
    let codec = ProstCodec::<Q, R>::default();
    let reply = grpc.unary(tonic::Request::new(request), PathAndQuery::from_static(path), codec).await;
    reply.map(tonic::Response::into_inner).map_err(|status| format!("{path}: {status}"))
}

/// A stream both ways.
async fn both_ways<Q, R>(channel: &Channel, path: &'static str) -> Result<(mpsc::UnboundedSender<Q>, Opening<R>)>
where
    Q: Message + Send + Sync + 'static,
    R: Message + Default + Send + Sync + 'static,
{
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await?;
    let (sender, requests) = mpsc::unbounded_channel();
    let requests = tonic::Request::new(UnboundedReceiverStream::new(requests));
    let replies = async move {
        let codec = ProstCodec::<Q, R>::default();
        let opened = grpc.streaming(requests, PathAndQuery::from_static(path), codec).await;
        opened.map(tonic::Response::into_inner)
    };
    Ok((sender, Box::pin(replies)))
}

/// Headers may come with the first reply only, so a stream is opened by who reads it.
type Opening<R> = std::pin::Pin<Box<dyn Future<Output = std::result::Result<Streaming<R>, tonic::Status>>>>;

async fn connect(address: &str) -> Result<Channel> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true).connect().await?)
}

impl Etcd {
    /// Waits until it takes a write.
    pub async fn new(mut server: Server, plan: &Plan) -> Result<Self> {
        let put = async |home: &Home| {
            let channel = connect(&home.address()).await.map_err(|error| error.to_string())?;
            let put = Put { key: b"first".to_vec(), value: Vec::new(), lease: 0 };
            unary::<_, PutDone>(&channel, PUT, put).await
        };
        server.until_right(put).await?;
        let mut channels = Vec::new();
        for _ in 0..plan.connections {
            channels.push(connect(&server.home.address()).await?);
        }
        Ok(Self { server, channels, leases: Vec::new() })
    }

    fn channel(&self, worker: usize) -> &Channel {
        &self.channels[worker % self.channels.len()]
    }

    /// Its process.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Does a job; none if it has no such thing.
    pub async fn job(&mut self, job: Job, plan: &Plan) -> Result<Option<Sample>> {
        let process = self.server.process();
        let found = match job {
            Job::Register => {
                let leases = RefCell::new(Vec::new());
                let until = Until::calls(plan.instances as usize, plan.seconds * 4.0);
                let sample = measure(process, job, Rc::default(), async |meter| {
                    let register = async |worker, number| {
                        let lease = self.register(worker, number / 10, number, LONG).await?;
                        leases.borrow_mut().push(lease);
                        Ok(1)
                    };
                    calls(&meter, plan.in_flight as usize, until, register).await
                });
                let sample = sample.await?;
                self.leases = leases.into_inner();
                sample
            }
            Job::RenewStream => {
                measure(process, job, Rc::default(), async |meter| self.renew(&meter, plan).await).await?
            }
            Job::Lookup => {
                let services = (self.leases.len() / 10).max(1);
                let lookup = async |worker, number| lookup(self.channel(worker), number % services).await;
                let until = Until::seconds(plan.seconds);
                measure(process, job, Rc::default(), async |meter| {
                    calls(&meter, plan.in_flight as usize, until, lookup).await
                })
                .await?
            }
            Job::FanoutShared => self.fanout(plan).await?,
            Job::Expire => self.expire(plan).await?,
            Job::Restart => self.restart().await?,
            _ => return Ok(None),
        };
        Ok(Some(found))
    }

    /// A lease, and a key that lives as long.
    async fn register(
        &self,
        worker: usize,
        service: usize,
        instance: usize,
        ttl: i64,
    ) -> std::result::Result<i64, String> {
        let channel = self.channel(worker);
        let granted: Granted = unary(channel, "/etcdserverpb.Lease/LeaseGrant", LeaseGrant { ttl, id: 0 }).await?;
        if granted.id == 0 || !granted.error.is_empty() {
            return Err(format!("no lease was granted: {}", granted.error));
        }
        let put = Put { key: key_of(service, instance), value: record(instance), lease: granted.id };
        let _: PutDone = unary(channel, PUT, put).await?;
        Ok(granted.id)
    }

    /// Keep-alives on a stream a connection.
    async fn renew(&self, meter: &Meter, plan: &Plan) -> Result<()> {
        if self.leases.is_empty() {
            return Err("nothing is registered".into());
        }
        let end = Instant::now() + Duration::from_secs_f64(plan.seconds);
        let streams =
            (0..self.channels.len()).map(|index| self.renew_on(index, meter, plan.stream_depth as usize, end));
        futures_util::future::try_join_all(streams).await.map(drop)
    }

    async fn renew_on(&self, index: usize, meter: &Meter, depth: usize, end: Instant) -> Result<()> {
        let (sender, opening) =
            both_ways::<KeepAlive, KeptAlive>(&self.channels[index], "/etcdserverpb.Lease/LeaseKeepAlive").await?;
        // Neighbours in memory are not renewed one after the other.
        let mut at = index * 7_919;
        let mut unanswered = VecDeque::new();
        let mut send = |unanswered: &mut VecDeque<_>| {
            at += 104_729;
            let id = self.leases[at % self.leases.len()];
            unanswered.push_back((id, Instant::now()));
            sender.send(KeepAlive { id }).is_ok()
        };
        for _ in 0..depth {
            send(&mut unanswered);
        }
        let mut replies = opening.await?;
        while let Some((id, sent)) = unanswered.pop_front() {
            let reply = timeout_at((end + DRAIN).into(), replies.message()).await??.ok_or("a stream ended")?;
            match reply.id == id && reply.ttl == LONG {
                true => meter.done(1, sent.elapsed()),
                false => meter.fault(format!("a lease of {LONG} s was renewed for {}", reply.ttl)),
            }
            if Instant::now() < end && !meter.is_hopeless() {
                send(&mut unanswered);
            }
        }
        Ok(())
    }

    /// One key that changes; its watches share a stream on each connection.
    async fn fanout(&self, plan: &Plan) -> Result<Sample> {
        let fan = Fan::new(plan.sharing_watchers);
        let mut readers = JoinSet::new();
        for part in 0..plan.sharing_connections {
            let mine = (plan.sharing_watchers + part) / plan.sharing_connections;
            let (channel, fan) = (connect(&self.server.home.address()).await?, fan.clone());
            readers.spawn_local(async move {
                let ended = watch(&channel, mine, &fan).await;
                fan.broken(ended.err().map_or("its stream ended".to_owned(), |why| why.to_string()));
            });
        }
        fan.ready().await?;
        let change = async |number: u64| {
            let put = Put { key: FAN.to_vec(), value: number.to_string().into_bytes(), lease: 0 };
            unary::<_, PutDone>(self.channel(0), PUT, put).await?;
            Ok(())
        };
        let process = self.server.process();
        measure(process, Job::FanoutShared, fan.meter(), async |_| fan.change(plan.seconds, change).await).await
    }

    /// Instances that nobody keeps, and who watches them.
    async fn expire(&self, plan: &Plan) -> Result<Sample> {
        let lapses = Lapses::new(plan.ttl);
        let channel = connect(&self.server.home.address()).await?;
        let (sender, opening) = both_ways::<WatchRequest, Watched>(&channel, WATCH).await?;
        let (key, range_end) = (b"bench/9999999/".to_vec(), b"bench/99999990".to_vec());
        sender.send(WatchRequest { create: Some(WatchCreate { key, range_end }) })?;
        let mut replies = opening.await?;
        let told = lapses.clone();
        let mut reader = JoinSet::new();
        reader.spawn_local(async move {
            while let Ok(Some(reply)) = replies.message().await {
                let gone = reply.events.into_iter().filter(|event| event.kind == 1).filter_map(|event| event.kv);
                gone.for_each(|kv| told.lapsed(&String::from_utf8_lossy(&kv.key)));
            }
            drop(sender);
        });
        let register = async |worker, number| {
            let asked = Instant::now();
            self.register(worker, LAPSING, number, plan.ttl.into()).await?;
            lapses.kept(String::from_utf8_lossy(&key_of(LAPSING, number)).into_owned(), asked);
            Ok(0)
        };
        let until = Until::calls(plan.lapses as usize, f64::from(plan.ttl) / 2.0);
        calls(&Meter::default(), plan.in_flight as usize, until, register).await?;
        lapses.measure(self.server.process()).await
    }

    async fn restart(&mut self) -> Result<Sample> {
        let begin = self.server.crash()?;
        let look = async |home: &Home| {
            let channel = connect(&home.address()).await.map_err(|error| error.to_string())?;
            lookup(&channel, 0).await
        };
        self.server.until_right(look).await?;
        Ok(restarted(begin))
    }
}

/// Watches on one stream, each of the same key, until the stream ends.
async fn watch(channel: &Channel, watches: u32, fan: &Fan) -> Result<()> {
    let (sender, opening) = both_ways::<WatchRequest, Watched>(channel, WATCH).await?;
    for _ in 0..watches {
        sender.send(WatchRequest { create: Some(WatchCreate { key: FAN.to_vec(), range_end: Vec::new() }) })?;
    }
    let mut last = HashMap::new();
    let mut replies = opening.await?;
    while let Some(reply) = replies.message().await? {
        if reply.canceled {
            return Err("a watch was cancelled".into());
        }
        if reply.created {
            last.insert(reply.watch_id, 0);
            fan.opened(1);
        }
        let Some(last) = last.get_mut(&reply.watch_id) else { return Err("an event of no watch".into()) };
        for kv in reply.events.into_iter().filter_map(|event| event.kv) {
            fan.heard(last, number(&kv.value));
        }
    }
    Ok(())
}

/// The number of a change, 0 if it is none.
pub fn number(text: &[u8]) -> u64 {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The instances of a service.
async fn lookup(channel: &Channel, service: usize) -> std::result::Result<u64, String> {
    let found: RangeFound = unary(channel, "/etcdserverpb.KV/Range", service_range(service)).await?;
    let right = found.kvs.len() == 10 && found.kvs.iter().all(|kv| kv.value.len() == record(0).len());
    if right { Ok(1) } else { Err(format!("a lookup found {} instances, not 10", found.kvs.len())) }
}
