//! Centroids, and the file that they are kept in: safetensors with one tensor, `centroids`.
//!
//! It is what `numpy` and everybody else reads; new rows are assigned to them without training.

use std::collections::HashMap;
use std::io::{ErrorKind, Read};
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};

use crate::error::Error;
use crate::files;
use crate::regular;

/// The file's name in an output folder.
pub const FILE_NAME: &str = "_centroids.safetensors";

/// The most bytes that a file of centroids may have.
const MOST_BYTES: u64 = 8 << 30;

const TENSOR: &str = "centroids";

/// Some vectors of one length.
#[derive(Debug, Clone, PartialEq)]
pub struct Centroids {
    /// Row-major, `[k, dim]`.
    pub values: Vec<f32>,
    pub dim: usize,
}

impl Centroids {
    pub fn k(&self) -> usize {
        self.values.len() / self.dim.max(1)
    }

    pub fn get(&self, label: usize) -> &[f32] {
        &self.values[label * self.dim..(label + 1) * self.dim]
    }

    /// Reads a file of them: `centroids`, F32, of two sides.
    ///
    /// # Errors
    /// `NotFound`, `ModelFile` for anything else than that.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let wrong = |problem: String| Error::ModelFile { path: path.into(), problem };
        let file = regular::open(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                let hint = format!(": `clipmill cluster` writes {FILE_NAME} into its output");
                Error::NotFound { what: "file of centroids", path: path.into(), hint }
            }
            ErrorKind::InvalidInput => wrong("is no regular file".into()),
            _ => Error::io("read", path)(error),
        })?;
        let mut bytes = Vec::new();
        file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
        if bytes.len() as u64 > MOST_BYTES {
            return Err(wrong("has more than 8 GiB".into()));
        }
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|error| wrong(format!("is no whole safetensors file ({error})")))?;
        let tensor =
            file.tensor(TENSOR).map_err(|_| wrong(format!("has no tensor \"{TENSOR}\"")))?;
        match (tensor.dtype(), tensor.shape()) {
            (Dtype::F32, &[k, dim]) if k > 0 && dim > 0 => {
                let (numbers, _) = tensor.data().as_chunks::<4>();
                let values: Vec<_> =
                    numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
                match values.iter().all(|value| value.is_finite()) {
                    true => Ok(Self { values, dim }),
                    false => Err(wrong("has a centroid that is not finite".into())),
                }
            }
            (dtype, shape) => Err(wrong(format!(
                "\"{TENSOR}\" is {dtype:?} of {shape:?}: F32 of [k, dim] is needed"
            ))),
        }
    }

    /// Writes the file, whole, into a folder. `about` is kept in its header.
    pub fn write(&self, dir: &Path, about: String) -> Result<(), Error> {
        let path = dir.join(FILE_NAME);
        let data: Vec<u8> = self.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = TensorView::new(Dtype::F32, vec![self.k(), self.dim], &data);
        let bytes = tensor.and_then(|tensor| {
            serialize([(TENSOR, tensor)], Some(HashMap::from([("clipmill".to_owned(), about)])))
        });
        let bytes = bytes
            .map_err(|error| Error::ModelFile { path: path.clone(), problem: error.to_string() })?;
        files::replace(&path, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_anything_else_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let centroids = Centroids { values: vec![1.0, -2.0, 0.5, 0.25, 3.0, 4.0], dim: 3 };
        centroids.write(dir.path(), "{}".into()).expect("written");
        let path = dir.path().join(FILE_NAME);
        assert_eq!(Centroids::read(&path).expect("read"), centroids);
        let nan = Centroids { values: vec![f32::NAN, 1.0], dim: 2 };
        nan.write(dir.path(), "{}".into()).expect("written");
        assert!(matches!(Centroids::read(&path), Err(Error::ModelFile { .. })));
        std::fs::write(&path, b"no").expect("written");
        assert!(matches!(Centroids::read(&path), Err(Error::ModelFile { .. })));
        assert!(matches!(Centroids::read(dir.path()), Err(Error::ModelFile { .. })));
        let missing = Centroids::read(&dir.path().join("no"));
        assert!(matches!(missing, Err(Error::NotFound { .. })));
    }
}
