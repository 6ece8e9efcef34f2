//! Publishing files whole: a reader sees the old file or the new one, never a part of either, also
//! after a power cut.
//!
//! The one place that knows the protocol: on a disk a temporary name in the same folder, fsync,
//! rename, fsync of the folder; in an object store, whose objects appear whole, a file of the scratch
//! folder put there. A path that is an object's URL is one of those. What the files hold is not known
//! here.

mod lock;
mod scratch;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tempfile::NamedTempFile;

use crate::digest;
use crate::error::Error;
use crate::regular;
use crate::store;
use crate::watched::WatchedFile;

use lock::LOCK;
pub use lock::Lock;
pub use scratch::{create_folder, create_local, folder as local};

/// How what an output was made from looked, in an output that grows with its input. The underscore
/// keeps it out of data globs.
pub const SEEN: &str = "_seen.json";

/// Nobody else's files end so, and what does may be removed.
const TEMPORARY: &str = ".clipmill-tmp";

/// The temporary name beside a final path, for an object's in the scratch folder. Hidden, so that a
/// glob for data does not find it.
pub fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = format!(".{name}{TEMPORARY}");
    match store::is_url(path) {
        true => local(folder_of(path)).join(name),
        false => path.with_file_name(name),
    }
}

/// Whether a file name is one that [`temporary`] gives.
pub fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(TEMPORARY)
}

/// Makes a complete temporary file visible under its final path. Consumes the open file, whose
/// every write must have been checked.
pub fn publish(file: File, path: &Path) -> Result<(), Error> {
    let temporary = temporary(path);
    if store::is_url(path) {
        drop(file);
        let file = File::open(&temporary).map_err(Error::io("open", &temporary))?;
        let uploaded = store::upload(path, &file).map_err(Error::io("write", path));
        let removed = fs::remove_file(&temporary).map_err(Error::io("remove", &temporary));
        return uploaded.and(removed);
    }
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
    if store::is_url(path) {
        return store::remove(path).map_err(Error::io("remove", path));
    }
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

/// All of a small file, or `None` where there is none.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let read = if store::is_url(path) {
        store::read(path).map(|bytes| bytes.to_vec())
    } else {
        regular::open(path).and_then(|file| {
            let mut bytes = Vec::new();
            file.take(store::MOST_BYTES + 1).read_to_end(&mut bytes)?;
            match bytes.len() as u64 > store::MOST_BYTES {
                false => Ok(bytes),
                true => Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has more than 1 GiB")),
            }
        })
    };
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// The files of a folder by name, with their sizes; none where there is no such folder. What else a
/// folder holds has no size.
pub fn list(dir: &Path) -> Result<BTreeMap<String, Option<u64>>, Error> {
    let listed = Error::io("list", dir);
    if store::is_url(dir) {
        let (found, folders) = store::level(dir).map_err(listed)?;
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into();
        let found = found.iter().map(|entry| (name(&entry.path), Some(entry.bytes)));
        return Ok(found.chain(folders.into_iter().map(|name| (name, None))).collect());
    }
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries.map_err(listed)?,
    };
    let mut found = BTreeMap::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("list", dir))?;
        // One that is gone meanwhile, or leads nowhere, has none.
        let size = fs::metadata(entry.path()).ok().filter(fs::Metadata::is_file);
        let name = entry.file_name().to_string_lossy().into_owned();
        found.insert(name, size.map(|found| found.len()));
    }
    Ok(found)
}

/// Whether there is such a file.
pub fn exists(path: &Path) -> Result<bool, Error> {
    if !store::is_url(path) {
        return path.try_exists().map_err(Error::io("look for", path));
    }
    match store::Object::open(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("look for", path)(error)),
    }
}

/// The digest of a file, as `sha256sum` prints it.
pub fn sha256(path: &Path) -> Result<String, Error> {
    let file = WatchedFile::open(path).map_err(Error::io("open", path))?;
    let mut digest = digest::Growing::default();
    digest.add_from(&mut file.reader()).map_err(Error::io("read", path))?;
    Ok(digest.finish())
}

/// Replaces a small file whole.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    if store::is_url(path) {
        return store::put(path, bytes).map_err(Error::io("write", path));
    }
    let temporary = temporary(path);
    let mut file = File::create(&temporary).map_err(Error::io("create", &temporary))?;
    file.write_all(bytes).map_err(Error::io("write", &temporary))?;
    publish(file, path)
}

/// Removes what killed processes left under temporary names in a folder, the locks of single parts,
/// and what was made to search the data that are about to change. Only for who holds the lock of the
/// whole folder.
pub fn remove_leftovers(dir: &Path) -> Result<(), Error> {
    // Leases are their holders' to remove.
    let dir = &local(dir);
    let entries = match fs::read_dir(dir) {
        // Of a store's folder, nothing was made on this machine.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::io("list", dir))?,
    };
    for entry in entries {
        let entry = entry.map_err(Error::io("list", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_housekeeping(&name) && name != LOCK {
            fs::remove_file(entry.path()).map_err(Error::io("remove", entry.path()))?;
        }
    }
    Ok(())
}

/// Whether a file in an output folder is a lock, a killed run's temporary, how things looked, or made
/// from the data to search it: neither data nor a sign that the folder is somebody else's.
pub fn is_housekeeping(name: &str) -> bool {
    let is_lock = name == LOCK || name.starts_with("_lock.");
    is_lock || name == SEEN || is_temporary(name) || is_vectors(name)
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
    if store::is_url(dir) {
        let probe = dir.join(format!(".probe-{}{TEMPORARY}", std::process::id()));
        let put = store::put(&probe, b"").and_then(|()| store::remove(&probe));
        return put.map_err(Error::io("write to the output folder", dir));
    }
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
    use std::os::unix::fs::FileExt;

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
