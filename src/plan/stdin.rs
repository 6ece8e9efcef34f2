//! What comes on stdin for a run that writes part files: put into a Parquet file first.
//!
//! A job can go on only if it can read its input again. The file lies beside the output folder, is
//! told by its content, and is gone when the run ends; what a process that was ended left is removed
//! by the next into that folder.

use std::io::Read;
use std::path::Path;

use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use crate::digest;
use crate::error::Error;
use crate::files::{self, Draft};
use crate::sink::ROW_GROUP_BYTES;
use crate::source::{ArrowStream, InputFile, Piped};
use crate::store::is_url;

/// A stream that was read to its end.
pub struct Spool {
    input: InputFile,
    /// Removes the file when it is dropped.
    _draft: Draft,
}

impl Spool {
    /// Reads `stream`, no more than `limit` rows of it, for a run into `output`.
    ///
    /// # Errors
    /// `Stream` for one that is damaged or cut; `Io` where there is no room for it.
    pub fn read(
        mut stream: ArrowStream<impl Read>,
        limit: Option<u64>,
        output: &Path,
    ) -> Result<Self, Error> {
        let beside = output.parent().filter(|folder| !folder.as_os_str().is_empty());
        let beside = if is_url(output) { Some(output) } else { beside };
        beside.map_or(Ok(()), files::create_folder)?;
        let draft = Draft::new(&match is_url(output) {
            true => files::local(output).join("stdin"),
            false => output.to_owned(),
        })?;
        let path = draft.path().to_owned();
        let refused = |error: parquet::errors::ParquetError| Error::Table {
            action: "put what comes on stdin into",
            path: path.clone(),
            source: error.into(),
        };
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let mut writer = ArrowWriter::try_new(draft.file(), stream.schema(), Some(properties))
            .map_err(refused)?;
        let mut left = limit.unwrap_or(u64::MAX);
        while left > 0
            && let Some(batch) = stream.next_batch()?
        {
            let rows = batch.num_rows().min(usize::try_from(left).unwrap_or(usize::MAX));
            left -= rows as u64;
            writer.write(&batch.slice(0, rows)).map_err(refused)?;
            if writer.in_progress_size() >= ROW_GROUP_BYTES {
                writer.flush().map_err(refused)?;
            }
        }
        writer.close().map_err(refused)?;
        // Not by its path and time, which are others each time.
        let piped = Piped { name: "stdin".into(), sha256: digest::of_file(&path)? };
        let input = InputFile { piped: Some(piped), ..InputFile::open(&path)? };
        Ok(Self { input, _draft: draft })
    }

    /// It as an input.
    pub fn input(&self) -> InputFile {
        self.input.clone()
    }
}
