//! The bits of a scan.
//!
//! A segment of the scan, up to the next marker, is first copied without the zero bytes that
//! follow its `0xff` bytes, so that reading bits is a load and two shifts.

use super::code::{Symbol, extend};

/// Zeros after a segment, which let it end with a look ahead.
const PADDING: usize = 16;

/// The bytes of a segment.
#[derive(Default)]
pub struct Segment {
    /// Without stuffing, and padded.
    bytes: Vec<u8>,
    /// How many of the bytes are not padding.
    length: usize,
}

impl Segment {
    /// Copies a segment; returns what follows it, from its marker on.
    pub fn read<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        self.bytes.clear();
        self.bytes.reserve(bytes.len() + PADDING);
        let mut rest = bytes;
        loop {
            let at = find_ff(rest)?;
            if *rest.get(at + 1)? != 0 {
                self.bytes.extend_from_slice(&rest[..at]);
                rest = &rest[at..];
                break;
            }
            self.bytes.extend_from_slice(&rest[..=at]);
            rest = &rest[at + 2..];
        }
        self.length = self.bytes.len();
        self.bytes.resize(self.length + PADDING, 0);
        Some(rest)
    }

    /// The bits from there on.
    pub fn bits(&self, from: Position) -> Bits<'_> {
        Bits { bytes: &self.bytes, position: from }
    }

    /// Whether that is the end, but for less than a byte.
    pub fn ends_at(&self, position: Position) -> bool {
        let (read, all) = (position.next * 8 - position.count as usize, self.length * 8);
        read <= all && all < read + 8
    }
}

/// How far the bits of a segment are read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Position {
    /// The bytes before it are in `buffer`.
    next: usize,
    /// The next bits, the first one on top.
    buffer: u64,
    /// How many bits of the buffer count. Those below are either zero or what comes next.
    count: u32,
}

/// A segment that is being read.
#[derive(Clone, Copy)]
pub struct Bits<'s> {
    bytes: &'s [u8],
    pub position: Position,
}

impl Bits<'_> {
    /// Makes sure of 56 bits. `None` if more was read than there is.
    #[inline(always)]
    pub fn refill(&mut self) -> Option<()> {
        let Position { next, buffer, count } = &mut self.position;
        let bytes = self.bytes.get(*next..)?.first_chunk()?;
        *buffer |= u64::from_be_bytes(*bytes) >> *count;
        *next += ((63 - *count) >> 3) as usize;
        *count |= 56;
        Some(())
    }

    #[inline(always)]
    pub fn peek(&self, count: u32) -> usize {
        (self.position.buffer >> (64 - count)) as usize
    }

    #[inline(always)]
    pub fn skip(&mut self, count: u32) {
        self.position.buffer <<= count;
        self.position.count -= count;
    }

    /// Goes past a code and the number after it, which it returns.
    #[inline(always)]
    pub fn number(&mut self, code: Symbol) -> i32 {
        let size = code.size();
        let number = (self.position.buffer << code.length >> 1) >> (63 - size);
        self.skip(u32::from(code.bits));
        extend(number as u32, size)
    }
}

/// Where the first `0xff` is.
fn find_ff(bytes: &[u8]) -> Option<usize> {
    let in_chunk = |chunk: &[u8]| chunk.iter().position(|byte| *byte == 0xff);
    let mut at = 0;
    while let Some(chunk) = bytes[at..].first_chunk::<32>() {
        if chunk.iter().fold(false, |any, byte| any | (*byte == 0xff)) {
            return Some(at + in_chunk(chunk)?);
        }
        at += 32;
    }
    Some(at + in_chunk(&bytes[at..])?)
}
