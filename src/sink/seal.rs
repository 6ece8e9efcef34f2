//! Files that carry their own digest, so that each can be checked without a list of them.
//!
//! A sealed Parquet file has a key-value pair `clipmill.sha256` in its footer: the SHA-256 of the
//! whole file with the 64 digits of that value as zeros. What a file holds is not known here, but
//! for where Parquet has its footer.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use crate::digest::Growing;

/// The key that the seal stands under in the footer.
pub const SEAL_KEY: &str = "clipmill.sha256";

/// What stands for the seal until the rest of the file is known.
pub const BLANK: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A file that is digested while it is written. From [`SealedFile::hold`] on its bytes are kept in
/// memory, until the seal among them can be filled in.
pub struct SealedFile {
    file: File,
    digest: Growing,
    tail: Option<Vec<u8>>,
}

impl SealedFile {
    pub fn new(file: File) -> Self {
        Self { file, digest: Growing::default(), tail: None }
    }

    /// Holds back what is written from now on: the file's end, with its footer.
    pub fn hold(&mut self) {
        self.tail.get_or_insert_default();
    }

    /// Fills the seal in and writes what was held back. The file, its size, and its digest as
    /// `sha256sum` would print it.
    ///
    /// # Errors
    /// `InvalidData` if nothing was held back, or there is no blank seal in it; else what writing
    /// the end gave.
    pub fn finish(self) -> io::Result<(File, u64, String)> {
        let Self { mut file, mut digest, tail } = self;
        let no_seal = || io::Error::new(io::ErrorKind::InvalidData, "no place for a seal");
        let mut tail = tail.ok_or_else(no_seal)?;
        let at = seal_at(&tail).filter(|at| &tail[*at..*at + BLANK.len()] == BLANK.as_bytes());
        let at = at.ok_or_else(no_seal)?;
        let mut blank = digest.clone();
        blank.add(&tail);
        tail[at..at + BLANK.len()].copy_from_slice(blank.finish().as_bytes());
        digest.add(&tail);
        file.write_all(&tail)?;
        let bytes = file.metadata()?.len();
        Ok((file, bytes, digest.finish()))
    }
}

impl Write for SealedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(tail) = &mut self.tail {
            return tail.write(bytes);
        }
        let written = self.file.write(bytes)?;
        self.digest.add(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The digest of a whole file, as `sha256sum` would print it, if the file's seal fits.
pub fn check(file: &mut (impl Read + Seek)) -> io::Result<Option<String>> {
    let mut end = [0; 8];
    let size = file.seek(SeekFrom::End(0))?;
    let Some(ends_at) = size.checked_sub(8) else { return Ok(None) };
    file.seek(SeekFrom::Start(ends_at))?;
    file.read_exact(&mut end)?;
    let [a, b, c, d, magic @ ..] = end;
    let footer = u64::from(u32::from_le_bytes([a, b, c, d]));
    let Some(footer_at) = ends_at.checked_sub(footer).filter(|_| &magic == b"PAR1") else {
        return Ok(None);
    };
    file.seek(SeekFrom::Start(0))?;
    let mut digest = Growing::default();
    digest.add_from(&mut file.take(footer_at))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let Some(at) = seal_at(&tail) else { return Ok(None) };
    let mut whole = digest.clone();
    whole.add(&tail);
    let seal = tail[at..at + BLANK.len()].to_vec();
    tail[at..at + BLANK.len()].copy_from_slice(BLANK.as_bytes());
    digest.add(&tail);
    Ok((digest.finish().as_bytes() == seal).then(|| whole.finish()))
}

/// Where the last seal's digits are: after its key, as Thrift's compact protocol writes a field of
/// 64 bytes behind one (THRIFT-110).
fn seal_at(bytes: &[u8]) -> Option<usize> {
    let before = [SEAL_KEY.as_bytes(), &[0x18, BLANK.len() as u8]].concat();
    let found = bytes.windows(before.len()).rposition(|window| window == before)?;
    let at = found + before.len();
    (at + BLANK.len() <= bytes.len()).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest;

    fn sealed(path: &std::path::Path) -> String {
        let mut file = SealedFile::new(File::create(path).expect("created"));
        file.write_all(b"PAR1 rows and rows").expect("written");
        file.hold();
        let footer = format!("a footer with {SEAL_KEY}\x18\x40{BLANK} and more");
        file.write_all(footer.as_bytes()).expect("held");
        file.write_all(&(footer.len() as u32).to_le_bytes()).expect("held");
        file.write_all(b"PAR1").expect("held");
        let (_, bytes, sha256) = file.finish().expect("sealed");
        assert_eq!(bytes, std::fs::metadata(path).expect("there").len());
        sha256
    }

    #[test]
    fn a_sealed_file_is_whole_until_any_byte_changes() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let path = dir.path().join("file");
        let sha256 = sealed(&path);
        assert_eq!(sha256, digest::of_file(&path).expect("read"));
        let check = || check(&mut File::open(&path).expect("there")).expect("read");
        assert_eq!(check(), Some(sha256));
        let whole = std::fs::read(&path).expect("read");
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&path, &changed).expect("written");
            assert_eq!(check(), None, "byte {at}");
            std::fs::write(&path, &whole[..at]).expect("written");
            assert_eq!(check(), None, "cut at {at}");
        }
    }

    #[test]
    fn without_a_place_for_it_there_is_no_seal() {
        let file = || SealedFile::new(tempfile::tempfile().expect("a scratch file"));
        assert!(file().finish().is_err());
        let mut held = file();
        held.hold();
        held.write_all(b"no key").expect("held");
        assert!(held.finish().is_err());
    }
}
