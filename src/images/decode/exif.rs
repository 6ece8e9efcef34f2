//! EXIF orientation: reads it as Pillow does and turns the image as `ImageOps.exif_transpose`.
//!
//! Nothing else of EXIF is read. Whether it is applied is the pipeline's choice (`exif = ...`);
//! TIFF images are always turned, because Pillow turns them when it loads them.

use super::tiff_data::Ifd;
use crate::images::resize::Rgb;

/// EXIF's orientation tag.
pub const ORIENTATION: u16 = 0x0112;

/// The orientation, 1 to 8, of an EXIF block (with or without its `Exif\0\0`), else of XMP.
pub fn orientation(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> u32 {
    exif.and_then(from_exif).or_else(|| xmp.and_then(from_xmp)).unwrap_or(1)
}

fn from_exif(mut exif: &[u8]) -> Option<u32> {
    // Some writers put the prefix twice, and Pillow strips both.
    for _ in 0..2 {
        exif = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    }
    Ifd::first(exif)?.number(ORIENTATION)
}

/// Pillow's regular expression: `tiff:Orientation(="|>)([0-9])`.
fn from_xmp(xmp: &[u8]) -> Option<u32> {
    const KEY: &[u8] = b"tiff:Orientation";
    let places = xmp.windows(KEY.len()).enumerate().filter(|(_, window)| *window == KEY);
    places.map(|(at, _)| &xmp[at + KEY.len()..]).find_map(|rest| match rest {
        [b'=', b'"', digit, ..] | [b'>', digit, ..] if digit.is_ascii_digit() => {
            Some(u32::from(digit - b'0'))
        }
        _ => None,
    })
}

/// Turns or mirrors the image so that it is upright. Unknown orientations change nothing.
pub fn orient(image: Rgb, orientation: u32) -> Rgb {
    let (w, h) = (image.width, image.height);
    match orientation {
        2 => mapped(&image, (w, h), |x, y| (w - 1 - x, y)),
        3 => mapped(&image, (w, h), |x, y| (w - 1 - x, h - 1 - y)),
        4 => mapped(&image, (w, h), |x, y| (x, h - 1 - y)),
        5 => mapped(&image, (h, w), |x, y| (y, x)),
        6 => mapped(&image, (h, w), |x, y| (y, h - 1 - x)),
        7 => mapped(&image, (h, w), |x, y| (w - 1 - y, h - 1 - x)),
        8 => mapped(&image, (h, w), |x, y| (w - 1 - y, x)),
        _ => image,
    }
}

/// An image of that width and height; `from` gives the source of each pixel.
fn mapped(
    image: &Rgb,
    (width, height): (usize, usize),
    from: impl Fn(usize, usize) -> (usize, usize),
) -> Rgb {
    let pixels = image.data.as_chunks::<3>().0;
    let mut data = Vec::with_capacity(image.data.len());
    for y in 0..height {
        for x in 0..width {
            let (from_x, from_y) = from(x, y);
            data.extend(pixels[from_y * image.width + from_x]);
        }
    }
    Rgb { width, height, data }
}
