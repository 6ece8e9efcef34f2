//! Who works on an output in a store: objects that say so, renewed while their processes live.
//!
//! Stores have no locks. Who wants one puts an object of its own first and looks at those of the
//! others then: of two who come at once, each sees the other or is seen. A holder renews its object;
//! one that is not renewed for [`DEAD_AFTER`], by the clock of whoever waits, belongs to nobody, and
//! neither does one of a process of this machine that is gone. A process that was stopped for longer
//! and goes on writes the same parts as the one that took its place, whole as ever: what a lease saves
//! is work.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{list, put, read, remove};

/// How often a holder renews its lease.
const RENEWED_EVERY: Duration = Duration::from_secs(5);

/// How long a lease is taken for a living one that nobody renews.
pub const DEAD_AFTER: Duration = Duration::from_secs(30);

/// How often someone who waits looks.
const LOOKED_EVERY: Duration = Duration::from_millis(500);

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
        self.machine == own.machine && Self::began(self.id).as_ref() != Some(&self.began)
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
        // The time first: of two who come at once, the earlier one goes on.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.unwrap_or_default().as_nanos();
        let name = format!("{prefix}{now:032}-{}-{}", process.id, &tag(&process));
        let path = dir.join(name);
        let mut said = Said { holder: holder.to_owned(), process, scope, held: false, turn: 0 };
        // Dropped without a renewer, it only removes its object.
        let mut lease = Self { path, stop: None, renewer: None };
        lease.say(&said)?;
        lease.wait_for_others(dir, prefix, &said)?;
        (said.held, said.turn) = (true, 1);
        lease.say(&said)?;
        let (stop, stopped) = channel();
        let path = lease.path.clone();
        let renew = move || {
            // Ended by whoever drops the lease.
            while stopped.recv_timeout(RENEWED_EVERY) == Err(RecvTimeoutError::Timeout) {
                said.turn += 1;
                // One that fails is made good by the next; the store may be away for a while.
                let _ = say(&path, &said);
            }
        };
        lease.renewer = Some(Builder::new().name("lease".to_owned()).spawn(renew)?);
        lease.stop = Some(stop);
        Ok(lease)
    }

    fn say(&self, said: &Said) -> io::Result<()> {
        say(&self.path, said)
    }

    /// Until nobody has a lease that excludes this one, or somebody who lives does.
    fn wait_for_others(&self, dir: &Path, prefix: &str, own: &Said) -> Result<(), Refused> {
        for entry in list(dir, false)? {
            let name = entry.path.file_name().unwrap_or_default().to_string_lossy();
            if !name.starts_with(prefix) || entry.path == self.path {
                continue;
            }
            let Some(mut last) = heard(&entry.path)? else { continue };
            let mut since = Instant::now();
            while own.scope.excludes(&last.scope) {
                let holder = || last.holder.clone();
                // Of two who have only just come, the earlier goes on.
                if !last.held && entry.path < self.path && !last.process.is_gone(&own.process) {
                    return Err(Refused::Held { holder: holder() });
                }
                if last.process.is_gone(&own.process) || since.elapsed() > DEAD_AFTER {
                    remove(&entry.path)?;
                    break;
                }
                if last.held && last.process.machine == own.process.machine {
                    return Err(Refused::Held { holder: holder() });
                }
                std::thread::sleep(LOOKED_EVERY);
                let Some(now) = heard(&entry.path)? else { break };
                if now != last {
                    if now.held && last.held {
                        return Err(Refused::Held { holder: holder() });
                    }
                    (last, since) = (now, Instant::now());
                }
            }
        }
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(renewer) = self.renewer.take() {
            // It has nothing to say but that it ended.
            let _ = renewer.join();
        }
        // Best effort: one that stays is dead, as its process is.
        let _ = remove(&self.path);
    }
}

fn say(path: &Path, said: &Said) -> io::Result<()> {
    put(path, &serde_json::to_vec(said).expect("strings and numbers are JSON"))
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
