//! The cache's folders, as huggingface_hub lays them out (`file_download.py` of 2.4).
//!
//! ```text
//! models--org--name/refs/main              the commit that `main` was, the last time
//!                  /blobs/ETAG             a file's bytes; ETAG.incomplete: some of them
//!                  /snapshots/COMMIT/NAME  -> ../../blobs/ETAG
//!                  /.no_exist/COMMIT/NAME  empty: that commit has no such file
//!                  /trees/COMMIT.json      all that it has, where Python has fetched the whole
//! .locks/models--org--name/ETAG.lock       held by who writes ETAG.incomplete
//! ```
//!
//! Nothing is asked for here.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::error::Error;
use crate::regular;
use crate::spec::is_commit;

/// What the cache knows of a file of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cached {
    There,
    NotInRepository,
    Unknown,
}

/// A repository's folders.
#[derive(Debug)]
pub struct Repository {
    dir: PathBuf,
    locks: PathBuf,
}

impl Repository {
    /// Those of a repository, `org/name`, which need not be there.
    pub fn new(cache: &Path, repo: &str) -> Self {
        let name = format!("models--{}", repo.replace('/', "--"));
        Self { dir: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    /// The folder of a commit.
    pub fn folder(&self, commit: &str) -> PathBuf {
        self.dir.join("snapshots").join(commit)
    }

    /// The bytes of that etag, once they are all there.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.dir.join("blobs").join(etag)
    }

    /// What is there of them before.
    pub fn incomplete(&self, etag: &str) -> PathBuf {
        self.dir.join("blobs").join(format!("{etag}.incomplete"))
    }

    /// What is known of a file.
    pub fn find(&self, commit: &str, name: &str) -> Result<Cached, Error> {
        if self.folder(commit).join(name).exists() {
            return Ok(Cached::There);
        }
        if self.no_exist(commit, name).exists() {
            return Ok(Cached::NotInRepository);
        }
        Ok(match self.tree(commit) {
            Some(tree) if !tree.files.contains_key(name) => Cached::NotInRepository,
            _ => Cached::Unknown,
        })
    }

    /// The files of a commit, where Python has listed them.
    fn tree(&self, commit: &str) -> Option<Tree> {
        let json = regular::read(&self.dir.join("trees").join(format!("{commit}.json"))).ok()?;
        serde_json::from_slice(&json).ok().filter(|tree: &Tree| tree.format_version == 1)
    }

    /// Remembers that a commit has no such file.
    pub fn note_missing(&self, commit: &str, name: &str) -> Result<(), Error> {
        let path = self.no_exist(commit, name);
        make_folder_of(&path)?;
        File::create(&path).map(drop).map_err(Error::io("write to the hub's cache", path))
    }

    fn no_exist(&self, commit: &str, name: &str) -> PathBuf {
        self.dir.join(".no_exist").join(commit).join(name)
    }

    /// The commit that a revision was, the last time that it was asked for.
    pub fn commit_of(&self, revision: &str) -> Result<Option<String>, Error> {
        let path = self.dir.join("refs").join(revision);
        match regular::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_ascii_lowercase()).filter(|text| is_commit(text))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", path)(error)),
        }
    }

    /// Remembers the commit that a revision is.
    pub fn note_commit(&self, revision: &str, commit: &str) -> Result<(), Error> {
        if self.commit_of(revision)?.as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.dir.join("refs").join(revision);
        make_folder_of(&path)?;
        replace(&path, commit.as_bytes()).map_err(Error::io("write to the hub's cache", path))
    }

    /// Waits until nobody else fetches the bytes of that etag, and keeps others waiting while the
    /// lock lives. `wait` is called before, where there is somebody.
    pub fn lock(&self, etag: &str, wait: impl FnOnce()) -> Result<File, Error> {
        let path = self.locks.join(format!("{etag}.lock"));
        make_folder_of(&path)?;
        make_folder_of(&self.blob(etag))?;
        let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = open.map_err(Error::io("open", &path))?;
        // A file system without locks: two would fetch it, and digests tell what came of it.
        if flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
            wait();
            let locked = flock(&file, FlockOperation::LockExclusive);
            locked.map_err(|error| Error::io("lock", &path)(error.into()))?;
        }
        Ok(file)
    }

    /// Puts a file of a commit into its folder: the bytes of that etag. For who holds its lock.
    pub fn link(&self, commit: &str, name: &str, etag: &str) -> Result<(), Error> {
        let path = self.folder(commit).join(name);
        make_folder_of(&path)?;
        let linked = point(&path, &Path::new("../../blobs").join(etag));
        linked.map_err(Error::io("write to the hub's cache", path))
    }
}

/// Makes a link, unless there is one that leads somewhere.
fn point(path: &Path, to: &Path) -> io::Result<()> {
    match symlink(to, path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && !path.exists() => {
            // It leads to a blob that somebody removed.
            fs::remove_file(path)?;
            symlink(to, path)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Replaces a small file. Under a name of its own first: another process may read it, or write it
/// too.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(path);
    let mut draft = tempfile::Builder::new().permissions(shared()).tempfile_in(dir)?;
    draft.write_all(bytes)?;
    draft.persist(path).map_err(|error| error.error).map(drop)
}

/// Python's list of a commit's files (`_tree_cache.py`).
#[derive(Deserialize)]
struct Tree {
    format_version: u64,
    files: HashMap<String, IgnoredAny>,
}

/// Like any new file's, which a temporary one's are not.
fn shared() -> fs::Permissions {
    fs::Permissions::from_mode(0o666)
}

fn make_folder_of(path: &Path) -> Result<(), Error> {
    let dir = path.parent().unwrap_or(path);
    fs::create_dir_all(dir).map_err(Error::io("create the folder", dir))
}
