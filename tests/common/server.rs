//! A web server on a loopback port that does what servers should not, as its paths say.
//!
//! `/KIND/ANYTHING`: the kind decides, and what follows tells one row's URL from another's.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::sample;

/// A server that runs until the test's process ends.
pub struct Server {
    pub port: u16,
    /// Connections that were made to it.
    pub connections: Arc<AtomicUsize>,
    state: Arc<State>,
}

struct State {
    hits: Mutex<HashMap<String, usize>>,
    /// Requests being answered, and the most that ever were.
    busy: AtomicUsize,
    busiest: AtomicUsize,
    image: Vec<u8>,
    packed: Vec<u8>,
    forbidden: u16,
}

impl Server {
    /// Starts one. Its redirects lead to `forbidden`, another port of this machine.
    pub fn start(forbidden: u16) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").expect("a port"), forbidden)
    }

    pub fn on(listener: TcpListener, forbidden: u16) -> Self {
        let port = listener.local_addr().expect("bound").port();
        let connections = Arc::new(AtomicUsize::new(0));
        let image = fs::read(sample().join("images/001-1f4cf.jpg")).expect("an image");
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(&image).expect("memory");
        let state = Arc::new(State {
            hits: Mutex::default(),
            busy: AtomicUsize::new(0),
            busiest: AtomicUsize::new(0),
            image,
            packed: packed.finish().expect("memory"),
            forbidden,
        });
        let (counted, shared) = (connections.clone(), state.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                counted.fetch_add(1, Ordering::SeqCst);
                let (Ok(stream), state) = (stream, shared.clone()) else { continue };
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { port, connections, state }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// How often a path was asked for.
    pub fn hits(&self, path: &str) -> usize {
        let hits = self.state.hits.lock().expect("no panic");
        hits.get(&format!("/{path}")).copied().unwrap_or(0)
    }

    /// All requests.
    pub fn requests(&self) -> usize {
        self.state.hits.lock().expect("no panic").values().sum()
    }

    /// The most requests that were being answered at once.
    pub fn busiest(&self) -> usize {
        self.state.busiest.load(Ordering::SeqCst)
    }
}

fn serve(mut stream: TcpStream, state: &State) {
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
    while let Some(path) = request_line(&mut stream) {
        let nth = {
            let mut hits = state.hits.lock().expect("no panic");
            let nth = hits.entry(path.clone()).or_insert(0);
            *nth += 1;
            *nth
        };
        let busy = state.busy.fetch_add(1, Ordering::SeqCst) + 1;
        state.busiest.fetch_max(busy, Ordering::SeqCst);
        let goes_on = answer(&mut stream, &path, nth, state);
        state.busy.fetch_sub(1, Ordering::SeqCst);
        if goes_on.is_none() {
            return;
        }
    }
}

/// Reads `GET PATH ...`, and no byte more.
fn request_line(stream: &mut TcpStream) -> Option<String> {
    let mut first = [0];
    if stream.peek(&mut first).ok()? == 1 && first == [0x16] {
        // TLS, which is not spoken here. All of it is read, or the connection would be reset.
        let _ = stream.read(&mut [0; 0x10000]);
        let _ = stream.write_all(b"HTTP/1.1 400 No TLS here\r\n\r\n");
        let _ = stream.read(&mut [0; 0x10000]);
        return None;
    }
    let line = until(stream, b"\n")?;
    let line = String::from_utf8(line).ok()?;
    Some(line.split(' ').nth(1)?.to_owned())
}

fn until(stream: &mut TcpStream, end: &[u8]) -> Option<Vec<u8>> {
    let mut read = Vec::new();
    let mut byte = [0];
    while !read.ends_with(end) {
        stream.read_exact(&mut byte).ok()?;
        read.push(byte[0]);
    }
    Some(read)
}

/// Answers one request. None where the connection is to be closed.
fn answer(stream: &mut TcpStream, path: &str, nth: usize, state: &State) -> Option<()> {
    let kind = path.split(['/', '?']).nth(1).unwrap_or_default();
    let image = &state.image;
    if kind == "reset" {
        // Closed with bytes unread, the connection is reset.
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegun");
        return None;
    }
    until(stream, b"\r\n\r\n")?;
    let mut say = |head: &str, body: &[u8]| -> Option<()> {
        stream.write_all(format!("HTTP/1.1 {head}\r\n\r\n").as_bytes()).ok()?;
        stream.write_all(body).ok()
    };
    let sized = |status: &str, n: usize| format!("{status}\r\nContent-Length: {n}");
    let to = |url: String| format!("302 Found\r\nLocation: {url}\r\nContent-Length: 0");
    match kind {
        "good" => say(&sized("200 OK", image.len()), image),
        "slow" => {
            std::thread::sleep(Duration::from_millis(100));
            say(&sized("200 OK", image.len()), image)
        }
        "chunked" => {
            say(
                "200 OK\r\nTransfer-Encoding: chunked",
                format!("{:x}\r\n", image.len()).as_bytes(),
            )?;
            stream.write_all(image).ok()?;
            stream.write_all(b"\r\n0\r\n\r\n").ok()
        }
        "to-the-end" => {
            say("200 OK", image);
            None
        }
        "stall" => {
            // Until the client hangs up.
            let _ = stream.read(&mut [0]);
            None
        }
        "stall-midway" => {
            say(&sized("200 OK", image.len()), &image[..100]);
            let _ = stream.read(&mut [0]);
            None
        }
        "longer-said" => {
            say(&sized("200 OK", image.len() + 100), image);
            None
        }
        "shorter-said" => {
            say(&sized("200 OK", image.len() / 2), image);
            None
        }
        "chunks-cut" => {
            say("200 OK\r\nTransfer-Encoding: chunked", b"ffff\r\nbegun");
            None
        }
        "huge" => {
            say("200 OK\r\nTransfer-Encoding: chunked", b"")?;
            let block = [&b"10000\r\n"[..], &[7; 0x10000], b"\r\n"].concat();
            while stream.write_all(&block).is_ok() {}
            None
        }
        "huge-said" => {
            say(&sized("200 OK", 99_999_999_999), b"begun");
            None
        }
        "away" => say(&to(format!("http://127.0.0.1:{}/inside", state.forbidden)), b""),
        "away-by-name" => say(&to(format!("http://localhost:{}/inside", state.forbidden)), b""),
        "away-to-file" => say(&to("file:///etc/passwd".into()), b""),
        "loop" => say(&to(path.into()), b""),
        "three-hops" => say(&to(format!("/two-hops{path}")), b""),
        "two-hops" => say(&to(format!("/one-hop{path}")), b""),
        "one-hop" => say(&to(format!("/good{path}")), b""),
        "nowhere" => say("302 Found\r\nContent-Length: 0", b""),
        "busy-once" if nth == 1 => {
            say("429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0", b"")
        }
        "broken-once" if nth == 1 => say(&sized("500 Oops", 0), b""),
        "busy-once" | "broken-once" => say(&sized("200 OK", image.len()), image),
        "later" if nth <= 2 => say(&sized("503 Not yet", 0), b""),
        "later" => say(&sized("200 OK", image.len()), image),
        "broken" => say(&sized("503 Oops", 0), b""),
        "text" => say(&sized("200 OK", 13), b"<html></html>"),
        "packed" => {
            let head = sized("200 OK", state.packed.len());
            say(&format!("{head}\r\nContent-Encoding: gzip"), &state.packed)
        }
        "empty" => say(&sized("200 OK", 0), b""),
        "garbage" => {
            let _ = stream.write_all(b"SSH-2.0-no web server\r\n");
            None
        }
        status => say(&sized(&format!("{status} As asked"), 0), b""),
    }
}
