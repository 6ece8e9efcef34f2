//! SHA-256 of files and of what is being written, in hexadecimal as `sha256sum` prints it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::Error;

/// The digest of some bytes.
pub fn of_bytes(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// The digest of a file's bytes.
///
/// # Errors
/// `Io` when the file cannot be read.
pub fn of_file(path: &Path) -> Result<String, Error> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(Error::io("read", path))? {
            0 => return Ok(hexadecimal(&digest.finalize())),
            n => digest.update(&buffer[..n]),
        }
    }
}

/// A file that is digested while it is written, so that it need not be read again.
pub struct DigestedFile {
    file: File,
    digest: Sha256,
}

impl DigestedFile {
    /// Digests what is written to a new file.
    pub fn new(file: File) -> Self {
        Self { file, digest: Sha256::new() }
    }

    /// The file and the digest of what was written to it.
    pub fn finish(self) -> (File, String) {
        (self.file, hexadecimal(&self.digest.finalize()))
    }
}

impl Write for DigestedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_and_reading_give_the_published_digest() {
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(of_bytes(b"abc"), abc);
        let path = tempfile::NamedTempFile::new().expect("a scratch file").into_temp_path();
        let mut file = DigestedFile::new(File::create(&path).expect("created"));
        file.write_all(b"a").and_then(|()| file.write_all(b"bc")).expect("written");
        assert_eq!(file.finish().1, abc);
        assert_eq!(of_file(&path).expect("read"), abc);
    }
}
