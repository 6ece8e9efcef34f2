//! Which images of a batch are the same, so that each is encoded once.
//!
//! Tables with several captions an image, and crawls with the same picture under many addresses,
//! are full of them. Those with a grid of their own come in the order of their length, so that few
//! runs of equal ones are needed. Captions are told apart by the family's own packing.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use crate::batch::{Grid, Pixels};

/// The images of a batch without repetitions.
pub(super) struct Distinct<'a> {
    pixels: &'a Pixels,
    /// The slot of each distinct image.
    pub slots: Vec<usize>,
    /// The index into `slots` of each image.
    pub of_slot: Vec<usize>,
}

impl<'a> Distinct<'a> {
    /// Compares whole images only where a sample of their bytes is the same.
    pub fn of(pixels: &'a Pixels) -> Self {
        let mut slots: Vec<usize> = Vec::new();
        let mut alike: HashMap<[u8; 64], Vec<usize>> = HashMap::new();
        let mut of_slot = vec![0; pixels.rows.len()];
        for slot in by_length(pixels) {
            let (image, grid) = (pixels.image(slot), pixels.grid(slot));
            let alike = alike.entry(sample(image)).or_default();
            let same = |index: &&usize| {
                let other = slots[**index];
                pixels.grid(other) == grid && pixels.image(other) == image
            };
            of_slot[slot] = match alike.iter().find(same) {
                Some(index) => *index,
                None => {
                    alike.push(slots.len());
                    slots.push(slot);
                    slots.len() - 1
                }
            };
        }
        Self { pixels, slots, of_slot }
    }

    /// The pixels of a run of distinct images, one after the other: where they lie, if they lie
    /// together.
    pub fn run(&self, run: Range<usize>) -> Cow<'a, [u8]> {
        let slots = &self.slots[run];
        let bytes = self.pixels.shape.n_bytes();
        let whole = |slot: usize| self.pixels.image(slot).len() == bytes;
        let mut places = slots.iter().enumerate();
        match slots {
            [first, ..] if places.all(|(at, &slot)| first + at == slot && whole(slot)) => {
                self.pixels.data[first * bytes..(first + slots.len()) * bytes].into()
            }
            _ => {
                let images = slots.iter().map(|&slot| self.pixels.image(slot));
                images.collect::<Vec<_>>().concat().into()
            }
        }
    }

    /// The grids of a run of distinct images; none where images are whole.
    pub fn grids(&self, run: Range<usize>) -> Vec<Grid> {
        self.slots[run].iter().filter_map(|&slot| self.pixels.grid(slot)).collect()
    }
}

/// The slots in the order of their images' patches, those of one grid together; as they are where
/// images are whole.
fn by_length(pixels: &Pixels) -> Vec<usize> {
    let mut slots: Vec<usize> = (0..pixels.rows.len()).collect();
    slots.sort_by_key(|&slot| pixels.grid(slot).map(|grid| (grid.patches(), grid.rows)));
    slots
}

/// Bytes from all over an image.
fn sample(image: &[u8]) -> [u8; 64] {
    std::array::from_fn(|index| image.get(index * image.len() / 64).copied().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::ImageShape;

    /// Images of 2 x 2 pixels, filled with a number each.
    fn pixels(numbers: &[u8]) -> Pixels {
        let data = numbers.iter().flat_map(|number| [*number; 12]).collect();
        let rows = (0..numbers.len() as u32).map(|slot| slot * 2).collect();
        Pixels { data, shape: ImageShape::square(2), rows, ..Pixels::default() }
    }

    #[test]
    fn the_same_image_is_there_once() {
        let pixels = pixels(&[7, 9, 7, 8, 9]);
        let distinct = Distinct::of(&pixels);
        assert_eq!(distinct.slots, [0, 1, 3]);
        assert_eq!(distinct.of_slot, [0, 1, 0, 2, 1]);
        let together = [[7; 12], [9; 12]].concat();
        assert_eq!(*distinct.run(0..2), together);
        assert_eq!(*distinct.run(1..3), [[9; 12], [8; 12]].concat());
        assert!(matches!(distinct.run(0..2), Cow::Borrowed(_)));
    }

    /// Up to 3 patches of one pixel each.
    #[test]
    fn the_same_bytes_on_another_grid_are_another_image() {
        let grids = [(1, 2), (1, 1), (2, 1), (1, 2), (1, 3)];
        let pixels = Pixels {
            data: vec![7; 45],
            shape: ImageShape::Patches { side: 1, most: 3 },
            grids: grids.map(|(rows, columns)| Grid { rows, columns }).to_vec(),
            rows: (0..5).collect(),
        };
        let distinct = Distinct::of(&pixels);
        assert_eq!(distinct.slots, [1, 0, 2, 4]);
        assert_eq!(distinct.of_slot, [1, 0, 2, 1, 3]);
        assert_eq!((distinct.run(0..2).len(), distinct.run(1..4).len()), (9, 21));
        let lens = distinct.grids(0..4).iter().map(|grid| grid.patches()).collect::<Vec<_>>();
        assert_eq!(lens, [1, 2, 2, 3]);
    }

    #[test]
    fn one_byte_makes_another_image() {
        let mut pixels = pixels(&[7; 40]);
        for (slot, image) in pixels.data.chunks_mut(12).enumerate().skip(1) {
            image[slot % 12] = 8 + (slot / 12) as u8;
        }
        let distinct = Distinct::of(&pixels);
        assert_eq!(distinct.slots.len(), 40);
        assert!(Distinct::of(&Pixels::default()).of_slot.is_empty());
    }
}
