//! Huffman codes as a JPEG has them (ITU-T T.81, annexes C and F), one code at a time.
//!
//! The tables that make it fast are in `huffman`.

/// A code as the file has it: how many codes there are of each length, and their symbols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeSpec<'a>(&'a [u8]);

impl<'a> CodeSpec<'a> {
    /// The first code of a segment, and what follows it.
    pub fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let lengths = bytes.get(..16)?;
        let n_symbols: usize = lengths.iter().map(|n| usize::from(*n)).sum();
        if n_symbols > 256 {
            return None;
        }
        let (spec, after) = bytes.split_at_checked(16 + n_symbols)?;
        Some((Self(spec), after))
    }
}

/// A code, and how many bits the number after it has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Symbol {
    /// Bits of the code, 0 if there is none.
    pub length: u8,
    /// What it stands for: zeros, and the size of the number.
    symbol: u8,
    /// Bits of both.
    pub bits: u8,
}

impl Symbol {
    fn new(length: u8, symbol: u8) -> Self {
        Self { length, symbol, bits: length + (symbol & 15) }
    }

    /// Zeros before a coefficient.
    #[inline(always)]
    pub fn run(self) -> usize {
        usize::from(self.symbol >> 4)
    }

    /// Bits of the number after the code.
    #[inline(always)]
    pub fn size(self) -> u32 {
        u32::from(self.symbol & 15)
    }
}

/// The number that `size` bits stand for (T.81, F.2.2.1).
#[inline(always)]
pub fn extend(bits: u32, size: u32) -> i32 {
    let half = (1 << size) >> 1;
    if bits < half { bits as i32 - (1 << size) + 1 } else { bits as i32 }
}

/// A code, ready to be read.
#[derive(Debug)]
pub struct Code {
    /// The bytes that it was made from.
    spec: Vec<u8>,
    /// By length - 1: the first 16 bits that are past the codes of that length.
    limits: [u32; 16],
    /// By length - 1: what a code has to be added to for its place among the symbols.
    offsets: [i32; 16],
}

impl Code {
    /// T.81, annex C. `None` if the lengths are those of no code.
    pub fn new(spec: CodeSpec<'_>) -> Option<Self> {
        let mut new = Self { spec: spec.0.to_vec(), limits: [0; 16], offsets: [0; 16] };
        let (mut code, mut place) = (0u32, 0u32);
        for (index, n) in spec.0[..16].iter().enumerate() {
            let length = index as u32 + 1;
            new.offsets[index] = place as i32 - code as i32;
            place += u32::from(*n);
            code += u32::from(*n);
            // No code is all ones.
            if *n > 0 && code >= 1 << length {
                return None;
            }
            new.limits[index] = code << (16 - length);
            code <<= 1;
        }
        Some(new)
    }

    pub fn is_of(&self, spec: CodeSpec<'_>) -> bool {
        self.spec == spec.0
    }

    /// What there are codes of.
    pub fn all_symbols(&self) -> &[u8] {
        &self.spec[16..]
    }

    /// The code that the 16 bits begin with.
    #[cold]
    #[inline(never)]
    pub fn symbol(&self, bits: u32) -> Option<Symbol> {
        let index = self.limits.iter().position(|limit| bits < *limit)?;
        let place = (bits >> (15 - index)) as i32 + self.offsets[index];
        let symbol = self.spec.get(16 + usize::try_from(place).ok()?)?;
        Some(Symbol::new(index as u8 + 1, *symbol))
    }

    /// The same for each value of the first `bits` bits; nothing where they do not hold a code.
    pub fn symbols<const N: usize>(&self, bits: u32) -> Box<[Symbol; N]> {
        let mut all = Box::new([Symbol::default(); N]);
        let mut next = 0;
        let mut symbols = self.all_symbols();
        for (length, n) in (1..=bits).zip(&self.spec[..16]) {
            let (these, after) = symbols.split_at(usize::from(*n));
            for symbol in these {
                let end = next + (1 << (bits - length));
                all[next..end].fill(Symbol::new(length as u8, *symbol));
                next = end;
            }
            symbols = after;
        }
        all
    }
}
