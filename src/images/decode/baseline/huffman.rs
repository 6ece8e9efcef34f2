//! Look-up tables for Huffman codes.
//!
//! One look-up at the next 11 bits gives up to two coefficients, or one and the end of the block.
//! What does not fit in 11 bits is decoded code by code.

use super::code::{Code, CodeSpec, Symbol, extend};
use super::header::Component;

/// What one look-up at `AC_BITS` bits gives, in 32 bits. Bit 15 alone says that the codes have to
/// be read one by one.
///
/// - bits 0-5: how many bits are used up
/// - bits 6-9: zeros before the first coefficient
/// - bits 10-14: how far the second coefficient is from the first; 0 if there is none
/// - bit 15: whether the block ends
/// - bits 16-23 and 24-31: the two coefficients; the same twice if there is one only, 0 if none
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcEntry(u32);

impl AcEntry {
    const LONG: Self = Self(1 << 15);

    pub fn is_long(self) -> bool {
        self == Self::LONG
    }

    /// Below 64.
    pub fn bits(self) -> u32 {
        self.0 & 63
    }

    pub fn run(self) -> usize {
        (self.0 >> 6 & 15) as usize
    }

    pub fn distance(self) -> usize {
        (self.0 >> 10 & 31) as usize
    }

    pub fn ends(self) -> bool {
        self.0 & 1 << 15 != 0
    }

    pub fn values(self) -> [i16; 2] {
        [(self.0 >> 16) as i8, (self.0 >> 24) as i8].map(i16::from)
    }
}

/// How many bits a look-up sees. With 10 to 13 it takes as long; 11 leave room in the cache.
pub const AC_BITS: u32 = 11;
pub const DC_BITS: u32 = 9;

/// The sizes of differences of DC coefficients.
pub struct DcTable {
    code: Code,
    symbols: Box<[Symbol; 1 << DC_BITS]>,
}

impl DcTable {
    /// `None` if it is no code, or has sizes that libjpeg does not allow.
    pub fn new(spec: CodeSpec<'_>) -> Option<Self> {
        let code = Code::new(spec)?;
        let valid = code.all_symbols().iter().all(|size| *size <= 15);
        valid.then(|| Self { symbols: code.symbols(DC_BITS), code })
    }

    pub fn is_of(&self, spec: CodeSpec<'_>) -> bool {
        self.code.is_of(spec)
    }

    /// The code that the 16 bits begin with.
    #[inline(always)]
    pub fn symbol(&self, bits: usize) -> Option<Symbol> {
        match self.symbols[(bits >> (16 - DC_BITS)) % (1 << DC_BITS)] {
            Symbol { length: 0, .. } => self.code.symbol(bits as u32),
            symbol => Some(symbol),
        }
    }
}

/// Runs of zeros and AC coefficients.
pub struct AcTable {
    code: Code,
    symbols: Box<[Symbol; 1 << AC_BITS]>,
    entries: Box<[AcEntry; 1 << AC_BITS]>,
}

/// One symbol and its bits.
#[derive(Clone, Copy)]
struct Step {
    /// How many bits, 0 if they do not fit.
    bits: u8,
    run: u8,
    value: i8,
    ends: bool,
}

impl AcTable {
    pub fn new(spec: CodeSpec<'_>) -> Option<Self> {
        let code = Code::new(spec)?;
        let symbols: Box<[Symbol; 1 << AC_BITS]> = code.symbols(AC_BITS);
        let mut steps = [Step { bits: 0, run: 0, value: 0, ends: false }; 1 << AC_BITS];
        for (index, (step, symbol)) in steps.iter_mut().zip(*symbols).enumerate() {
            *step = Step::new(index as u32, symbol);
        }
        let mut entries = Box::new([AcEntry(0); 1 << AC_BITS]);
        for (index, (entry, step)) in entries.iter_mut().zip(&steps).enumerate() {
            let next = steps[(index << step.bits) % (1 << AC_BITS)];
            *entry = step.then(next);
        }
        Some(Self { code, symbols, entries })
    }

    pub fn is_of(&self, spec: CodeSpec<'_>) -> bool {
        self.code.is_of(spec)
    }

    #[inline(always)]
    pub fn entry(&self, bits: usize) -> AcEntry {
        self.entries[bits % (1 << AC_BITS)]
    }

    /// The code that the 16 bits begin with.
    #[inline(always)]
    pub fn symbol(&self, bits: usize) -> Option<Symbol> {
        match self.symbols[(bits >> (16 - AC_BITS)) % (1 << AC_BITS)] {
            Symbol { length: 0, .. } => self.code.symbol(bits as u32),
            symbol => Some(symbol),
        }
    }
}

impl Step {
    fn new(index: u32, symbol: Symbol) -> Self {
        let (run, size, bits) = (symbol.run() as u8, symbol.size(), symbol.bits);
        // Coefficients of more than 7 bits do not fit in an entry.
        if symbol.length == 0 || u32::from(bits) > AC_BITS || size > 7 {
            return Self { bits: 0, run: 0, value: 0, ends: false };
        }
        if size == 0 {
            return Self { bits, run: if run < 15 { 0 } else { run }, value: 0, ends: run < 15 };
        }
        let number = index >> (AC_BITS - u32::from(bits)) & ((1 << size) - 1);
        Self { bits, run, value: extend(number, size) as i8, ends: false }
    }

    /// The entry of this step and, if there are bits enough, of the next.
    fn then(self, next: Self) -> AcEntry {
        if self.bits == 0 {
            return AcEntry::LONG;
        }
        let both = self.bits + next.bits;
        let fits = !self.ends && next.bits > 0 && u32::from(both) <= AC_BITS;
        let (bits, distance, second, ends) = match fits {
            false => (self.bits, 0, self.value, self.ends),
            true if next.ends => (both, 0, self.value, true),
            true => (both, next.run + 1, next.value, false),
        };
        let [bits, run, distance] = [bits, self.run, distance].map(u32::from);
        let [first, second] = [self.value, second].map(|value| u32::from(value as u8));
        AcEntry(
            bits | run << 6 | distance << 10 | u32::from(ends) << 15 | first << 16 | second << 24,
        )
    }
}

/// Tables, kept because most files have the same ones.
#[derive(Default)]
pub struct Tables {
    pub dc: Vec<DcTable>,
    pub ac: Vec<AcTable>,
}

/// More tables than one file has.
const MAX_TABLES: usize = 8;

impl Tables {
    /// Where the components' tables are. `None` if they are no codes.
    pub fn find(&mut self, components: &[Component<'_>]) -> Option<Vec<(usize, usize)>> {
        if self.dc.len().max(self.ac.len()) > MAX_TABLES {
            *self = Self::default();
        }
        let mut find = |component: &Component<'_>| {
            let dc = place(&mut self.dc, component.dc, DcTable::is_of, DcTable::new)?;
            let ac = place(&mut self.ac, component.ac, AcTable::is_of, AcTable::new)?;
            Some((dc, ac))
        };
        components.iter().map(&mut find).collect()
    }
}

/// Where the code's table is, which is made if it is missing.
fn place<'a, T>(
    tables: &mut Vec<T>,
    spec: CodeSpec<'a>,
    is_of: impl Fn(&T, CodeSpec<'a>) -> bool,
    new: impl Fn(CodeSpec<'a>) -> Option<T>,
) -> Option<usize> {
    let found = tables.iter().position(|table| is_of(table, spec));
    found.or_else(|| {
        tables.push(new(spec)?);
        Some(tables.len() - 1)
    })
}
