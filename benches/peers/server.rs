//! A peer's process on the server's core: started in a directory of its own, killed, started again.

use std::{
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::{
    Result,
    machine::{Process, keep_to},
};

/// Where servers run, and where the load.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Cores {
    /// The servers' core.
    #[arg(long = "server-core", default_value_t = 0)]
    pub server: usize,
    /// The load's core.
    #[arg(long = "load-core", default_value_t = 1)]
    pub load: usize,
}

/// How long a server may take until it answers.
const PATIENCE: Duration = Duration::from_secs(120);

/// Arguments and environment of a server that keeps its data here and listens at these ports.
pub type Launch = fn(&mut Command, &Home);

/// Where a server is.
pub struct Home {
    directory: TempDir,
    /// The port for its clients, and others that some want for themselves.
    pub ports: [u16; 3],
}

impl Home {
    /// Where its data is.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Where anything else may be put.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// What clients connect to.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }
}

/// A server, which ends with this.
pub struct Server {
    program: PathBuf,
    launch: Launch,
    cores: Cores,
    /// Where it is.
    pub home: Home,
    child: Child,
}

impl Server {
    /// Starts it with no data. Data goes to the directory for builds, which is on a disk where temporary ones may not be.
    pub fn start(program: &Path, launch: Launch, cores: Cores) -> Result<Self> {
        let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let directory = tempfile::Builder::new().prefix("peer-").tempdir_in(scratch)?;
        let home = Home { directory, ports: [free_port()?, free_port()?, free_port()?] };
        std::fs::create_dir(home.data())?;
        let child = spawn(program, launch, cores, &home)?;
        Ok(Self { program: program.to_owned(), launch, cores, home, child })
    }

    /// Its process.
    pub fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// Kills it as `kill -9` does and starts it again, at once.
    pub fn crash(&mut self) -> Result<Instant> {
        self.child.kill()?;
        self.child.wait()?;
        let begin = Instant::now();
        self.child = spawn(&self.program, self.launch, self.cores, &self.home)?;
        Ok(begin)
    }

    /// Asks until `ask` is answered rightly. A server may take a connection before it is ready, and never answer on it:
    /// so one ask has half a second, and each after one that was not answered twice as long.
    pub async fn until_right<T, E: std::fmt::Display>(
        &mut self,
        ask: impl AsyncFn(&Home) -> std::result::Result<T, E>,
    ) -> Result<T> {
        let begin = Instant::now();
        let mut patience = Duration::from_millis(500);
        loop {
            let why = match timeout(patience, ask(&self.home)).await {
                Ok(Ok(right)) => return Ok(right),
                Ok(Err(why)) => why.to_string(),
                Err(_) => {
                    patience *= 2;
                    "no answer".to_owned()
                }
            };
            if let Some(status) = self.child.try_wait()? {
                let log = std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
                let last = log.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
                return Err(format!("it ended ({status}): {last}").into());
            }
            if begin.elapsed() > PATIENCE {
                return Err(format!("no right answer in {} s: {why}", PATIENCE.as_secs()).into());
            }
            sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that is gone already is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(program: &Path, launch: Launch, cores: Cores, home: &Home) -> Result<Child> {
    let mut command = Command::new(program);
    launch(&mut command, home);
    let log = File::options().create(true).append(true).open(home.path().join("log"))?;
    command.current_dir(home.path()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // A process begins where the thread is that starts it.
    keep_to(cores.server)?;
    let child = command.spawn();
    keep_to(cores.load)?;
    Ok(child.map_err(|error| format!("{}: {error}", program.display()))?)
}

/// A port that was free just now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
