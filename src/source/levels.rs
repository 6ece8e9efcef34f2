//! How many values single rows of a repeated column have, from its repetition levels alone.
//!
//! A row of a list may be as long as its writer liked, and a billion equal numbers take a page of
//! a few bytes. So before a row group that could hold such a row is read, its rows are measured.
//! No value is decoded here.
//!
//! Levels are runs and bit-packed groups: Parquet's format, "RLE / bit-packing hybrid".

use std::sync::Arc;

use parquet::basic::{Encoding, Type};
use parquet::column::page::{Page, PageReader};
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{ChunkReader, SerializedPageReader};

/// The least that a value takes in memory, whatever its type: its definition level and its place.
const LEAST_WIDTH: u64 = 4;

/// Makes sure that no row of a column chunk has more values than fit `most` bytes.
///
/// Chunks that could not hold such a row are not looked at: those of columns that do not repeat,
/// and those whose `values`, as their pages' headers claim, take no more all together.
pub fn check_repeated<R: ChunkReader + 'static>(
    file: &Arc<R>,
    column: &ColumnChunkMetaData,
    (rows, values): (usize, u64),
    most: u64,
) -> Result<(), ParquetError> {
    let most_level = column.column_descr().max_rep_level();
    if most_level <= 0 {
        return Ok(());
    }
    let width = width(column);
    if values.saturating_mul(width) <= most {
        return Ok(());
    }
    let mut pages = SerializedPageReader::new(file.clone(), column, rows, None)?;
    let mut longest = Longest { most: most / width, row: 0 };
    while let Some(page) = pages.get_next_page()? {
        let too_long = match &page {
            Page::DataPage { buf, num_values, rep_level_encoding, .. } => {
                if *rep_level_encoding != Encoding::RLE {
                    return Err(problem(column, "has repetition levels that are not run-length"));
                }
                let Some((length, levels)) = buf.split_first_chunk::<4>() else {
                    return Err(problem(column, "has a page without its levels"));
                };
                let levels = levels.get(..u32::from_le_bytes(*length) as usize);
                let levels = levels.ok_or_else(|| problem(column, "has levels that are cut"))?;
                longest.add(levels, bit_width(most_level), u64::from(*num_values))
            }
            Page::DataPageV2 { buf, num_values, rep_levels_byte_len, .. } => {
                let levels = buf.get(..*rep_levels_byte_len as usize);
                let levels = levels.ok_or_else(|| problem(column, "has levels that are cut"))?;
                longest.add(levels, bit_width(most_level), u64::from(*num_values))
            }
            Page::DictionaryPage { .. } => false,
        };
        if too_long {
            let what = format!("has a row of more than {} values", most / width);
            return Err(problem(column, &what));
        }
    }
    Ok(())
}

fn problem(column: &ColumnChunkMetaData, what: &str) -> ParquetError {
    ParquetError::General(format!("{} {what}", column.column_path()))
}

/// Bytes that a value takes in memory.
fn width(column: &ColumnChunkMetaData) -> u64 {
    match column.column_type() {
        Type::BOOLEAN | Type::INT32 | Type::FLOAT => LEAST_WIDTH,
        Type::INT64 | Type::DOUBLE => 8,
        // A view.
        Type::INT96 | Type::BYTE_ARRAY => 16,
        Type::FIXED_LEN_BYTE_ARRAY => {
            u64::try_from(column.column_descr().type_length()).unwrap_or(0).max(LEAST_WIDTH)
        }
    }
}

fn bit_width(most_level: i16) -> u32 {
    i16::BITS - most_level.leading_zeros()
}

/// Counts the values of a row after the other; a level of 0 begins one.
struct Longest {
    /// The most values that a row may have.
    most: u64,
    /// Values of the row that is being counted.
    row: u64,
}

impl Longest {
    /// Counts a page's `n` levels, `width` bits each. True as soon as a row is too long.
    fn add(&mut self, mut levels: &[u8], width: u32, mut n: u64) -> bool {
        while n > 0 {
            // Levels that are cut are the reader's to complain of.
            let Some((header, rest)) = varint(levels) else { break };
            if header == 0 {
                // A run of nothing, at which readers stop.
                break;
            }
            let (is_run, count) = (header & 1 == 0, header >> 1);
            // One level in whole bytes, or groups of eight, each as many bytes as levels have bits.
            let bytes = match is_run {
                true => u64::from(width.div_ceil(8)),
                false => count.saturating_mul(u64::from(width)),
            };
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(rest.len());
            let (own, rest) = rest.split_at(bytes);
            levels = rest;
            let taken = if is_run { count.min(n) } else { count.saturating_mul(8).min(n) };
            n -= taken;
            let fits = match is_run {
                true => self.count(own.iter().all(|byte| *byte == 0), taken),
                false => self.count_packed(own, width, taken),
            };
            if !fits {
                return true;
            }
        }
        false
    }

    fn count_packed(&mut self, packed: &[u8], width: u32, n: u64) -> bool {
        let width = u64::from(width);
        let is_set = |bit: u64| packed[(bit / 8) as usize] & (1 << (bit % 8)) != 0;
        let there = packed.len() as u64 * 8 / width;
        (0..n.min(there)).all(|at| {
            let bits = at * width..(at + 1) * width;
            self.count(!bits.into_iter().any(is_set), 1)
        })
    }

    /// Counts `n` equal levels. False where a row is too long.
    fn count(&mut self, is_zero: bool, n: u64) -> bool {
        // Each level of 0 begins a row, and has a value (or a null) with it.
        self.row = if is_zero { n.min(1) } else { self.row.saturating_add(n) };
        self.row <= self.most
    }
}

/// An unsigned LEB128 number, and what follows it.
pub(super) fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    // Ten bytes at the most, as readers read them; the tenth has one bit of the 64.
    for (index, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(7 * index as u32).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Builder, ListBuilder, RecordBatch};
    use parquet::arrow::ArrowWriter;
    use parquet::file::metadata::ParquetMetaDataReader;
    use parquet::file::properties::{WriterProperties, WriterVersion};

    use super::*;

    /// Checks a file of lists of these lengths, of equal numbers, in small pages.
    fn check(lengths: &[usize], version: WriterVersion, most: u64) -> Result<(), ParquetError> {
        let mut lists = ListBuilder::new(ListBuilder::new(Int64Builder::new()));
        for (row, length) in lengths.iter().enumerate() {
            for _ in 0..*length {
                // Lists in lists, so that there are three levels.
                lists.values().values().append_value(7);
                lists.values().append(true);
            }
            lists.append(row % 3 != 2 || *length > 0);
        }
        let column: ArrayRef = Arc::new(lists.finish());
        let batch = RecordBatch::try_from_iter([("x", column)]).expect("a batch");
        let properties = WriterProperties::builder()
            .set_writer_version(version)
            .set_data_page_row_count_limit(5)
            .set_write_batch_size(5)
            .build();
        let file = tempfile::tempfile().expect("a file");
        let copy = file.try_clone().expect("cloned");
        let mut writer =
            ArrowWriter::try_new(copy, batch.schema(), Some(properties)).expect("a writer");
        writer.write(&batch).expect("written");
        writer.close().expect("written");
        let footer = ParquetMetaDataReader::new().parse_and_finish(&file).expect("a footer");
        let column = footer.row_group(0).column(0).clone();
        let values = column.num_values() as u64;
        check_repeated(&Arc::new(file), &column, (lengths.len(), values), most)
    }

    #[test]
    fn the_longest_row_decides_wherever_it_is() {
        let mut lengths: Vec<usize> = (0..40).map(|row| row * 7 % 11).collect();
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            for at in [0, 17, 39] {
                lengths[at] = 1000;
                check(&lengths, version, 8000).expect("a thousand numbers of 8 bytes fit");
                let error = check(&lengths, version, 7999).expect_err("they do not");
                assert!(error.to_string().contains("more than 999 values"), "{error}");
                lengths[at] = 3;
            }
            check(&lengths, version, 80).expect("all are short");
        }
    }

    #[test]
    fn damaged_levels_are_read_to_their_end_and_no_further() {
        let mut longest = Longest { most: 10, row: 0 };
        for levels in [&[][..], &[0xff; 12], &[0x03], &[0x15, 0xff], &[0x02]] {
            longest.row = 0;
            longest.add(levels, 1, 9);
        }
        // A run of a million levels that are not 0.
        assert!(longest.add(&[0x80, 0x89, 0x7a, 1], 1, 1_000_000));
        // The same with a header that is longer than it needs to be.
        let padded = [0x80, 0x89, 0xfa, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0, 1];
        longest.row = 0;
        assert!(longest.add(&padded, 1, 1_000_000));
    }
}
