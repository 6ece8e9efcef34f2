//! From a row's image column to the encoded bytes: opens what the column names. Images in the column
//! itself are `bytes`, in tar shards `place`, by URL `url`.
//!
//! A path comes from data, so it is not trusted: it is resolved beneath the root by the kernel,
//! opened without waiting for whoever is at the other end of a FIFO, and read up to a limit.
//! What the bytes are is found by `decode`.

mod bytes;
mod place;
mod url;

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;
use cap_std::ambient_authority;
use cap_std::fs::{Dir, File, OpenOptions, OpenOptionsExt};
use rustix::fs::OFlags;

pub use self::bytes::{BytesLoader, holds_bytes};
pub use self::place::{PlaceLoader, Shard};
pub use self::url::UrlLoader;
use crate::error::{Error, RowError, RowStatus, passes};
use crate::spec::ImagePathSpec;

/// Gets the encoded bytes of a row's image.
pub trait ImageLoader: Send + Sync {
    /// Casts a batch's image column, once, to the type that `load` reads.
    ///
    /// # Errors
    /// [`Error::Setting`] if the column is of a type that cannot name an image.
    fn bind(&self, column: &ArrayRef) -> Result<ArrayRef, Error>;

    /// What names the image of `row`, where it is named: rows of a batch with the same name have
    /// the same image, which is then loaded and decoded once.
    fn name<'a>(&self, column: &'a dyn Array, row: usize) -> Option<&'a [u8]>;

    /// Begins to get what a column that `bind` gave names, where that takes waiting: each row's image
    /// will be loaded, later. Returns at once.
    fn announce(&self, _column: &dyn Array) {}

    /// How many rows should be announced before the first of them is loaded; 0 where `announce`
    /// does nothing.
    fn ahead(&self) -> usize {
        0
    }

    /// The bytes of the image of `row` of a column that `bind` gave.
    ///
    /// # Errors
    /// Of the row: `image_path_missing`, `image_missing`, `image_refused`, `image_unreadable` or
    /// `image_too_large`; of a URL's also `image_url_invalid`, `image_http_error` or
    /// `image_unreachable`. Of the machine, which would be every row's: no more open files, a
    /// network file system or a host that is away.
    fn load<'a>(&self, column: &'a dyn Array, row: usize) -> Result<Cow<'a, [u8]>, LoadError>;
}

/// Why there are no bytes.
#[derive(Debug)]
pub enum LoadError {
    /// It is this row's image.
    Row(RowError),
    /// It is not, so the run must not write it down as if it were.
    Machine(Error),
}

impl From<RowError> for LoadError {
    fn from(error: RowError) -> Self {
        LoadError::Row(error)
    }
}

/// Reads files beneath a root folder. The column holds their paths relative to it.
#[derive(Debug)]
pub struct PathLoader {
    root: Dir,
    /// For messages.
    root_path: PathBuf,
    allow_absolute: bool,
    max_bytes: u64,
}

impl PathLoader {
    /// Opens the root. Files of more than `max_bytes` bytes are refused.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the root is not there, [`Error::Io`] if it cannot be opened.
    pub fn open(spec: &ImagePathSpec, max_bytes: u64) -> Result<Self, Error> {
        Self::open_for("[image.path]", spec, max_bytes)
    }

    /// The same for a root that another section of the pipeline names.
    pub(super) fn open_for(
        section: &str,
        spec: &ImagePathSpec,
        max_bytes: u64,
    ) -> Result<Self, Error> {
        match Dir::open_ambient_dir(&spec.root, ambient_authority()) {
            Ok(root) => Ok(Self {
                root,
                root_path: spec.root.clone(),
                allow_absolute: spec.allow_absolute,
                max_bytes,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::NotFound {
                what: "the image root",
                path: spec.root.clone(),
                hint: format!(": set root under {section}"),
            }),
            Err(error) => Err(Error::io("open the image root", &spec.root)(error)),
        }
    }

    /// Reads one file. Regular files only; symbolic links are followed beneath the root.
    pub(super) fn read(&self, path: &Path) -> Result<Vec<u8>, LoadError> {
        let machine = |error| {
            LoadError::Machine(Error::io("read the image", self.root_path.join(path))(error))
        };
        let file = match self.open_file(path) {
            Ok(file) => file,
            Err(error) if is_of_machine(&error) => return Err(machine(error)),
            Err(error) => return Err(open_error(path, &error).into()),
        };
        let metadata = file.metadata().map_err(|error| unreadable(path, &error))?;
        if !metadata.is_file() {
            let message = format!("{path:?} is not a regular file");
            return Err(RowError::new(RowStatus::ImageRefused, message).into());
        }
        if metadata.len() > self.max_bytes {
            return Err(self.too_large(path).into());
        }
        let mut bytes = Vec::with_capacity(metadata.len() as usize);
        // The file may grow while it is read, so the limit holds here too.
        match file.take(self.max_bytes.saturating_add(1)).read_to_end(&mut bytes) {
            Err(error) if is_of_machine(&error) => return Err(machine(error)),
            Err(error) => return Err(unreadable(path, &error).into()),
            Ok(_) => {}
        }
        if bytes.len() as u64 > self.max_bytes {
            return Err(self.too_large(path).into());
        }
        if bytes.is_empty() {
            let message = format!("{path:?}: the file is empty");
            return Err(RowError::new(RowStatus::ImageUndecodable, message).into());
        }
        Ok(bytes)
    }

    fn open_file(&self, path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        // Without O_NONBLOCK, opening a FIFO waits for a writer that never comes.
        options.read(true).custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32);
        match path.has_root() {
            false => self.root.open_with(path, &options),
            true if self.allow_absolute => {
                File::open_ambient_with(path, &options, ambient_authority())
            }
            // They fail beneath a root whatever they name; say so before any look-up.
            true => Err(io::Error::from(io::ErrorKind::PermissionDenied)),
        }
    }

    fn too_large(&self, path: &Path) -> RowError {
        let message = format!("{path:?} has more than {} bytes (max_bytes)", self.max_bytes);
        RowError::new(RowStatus::ImageTooLarge, message)
    }
}

impl ImageLoader for PathLoader {
    fn bind(&self, column: &ArrayRef) -> Result<ArrayRef, Error> {
        as_bytes(column, "paths")
    }

    fn name<'a>(&self, column: &'a dyn Array, row: usize) -> Option<&'a [u8]> {
        let paths = column.as_binary_view_opt().expect("`bind` made it a BinaryView column");
        paths.is_valid(row).then(|| paths.value(row))
    }

    fn load<'a>(&self, column: &'a dyn Array, row: usize) -> Result<Cow<'a, [u8]>, LoadError> {
        let paths = column.as_binary_view_opt().expect("`bind` made it a BinaryView column");
        let missing = |message| RowError::new(RowStatus::ImagePathMissing, message).into();
        match paths.is_valid(row).then(|| paths.value(row)) {
            None => Err(missing("the image path is null")),
            Some(b"") => Err(missing("the image path is empty")),
            Some(path) => self.read(Path::new(OsStr::from_bytes(path))).map(Cow::Owned),
        }
    }
}

/// A column of strings as their bytes. `what` they are is for the message.
fn as_bytes(column: &ArrayRef, what: &str) -> Result<ArrayRef, Error> {
    let refused =
        |problem: String| Error::Setting { key: "source.parquet.image".to_owned(), problem };
    if !is_text(column.data_type()) {
        let problem = format!("the column is {}; {what} are strings", column.data_type());
        return Err(refused(problem));
    }
    arrow::compute::cast(column, &DataType::BinaryView).map_err(|error| refused(error.to_string()))
}

/// Whether a column of that type holds paths or URLs: strings, a dictionary of them, or nulls alone.
fn is_text(kind: &DataType) -> bool {
    match kind {
        // Strings travel as bytes, and a path may be any.
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::BinaryView => true,
        DataType::Null => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

/// Why a path could not be opened. A path out of the root gets one message, whether or not
/// there is something at its end: the difference would tell what is outside.
fn open_error(path: &Path, error: &io::Error) -> RowError {
    let escaped = error.kind() == io::ErrorKind::PermissionDenied && error.raw_os_error().is_none();
    if escaped {
        let message = format!("{path:?} leaves the image root");
        return RowError::new(RowStatus::ImageRefused, message);
    }
    // A socket, a device without a driver, or a name that no file can have (a NUL in it).
    let nothing_regular = [rustix::io::Errno::NXIO, rustix::io::Errno::INVAL];
    if nothing_regular.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) {
        let message = format!("{path:?} is not a regular file");
        return RowError::new(RowStatus::ImageRefused, message);
    }
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            RowError::new(RowStatus::ImageMissing, format!("{path:?} does not exist"))
        }
        _ => unreadable(path, error),
    }
}

/// Whether every other image would fail too. A bad sector (EIO) is this image's.
fn is_of_machine(error: &io::Error) -> bool {
    passes(error) && error.raw_os_error() != Some(rustix::io::Errno::IO.raw_os_error())
}

fn unreadable(path: &Path, error: &io::Error) -> RowError {
    RowError::new(RowStatus::ImageUnreadable, format!("could not read {path:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::Arc;

    use arrow::array::{DictionaryArray, LargeStringArray, NullArray, StringArray, UInt8Array};
    use arrow::datatypes::Int8Type;

    use super::*;

    /// A root with one of everything, beside a file that is out of bounds.
    fn loader() -> (tempfile::TempDir, PathLoader) {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("folder")).expect("a scratch folder");
        fs::write(dir.path().join("outside.jpg"), b"secret").expect("a file");
        fs::write(root.join("good.jpg"), b"bytes").expect("a file");
        fs::write(root.join("empty.jpg"), b"").expect("a file");
        fs::write(root.join("large.jpg"), [0; 11]).expect("a file");
        symlink("good.jpg", root.join("link.jpg")).expect("a link");
        symlink("../outside.jpg", root.join("out.jpg")).expect("a link");
        symlink("/nowhere/at/all", root.join("dangling.jpg")).expect("a link");
        rustix::fs::mkfifoat(rustix::fs::CWD, root.join("fifo.jpg"), 0o600.into()).expect("a FIFO");
        let spec = ImagePathSpec { root, allow_absolute: false };
        let loader = PathLoader::open(&spec, 10).expect("the root is there");
        (dir, loader)
    }

    fn row_error(loaded: Result<Cow<'_, [u8]>, LoadError>) -> RowError {
        match loaded {
            Err(LoadError::Row(error)) => error,
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn absolute_paths_are_read_where_the_pipeline_says_so_and_relative_ones_stay_confined() {
        let (dir, confined) = loader();
        let spec = ImagePathSpec { root: confined.root_path, allow_absolute: true };
        let loader = PathLoader::open(&spec, 10).expect("the root is there");
        let absolute = dir.path().join("outside.jpg").display().to_string();
        let column: ArrayRef = Arc::new(StringArray::from(vec![&absolute, "../outside.jpg"]));
        let column = loader.bind(&column).expect("strings");
        assert_eq!(loader.load(&column, 0).expect("it is there").as_ref(), b"secret");
        assert_eq!(row_error(loader.load(&column, 1)).status, RowStatus::ImageRefused);
    }

    #[test]
    fn what_fails_for_every_image_is_no_rows_fault() {
        for (code, of_machine) in [(5, false), (2, false), (13, false), (23, true), (24, true)] {
            assert_eq!(is_of_machine(&io::Error::from_raw_os_error(code)), of_machine, "{code}");
        }
    }

    #[test]
    fn each_path_gives_its_bytes_or_its_status() {
        let (_dir, loader) = loader();
        let leaves = |path: &str| format!("\"{path}\" leaves the image root");
        for (path, status, message) in [
            ("", RowStatus::ImagePathMissing, "the image path is empty".to_owned()),
            ("no.jpg", RowStatus::ImageMissing, "\"no.jpg\" does not exist".to_owned()),
            ("good.jpg/x", RowStatus::ImageMissing, "\"good.jpg/x\" does not exist".to_owned()),
            ("../outside.jpg", RowStatus::ImageRefused, leaves("../outside.jpg")),
            ("../no.jpg", RowStatus::ImageRefused, leaves("../no.jpg")),
            ("/etc/passwd", RowStatus::ImageRefused, leaves("/etc/passwd")),
            ("/no/such", RowStatus::ImageRefused, leaves("/no/such")),
            ("out.jpg", RowStatus::ImageRefused, leaves("out.jpg")),
            ("dangling.jpg", RowStatus::ImageRefused, leaves("dangling.jpg")),
            ("folder", RowStatus::ImageRefused, "\"folder\" is not a regular file".to_owned()),
            ("fifo.jpg", RowStatus::ImageRefused, "\"fifo.jpg\" is not a regular file".to_owned()),
            (
                "empty.jpg",
                RowStatus::ImageUndecodable,
                "\"empty.jpg\": the file is empty".to_owned(),
            ),
            (
                "large.jpg",
                RowStatus::ImageTooLarge,
                "\"large.jpg\" has more than 10 bytes (max_bytes)".to_owned(),
            ),
        ] {
            let column: ArrayRef = Arc::new(StringArray::from(vec![path]));
            let column = loader.bind(&column).expect("strings");
            let error = row_error(loader.load(&column, 0));
            assert_eq!((error.status, error.message), (status, message));
        }
    }

    #[test]
    fn every_kind_of_string_column_is_read() {
        let (_dir, loader) = loader();
        let columns: [ArrayRef; 3] = [
            Arc::new(StringArray::from(vec![Some("good.jpg"), None])),
            Arc::new(LargeStringArray::from(vec![Some("folder/../link.jpg"), None])),
            Arc::new(DictionaryArray::<Int8Type>::from_iter([Some("link.jpg"), None])),
        ];
        for column in columns {
            let column = loader.bind(&column).expect("strings");
            assert_eq!(loader.load(&column, 0).expect("it is there").as_ref(), b"bytes");
            let error = row_error(loader.load(&column, 1));
            assert_eq!(error.status, RowStatus::ImagePathMissing);
        }
        let nulls = loader.bind(&(Arc::new(NullArray::new(1)) as ArrayRef)).expect("nulls");
        assert!(loader.load(&nulls, 0).is_err());
        let numbers: ArrayRef = Arc::new(UInt8Array::from(vec![1]));
        assert!(loader.bind(&numbers).is_err());
    }

    #[test]
    fn a_root_that_is_not_there_is_bad_usage() {
        let spec = ImagePathSpec { root: "/no/such/root".into(), allow_absolute: false };
        assert_eq!(PathLoader::open(&spec, 10).expect_err("no root").exit_code(), 2);
    }
}
