//! The encoded bytes of images that lie in files of many, as members of tar shards: read from the
//! places that the rows bring. What a shard's members are is the source's affair.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;

use super::{ImageLoader, LoadError};
use crate::batch::hidden::{Place, WIDTH};
use crate::error::{Error, RowError, RowStatus, passes};

/// Files that are open at once: a batch's, and the one before it.
const MOST_OPEN: usize = 4;

/// A file of images, as the plan found it.
#[derive(Debug, Clone)]
pub struct Shard {
    pub path: PathBuf,
    /// Length in bytes, and when it was last written in nanoseconds since 1970.
    pub stamp: (u64, i128),
}

/// Reads images from places in shards.
#[derive(Debug)]
pub struct PlaceLoader {
    shards: Vec<Shard>,
    open: Mutex<Vec<(u32, Arc<File>)>>,
    /// What a sample without an image lacks, for messages.
    wanted: String,
    max_bytes: u64,
}

impl PlaceLoader {
    /// For places in `shards`. Images of more than `max_bytes` bytes are refused.
    pub fn new(shards: Vec<Shard>, wanted: &str, max_bytes: u64) -> Self {
        Self { shards, open: Mutex::default(), wanted: wanted.to_owned(), max_bytes }
    }

    fn file(&self, index: u32) -> Result<Arc<File>, LoadError> {
        let shard = &self.shards[index as usize];
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, file)) = open.iter().find(|(known, _)| *known == index) {
            return Ok(file.clone());
        }
        let file = File::open(&shard.path).map_err(|error| machine(shard, error))?;
        let file = Arc::new(file);
        if open.len() == MOST_OPEN {
            open.remove(0);
        }
        open.push((index, file.clone()));
        Ok(file)
    }

    fn read(&self, place: Place) -> Result<Vec<u8>, LoadError> {
        let shard = &self.shards[place.file as usize];
        let file = self.file(place.file)?;
        let mut bytes = vec![0; place.bytes as usize];
        let read = file.read_exact_at(&mut bytes, place.offset);
        let found = file.metadata().map_err(|error| machine(shard, error))?;
        let modified = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
        if (found.len(), modified) != shard.stamp {
            return Err(LoadError::Machine(Error::InputChanged { path: shard.path.clone() }));
        }
        match read {
            Ok(()) => Ok(bytes),
            Err(error) if passes(&error) => Err(machine(shard, error)),
            Err(error) => {
                let message = format!("could not read the image: {error}");
                Err(RowError::new(RowStatus::ImageUnreadable, message).into())
            }
        }
    }
}

fn machine(shard: &Shard, error: io::Error) -> LoadError {
    LoadError::Machine(Error::io("read images from", &shard.path)(error))
}

impl ImageLoader for PlaceLoader {
    fn bind(&self, column: &ArrayRef) -> Result<ArrayRef, Error> {
        match column.data_type() {
            DataType::FixedSizeBinary(width) if *width as usize == WIDTH => Ok(column.clone()),
            other => {
                let problem = format!("gave {other} for the places of images");
                Err(Error::Setting { key: "the source".to_owned(), problem })
            }
        }
    }

    fn name<'a>(&self, column: &'a dyn Array, row: usize) -> Option<&'a [u8]> {
        column.is_valid(row).then(|| column.as_fixed_size_binary().value(row))
    }

    fn load<'a>(&self, column: &'a dyn Array, row: usize) -> Result<Cow<'a, [u8]>, LoadError> {
        let Some(place) = self.name(column, row).and_then(Place::from_bytes) else {
            let message = format!("the sample has no image ({})", self.wanted);
            return Err(RowError::new(RowStatus::ImageMissing, message).into());
        };
        if place.bytes == 0 {
            let message = "the image has no bytes";
            return Err(RowError::new(RowStatus::ImageUndecodable, message).into());
        }
        if place.bytes > self.max_bytes {
            let (n, most) = (place.bytes, self.max_bytes);
            let message = format!("the image has {n} bytes, more than {most} (max_bytes)");
            return Err(RowError::new(RowStatus::ImageTooLarge, message).into());
        }
        self.read(place).map(Cow::Owned)
    }
}
