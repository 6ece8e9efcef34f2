//! A file, or an object of a store, that remembers why it could not be read.
//!
//! The Parquet reader passes on what went wrong as text, so that a disk that fails for now looks
//! like a file that is damaged. What the system said is kept here, for whoever gets the error.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{ChunkReader, Length};

use crate::error::Error;
use crate::store::{Object, is_url};

/// A file to read Parquet from, or an object of a store. Clones share what they remember.
#[derive(Debug, Clone)]
pub struct WatchedFile {
    bytes: u64,
    held: Held,
    /// The last error.
    error: Arc<Mutex<Option<io::Error>>>,
}

#[derive(Debug, Clone)]
enum Held {
    File(Arc<File>),
    Object(Object),
}

impl WatchedFile {
    /// Opens a file, or the object that a URL names.
    pub fn open(path: &Path) -> io::Result<Self> {
        match is_url(path) {
            true => Object::open(path).map(Self::of_object),
            false => File::open(path).and_then(Self::new),
        }
    }

    pub fn new(file: File) -> io::Result<Self> {
        let bytes = file.metadata()?.len();
        Ok(Self { bytes, held: Held::File(Arc::new(file)), error: Arc::default() })
    }

    pub fn of_object(object: Object) -> Self {
        Self { bytes: object.bytes(), held: Held::Object(object), error: Arc::default() }
    }

    /// Says what will be read soon, so that what is far away is fetched at once.
    /// Whether that went well; whoever reads there hears why not.
    pub fn will_read(&self, from: u64, bytes: u64) -> bool {
        match &self.held {
            Held::File(_) => true,
            Held::Object(object) => object.will_read(from, bytes),
        }
    }

    /// All of it, from its beginning on.
    pub fn reader(&self) -> From {
        From { file: self.clone(), at: 0 }
    }

    /// The error of a call that read this file: the system's, if there was one, and else the
    /// reader's.
    pub fn explain(&self, path: &Path, error: Error) -> Error {
        match self.failure() {
            None => error,
            Some(source) => Error::io("read", path)(source),
        }
    }

    /// What the system last refused.
    pub fn failure(&self) -> Option<io::Error> {
        let error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        error.as_ref().map(copy)
    }

    /// The same when it was opened, or near it: an object is not asked for again.
    pub fn first_stamp(&self) -> io::Result<(u64, i128)> {
        match &self.held {
            Held::File(_) => self.stamp(),
            Held::Object(object) => Ok(object.first_stamp()),
        }
    }

    /// How long the file is now and when it was last written, in nanoseconds since 1970. The time is
    /// only ever compared for equality.
    pub fn stamp(&self) -> io::Result<(u64, i128)> {
        let found = match &self.held {
            Held::File(file) => file.metadata()?,
            Held::Object(object) => return object.stamp(),
        };
        let seconds = i128::from(found.mtime());
        Ok((found.len(), seconds * 1_000_000_000 + i128::from(found.mtime_nsec())))
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let read = match &self.held {
            Held::File(file) => file.read_at(into, at),
            Held::Object(object) => object.read_at(into, at),
        };
        if let Err(error) = &read
            && error.kind() != io::ErrorKind::Interrupted
        {
            *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(copy(error));
        }
        read
    }
}

/// The same error once more.
fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

impl Length for WatchedFile {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for WatchedFile {
    type T = BufReader<From>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(BufReader::new(From { file: self.clone(), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        // A footer may ask for more than there is: no more than that is made room for.
        let there = self.bytes.saturating_sub(start).min(length as u64);
        let mut buffer = Vec::with_capacity(there as usize);
        From { file: self.clone(), at: start }.take(length as u64).read_to_end(&mut buffer)?;
        if buffer.len() < length {
            let found = buffer.len();
            return Err(ParquetError::EOF(format!(
                "expected {length} bytes, and there are {found}"
            )));
        }
        Ok(buffer.into())
    }
}

/// The file's bytes from a place on.
pub struct From {
    file: WatchedFile,
    at: u64,
}

impl Seek for From {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.file.bytes.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        let outside = || io::Error::new(io::ErrorKind::InvalidInput, "a place outside of it");
        self.at = at.ok_or_else(outside)?;
        Ok(self.at)
    }
}

impl Read for From {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(into, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn bytes_are_read_from_where_they_are_asked_for() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"0123456789").expect("written");
        let file = WatchedFile::new(file).expect("its size");
        assert_eq!(file.len(), 10);
        assert_eq!(&file.get_bytes(3, 4).expect("there")[..], b"3456");
        let mut rest = String::new();
        file.get_read(7).expect("there").read_to_string(&mut rest).expect("text");
        assert_eq!(rest, "789");
        assert!(file.get_bytes(8, 3).is_err());
        let end = Error::StagePanicked { stage: "source" };
        assert!(matches!(file.explain(Path::new("x"), end), Error::StagePanicked { .. }));
    }

    #[test]
    fn what_the_system_refused_is_remembered_by_every_clone() {
        // Linux refuses to read what is not mapped there, which nothing is at 0, with EIO.
        let file = File::open("/proc/self/mem").expect("Linux has it");
        let file = WatchedFile::new(file).expect("its size");
        assert!(file.clone().get_bytes(0, 4).is_err());
        let error = file.explain(Path::new("x"), Error::StagePanicked { stage: "source" });
        assert_eq!(error.exit_code(), 75, "{error}");
    }
}
