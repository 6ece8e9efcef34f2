//! Who writes to an output: one process to all of it, or several to parts of their own.
//!
//! On a disk the locks are the kernel's (`flock`), so those of a killed process are gone with it; in
//! an object store they are leases (`store`).

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::{create_folder, local, sync_folder};
use crate::error::Error;
use crate::store::{self, Lease, Refused, Scope};

/// The lock's name in an output folder. The underscore keeps it out of data globs.
pub(super) const LOCK: &str = "_lock";

/// Keeps other runs out of an output folder, or of some of its parts, while it lives.
///
/// The files that the kernel's locks are on stay and say who held them last.
pub struct Lock {
    _files: Vec<File>,
    _lease: Option<Lease>,
}

impl Lock {
    /// Takes the lock of a whole folder, which is made if it is not there. What is found there
    /// then is on disk: a process that was killed may not have come to its last `fsync`.
    ///
    /// # Errors
    /// [`Error::Locked`] at once, naming the holder, when another process has it, or a part's.
    pub fn take(dir: &Path) -> Result<Self, Error> {
        let here = local(dir);
        create_folder(dir)?;
        let file = lock(&here, LOCK, FlockOperation::NonBlockingLockExclusive, dir)?;
        sync_folder(&here)?;
        Ok(Self { _files: vec![file], _lease: lease(dir, Scope::Whole)? })
    }

    /// Takes the locks of some parts, by file name. Others may take those of other parts, and
    /// nobody the folder's.
    ///
    /// # Errors
    /// [`Error::Locked`] at once, naming the holder.
    pub fn take_parts(dir: &Path, file_names: &[String]) -> Result<Self, Error> {
        let here = local(dir);
        create_folder(dir)?;
        let mut files = vec![lock(&here, LOCK, FlockOperation::NonBlockingLockShared, dir)?];
        for name in file_names {
            let part_lock = format!("{LOCK}.{name}");
            let exclusive = FlockOperation::NonBlockingLockExclusive;
            files.push(lock(&here, &part_lock, exclusive, &dir.join(name))?);
        }
        sync_folder(&here)?;
        let scope = Scope::Parts(file_names.iter().cloned().collect());
        Ok(Self { _files: files, _lease: lease(dir, scope)? })
    }

    /// Waits for the manifest's lock: for the short while in which one of those who hold parts
    /// reads and replaces it.
    pub fn wait_for_manifest(dir: &Path) -> Result<Self, Error> {
        let name = format!("{LOCK}.manifest");
        let file = lock(&local(dir), &name, FlockOperation::LockExclusive, dir)?;
        loop {
            match lease(dir, Scope::Manifest) {
                Err(Error::Locked { .. }) => std::thread::sleep(Duration::from_millis(300)),
                leased => return Ok(Self { _files: vec![file], _lease: leased? }),
            }
        }
    }
}

/// The lease of an output in a store. Between processes of one machine its locks decide before.
fn lease(dir: &Path, scope: Scope) -> Result<Option<Lease>, Error> {
    if !store::is_url(dir) {
        return Ok(None);
    }
    match Lease::take(dir, &format!("{LOCK}."), &holder_name(), scope) {
        Ok(lease) => Ok(Some(lease)),
        Err(Refused::Held { holder }) => Err(Error::Locked { path: dir.to_owned(), holder }),
        Err(Refused::Io(source)) => Err(Error::io("lock", dir)(source)),
    }
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
    write_holder(file, &holder_name(), &path)
}

/// What this process is called where it holds something.
fn holder_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("process {} on {host}", std::process::id())
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

#[cfg(test)]
mod tests {
    use super::super::remove_leftovers;
    use super::*;

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
}
