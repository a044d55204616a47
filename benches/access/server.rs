//! A server's process on a core of its own: the load that `onair bench` makes of it, and connections one after the other.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::available_parallelism,
    time::Instant,
};

use onair::tls::{ClientFiles, ClientTls};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    Result,
    machine::{cpu, keep_to},
};

/// The program.
pub const ONAIR: &str = env!("CARGO_BIN_EXE_onair");
/// What a client says first, and what the server answers by its own settings.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Where servers run, and where the load: apart, where there are two.
#[derive(Clone, Copy)]
pub struct Cores {
    apart: bool,
}

impl Cores {
    /// Of this machine; from now on this process is where the load is.
    pub fn here() -> Self {
        let apart = available_parallelism().is_ok_and(|cores| cores.get() >= 2) && keep_to(1).is_ok();
        Self { apart }
    }

    /// Starts a process on the servers' core.
    fn spawn(self, command: &mut Command) -> Result<Child> {
        // A process begins where the thread is that starts it.
        if self.apart {
            keep_to(0)?;
        }
        let child = command.spawn();
        if self.apart {
            keep_to(1)?;
        }
        Ok(child?)
    }
}

/// A server, which ends with this.
pub struct Server {
    process: Child,
    pub url: String,
    port: u16,
    home: TempDir,
}

impl Server {
    /// One that keeps its data, with these flags besides.
    pub fn start(flags: &[String], cores: Cores) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("access-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let mut command = Command::new(ONAIR);
        command.args(["serve", "--listen", "127.0.0.1:0", "--register-itself", "off", "--breaker", "off"]);
        command.arg("--data-dir").arg(home.path().join("data")).args(["--log", "warn"]).args(flags);
        let log = File::create(home.path().join("log"))?;
        let mut process = cores.spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log))?;
        let mut line = String::new();
        let out = process.stdout.as_mut().ok_or("it has no output")?;
        BufReader::new(out).read_line(&mut line)?;
        let address = line.split_once(" is listening on ").and_then(|(_, rest)| rest.split(' ').next());
        let Some(port) = address.and_then(|address| address.rsplit(':').next()) else {
            let log = std::fs::read_to_string(home.path().join("log")).unwrap_or_default();
            return Err(format!("{flags:?}: {log}").into());
        };
        let protocol = if flags.iter().any(|flag| flag == "--tls-cert") { "https" } else { "http" };
        Ok(Self { process, url: format!("{protocol}://localhost:{port}"), port: port.parse()?, home })
    }

    pub fn process(&self) -> u32 {
        self.process.id()
    }

    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// Begins a load on this thread's core.
    pub fn begin(&self, load: &[&str], flags: &[String], seconds: f64) -> Result<Load> {
        let mut command = Command::new(ONAIR);
        command.arg("bench").args(load).args(["--pairs", "1", "--output", "json", "--url", &self.url]).args(flags);
        command.args(["--seconds", &seconds.to_string(), "--server-pid", &self.process.id().to_string()]);
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Load(command.spawn()?))
    }

    /// Makes so many connections one after the other, each until the server has spoken: how much of its processor time each
    /// takes, in microseconds, and how many there were a second. `again`: a client that remembers the last session.
    pub fn connections(&self, files: Option<&ClientFiles>, again: bool, count: u32) -> Result<(f64, f64)> {
        let load = |files: &ClientFiles| files.load("h2").map_err(|wrong| format!("{wrong:?}"));
        let mut clients = Vec::new();
        for _ in 0..if again { 1 } else { count } {
            clients.extend(files.map(load).transpose()?);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (before, begun) = (cpu(self.process()), Instant::now());
        runtime.block_on(async {
            for number in 0..count as usize {
                self.connect(clients.get(number % clients.len().max(1))).await?;
            }
            Ok::<_, Box<dyn std::error::Error>>(())
        })?;
        let (took, used) = (begun.elapsed().as_secs_f64(), cpu(self.process()).saturating_sub(before));
        Ok((used.as_secs_f64() * 1e6 / f64::from(count), f64::from(count) / took))
    }

    async fn connect(&self, tls: Option<&ClientTls>) -> Result<()> {
        let socket = TcpStream::connect(("127.0.0.1", self.port)).await?;
        // As clients do: else the first word inside waits for the acknowledgement of the handshake's last.
        socket.set_nodelay(true)?;
        match tls {
            Some(tls) => greet(tls.connect("localhost", socket).await?).await,
            None => greet(socket).await,
        }
    }
}

/// The server has verified whoever it speaks to.
async fn greet(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    stream.write_all(HELLO).await?;
    stream.read_exact(&mut [0; 9]).await?;
    Ok(())
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that is gone already is fine.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A load that is under way.
pub struct Load(Child);

/// What a load came to.
pub struct Figures {
    /// Processor time of the server for each call, in microseconds.
    pub server_us: f64,
    /// Of its core.
    pub server_share: f64,
    pub per_second: f64,
    /// In microseconds.
    pub p99: f64,
    /// How busy the load was, of its core.
    pub load_share: f64,
}

impl Load {
    /// Waits for its end.
    pub fn end(self) -> Result<Figures> {
        let output = self.0.wait_with_output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        let report: Value = serde_json::from_slice(&output.stdout)?;
        let job = &report["jobs"][0];
        let number = |value: &Value| value.as_f64().ok_or_else(|| format!("a figure is missing: {report}"));
        Ok(Figures {
            server_us: number(&job["server_us"])?,
            server_share: number(&job["server_share"])?,
            per_second: number(&job["per_second"])?,
            p99: number(&job["latency_us"]["p99"])?,
            load_share: number(&job["generator_share"])?,
        })
    }
}
