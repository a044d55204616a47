//! ZooKeeper's protocol, as far as the load needs it.

use std::io;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

/// What can be asked for, by its number.
#[derive(Clone, Copy)]
pub enum Op {
    Create = 1,
    GetData = 4,
    SetData = 5,
    GetChildren = 8,
    Ping = 11,
    AddWatch = 106,
}

/// The number of replies that nobody asked for: what watches tell.
pub const EVENT: i32 = -1;
/// The number of a ping and its reply.
const PING: i32 = -2;

/// The error of a node that is there already.
const NODE_EXISTS: &str = " -110";

/// A reply, or an event.
pub struct Reply {
    /// The number of the call, or `EVENT`.
    pub number: i32,
    /// What follows its head.
    pub body: Body,
}

/// Fields to be read one after the other; what is not there is empty.
pub struct Body(Vec<u8>, usize);

impl Body {
    fn take(&mut self, length: usize) -> &[u8] {
        let from = self.1.min(self.0.len());
        self.1 = (from + length).min(self.0.len());
        &self.0[from..self.1]
    }

    /// A number.
    pub fn number(&mut self) -> i32 {
        self.take(4).try_into().map_or(0, i32::from_be_bytes)
    }

    /// Text or bytes.
    pub fn bytes(&mut self) -> &[u8] {
        let length = usize::try_from(self.number()).unwrap_or(0);
        self.take(length)
    }

    /// Text.
    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }
}

/// Fields to be written one after the other.
#[derive(Default)]
pub struct Fields(Vec<u8>);

impl Fields {
    /// A number.
    pub fn number(mut self, number: i32) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    /// Text or bytes.
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let mut fields = self.number(bytes.len() as i32);
        fields.0.extend_from_slice(bytes);
        fields
    }

    /// Yes or no.
    pub fn flag(mut self, flag: bool) -> Self {
        self.0.push(flag.into());
        self
    }

    fn long(mut self, number: i64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }
}

/// A connection with a session of its own: calls are written together, then their replies read.
pub struct Connection {
    socket: BufReader<TcpStream>,
    calls: Vec<u8>,
    last: i32,
}

impl Connection {
    /// Begins a session that lives so long without a word.
    pub async fn open(address: &str, timeout_ms: i32) -> io::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let mut connection = Self { socket: BufReader::with_capacity(64 << 10, socket), calls: Vec::new(), last: 0 };
        let hello = Fields::default().number(0).long(0).number(timeout_ms).long(0).bytes(&[0; 16]).flag(false);
        connection.calls = Fields::default().bytes(&hello.0).0;
        connection.send().await?;
        let mut hello = connection.frame().await?;
        let granted = (hello.number(), hello.number()).1;
        match granted == timeout_ms {
            true => Ok(connection),
            false => Err(io::Error::other(format!("a session of {granted} ms instead of {timeout_ms}"))),
        }
    }

    /// Says something, when `send` is called.
    pub fn say(&mut self, op: Op, fields: Fields) {
        let number = if let Op::Ping = op { PING } else { self.last + 1 };
        self.last = self.last.max(number);
        let mut call = Fields::default().number(number).number(op as i32);
        call.0.extend_from_slice(&fields.0);
        self.calls.extend_from_slice(&Fields::default().bytes(&call.0).0);
    }

    /// Makes a node with these bytes; one that is ephemeral goes with the session.
    pub fn create(&mut self, path: &str, bytes: &[u8], ephemeral: bool) {
        // Whoever comes may do everything.
        let all = Fields::default().bytes(path.as_bytes()).bytes(bytes).number(1).number(31);
        let fields = all.bytes(b"world").bytes(b"anyone").number(ephemeral.into());
        self.say(Op::Create, fields);
    }

    /// Writes what was said.
    pub async fn send(&mut self) -> io::Result<()> {
        self.socket.get_mut().write_all(&self.calls).await?;
        self.calls.clear();
        Ok(())
    }

    /// The next reply or event; an error of the server's is one.
    pub async fn reply(&mut self) -> Result<Reply, String> {
        let mut body = self.frame().await.map_err(|error| error.to_string())?;
        let number = body.number();
        body.take(8);
        match body.number() {
            0 => Ok(Reply { number, body }),
            code => Err(format!("the server answered {code}")),
        }
    }

    /// The same, of a node that may be there already, when its making was asked for before.
    pub async fn reply_or_there(&mut self) -> Result<(), String> {
        match self.reply().await {
            Err(why) if why.ends_with(NODE_EXISTS) => Ok(()),
            reply => reply.map(drop),
        }
    }

    async fn frame(&mut self) -> io::Result<Body> {
        let length = self.socket.read_i32().await?;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.socket.read_exact(&mut bytes).await?;
        Ok(Body(bytes, 0))
    }
}
