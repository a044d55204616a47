//! What happens to a client, the same for each language: others come and go, the server is killed, connections are to be
//! left, go dead and are cut, an operator and a rival interfere, the data is lost. And what has to hold of it.

use std::time::{Duration, Instant, SystemTime};

use onair::{
    proto::{Beat, DeregisterRequest, HeartbeatRequest, RegisterResponse},
    registry::{Cause, Status},
};

use crate::{
    history::assert_clean,
    language::Example,
    lines::tell,
    program::{Line, Program},
    proxy::Proxy,
    server::Server,
    witness::{SERVICE, Subscriber, Witness},
};

/// Long enough for a beat that hangs and one more on a new connection.
const TTL: &str = "9";
/// Two silent intervals between bookmarks, a second for the way, and what a busy machine adds: far less than the quarter
/// of an hour after which the system gives a connection up.
const SILENCE: Duration = Duration::from_secs(2 * 15 + 1 + 89);
/// How a client ends that another process took the key from.
const SUPERSEDED: i32 = 3;

/// The client, the server, and the way between them.
struct Scene {
    server: Server,
    proxy: Proxy,
    client: Program,
    witness: Witness,
}

/// Has a client go through it.
pub async fn take(example: &Example) {
    let server = Server::start();
    let proxy = Proxy::to(server.address());
    let witness = Witness::of(server.address());
    let client = start(example, &proxy, "me");
    let mut scene = Scene { server, proxy, client, witness };
    scene.begin().await;
    scene.others_come_and_go().await;
    scene.the_server_is_killed().await;
    scene.connections_are_to_be_left().await;
    scene.a_rival_takes_the_key(example).await;
    scene.a_rival_takes_the_key_of_who_registers(example).await;
    scene.connections_go_dead().await;
    scene.the_server_is_told_to_stop().await;
    scene.an_operator_removes_it().await;
    scene.the_data_is_lost().await;
    scene.it_is_told_to_stop(example.acknowledges).await;
}

fn start(example: &Example, proxy: &Proxy, id: &str) -> Program {
    let address = proxy.address().to_string();
    Program::start(example, &["--registry", &address, "--service", SERVICE, "--id", id, "--ttl", TTL, "--drain", "30"])
}

fn token(reply: &RegisterResponse) -> String {
    reply.lease.as_ref().unwrap().token.clone()
}

fn beat(reply: &RegisterResponse, status: Status) -> HeartbeatRequest {
    let beats = vec![Beat { lease_token: token(reply), status: status.into() }];
    HeartbeatRequest { beats, ..HeartbeatRequest::default() }
}

impl Scene {
    async fn begin(&mut self) {
        self.client.sees("me").await;
        let found = |line: &Line| line.event() == "looked-up" && line.said["instances"][0]["id"] == "me";
        self.client.until("it finds itself", found).await;
        assert_eq!(self.client.says("health").await.text("status"), "SERVING");
        let itself = self.client.says("beat").await;
        assert_eq!(itself.text("state"), "BEAT_STATE_RENEWED");
        let registered: Vec<_> = self.client.all("registered").collect();
        assert_eq!(registered.len(), 1);
        assert_eq!(registered[0].said["instance"]["metadata"]["language"].as_str().map(str::is_empty), Some(false));
    }

    async fn others_come_and_go(&mut self) {
        let client = self.witness.client().await;
        let a = self.witness.register("a").await;
        self.client.holds(&["a", "me"]).await;
        client.heartbeat(beat(&a, Status::Draining)).await.unwrap();
        self.client.holds(&["me"]).await;
        client.heartbeat(beat(&a, Status::Serving)).await.unwrap();
        self.client.holds(&["a", "me"]).await;
        client.deregister(DeregisterRequest { lease_token: token(&a), ..DeregisterRequest::default() }).await.unwrap();
        self.client.holds(&["me"]).await;
        let causes: Vec<_> = self.client.all("offline").map(|line| line.text("cause")).collect();
        assert_eq!(causes, ["CAUSE_DRAINING", "CAUSE_DEREGISTERED"]);
        let many: Vec<_> = (0..40).map(|number| format!("large-{number:02}")).collect();
        self.witness.register_large(&many).await;
        self.client.until("all of many", |line| line.event() == "set" && line.ids().len() == many.len() + 1).await;
    }

    async fn the_server_is_killed(&mut self) {
        self.server.kill();
        self.client.says("ended").await;
        self.server.again(false);
        self.witness.register("after-kill").await;
        self.client.sees("after-kill").await;
        self.client.beats().await;
    }

    /// The open stream goes on where it is, new calls go elsewhere; then the old connections end.
    async fn connections_are_to_be_left(&mut self) {
        let before = self.proxy.connections();
        let streams = self.client.all("watching").count();
        self.proxy.ask_to_leave();
        self.witness.register("after-goaway").await;
        self.client.sees("after-goaway").await;
        // The first was answered with what asks to leave.
        self.client.beats().await;
        self.client.beats().await;
        assert!(self.proxy.connections() > before, "beats go where they were asked to leave");
        assert_eq!(self.client.all("watching").count(), streams, "the stream had not to be left");
        self.proxy.cut(before);
        self.witness.register("after-cut").await;
        self.client.sees("after-cut").await;
        self.client.beats().await;
    }

    /// Its lease is over, there is no room for it for a while, and when it comes back another process has its key.
    async fn a_rival_takes_the_key_of_who_registers(&mut self, example: &Example) {
        let mut late = start(example, &self.proxy, "late");
        late.sees("late").await;
        let refused = self.witness.refused_by_quotas().await;
        self.witness.bound(Some(0)).await;
        let (service, id) = (SERVICE.to_owned(), "late".to_owned());
        let client = self.witness.client().await;
        client.deregister(DeregisterRequest { service, id, ..DeregisterRequest::default() }).await.unwrap();
        late.until("its lease is over", |line| line.text("state") == "BEAT_STATE_EXPIRED").await;
        while self.witness.refused_by_quotas().await == refused {
            tokio::task::yield_now().await;
        }
        // It was told to stay away for seconds.
        self.witness.bound(None).await;
        let taken = self.witness.register("late").await.instance.unwrap();
        let superseded = late.says("superseded").await;
        assert_eq!(superseded.text("holder"), format!("{}:{}", taken.host, taken.port));
        assert_eq!(late.ended().await.code(), Some(SUPERSEDED));
        assert_eq!(late.all("registered").count(), 1, "it never takes the key back");
    }

    async fn a_rival_takes_the_key(&mut self, example: &Example) {
        let mut rival = start(example, &self.proxy, "rival");
        rival.sees("rival").await;
        let taken = self.witness.register("rival").await;
        let superseded = rival.says("superseded").await;
        let instance = taken.instance.unwrap();
        assert_eq!(superseded.text("holder"), format!("{}:{}", instance.host, instance.port));
        assert_eq!(rival.ended().await.code(), Some(SUPERSEDED));
        assert_eq!(rival.all("registered").count(), 1, "it never takes the key back");
        self.client.sees("rival").await;
        assert_eq!(self.witness.gone("rival"), [Cause::Replaced]);
    }

    async fn connections_go_dead(&mut self) {
        self.client.beats().await;
        let began = Instant::now();
        self.proxy.dead_end();
        self.witness.register("in-the-dark").await;
        self.client.says("silent").await;
        self.client.sees("in-the-dark").await;
        assert!(began.elapsed() < SILENCE, "{:?}", began.elapsed());
        self.client.beats().await;
        assert_eq!(self.client.all("silent").count(), 1);
    }

    async fn the_server_is_told_to_stop(&mut self) {
        self.server.ask_to_stop();
        let ended = self.client.says("ended").await;
        assert_eq!((ended.text("code"), ended.text("reason")), ("UNAVAILABLE", "SHUTTING_DOWN"));
        assert!(self.server.ended().success(), "{}", self.server.log());
        self.server.again(false);
        self.witness.register("after-stop").await;
        self.client.sees("after-stop").await;
        self.client.beats().await;
        assert_eq!(self.client.all("registered").count(), 1, "the lease outlived everything so far");
        assert!(self.witness.gone("me").is_empty());
    }

    async fn an_operator_removes_it(&mut self) {
        let client = self.witness.client().await;
        let (service, id) = (SERVICE.to_owned(), "me".to_owned());
        client.deregister(DeregisterRequest { service, id, ..DeregisterRequest::default() }).await.unwrap();
        self.client.until("its lease is over", |line| line.text("state") == "BEAT_STATE_EXPIRED").await;
        self.client.sees("me").await;
        assert_eq!(self.witness.gone("me"), [Cause::Operator]);
        assert_eq!(self.client.all("reset").count(), 0);
    }

    async fn the_data_is_lost(&mut self) {
        self.server.kill();
        self.client.says("ended").await;
        self.witness.stop().await;
        self.server.again(true);
        let lost = std::mem::replace(&mut self.witness, Witness::of(self.server.address()));
        self.witness.register("new").await;
        assert_eq!(self.client.says("reset").await.text("reason"), "RESET_REASON_ANOTHER_REGISTRY");
        self.client.holds(&["me", "new"]).await;
        self.client.beats().await;
        self.judge(&lost, true);
    }

    /// It leaves traffic, and waits for one who takes his time to act on it.
    async fn it_is_told_to_stop(&mut self, acknowledges: bool) {
        let mut other = Subscriber::of(&self.witness).await;
        self.client.ask_to_stop();
        let revision = other.sees_go("me").await;
        let acted = SystemTime::now();
        other.acknowledge(revision).await;
        let drained = self.client.says("drained").await;
        assert!(drained.read > acted, "it did not wait");
        // The witness's watch acknowledges nothing.
        let counted = if acknowledges { ["2", "1", "0"] } else { ["1", "2", "0"] };
        assert_eq!(["acked", "sent", "pending"].map(|number| drained.text(number)), counted);
        assert_eq!(self.client.says("deregistered").await.text("removed"), "1");
        assert_eq!(self.client.ended().await.code(), Some(0));
        self.witness.register("last").await;
        self.judge(&self.witness, false);
        assert_eq!(self.witness.gone("me"), [Cause::Deregistered]);
    }

    /// Holds what the client told of one registry against every promise: of the one whose data was lost, or of the other.
    fn judge(&self, witness: &Witness, is_lost: bool) {
        let lines = &self.client.lines;
        let reset = lines.iter().position(|line| line.event() == "reset").expect("it was told of the loss");
        let parted = lines[..reset].iter().rposition(|line| line.event() == "watching").unwrap();
        let mut history = witness.recorder.history();
        match is_lost {
            true => tell(&mut history, witness.began, &lines[..parted]),
            false => tell(&mut history, witness.began, &lines[parted..]),
        }
        assert_clean(&history);
    }
}
