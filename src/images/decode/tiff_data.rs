//! TIFF's directory of tags, and its strips and tiles decompressed to rows of samples.
//!
//! The directory is also EXIF's. What the samples mean is in `tiff`.

use std::io::Read;

use flate2::read::ZlibDecoder;
use weezl::decode::Configuration;
use weezl::{BitOrder, LzwStatus};

use super::{truncated, undecodable};
use crate::error::RowError;

/// One image file directory: where each tag's entry is.
pub struct Ifd<'a> {
    pub bytes: &'a [u8],
    pub big_endian: bool,
    /// (tag, type, count, where the values are)
    entries: Vec<(u16, u16, usize, usize)>,
    whole: bool,
}

impl<'a> Ifd<'a> {
    /// The first directory of a TIFF file or an EXIF block. `None` if there is none.
    pub fn first(bytes: &'a [u8]) -> Option<Self> {
        let big_endian = match bytes.first_chunk()? {
            [b'I', b'I', 42, 0] => false,
            [b'M', b'M', 0, 42] => true,
            _ => return None,
        };
        let mut ifd = Self { bytes, big_endian, entries: Vec::new(), whole: false };
        let start = ifd.integer(4, 4)? as usize;
        let count = ifd.integer(start, 2)? as usize;
        for index in 0..count {
            let at = start + 2 + index * 12;
            // A directory that runs over the end keeps what is there, as in Pillow.
            let Some(entry) = ifd.entry(at) else { break };
            ifd.entries.push(entry);
        }
        ifd.whole = ifd.entries.len() == count;
        Some(ifd)
    }

    fn entry(&self, at: usize) -> Option<(u16, u16, usize, usize)> {
        let tag = self.integer(at, 2)? as u16;
        let kind = self.integer(at + 2, 2)? as u16;
        let count = self.integer(at + 4, 4)? as usize;
        let bytes = count.checked_mul(size_of_kind(kind).unwrap_or(1))?;
        let values = if bytes <= 4 { at + 8 } else { self.integer(at + 8, 4)? as usize };
        Some((tag, kind, count, values))
    }

    /// An unsigned integer of `size` bytes.
    pub fn integer(&self, at: usize, size: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..at.checked_add(size)?)?;
        let shift = |value: u32, byte: &u8| value << 8 | u32::from(*byte);
        Some(match self.big_endian {
            true => bytes.iter().fold(0, shift),
            false => bytes.iter().rev().fold(0, shift),
        })
    }

    /// Whether the directory and those of its tags that are there lie within the file.
    pub fn holds(&self, tags: &[u16]) -> bool {
        let within = |entry: &(u16, u16, usize, usize)| {
            let size = size_of_kind(entry.1).unwrap_or(1);
            let end = entry.2.checked_mul(size).and_then(|bytes| bytes.checked_add(entry.3));
            end.is_some_and(|end| end <= self.bytes.len())
        };
        self.whole && self.entries.iter().all(|entry| !tags.contains(&entry.0) || within(entry))
    }

    /// All values of a tag of bytes, shorts or longs. The first of a repeated tag counts.
    pub fn numbers(&self, tag: u16) -> Option<Vec<u32>> {
        let entry = self.entries.iter().find(|entry| entry.0 == tag)?;
        let &(_, kind, count, at) = entry;
        let size = match kind {
            1 | 3 | 4 | 6 | 8 | 9 => size_of_kind(kind)?,
            _ => return None,
        };
        // More values than the file has bytes are not worth an allocation.
        if count > self.bytes.len() {
            return None;
        }
        (0..count).map(|index| self.integer(at.checked_add(index * size)?, size)).collect()
    }

    /// The value of a tag of one short or long.
    pub fn number(&self, tag: u16) -> Option<u32> {
        match self.numbers(tag)?[..] {
            [value] => Some(value),
            _ => None,
        }
    }

    /// The bytes of a tag of undefined type.
    pub fn blob(&self, tag: u16) -> Option<&'a [u8]> {
        let &(.., count, at) = self.entries.iter().find(|entry| entry.0 == tag)?;
        self.bytes.get(at..at.checked_add(count)?)
    }
}

/// Bytes of a value of a TIFF type.
fn size_of_kind(kind: u16) -> Option<usize> {
    Some(match kind {
        1 | 2 | 6 | 7 => 1,
        3 | 8 => 2,
        4 | 9 | 11 | 13 => 4,
        5 | 10 | 12 => 8,
        _ => return None,
    })
}

/// How a strip or tile is packed.
#[derive(Debug, Clone, Copy)]
pub enum Packing {
    Raw,
    Lzw,
    Deflate,
    PackBits,
}

impl Packing {
    /// Of the number in the Compression tag.
    pub fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Packing::Raw,
            5 => Packing::Lzw,
            8 | 32_946 => Packing::Deflate,
            32_773 => Packing::PackBits,
            _ => return None,
        })
    }

    /// The `size` bytes that `bytes` packs.
    ///
    /// # Errors
    /// `image_truncated` if there are fewer, `image_undecodable` if they are damaged.
    pub fn unpack(self, bytes: &[u8], size: usize) -> Result<Vec<u8>, RowError> {
        let mut out = Vec::new();
        match self {
            Packing::Raw => out.extend(&bytes[..size.min(bytes.len())]),
            Packing::Deflate => {
                let mut decoder = ZlibDecoder::new(bytes);
                let read = decoder.by_ref().take(size as u64).read_to_end(&mut out);
                // The checksum comes behind the last byte.
                let checked = read.and_then(|_| decoder.read(&mut [0]));
                checked.map_err(|error| super::io_error(&error))?;
            }
            Packing::PackBits => unpack_bits(bytes, size, &mut out),
            Packing::Lzw => {
                // Old-style files write bits in the other order, and say so by their first code.
                if matches!(bytes, [0, second, ..] if second & 1 == 1) {
                    return Err(undecodable("old-style LZW in a TIFF"));
                }
                out = unpack_lzw(bytes, size)?;
            }
        }
        if out.len() < size { Err(truncated()) } else { Ok(out) }
    }
}

fn unpack_lzw(mut bytes: &[u8], size: usize) -> Result<Vec<u8>, RowError> {
    let config = Configuration::with_tiff_size_switch(BitOrder::Msb, 8);
    let mut decoder = config.with_yield_on_full_buffer(true).build();
    let mut out = vec![0; size];
    let mut done = 0;
    while done < size {
        let step = decoder.decode_bytes(bytes, &mut out[done..]);
        bytes = &bytes[step.consumed_in..];
        done += step.consumed_out;
        match step.status {
            Ok(LzwStatus::Ok) if step.consumed_in + step.consumed_out > 0 => {}
            Ok(_) => break,
            Err(error) => return Err(undecodable(error.to_string())),
        }
    }
    out.truncate(done);
    Ok(out)
}

fn unpack_bits(bytes: &[u8], size: usize, out: &mut Vec<u8>) {
    let mut rest = bytes;
    while let [count, tail @ ..] = rest
        && out.len() < size
    {
        let n = usize::from(*count);
        rest = match (n, tail) {
            (128, _) => tail,
            (0..128, _) => {
                let taken = &tail[..(n + 1).min(tail.len())];
                out.extend(taken);
                &tail[taken.len()..]
            }
            (_, [value, tail @ ..]) => {
                out.resize(out.len() + 257 - n, *value);
                tail
            }
            (_, []) => return,
        };
    }
    out.truncate(size);
}
