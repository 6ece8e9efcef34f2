//! Publishing files whole: a reader sees the old file or the new one, never a part of either, also
//! after a power cut.
//!
//! The one place that knows the protocol (temporary name in the same folder, fsync, rename, fsync
//! of the folder). What the files hold is not known here.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tempfile::NamedTempFile;

use crate::digest;
use crate::error::Error;

/// Nobody else's files end so, and what does may be removed.
const TEMPORARY: &str = ".clipmill-tmp";

/// The temporary name beside a final path. Hidden, so that a glob for data does not find it.
pub fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}{TEMPORARY}"))
}

/// Whether a file name is one that [`temporary`] gives.
pub fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(TEMPORARY)
}

/// Makes a complete temporary file visible under its final path. Consumes the open file, whose
/// every write must have been checked.
pub fn publish(file: File, path: &Path) -> Result<(), Error> {
    let temporary = temporary(path);
    file.sync_all().map_err(Error::io("flush to disk", &temporary))?;
    drop(file);
    fs::rename(&temporary, path).map_err(Error::io("rename into place", path))?;
    // Without this the rename itself can be lost with the power.
    sync_folder(folder_of(path))
}

/// A new file under its temporary name, and the path that is to be its own, which begins with
/// `prefix` and is no other's, of other processes and other times. Dropped, it is removed.
pub fn create_unique(dir: &Path, prefix: &str) -> Result<(NamedTempFile, PathBuf), Error> {
    let file = draft(dir, &format!(".{prefix}."))?;
    let name = file.path().file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_prefix('.').and_then(|name| name.strip_suffix(TEMPORARY));
    let path = dir.join(name.expect("`draft` puts both there"));
    Ok((file, path))
}

/// A file whose name begins with `prefix` and ends as temporary ones do.
fn draft(dir: &Path, prefix: &str) -> Result<NamedTempFile, Error> {
    let mut builder = tempfile::Builder::new();
    // By a function of our own, or else the system's error is hidden behind the library's.
    let mut options = File::options();
    let options = options.read(true).write(true).create_new(true);
    let draft = builder.prefix(prefix).suffix(TEMPORARY).make_in(dir, |path| options.open(path));
    draft.map_err(Error::io("write to", dir))
}

/// A file of any size that several processes may make at once: each writes under a name of its own,
/// and the last one stays. What is not published is removed, after a kill by the next who comes.
pub struct Draft(NamedTempFile);

impl Draft {
    /// Begins a file that will be `path`.
    pub fn new(path: &Path) -> Result<Self, Error> {
        let dir = folder_of(path);
        let prefix = format!(".{}.", path.file_name().unwrap_or_default().to_string_lossy());
        remove_dead_drafts(dir, &prefix);
        let file = draft(dir, &prefix)?;
        // Without it the draft could be taken for a dead one: some file systems have no locks.
        let _ = flock(file.as_file(), FlockOperation::NonBlockingLockExclusive);
        Ok(Self(file))
    }

    pub fn file(&self) -> &File {
        self.0.as_file()
    }

    /// Where it is for now.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Makes the file visible, whole.
    pub fn publish(self, path: &Path) -> Result<(), Error> {
        let draft = self.path().to_owned();
        self.file().sync_all().map_err(Error::io("flush to disk", &draft))?;
        let renamed = self.0.persist(path).map_err(|error| error.error);
        renamed.map_err(Error::io("rename into place", &draft))?;
        sync_folder(folder_of(path))
    }
}

/// Removes drafts of a file that nobody writes any more. It is no matter if that fails.
fn remove_dead_drafts(dir: &Path, prefix: &str) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix) && is_temporary(&name) {
            let is_dead = File::open(entry.path())
                .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok());
            if is_dead {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Removes a file that others go by, for good. One that is not there is removed already.
pub fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder(folder_of(path)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("remove", path)(error)),
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// Makes renames and removals in a folder last.
pub fn sync_folder(dir: &Path) -> Result<(), Error> {
    let folder = File::open(dir).map_err(Error::io("open", dir))?;
    folder.sync_all().map_err(Error::io("flush to disk", dir))
}

/// Replaces a small file whole.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let temporary = temporary(path);
    let mut file = File::create(&temporary).map_err(Error::io("create", &temporary))?;
    file.write_all(bytes).map_err(Error::io("write", &temporary))?;
    publish(file, path)
}

/// Removes what killed processes left under temporary names in a folder, the locks of single parts,
/// and what was made to search the data that are about to change. Only for who holds the lock of the whole folder.
pub fn remove_leftovers(dir: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_housekeeping(&name) && name != LOCK {
            fs::remove_file(entry.path()).map_err(Error::io("remove", entry.path()))?;
        }
    }
    Ok(())
}

/// The lock's name in an output folder. The underscore keeps it out of data globs.
const LOCK: &str = "_lock";

/// Keeps other runs out of an output folder, or of some of its parts, while it lives.
///
/// The locks are the kernel's (`flock`), so those of a killed process are gone with it; the files
/// that they are on stay and say who held them last.
pub struct Lock {
    _files: Vec<File>,
}

impl Lock {
    /// Takes the lock of a whole folder, which is made if it is not there. What is found there
    /// then is on disk: a process that was killed may not have come to its last `fsync`.
    ///
    /// # Errors
    /// [`Error::Locked`] at once, naming the holder, when another process has it, or a part's.
    pub fn take(dir: &Path) -> Result<Self, Error> {
        create_folder(dir)?;
        let lock = lock(dir, LOCK, FlockOperation::NonBlockingLockExclusive, dir)?;
        sync_folder(dir)?;
        Ok(Self { _files: vec![lock] })
    }

    /// Takes the locks of some parts, by file name. Others may take those of other parts, and
    /// nobody the folder's.
    ///
    /// # Errors
    /// [`Error::Locked`] at once, naming the holder.
    pub fn take_parts(dir: &Path, file_names: &[String]) -> Result<Self, Error> {
        create_folder(dir)?;
        let mut files = vec![lock(dir, LOCK, FlockOperation::NonBlockingLockShared, dir)?];
        for name in file_names {
            let part_lock = format!("{LOCK}.{name}");
            let exclusive = FlockOperation::NonBlockingLockExclusive;
            files.push(lock(dir, &part_lock, exclusive, &dir.join(name))?);
        }
        sync_folder(dir)?;
        Ok(Self { _files: files })
    }

    /// Waits for the manifest's lock: for the short while in which one of those who hold parts
    /// reads and replaces it.
    pub fn wait_for_manifest(dir: &Path) -> Result<Self, Error> {
        let name = format!("{LOCK}.manifest");
        Ok(Self { _files: vec![lock(dir, &name, FlockOperation::LockExclusive, dir)?] })
    }
}

/// Makes a folder, and those above it, for good.
fn create_folder(dir: &Path) -> Result<(), Error> {
    let missing: Vec<_> = dir.ancestors().take_while(|path| !path.exists()).collect();
    fs::create_dir_all(dir).map_err(Error::io("create the output folder", dir))?;
    missing
        .into_iter()
        .filter(|path| !path.as_os_str().is_empty())
        .try_for_each(|path| sync_folder(folder_of(path)))
}

/// Locks a file of a folder, on behalf of `what`.
fn lock(dir: &Path, name: &str, how: FlockOperation, what: &Path) -> Result<File, Error> {
    let path = dir.join(name);
    let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let file = open.map_err(Error::io("open", &path))?;
    match flock(&file, how) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            return Err(Error::Locked { path: what.to_owned(), holder: holder(&path) });
        }
        Err(error) => return Err(Error::io("lock", &path)(error.into())),
    }
    if how == FlockOperation::NonBlockingLockShared {
        // There may be many, and each may leave before the others.
        return write_holder(file, "processes with --parts", &path);
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let holder = format!("process {} on {host}", std::process::id());
    write_holder(file, &holder, &path)
}

/// Bytes that a holder's name takes, filled up with blanks: it is written at once, over the last
/// one's, so that nobody reads half of it.
const HOLDER: usize = 128;

fn write_holder(file: File, holder: &str, path: &Path) -> Result<File, Error> {
    let line = format!("{holder:<width$}\n", width = HOLDER - 1);
    file.write_all_at(line.as_bytes(), 0).map_err(Error::io("write", path))?;
    Ok(file)
}

/// Who has a lock that is taken: whoever has just got it and not come to writing yet, is taken for the
/// one before, or waited for where there was none.
fn holder(path: &Path) -> String {
    for _ in 0..50 {
        let line = fs::read_to_string(path).unwrap_or_default();
        if let Some(holder) = line.lines().next().map(str::trim_end).filter(|line| !line.is_empty())
        {
            return holder.to_owned();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    "a process that does not say its name".to_owned()
}

/// Whether a file in an output folder is a lock, a killed run's temporary or made from the data to
/// search it: neither data nor a sign that the folder is somebody else's.
pub fn is_housekeeping(name: &str) -> bool {
    name == LOCK || name.starts_with("_lock.") || is_temporary(name) || is_vectors(name)
}

const VECTORS: (&str, &str) = ("_vectors-", ".bin");

/// The name of the file that `search` keeps the vectors of something in. The underscore keeps it
/// out of data globs.
pub fn vectors_name(of: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c);
    let mut name: String = of.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    if name != of || name.len() > 180 {
        name.truncate(160);
        name += &format!("-{}", &digest::of_bytes(of.as_bytes())[..16]);
    }
    format!("{}{name}{}", VECTORS.0, VECTORS.1)
}

fn is_vectors(name: &str) -> bool {
    name.starts_with(VECTORS.0) && name.ends_with(VECTORS.1)
}

/// Makes sure that files can be made in a folder (or that the folder can be made), and leaves no
/// trace.
pub fn check_writable(dir: &Path) -> Result<(), Error> {
    let exists = dir.ancestors().find(|path| path.exists());
    let existing = exists.unwrap_or_else(|| Path::new("."));
    if !existing.is_dir() {
        let source = std::io::Error::from(std::io::ErrorKind::NotADirectory);
        return Err(Error::Io { action: "use as an output folder", path: existing.into(), source });
    }
    let made = tempfile::tempfile_in(existing);
    made.map(drop).map_err(Error::io("write to the output folder", existing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replace_leaves_one_file_with_the_new_bytes() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let path = dir.path().join("manifest.json");
        replace(&path, b"old").expect("written");
        replace(&path, b"new").expect("replaced");
        assert_eq!(fs::read(&path).expect("there"), b"new");
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
    }

    #[test]
    fn a_lock_is_held_once_and_free_again_when_dropped() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let held = Lock::take(dir.path()).expect("free");
        let refused = Lock::take(dir.path()).err().expect("held").to_string();
        let holder = format!("process {}", std::process::id());
        assert!(refused.contains(&holder), "{refused}");
        drop(held);
        Lock::take(dir.path()).expect("free again");
    }

    #[test]
    fn parts_are_locked_one_by_one_and_keep_the_whole_folder_from_others() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let take = |these: &[&str]| Lock::take_parts(dir.path(), &names(these));
        let (first, second) = (take(&["a", "b"]).expect("free"), take(&["c"]).expect("free"));
        assert!(take(&["d", "b"]).is_err_and(|error| error.exit_code() == 73));
        assert!(Lock::take(dir.path()).is_err_and(|error| error.exit_code() == 73));
        drop((first, second));
        let whole = Lock::take(dir.path()).expect("free again");
        assert!(take(&["e"]).is_err_and(|error| error.exit_code() == 73));
        remove_leftovers(dir.path()).expect("removed");
        drop(whole);
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
    }

    #[test]
    fn a_draft_is_whole_or_gone_and_a_dead_one_is_removed_by_the_next() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let path = dir.path().join(vectors_name("a column"));
        let dead = dir.path().join(format!(
            ".{}.x{TEMPORARY}",
            path.file_name().expect("it has a name").to_string_lossy()
        ));
        fs::write(&dead, "half").expect("written");
        let (first, second) = (Draft::new(&path).expect("a file"), Draft::new(&path).expect("too"));
        assert!(!dead.exists() && first.path().exists() && !path.exists());
        first.file().write_all_at(b"first", 0).expect("written");
        drop(second);
        first.publish(&path).expect("published");
        assert_eq!(fs::read(&path).expect("there"), b"first");
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
        assert!(
            is_housekeeping(&vectors_name("a/b")) && vectors_name("a/b") != vectors_name("a_b")
        );
        assert!(!is_housekeeping("_vectors.txt"));
        assert!(vectors_name(&"x".repeat(400)).len() < 255);
    }

    #[test]
    fn check_writable_accepts_a_folder_yet_to_be_made_and_refuses_a_file() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        check_writable(&dir.path().join("a/b")).expect("can be made");
        fs::write(dir.path().join("file"), "").expect("written");
        assert!(check_writable(&dir.path().join("file/b")).is_err());
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
    }
}
