//! An embedding column's vectors at unit length, packed, batch after batch.
//!
//! Cosines are what CLIP's embeddings mean, so lengths are taken out. A row without a vector that
//! has a direction takes no place; `missing` counts why.

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::DataType;

use super::reasons::Reasons;
use crate::error::Error;
use crate::table::{Piece, Table, Vectors};

/// An embedding column of a table.
pub struct UnitColumn<'a> {
    pub table: &'a Table,
    pub name: &'a str,
    /// The length of its vectors; 0 where no row has one.
    pub dim: usize,
}

/// The vectors of a batch.
pub struct UnitBatch {
    /// The rows of the batch that have one, ascending.
    pub rows: Vec<u32>,
    /// Row-major, `[rows.len(), dim]`, each of length 1.
    pub values: Vec<f32>,
}

impl<'a> UnitColumn<'a> {
    /// Finds the length of the vectors; reads the table up to the first one where its type does
    /// not say.
    ///
    /// # Errors
    /// Those of `Table::embedding`, and of reading.
    pub fn open(table: &'a Table, asked: Option<&'a str>) -> Result<Self, Error> {
        let name = table.embedding(asked)?;
        let mut column = Self { table, name, dim: 0 };
        if let DataType::FixedSizeList(_, dim) = table.field(name)?.data_type() {
            column.dim = *dim as usize;
            return Ok(column);
        }
        for piece in table.pieces() {
            for batch in table.read(piece, Some(&[name]))? {
                let vectors = column.vectors(&batch?, None)?;
                if vectors.dim > 0 {
                    column.dim = vectors.dim;
                    return Ok(column);
                }
            }
        }
        Ok(column)
    }

    /// The vectors of a batch that has the column.
    ///
    /// # Errors
    /// `ColumnType` where lengths differ.
    pub fn of(&self, batch: &RecordBatch) -> Result<UnitBatch, Error> {
        let vectors = self.vectors(batch, Some(self.dim))?;
        let mut unit =
            UnitBatch { rows: Vec::new(), values: Vec::with_capacity(vectors.values.len()) };
        for row in 0..batch.num_rows() {
            let Some(vector) = vectors.get(row) else { continue };
            let squares: f64 = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            if squares > 0.0 {
                let scale = squares.sqrt().recip();
                unit.rows.push(row as u32);
                unit.values.extend(vector.iter().map(|x| (f64::from(*x) * scale) as f32));
            }
        }
        Ok(unit)
    }

    /// Calls `with` for the vectors of each batch of a piece, with the batch's first row.
    pub fn read(
        &self,
        piece: Piece,
        mut with: impl FnMut(u64, UnitBatch) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut row = piece.start;
        for batch in self.table.read(piece, Some(&[self.name]))? {
            let batch = batch?;
            with(row, self.of(&batch)?)?;
            row += batch.num_rows() as u64;
        }
        Ok(())
    }

    /// The same for every piece, in order.
    pub fn scan(
        &self,
        mut with: impl FnMut(u64, UnitBatch) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.table.pieces().into_iter().try_for_each(|piece| self.read(piece, &mut with))
    }

    /// Counts why the other rows of a batch have no vector.
    pub fn missing(&self, batch: &RecordBatch, unit: &UnitBatch, reasons: &mut Reasons) {
        let column = self.array(batch);
        let mut have = unit.rows.iter().copied().peekable();
        for row in 0..batch.num_rows() {
            if have.next_if_eq(&(row as u32)).is_some() {
                continue;
            }
            let why = if column.is_null(row) { "null" } else { "not finite, or zero" };
            reasons.add(batch, row, why);
        }
    }

    fn array<'b>(&self, batch: &'b RecordBatch) -> &'b ArrayRef {
        batch.column_by_name(self.name).expect("the table has the column, and it was asked for")
    }

    fn vectors(&self, batch: &RecordBatch, dim: Option<usize>) -> Result<Vectors, Error> {
        Vectors::of(self.array(batch), dim).map_err(|problem| {
            self.table.wrong_type(self.name, format!("{problem}: all must be of one length"))
        })
    }
}
