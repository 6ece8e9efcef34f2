//! What pages say of themselves that a reader believes, row group by row group.
//!
//! It makes room for as many views as a dictionary claims values, before it looks for the first: a
//! claim of two billion ends the process. And it makes a row as long as its levels say. Values are
//! not read here.

use std::sync::Arc;

use parquet::basic::Type;
use parquet::column::page::{Page, PageReader};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::reader::{ChunkReader, SerializedPageReader};

use super::levels::check_repeated;

/// Each value of a dictionary of byte arrays has its length before it.
const LENGTH_BYTES: usize = 4;

/// Makes sure that a row group's dictionaries can hold the values that they claim, and that no row
/// repeats values beyond `most_bytes`.
///
/// Reads the headers of all its pages, for a dictionary may be anywhere, the dictionaries, and the
/// levels of what may be too long.
pub fn check_group<R: ChunkReader + 'static>(
    file: &Arc<R>,
    footer: &ParquetMetaData,
    group: usize,
    most_bytes: u64,
) -> Result<(), ParquetError> {
    let group = footer.row_group(group);
    let rows = group.num_rows().max(0) as usize;
    for column in group.columns() {
        if column.column_type() == Type::BYTE_ARRAY {
            check_dictionary(file, column, rows)?;
        }
        check_repeated(file, column, rows, most_bytes)?;
    }
    Ok(())
}

fn check_dictionary<R: ChunkReader + 'static>(
    file: &Arc<R>,
    column: &ColumnChunkMetaData,
    rows: usize,
) -> Result<(), ParquetError> {
    let mut pages = SerializedPageReader::new(file.clone(), column, rows, None)?;
    while let Some(page) = pages.peek_next_page()? {
        if !page.is_dict {
            pages.skip_next_page()?;
            continue;
        }
        if let Some(Page::DictionaryPage { buf, num_values, .. }) = pages.get_next_page()?
            && num_values as usize > buf.len() / LENGTH_BYTES
        {
            let (path, bytes) = (column.column_path(), buf.len());
            let problem =
                format!("{path} has a dictionary of {num_values} values in {bytes} bytes");
            return Err(ParquetError::General(problem));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};

    use arrow::array::{ArrayRef, RecordBatch, StringArray};
    use parquet::arrow::ArrowWriter;
    use parquet::file::metadata::ParquetMetaDataReader;

    use super::*;

    /// A file whose column has a dictionary of 100 values.
    fn bytes() -> Vec<u8> {
        let values: Vec<_> = (0..100).map(|value| format!("{value:02}")).collect();
        let column: ArrayRef = Arc::new(StringArray::from(values));
        let batch = RecordBatch::try_from_iter([("x", column)]).expect("a batch");
        let mut file = tempfile::tempfile().expect("a file");
        let mut writer = ArrowWriter::try_new(&mut file, batch.schema(), None).expect("a writer");
        writer.write(&batch).expect("written");
        writer.close().expect("written");
        let mut bytes = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("read");
        bytes
    }

    fn check(bytes: &[u8]) -> Result<(), ParquetError> {
        let mut file: File = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("written");
        let footer = ParquetMetaDataReader::new().parse_and_finish(&file).expect("a footer");
        check_group(&Arc::new(file), &footer, 0, u64::MAX)
    }

    #[test]
    fn a_dictionary_that_claims_more_values_than_it_has_room_for_is_refused() {
        let mut bytes = bytes();
        check(&bytes).expect("what a writer says is so");
        // 100 in Thrift's zigzag, first of the fields of the dictionary's header.
        let claim = bytes.windows(3).position(|at| at == [0x15, 200, 1]).expect("a header");
        bytes[claim + 1..claim + 3].copy_from_slice(&[0xfe, 0x7f]);
        let error = check(&bytes).expect_err("8191 values do not fit 600 bytes");
        assert!(error.to_string().contains("8191 values in 600 bytes"), "{error}");
    }
}
