//! Which images of a batch are the same, so that each is encoded once.
//!
//! Tables with several captions an image, and crawls with the same picture under many addresses,
//! are full of them. Captions are told apart by the family's own packing.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use crate::batch::Pixels;

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
        let of_slot = (0..pixels.rows.len()).map(|slot| {
            let image = image(pixels, slot);
            let alike = alike.entry(sample(image)).or_default();
            let same = |index: &&usize| self::image(pixels, slots[**index]) == image;
            if let Some(index) = alike.iter().find(same) {
                return *index;
            }
            let index = slots.len();
            alike.push(index);
            slots.push(slot);
            index
        });
        let of_slot = of_slot.collect();
        Self { pixels, slots, of_slot }
    }

    /// The pixels of a run of distinct images, one after the other: where they lie, if they lie
    /// together.
    pub fn run(&self, run: Range<usize>) -> Cow<'a, [u8]> {
        let slots = &self.slots[run];
        let bytes = n_bytes(self.pixels);
        match slots {
            [first, ..] if slots.iter().enumerate().all(|(at, slot)| first + at == *slot) => {
                self.pixels.data[first * bytes..(first + slots.len()) * bytes].into()
            }
            _ => {
                let images = slots.iter().map(|&slot| image(self.pixels, slot));
                images.collect::<Vec<_>>().concat().into()
            }
        }
    }
}

fn n_bytes(pixels: &Pixels) -> usize {
    pixels.height * pixels.width * 3
}

fn image(pixels: &Pixels, slot: usize) -> &[u8] {
    &pixels.data[slot * n_bytes(pixels)..][..n_bytes(pixels)]
}

/// Bytes from all over an image.
fn sample(image: &[u8]) -> [u8; 64] {
    std::array::from_fn(|index| image.get(index * image.len() / 64).copied().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images of 2 x 2 pixels, filled with a number each.
    fn pixels(numbers: &[u8]) -> Pixels {
        let data = numbers.iter().flat_map(|number| [*number; 12]).collect();
        let rows = (0..numbers.len() as u32).map(|slot| slot * 2).collect();
        Pixels { data, height: 2, width: 2, rows }
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
