//! SHA-256 of files and of what grows, in hexadecimal as `sha256sum` prints it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::Error;

/// The digest of some bytes.
pub fn of_bytes(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// The digest of some bytes, as it is.
pub fn raw_of_bytes(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The digest of a file's bytes.
///
/// # Errors
/// `Io` when the file cannot be read.
pub fn of_file(path: &Path) -> Result<String, Error> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut digest = Growing::default();
    digest.add_from(&mut file).map_err(Error::io("read", path))?;
    Ok(digest.finish())
}

/// A digest that grows with what is given to it. A copy goes on from there on its own.
#[derive(Debug, Clone, Default)]
pub struct Growing(Sha256);

impl Growing {
    /// Adds bytes at the end.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Adds what is left to read.
    pub fn add_from(&mut self, from: &mut impl Read) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 20];
        loop {
            match from.read(&mut buffer)? {
                0 => return Ok(()),
                n => self.add(&buffer[..n]),
            }
        }
    }

    /// The digest of everything that was added.
    pub fn finish(self) -> String {
        hexadecimal(&self.0.finalize())
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_and_its_bytes_piece_by_piece_give_the_published_digest() {
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(of_bytes(b"abc"), abc);
        let path = tempfile::NamedTempFile::new().expect("a scratch file").into_temp_path();
        std::fs::write(&path, "abc").expect("written");
        assert_eq!(of_file(&path).expect("read"), abc);
        let mut growing = Growing::default();
        growing.add(b"a");
        let mut copy = growing.clone();
        copy.add(b"no");
        growing.add(b"bc");
        assert_eq!(growing.finish(), abc);
    }
}
