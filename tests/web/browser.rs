//! A browser without a window, and a site for it: pages by their paths, and what they tell. Knows nothing of what is on
//! the pages.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    thread,
};

use serde_json::Value;

/// Types and texts, by their paths.
pub type Pages = HashMap<&'static str, (&'static str, String)>;

/// An origin, on which nothing is served yet.
pub struct Site(TcpListener);

impl Site {
    /// On a free port.
    pub fn bind() -> Self {
        Self(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
    }

    /// As browsers name it.
    pub fn origin(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap())
    }

    /// Serves pages until the test ends; what they post comes out.
    pub fn serve(self, pages: Pages) -> mpsc::Receiver<Value> {
        let (told, tells) = mpsc::channel();
        let pages = Arc::new(pages);
        thread::spawn(move || {
            for stream in self.0.incoming().map_while(Result::ok) {
                let (pages, told) = (Arc::clone(&pages), told.clone());
                // A browser opens connections that it may need, and may leave at any time.
                thread::spawn(move || serve(stream, &pages, &told));
            }
        });
        tells
    }
}

/// Answers the only request of a connection.
fn serve(stream: TcpStream, pages: &Pages, told: &mpsc::Sender<Value>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    while stream.read_line(&mut head)? > 2 {
        let line = head.lines().last().unwrap_or_default().to_ascii_lowercase();
        length = line.strip_prefix("content-length: ").map_or(length, |length| length.parse().unwrap());
    }
    let mut posted = vec![0; length];
    stream.read_exact(&mut posted)?;
    let path = head.split(' ').nth(1).unwrap_or_default();
    let nothing = ("text/plain", String::new());
    let (status, (kind, text)) = match pages.get(path) {
        Some(page) => (200, page),
        None if head.starts_with("POST ") => (204, &nothing),
        None => (404, &nothing),
    };
    if status == 204 {
        // Who no longer listens has heard enough.
        let _ = told.send(serde_json::from_slice(&posted).unwrap());
    }
    let length = if status == 204 { String::new() } else { format!("Content-Length: {}\r\n", text.len()) };
    write!(stream.get_mut(), "HTTP/1.1 {status} .\r\nContent-Type: {kind}\r\n{length}Connection: close\r\n\r\n{text}")
}

/// The browser. It ends with the value, and all of its processes with it.
pub struct Browser {
    process: Child,
    home: tempfile::TempDir,
}

impl Browser {
    /// Opens a page, and reaches nothing but this machine.
    pub fn open(chromium: &Path, url: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let process = Command::new(chromium)
            // Its sandbox is not for root, who tests in containers; the page is ours.
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--disable-breakpad",
            ])
            .arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
            .arg(format!("--user-data-dir={}", home.path().join("profile").display()))
            .arg(url)
            .env("HOME", home.path())
            .env("TMPDIR", home.path())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(home.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        Self { process, home }
    }

    /// What it says of itself.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // They may have ended already.
        let group = format!("-{}", self.process.id());
        let _ = Command::new("kill").args(["-s", "KILL", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.process.wait();
    }
}
