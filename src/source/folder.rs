//! A folder of images with captions in files beside them: a row an image, in the order of their
//! names, and one for each caption without an image.
//!
//! `a/b.jpg` has its caption in `a/b.txt`, or in a field of `a/b.json`. The folder is listed when the
//! plan is made, and again when it is read: a file more or less, or written to before its part is
//! read, is an error. Links are followed within the folder. Images are not read here, the rows name
//! them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::builder::BinaryViewBuilder;
use arrow::array::{ArrayRef, RecordBatch};
use cap_std::ambient_authority;
use cap_std::fs::{Dir, Metadata, MetadataExt, OpenOptions, OpenOptionsExt};
use rustix::fs::OFlags;

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
const MOST_DEPTH: usize = 32;

/// A file, and what changes when it does.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// From the folder on.
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
    image: Option<Entry>,
    /// By extension; those of all images of one name are the same.
    texts: Arc<BTreeMap<String, Entry>>,
}

/// Files by their name without the extension.
type Samples = BTreeMap<Vec<u8>, BTreeMap<String, Entry>>;

/// A folder, which nothing that is read leaves.
struct Root {
    dir: Dir,
    path: PathBuf,
}

impl Root {
    fn open(path: &Path) -> Result<Self, Error> {
        let dir = Dir::open_ambient_dir(path, ambient_authority());
        Ok(Self { dir: dir.map_err(Error::io("open", path))?, path: path.to_owned() })
    }

    fn list(&self, members: &Members) -> Result<Listing, Error> {
        let mut samples = Samples::new();
        self.walk(Path::new(""), (members, 0), &mut samples)?;
        let (mut rows, mut extensions, mut total) = (Vec::new(), BTreeSet::new(), 0);
        let mut digest = Growing::default();
        for files in samples.into_values() {
            for (extension, Entry { path, bytes, modified }) in &files {
                extensions.insert(extension.as_bytes().to_vec());
                total += bytes;
                digest.add(path.as_os_str().as_bytes());
                digest.add(format!("\0{bytes} {modified}\n").as_bytes());
            }
            let is_image = |extension: &String| members.images.contains(extension);
            let (images, texts): (BTreeMap<_, _>, BTreeMap<_, _>) =
                files.into_iter().partition(|(extension, _)| is_image(extension));
            let texts = Arc::new(texts);
            if images.is_empty() && self.has_caption(members, &texts)? {
                rows.push(Row { image: None, texts });
                continue;
            }
            let row = |image| Row { image: Some(image), texts: texts.clone() };
            rows.extend(images.into_values().map(row));
        }
        Ok(Listing { rows, extensions, bytes: total, sha256: digest.finish() })
    }

    /// Whether files without an image are a row: a JSON without the field is about something else.
    fn has_caption(
        &self,
        members: &Members,
        files: &BTreeMap<String, Entry>,
    ) -> Result<bool, Error> {
        let plain = members.captions.iter().any(|caption| files.contains_key(caption));
        if plain || !files.contains_key("json") {
            return Ok(plain);
        }
        let fields = members.captions.iter().filter(|caption| caption.starts_with("json."));
        let found = texts(fields.map(String::as_str), |extension| self.text(files, extension))?;
        Ok(found.iter().any(Option::is_some))
    }

    /// Adds the files beneath a folder that are images or captions.
    fn walk(
        &self,
        folder: &Path,
        (members, depth): (&Members, usize),
        samples: &mut Samples,
    ) -> Result<(), Error> {
        let here = self.path.join(folder);
        let wrong =
            |problem: String| Err(Error::Setting { key: "source.folder.path".into(), problem });
        if depth > MOST_DEPTH {
            let deep = here.display();
            return wrong(format!("{deep} is deeper than {MOST_DEPTH} folders: is it in itself?"));
        }
        let texts: BTreeSet<_> =
            members.captions.iter().map(|caption| extension(caption)).collect();
        let place = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        for entry in self.dir.read_dir(place).map_err(Error::io("list", &here))? {
            let name = entry.map_err(Error::io("list", &here))?.file_name();
            let path = folder.join(&name);
            if name.as_bytes().starts_with(b".") {
                continue;
            }
            let own = path.extension().map(|own| own.to_string_lossy().to_lowercase());
            let own = own.unwrap_or_default();
            let is_image = members.images.contains(&own);
            let is_text = texts.contains(own.as_str()) || own == "json";
            let mut file = Entry { path: path.clone(), bytes: 0, modified: 0 };
            // Of what a link names.
            match self.dir.metadata(&path) {
                Ok(found) if found.is_dir() => {
                    self.walk(&path, (members, depth + 1), samples)?;
                    continue;
                }
                Ok(found) => (file.bytes, file.modified) = stamp(&found),
                // An image that cannot be read is a row's affair.
                Err(_) if is_image => {}
                Err(error) if is_text || error.kind() == io::ErrorKind::PermissionDenied => {
                    let link = self.path.join(&path);
                    return wrong(format!(
                        "{} cannot be read ({error}): a link may not lead out of the folder",
                        link.display()
                    ));
                }
                Err(_) => continue,
            }
            if !is_image && !is_text {
                continue;
            }
            let key = path.with_extension("").as_os_str().as_bytes().to_vec();
            if let Some(other) = samples.entry(key).or_default().insert(own, file) {
                let other = other.path.display();
                return wrong(format!("{other} has another of its name in other letters' case"));
            }
        }
        Ok(())
    }

    /// What is in the file of an extension, if it is there.
    fn text(
        &self,
        files: &BTreeMap<String, Entry>,
        extension: &str,
    ) -> Result<Option<Vec<u8>>, Error> {
        let Some(file) = files.get(extension) else { return Ok(None) };
        let path = self.path.join(&file.path);
        let refused = Error::io("read", &path);
        // A FIFO would wait for whoever is at its other end.
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(OFlags::NONBLOCK.bits() as i32);
        let read = self.dir.open_with(&file.path, &options).and_then(|mut open| {
            let mut text = Vec::new();
            io::Read::by_ref(&mut open).take(file.bytes + 1).read_to_end(&mut text)?;
            Ok((stamp(&open.metadata()?), text))
        });
        let (found, text) = read.map_err(refused)?;
        match found == (file.bytes, file.modified) && text.len() as u64 == file.bytes {
            true => Ok(Some(text)),
            false => Err(Error::InputChanged { path }),
        }
    }

    /// Makes sure that nobody has written to the files of some rows since they were listed.
    fn check_unchanged(&self, rows: &[Row]) -> Result<(), Error> {
        for file in rows.iter().flat_map(|row| row.image.iter().chain(row.texts.values())) {
            let found = self.dir.metadata(&file.path).map_or((0, 0), |found| stamp(&found));
            if found != (file.bytes, file.modified) {
                return Err(Error::InputChanged { path: self.path.join(&file.path) });
            }
        }
        Ok(())
    }
}

/// Length in bytes, and when it was last written in nanoseconds since 1970.
fn stamp(found: &Metadata) -> (u64, i128) {
    let modified = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
    (found.len(), modified)
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
    let listing = Root::open(path)?.list(members)?;
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
    open: Option<(Root, Vec<Row>)>,
    /// Rows of the first part in `parts` that have been given out.
    given: u64,
}

impl FolderSource {
    /// A source of `parts`, in batches of `batch_size` rows.
    pub fn new(input: InputFile, members: Members, parts: Vec<Part>, batch_size: usize) -> Self {
        Self { input, members, parts: parts.into(), batch_size, open: None, given: 0 }
    }

    fn open(&mut self) -> Result<(Root, Vec<Row>), Error> {
        if let Some(open) = self.open.take() {
            return Ok(open);
        }
        let root = Root::open(&self.input.path)?;
        let listing = root.list(&self.members)?;
        match listing.sha256 == self.input.footer {
            true => Ok((root, listing.rows)),
            false => Err(Error::InputChanged { path: self.input.path.clone() }),
        }
    }

    /// The next of these rows: as many as are wanted, or fit.
    fn take(&self, root: &Root, rows: &[Row], first: u64) -> Result<RecordBatch, Error> {
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
            let image = row.image.as_ref().map(|image| image.path.as_os_str().as_bytes());
            columns[0].append_option(image);
            let values = texts(names(), |extension| root.text(&row.texts, extension))?;
            for (column, value) in columns[1..].iter_mut().zip(values) {
                column.append_option(value);
            }
        }
        let columns = columns.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef);
        RecordBatch::try_new(travel_schema(&self.input.schema), columns.collect())
            .map_err(|source| Error::Arrow { action: "put a folder's columns together", source })
    }
}

impl Source for FolderSource {
    fn next_batch(&mut self) -> Result<Option<RowBatch>, Error> {
        let Some(part) = self.parts.front().copied() else { return Ok(None) };
        let offset = self.given;
        let wanted = (part.rows - offset).min(self.batch_size as u64);
        let first = part.start + offset;
        let (root, all) = self.open()?;
        let rows = self.take(&root, &all[first as usize..(first + wanted) as usize], first)?;
        self.given += rows.num_rows() as u64;
        let last = self.given == part.rows;
        if last {
            // What was read is published as what the plan was made for.
            root.check_unchanged(&all[part.start as usize..(part.start + part.rows) as usize])?;
            self.parts.pop_front();
            self.given = 0;
        }
        self.open = Some((root, all));
        Ok(Some(RowBatch { position: Position { part: part.index, offset, last }, rows }))
    }
}
