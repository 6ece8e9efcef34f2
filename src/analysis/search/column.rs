//! An embedding column read from Parquet, its vectors made ready for cosines.

use std::collections::BTreeMap;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::DataType;

use super::top::{BLOCK, Scan, exact_parts};
use crate::analysis::Reasons;
use crate::error::Error;
use crate::table::{GroupRows, Piece, Table, Vectors};
use crate::travel::is_text;

/// What vectors are held in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// As they are stored, whatever their length.
    F16,
    /// At unit length.
    F32,
}

impl Element {
    pub const fn as_str(self) -> &'static str {
        match self {
            Element::F16 => "f16",
            Element::F32 => "f32",
        }
    }

    /// Bytes of a number.
    pub const fn size(self) -> usize {
        match self {
            Element::F16 => 2,
            Element::F32 => 4,
        }
    }
}

/// An embedding column.
pub struct Column<'a> {
    pub table: &'a Table,
    pub name: &'a str,
    pub element: Element,
    /// Numbers in a vector; 0 where no row has one.
    pub dim: usize,
    has_status: bool,
}

/// The vectors of a run of rows.
pub struct Ready {
    /// Zeros where there is none.
    pub values: Vec<f32>,
    pub dim: usize,
    /// Per row, one over the vector's length; 0 where there is none that has a direction.
    pub inverse: Vec<f32>,
}

impl Ready {
    pub fn vector(&self, row: usize) -> &[f32] {
        &self.values[row * self.dim..(row + 1) * self.dim]
    }
}

impl<'a> Column<'a> {
    /// `name` is an embedding column of the table.
    pub fn of(table: &'a Table, name: &'a str) -> Result<Self, Error> {
        let (item, dim) = match table.field(name)?.data_type() {
            DataType::FixedSizeList(item, dim) => (item, Some(*dim as usize)),
            DataType::List(item) | DataType::LargeList(item) => (item, None),
            _ => return Err(table.wrong_type(name, "a list of numbers is needed".into())),
        };
        let element = match item.data_type() {
            DataType::Float16 => Element::F16,
            _ => Element::F32,
        };
        let has_status = table.find("status").is_some_and(|field| is_text(field.data_type()));
        let column = Self { table, name, element, dim: 0, has_status };
        let dim = match dim {
            Some(dim) => dim,
            None => column.first_length()?,
        };
        Ok(Self { dim, ..column })
    }

    /// The length of the first vector; 0 where there is none.
    fn first_length(&self) -> Result<usize, Error> {
        for piece in self.table.pieces() {
            for batch in self.table.read(piece, Some(&[self.name]))? {
                match self.vectors(&batch?, None)?.dim {
                    0 => {}
                    dim => return Ok(dim),
                }
            }
        }
        Ok(0)
    }

    fn vectors(&self, batch: &RecordBatch, dim: Option<usize>) -> Result<Vectors, Error> {
        let wrong = |problem: String| self.table.wrong_type(self.name, problem);
        let array = batch.column_by_name(self.name).ok_or_else(|| wrong("it is gone".into()))?;
        Vectors::of(array, dim)
            .map_err(|problem| wrong(format!("it has {problem}, and all must have one length")))
    }

    /// The columns that are read.
    pub fn columns(&self) -> Vec<&str> {
        [self.name].into_iter().chain(self.has_status.then_some("status")).collect()
    }

    /// The vectors of a batch of [`Column::columns`].
    pub fn ready(&self, batch: &RecordBatch, reasons: &mut Reasons) -> Result<Ready, Error> {
        let Vectors { mut values, dim, valid } = self.vectors(batch, Some(self.dim))?;
        let mut inverse = vec![0.0; valid.len()];
        for (row, vector) in values.chunks_exact_mut(dim.max(1)).enumerate() {
            let length = exact_parts(vector, vector).1;
            match self.element {
                _ if !valid[row] || length == 0.0 => {}
                Element::F16 => inverse[row] = (1.0 / length) as f32,
                Element::F32 => {
                    vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
                    inverse[row] = 1.0;
                }
            }
        }
        let array = batch.column_by_name(self.name);
        for row in (0..inverse.len()).filter(|row| inverse[*row] == 0.0) {
            let why = match array {
                Some(array) if array.is_null(row) => "no vector",
                _ if valid[row] => "a vector of zeros",
                _ => "not a finite number",
            };
            reasons.add(batch, row, why);
        }
        Ok(Ready { values, dim, inverse })
    }

    /// Calls `with` for the vectors of a piece, batch by batch, with the first row's number.
    pub fn piece(
        &self,
        (piece, rows): (Piece, GroupRows),
        reasons: &mut Reasons,
        mut with: impl FnMut(u64, &Ready) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut row = piece.start;
        for batch in rows {
            let batch = batch?;
            with(row, &self.ready(&batch, reasons)?)?;
            row += batch.num_rows() as u64;
        }
        Ok(())
    }

    /// How many rows have a vector, and how many have none.
    pub fn count(&self) -> Result<(u64, BTreeMap<String, u64>), Error> {
        let (scan, searched, without) = self.nearest(|| Scan::new(&[], self.dim, 0))?;
        drop(scan);
        Ok((searched, without))
    }

    /// A search of the whole column, several pieces at once.
    pub fn nearest(
        &self,
        new: impl Fn() -> Scan + Sync,
    ) -> Result<(Scan, u64, BTreeMap<String, u64>), Error> {
        let pieces = self.table.map(&self.columns(), |piece, rows| {
            let (mut scan, mut reasons, mut searched) = (new(), Reasons::default(), 0);
            self.piece((piece, rows), &mut reasons, |first, ready| {
                searched += ready.inverse.iter().filter(|inverse| **inverse > 0.0).count() as u64;
                look(&mut scan, first, ready);
                Ok(())
            })?;
            Ok((scan, searched, reasons))
        })?;
        let (mut scan, mut searched, mut reasons) = (new(), 0, Reasons::default());
        for (of_piece, n, why) in pieces {
            scan = scan.merge(of_piece);
            searched += n;
            reasons.merge(&why);
        }
        Ok((scan, searched, reasons.0))
    }

    /// Calls `with` for each row that has a vector, in order.
    pub fn each(
        &self,
        mut with: impl FnMut(u64, &[f32]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for piece in self.table.pieces() {
            let rows = self.table.read(piece, Some(&self.columns()))?;
            self.piece((piece, rows), &mut Reasons::default(), |first, ready| {
                let there = (0..ready.inverse.len()).filter(|at| ready.inverse[*at] > 0.0);
                there.into_iter().try_for_each(|at| with(first + at as u64, ready.vector(at)))
            })?;
        }
        Ok(())
    }

    /// Gives a row's vector to `keep`, if it has one.
    pub fn vector(&self, row: u64, keep: &mut impl FnMut(&[f32])) -> Result<(), Error> {
        let pieces = self.table.pieces();
        let of_row = |piece: &&Piece| (piece.start..piece.start + piece.rows).contains(&row);
        let Some(piece) = pieces.iter().find(of_row) else { return Ok(()) };
        let rows = self.table.read(*piece, Some(&self.columns()))?;
        self.piece((*piece, rows), &mut Reasons::default(), |first, ready| {
            let at = row.wrapping_sub(first) as usize;
            if row >= first && ready.inverse.get(at).is_some_and(|inverse| *inverse > 0.0) {
                keep(ready.vector(at));
            }
            Ok(())
        })
    }
}

/// Puts vectors before a scan.
fn look(scan: &mut Scan, first: u64, ready: &Ready) {
    for (index, inverse) in ready.inverse.chunks(BLOCK).enumerate() {
        let start = index * BLOCK;
        for row in 0..inverse.len() {
            scan.block.set(row, ready.vector(start + row));
        }
        scan.look(first + start as u64, inverse);
    }
}
