//! What pages say of themselves that a reader believes, row group by row group.
//!
//! It makes room for as many views as a dictionary claims values, before it looks for the first: a
//! claim of two billion ends the process. And it makes a row as long as its levels say. Values are
//! not read here.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use parquet::basic::Type;
use parquet::column::page::{Page, PageReader};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::reader::{ChunkReader, Length, SerializedPageReader};

use super::levels::{check_repeated, varint};

/// Each value of a dictionary of byte arrays has its length before it.
const LENGTH_BYTES: usize = 4;

/// What a row group may take of memory.
#[derive(Debug, Clone, Copy)]
pub struct Most {
    /// Bytes of the values that a row of a column repeats.
    pub row_bytes: u64,
    /// Bytes of the pages that are open at a time, decompressed: a reader has one of every column,
    /// and its dictionary.
    pub page_bytes: u64,
}

/// Makes sure that a row group's pages hold the rows that its footer claims, that its dictionaries
/// can hold the values that they claim, and that neither its rows nor its pages take more than
/// `most`.
///
/// Reads the headers of all its pages, for a dictionary may be anywhere, the dictionaries, and the
/// levels of what may be too long. Of the rows of repeated columns the headers alone are asked,
/// which count them in pages of version 2; those of others are told by the columns beside them.
pub fn check_group<R: ChunkReader + 'static>(
    file: &Arc<R>,
    footer: &ParquetMetaData,
    group: usize,
    most: Most,
) -> Result<(), ParquetError> {
    let group = footer.row_group(group);
    let rows = group.num_rows().max(0) as u64;
    let mut page_bytes = 0_u64;
    for column in group.columns() {
        let walked = Walked::of(file, column, rows as usize)?;
        page_bytes += walked.dictionary + walked.largest;
        if page_bytes > most.page_bytes {
            let (path, most) = (column.column_path(), most.page_bytes);
            let problem = format!(
                "a page of each column up to {path} takes {page_bytes} bytes together, more than \
                 the {most} that they may: write it with smaller pages"
            );
            return Err(ParquetError::General(problem));
        }
        let flat = column.column_descr().max_rep_level() == 0;
        let found = if flat { Some(walked.values) } else { walked.rows };
        if let Some(found) = found.filter(|found| *found != rows) {
            let path = column.column_path();
            let problem = format!("{path} has {found} rows where its footer says {rows}");
            return Err(ParquetError::General(problem));
        }
        check_repeated(file, column, (rows as usize, walked.values), most.row_bytes)?;
    }
    Ok(())
}

/// What the headers of a column chunk's pages claim.
struct Walked {
    /// Values, nulls among them.
    values: u64,
    /// Rows, where every page counts them.
    rows: Option<u64>,
    /// Bytes of the dictionary and of the largest page of values, decompressed.
    dictionary: u64,
    largest: u64,
}

impl Walked {
    fn of<R: ChunkReader + 'static>(
        file: &Arc<R>,
        column: &ColumnChunkMetaData,
        rows: usize,
    ) -> Result<Self, ParquetError> {
        let path = column.column_path();
        let counted = Counted { file: file.clone(), reads: 0.into(), first: 0.into() };
        let counted = Arc::new(counted);
        let mut pages = SerializedPageReader::new(counted.clone(), column, rows, None)?;
        let mut walked = Self { values: 0, rows: Some(0), dictionary: 0, largest: 0 };
        loop {
            counted.reads.store(0, Ordering::Relaxed);
            let Some(page) = pages.peek_next_page()? else { break };
            // A peek that goes past a page of a kind that holds no values reads its body as
            // headers, and could be led anywhere.
            if counted.reads.load(Ordering::Relaxed) > 1 {
                let problem = format!("{path} has a page that is neither values nor a dictionary");
                return Err(ParquetError::General(problem));
            }
            let bytes = if page.is_dict { &mut walked.dictionary } else { &mut walked.largest };
            *bytes = (*bytes).max(counted.page_bytes()?);
            if page.is_dict && column.column_type() == Type::BYTE_ARRAY {
                check_dictionary(pages.get_next_page()?, column)?;
                continue;
            }
            if !page.is_dict {
                // A header's number has a sign.
                let values = page.num_levels.map(i32::try_from).and_then(Result::ok);
                let Some(values) = values else {
                    let problem = format!("{path} has a page of an impossible number of values");
                    return Err(ParquetError::General(problem));
                };
                walked.values += values as u64;
                let rows = page.num_rows.map(|rows| rows as u64);
                walked.rows = walked.rows.zip(rows).map(|(all, own)| all.saturating_add(own));
            }
            pages.skip_next_page()?;
        }
        Ok(walked)
    }
}

/// A file that counts how often it is asked for a place in it, and keeps the first: where a page's
/// header is, when the reader looks at the next one.
struct Counted<R> {
    file: Arc<R>,
    reads: AtomicUsize,
    first: AtomicU64,
}

/// Bytes in which a page's header says how large the page is.
const HEAD: u64 = 16;

impl<R: ChunkReader> Counted<R> {
    /// What the page takes, decompressed, whose header was asked for first. The reader has read it
    /// and does not pass that on.
    fn page_bytes(&self) -> Result<u64, ParquetError> {
        let (start, mut head) = (self.first.load(Ordering::Relaxed), Vec::new());
        self.file.get_read(start)?.take(HEAD).read_to_end(&mut head)?;
        page_bytes(&head).ok_or_else(|| {
            let problem =
                format!("the page at byte {start} has a header that does not begin as one");
            ParquetError::General(problem)
        })
    }
}

impl<R: ChunkReader> Length for Counted<R> {
    fn len(&self) -> u64 {
        self.file.len()
    }
}

impl<R: ChunkReader> ChunkReader for Counted<R> {
    type T = R::T;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        if self.reads.fetch_add(1, Ordering::Relaxed) == 0 {
            self.first.store(start, Ordering::Relaxed);
        }
        self.file.get_read(start)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        self.file.get_bytes(start, length)
    }
}

/// The size of a page, decompressed, which is the second field of its header: `parquet.thrift`'s
/// `PageHeader` in Thrift's compact protocol, where a number of 32 bits that is a struct's next
/// field is 0x15 and the number, zigzag, as a varint.
fn page_bytes(head: &[u8]) -> Option<u64> {
    let (_kind, head) = varint(head.strip_prefix(&[0x15])?)?;
    let (zigzag, _) = varint(head.strip_prefix(&[0x15])?)?;
    (zigzag & 1 == 0).then_some(zigzag >> 1)
}

fn check_dictionary(page: Option<Page>, column: &ColumnChunkMetaData) -> Result<(), ParquetError> {
    if let Some(Page::DictionaryPage { buf, num_values, .. }) = page
        && num_values as usize > buf.len() / LENGTH_BYTES
    {
        let (path, bytes) = (column.column_path(), buf.len());
        let problem = format!("{path} has a dictionary of {num_values} values in {bytes} bytes");
        return Err(ParquetError::General(problem));
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
        check_group(&Arc::new(file), &footer, 0, ANY)
    }

    const ANY: Most = Most { row_bytes: u64::MAX, page_bytes: u64::MAX };

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

    #[test]
    fn pages_that_take_too_much_memory_together_are_refused() {
        let mut file: File = tempfile::tempfile().expect("a file");
        file.write_all(&bytes()).expect("written");
        let footer = ParquetMetaDataReader::new().parse_and_finish(&file).expect("a footer");
        let file = Arc::new(file);
        let check = |page_bytes| check_group(&file, &footer, 0, Most { page_bytes, ..ANY });
        // The dictionary: 100 times 4 bytes of length and 2 of text. The indices have 7 bits each,
        // and a few bytes about them.
        let least = (600..).find(|bytes| check(*bytes).is_ok()).expect("they fit somewhere");
        assert!((687..700).contains(&least), "{least}");
        let error = check(least - 1).expect_err("they do not");
        let says = format!("\"x\" takes {least} bytes together");
        assert!(error.to_string().contains(&says), "{error}");
    }

    #[test]
    fn a_page_header_says_how_large_the_page_is_or_is_none() {
        assert_eq!(page_bytes(&[0x15, 4, 0x15, 200, 1, 0x15]), Some(100));
        // The most that 32 bits can say, a negative number, other fields, nothing.
        assert_eq!(page_bytes(&[0x15, 0, 0x15, 0xfe, 0xff, 0xff, 0xff, 0xf]), Some(0x7fff_ffff));
        assert_eq!(page_bytes(&[0x15, 4, 0x15, 3]), None);
        assert_eq!(page_bytes(&[0x15, 4, 0x25, 200, 1]), None);
        assert_eq!(page_bytes(&[0x15, 4]), None);
    }

    #[test]
    fn rows_that_the_footer_does_not_own_up_to_are_found_in_the_pages() {
        let mut file: File = tempfile::tempfile().expect("a file");
        file.write_all(&bytes()).expect("written");
        let footer = ParquetMetaDataReader::new().parse_and_finish(&file).expect("a footer");
        let file = Arc::new(file);
        for claim in [99, 101, 0] {
            let group = footer.row_group(0).clone();
            let column = group.column(0).clone().into_builder().set_num_values(claim).build();
            let group = group
                .into_builder()
                .set_num_rows(claim)
                .set_column_metadata(vec![column.expect("a column")])
                .build();
            let lying = footer.clone().into_builder();
            let lying = lying.set_row_groups(vec![group.expect("a row group")]).build();
            let error = check_group(&file, &lying, 0, ANY).expect_err("100 values are there");
            let says = format!("has 100 rows where its footer says {claim}");
            assert!(error.to_string().contains(&says), "{error}");
        }
    }
}
