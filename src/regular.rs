//! Reading files that others gave us: regular ones alone, and no more than there should be.
//!
//! A FIFO where a configuration is expected would hold the program up for ever, a device or a
//! file of many gigabytes would fill its memory. What the files hold is not known here.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// No configuration or vocabulary has more bytes: the largest known, of multilingual models, have
/// about 30 million.
pub const MOST_BYTES: u64 = 256 << 20;

/// Opens a regular file.
///
/// # Errors
/// `InvalidInput` for anything else that is there; else what opening gave.
pub fn open(path: &Path) -> io::Result<File> {
    // Without it, opening a FIFO waits for a writer.
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")),
    }
}

/// Reads a regular file of at most [`MOST_BYTES`].
///
/// # Errors
/// Those of [`open`], and `FileTooLarge`.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MOST_BYTES {
        false => Ok(bytes),
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has more than 256 MiB")),
    }
}

/// The same for text.
///
/// # Errors
/// Those of [`read`], and `InvalidData` for what is not UTF-8.
pub fn read_to_string(path: &Path) -> io::Result<String> {
    let text = String::from_utf8(read(path)?);
    text.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regular_files_of_a_sane_size_are_read_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("good"), "text").expect("written");
        std::os::unix::fs::symlink("good", at("link")).expect("linked");
        assert_eq!(read_to_string(&at("link")).expect("it is there"), "text");
        rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), 0o600.into()).expect("a FIFO");
        for wrong in [at("fifo"), dir.path().to_owned(), "/dev/zero".into()] {
            let error = read(&wrong).expect_err("no regular file");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{}", wrong.display());
        }
        // Takes no room on the disk.
        let file = File::create(at("huge")).expect("created");
        file.set_len(MOST_BYTES + 1).expect("grown");
        assert_eq!(read(&at("huge")).expect_err("too large").kind(), io::ErrorKind::FileTooLarge);
    }
}
