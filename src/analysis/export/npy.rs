//! NumPy's array files, version 1.0, and archives of them.
//!
//! A file is written row by row; how many there are is said at its beginning when all are there.
//! Source: numpy/lib/_format_impl.py, whose `np.save` writes the same bytes.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

use half::f16;
use zip::write::FileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

/// The header: room for the first side to grow to 21 digits, then spaces up to a multiple of 64
/// bytes, so that it is as long whatever the number of rows is. `shape` is the rows and what
/// follows them.
pub fn header(descr: &str, rows: u64, rest: &str) -> Vec<u8> {
    let mut text =
        format!("{{'descr': {descr}, 'fortran_order': False, 'shape': ({rows},{rest}), }}");
    text += &" ".repeat(21 - rows.to_string().len());
    let unpadded = 10 + text.len() + 1;
    text += &" ".repeat(64 - unpadded % 64);
    text.push('\n');
    let length = (text.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\x00".as_slice(), &length, text.as_bytes()].concat()
}

/// The element type of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    F16,
    F32,
}

/// A file of vectors, `[rows, dim]`, that is being written.
pub struct Vectors<W: Write + Seek> {
    to: BufWriter<W>,
    element: Element,
    dim: usize,
    rows: u64,
}

impl<W: Write + Seek> Vectors<W> {
    /// Begins a file.
    pub fn new(to: W, element: Element, dim: usize) -> io::Result<Self> {
        let mut file = Self { to: BufWriter::with_capacity(1 << 20, to), element, dim, rows: 0 };
        file.to.write_all(&file.header())?;
        Ok(file)
    }

    fn header(&self) -> Vec<u8> {
        let descr = match self.element {
            Element::F16 => "'<f2'",
            Element::F32 => "'<f4'",
        };
        header(descr, self.rows, &format!(" {}", self.dim))
    }

    /// Adds a vector, `dim` numbers long.
    pub fn push(&mut self, vector: &[f32]) -> io::Result<()> {
        debug_assert_eq!(vector.len(), self.dim);
        self.rows += 1;
        vector.iter().try_for_each(|value| match self.element {
            Element::F16 => self.to.write_all(&f16::from_f32(*value).to_le_bytes()),
            Element::F32 => self.to.write_all(&value.to_le_bytes()),
        })
    }

    /// Says how many there are, and gives the file back.
    pub fn finish(mut self) -> io::Result<W> {
        self.to.seek(SeekFrom::Start(0))?;
        self.to.write_all(&self.header())?;
        self.to.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

/// Puts files of arrays, each under its name, into one archive, as `np.savez` does.
pub fn archive(to: &mut File, arrays: Vec<(String, File)>) -> io::Result<()> {
    let mut zip = ZipWriter::new(BufWriter::with_capacity(1 << 20, to));
    for (name, mut array) in arrays {
        let bytes = array.seek(SeekFrom::End(0))?;
        array.seek(SeekFrom::Start(0))?;
        // The same arrays are the same bytes.
        let options = FileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::default())
            .large_file(bytes >= u64::from(u32::MAX));
        zip.start_file(format!("{name}.npy"), options)?;
        io::copy(&mut array, &mut zip)?;
    }
    zip.finish()?.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_as_long_for_any_number_of_rows() {
        for rows in [0, 7, 12_345, u64::MAX] {
            let header = header("'<f4'", rows, " 512");
            assert_eq!(header.len(), super::header("'<f4'", 0, " 512").len());
            assert_eq!(header.len() % 64, 0);
        }
    }
}
