//! The coefficients of a scan, MCU after MCU.

use std::ops::ControlFlow::{self, Break, Continue};

use super::bits::{Bits, Position, Segment};
use super::header::{Header, NATURAL_ORDER};
use super::huffman::{AC_BITS, AcTable, DcTable, Tables};

/// Blocks beside each other that are transformed together.
pub const LANES: usize = 4;

/// Coefficients of `LANES` blocks: each one's first row, each one's second row, ... Behind them
/// there is room for the last block to be `Places` too.
pub type Coefficients = [i16; 64 * LANES + 8 * (LANES - 1)];

/// Those from a block's first one on: as many as a byte can tell apart, which spares checks.
type Places = [i16; 256];

/// Breaks with the place of a block's last coefficient, or goes on at that place.
type Progress = ControlFlow<usize, usize>;

/// How many look-ups the bits last for.
const LOOKUPS: u32 = 56 / AC_BITS;

/// Where the k-th coefficient of the first block goes.
const PLACES: [u8; 64] = {
    let mut places = [0; 64];
    let mut k = 0;
    while k < 64 {
        let (row, column) = (NATURAL_ORDER[k] / 8, NATURAL_ORDER[k] % 8);
        places[k] = row * (8 * LANES as u8) + column;
        k += 1;
    }
    places
};

/// Blocks beside each other that are read one by one and transformed together.
#[derive(Clone)]
#[repr(align(64))]
pub struct Group {
    pub coefficients: Coefficients,
    /// How far the coefficients of any of the blocks go, in the scan's order.
    pub last: usize,
}

impl Group {
    pub const EMPTY: Self = Self { coefficients: [0; _], last: 0 };

    pub fn clear(&mut self) {
        self.coefficients.fill(0);
        self.last = 0;
    }
}

/// A block of an MCU.
struct Unit<'t> {
    component: usize,
    dc_table: &'t DcTable,
    ac_table: &'t AcTable,
    /// Where the block goes.
    group: usize,
    lane: usize,
}

/// A scan that is being read.
pub struct Scan<'t, 'a> {
    segment: &'t mut Segment,
    position: Position,
    /// The blocks of `LANES` MCUs beside each other.
    units: Vec<Unit<'t>>,
    /// The components' last DC coefficients.
    dc: [i32; 3],
    /// What follows the segment that is being read.
    rest: &'a [u8],
    restart_interval: usize,
    /// MCUs before the next restart marker.
    until_restart: usize,
    /// Which of the eight that is.
    next_restart: u8,
}

impl<'t, 'a> Scan<'t, 'a> {
    pub fn new(
        header: &Header<'a>,
        segment: &'t mut Segment,
        tables: &'t mut Tables,
    ) -> Option<Self> {
        let places = tables.find(&header.components)?;
        let mut units = Vec::new();
        for slot in 0..LANES {
            let mut first = 0;
            for (component, (dc, ac)) in places.iter().enumerate() {
                let (across, down) = header.components[component].blocks;
                let (dc_table, ac_table) = (&tables.dc[*dc], &tables.ac[*ac]);
                for index in 0..across * down {
                    let column = slot * across + index % across;
                    let group = first + index / across * across + column / LANES;
                    let lane = column % LANES;
                    units.push(Unit { component, dc_table, ac_table, group, lane });
                }
                first += across * down;
            }
        }
        Some(Self {
            rest: segment.read(header.scan)?,
            segment,
            position: Position::default(),
            units,
            dc: [0; 3],
            restart_interval: header.restart_interval,
            until_restart: header.restart_interval,
            next_restart: 0,
        })
    }

    /// Reads an MCU, the `slot`-th of those beside each other. Its blocks go into groups that are
    /// empty there: component after component, row after row, left to right.
    pub fn mcu(&mut self, slot: usize, groups: &mut [Group]) -> Option<()> {
        if self.restart_interval > 0 {
            self.restart()?;
        }
        let mut bits = self.segment.bits(self.position);
        let n_units = self.units.len() / LANES;
        for unit in &self.units[slot * n_units..][..n_units] {
            unit.read(&mut bits, &mut self.dc[unit.component], &mut groups[unit.group])?;
        }
        self.position = bits.position;
        Some(())
    }

    /// Reads MCUs whose coefficients are not wanted.
    pub fn skip(&mut self, n_mcus: usize, groups: &mut [Group]) -> Option<()> {
        (0..n_mcus).try_for_each(|_| self.mcu(0, groups))
    }

    /// Goes past a restart marker if it is due.
    fn restart(&mut self) -> Option<()> {
        if self.until_restart == 0 {
            let marker = [0xff, 0xd0 + self.next_restart];
            let at_end = self.segment.ends_at(self.position);
            let after = self.rest.strip_prefix(&marker).filter(|_| at_end)?;
            self.rest = self.segment.read(after)?;
            self.position = Position::default();
            self.dc = [0; 3];
            self.next_restart = (self.next_restart + 1) % 8;
            self.until_restart = self.restart_interval;
        }
        self.until_restart -= 1;
        Some(())
    }

    /// Whether every bit was read, and the end marker follows.
    pub fn is_complete(&self) -> bool {
        self.segment.ends_at(self.position) && self.rest.starts_with(&[0xff, 0xd9])
    }
}

impl Unit<'_> {
    /// Reads the block. `None` if a code is none, or there are more than 64 coefficients.
    #[inline(always)]
    fn read(&self, bits: &mut Bits<'_>, dc: &mut i32, group: &mut Group) -> Option<()> {
        let out = group.coefficients[self.lane * 8..].first_chunk_mut()?;
        bits.refill()?;
        let symbol = self.dc_table.symbol(bits.peek(16))?;
        *dc = dc.wrapping_add(bits.number(symbol));
        put(out, 0, *dc as i16);
        let mut k = 1;
        let last = loop {
            match self.look_up(bits, out, k)? {
                Break(last) => break last,
                Continue(next) => k = next,
            }
            match self.coefficient(bits, out, k)? {
                Break(last) => break last,
                Continue(next) => k = next,
            }
        };
        group.last = group.last.max(last);
        Some(())
    }

    /// Reads coefficients from the k-th on, up to one that has to be read by itself. Breaks with
    /// the place of the last one if the block ends.
    #[inline(always)]
    fn look_up(&self, bits: &mut Bits<'_>, out: &mut Places, mut k: usize) -> Option<Progress> {
        loop {
            bits.refill()?;
            for _ in 0..LOOKUPS {
                let entry = self.ac_table.entry(bits.peek(AC_BITS));
                let first = k + entry.run();
                let second = first + entry.distance();
                // The 63rd ends the block: what an entry has after it is another block's.
                if second >= 63 {
                    return Some(Continue(k));
                }
                // Where there is no coefficient, a zero is put where one is.
                let [a, b] = entry.values();
                put(out, first, a);
                put(out, second, b);
                bits.skip(entry.bits());
                if entry.ends() {
                    return Some(match a {
                        _ if entry.is_long() => Continue(k),
                        0 => Break(k - 1),
                        _ => Break(second),
                    });
                }
                k = second + 1;
            }
        }
    }

    /// Reads one coefficient, of any size and at any place from the k-th on, or the block's end.
    #[inline(always)]
    fn coefficient(&self, bits: &mut Bits<'_>, out: &mut Places, k: usize) -> Option<Progress> {
        bits.refill()?;
        let symbol = self.ac_table.symbol(bits.peek(16))?;
        let value = bits.number(symbol) as i16;
        let place = k + symbol.run();
        if symbol.size() == 0 && symbol.run() < 15 {
            return Some(Break(k - 1));
        }
        if place > 63 {
            return None;
        }
        put(out, place, value);
        Some(if place == 63 { Break(63) } else { Continue(place + 1) })
    }
}

#[inline(always)]
fn put(out: &mut Places, k: usize, value: i16) {
    out[usize::from(PLACES[k % 64])] = value;
}
