//! The server's process: where it listens, where its data is, and how it is stopped, frozen, killed and started again.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    thread,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    sync::watch,
};
use tonic::transport::{Channel, Endpoint};

use onair::proto::{GetServerInfoRequest, GetServerInfoResponse, registry_client::RegistryClient};

use super::{ONAIR, command::in_a_clean_place, within};
use crate::history::{Client, Recorder};

/// A registry that runs, or ran and can run again at the same address on the same data.
pub struct Server {
    flags: Vec<String>,
    /// A command that ends with running its arguments.
    under: Vec<String>,
    home: Arc<TempDir>,
    data: PathBuf,
    life: Option<Life>,
    address: SocketAddr,
    up: watch::Sender<Option<SocketAddr>>,
}

struct Life {
    process: Child,
    /// The other end stays open, as a terminal would.
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl Server {
    /// One that keeps its data, with these flags of `serve` besides.
    pub async fn start(flags: &[&str]) -> Self {
        Self::start_under(&[], flags).await
    }

    /// One that keeps nothing.
    pub async fn ephemeral(flags: &[&str]) -> Self {
        Self::start(&[&["--ephemeral"], flags].concat()).await
    }

    /// As `start`, run by `under`. Flags may say where it listens and where its data is.
    pub async fn start_under(under: &[&str], flags: &[&str]) -> Self {
        let home = Arc::new(tempfile::tempdir().unwrap());
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let mut flags = owned(flags);
        let address = taken(&mut flags, "--listen").unwrap_or_else(|| "127.0.0.1:0".to_owned());
        let data = taken(&mut flags, "--data-dir").map_or_else(|| home.path().join("data"), PathBuf::from);
        let (under, address, up) = (owned(under), address.parse().unwrap(), watch::Sender::new(None));
        let mut server = Self { flags, under, home, data, life: None, address, up };
        server.again().await;
        server
    }

    /// Starts it where it was.
    pub async fn again(&mut self) {
        if let Err(last_words) = self.try_again().await {
            panic!("the server did not start: {last_words}");
        }
    }

    /// Starts it where it was; the last line of its log if it ends at once.
    pub async fn try_again(&mut self) -> Result<(), String> {
        assert!(self.life.is_none(), "it still runs");
        let mut words = self.under.clone();
        words.extend([ONAIR, "serve", "--log-format", "human"].map(str::to_owned));
        words.extend(["--listen".to_owned(), self.address.to_string()]);
        if !self.flags.contains(&"--ephemeral".to_owned()) {
            words.extend(["--data-dir".to_owned(), self.data.display().to_string()]);
        }
        // Tests count what they registered. Those of the registry's own instance say otherwise.
        if !self.flags.iter().any(|flag| flag == "--register-itself") {
            words.extend(["--register-itself", "off"].map(str::to_owned));
        }
        words.extend(self.flags.iter().cloned());
        let log = fs::File::options().create(true).append(true).open(self.home.path().join("log")).unwrap();
        let mut command = Command::new(&words[0]);
        in_a_clean_place(&mut command, self.home.path());
        command.args(&words[1..]).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap()).lines();
        let Some(line) = within("the server's first line", stdout.next_line()).await.unwrap() else {
            within("the server's end", process.wait()).await.unwrap();
            return Err(self.log().lines().last().unwrap_or_default().to_owned());
        };
        let (_, rest) = line.split_once(" is listening on ").unwrap_or_else(|| panic!("{line}"));
        self.address = rest.split_once(' ').unwrap().0.parse().unwrap();
        self.life = Some(Life { process, _stdout: stdout });
        self.up.send_replace(Some(self.address));
        Ok(())
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// Where it listens, while it does.
    pub fn up(&self) -> watch::Receiver<Option<SocketAddr>> {
        self.up.subscribe()
    }

    pub fn pid(&self) -> u32 {
        self.life.as_ref().and_then(|life| life.process.id()).expect("it runs")
    }

    /// SIGKILL, and that it is gone.
    pub async fn kill(&mut self) {
        self.up.send_replace(None);
        let mut life = self.life.take().expect("it runs");
        life.process.start_kill().unwrap();
        within("the end after SIGKILL", life.process.wait()).await.unwrap();
    }

    /// Sends a signal by its name without SIG.
    pub fn signal(&self, name: &str) {
        super::command::signal(self.pid(), name);
    }

    /// SIGTERM, without waiting for what comes of it.
    pub fn terminate(&self) {
        self.up.send_replace(None);
        self.signal("TERM");
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut life = self.life.take().expect("it runs");
        within("the server's end", life.process.wait()).await.unwrap()
    }

    /// A connection.
    pub async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(self.url()).unwrap();
        within("a connection", endpoint.connect()).await.unwrap()
    }

    /// The generated client on a connection of its own.
    pub async fn api(&self) -> RegistryClient<Channel> {
        RegistryClient::new(self.channel().await)
    }

    /// A recorded client on a connection of its own.
    pub async fn client(&self, recorder: &Recorder) -> Client {
        Client::new(self.channel().await, recorder.clone())
    }

    /// What it says of itself.
    pub async fn info(&self) -> GetServerInfoResponse {
        self.api().await.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner()
    }

    /// What it logged, in all its lives.
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }
}

/// Takes a flag with its value out.
fn taken(flags: &mut Vec<String>, flag: &str) -> Option<String> {
    let place = flags.iter().position(|one| one == flag)?;
    flags.remove(place);
    Some(flags.remove(place))
}

impl Drop for Server {
    fn drop(&mut self) {
        let log = self.log();
        // A fault that no answer shows.
        let broken = log.contains("panicked at") && !thread::panicking();
        if broken || thread::panicking() {
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(40)..].join("\n");
            eprintln!("the last lines of the server's log:\n{last}");
        }
        assert!(!broken, "the server panicked");
    }
}
