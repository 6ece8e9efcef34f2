//! A decoder for plain baseline JPEGs, whose pixels are libjpeg-turbo's to the bit.
//!
//! Plain is one scan of 8 bits with Huffman codes, gray or YCbCr in 4:4:4, 4:2:2, 4:4:0 or 4:2:0,
//! without a flaw from the first marker to the last. Anything else gives `None`, and libjpeg-turbo
//! has the say: no error is told here, and no damaged file is filled in.
//!
//! A scan is read to its end, but only blocks that the wanted pixels depend on are transformed:
//! a row of MCUs at a time, of which a row of each component stays for the next one's sake.

mod bits;
mod code;
mod colour;
mod header;
mod huffman;
mod idct;
mod planes;
mod scan;
#[cfg(test)]
mod tests;

use bits::Segment;
use colour::Sampling;
use header::Header;
use huffman::Tables;
use planes::{Plan, Planes};
use scan::{Group, LANES, Scan};

use crate::images::resize::{Region, Vector};

/// A plain file.
#[derive(Debug, Clone)]
pub struct Baseline<'a> {
    header: Header<'a>,
    pub width: usize,
    pub height: usize,
    sampling: Sampling,
}

impl<'a> Baseline<'a> {
    /// Reads a file's header, unless there is something about it that is not plain.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let header = Header::read(bytes)?;
        let (width, height) = (header.width, header.height);
        let sampling = match (header.components.len(), header.components[0].blocks) {
            (1, _) => Sampling::Gray,
            (_, (1, 1)) => Sampling::Full,
            (_, (1, _)) => Sampling::Down,
            (_, (_, 1)) => Sampling::Across,
            _ => Sampling::Both,
        };
        // libjpeg repeats the samples of such a narrow image.
        let narrow = matches!(sampling, Sampling::Across | Sampling::Both) && width <= 4;
        (!narrow).then_some(Self { header, width, height, sampling })
    }

    /// Whether the file has no colour.
    pub fn is_gray(&self) -> bool {
        self.sampling == Sampling::Gray
    }
}

/// Memory for decoding, to be used again.
pub struct Decoder {
    segment: Segment,
    tables: Tables,
    groups: Vec<Group>,
    planes: Planes,
}

impl Decoder {
    /// The fastest that this machine has. `None` if libjpeg-turbo is faster than that: it has
    /// vector code for any machine, and this has it for AVX2 and up.
    pub fn best() -> Option<Self> {
        let vector = Vector::best();
        (vector != Vector::Scalar).then(|| Self::new(vector))
    }

    /// With one of the vector instructions that this machine has.
    pub fn new(vector: Vector) -> Self {
        Self {
            segment: Segment::default(),
            tables: Tables::default(),
            groups: Vec::new(),
            planes: Planes::new(vector),
        }
    }

    /// Decodes a file into rows of `jpeg.width` RGB pixels. At least the pixels of `wanted` are
    /// written. `None` if anything about the scan is not as it should be.
    pub fn decode(&mut self, jpeg: &Baseline<'_>, wanted: &Region, out: &mut [u8]) -> Option<()> {
        assert!(out.len() >= jpeg.width * jpeg.height * 3, "`out` holds the whole image");
        let inside = wanted.columns.end <= jpeg.width && wanted.rows.end <= jpeg.height;
        assert!(inside, "the region is in the image");
        let header = &jpeg.header;
        let plan = Plan::new(header, jpeg.sampling, wanted);
        self.planes.start(&plan);
        let n_groups = header.components.iter().map(|component| component.n_blocks()).sum();
        self.groups.resize(n_groups, Group::EMPTY);
        let groups = &mut self.groups[..];
        let mut scan = Scan::new(header, &mut self.segment, &mut self.tables)?;
        for mcu_row in 0..plan.mcus.1 {
            if !plan.rows.contains(&mcu_row) {
                scan.skip(plan.mcus.0, groups)?;
                continue;
            }
            scan.skip(plan.columns.start, groups)?;
            for column in plan.columns.clone().step_by(LANES) {
                groups.iter_mut().for_each(Group::clear);
                for slot in 0..LANES.min(plan.columns.end - column) {
                    scan.mcu(slot, groups)?;
                }
                self.planes.transform(&plan, column, groups)?;
            }
            scan.skip(plan.mcus.0 - plan.columns.end, groups)?;
            self.planes.write(&plan, mcu_row, out);
        }
        scan.is_complete().then_some(())
    }
}
