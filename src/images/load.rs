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
    // A socket, or a device without a driver.
    if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) {
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
