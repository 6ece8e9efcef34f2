//! A Hugging Face hub on a loopback port, and the other port that its large files are on.
//!
//! It has the sample's model under several names, `org/KIND`, and does to whom asks for it what the
//! kind says. Headers and redirects are those of huggingface.co.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clipmill::digest;
use serde_json::{Value, json};

use super::sample;

/// What `main` is at first, and what it may become.
pub const COMMITS: [&str; 2] =
    ["1111111111111111111111111111111111111111", "2222222222222222222222222222222222222222"];

/// The token that gated models want.
pub const TOKEN: &str = "hf_good";

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    pub token: Option<String>,
    /// Whether it came to the other port.
    pub cdn: bool,
}

/// A hub that runs until the test's process ends.
pub struct LoopbackHub {
    pub endpoint: String,
    state: Arc<State>,
}

struct State {
    files: HashMap<String, Vec<u8>>,
    main: Mutex<&'static str>,
    asked: Mutex<Vec<Asked>>,
    cdn: u16,
}

impl LoopbackHub {
    pub fn start() -> Self {
        let [own, cdn] = [(), ()].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
        let port = |listener: &TcpListener| listener.local_addr().expect("bound").port();
        let endpoint = format!("http://127.0.0.1:{}", port(&own));
        let state = State {
            files: files(),
            main: Mutex::new(COMMITS[0]),
            asked: Mutex::default(),
            cdn: port(&cdn),
        };
        let state = Arc::new(state);
        for (listener, is_cdn) in [(own, false), (cdn, true)] {
            let state = state.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let (Ok(stream), state) = (stream, state.clone()) else { continue };
                    std::thread::spawn(move || serve(stream, &state, is_cdn));
                }
            });
        }
        Self { endpoint, state }
    }

    /// Moves `main` to another commit of the same files.
    pub fn move_main(&self) {
        *self.state.main.lock().expect("no panic") = COMMITS[1];
    }

    /// What was asked for since the last time.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.state.asked.lock().expect("no panic"))
    }

    /// The name of the weights' bytes.
    pub fn weights_etag(&self) -> String {
        digest::of_bytes(&self.state.files["model.safetensors"])
    }
}

/// The sample's model, and its weights as what they are called elsewhere.
fn files() -> HashMap<String, Vec<u8>> {
    let dir = fs::read_dir(sample().join("model")).expect("the sample");
    let mut files: HashMap<_, _> = dir
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, fs::read(path).expect("a file"))
        })
        .collect();
    let weights = files["model.safetensors"].clone();
    let header = u64::from_le_bytes(weights[..8].try_into().expect("8 bytes")) as usize;
    let header: Value = serde_json::from_slice(&weights[8..8 + header]).expect("a header");
    let tensors = header.as_object().expect("tensors").keys().filter(|key| *key != "__metadata__");
    let shard = "model-00001-of-00001.safetensors";
    let map: serde_json::Map<_, _> = tensors.map(|name| (name.clone(), json!(shard))).collect();
    let index = json!({ "weight_map": map }).to_string().into_bytes();
    files.insert("model.safetensors.index.json".into(), index);
    files.insert(shard.into(), weights);
    files.insert("pytorch_model.bin".into(), b"code".to_vec());
    files
}

/// Whether a repository of that kind has a file. `README.md` and more it may have besides.
fn has(kind: &str, name: &str) -> bool {
    let sharded = name.starts_with("model-00001") || name == "model.safetensors.index.json";
    match name {
        "model.safetensors" => !["sharded", "pickled", "bare"].contains(&kind),
        "pytorch_model.bin" => kind == "pickled",
        _ => !sharded || kind == "sharded",
    }
}

fn serve(mut stream: TcpStream, state: &State, cdn: bool) {
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
    while let Some(asked) = request(&mut stream, cdn) {
        state.asked.lock().expect("no panic").push(asked.clone());
        let goes_on = match cdn {
            true => give(&mut stream, &asked, state),
            false => answer(&mut stream, &asked, state),
        };
        if goes_on.is_none() {
            return;
        }
    }
}

fn request(stream: &mut TcpStream, cdn: bool) -> Option<Asked> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let mut words = head.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let header = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        let mut found = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.to_owned())
    };
    Some(Asked { method, path, range: header("range"), token: header("authorization"), cdn })
}

fn say(stream: &mut TcpStream, asked: &Asked, head: &str, body: &[u8]) -> Option<()> {
    let head = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).ok()?;
    if asked.method == "GET" { stream.write_all(body).ok() } else { Some(()) }
}

/// The hub's own answers: `/org/KIND/resolve/REVISION/NAME`, and where it redirects small files to.
fn answer(stream: &mut TcpStream, asked: &Asked, state: &State) -> Option<()> {
    let parts: Vec<_> = asked.path.trim_start_matches('/').split('/').collect();
    let (kind, revision, name) = match parts.as_slice() {
        ["org", kind, "resolve", revision, name] => (*kind, *revision, *name),
        ["api", "resolve-cache", "org", kind, commit, name] => {
            let body = &state.files[*name];
            let etag = &digest::of_bytes(body)[..40];
            let head = format!("200 OK\r\nX-Repo-Commit: {commit}\r\nETag: \"{etag}\"");
            assert!(has(kind, name), "nobody is sent there");
            return say(stream, asked, &head, body);
        }
        _ => return say(stream, asked, "404 Not Found\r\nX-Error-Code: RepoNotFound", b""),
    };
    let is_good = asked.token.as_deref() == Some(&format!("Bearer {TOKEN}"));
    match kind {
        "private" => return say(stream, asked, "401 Unauthorized", b"Repository not found"),
        "gated" if !is_good => {
            let head = "403 Forbidden\r\nX-Error-Code: GatedRepo\r\nX-Error-Message: Ask first.";
            return say(stream, asked, head, b"");
        }
        "away" => return say(stream, asked, "503 Oops", b""),
        "busy" => {
            let all = state.asked.lock().expect("no panic");
            if all.iter().filter(|other| other.path == asked.path).count() == 1 {
                drop(all);
                return say(stream, asked, "429 Slow Down\r\nRetry-After: 0", b"");
            }
        }
        "nohub" => return say(stream, asked, "200 OK", b"<html></html>"),
        _ => {}
    }
    let commit = match revision {
        "main" => *state.main.lock().expect("no panic"),
        "v1" | "refs%2Fpr%2F1" => COMMITS[0],
        other if COMMITS.contains(&other) => other,
        _ => {
            return say(stream, asked, "404 Not Found\r\nX-Error-Code: RevisionNotFound", b"");
        }
    };
    let about = format!("X-Repo-Commit: {commit}");
    let body = state.files.get(name).filter(|_| has(kind, name));
    let Some(body) = body else {
        let head = format!("404 Not Found\r\nX-Error-Code: EntryNotFound\r\n{about}");
        return say(stream, asked, &head, b"");
    };
    if !name.ends_with(".safetensors") && !name.ends_with(".bin") {
        let place = format!("/api/resolve-cache/org/{kind}/{commit}/{name}");
        return say(
            stream,
            asked,
            &format!("307 Temporary Redirect\r\n{about}\r\nLocation: {place}"),
            b"",
        );
    }
    let (etag, size) = (digest::of_bytes(body), body.len());
    let scheme = if kind == "elsewhere" { "https" } else { "http" };
    let place = format!("{scheme}://127.0.0.1:{}/{kind}/{name}?Signature=secret", state.cdn);
    let head = format!(
        "302 Found\r\n{about}\r\nX-Linked-Etag: \"{etag}\"\r\nX-Linked-Size: {size}\r\n\
         Location: {place}"
    );
    say(stream, asked, &head, b"Found. Redirecting")
}

/// The other port's: `/KIND/NAME`.
fn give(stream: &mut TcpStream, asked: &Asked, state: &State) -> Option<()> {
    let path = asked.path.split('?').next()?;
    let (kind, name) = path.trim_start_matches('/').split_once('/')?;
    let mut body = state.files[name].clone();
    let from = asked.range.as_deref().and_then(|range| range.strip_prefix("bytes="));
    let from = from.and_then(|range| range.strip_suffix('-')?.parse::<usize>().ok());
    let head = match from {
        Some(from) if kind != "norange" => {
            let of = body.len();
            body.drain(..from);
            format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{of}", of - 1)
        }
        _ => "200 OK".to_owned(),
    };
    match kind {
        "wrong" => body[0] ^= 1,
        "slow" => std::thread::sleep(Duration::from_millis(1500)),
        "cut" | "norange" if from.unwrap_or(0) < state.files[name].len() / 2 => {
            let n_before = state.asked.lock().expect("no panic");
            let n_before = n_before.iter().filter(|other| other.path == asked.path).count();
            if kind == "cut" || n_before == 1 {
                let head = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all(head.as_bytes()).ok()?;
                stream.write_all(&body[..body.len() / 3]).ok()?;
                return None;
            }
        }
        _ => {}
    }
    say(stream, asked, &head, &body)
}
