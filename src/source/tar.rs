//! The regular members of a tar file, in order, with the places of their bytes. Bytes are not read,
//! and nothing is unpacked: links, folders and devices are passed over.
//!
//! Reads ustar, GNU and PAX names. What Python's `tarfile` passes over or stops at, this does too.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use tar::Header;

use crate::digest::Growing;
use crate::error::Error;

const BLOCK: u64 = 512;

/// More bytes than this in a name, or in a member's PAX headers, are a mistake or a trap.
const MOST_ABOUT: u64 = 1 << 20;

/// What packed files begin with.
const PACKED: [(&[u8], &str); 4] =
    [(b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz"), (b"\x28\xb5\x2f\xfd", "zstd")];

/// A regular file in a tar file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub name: Vec<u8>,
    /// The first of its bytes.
    pub offset: u64,
    /// How many there are.
    pub bytes: u64,
}

/// A tar file that is walked through.
pub struct Walker {
    path: PathBuf,
    file: File,
    stamp: (u64, i128),
    /// The next header.
    at: u64,
    digest: Growing,
}

/// What headers before a member say of it.
#[derive(Default)]
struct About {
    name: Option<Vec<u8>>,
    bytes: Option<u64>,
}

impl Walker {
    /// Opens a file. Reads its first bytes.
    ///
    /// # Errors
    /// `Tar` for a packed or an empty one, `Io`.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let stamp = stamp(&file).map_err(Error::io("read", path))?;
        let path = path.to_owned();
        let walker = Self { path, file, stamp, at: 0, digest: Growing::default() };
        if stamp.0 == 0 {
            return Err(walker.wrong(0, "it is empty".into()));
        }
        let head = walker.bytes(0, stamp.0.min(8))?;
        match PACKED.iter().find(|(magic, _)| head.starts_with(magic)) {
            None => Ok(walker),
            Some((_, how)) => Err(walker.wrong(
                0,
                format!("it is packed with {how}, so that no place in it can be read: unpack it"),
            )),
        }
    }

    /// The file's length, and when it was written, as it was opened.
    pub fn stamp(&self) -> (u64, i128) {
        self.stamp
    }

    /// Makes sure that nobody has written to the file since it was opened.
    ///
    /// # Errors
    /// `InputChanged`.
    pub fn check_unchanged(&self) -> Result<(), Error> {
        match stamp(&self.file).map_err(Error::io("read", &self.path))? {
            found if found == self.stamp => Ok(()),
            _ => Err(Error::InputChanged { path: self.path.clone() }),
        }
    }

    /// SHA-256 of the headers that were walked over.
    pub fn headers_sha256(self) -> String {
        self.digest.finish()
    }

    /// The next regular member.
    ///
    /// # Errors
    /// `Tar` for what is no tar, ends early, or is sparse.
    pub fn next_member(&mut self) -> Result<Option<Member>, Error> {
        let mut about = About::default();
        loop {
            let start = self.at;
            let Some(block) = self.header()? else { return Ok(None) };
            let header = Header::from_byte_slice(&block);
            let damaged = |error: io::Error| self.wrong(start, error.to_string());
            let kind = header.entry_type();
            let is_about = kind.is_gnu_longname()
                || kind.is_gnu_longlink()
                || kind.is_pax_local_extensions()
                || kind.is_pax_global_extensions();
            let bytes = match about.bytes.filter(|_| !is_about) {
                Some(bytes) => bytes,
                None => header.entry_size().map_err(damaged)?,
            };
            let has_data = !(kind.is_hard_link()
                || kind.is_symlink()
                || kind.is_character_special()
                || kind.is_block_special()
                || kind.is_dir()
                || kind.is_fifo());
            let offset = start + BLOCK;
            if has_data {
                self.pass(start, bytes)?;
            }
            if kind.is_gnu_longname() || kind.is_pax_local_extensions() {
                let said = self.about(offset, bytes)?;
                match kind.is_gnu_longname() {
                    true => about.name = Some(up_to_nul(&said).to_vec()),
                    false => self.pax(start, &said, &mut about)?,
                }
                continue;
            }
            if kind.is_gnu_sparse() {
                return Err(self.sparse(start));
            }
            if is_about {
                continue;
            }
            let About { name, .. } = std::mem::take(&mut about);
            let name = name.unwrap_or_else(|| header.path_bytes().into_owned());
            // Before ustar, folders were told by their names.
            if (kind.is_file() || kind.is_contiguous()) && !name.ends_with(b"/") {
                return Ok(Some(Member { name, offset, bytes }));
            }
        }
    }

    /// The bytes of a member.
    pub fn read(&self, offset: u64, bytes: u64) -> Result<Vec<u8>, Error> {
        self.bytes(offset, bytes)
    }

    /// The next header, or none at the end. A file without the two blocks of zeros that should
    /// stand there has lost nothing.
    fn header(&mut self) -> Result<Option<[u8; BLOCK as usize]>, Error> {
        let (start, end) = (self.at, self.stamp.0);
        if start == end {
            return Ok(None);
        }
        if end - start < BLOCK {
            let problem =
                format!("a header begins there, and the file ends at byte {end}: it was cut");
            return Err(self.wrong(start, problem));
        }
        let mut block = [0; BLOCK as usize];
        let read = self.file.read_exact_at(&mut block, start);
        read.map_err(Error::io("read", &self.path))?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum = block.iter().enumerate().map(|(at, byte)| match at {
            // The sum is that of a header with spaces in its place.
            148..156 => u32::from(b' '),
            _ => u32::from(*byte),
        });
        if Header::from_byte_slice(&block).cksum().ok() != Some(sum.sum()) {
            let problem =
                "the checksum of the header there is wrong: not a tar file, or a damaged one";
            return Err(self.wrong(start, problem.into()));
        }
        self.digest.add(&block);
        self.at = start + BLOCK;
        Ok(Some(block))
    }

    /// Goes on behind a member's bytes.
    fn pass(&mut self, start: u64, bytes: u64) -> Result<(), Error> {
        let padded = bytes.checked_next_multiple_of(BLOCK);
        let end = padded.and_then(|padded| self.at.checked_add(padded));
        match end.filter(|end| *end <= self.stamp.0) {
            Some(end) => {
                self.at = end;
                Ok(())
            }
            None => {
                let end = self.stamp.0;
                let problem = format!(
                    "a member of {bytes} bytes begins there, and the file ends at byte {end}: it was cut"
                );
                Err(self.wrong(start, problem))
            }
        }
    }

    fn about(&mut self, offset: u64, bytes: u64) -> Result<Vec<u8>, Error> {
        if bytes > MOST_ABOUT {
            return Err(self.wrong(offset, format!("a name of {bytes} bytes stands there")));
        }
        let said = self.bytes(offset, bytes)?;
        self.digest.add(&said);
        Ok(said)
    }

    fn bytes(&self, offset: u64, bytes: u64) -> Result<Vec<u8>, Error> {
        let mut found = vec![0; bytes as usize];
        let read = self.file.read_exact_at(&mut found, offset);
        read.map_err(Error::io("read", &self.path))?;
        Ok(found)
    }

    /// Reads records of `LENGTH KEY=VALUE\n`, where the length counts all of it.
    fn pax(&self, start: u64, said: &[u8], about: &mut About) -> Result<(), Error> {
        let damaged = || self.wrong(start, "the PAX header there is damaged".into());
        let mut rest = said;
        while !rest.is_empty() && rest[0] != 0 {
            let digits = rest.iter().position(|byte| *byte == b' ').ok_or_else(damaged)?;
            let length = str::from_utf8(&rest[..digits]).ok().and_then(|text| text.parse().ok());
            let length: usize = length.ok_or_else(damaged)?;
            let record = rest.get(digits + 1..length).ok_or_else(damaged)?;
            let record = record.strip_suffix(b"\n").ok_or_else(damaged)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(damaged)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            if key.starts_with(b"GNU.sparse.") {
                return Err(self.sparse(start));
            }
            match key {
                b"path" => about.name = Some(value.to_vec()),
                b"size" => {
                    let bytes = str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    about.bytes = Some(bytes.ok_or_else(damaged)?);
                }
                _ => {}
            }
            rest = &rest[length..];
        }
        Ok(())
    }

    fn sparse(&self, at: u64) -> Error {
        self.wrong(at, "a sparse member begins there: pack it again without --sparse".into())
    }

    /// What is wrong with the file at a byte.
    pub fn wrong(&self, at: u64, problem: String) -> Error {
        Error::Tar { path: self.path.clone(), at, problem }
    }
}

fn up_to_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn stamp(file: &File) -> io::Result<(u64, i128)> {
    let found = file.metadata()?;
    let seconds = i128::from(found.mtime());
    Ok((found.len(), seconds * 1_000_000_000 + i128::from(found.mtime_nsec())))
}
