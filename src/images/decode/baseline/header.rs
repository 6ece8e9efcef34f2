//! What a JPEG says before its scan, if it is plain enough for the decoder in `baseline`.
//!
//! Stricter than libjpeg wherever libjpeg would warn, guess or fill in: such files are not ours.
//! Markers and segments are those of ITU-T T.81, annex B.

use super::code::CodeSpec;

/// libjpeg's `JPEG_MAX_DIMENSION`.
const MAX_SIDE: usize = 65_500;

const SOI: u8 = 0xd8;
const SOF0: u8 = 0xc0;
const SOF1: u8 = 0xc1;
const DHT: u8 = 0xc4;
const SOS: u8 = 0xda;
const DQT: u8 = 0xdb;
const DRI: u8 = 0xdd;
const APP0: u8 = 0xe0;
const APP2: u8 = 0xe2;
const APP14: u8 = 0xee;
const APP15: u8 = 0xef;
const COM: u8 = 0xfe;

/// Where the k-th coefficient of a scan's block is among the 64 of the block, row after row.
pub const NATURAL_ORDER: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// One colour component, and the tables it is coded with.
#[derive(Debug, Clone)]
pub struct Component<'a> {
    /// Blocks in an MCU, across and down.
    pub blocks: (usize, usize),
    /// Multipliers of the coefficients, row after row.
    pub quant: [i16; 64],
    pub dc: CodeSpec<'a>,
    pub ac: CodeSpec<'a>,
}

impl Component<'_> {
    /// Blocks in an MCU.
    pub fn n_blocks(&self) -> usize {
        self.blocks.0 * self.blocks.1
    }
}

/// A header, and the bytes after it.
#[derive(Debug, Clone)]
pub struct Header<'a> {
    pub width: usize,
    pub height: usize,
    /// Gray, or Y, Cb and Cr.
    pub components: Vec<Component<'a>>,
    /// MCUs between restart markers, 0 for none.
    pub restart_interval: usize,
    pub scan: &'a [u8],
}

/// A component as the frame header has it.
struct Frame {
    id: u8,
    blocks: (usize, usize),
    quant: usize,
}

#[derive(Default)]
struct Parser<'a> {
    size: (usize, usize),
    frame: Vec<Frame>,
    quant: [Option<[i16; 64]>; 4],
    dc: [Option<CodeSpec<'a>>; 4],
    ac: [Option<CodeSpec<'a>>; 4],
    restart_interval: usize,
    has_jfif: bool,
    adobe_transform: Option<u8>,
    /// Pieces of a colour profile: how many there are so far, and are said to be.
    profile: (u8, u8),
    profile_bytes: usize,
}

impl<'a> Header<'a> {
    /// `None` if the file is not a plain one.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(&[0xff, SOI])?;
        let mut parser = Parser::default();
        loop {
            let [0xff, marker, high, low, tail @ ..] = rest else { return None };
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            let (segment, after) = tail.split_at_checked(length.checked_sub(2)?)?;
            if *marker == SOS {
                return parser.finish(segment, after);
            }
            parser.segment(*marker, segment)?;
            rest = after;
        }
    }
}

impl<'a> Parser<'a> {
    fn segment(&mut self, marker: u8, segment: &'a [u8]) -> Option<()> {
        match marker {
            SOF0 | SOF1 => self.frame(segment),
            DHT => self.codes(segment),
            DQT => self.quant(segment),
            DRI => {
                self.restart_interval = usize::from(u16::from_be_bytes(segment.try_into().ok()?));
                Some(())
            }
            APP0 if segment.starts_with(b"JFIF\0") && segment.len() >= 14 => {
                self.has_jfif = true;
                // libjpeg warns of other major versions.
                (segment[5] == 1).then_some(())
            }
            APP2 if segment.starts_with(b"ICC_PROFILE\0") && segment.len() >= 14 => {
                self.profile(segment)
            }
            APP14 if segment.starts_with(b"Adobe") && segment.len() >= 12 => {
                self.adobe_transform = Some(segment[11]);
                Some(())
            }
            APP0..=APP15 | COM => Some(()),
            _ => None,
        }
    }

    fn frame(&mut self, segment: &[u8]) -> Option<()> {
        let [8, h1, h0, w1, w0, count, components @ ..] = segment else { return None };
        let [height, width] = [[*h1, *h0], [*w1, *w0]].map(u16::from_be_bytes).map(usize::from);
        let fits = (1..=MAX_SIDE).contains(&width) && (1..=MAX_SIDE).contains(&height);
        let plain = matches!(count, 1 | 3) && components.len() == usize::from(*count) * 3;
        if !fits || !plain || !self.frame.is_empty() {
            return None;
        }
        self.size = (width, height);
        self.frame = components
            .chunks_exact(3)
            .map(|c| Frame {
                id: c[0],
                blocks: (usize::from(c[1] >> 4), usize::from(c[1] & 15)),
                quant: usize::from(c[2]),
            })
            .collect();
        Some(())
    }

    fn codes(&mut self, mut segment: &'a [u8]) -> Option<()> {
        while let [class, spec @ ..] = segment {
            let (spec, after) = CodeSpec::split(spec)?;
            let tables = match class >> 4 {
                0 => &mut self.dc,
                1 => &mut self.ac,
                _ => return None,
            };
            *tables.get_mut(usize::from(class & 15))? = Some(spec);
            segment = after;
        }
        Some(())
    }

    fn quant(&mut self, mut segment: &[u8]) -> Option<()> {
        while let [index, tail @ ..] = segment {
            // An index over 15 has values of 16 bits.
            let slot = self.quant.get_mut(usize::from(*index))?;
            let (values, after) = tail.split_at_checked(64)?;
            let mut quant = [0; 64];
            for (value, place) in values.iter().zip(NATURAL_ORDER) {
                quant[usize::from(place)] = i16::from(*value);
            }
            *slot = Some(quant);
            segment = after;
        }
        Some(())
    }

    /// libjpeg warns of a profile with pieces that are missing or there twice; of those out of
    /// order it does not, but they are rare.
    fn profile(&mut self, segment: &[u8]) -> Option<()> {
        let (piece, pieces) = (segment[12], segment[13]);
        let (before, said) = self.profile;
        let in_order = piece == before.checked_add(1)? && piece <= pieces;
        if !in_order || (before > 0 && pieces != said) {
            return None;
        }
        self.profile = (piece, pieces);
        self.profile_bytes += segment.len() - 14;
        Some(())
    }

    /// libjpeg's `default_decompress_parms`.
    fn is_ycbcr(&self) -> bool {
        match self.adobe_transform {
            _ if self.has_jfif => true,
            Some(transform) => transform == 1,
            None => !self.frame.iter().map(|component| component.id).eq(*b"RGB"),
        }
    }

    fn finish(self, segment: &[u8], scan: &'a [u8]) -> Option<Header<'a>> {
        let n = self.frame.len();
        let [count, selectors @ .., 0, 63, 0] = segment else { return None };
        let (piece, pieces) = self.profile;
        let profile_is_whole = piece == pieces && (pieces == 0 || self.profile_bytes > 0);
        if n == 0 || usize::from(*count) != n || selectors.len() != n * 2 || !profile_is_whole {
            return None;
        }
        let blocks: Vec<_> = self.frame.iter().map(|component| component.blocks).collect();
        let plain = match blocks[..] {
            // A scan of one component has one block in its MCU, whatever the factors.
            [(1..=4, 1..=4)] => true,
            [(1..=2, 1..=2), (1, 1), (1, 1)] => self.is_ycbcr(),
            _ => false,
        };
        if !plain {
            return None;
        }
        let mut components = Vec::with_capacity(n);
        for (index, (frame, selector)) in
            self.frame.iter().zip(selectors.chunks_exact(2)).enumerate()
        {
            let repeats = self.frame[..index].iter().any(|earlier| earlier.id == frame.id);
            if selector[0] != frame.id || repeats {
                return None;
            }
            components.push(Component {
                blocks: if n == 1 { (1, 1) } else { frame.blocks },
                quant: (*self.quant.get(frame.quant)?)?,
                dc: (*self.dc.get(usize::from(selector[1] >> 4))?)?,
                ac: (*self.ac.get(usize::from(selector[1] & 15))?)?,
            });
        }
        let (width, height) = self.size;
        let restart_interval = self.restart_interval;
        Some(Header { width, height, components, restart_interval, scan })
    }
}
