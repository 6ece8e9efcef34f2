//! Dot products of rows with queries in f32, as fast as this machine multiplies.
//!
//! A row's dot product with a query is the same sum, in the same order, whichever rows and queries
//! are beside it; another kind of vector instruction may change its last digits. What the products
//! mean is not known here.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use half::f16;
use half::slice::HalfFloatSliceExt;

/// Numbers that are multiplied at once at most. Rows are padded to a multiple.
pub const LANES: usize = 16;

/// The vector instructions that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vector {
    Scalar,
    /// With FMA and F16C, which every processor with AVX2 has.
    Avx2,
    Avx512,
}

impl Vector {
    /// What this machine has, slowest first.
    pub fn available() -> Vec<Self> {
        let mut all = vec![Vector::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(avx2::available().then_some(Vector::Avx2));
            all.extend(avx512::available().then_some(Vector::Avx512));
        }
        all
    }

    /// The fastest that this machine has.
    pub fn best() -> Self {
        *Self::available().last().expect("scalar code runs everywhere")
    }
}

/// Rows of f32, `[rows, dim]`, each with zeros after it up to a multiple of [`LANES`].
#[derive(Debug, Clone)]
pub struct Rows {
    values: Vec<f32>,
    dim: usize,
    stride: usize,
}

impl Rows {
    /// So many rows of zeros.
    pub fn zeros(rows: usize, dim: usize) -> Self {
        let stride = dim.next_multiple_of(LANES).max(LANES);
        Self { values: vec![0.0; rows * stride], dim, stride }
    }

    /// Rows that all have `dim` numbers.
    pub fn of<'a>(rows: impl ExactSizeIterator<Item = &'a [f32]>, dim: usize) -> Self {
        let mut all = Self::zeros(rows.len(), dim);
        rows.enumerate().for_each(|(at, row)| all.set(at, row));
        all
    }

    pub fn len(&self) -> usize {
        self.values.len() / self.stride
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    /// A row without its padding.
    pub fn get(&self, row: usize) -> &[f32] {
        &self.values[row * self.stride..][..self.dim]
    }

    /// Puts `dim` numbers into a row.
    pub fn set(&mut self, row: usize, values: &[f32]) {
        self.values[row * self.stride..][..self.dim].copy_from_slice(values);
    }

    /// Puts `dim` little-endian f32 into a row.
    pub fn set_f32_bytes(&mut self, row: usize, bytes: &[u8]) {
        let values = &mut self.values[row * self.stride..][..self.dim];
        for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *value = f32::from_le_bytes(*bytes);
        }
    }

    /// Puts `dim` little-endian f16 into a row.
    pub fn set_f16_bytes(&mut self, row: usize, bytes: &[u8], vector: Vector) {
        let values = &mut self.values[row * self.stride..][..self.dim];
        let done = match vector {
            #[cfg(target_arch = "x86_64")]
            Vector::Avx512 => avx512::widen(bytes, values),
            #[cfg(target_arch = "x86_64")]
            Vector::Avx2 => avx2::widen(bytes, values),
            _ => 0,
        };
        for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<2>().0).skip(done) {
            *value = f16::from_le_bytes(*bytes).to_f32();
        }
    }
}

/// Appends numbers as little-endian f16, rounded to the nearest.
pub fn f16_bytes(values: &[f32], out: &mut Vec<u8>) {
    let mut halves = vec![f16::ZERO; values.len()];
    halves.convert_from_f32_slice(values);
    out.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
}

/// The dot product of each of the first `n` rows with each query: `out[row * queries + query]`.
/// Rows and queries are of one length.
pub fn dots(vector: Vector, rows: (&Rows, usize), queries: &Rows, out: &mut [f32]) {
    let (rows, n) = rows;
    assert_eq!(rows.dim, queries.dim, "rows and queries are of one length");
    let stride = rows.stride;
    let (rows, queries) = (&rows.values[..n * stride], queries.values.as_slice());
    assert_eq!(out.len(), n * (queries.len() / stride), "one product a pair");
    match vector {
        #[cfg(target_arch = "x86_64")]
        Vector::Avx512 => avx512::dots(rows, queries, stride, out),
        #[cfg(target_arch = "x86_64")]
        Vector::Avx2 => avx2::dots(rows, queries, stride, out),
        _ => scalar(rows, queries, stride, out),
    }
}

fn scalar(rows: &[f32], queries: &[f32], stride: usize, out: &mut [f32]) {
    let pairs = rows.chunks_exact(stride).flat_map(|row| {
        queries.chunks_exact(stride).map(move |query| (row.as_chunks().0, query.as_chunks().0))
    });
    for ((row, query), out) in pairs.zip(out) {
        let mut sums = [0.0f32; LANES];
        for (a, b) in row.iter().zip(query) {
            let _: (&[f32; LANES], &[f32; LANES]) = (a, b);
            for lane in 0..LANES {
                sums[lane] += a[lane] * b[lane];
            }
        }
        *out = sums.iter().sum();
    }
}

/// Calls `tile(row, query, rows, queries)` for tiles that cover all pairs: queries of a tile stay
/// in the fastest cache while the rows pass. A tile is `tall` x 4, 4 x 1, or less at the edges.
#[cfg(target_arch = "x86_64")]
fn tiles(
    (rows, queries): (usize, usize),
    tall: usize,
    mut tile: impl FnMut(usize, usize, usize, usize),
) {
    let mut query = 0;
    while query < queries {
        let wide = if queries - query >= 4 { 4 } else { 1 };
        let tall = if wide == 4 { tall } else { 4 };
        let mut row = 0;
        while row < rows {
            let n = if rows - row >= tall { tall } else { 1 };
            tile(row, query, n, wide);
            row += n;
        }
        query += wide;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random: a full-period generator.
    fn numbers(n: usize, mut seed: u32) -> Vec<f32> {
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    #[test]
    fn every_kind_of_instruction_gives_the_sums_of_f64_at_all_shapes() {
        for vector in Vector::available() {
            for (n, m, dim) in [(1, 1, 1), (7, 1, 16), (9, 4, 17), (13, 11, 100), (64, 6, 512)] {
                let (a, b) = (numbers(n * dim, 1), numbers(m * dim, 2));
                let rows = Rows::of(a.chunks_exact(dim), dim);
                let queries = Rows::of(b.chunks_exact(dim), dim);
                let mut out = vec![f32::NAN; n * m];
                dots(vector, (&rows, n), &queries, &mut out);
                for (at, found) in out.iter().enumerate() {
                    let (row, query) = (&a[at / m * dim..][..dim], &b[at % m * dim..][..dim]);
                    let wanted: f64 =
                        row.iter().zip(query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    assert!((f64::from(*found) - wanted).abs() < 2e-5, "{vector:?} {n} {m} {dim}");
                }
            }
        }
    }

    #[test]
    fn a_product_does_not_depend_on_its_neighbours() {
        let (a, b) = (numbers(10 * 50, 3), numbers(7 * 50, 4));
        let rows = Rows::of(a.chunks_exact(50), 50);
        for vector in Vector::available() {
            let mut all = vec![0.0; 70];
            dots(vector, (&rows, 10), &Rows::of(b.chunks_exact(50), 50), &mut all);
            for (query, b) in b.chunks_exact(50).enumerate() {
                let one = Rows::of(std::iter::once(b), 50);
                let mut alone = vec![0.0; 10];
                dots(vector, (&rows, 10), &one, &mut alone);
                let column: Vec<_> = (0..10).map(|row| all[row * 7 + query]).collect();
                assert_eq!(column, alone, "{vector:?}");
            }
        }
    }

    #[test]
    fn halves_come_back_as_they_were() {
        let bits: Vec<u16> =
            (0..=u16::MAX).filter(|bits| !f16::from_bits(*bits).is_nan()).collect();
        let bytes: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        for vector in Vector::available() {
            let mut rows = Rows::zeros(1, bits.len());
            rows.set_f16_bytes(0, &bytes, vector);
            let wanted: Vec<_> = bits.iter().map(|bits| f16::from_bits(*bits).to_f32()).collect();
            assert_eq!(rows.get(0), wanted, "{vector:?}");
            let mut again = Vec::new();
            f16_bytes(rows.get(0), &mut again);
            assert!(again == bytes, "{vector:?}");
        }
    }
}
