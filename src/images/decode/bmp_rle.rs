//! BMP's run lengths, read as leniently, and no more leniently, than Pillow reads them.

use super::truncated;
use crate::error::RowError;

/// One index a pixel, `width * height` of them, rows as stored.
///
/// # Errors
/// `image_truncated` if the runs end before the image does.
pub fn expand(
    bytes: &[u8],
    start: usize,
    (width, height): (usize, usize),
    four_bits: bool,
) -> Result<Vec<u8>, RowError> {
    let mut runs = Runs { bytes, at: start, out: Vec::new(), x: 0, width, size: width * height };
    while runs.out.len() < runs.size {
        let Some([count, value]) = runs.take::<2>() else { break };
        let more = match (count, value) {
            (0, 0) => runs.end_line(),
            (0, 1) => false,
            (0, 2) => runs.skip(),
            (0, count) => runs.literal(usize::from(count), four_bits),
            (count, value) => runs.repeat(usize::from(count), value, four_bits),
        };
        if !more {
            break;
        }
    }
    if runs.out.len() < runs.size {
        return Err(truncated());
    }
    runs.out.truncate(runs.size);
    Ok(runs.out)
}

struct Runs<'a> {
    bytes: &'a [u8],
    at: usize,
    out: Vec<u8>,
    /// The column, as Pillow counts it: a literal may take it past the row.
    x: usize,
    width: usize,
    size: usize,
}

impl Runs<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let taken = *self.bytes.get(self.at..)?.first_chunk()?;
        self.at += N;
        Some(taken)
    }

    fn end_line(&mut self) -> bool {
        self.out.resize(self.out.len().next_multiple_of(self.width), 0);
        self.x = 0;
        true
    }

    fn skip(&mut self) -> bool {
        let Some([right, up]) = self.take() else { return false };
        let distance = usize::from(right) + usize::from(up) * self.width;
        self.out.resize((self.out.len() + distance).min(self.size), 0);
        self.x = self.out.len() % self.width;
        true
    }

    fn repeat(&mut self, count: usize, value: u8, four_bits: bool) -> bool {
        let count = count.min(self.width.saturating_sub(self.x));
        let pair = if four_bits { [value >> 4, value & 15] } else { [value; 2] };
        self.out.extend(pair.iter().cycle().take(count));
        self.x += count;
        true
    }

    fn literal(&mut self, count: usize, four_bits: bool) -> bool {
        let wanted = count.min(self.size - self.out.len());
        let n_bytes = if four_bits { wanted.div_ceil(2) } else { wanted };
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = &rest[..n_bytes.min(rest.len())];
        self.at += taken.len();
        if four_bits {
            self.out.extend(taken.iter().flat_map(|byte| [byte >> 4, byte & 15]).take(wanted));
        } else {
            self.out.extend(taken);
        }
        self.x += count;
        self.at = self.at.next_multiple_of(2);
        taken.len() == n_bytes
    }
}
