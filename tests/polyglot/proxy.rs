//! A way to a server that knows HTTP/2's frames, and nothing of what is in them. It can go dead without a word, say that
//! connections are to be left (GOAWAY), and cut them.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

/// Length of a frame's head: its length in three bytes, its type, its flags, its stream.
const HEAD: usize = 9;
/// "No error; what I may have begun goes on": of no stream, the last stream is the largest there is.
const GOAWAY: [u8; HEAD + 8] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// The frames that a head is in, and the flag of the last of them.
const HEADERS: u8 = 1;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// A connection and the one behind it.
struct Link {
    client: TcpStream,
    server: TcpStream,
    /// Carries nothing any more, and both ends stay open.
    is_dead: bool,
    /// A GOAWAY is to be said to the client.
    leave: bool,
}

/// The way, until the test ends.
pub struct Proxy {
    address: SocketAddr,
    links: Arc<Mutex<Vec<Link>>>,
}

impl Proxy {
    /// A way to `target`.
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self { address: listener.local_addr().unwrap(), links: Arc::default() };
        let links = Arc::clone(&proxy.links);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // Nobody there: the client is told so by a closed connection.
                let Ok(server) = TcpStream::connect(target) else { continue };
                let number = {
                    let mut links = links.lock().unwrap_or_else(PoisonError::into_inner);
                    let (client, server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                    links.push(Link { client, server, is_dead: false, leave: false });
                    links.len() - 1
                };
                let (up, down) = (Carrier::of(&links, number), Carrier::of(&links, number));
                let ends = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || up.bytes(&ends.0, &ends.1));
                thread::spawn(move || down.frames(&server, &client));
            }
        });
        proxy
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is open now goes dead, without a word to either end. New connections work.
    pub fn dead_end(&self) {
        self.lock().iter_mut().for_each(|link| link.is_dead = true);
    }

    /// Says on each connection, when the server next says something, that no new call is to be made there.
    pub fn ask_to_leave(&self) {
        self.lock().iter_mut().for_each(|link| link.leave = true);
    }

    /// Ends the connections that were opened first.
    pub fn cut(&self, first: usize) {
        for link in self.lock().iter().take(first).filter(|link| !link.is_dead) {
            // They may be closed already.
            let _ = (link.client.shutdown(Shutdown::Both), link.server.shutdown(Shutdown::Both));
        }
    }
}

/// One direction of a link.
struct Carrier {
    links: Arc<Mutex<Vec<Link>>>,
    number: usize,
}

impl Carrier {
    fn of(links: &Arc<Mutex<Vec<Link>>>, number: usize) -> Self {
        Self { links: Arc::clone(links), number }
    }

    fn link<T>(&self, look: impl FnOnce(&mut Link) -> T) -> T {
        look(&mut self.links.lock().unwrap_or_else(PoisonError::into_inner)[self.number])
    }

    fn end(&self, to: &TcpStream) {
        if !self.link(|link| link.is_dead) {
            // The other end may be gone already.
            let _ = to.shutdown(Shutdown::Both);
        }
    }

    fn bytes(&self, mut from: &TcpStream, mut to: &TcpStream) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            if !self.link(|link| link.is_dead) && to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        self.end(to);
    }

    fn frames(&self, from: &TcpStream, mut to: &TcpStream) {
        // Between a head and its continuations nothing else may be said.
        let mut is_within = false;
        while let Ok(frame) = read_frame(from) {
            let leave = |link: &mut Link| !is_within && std::mem::take(&mut link.leave);
            let (is_dead, leave) = self.link(|link| (link.is_dead, leave(link)));
            is_within = [HEADERS, PUSH_PROMISE, CONTINUATION].contains(&frame[3]) && frame[4] & END_HEADERS == 0;
            let told = if leave { to.write_all(&GOAWAY) } else { Ok(()) };
            if !is_dead && told.and_then(|()| to.write_all(&frame)).is_err() {
                break;
            }
        }
        self.end(to);
    }
}

fn read_frame(mut from: &TcpStream) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; HEAD];
    from.read_exact(&mut frame)?;
    let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]);
    frame.resize(HEAD + length as usize, 0);
    from.read_exact(&mut frame[HEAD..])?;
    Ok(frame)
}
