//! One file's bytes into the cache: gone on with where they broke off, held against their length and
//! digest, and under their name only when they are whole.
//!
//! Which files those are is said by `hub`; where they come from by `remote`.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;

use super::answer::Failure;
use super::cache::Repository;
use super::remote::{About, Receive, Remote, TRIES};
use crate::digest;
use crate::error::Error;
use crate::log::Event;
use crate::progress::Download;
use crate::spec::HubSpec;

/// A file that is not in the cache.
pub struct Wanted<'a> {
    pub spec: &'a HubSpec,
    pub commit: &'a str,
    pub name: &'a str,
    pub about: About,
    /// Whether its progress is shown.
    pub shown: bool,
}

/// Fetches a file and puts it into its commit's folder.
///
/// # Errors
/// What `remote` says, `HubFile` for bytes that are not what the hub says they are, `Io` for the
/// cache (a full disk: what is there stays, and another time goes on).
pub fn download(
    remote: &Remote,
    repository: &Repository,
    wanted: &Wanted<'_>,
) -> Result<(), Failure> {
    let Wanted { spec, commit, name, about, shown } = wanted;
    let etag = about.etag.as_str();
    let _lock = repository.lock(etag, || {
        if *shown {
            let repo = spec.repo();
            let message = format!("waiting for another process that downloads {name} of {repo}");
            Event::info("waiting", message).with("repo", repo).with("what", name).say();
        }
    })?;
    // Perhaps that one did it, or another commit has the same file.
    if !repository.blob(etag).exists() {
        let mut incomplete = Incomplete::open(repository, wanted)?;
        let fetched = fetch(remote, wanted, &mut incomplete);
        incomplete.progress.finish();
        fetched?;
        incomplete.publish(repository.blob(etag))?;
    }
    Ok(repository.link(commit, name, etag)?)
}

fn fetch(remote: &Remote, wanted: &Wanted<'_>, incomplete: &mut Incomplete) -> Result<(), Failure> {
    fill(remote, wanted, incomplete)?;
    if incomplete.problem(&wanted.about)?.is_some() {
        // What was there before may have been another's, so once more from the start.
        incomplete.begin(0)?;
        fill(remote, wanted, incomplete)?;
    }
    let Some(problem) = incomplete.problem(&wanted.about)? else { return Ok(()) };
    incomplete.begin(0)?;
    let (repo, file) = (wanted.spec.repo().to_owned(), wanted.name.to_owned());
    Err(Error::HubFile { repo, file, host: remote.host().to_owned(), problem }.into())
}

/// Reads until the file has its length, however often the connection breaks.
fn fill(remote: &Remote, wanted: &Wanted<'_>, incomplete: &mut Incomplete) -> Result<(), Failure> {
    let what = (wanted.spec, wanted.commit, wanted.name);
    let mut n_failed = 0;
    loop {
        let length = incomplete.length()?;
        let start = match wanted.about.size {
            Some(size) if length == size => return Ok(()),
            Some(size) if length < size => length,
            // Longer than it can be, or nobody knows how long: what is there is of no use.
            _ => 0,
        };
        match remote.read(what, start, incomplete) {
            Ok(()) => return Ok(()),
            Err(Failure::Passing { why, retry_after }) => {
                n_failed = if incomplete.length()? > start { 1 } else { n_failed + 1 };
                if n_failed == TRIES {
                    return Err(Failure::Passing { why, retry_after });
                }
                remote.pause(n_failed, retry_after);
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// What a file may have whose size is not announced: a small one, of text.
const MOST_UNANNOUNCED: u64 = 256 << 20;

/// A file on its way. Who has one holds the lock of its etag.
struct Incomplete {
    file: File,
    path: PathBuf,
    progress: Download,
    /// The most bytes that it may have.
    most: u64,
}

impl Incomplete {
    fn open(repository: &Repository, wanted: &Wanted<'_>) -> Result<Self, Error> {
        let Wanted { spec, name, about, shown, .. } = wanted;
        let path = repository.incomplete(&about.etag);
        let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = open.map_err(Error::io("write to the hub's cache", &path))?;
        let progress = Download::new(&format!("{}: {name}", spec.repo()), about.size, *shown);
        let most = about.size.unwrap_or(MOST_UNANNOUNCED);
        Ok(Self { file, path, progress, most })
    }

    fn length(&self) -> Result<u64, Error> {
        let about = self.file.metadata().map_err(Error::io("read", &self.path))?;
        Ok(about.len())
    }

    /// What is wrong with it, now that it should be whole.
    fn problem(&self, about: &About) -> Result<Option<String>, Error> {
        let length = self.length()?;
        if let Some(size) = about.size.filter(|size| *size != length) {
            return Ok(Some(format!("has {length} bytes where {size} were announced")));
        }
        let Some(sha256) = about.sha256() else { return Ok(None) };
        let found = digest::of_file(&self.path)?;
        let is_it = found.eq_ignore_ascii_case(sha256);
        Ok((!is_it).then(|| format!("has the sha256 {found} where {sha256} was announced")))
    }

    fn publish(self, blob: PathBuf) -> Result<(), Error> {
        self.file.sync_all().map_err(Error::io("flush to disk", &self.path))?;
        fs::rename(&self.path, &blob).map_err(Error::io("rename into place", &blob))
    }
}

impl Receive for Incomplete {
    fn begin(&mut self, start: u64) -> Result<(), Error> {
        self.progress.at(start);
        let cut = self.file.set_len(start).and_then(|()| self.file.seek(SeekFrom::Start(start)));
        cut.map(drop).map_err(Error::io("write to the hub's cache", &self.path))
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let length = self.length()? + bytes.len() as u64;
        if length > self.most {
            let (path, source) = (self.path.clone(), std::io::Error::other("it has no end"));
            return Err(Error::Io { action: "take more than was announced into", path, source });
        }
        let written = self.file.write_all(bytes);
        written.map_err(Error::io("write to the hub's cache", &self.path))?;
        self.progress.add(bytes.len() as u64);
        Ok(())
    }
}
