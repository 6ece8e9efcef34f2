//! Images that kill the process: told after one death, and never met again.
//!
//! A decoder's panic is contained (`contain`). Its abort, its segmentation fault or its endless
//! loop is not: they take the process with them. So each thread writes down which row it is at
//! before it decodes, in a file that outlives the process. The next run of the same job finds the
//! rows that were in flight, tries their images in a child process with limits of memory and time,
//! and remembers the bytes that killed that. Wherever these bytes come again, the row is
//! `decoder_crash`.
//!
//! Which row that is in which table is not known here.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::num::NonZeroU64;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use memmap2::MmapMut;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::digest;
use crate::error::{Error, RowError, RowStatus};
use crate::files;

/// How the journals' names begin in an output folder.
const NAME: &str = "_in_flight";

/// A row of an input, whatever the plan that reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowId {
    /// Which input: no 0.
    pub input: NonZeroU64,
    /// Row of the input.
    pub row: u64,
}

/// What each thread is decoding now, in a file that is mapped into memory: what is stored there
/// is the kernel's, and stays when the process dies.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    map: MmapMut,
    began: Instant,
    /// Locked as long as the process lives.
    _file: File,
}

/// One thread's entry. The input is stored last; 0 is an idle thread.
#[repr(C)]
struct Slot {
    input: AtomicU64,
    row: AtomicU64,
    /// Milliseconds after the journal's beginning.
    since: AtomicU64,
    /// Fills the cache line.
    _unused: [u64; 5],
}

/// A thread at work on a row. Dropped, the row is done.
pub struct InFlight<'a> {
    slot: &'a Slot,
    began: Instant,
}

impl InFlight<'_> {
    /// Begins to count the time anew.
    pub fn restart(&self) {
        self.slot.since.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.slot.input.store(0, Ordering::Release);
    }
}

impl Journal {
    /// A journal for so many threads in an output folder, under a name that no other has had: that
    /// of a dead process is there until its rows were tried.
    pub fn create(dir: &Path, threads: usize) -> Result<Self, Error> {
        let (mut file, path) = files::create_unique(dir, NAME)?;
        // Room on the disk: a hole that cannot be filled ends the process where it is written to.
        file.write_all(&vec![0; (threads + 1) * size_of::<Slot>()])
            .map_err(Error::io("write", &path))?;
        // Under its name it is locked, and nobody takes it for that of a dead process.
        flock(file.as_file(), FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| Error::io("lock", &path)(error.into()))?;
        let kept = file.keep().map_err(|error| Error::io("keep", &path)(error.error))?;
        let (file, temporary) = kept;
        fs::rename(&temporary, &path).map_err(Error::io("rename into place", &path))?;
        // SAFETY: the file is this process's own, and locked; nobody makes it shorter.
        let map = unsafe { MmapMut::map_mut(&file) }.map_err(Error::io("map", &path))?;
        Ok(Self { path, map, began: Instant::now(), _file: file })
    }

    /// Writes down that this thread, one of rayon's, begins with a row.
    pub fn enter(&self, row: RowId) -> InFlight<'_> {
        let (slots, thread) = (self.slots(), rayon::current_thread_index());
        let slot = &slots[thread.map_or(0, |index| index + 1).min(slots.len() - 1)];
        slot.row.store(row.row, Ordering::Relaxed);
        let in_flight = InFlight { slot, began: self.began };
        in_flight.restart();
        slot.input.store(row.input.get(), Ordering::Release);
        in_flight
    }

    /// Calls `on_hang` once, from a thread of its own, when a row takes longer than `limit`.
    pub fn watch(self: &Arc<Self>, limit: Duration, on_hang: impl FnOnce(RowId) + Send + 'static) {
        let journal = Arc::downgrade(self);
        let watch = move || {
            while let Some(journal) = Weak::upgrade(&journal) {
                if let Some(row) = journal.overdue(limit) {
                    return on_hang(row);
                }
                drop(journal);
                std::thread::sleep(Duration::from_millis(250).min(limit / 4));
            }
        };
        // Without it a hang is only not ended.
        drop(std::thread::Builder::new().name("watch".to_owned()).spawn(watch));
    }

    fn overdue(&self, limit: Duration) -> Option<RowId> {
        let latest = self.began.elapsed().checked_sub(limit)?.as_millis() as u64;
        let mut slots = self.slots().iter();
        let slot = slots.find(|slot| {
            // In this order: the time is then of this row, or of a later one.
            slot.input.load(Ordering::Acquire) != 0 && slot.since.load(Ordering::Relaxed) < latest
        })?;
        slot.at()
    }

    fn slots(&self) -> &[Slot] {
        slots(&self.map)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Best effort: one that stays is read, found idle and removed by the next run.
        if self.slots().iter().all(|slot| slot.at().is_none()) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Slot {
    fn at(&self) -> Option<RowId> {
        let input = NonZeroU64::new(self.input.load(Ordering::Acquire))?;
        Some(RowId { input, row: self.row.load(Ordering::Relaxed) })
    }
}

/// The slots in a journal's bytes.
fn slots(bytes: &[u8]) -> &[Slot] {
    // SAFETY: a slot is atomics and integers, for which every bit pattern is a value, and which
    // may change under a shared reference; `align_to` gives only whole and aligned ones.
    unsafe { bytes.align_to::<Slot>() }.1
}

/// Whether a file in an output folder is a journal.
pub fn is_journal(name: &str) -> bool {
    name.starts_with(NAME)
}

/// The journals that dead processes left in an output folder, and the rows that they were at.
pub fn left_behind(dir: &Path) -> Result<(Vec<PathBuf>, Vec<RowId>), Error> {
    let (mut journals, mut rows) = (Vec::new(), Vec::new());
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((journals, rows)),
        entries => entries.map_err(Error::io("list", dir))?,
    };
    for entry in entries {
        let entry = entry.map_err(Error::io("list", dir))?;
        if !is_journal(&entry.file_name().to_string_lossy()) {
            continue;
        }
        let path = entry.path();
        // For writing too: NFS locks nothing else.
        let mut file = match File::options().read(true).write(true).open(&path) {
            // Its process has ended well meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            open => open.map_err(Error::io("open", &path))?,
        };
        // Shared: others may be looking as well.
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            // The living hold theirs.
            Err(Errno::WOULDBLOCK) => continue,
            locked => locked.map_err(|error| Error::io("lock", &path)(error.into()))?,
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(Error::io("read", &path))?;
        for slot in bytes.chunks_exact(size_of::<Slot>()) {
            let number = |at: usize| {
                let bytes = slot[at..at + 8].try_into().expect("8 bytes");
                u64::from_ne_bytes(bytes)
            };
            if let Some(input) = NonZeroU64::new(number(0)) {
                rows.push(RowId { input, row: number(8) });
            }
        }
        journals.push(path);
    }
    rows.sort();
    rows.dedup();
    Ok((journals, rows))
}

/// Bytes that killed a process that decoded them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Killer {
    pub bytes: u64,
    pub sha256: String,
    /// How it died.
    pub death: String,
}

impl Killer {
    /// What a row with these bytes is, if they are a killer's. Digests them only where one has
    /// their length.
    pub fn among(killers: &[Killer], bytes: &[u8]) -> Option<RowError> {
        let mut alike =
            killers.iter().filter(|killer| killer.bytes == bytes.len() as u64).peekable();
        alike.peek()?;
        let sha256 = digest::of_bytes(bytes);
        let killer = alike.find(|killer| killer.sha256 == sha256)?;
        let message = format!("decoding these bytes ended the process: {}", killer.death);
        Some(RowError::new(RowStatus::DecoderCrash, message))
    }
}

/// Decodes images in child processes, one after another in the same child until it dies, and
/// returns those that killed one or took longer than `limit`.
///
/// `command` starts a program that calls [`serve_trials`].
pub fn try_images(
    command: impl Fn() -> Command,
    images: &[Vec<u8>],
    limit: Duration,
) -> Result<Vec<Killer>, Error> {
    let mut killers = Vec::new();
    let mut trial = None;
    for image in images {
        let mut running = match trial.take() {
            Some(running) => running,
            None => Trial::start(command())?,
        };
        match running.decode(image, limit)? {
            None => trial = Some(running),
            Some(death) => {
                let (bytes, sha256) = (image.len() as u64, digest::of_bytes(image));
                killers.push(Killer { bytes, sha256, death });
            }
        }
    }
    Ok(killers)
}

/// How long a child may take until it is ready: the system reads its libraries from a disk.
const STARTING: Duration = Duration::from_secs(120);

/// A child process that decodes.
struct Trial {
    child: Child,
    images: Option<ChildStdin>,
    /// One when it is ready, and one for each image that was survived. Closed when the child is gone.
    survived: Receiver<()>,
}

impl Trial {
    fn start(mut command: Command) -> Result<Self, Error> {
        let program = PathBuf::from(command.get_program());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(Error::io("start", &program))?;
        let mut answers = child.stdout.take().expect("stdout is piped");
        let (tx, survived) = channel();
        let listen = move || {
            let mut answer = [0];
            while answers.read_exact(&mut answer).is_ok() && tx.send(()).is_ok() {}
        };
        let listener = std::thread::Builder::new().name("trial".to_owned()).spawn(listen);
        listener.map_err(|source| Error::Thread { stage: "trial", source })?;
        let images = child.stdin.take();
        let trial = Self { child, images, survived };
        // Its first answer is that it is ready.
        match trial.survived.recv_timeout(STARTING) {
            Ok(()) => Ok(trial),
            Err(_) => Err(Error::io("start", program)(ended_early())),
        }
    }

    /// Gives the child an image. `None` if it lives on, else how it died of it.
    ///
    /// # Errors
    /// `Io` if something else ended it.
    fn decode(&mut self, image: &[u8], limit: Duration) -> Result<Option<String>, Error> {
        let images = self.images.as_mut().expect("only dropped with the trial");
        // Where writing fails the child is dead, and its answer is that there is none.
        let length = (image.len() as u64).to_le_bytes();
        let _ = images.write_all(&length).and_then(|()| images.write_all(image));
        match self.survived.recv_timeout(limit) {
            Ok(()) => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                Ok(Some(format!("it took more than {} s", limit.as_secs_f64())))
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.wait().map_err(Error::io("wait for", "a trial"))?;
                let death = in_words(status).ok_or_else(ended_early);
                death.map(Some).map_err(Error::io("decode in", "a trial"))
            }
        }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.images = None;
        // It is done, dead, or hangs.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A death that a decoder dies, in words. None for one that somebody else is to blame for.
fn in_words(status: ExitStatus) -> Option<String> {
    match status.signal()? {
        6 => Some("it aborted (signal 6)".to_owned()),
        11 => Some("a segmentation fault (signal 11)".to_owned()),
        // ILL, TRAP, BUS, FPE.
        signal @ (4 | 5 | 7 | 8) => Some(format!("signal {signal}")),
        _ => None,
    }
}

/// The same command later goes on.
fn ended_early() -> io::Error {
    io::Error::new(io::ErrorKind::Interrupted, "the child process was ended from outside")
}

/// The child's side of [`try_images`]: calls `decode` with each image that comes in, on a thread
/// like those of the run, and answers with a byte when it is ready and one for each.
pub fn serve_trials(decode: impl Fn(&[u8]) + Sync) -> io::Result<()> {
    let serve = || -> io::Result<()> {
        let (mut images, mut answers) = (io::stdin().lock(), io::stdout().lock());
        answers.write_all(&[1]).and_then(|()| answers.flush())?;
        loop {
            let mut length = [0; 8];
            match images.read_exact(&mut length) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                read => read?,
            }
            let mut image = Vec::new();
            (&mut images).take(u64::from_le_bytes(length)).read_to_end(&mut image)?;
            decode(&image);
            answers.write_all(&[1]).and_then(|()| answers.flush())?;
        }
    };
    std::thread::scope(|scope| {
        let served = std::thread::Builder::new().spawn_scoped(scope, serve)?;
        served.join().unwrap_or_else(|_| Err(io::Error::other("the decoder panicked")))
    })
}

/// Removes journals whose rows were tried, for good.
pub fn forget(journals: &[PathBuf]) -> Result<(), Error> {
    journals.iter().try_for_each(|journal| files::remove(journal))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(number: u64) -> NonZeroU64 {
        NonZeroU64::new(number).expect("not 0")
    }

    #[test]
    fn a_journal_tells_what_was_in_flight_and_an_idle_one_removes_itself() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let journal = Journal::create(dir.path(), 2).expect("created");
        drop(journal.enter(RowId { input: input(1), row: 5 }));
        assert_eq!(left_behind(dir.path()).expect("listed"), (vec![], vec![]), "it is alive");
        drop(journal);
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 0);

        let journal = Journal::create(dir.path(), 2).expect("created");
        let row = RowId { input: input(4), row: 17 };
        // As a process does that dies here.
        std::mem::forget(journal.enter(row));
        drop(journal);
        let living = Journal::create(dir.path(), 2).expect("created");
        let _decoding = living.enter(RowId { input: input(5), row: 0 });
        let (journals, rows) = left_behind(dir.path()).expect("listed");
        assert_eq!(rows, [row]);
        forget(&journals).expect("removed");
        assert_eq!(left_behind(dir.path()).expect("listed"), (vec![], vec![]));
        assert!(living.path.exists(), "the living keep theirs");
    }

    #[test]
    fn whoever_looks_while_another_does_finds_the_same() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let journal = Journal::create(dir.path(), 1).expect("created");
        let row = RowId { input: input(1), row: 1 };
        std::mem::forget(journal.enter(row));
        let path = journal.path.clone();
        drop(journal);
        let looking = File::open(path).expect("there");
        flock(&looking, FlockOperation::NonBlockingLockShared).expect("free");
        assert_eq!(left_behind(dir.path()).expect("listed").1, [row]);
    }

    #[test]
    fn a_row_that_takes_too_long_is_called_out_and_a_quick_one_is_not() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let journal = Arc::new(Journal::create(dir.path(), 1).expect("created"));
        let (tx, called) = channel();
        journal.watch(Duration::from_millis(100), move |row| tx.send(row).expect("the test waits"));
        for row in 0..20 {
            let _quick = journal.enter(RowId { input: input(2), row });
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(called.try_recv().is_err());
        let row = RowId { input: input(3), row: 9 };
        let _slow = journal.enter(row);
        assert_eq!(called.recv_timeout(Duration::from_secs(20)), Ok(row));
    }

    #[test]
    fn killers_are_known_by_their_bytes() {
        let killer = Killer { bytes: 3, sha256: digest::of_bytes(b"bad"), death: "x".into() };
        let killers = [killer];
        assert_eq!(Killer::among(&killers, b"good"), None);
        assert_eq!(Killer::among(&killers, b"god"), None);
        let error = Killer::among(&killers, b"bad").expect("it is one");
        assert_eq!(error.status, RowStatus::DecoderCrash);
    }
}
