//! A folder of images with captions in files beside them: a row an image, in the order of their
//! paths, and one for each caption without an image.
//!
//! `a/b.jpg` has its caption in `a/b.txt`, or in a field of `a/b.json`. The folder is listed when the
//! plan is made, and again when it is read: a file more or less, or written to, is an error. Images
//! are not read here, the rows name them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::builder::BinaryViewBuilder;
use arrow::array::{ArrayRef, RecordBatch};

use super::input::InputFile;
use super::members::{Members, extension, texts};
use super::parquet::BATCH_BYTES;
use super::{Part, Source};
use crate::batch::{Position, RowBatch};
use crate::digest::Growing;
use crate::error::Error;
use crate::travel::travel_schema;

/// The column that names images, from the folder on.
pub const IMAGE: &str = "image_path";

/// Folders in one another, at the most: one may be linked into itself.
const MOST_DEPTH: usize = 64;

/// A file, and what changes when it does.
#[derive(Debug, Clone)]
struct Entry {
    path: PathBuf,
    bytes: u64,
    modified: i128,
}

/// The files of a folder.
struct Listing {
    rows: Vec<Row>,
    extensions: BTreeSet<Vec<u8>>,
    bytes: u64,
    sha256: String,
}

/// What a row is made of.
#[derive(Debug, Clone)]
struct Row {
    image: Option<Vec<u8>>,
    /// By extension; those of all images of one name are the same.
    texts: Arc<BTreeMap<String, Entry>>,
}

/// Files by their name without the extension.
type Samples = BTreeMap<Vec<u8>, BTreeMap<String, Entry>>;

fn list(root: &Path, members: &Members) -> Result<Listing, Error> {
    let mut samples = Samples::new();
    walk(root, Path::new(""), (members, 0), &mut samples)?;
    let mut listing =
        Listing { rows: Vec::new(), extensions: BTreeSet::new(), bytes: 0, sha256: String::new() };
    let mut digest = Growing::default();
    for files in samples.into_values() {
        for (extension, Entry { path, bytes, modified }) in &files {
            listing.extensions.insert(extension.as_bytes().to_vec());
            listing.bytes += bytes;
            digest.add(path.as_os_str().as_bytes());
            digest.add(format!("\0{bytes} {modified}\n").as_bytes());
        }
        let is_image = |extension: &String| members.images.contains(extension);
        let (images, texts): (BTreeMap<_, _>, BTreeMap<_, _>) =
            files.into_iter().partition(|(extension, _)| is_image(extension));
        let is_caption = |own: &String| members.captions.iter().any(|name| extension(name) == own);
        if images.is_empty() && !texts.keys().any(is_caption) {
            continue;
        }
        let texts = Arc::new(texts);
        let name = |entry: Entry| Some(entry.path.as_os_str().as_bytes().to_vec());
        let mut rows: Vec<_> = images.into_values().map(name).collect();
        if rows.is_empty() {
            rows.push(None);
        }
        listing.rows.extend(rows.into_iter().map(|image| Row { image, texts: texts.clone() }));
    }
    listing.sha256 = digest.finish();
    Ok(listing)
}

/// Adds the files beneath a folder that are images or captions.
fn walk(
    root: &Path,
    folder: &Path,
    (members, depth): (&Members, usize),
    samples: &mut Samples,
) -> Result<(), Error> {
    let dir = root.join(folder);
    if depth > MOST_DEPTH {
        let problem = format!("{} is deeper than {MOST_DEPTH} folders", dir.display());
        return Err(Error::Setting { key: "source.folder.path".into(), problem });
    }
    let texts: BTreeSet<_> = members.captions.iter().map(|caption| extension(caption)).collect();
    for entry in fs::read_dir(&dir).map_err(Error::io("list", &dir))? {
        let entry = entry.map_err(Error::io("list", &dir))?;
        let (name, path) = (entry.file_name(), folder.join(entry.file_name()));
        if name.as_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type().map_err(Error::io("look at", entry.path()))?.is_dir() {
            walk(root, &path, (members, depth + 1), samples)?;
            continue;
        }
        let Some(own) = path.extension().map(|own| own.to_string_lossy().to_lowercase()) else {
            continue;
        };
        if !members.images.contains(&own) && !texts.contains(own.as_str()) && own != "json" {
            continue;
        }
        // What a link names; one that names nothing is found when it is read.
        let Ok(found) = fs::metadata(entry.path()) else { continue };
        if !found.is_file() {
            continue;
        }
        let modified = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
        let key = path.with_extension("").as_os_str().as_bytes().to_vec();
        let files = samples.entry(key).or_default();
        let file = Entry { path, bytes: found.len(), modified };
        if let Some(other) = files.insert(own.clone(), file) {
            let problem =
                format!("{} has another of its name in other letters' case", other.path.display());
            return Err(Error::Setting { key: "source.folder.path".into(), problem });
        }
    }
    Ok(())
}

/// Lists a folder.
///
/// # Errors
/// `NotFound` where there is none, `NoColumn` where no file has an extension that is asked for,
/// `Io`.
pub fn open_folder(path: &Path, members: &Members) -> Result<InputFile, Error> {
    if !path.is_dir() {
        let hint = ": [source.folder] takes a folder of images".into();
        return Err(Error::NotFound { what: "the folder", path: path.to_owned(), hint });
    }
    let listing = list(path, members)?;
    let schema = members.schema(&[(IMAGE, true)], &listing.extensions, path)?;
    let rows = listing.rows.len() as u64;
    let columns = InputFile::of_columns(path, schema)?;
    let (bytes, footer) = (listing.bytes, listing.sha256);
    Ok(InputFile { rows, groups: vec![rows], bytes, footer, ..columns })
}

/// Reads parts of one folder, in the order given.
pub struct FolderSource {
    input: InputFile,
    members: Members,
    parts: VecDeque<Part>,
    batch_size: usize,
    /// Once it is needed.
    rows: Option<Vec<Row>>,
    /// Rows of the first part in `parts` that have been given out.
    given: u64,
}

impl FolderSource {
    /// A source of `parts`, in batches of `batch_size` rows.
    pub fn new(input: InputFile, members: Members, parts: Vec<Part>, batch_size: usize) -> Self {
        Self { input, members, parts: parts.into(), batch_size, rows: None, given: 0 }
    }

    fn rows(&mut self) -> Result<Vec<Row>, Error> {
        if let Some(rows) = self.rows.take() {
            return Ok(rows);
        }
        let listing = list(&self.input.path, &self.members)?;
        match listing.sha256 == self.input.footer {
            true => Ok(listing.rows),
            false => Err(Error::InputChanged { path: self.input.path.clone() }),
        }
    }

    /// The next of these rows: as many as are wanted, or fit.
    fn take(&self, rows: &[Row], first: u64) -> Result<RecordBatch, Error> {
        let fields = self.input.schema.fields();
        let names = || fields[1..].iter().map(|field| field.name().as_str());
        let mut columns: Vec<_> = fields.iter().map(|_| BinaryViewBuilder::new()).collect();
        let mut bytes = 0;
        for (at, row) in rows.iter().enumerate() {
            let sizes = names().filter_map(|name| Some(row.texts.get(extension(name))?.bytes));
            let own = sizes.fold(0, u64::saturating_add);
            if own > BATCH_BYTES {
                let (path, row) = (self.input.path.clone(), first + at as u64);
                return Err(Error::RowSize { path, row, bytes: own, most: BATCH_BYTES });
            }
            if at > 0 && bytes + own > BATCH_BYTES {
                break;
            }
            bytes += own;
            columns[0].append_option(row.image.as_ref());
            let read = |extension: &str| row.texts.get(extension).map(|file| self.read(file));
            let values = texts(names(), |extension| read(extension).transpose())?;
            for (column, value) in columns[1..].iter_mut().zip(values) {
                column.append_option(value);
            }
        }
        let columns = columns.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef);
        RecordBatch::try_new(travel_schema(&self.input.schema), columns.collect())
            .map_err(|source| Error::Arrow { action: "put a folder's columns together", source })
    }

    fn read(&self, file: &Entry) -> Result<Vec<u8>, Error> {
        let path = self.input.path.join(&file.path);
        let text = fs::read(&path).map_err(Error::io("read", &path))?;
        match text.len() as u64 == file.bytes {
            true => Ok(text),
            false => Err(Error::InputChanged { path }),
        }
    }
}

impl Source for FolderSource {
    fn next_batch(&mut self) -> Result<Option<RowBatch>, Error> {
        let Some(part) = self.parts.front().copied() else { return Ok(None) };
        let offset = self.given;
        let wanted = (part.rows - offset).min(self.batch_size as u64);
        let first = part.start + offset;
        let all = self.rows()?;
        let rows = self.take(&all[first as usize..(first + wanted) as usize], first)?;
        self.rows = Some(all);
        self.given += rows.num_rows() as u64;
        let last = self.given == part.rows;
        if last {
            self.parts.pop_front();
            self.given = 0;
        }
        Ok(Some(RowBatch { position: Position { part: part.index, offset, last }, rows }))
    }
}
