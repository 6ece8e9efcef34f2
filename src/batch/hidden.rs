//! Where a row's image lies in a file of many: a column that travels with the rows, after those of
//! the input, and is never written. Images stay in their file until they are decoded.

/// The column's name, which no input has.
pub const COLUMN: &str = "\0image";

/// Bytes of a [`Place`] in the column.
pub const WIDTH: usize = 20;

/// Where the bytes of an image are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Index of the input file.
    pub file: u32,
    /// First byte in it.
    pub offset: u64,
    /// Number of bytes.
    pub bytes: u64,
}

impl Place {
    /// As the column has it.
    pub fn to_bytes(self) -> [u8; WIDTH] {
        let mut bytes = [0; WIDTH];
        bytes[..4].copy_from_slice(&self.file.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.offset.to_le_bytes());
        bytes[12..].copy_from_slice(&self.bytes.to_le_bytes());
        bytes
    }

    /// What [`Place::to_bytes`] gave.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (file, rest) = bytes.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let bytes = u64::from_le_bytes(rest.try_into().ok()?);
        let (file, offset) = (u32::from_le_bytes(*file), u64::from_le_bytes(*offset));
        Some(Self { file, offset, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back() {
        let place = Place { file: 7, offset: 1 << 40, bytes: 3 };
        assert_eq!(Place::from_bytes(&place.to_bytes()), Some(place));
        assert_eq!(Place::from_bytes(&[0; 19]), None);
    }
}
