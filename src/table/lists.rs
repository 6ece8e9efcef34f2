//! Columns of float lists, embeddings, from one file's pages to another's without a look at a
//! value.
//!
//! In a plain page the values of a row are so many bytes in one place, so kept rows are copied as
//! they are. Levels are read as runs (Parquet's RLE / bit-packing hybrid) and written as runs. What
//! is in no plain page (a dictionary, another nesting) goes the long way over Arrow.

use std::io::Write;

use arrow::datatypes::{DataType, Field};
use parquet::basic::{Compression, Encoding, Type, ZstdLevel};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, OffsetIndexBuilder};
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::{ColumnDescPtr, ColumnDescriptor};

/// The least bytes of values that a page is closed at.
const PAGE_BYTES: usize = 1 << 20;

/// The most rows of a page: nulls take no bytes.
const PAGE_ROWS: u32 = 20_000;

/// zstd's level, as for every other column.
pub const LEVEL: i32 = 3;

/// How a column's rows lie in its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListLayout {
    /// Position among the file's leaf columns.
    pub leaf: usize,
    /// Bytes a value.
    width: usize,
    /// The definition level of a value that is there.
    max_def: u8,
    /// The definition level from which on there is an element, null or not.
    element_def: u8,
    /// Elements of every list, where that is fixed.
    size: Option<u32>,
}

impl ListLayout {
    /// The layout of a top-level list of floats, if the file stores it as the output will.
    pub fn of(field: &Field, leaf: usize, column: &ColumnDescriptor) -> Option<Self> {
        let (item, size) = match field.data_type() {
            DataType::FixedSizeList(item, size) => (item, Some(u32::try_from(*size).ok()?)),
            DataType::List(item) | DataType::LargeList(item) => (item, None),
            _ => return None,
        };
        let width = match (item.data_type(), column.physical_type()) {
            (DataType::Float16, Type::FIXED_LEN_BYTE_ARRAY) if column.type_length() == 2 => 2,
            (DataType::Float32, Type::FLOAT) => 4,
            (DataType::Float64, Type::DOUBLE) => 8,
            _ => return None,
        };
        let element_def = 1 + u8::from(field.is_nullable());
        let max_def = element_def + u8::from(item.is_nullable());
        let same = column.max_rep_level() == 1 && column.max_def_level() == i16::from(max_def);
        same.then_some(Self { leaf, width, max_def, element_def, size })
    }
}

/// Takes the pages of a column chunk in turn and hands kept rows on.
pub struct ListReader<K> {
    layout: ListLayout,
    /// Whether a row of the chunk is kept.
    keep: K,
    /// Rows that the chunk has.
    most: usize,
    /// Levels and values of the row that is not known to have ended: it may go on in the next page.
    open: Option<(Vec<u8>, Vec<u8>)>,
    /// Rows that have ended.
    rows: usize,
}

impl<K: Fn(usize) -> bool> ListReader<K> {
    /// A reader of a chunk of `most` rows.
    pub fn new(layout: ListLayout, most: usize, keep: K) -> Self {
        Self { layout, keep, most, open: None, rows: 0 }
    }

    /// Reads a page.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn read(&mut self, page: &Page, to: &mut ListWriter) -> Result<(), String> {
        let Levels { repetition, definition, mut values } = Levels::of(page, self.layout)?;
        let mut definition = Cursor { runs: &definition, used: 0 };
        // Slots of each row; the first may be the rest of the open one.
        let mut slots: Vec<u32> = Vec::new();
        let goes_on = repetition.first().is_some_and(|run| run.0 == 1);
        for (level, count) in repetition {
            // A run says what it likes.
            if level == 0 && self.rows + slots.len() + count as usize > self.most {
                return Err(format!("it has more than {} rows", self.most));
            }
            match (level, slots.last_mut()) {
                (0, _) => slots.extend(std::iter::repeat_n(1, count as usize)),
                (_, Some(last)) => *last += count,
                (_, None) => slots.push(count),
            }
        }
        let last = slots.len().saturating_sub(1);
        for (index, slots) in slots.into_iter().enumerate() {
            if index == 0 && goes_on {
                self.extend(slots, &mut definition, &mut values)?;
                continue;
            }
            self.close(to)?;
            if index == last {
                self.open = Some(Default::default());
                self.extend(slots, &mut definition, &mut values)?;
            } else {
                self.whole(slots, &mut definition, &mut values, to)?;
            }
        }
        Ok(())
    }

    /// A row that begins and ends in this page.
    fn whole(
        &mut self,
        slots: u32,
        definition: &mut Cursor<'_>,
        values: &mut &[u8],
        to: &mut ListWriter,
    ) -> Result<(), String> {
        let keep = (self.keep)(self.rows);
        self.rows += 1;
        if definition.take_run(self.layout.max_def, slots) {
            self.check_size(slots)?;
            let own = take(values, slots as usize * self.layout.width)?;
            return if keep { to.push_full(slots, own) } else { Ok(()) };
        }
        let levels = definition.take(slots)?;
        let own = take(values, self.layout.bytes(&levels))?;
        self.check(&levels)?;
        if keep { to.push(&levels, own) } else { Ok(()) }
    }

    /// What this page holds of the open row.
    fn extend(
        &mut self,
        slots: u32,
        definition: &mut Cursor<'_>,
        values: &mut &[u8],
    ) -> Result<(), String> {
        let new = definition.take(slots)?;
        let own = take(values, self.layout.bytes(&new))?;
        let (levels, held) = self.open.as_mut().ok_or("it begins in the middle of a row")?;
        levels.extend(new);
        held.extend_from_slice(own);
        Ok(())
    }

    /// Ends the open row.
    fn close(&mut self, to: &mut ListWriter) -> Result<(), String> {
        let Some((levels, values)) = self.open.take() else { return Ok(()) };
        self.check(&levels)?;
        let keep = (self.keep)(self.rows);
        self.rows += 1;
        if keep { to.push(&levels, &values) } else { Ok(()) }
    }

    /// A list of a fixed size has that size.
    fn check(&self, levels: &[u8]) -> Result<(), String> {
        match levels.first() {
            Some(level) if *level >= self.layout.element_def => {
                self.check_size(levels.len() as u32)
            }
            _ => Ok(()),
        }
    }

    fn check_size(&self, slots: u32) -> Result<(), String> {
        match self.layout.size {
            Some(size) if size != slots => {
                Err(format!("a list of {slots} elements is among those of {size}"))
            }
            _ => Ok(()),
        }
    }

    /// Ends the last row and gives the number of rows.
    pub fn end(mut self, to: &mut ListWriter) -> Result<usize, String> {
        self.close(to)?;
        Ok(self.rows)
    }
}

impl ListLayout {
    /// Bytes of the values that these levels say are there.
    fn bytes(&self, levels: &[u8]) -> usize {
        levels.iter().filter(|level| **level == self.max_def).count() * self.width
    }

    /// Bits of a definition level.
    fn def_bits(&self) -> u32 {
        u8::BITS - self.max_def.leading_zeros()
    }
}

fn take<'a>(values: &mut &'a [u8], bytes: usize) -> Result<&'a [u8], String> {
    let (own, rest) = values.split_at_checked(bytes).ok_or("it has too few values")?;
    *values = rest;
    Ok(own)
}

/// Level and how often it comes.
type Run = (u8, u32);

/// A page taken apart.
struct Levels<'a> {
    repetition: Vec<Run>,
    definition: Vec<Run>,
    values: &'a [u8],
}

impl<'a> Levels<'a> {
    fn of(page: &'a Page, layout: ListLayout) -> Result<Self, String> {
        let (buffer, levels, repetition, definition, values) = match page {
            Page::DataPage {
                buf,
                num_values,
                encoding: Encoding::PLAIN,
                def_level_encoding: Encoding::RLE,
                rep_level_encoding: Encoding::RLE,
                ..
            } => {
                let (repetition, rest) = with_length(buf)?;
                let (definition, rest) = with_length(rest)?;
                (buf, *num_values, repetition, definition, rest)
            }
            Page::DataPageV2 {
                buf,
                num_values,
                encoding: Encoding::PLAIN,
                def_levels_byte_len,
                rep_levels_byte_len,
                ..
            } => {
                let mut rest = buf.as_ref();
                let repetition = take(&mut rest, *rep_levels_byte_len as usize)?;
                let definition = take(&mut rest, *def_levels_byte_len as usize)?;
                (buf, *num_values, repetition, definition, rest)
            }
            _ => return Err("its footer says that its pages are plain, and one is not".into()),
        };
        // A run takes two bytes at least, and a null no byte: a claim beyond reason is a lie.
        if u64::from(levels) > 1 << 28 {
            return Err(format!("a page of {} bytes claims {levels} values", buffer.len()));
        }
        let repetition = runs(repetition, 1, levels)?;
        let definition = runs(definition, layout.def_bits(), levels)?;
        Ok(Self { repetition, definition, values })
    }
}

/// Bytes with their length in four bytes before them, and what follows.
fn with_length(bytes: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let cut = || "its levels are cut".to_owned();
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(cut)?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(cut)
}

/// The runs of levels of `bits` bits, `wanted` levels in all. Runs after one another differ.
fn runs(mut bytes: &[u8], bits: u32, wanted: u32) -> Result<Vec<Run>, String> {
    let cut = || "its levels are cut".to_owned();
    let mut runs: Vec<Run> = Vec::new();
    let mut left = wanted;
    let mut add = |left: &mut u32, level: u8, count: u32| {
        let count = count.min(*left);
        *left -= count;
        match runs.last_mut() {
            Some(last) if last.0 == level => last.1 += count,
            _ if count > 0 => runs.push((level, count)),
            _ => {}
        }
    };
    let mask = ((1u16 << bits) - 1) as u8;
    while left > 0 {
        let header = varint(&mut bytes).ok_or_else(cut)?;
        if header & 1 == 0 {
            let (level, rest) = bytes.split_first().ok_or_else(cut)?;
            bytes = rest;
            if header == 0 || level & !mask != 0 {
                return Err("its levels make no sense".into());
            }
            add(&mut left, *level, header >> 1);
            continue;
        }
        for _ in 0..header >> 1 {
            let (group, rest) = bytes.split_at_checked(bits as usize).ok_or_else(cut)?;
            bytes = rest;
            // Eight levels in as many bytes as a level has bits.
            let packed = group.iter().rev().fold(0u64, |all, byte| all << 8 | u64::from(*byte));
            match packed {
                0 => add(&mut left, 0, 8),
                _ if bits == 1 && packed == 0xff => add(&mut left, 1, 8),
                _ => (0..8).for_each(|at| {
                    add(&mut left, (packed >> (at * bits)) as u8 & mask, 1);
                }),
            }
            if left == 0 {
                break;
            }
        }
    }
    Ok(runs)
}

fn varint(bytes: &mut &[u8]) -> Option<u32> {
    let mut value = 0u64;
    for shift in [0, 7, 14, 21, 28] {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return u32::try_from(value).ok();
        }
    }
    None
}

/// Where one is in runs.
struct Cursor<'a> {
    runs: &'a [Run],
    used: u32,
}

impl Cursor<'_> {
    /// Takes `count` levels if all of them are this one.
    fn take_run(&mut self, level: u8, count: u32) -> bool {
        match self.runs.first() {
            Some(run) if run.0 == level && run.1 - self.used >= count => {
                self.used += count;
                if self.used == run.1 {
                    (self.runs, self.used) = (&self.runs[1..], 0);
                }
                true
            }
            _ => false,
        }
    }

    /// Takes `count` levels, whatever they are.
    fn take(&mut self, count: u32) -> Result<Vec<u8>, String> {
        let mut levels = Vec::with_capacity(count as usize);
        while levels.len() < count as usize {
            let (level, length) = *self.runs.first().ok_or("it has too few levels")?;
            let n = (length - self.used).min(count - levels.len() as u32);
            levels.resize(levels.len() + n as usize, level);
            self.take_run(level, n);
        }
        Ok(levels)
    }
}

/// A page as it is written, but for its header.
pub struct ListPage {
    /// Compressed.
    bytes: Vec<u8>,
    uncompressed: usize,
    levels: u32,
    rows: u32,
}

/// Makes pages of rows.
pub struct ListWriter {
    layout: ListLayout,
    zstd: zstd::bulk::Compressor<'static>,
    repetition: Vec<Run>,
    definition: Vec<Run>,
    values: Vec<u8>,
    levels: u32,
    rows: u32,
    pages: Vec<ListPage>,
}

impl ListWriter {
    pub fn new(layout: ListLayout) -> Result<Self, String> {
        Ok(Self {
            layout,
            zstd: zstd::bulk::Compressor::new(LEVEL).map_err(|error| error.to_string())?,
            repetition: Vec::new(),
            definition: Vec::new(),
            values: Vec::new(),
            levels: 0,
            rows: 0,
            pages: Vec::new(),
        })
    }

    fn push_full(&mut self, slots: u32, values: &[u8]) -> Result<(), String> {
        add_run(&mut self.definition, self.layout.max_def, slots);
        self.add(slots, values)
    }

    fn push(&mut self, levels: &[u8], values: &[u8]) -> Result<(), String> {
        for level in levels {
            add_run(&mut self.definition, *level, 1);
        }
        self.add(levels.len() as u32, values)
    }

    fn add(&mut self, slots: u32, values: &[u8]) -> Result<(), String> {
        add_run(&mut self.repetition, 0, 1);
        add_run(&mut self.repetition, 1, slots - 1);
        self.values.extend_from_slice(values);
        self.levels += slots;
        self.rows += 1;
        match self.values.len() >= PAGE_BYTES || self.rows >= PAGE_ROWS {
            true => self.end_page(),
            false => Ok(()),
        }
    }

    fn end_page(&mut self) -> Result<(), String> {
        let mut page = Vec::with_capacity(self.values.len() + 4096);
        for runs in [&mut self.repetition, &mut self.definition] {
            let at = page.len();
            page.extend([0; 4]);
            runs.drain(..).for_each(|run| write_run(run, &mut page));
            let length = (page.len() - at - 4) as u32;
            page[at..at + 4].copy_from_slice(&length.to_le_bytes());
        }
        page.append(&mut self.values);
        let bytes = self.zstd.compress(&page).map_err(|error| error.to_string())?;
        let (levels, rows) = (self.levels, self.rows);
        self.pages.push(ListPage { bytes, uncompressed: page.len(), levels, rows });
        (self.levels, self.rows) = (0, 0);
        Ok(())
    }

    /// The pages, the last one ended.
    pub fn finish(mut self) -> Result<Vec<ListPage>, String> {
        if self.rows > 0 {
            self.end_page()?;
        }
        Ok(self.pages)
    }
}

impl ListPage {
    /// Bytes that it will take in the file, about.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }
}

fn add_run(runs: &mut Vec<Run>, level: u8, count: u32) {
    match runs.last_mut() {
        Some(last) if last.0 == level => last.1 += count,
        _ if count > 0 => runs.push((level, count)),
        _ => {}
    }
}

/// A run as Parquet's hybrid encoding has it. A level has at most 8 bits, and so one byte.
fn write_run((level, count): Run, to: &mut Vec<u8>) {
    let mut header = u64::from(count) << 1;
    while header >= 0x80 {
        to.push(header as u8 | 0x80);
        header >>= 7;
    }
    to.extend([header as u8, level]);
}

/// A column chunk of these pages, and what the footer says of it.
pub fn chunk(
    pages: Vec<ListPage>,
    column: ColumnDescPtr,
) -> Result<(Vec<u8>, ColumnCloseResult), ParquetError> {
    let mut sink = TrackedWrite::new(Vec::new());
    let mut index = OffsetIndexBuilder::new();
    let (mut uncompressed, mut levels, mut rows) = (0, 0i64, 0u64);
    for page in pages {
        let data = Page::DataPage {
            buf: page.bytes.into(),
            num_values: page.levels,
            encoding: Encoding::PLAIN,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let data = CompressedPage::new(data, page.uncompressed);
        let written = SerializedPageWriter::new(&mut sink).write_page(data)?;
        index.append_row_count(i64::from(page.rows));
        index.append_offset_and_size(written.offset as i64, written.compressed_size as i32);
        index.append_unencoded_byte_array_data_bytes(None);
        uncompressed += written.uncompressed_size as i64;
        levels += i64::from(page.levels);
        rows += u64::from(page.rows);
    }
    sink.flush()?;
    let bytes = sink.into_inner()?;
    let zstd = ZstdLevel::try_new(LEVEL)?;
    let metadata = ColumnChunkMetaData::builder(column)
        .set_compression(Compression::ZSTD(zstd))
        .set_encodings(vec![Encoding::PLAIN, Encoding::RLE])
        .set_total_compressed_size(bytes.len() as i64)
        .set_total_uncompressed_size(uncompressed)
        .set_num_values(levels)
        .set_data_page_offset(0)
        .build()?;
    let close = ColumnCloseResult {
        bytes_written: bytes.len() as u64,
        rows_written: rows,
        metadata,
        bloom_filter: None,
        column_index: None,
        offset_index: Some(index.build()),
    };
    Ok((bytes, close))
}
