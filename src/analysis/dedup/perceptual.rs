//! Rows whose perceptual hashes differ in a few bits.
//!
//! All such pairs are found. The 64 bits are cut into blocks; hashes that differ in `d` bits
//! differ in at most `d` blocks and agree in all others, so for each choice of those others the
//! hashes are sorted by them, and only within equal ones compared (Manku, Jain and Das Sarma 2007,
//! "Detecting Near-Duplicates for Web Crawling"). How many blocks is chosen by how many hashes
//! there are.
//!
//! Held in memory: 16 bytes a row.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, UInt64Type};
use rayon::slice::ParallelSliceMut;

use super::Found;
use super::groups::Groups;
use crate::analysis::Reasons;
use crate::error::Error;
use crate::table::Table;

/// The most bits that may differ: of unlike pictures half of 64 do, give or take eight.
pub const MOST: u32 = 16;

/// A hash and the row it is of.
type Hashed = (u64, u32);

/// Joins the rows whose hashes differ in at most `distance` bits.
pub fn join(
    table: &Table,
    (column, distance): (&str, u32),
    found: &mut Found,
) -> Result<Reasons, Error> {
    let mut missing = Reasons::default();
    let mut hashes: Vec<Hashed> = Vec::with_capacity(table.rows() as usize);
    let columns = super::with_status(table, column);
    table.scan(&columns, |first, batch| {
        for row in 0..batch.num_rows() {
            match hash(batch, column, row) {
                Some(hash) => {
                    let row = (first + row as u64) as u32;
                    hashes.push((hash, row));
                    found.has_key(row);
                }
                None => missing.add(batch, row, "null"),
            }
        }
        Ok(())
    })?;
    join_near(hashes, distance, &mut found.groups);
    Ok(missing)
}

/// Whether a column of that type can hold 64 bits.
pub fn is_hash(data_type: &DataType) -> bool {
    matches!(data_type, DataType::UInt64 | DataType::Int64)
}

fn hash(batch: &RecordBatch, column: &str, row: usize) -> Option<u64> {
    let values = batch.column_by_name(column).expect("it was asked for");
    match values.data_type() {
        _ if values.is_null(row) => None,
        DataType::UInt64 => Some(values.as_primitive::<UInt64Type>().value(row)),
        // The same bits: there are tables that have no unsigned numbers.
        DataType::Int64 => Some(values.as_primitive::<Int64Type>().value(row).cast_unsigned()),
        _ => None,
    }
}

fn join_near(mut hashes: Vec<Hashed>, distance: u32, groups: &mut Groups) {
    hashes.par_sort_unstable();
    hashes.dedup_by(|row, first| {
        let is_same = row.0 == first.0;
        if is_same {
            groups.join(first.1, row.1);
        }
        is_same
    });
    if distance == 0 {
        return;
    }
    let blocks = blocks(hashes.len(), distance);
    for mask in masks(blocks, distance) {
        hashes.par_sort_unstable_by_key(|(hash, row)| (hash & mask, *row));
        for alike in hashes.chunk_by(|a, b| a.0 & mask == b.0 & mask) {
            for (at, (hash, row)) in alike.iter().enumerate() {
                for (other, other_row) in &alike[at + 1..] {
                    if (hash ^ other).count_ones() <= distance {
                        groups.join(*row, *other_row);
                    }
                }
            }
        }
    }
}

/// Into how many blocks the bits are cut, so that sorting and comparing together cost least.
fn blocks(n: usize, distance: u32) -> u32 {
    let n = n.max(2) as f64;
    let cost = |blocks: u32| {
        let tables = (1..=distance)
            .fold(1.0, |product, i| product * f64::from(blocks - distance + i) / f64::from(i));
        let bits = 64.0 * f64::from(blocks - distance) / f64::from(blocks);
        // A step of sorting takes a few times as long as a comparison.
        tables * n * (4.0 * n.log2() + n / bits.exp2())
    };
    let choices = (distance + 1..=distance + 4).min_by(|a, b| cost(*a).total_cmp(&cost(*b)));
    choices.expect("there are four")
}

/// For every choice of `distance` of the blocks, the bits of the others.
fn masks(blocks: u32, distance: u32) -> Vec<u64> {
    let edge = |block: u32| block * 64 / blocks;
    let bits = |block: u32| (edge(block)..edge(block + 1)).fold(0u64, |mask, bit| mask | 1 << bit);
    (0u64..1 << blocks)
        .filter(|choice| choice.count_ones() == distance)
        .map(|choice| {
            let kept = (0..blocks).filter(|block| choice >> block & 1 == 0);
            kept.fold(0, |mask, block| mask | bits(block))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::random::Random;

    #[test]
    fn no_pair_is_missed_and_none_is_made_up() {
        let mut random = Random::new(3);
        let mut hashes: Vec<Hashed> = (0..600).map(|row| (random.bits(), row)).collect();
        // Copies with up to eight bits turned, and copies of copies.
        for row in 600..1500 {
            let (from, _) = hashes[random.below(hashes.len())];
            let turned = (0..random.below(9)).fold(from, |hash, _| hash ^ 1 << random.below(64));
            hashes.push((turned, row));
        }
        for distance in [0, 1, 3, 4, 8] {
            let mut expected = Groups::new(1500);
            for (a, row) in &hashes {
                for (b, other) in &hashes {
                    if (a ^ b).count_ones() <= distance {
                        expected.join(*row, *other);
                    }
                }
            }
            let mut groups = Groups::new(1500);
            join_near(hashes.clone(), distance, &mut groups);
            assert_eq!(groups.into_roots(), expected.into_roots(), "{distance}");
        }
    }

    #[test]
    fn the_masks_are_every_choice_of_blocks() {
        for (blocks, distance, n) in [(5, 4, 5), (6, 4, 15), (3, 1, 3), (20, 16, 4845)] {
            let masks = masks(blocks, distance);
            assert_eq!(masks.len(), n);
            assert!(masks.iter().all(|mask| mask.count_ones() > 0));
        }
        assert!(
            (1..=MOST).all(|distance| (1..=4).contains(&(blocks(1_000_000, distance) - distance)))
        );
    }
}
