//! WebP: lossy, lossless, alpha and the first frame of an animation, through `image-webp`.
//!
//! Its pixels are libwebp's, fancy upsampling included, on every file of `tests/pixels.rs`.

use std::io::Cursor;

use image_webp::{DecodingError, WebPDecoder};

use super::{Gate, convert, exif, io_error, truncated, undecodable};
use crate::batch::ImageFormat;
use crate::error::RowError;
use crate::images::resize::Rgb;

/// The image (the first frame of an animation on its canvas) and its EXIF orientation.
pub fn decode(bytes: &[u8], gate: &mut Gate<'_>) -> Result<(Rgb, u32), RowError> {
    // The decoder reads what it needs; a file that is shorter than it says is cut off.
    let stated = bytes[4..].first_chunk().map_or(0, |size| u32::from_le_bytes(*size));
    if (bytes.len() as u64) < u64::from(stated) + 8 {
        return Err(truncated());
    }
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|error| damaged(&error))?;
    let (width, height) = decoder.dimensions();
    gate.admit(width, height, ImageFormat::Webp)?;
    decoder.set_memory_limit(gate.memory(8) as usize);
    let size = decoder.output_buffer_size().ok_or_else(|| undecodable("too many bytes"))?;
    let mut data = vec![0; size];
    decoder.read_image(&mut data).map_err(|error| damaged(&error))?;
    if decoder.has_alpha() {
        data = convert::each::<4>(&data, convert::on_white);
    }
    let mut orientation = 1;
    if gate.applies_exif() {
        let exif = decoder.exif_metadata().ok().flatten();
        let xmp = decoder.xmp_metadata().ok().flatten();
        orientation = exif::orientation(exif.as_deref(), xmp.as_deref());
    }
    Ok((Rgb { width: width as usize, height: height as usize, data }, orientation))
}

fn damaged(error: &DecodingError) -> RowError {
    match error {
        DecodingError::IoError(error) => io_error(error),
        _ => undecodable(error.to_string()),
    }
}
