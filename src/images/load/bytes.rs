//! The encoded bytes of images that lie in the table: binary values, or Hugging Face's `Image`
//! struct `{bytes, path}`. Bytes are lent, not copied; a path is `load`'s affair.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryViewArray, StructArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields};

use super::{ImageLoader, LoadError, PathLoader};
use crate::error::{Error, RowError, RowStatus};
use crate::spec::{ImageBytesSpec, ImagePathSpec};
use crate::travel::holds_text;

/// Gives the bytes that the image column holds.
#[derive(Debug)]
pub struct BytesLoader {
    /// For rows that hold a path alone.
    files: Option<PathLoader>,
    max_bytes: u64,
}

impl BytesLoader {
    /// Opens the root, where there is one. Images of more than `max_bytes` bytes are refused.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the root is not there, [`Error::Io`] if it cannot be opened.
    pub fn open(spec: &ImageBytesSpec, max_bytes: u64) -> Result<Self, Error> {
        let open = |root: &PathBuf| {
            let spec = ImagePathSpec { root: root.clone(), allow_absolute: false };
            PathLoader::open_for("[image.bytes]", &spec, max_bytes)
        };
        Ok(Self { files: spec.root.as_ref().map(open).transpose()?, max_bytes })
    }

    fn check<'a>(&self, bytes: &'a [u8]) -> Result<Cow<'a, [u8]>, LoadError> {
        if bytes.is_empty() {
            let message = "the image has no bytes";
            return Err(RowError::new(RowStatus::ImageUndecodable, message).into());
        }
        if bytes.len() as u64 > self.max_bytes {
            let (n, most) = (bytes.len(), self.max_bytes);
            let message = format!("the image has {n} bytes, more than {most} (max_bytes)");
            return Err(RowError::new(RowStatus::ImageTooLarge, message).into());
        }
        Ok(Cow::Borrowed(bytes))
    }

    fn file(&self, path: &[u8]) -> Result<Cow<'static, [u8]>, LoadError> {
        let path = Path::new(OsStr::from_bytes(path));
        match &self.files {
            Some(files) => files.read(path).map(Cow::Owned),
            None => {
                let message = format!(
                    "its bytes are null, and no root under [image.bytes] says where its path \
                     {path:?} starts"
                );
                Err(missing(message))
            }
        }
    }
}

fn missing(message: impl Into<String>) -> LoadError {
    RowError::new(RowStatus::ImageMissing, message).into()
}

/// Whether `[image.bytes]` reads a column of this declared type.
pub fn holds_bytes(kind: &DataType) -> bool {
    match kind {
        DataType::Struct(fields) => {
            let child = |name: &str| fields.find(name).map(|(_, field)| field.data_type());
            child("bytes").is_some_and(is_binary)
                && child("path").is_none_or(|kind| holds_text(kind) || is_binary(kind))
        }
        // Of nulls alone, every row has a status.
        DataType::Null => true,
        other => is_binary(other),
    }
}

fn is_binary(kind: &DataType) -> bool {
    use DataType::*;
    match kind {
        Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => true,
        Dictionary(_, values) => is_binary(values),
        _ => false,
    }
}

/// The two children of a struct that `bind` made.
fn children(images: &StructArray) -> (&BinaryViewArray, &BinaryViewArray) {
    (images.column(0).as_binary_view(), images.column(1).as_binary_view())
}

fn value(values: &BinaryViewArray, row: usize) -> Option<&[u8]> {
    values.is_valid(row).then(|| values.value(row))
}

/// The 16 bytes that say where a value lies, or hold it: two values of one column whose views are
/// equal are equal. Values of a dictionary page have one view.
fn view(values: &BinaryViewArray, row: usize) -> &[u8] {
    let each = size_of::<u128>();
    &values.views().inner().as_slice()[row * each..(row + 1) * each]
}

impl ImageLoader for BytesLoader {
    fn bind(&self, column: &ArrayRef) -> Result<ArrayRef, Error> {
        let refused = |problem: String| Error::Setting { key: "image.bytes".to_owned(), problem };
        if !holds_bytes(column.data_type()) {
            let kind = column.data_type();
            return Err(refused(format!("the image column is {kind}; bytes are binary values")));
        }
        let view = |values: &ArrayRef| {
            cast(values, &DataType::BinaryView).map_err(|error| refused(error.to_string()))
        };
        let Some(images) = column.as_struct_opt() else { return view(column) };
        let nulls = || -> ArrayRef { Arc::new(BinaryViewArray::new_null(images.len())) };
        let child = |name| images.column_by_name(name).map_or_else(|| Ok(nulls()), view);
        let field = |name| Field::new(name, DataType::BinaryView, true);
        let fields = Fields::from(vec![field("bytes"), field("path")]);
        let children = vec![child("bytes")?, child("path")?];
        let made = StructArray::try_new(fields, children, images.nulls().cloned());
        made.map(|made| Arc::new(made) as ArrayRef).map_err(|error| refused(error.to_string()))
    }

    fn name<'a>(&self, column: &'a dyn Array, row: usize) -> Option<&'a [u8]> {
        if column.is_null(row) {
            return None;
        }
        match column.as_struct_opt() {
            Some(images) => {
                let (bytes, _) = children(images);
                bytes.is_valid(row).then(|| view(bytes, row))
            }
            None => Some(view(column.as_binary_view(), row)),
        }
    }

    fn load<'a>(&self, column: &'a dyn Array, row: usize) -> Result<Cow<'a, [u8]>, LoadError> {
        let null = || missing("the image is null");
        if column.is_null(row) {
            return Err(null());
        }
        let Some(images) = column.as_struct_opt() else {
            return self.check(value(column.as_binary_view(), row).ok_or_else(null)?);
        };
        let (bytes, paths) = children(images);
        match (value(bytes, row), value(paths, row)) {
            (Some(bytes), _) => self.check(bytes),
            (None, Some(path)) if !path.is_empty() => self.file(path),
            (None, _) => Err(null()),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        BinaryArray, DictionaryArray, FixedSizeBinaryArray, Int8Array, LargeBinaryArray, NullArray,
        StringArray,
    };
    use arrow::buffer::NullBuffer;

    use super::*;

    const LONG: &[u8] = b"more than twelve bytes";

    fn loader(root: Option<&Path>) -> BytesLoader {
        let spec = ImageBytesSpec { root: root.map(Path::to_owned) };
        BytesLoader::open(&spec, 30).expect("the root is there")
    }

    fn outcomes(loader: &BytesLoader, column: ArrayRef) -> Vec<Result<Vec<u8>, RowStatus>> {
        let column = loader.bind(&column).expect("it holds bytes");
        let load = |row| match loader.load(&column, row) {
            Ok(bytes) => Ok(bytes.into_owned()),
            Err(LoadError::Row(error)) => Err(error.status),
            Err(LoadError::Machine(error)) => unreachable!("{error}"),
        };
        (0..column.len()).map(load).collect()
    }

    #[test]
    fn every_kind_of_binary_column_gives_its_bytes_or_a_status() {
        let rows = [Some(LONG), None, Some(b"".as_slice()), Some([0; 31].as_slice())];
        let wanted = [
            Ok(LONG.to_vec()),
            Err(RowStatus::ImageMissing),
            Err(RowStatus::ImageUndecodable),
            Err(RowStatus::ImageTooLarge),
        ];
        let keys = Int8Array::from(vec![Some(0), None, Some(1), Some(2)]);
        let words = BinaryArray::from_iter_values([LONG, b"", &[0; 31]]);
        let columns: [ArrayRef; 4] = [
            Arc::new(BinaryArray::from_iter(rows)),
            Arc::new(LargeBinaryArray::from_iter(rows)),
            Arc::new(BinaryViewArray::from_iter(rows)),
            Arc::new(DictionaryArray::new(keys, Arc::new(words))),
        ];
        for column in columns {
            assert!(holds_bytes(column.data_type()));
            assert_eq!(outcomes(&loader(None), column), wanted);
        }
        let fixed = FixedSizeBinaryArray::try_from_iter([LONG].into_iter()).expect("one length");
        assert_eq!(outcomes(&loader(None), Arc::new(fixed)), wanted[..1]);
        assert_eq!(outcomes(&loader(None), Arc::new(NullArray::new(1))), wanted[1..2]);
        let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
        assert!(!holds_bytes(text.data_type()) && loader(None).bind(&text).is_err());
    }

    #[test]
    fn a_struct_gives_its_bytes_else_the_file_at_its_path() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("a.png"), b"file").expect("a file");
        let bytes = BinaryArray::from_iter([Some(LONG), None, None, None, Some(LONG)]);
        let paths = StringArray::from(vec![None, Some("a.png"), Some("../a"), None, Some("a.png")]);
        let fields = Fields::from(vec![
            Field::new("bytes", DataType::Binary, true),
            Field::new("path", DataType::Utf8, true),
        ]);
        let nulls = NullBuffer::from(vec![true, true, true, true, false]);
        let images = StructArray::new(fields, vec![Arc::new(bytes), Arc::new(paths)], Some(nulls));
        assert!(holds_bytes(images.data_type()));
        let images: ArrayRef = Arc::new(images);
        let (long, gone) = (Ok(LONG.to_vec()), Err(RowStatus::ImageMissing));
        let refused = Err(RowStatus::ImageRefused);
        let with_root = [long.clone(), Ok(b"file".to_vec()), refused, gone.clone(), gone.clone()];
        assert_eq!(outcomes(&loader(Some(dir.path())), images.clone()), with_root);
        let [a, b, c, d] = [gone.clone(), gone.clone(), gone.clone(), gone];
        assert_eq!(outcomes(&loader(None), images), [long, a, b, c, d]);
        let none = ImageBytesSpec { root: Some("/no/such/root".into()) };
        let error = BytesLoader::open(&none, 1).expect_err("no root").to_string();
        assert!(error.contains("[image.bytes]"), "{error}");
    }

    #[test]
    fn values_of_one_view_have_one_name() {
        let (loader, other) = (loader(None), b"another value of that length".as_slice());
        let mut views = arrow::array::builder::BinaryViewBuilder::new().with_deduplicate_strings();
        [LONG, other, LONG, b"short", b"short"].iter().for_each(|bytes| views.append_value(bytes));
        views.append_null();
        let column = loader.bind(&(Arc::new(views.finish()) as ArrayRef)).expect("bytes");
        let names: Vec<_> = (0..6).map(|row| loader.name(&column, row)).collect();
        assert_eq!((names[0], names[3], names[5]), (names[2], names[4], None));
        assert!(names[0] != names[1] && names[0].is_some());
    }
}
