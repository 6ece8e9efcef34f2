//! A file that remembers why it could not be read.
//!
//! The Parquet reader passes on what went wrong as text, so that a disk that fails for now looks
//! like a file that is damaged. What the system said is kept here, for whoever gets the error.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use bytes::Bytes;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{ChunkReader, Length};

use crate::error::Error;

/// A file to read Parquet from. Clones share what they remember.
#[derive(Debug, Clone)]
pub struct WatchedFile {
    file: Arc<File>,
    bytes: u64,
    /// The last error's number, or 0.
    error: Arc<AtomicI32>,
}

impl WatchedFile {
    pub fn new(file: File) -> io::Result<Self> {
        let bytes = file.metadata()?.len();
        Ok(Self { file: Arc::new(file), bytes, error: Arc::default() })
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
        match self.error.load(Ordering::Relaxed) {
            0 => None,
            number => Some(io::Error::from_raw_os_error(number)),
        }
    }

    /// How long the file is now and when it was last written, in nanoseconds since 1970. The time is
    /// only ever compared for equality.
    pub fn stamp(&self) -> io::Result<(u64, i128)> {
        let found = self.file.metadata()?;
        let seconds = i128::from(found.mtime());
        Ok((found.len(), seconds * 1_000_000_000 + i128::from(found.mtime_nsec())))
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let read = self.file.read_at(into, at);
        if let Err(error) = &read
            && error.kind() != io::ErrorKind::Interrupted
        {
            self.error.store(error.raw_os_error().unwrap_or(0), Ordering::Relaxed);
        }
        read
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
