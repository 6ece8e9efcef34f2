//! Who works on an output in a store: objects that say so, renewed while their processes live.
//!
//! Stores have no locks. Who wants one puts an object of its own first and looks at those of the
//! others then: of two who come at once, each sees the other or is seen. A holder renews its object;
//! one that is not renewed for [`DEAD_AFTER`], by the clock of whoever waits, belongs to nobody, and
//! neither does one of a process of this machine that is gone. A holder that cannot renew its own for
//! [`LOST_AFTER`] ends: the output may be somebody else's.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

use super::{level, put, put_within, read, remove, remove_within};
use crate::error::{Error, leave};
use crate::log;

/// How often a holder renews its lease.
const RENEWED_EVERY: Duration = Duration::from_secs(5);

/// How long a lease is taken for a living one that nobody renews.
const DEAD_AFTER: Duration = Duration::from_secs(30);

/// How long a holder goes on whose lease cannot be renewed.
const LOST_AFTER: Duration = Duration::from_secs(20);

/// How long a lease is held back by a store that does not answer when it is let go.
const FAREWELL: Duration = Duration::from_secs(3);

/// How often someone who waits looks.
const LOOKED_EVERY: Duration = Duration::from_secs(1);

/// What a lease is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All of the output.
    Whole,
    /// Parts of it, by file name.
    Parts(BTreeSet<String>),
    /// Its manifest, for a short while.
    Manifest,
}

impl Scope {
    fn excludes(&self, other: &Scope) -> bool {
        match (self, other) {
            (Scope::Manifest, other) | (other, Scope::Manifest) => *other == Scope::Manifest,
            (Scope::Whole, _) | (_, Scope::Whole) => true,
            (Scope::Parts(ours), Scope::Parts(theirs)) => !ours.is_disjoint(theirs),
        }
    }
}

/// What the object says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Said {
    holder: String,
    process: Process,
    scope: Scope,
    /// Whether its owner has looked at the others and works.
    held: bool,
    /// Another each time.
    turn: u64,
}

/// A process, told from any other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Process {
    /// The kernel's boot and its namespace of process numbers.
    machine: String,
    id: u32,
    /// When it began, as the kernel counts.
    began: String,
}

impl Process {
    fn own() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let boot = text("/proc/sys/kernel/random/boot_id");
        let space = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let id = std::process::id();
        let machine = format!("{} {}", boot.trim(), space.display());
        Self { machine, id, began: Self::began(id).unwrap_or_default() }
    }

    /// proc_pid_stat(5): field 22, counted behind the name, which may hold anything.
    fn began(id: u32) -> Option<String> {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
    }

    /// Whether it is known to be gone: only this machine's are.
    fn is_gone(&self, own: &Process) -> bool {
        // Where the kernel does not say which machine this is, nobody is known.
        if self.machine != own.machine || self.machine.starts_with(' ') {
            return false;
        }
        match Self::began(self.id) {
            Some(began) => began != self.began,
            // Others' processes may be hidden.
            None => Pid::from_raw(self.id as i32)
                .is_none_or(|pid| test_kill_process(pid) == Err(Errno::SRCH)),
        }
    }
}

/// A lease that is held, until it is dropped.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    stop: Option<Sender<()>>,
    renewer: Option<JoinHandle<()>>,
}

/// Why a lease was not given.
#[derive(Debug)]
pub enum Refused {
    /// Somebody who is alive has one that excludes it.
    Held {
        holder: String,
    },
    Io(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Refused::Io(error)
    }
}

impl Lease {
    /// Takes a lease on the output at `dir`, on behalf of `holder`; `prefix` is what the names of all
    /// leases begin with.
    ///
    /// # Errors
    /// `Held`, after some seconds where the holder is on another machine; `Io`.
    pub fn take(dir: &Path, prefix: &str, holder: &str, scope: Scope) -> Result<Self, Refused> {
        let process = Process::own();
        // Any order will do, as long as all see the same.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.unwrap_or_default().as_nanos();
        let path = dir.join(format!("{prefix}{now:032}-{}-{}", process.id, tag(&process)));
        let mut said = Said { holder: holder.to_owned(), process, scope, held: false, turn: 0 };
        // Dropped without a renewer, it only removes its object.
        let mut lease = Self { path, stop: None, renewer: None };
        lease.wait_for_others(dir, prefix, &mut said)?;
        said.held = true;
        lease.say(&mut said)?;
        // Who was silent for too long meanwhile, and taken for dead, may have come back.
        for (path, other) in others(dir, prefix, &lease.path)? {
            if other.held && said.scope.excludes(&other.scope) && path < lease.path {
                return Err(Refused::Held { holder: other.holder });
            }
        }
        let (stop, stopped) = channel();
        let path = lease.path.clone();
        let renew = move || renew(&path, said, &stopped);
        lease.renewer = Some(Builder::new().name("lease".to_owned()).spawn(renew)?);
        lease.stop = Some(stop);
        Ok(lease)
    }

    fn say(&self, said: &mut Said) -> io::Result<()> {
        said.turn += 1;
        say(&self.path, said)
    }

    /// Until nobody has a lease that excludes this one, or somebody who lives does.
    fn wait_for_others(&self, dir: &Path, prefix: &str, own: &mut Said) -> Result<(), Refused> {
        // What each said last, and since when it has said nothing else.
        let mut heard: HashMap<PathBuf, (Said, Instant)> = HashMap::new();
        loop {
            // Others wait for this one too, and want to know that it lives.
            self.say(own)?;
            let mut is_free = true;
            for (path, other) in others(dir, prefix, &self.path)? {
                if other.process.is_gone(&own.process) {
                    remove(&path)?;
                    continue;
                }
                if !own.scope.excludes(&other.scope) {
                    continue;
                }
                let now = || (other.clone(), Instant::now());
                let (last, since) = heard.entry(path.clone()).or_insert_with(now);
                let is_new = *last != other;
                if is_new {
                    (*last, *since) = now();
                }
                // Of two who wait, the one whose name comes first goes on and the other leaves.
                let goes_first = other.held || path < self.path;
                let lives = is_new || other.process.machine == own.process.machine;
                if goes_first && lives {
                    return Err(Refused::Held { holder: other.holder });
                }
                if since.elapsed() > DEAD_AFTER {
                    remove(&path)?;
                } else {
                    is_free = false;
                }
            }
            if is_free {
                return Ok(());
            }
            std::thread::sleep(LOOKED_EVERY);
        }
    }
}

/// Says that the holder lives, until it lets go.
fn renew(path: &Path, mut said: Said, stopped: &Receiver<()>) {
    let mut last = Instant::now();
    // Ended by whoever drops the lease.
    while stopped.recv_timeout(RENEWED_EVERY) == Err(RecvTimeoutError::Timeout) {
        if last.elapsed() < LOST_AFTER {
            said.turn += 1;
            let renewed = say_within(path, &said, LOST_AFTER / 2);
            // One that fails is made good by the next.
            if renewed.is_ok() {
                last = Instant::now();
            }
        }
        if last.elapsed() >= LOST_AFTER {
            // Somebody else may have the output by now.
            let why = "nobody could be told for too long that this process lives";
            let source = io::Error::new(io::ErrorKind::HostUnreachable, why);
            log::error(&Error::io("keep the lease", path)(source));
            // At once: nothing more may be published, and telling others takes a while.
            leave(75);
        }
    }
}

/// The leases in a folder, but for one's own. What is not understood is nobody's.
fn others(dir: &Path, prefix: &str, own: &Path) -> io::Result<Vec<(PathBuf, Said)>> {
    let mut found = Vec::new();
    for entry in level(dir)?.0 {
        let name = entry.path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(prefix)
            && entry.path != own
            && let Some(said) = heard(&entry.path)?
        {
            found.push((entry.path, said));
        }
    }
    Ok(found)
}

impl Drop for Lease {
    /// Takes no longer than some seconds, whatever the store does: what stays is dead, as its process is.
    fn drop(&mut self) {
        self.stop = None;
        let until = Instant::now() + FAREWELL;
        while self.renewer.as_ref().is_some_and(|thread| !thread.is_finished())
            && Instant::now() < until
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = remove_within(&self.path, FAREWELL);
    }
}

fn say(path: &Path, said: &Said) -> io::Result<()> {
    put(path, &json(said))
}

fn say_within(path: &Path, said: &Said, limit: Duration) -> io::Result<()> {
    put_within(path, &json(said), limit)
}

fn json(said: &Said) -> Vec<u8> {
    serde_json::to_vec(said).expect("strings and numbers are JSON")
}

/// What a lease says, if it is there. One that says nothing that is understood is nobody's.
fn heard(path: &Path) -> io::Result<Option<Said>> {
    match read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What tells processes of one number apart, on machines whose clocks agree by chance.
fn tag(process: &Process) -> String {
    crate::digest::of_bytes(format!("{} {}", process.machine, process.began).as_bytes())[..8]
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_exclude_the_same_parts_and_the_whole() {
        let parts = |names: &[&str]| Scope::Parts(names.iter().map(|n| n.to_string()).collect());
        assert!(parts(&["a", "b"]).excludes(&parts(&["b"])));
        assert!(!parts(&["a"]).excludes(&parts(&["b"])));
        assert!(Scope::Whole.excludes(&parts(&["b"])) && parts(&["b"]).excludes(&Scope::Whole));
        assert!(Scope::Manifest.excludes(&Scope::Manifest));
        assert!(
            !Scope::Manifest.excludes(&Scope::Whole) && !parts(&["a"]).excludes(&Scope::Manifest)
        );
    }

    #[test]
    fn a_process_is_told_from_a_later_one_of_its_number() {
        let own = Process::own();
        assert!(!own.began.is_empty() && !own.is_gone(&own));
        assert!(Process { began: "1".into(), ..own.clone() }.is_gone(&own));
        assert!(!Process { machine: "another".into(), id: 0, began: "1".into() }.is_gone(&own));
    }
}
