//! The ways to be asked who one is, and the files for them: a server for each, and what a client shows it.

use std::{fs, path::Path, process::Command};

use onair::tls::mint::{Mint, Minted};
use tempfile::TempDir;

use crate::{
    Result,
    credentials::{self, GRANT, ISSUER},
    server::{Cores, Figures, Load, ONAIR, Server},
};

pub const CLEAR: &str = "in the clear, nobody is asked";
pub const TOKEN: &str = "a token";
pub const HS256: &str = "a JWT, HS256";
pub const ES256: &str = "a JWT, ES256";
pub const TLS: &str = "TLS";
pub const MUTUAL: &str = "TLS with client certificates";
const BOTH: &str = "TLS with client certificates, and a token";
const INSTEAD: &str = "TLS with client certificates instead of a token";

/// Certificates as files: of the authority, and of the server's and the client's pair.
pub struct Files {
    pub ca: String,
    server: (String, String),
    pub client: (String, String),
}

impl Files {
    fn write(directory: &Path) -> Result<Self> {
        let mint = Mint::new(30)?;
        let (server, client) = (mint.server(&["localhost".to_owned()], 30)?, mint.client("bench", 30)?);
        let write = |name: &str, text: &str| write(directory, name, text);
        let pair = |name: &str, pair: &Minted| -> Result<_> {
            Ok((write(&format!("{name}.pem"), &pair.certificate)?, write(&format!("{name}.key"), &pair.key)?))
        };
        let (server, client) = (pair("server", &server)?, pair("client", &client)?);
        Ok(Self { ca: write("ca.pem", &mint.itself.certificate)?, server, client })
    }
}

fn write(directory: &Path, name: &str, text: &str) -> Result<String> {
    let path = directory.join(name);
    fs::write(&path, text)?;
    Ok(path.display().to_string())
}

/// A server, and how it is called.
pub struct Way {
    pub name: &'static str,
    pub server: Server,
    flags: Vec<String>,
}

impl Way {
    /// What a load that begins now comes to.
    pub fn begin(&self, load: &[&str], seconds: f64) -> Result<Load> {
        self.server.begin(load, &self.flags, seconds)
    }

    /// What a load comes to.
    pub fn bench(&self, load: &[&str], seconds: f64) -> Result<Figures> {
        self.begin(load, seconds)?.end()
    }
}

/// All of them. The first is what the others are compared with.
pub struct Ways {
    pub all: Vec<Way>,
    pub files: Files,
    cores: Cores,
    directory: TempDir,
}

impl Ways {
    pub fn start(cores: Cores) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("access-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let files = Files::write(directory.path())?;
        let mut ways = Self { all: Vec::new(), files, cores, directory };
        let (ca, server, client) = (&ways.files.ca, &ways.files.server, &ways.files.client);
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let secured = words(&["--tls-cert", &server.0, "--tls-key", &server.1]);
        let mutual = [secured.clone(), words(&["--tls-client-ca", ca])].concat();
        let believing = words(&["--ca", ca]);
        let showing = [believing.clone(), words(&["--cert", &client.0, "--key", &client.1])].concat();
        let asking = words(&["--auth"]);
        ways.add(CLEAR, vec![], vec![])?;
        ways.add_with_token(TOKEN, asking.clone(), vec![])?;
        ways.add_issued(HS256, "hs256", &credentials::hs256()?)?;
        ways.add_issued(ES256, "es256", &credentials::es256()?)?;
        ways.add(TLS, secured, believing)?;
        ways.add(MUTUAL, mutual.clone(), showing.clone())?;
        let asking = [mutual, asking].concat();
        ways.add_with_token(BOTH, asking.clone(), showing.clone())?;
        ways.add_with_certificate(INSTEAD, asking, showing)?;
        Ok(ways)
    }

    /// The one of this name.
    pub fn of(&self, name: &str) -> Result<&Way> {
        let found = self.all.iter().find(|way| way.name == name);
        found.ok_or_else(|| format!("there is no way called {name}").into())
    }

    fn add(&mut self, name: &'static str, serve: Vec<String>, flags: Vec<String>) -> Result<()> {
        let server = Server::start(&serve, self.cores)?;
        self.all.push(Way { name, server, flags });
        Ok(())
    }

    /// With a token of its own, that allows what the load does.
    fn add_with_token(&mut self, name: &'static str, serve: Vec<String>, mut flags: Vec<String>) -> Result<()> {
        let server = Server::start(&serve, self.cores)?;
        let path = self.directory.path().join(format!("{}.token", self.all.len())).display().to_string();
        create(&server, &flags, &["--write", &path])?;
        flags.extend(["--token-file".to_owned(), path]);
        self.all.push(Way { name, server, flags });
        Ok(())
    }

    /// With a token that names the client's certificate.
    fn add_with_certificate(&mut self, name: &'static str, serve: Vec<String>, flags: Vec<String>) -> Result<()> {
        let server = Server::start(&serve, self.cores)?;
        create(&server, &flags, &["--certificate", "dns:bench"])?;
        self.all.push(Way { name, server, flags });
        Ok(())
    }

    fn add_issued(&mut self, name: &'static str, file: &str, issued: &credentials::Issued) -> Result<()> {
        let keys = write(self.directory.path(), &format!("{file}.keys"), &issued.keys)?;
        let token = write(self.directory.path(), &format!("{file}.jwt"), &issued.token)?;
        let serve = ["--auth", "--jwt-keys", &keys, "--jwt-issuer", ISSUER].map(str::to_owned).to_vec();
        self.add(name, serve, vec!["--token-file".to_owned(), token])
    }
}

/// Makes the load's token, as the operator.
fn create(server: &Server, flags: &[String], with: &[&str]) -> Result<()> {
    let mut command = Command::new(ONAIR);
    command.args(["token", "create", "bench", "--grant", GRANT, "--url", &server.url]).args(flags).args(with);
    let output = command.arg("--token-file").arg(server.data().join("operator.token")).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
    }
}
