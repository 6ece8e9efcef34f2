//! From a row's image column to the encoded bytes: opens what the column names.
//!
//! A path comes from data, so it is not trusted: it is resolved beneath the root by the kernel,
//! opened without waiting for whoever is at the other end of a FIFO, and read up to a limit.
//! What the bytes are is found by `decode`.

use std::io::{self, Read};
use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;
use cap_std::ambient_authority;
use cap_std::fs::{Dir, File, OpenOptions, OpenOptionsExt};
use rustix::fs::OFlags;

use crate::error::{Error, RowError, RowStatus};
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
    fn name<'a>(&self, column: &'a dyn Array, row: usize) -> Option<&'a str>;

    /// The bytes of the image of `row` of a column that `bind` gave.
    ///
    /// # Errors
    /// `image_path_missing`, `image_missing`, `image_refused`, `image_unreadable` or
    /// `image_too_large`.
    fn load(&self, column: &dyn Array, row: usize) -> Result<Vec<u8>, RowError>;
}

/// Reads files beneath a root folder. The column holds their paths relative to it.
#[derive(Debug)]
pub struct PathLoader {
    root: Dir,
    max_bytes: u64,
}

impl PathLoader {
    /// Opens the root. Files of more than `max_bytes` bytes are refused.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the root is not there, [`Error::Io`] if it cannot be opened.
    pub fn open(spec: &ImagePathSpec, max_bytes: u64) -> Result<Self, Error> {
        match Dir::open_ambient_dir(&spec.root, ambient_authority()) {
            Ok(root) => Ok(Self { root, max_bytes }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::NotFound {
                what: "the image root",
                path: spec.root.clone(),
                hint: ": set root under [image.path]".to_owned(),
            }),
            Err(error) => Err(Error::io("open the image root", &spec.root)(error)),
        }
    }

    /// Reads one file. Regular files only; symbolic links are followed beneath the root.
    fn read(&self, path: &str) -> Result<Vec<u8>, RowError> {
        let file = self.open_file(path).map_err(|error| open_error(path, &error))?;
        let metadata = file.metadata().map_err(|error| unreadable(path, &error))?;
        if !metadata.is_file() {
            let message = format!("\"{path}\" is not a regular file");
            return Err(RowError::new(RowStatus::ImageRefused, message));
        }
        if metadata.len() > self.max_bytes {
            return Err(self.too_large(path));
        }
        let mut bytes = Vec::with_capacity(metadata.len() as usize);
        // The file may grow while it is read, so the limit holds here too.
        let read = file.take(self.max_bytes + 1).read_to_end(&mut bytes);
        read.map_err(|error| unreadable(path, &error))?;
        if bytes.len() as u64 > self.max_bytes {
            return Err(self.too_large(path));
        }
        if bytes.is_empty() {
            let message = format!("\"{path}\": the file is empty");
            return Err(RowError::new(RowStatus::ImageUndecodable, message));
        }
        Ok(bytes)
    }

    fn open_file(&self, path: &str) -> io::Result<File> {
        // Absolute paths fail beneath a root whatever they name; say so before any look-up.
        if Path::new(path).has_root() {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        let mut options = OpenOptions::new();
        // Without O_NONBLOCK, opening a FIFO waits for a writer that never comes.
        options.read(true).custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32);
        self.root.open_with(path, &options)
    }

    fn too_large(&self, path: &str) -> RowError {
        let message = format!("\"{path}\" has more than {} bytes (max_bytes)", self.max_bytes);
        RowError::new(RowStatus::ImageTooLarge, message)
    }
}

impl ImageLoader for PathLoader {
    fn bind(&self, column: &ArrayRef) -> Result<ArrayRef, Error> {
        let refused =
            |problem: String| Error::Setting { key: "source.parquet.image".to_owned(), problem };
        if !is_text(column.data_type()) {
            let problem = format!("the column is {}; paths are strings", column.data_type());
            return Err(refused(problem));
        }
        arrow::compute::cast(column, &DataType::Utf8View)
            .map_err(|error| refused(error.to_string()))
    }

    fn name<'a>(&self, column: &'a dyn Array, row: usize) -> Option<&'a str> {
        let paths = column.as_string_view_opt().expect("`bind` made it a Utf8View column");
        paths.is_valid(row).then(|| paths.value(row))
    }

    fn load(&self, column: &dyn Array, row: usize) -> Result<Vec<u8>, RowError> {
        let paths = column.as_string_view_opt().expect("`bind` made it a Utf8View column");
        if paths.is_null(row) {
            return Err(RowError::new(RowStatus::ImagePathMissing, "the image path is null"));
        }
        match paths.value(row) {
            "" => Err(RowError::new(RowStatus::ImagePathMissing, "the image path is empty")),
            path => self.read(path),
        }
    }
}

/// Whether a column of that type holds paths: strings, a dictionary of them, or nulls alone.
fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

/// Why a path could not be opened. A path out of the root gets one message, whether or not
/// there is something at its end: the difference would tell what is outside.
fn open_error(path: &str, error: &io::Error) -> RowError {
    let escaped = error.kind() == io::ErrorKind::PermissionDenied && error.raw_os_error().is_none();
    if escaped {
        let message = format!("\"{path}\" leaves the image root");
        return RowError::new(RowStatus::ImageRefused, message);
    }
    // A socket, a device without a driver, or a name that no file can have (a NUL in it).
    let nothing_regular = [rustix::io::Errno::NXIO, rustix::io::Errno::INVAL];
    if nothing_regular.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) {
        let message = format!("\"{path}\" is not a regular file");
        return RowError::new(RowStatus::ImageRefused, message);
    }
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            RowError::new(RowStatus::ImageMissing, format!("\"{path}\" does not exist"))
        }
        _ => unreadable(path, error),
    }
}

fn unreadable(path: &str, error: &io::Error) -> RowError {
    RowError::new(RowStatus::ImageUnreadable, format!("could not read \"{path}\": {error}"))
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
        let loader = PathLoader::open(&ImagePathSpec { root }, 10).expect("the root is there");
        (dir, loader)
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
            let error = loader.load(&column, 0).expect_err(path);
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
            assert_eq!(loader.load(&column, 0).expect("it is there"), b"bytes");
            let error = loader.load(&column, 1).expect_err("null");
            assert_eq!(error.status, RowStatus::ImagePathMissing);
        }
        let nulls = loader.bind(&(Arc::new(NullArray::new(1)) as ArrayRef)).expect("nulls");
        assert!(loader.load(&nulls, 0).is_err());
        let numbers: ArrayRef = Arc::new(UInt8Array::from(vec![1]));
        assert!(loader.bind(&numbers).is_err());
    }

    #[test]
    fn a_root_that_is_not_there_is_bad_usage() {
        let spec = ImagePathSpec { root: "/no/such/root".into() };
        assert_eq!(PathLoader::open(&spec, 10).expect_err("no root").exit_code(), 2);
    }
}
