//! Publishing files whole: a reader sees the old file or the new one, never a part of either, also
//! after a power cut.
//!
//! The one place that knows the protocol (temporary name in the same folder, fsync, rename, fsync
//! of the folder). What the files hold is not known here.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

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
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    // Without this the rename itself can be lost with the power.
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

/// Removes what a killed process left under temporary names in a folder.
pub fn remove_leftovers(dir: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        if is_temporary(&entry.file_name().to_string_lossy()) {
            fs::remove_file(entry.path()).map_err(Error::io("remove", entry.path()))?;
        }
    }
    Ok(())
}

/// The lock's name in an output folder. The underscore keeps it out of data globs.
const LOCK: &str = "_lock";

/// Keeps other runs out of an output folder while it lives.
///
/// The lock is the kernel's (`flock`), so that of a killed process is gone with it; the file that
/// it is on stays and says who held it last.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of a folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`Error::Locked`] at once, naming the holder, when another process has it.
    pub fn take(dir: &Path) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(Error::io("create the output folder", dir))?;
        let path = dir.join(LOCK);
        let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(Error::io("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let holder = fs::read_to_string(&path).unwrap_or_default();
                return Err(Error::Locked { path: dir.to_owned(), holder });
            }
            Err(error) => return Err(Error::io("lock", &path)(error.into())),
        }
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let holder = format!("process {} on {host}", std::process::id());
        let written = file.set_len(0).and_then(|()| file.write_all(holder.as_bytes()));
        written.map_err(Error::io("write", &path))?;
        Ok(Self { _file: file })
    }
}

/// Whether a file in an output folder is a lock or a killed run's temporary: neither data nor
/// a sign that the folder is somebody else's.
pub fn is_housekeeping(name: &str) -> bool {
    name == LOCK || is_temporary(name)
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
    fn check_writable_accepts_a_folder_yet_to_be_made_and_refuses_a_file() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        check_writable(&dir.path().join("a/b")).expect("can be made");
        fs::write(dir.path().join("file"), "").expect("written");
        assert!(check_writable(&dir.path().join("file/b")).is_err());
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
    }
}
