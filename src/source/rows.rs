//! Chosen columns of a row group, for analysis: as fast as pages are read, not cut to parts.
//!
//! Footers and dictionaries are tried as for a run, and strings travel as views of their bytes.
//! What a batch may take is not counted: these are tables that were scored, or are the user's own.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;
use parquet::basic::Encoding;
use parquet::column::page::Page;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::serialized_reader::SerializedPageReader;

use super::input::{InputFile, Opened, guarded, will_read};
use super::pages::check_group;
use super::parquet::MOST;
use crate::error::Error;
use crate::watched::WatchedFile;

/// Rows a batch.
const BATCH_ROWS: usize = 4096;

/// The batches of one row group, in order.
pub struct GroupRows {
    path: PathBuf,
    file: WatchedFile,
    reader: ParquetRecordBatchReader,
}

impl InputFile {
    /// Reads a row group's `columns` (all, where there is no list), in the file's order.
    pub fn group_rows(&self, group: usize, columns: Option<&[&str]>) -> Result<GroupRows, Error> {
        let path = &self.path;
        let opened = Opened::new(path)?;
        let file = opened.file.clone();
        let builder = opened.reader(path)?;
        let footer = builder.metadata().clone();
        self.check_group(&footer, group)?;
        let mask = match columns {
            None => ProjectionMask::all(),
            Some(names) => {
                let schema = builder.schema().fields();
                let roots = names.iter().filter_map(|name| schema.find(name).map(|(root, _)| root));
                ProjectionMask::roots(builder.parquet_schema(), roots)
            }
        };
        let leaves = footer.row_group(group).columns().iter().enumerate();
        let wanted = leaves.filter(|(leaf, _)| mask.leaf_included(*leaf));
        will_read(&file, wanted.map(|(_, chunk)| chunk));
        let check = || check_group(&Arc::new(file.clone()), &footer, group, MOST);
        guarded(path, check).map_err(|error| file.explain(path, error))?;
        let builder =
            builder.with_row_groups(vec![group]).with_projection(mask).with_batch_size(BATCH_ROWS);
        let reader = guarded(path, || builder.build())?;
        Ok(GroupRows { path: path.clone(), file, reader })
    }

    /// Per leaf column, whether every page of it holds plain values and their levels, no
    /// dictionary.
    pub fn plain_leaves(&self) -> Result<Vec<bool>, Error> {
        let footer = Opened::new(&self.path)?.footer;
        let mut plain = vec![true; footer.file_metadata().schema_descr().num_columns()];
        for group in footer.row_groups() {
            for (plain, column) in plain.iter_mut().zip(group.columns()) {
                let known = [Encoding::PLAIN, Encoding::RLE];
                *plain &= column.dictionary_page_offset().is_none()
                    && column.encodings().all(|encoding| known.contains(&encoding));
            }
        }
        Ok(plain)
    }

    /// The pages of a leaf column in a row group, decompressed, in order.
    pub fn pages(&self, group: usize, leaf: usize) -> Result<Pages, Error> {
        let path = &self.path;
        let opened = Opened::new(path)?;
        self.check_group(&opened.footer, group)?;
        let group = opened.footer.row_group(group);
        let (file, rows) = (opened.file, group.num_rows().max(0) as usize);
        will_read(&file, [group.column(leaf)]);
        let shared = Arc::new(file.clone());
        let new = || SerializedPageReader::new(shared, group.column(leaf), rows, None);
        let reader = guarded(path, new).map_err(|error| file.explain(path, error))?;
        Ok(Pages { path: path.clone(), file, reader })
    }

    fn check_group(&self, footer: &ParquetMetaData, group: usize) -> Result<(), Error> {
        let found = footer.row_groups().get(group).map(|group| group.num_rows());
        if found == self.groups.get(group).map(|rows| *rows as i64) {
            return Ok(());
        }
        let problem = "it was written anew while it was read: start again".into();
        Err(Error::Parquet { path: self.path.clone(), source: problem })
    }
}

/// The pages of a column chunk.
pub struct Pages {
    path: PathBuf,
    file: WatchedFile,
    reader: SerializedPageReader<WatchedFile>,
}

impl Iterator for Pages {
    type Item = Result<Page, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = guarded(&self.path, || self.reader.next().transpose());
        read.map_err(|error| self.file.explain(&self.path, error)).transpose()
    }
}

impl Iterator for GroupRows {
    type Item = Result<RecordBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = guarded(&self.path, || self.reader.next().transpose());
        read.map_err(|error| self.file.explain(&self.path, error)).transpose()
    }
}
