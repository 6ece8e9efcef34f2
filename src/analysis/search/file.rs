//! The vectors of a column in a file of their own, mapped into memory: what is searched again and
//! again without reading Parquet.
//!
//! A page of header (magic, length of the JSON, the JSON, zeros); one over each vector's length in
//! f32, 0 for a row that has none; the vectors row by row, f16 as the table has them or f32 at unit
//! length. Numbers are little-endian. A row's number is its place. The header names the data by a
//! digest of the files' names and fingerprints: a file of other data is made again. It can be
//! removed at any time.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use super::column::{Column, Element};
use super::top::{BLOCK, Scan};
use crate::analysis::Reasons;
use crate::analysis::dots::f16_bytes;
use crate::digest;
use crate::error::Error;
use crate::files::{self, Draft};

const MAGIC: &[u8; 16] = b"clipmill vectors";
const HEADER_BYTES: usize = 4096;
const VERSION: u32 = 1;

/// What the file says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Header {
    version: u32,
    /// Digest of the column's name and the fingerprints of the files.
    of: String,
    element: String,
    dim: u64,
    rows: u64,
    searched: u64,
    without: BTreeMap<String, u64>,
}

/// An open file of vectors.
pub struct VectorFile {
    map: Mmap,
    header: Header,
    element: Element,
    dim: usize,
}

/// Where the file of a column belongs: in the folder that was given, beside the file.
pub fn path(input: &Path, column: &Column<'_>) -> PathBuf {
    let first = &column.table.files()[0].path;
    let is_file = input.is_file() || input == first;
    let is_folder = input.is_dir() || first.parent() == Some(input);
    let of = match first.file_name() {
        _ if is_folder => String::new(),
        _ if !is_file => format!("{}-", &digest::of_bytes(names(column).as_bytes())[..16]),
        name => format!("{}-", name.unwrap_or_default().to_string_lossy()),
    };
    let dir = if is_folder { input } else { first.parent().unwrap_or(Path::new("")) };
    files::local(dir).join(files::vectors_name(&format!("{of}{}", column.name)))
}

fn names(column: &Column<'_>) -> String {
    let names = column.table.files().iter().map(|file| file.path.display().to_string());
    names.collect::<Vec<_>>().join("\n")
}

/// What the file is of.
fn identity(column: &Column<'_>) -> String {
    let mut text = format!("{}\n", column.name);
    for file in column.table.files() {
        let name = file.path.file_name().unwrap_or_default().to_string_lossy();
        text += &format!("{name}: {}\n", file.fingerprint());
    }
    digest::of_bytes(text.as_bytes())
}

/// Bytes from the start to the vectors.
fn start(rows: u64) -> u64 {
    (HEADER_BYTES as u64 + rows * 4).next_multiple_of(64)
}

/// Bytes of the file.
pub fn bytes(column: &Column<'_>) -> u64 {
    let rows = column.table.rows();
    start(rows) + rows * (column.dim * column.element.size()) as u64
}

impl VectorFile {
    /// Opens the file of a column, if it is there, whole and of this data.
    pub fn open(path: &Path, column: &Column<'_>) -> Option<Self> {
        let file = File::open(path).ok().filter(is_regular)?;
        // SAFETY: the map is only read, and clipmill replaces such files, never changes them. One
        // that somebody cuts short meanwhile ends the process with SIGBUS.
        let map = unsafe { Mmap::map(&file) }.ok()?;
        let header = read_header(&map)?;
        let is_it = header.version == VERSION
            && header.of == identity(column)
            && header.element == column.element.as_str()
            && header.dim == column.dim as u64
            && header.rows == column.table.rows()
            && map.len() as u64 == bytes(column);
        let (element, dim) = (column.element, column.dim);
        is_it.then(|| Self { map, header, element, dim })
    }

    pub fn rows(&self) -> u64 {
        self.header.rows
    }

    pub fn searched(&self) -> u64 {
        self.header.searched
    }

    pub fn without(&self) -> &BTreeMap<String, u64> {
        &self.header.without
    }

    fn inverse(&self, row: u64) -> f32 {
        let at = HEADER_BYTES + row as usize * 4;
        f32::from_le_bytes([0, 1, 2, 3].map(|byte| self.map[at + byte]))
    }

    /// Puts rows before a scan.
    pub fn scan(&self, rows: Range<u64>, scan: &mut Scan) {
        let mut inverse = Vec::with_capacity(BLOCK);
        for first in rows.clone().step_by(BLOCK) {
            let block = first..(first + BLOCK as u64).min(rows.end);
            inverse.clear();
            inverse.extend(block.clone().map(|row| self.inverse(row)));
            self.load(block, scan);
            scan.look(first, &inverse);
        }
    }

    /// Puts a block of rows where a scan looks.
    fn load(&self, rows: Range<u64>, scan: &mut Scan) {
        let size = self.dim * self.element.size();
        let at = start(self.header.rows) as usize + rows.start as usize * size;
        let bytes = &self.map[at..at + (rows.end - rows.start) as usize * size];
        for (row, bytes) in bytes.chunks_exact(size.max(1)).enumerate() {
            match self.element {
                Element::F16 => scan.block.set_f16_bytes(row, bytes, scan.vector),
                Element::F32 => scan.block.set_f32_bytes(row, bytes),
            }
        }
    }

    /// Calls `with` for each row that has a vector, in order.
    pub fn each(
        &self,
        mut with: impl FnMut(u64, &[f32]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut scan = Scan::new(&[], self.dim, 0);
        for first in (0..self.rows()).step_by(BLOCK) {
            let block = first..(first + BLOCK as u64).min(self.rows());
            self.load(block.clone(), &mut scan);
            for row in block.filter(|row| self.inverse(*row) > 0.0) {
                with(row, scan.block.get((row - first) as usize))?;
            }
        }
        Ok(())
    }

    /// Gives a row's vector to `keep`, if it has one.
    pub fn vector(&self, row: u64, keep: &mut impl FnMut(&[f32])) {
        if row < self.rows() && self.inverse(row) > 0.0 {
            let mut scan = Scan::new(&[], self.dim, 0);
            self.load(row..row + 1, &mut scan);
            keep(scan.block.get(0));
        }
    }
}

fn is_regular(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0)
}

fn read_header(map: &[u8]) -> Option<Header> {
    let rest = map.get(..HEADER_BYTES)?.strip_prefix(MAGIC)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    serde_json::from_slice(rest.get(..u32::from_le_bytes(*length) as usize)?).ok()
}

/// Makes the file, several row groups at once. Where it cannot be written there is none, and the
/// reason instead.
///
/// # Errors
/// What reading the table gives.
pub fn build(
    path: &Path,
    column: &Column<'_>,
) -> Result<(Option<VectorFile>, Option<String>), Error> {
    let because = |error: &Error| {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
        let told = format!("{error}{}", cause.unwrap_or_default());
        (None, Some(format!("the table itself is read each time: {told}")))
    };
    let draft = match Draft::new(path) {
        Ok(draft) => draft,
        Err(error) => return Ok(because(&error)),
    };
    let of_the_file = draft.path().to_owned();
    let made = write(draft.file(), &of_the_file, column).and_then(|()| draft.publish(path));
    match made {
        Err(Error::Io { path, action, source }) if path == of_the_file => {
            Ok(because(&Error::Io { path, action, source }))
        }
        Err(error) => Err(error),
        Ok(()) => match VectorFile::open(path, column) {
            Some(file) => Ok((Some(file), None)),
            None => {
                let problem = "it changed while it was read";
                Ok((None, Some(format!("the table itself is read each time: {problem}"))))
            }
        },
    }
}

fn write(file: &File, path: &Path, column: &Column<'_>) -> Result<(), Error> {
    let failed = |source| Error::Io { action: "write", path: path.to_owned(), source };
    file.set_len(bytes(column)).map_err(failed)?;
    let (rows, total) = (column.table.rows(), Mutex::new((0, Reasons::default())));
    column.table.map(&column.columns(), |piece, batches| {
        let (mut searched, mut reasons) = (0, Reasons::default());
        column.piece((piece, batches), &mut reasons, |first, ready| {
            searched += ready.inverse.iter().filter(|inverse| **inverse > 0.0).count() as u64;
            let inverse: Vec<_> = ready.inverse.iter().flat_map(|x| x.to_le_bytes()).collect();
            file.write_all_at(&inverse, HEADER_BYTES as u64 + first * 4).map_err(failed)?;
            let size = (column.dim * column.element.size()) as u64;
            let at = start(rows) + first * size;
            file.write_all_at(&as_bytes(&ready.values, column.element), at).map_err(failed)
        })?;
        let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        total.0 += searched;
        total.1.merge(&reasons);
        Ok(())
    })?;
    let (searched, reasons) = total.into_inner().unwrap_or_else(|error| error.into_inner());
    let header = Header {
        version: VERSION,
        of: identity(column),
        element: column.element.as_str().to_owned(),
        dim: column.dim as u64,
        rows,
        searched,
        without: reasons.0,
    };
    let json = serde_json::to_vec(&header).expect("it is plain data");
    let mut page = MAGIC.to_vec();
    page.extend((json.len() as u32).to_le_bytes());
    page.extend(json);
    file.write_all_at(&page, 0).map_err(failed)
}

fn as_bytes(values: &[f32], element: Element) -> Vec<u8> {
    match element {
        Element::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Element::F16 => {
            let mut bytes = Vec::with_capacity(values.len() * 2);
            f16_bytes(values, &mut bytes);
            bytes
        }
    }
}
