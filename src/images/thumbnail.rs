//! Small pictures of images for people to look at: fitted into a square, as JPEGs.
//!
//! Decoded within the same limits and in the same way as for a model; resized by area. Which
//! images are shown is not decided here.

use std::sync::Arc;

use super::budget::Budget;
use super::decode::{self, Request};
use super::jpeg_out;
use super::resize::{Filter, Region, Resize, Rgb, Size};
use crate::error::{RowError, RowStatus};
use crate::spec::PreprocessSpec;

/// Decodes encoded bytes and fits the image into a square of `side` pixels. A smaller image stays
/// as it is.
///
/// # Errors
/// Those of decoding.
pub fn thumbnail(bytes: &[u8], spec: &PreprocessSpec, side: usize) -> Result<Rgb, RowError> {
    let mut permit = None;
    let request = Request {
        spec,
        region: &Region::whole,
        scratch: Vec::new(),
        budget: &Arc::new(Budget::new(u64::MAX)),
        permit: &mut permit,
        on_permit: &|| {},
    };
    let (_, decoded) = decode::decode(bytes, request);
    Ok(fit(&decoded?, side))
}

/// An image fitted into a square of `side` pixels; a smaller one is only copied.
pub fn fit(image: &Rgb, side: usize) -> Rgb {
    let long = image.width.max(image.height);
    if long <= side || side == 0 {
        return image.clone();
    }
    let scaled = |n: usize| ((n * side) as f64 / long as f64).round().max(1.0) as usize;
    let to = Size { width: scaled(image.width), height: scaled(image.height) };
    let mut data = vec![0; to.width * to.height * 3];
    Resize::whole(to, Filter::Hamming).apply(image, &mut data, to.width * 3);
    Rgb { width: to.width, height: to.height, data }
}

/// The picture as a JPEG.
///
/// # Errors
/// `image_undecodable`, with the library's message.
pub fn encode(image: &Rgb, quality: u8) -> Result<Vec<u8>, RowError> {
    jpeg_out::jpeg(image, quality)
        .map_err(|message| RowError::new(RowStatus::ImageUndecodable, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_keeps_its_shape_and_comes_back_about_the_same() {
        let (width, height) = (300, 100);
        let pixel = |i: usize| [(i % width * 255 / width) as u8, (i / width * 2) as u8, 128];
        let data = (0..width * height).flat_map(pixel).collect();
        let small = fit(&Rgb { width, height, data }, 90);
        assert_eq!((small.width, small.height, small.data.len()), (90, 30, 90 * 30 * 3));
        let bytes = encode(&small, 90).expect("a JPEG");
        let back = thumbnail(&bytes, &PreprocessSpec::default(), 90).expect("it is read again");
        let off = small.data.iter().zip(&back.data).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(off.is_some_and(|off| off < 24), "{off:?}");
        let tall = Rgb { width: 1, height: 4000, data: vec![7; 12_000] };
        assert_eq!((fit(&tall, 100).width, fit(&tall, 100).height), (1, 100));
    }

    #[test]
    fn bytes_that_are_no_image_have_a_status() {
        let error = thumbnail(b"hello", &PreprocessSpec::default(), 90).expect_err("no image");
        assert_eq!(error.status, RowStatus::ImageUndecodable);
    }
}
