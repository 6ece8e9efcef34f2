//! From encoded bytes to u8 RGB, as `convert_to_rgb` of transformers 5.23 over Pillow 13 gives.
//!
//! Each format has its file: JPEG through `baseline` and libjpeg-turbo, PNG, WebP and GIF through
//! crates that were found to give Pillow's samples, BMP and TIFF here. Pillow's arithmetic between its modes
//! is in `convert`. Colour profiles are ignored, as Pillow ignores them. A damaged or truncated
//! image is an error, never a partly filled picture.

mod baseline;
mod bmp;
mod bmp_rle;
mod convert;
mod exif;
mod gif;
mod jpeg;
mod png;
mod tiff;
mod tiff_chunks;
mod tiff_data;
mod turbo;
mod webp;

use std::io;
use std::sync::Arc;

use super::budget::{Budget, Permit};
use super::resize::{Region, Rgb};
use crate::batch::{ImageFormat, ImageInfo};
use crate::contain::contain;
use crate::error::{RowError, RowStatus};
use crate::spec::{ExifSpec, PreprocessSpec};

/// No side may be longer: it is JPEG's and WebP's limit, and an i32 holds three times its square.
const MAX_SIDE: u32 = 65_535;

/// Bytes that a decoder may hold for a pixel: 16-bit RGBA as it is read, as 8 bits, and as RGB.
pub const DECODER_BYTES_A_PIXEL: u64 = 8 + 4 + 3;

/// What is wanted of an image.
pub struct Request<'a> {
    pub spec: &'a PreprocessSpec,
    /// Of an image of that width and height, the pixels that will be read. A decoder may leave
    /// out the others.
    pub region: &'a dyn Fn(usize, usize) -> Region,
    /// Memory that the pixels may take; what is in it does not matter.
    pub scratch: Vec<u8>,
    /// What the memory for decoding is taken out of, and where the permit is put: the pixels are
    /// still needed when decoding is over.
    pub budget: &'a Arc<Budget>,
    pub permit: &'a mut Option<Permit>,
    /// Called when the permit is there: waiting for it is not decoding.
    pub on_permit: &'a dyn Fn(),
}

/// Decodes an image of any format that clipmill reads; the format is told from the bytes.
///
/// Gives what the header says as soon as it is read, and the pixels or why there are none:
/// `image_too_large`, `image_truncated`, `image_undecodable` or `decoder_panic`.
pub fn decode(bytes: &[u8], request: Request<'_>) -> (Option<ImageInfo>, Result<Rgb, RowError>) {
    let mut gate = Gate { request, info: None };
    // A defect in a decoder must cost a row, not the run.
    let decoded = contain(|| dispatch(bytes, &mut gate));
    let decoded = decoded.unwrap_or_else(|| {
        Err(RowError::new(RowStatus::DecoderPanic, "the decoder panicked on these bytes"))
    });
    (gate.info, decoded)
}

fn dispatch(bytes: &[u8], gate: &mut Gate<'_>) -> Result<Rgb, RowError> {
    let (rgb, orientation) = match bytes {
        [0xff, 0xd8, 0xff, ..] => jpeg::decode(bytes, gate)?,
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => png::decode(bytes, gate)?,
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => {
            webp::decode(bytes, gate)?
        }
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => (gif::decode(bytes, gate)?, 1),
        [b'B', b'M', ..] => (bmp::decode(bytes, gate)?, 1),
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => tiff::decode(bytes, gate)?,
        [] => return Err(undecodable("the file is empty")),
        _ => return Err(undecodable("not a JPEG, PNG, WebP, GIF, BMP or TIFF image")),
    };
    Ok(exif::orient(rgb, orientation))
}

/// Holds the limits against an image's header before memory is taken for its pixels.
pub(crate) struct Gate<'a> {
    request: Request<'a>,
    info: Option<ImageInfo>,
}

impl Gate<'_> {
    /// Takes down what the header says.
    ///
    /// # Errors
    /// `image_too_large` over the limits, `image_undecodable` for a side of 0.
    fn admit(&mut self, width: u32, height: u32, format: ImageFormat) -> Result<(), RowError> {
        self.info = Some(ImageInfo { width, height, format });
        if width == 0 || height == 0 {
            return Err(undecodable("the header says 0 pixels"));
        }
        let pixels = u64::from(width) * u64::from(height);
        let (short, long) = (width.min(height), width.max(height));
        let spec = self.request.spec;
        if u64::from(long) > u64::from(short) * u64::from(spec.max_aspect_ratio) {
            let most = spec.max_aspect_ratio;
            let message = format!(
                "{width} x {height}: one side is over {most} times the other (max_aspect_ratio)"
            );
            return Err(RowError::new(RowStatus::ImageTooLarge, message));
        }
        if pixels > spec.max_pixels || long > MAX_SIDE {
            let most = spec.max_pixels;
            let limit = format!("{most} pixels (max_pixels) and {MAX_SIDE} a side");
            let message = format!("{width} x {height} is over the limit of {limit}");
            return Err(RowError::new(RowStatus::ImageTooLarge, message));
        }
        // A second look at the same image must not wait for the first one's permit.
        *self.request.permit = None;
        *self.request.permit = Some(self.request.budget.take(pixels * bytes_a_pixel(format)));
        (self.request.on_permit)();
        Ok(())
    }

    /// Whether photos are turned as their EXIF orientation says.
    fn applies_exif(&self) -> bool {
        self.request.spec.exif == ExifSpec::Apply
    }

    /// The pixels that will be read of an image of that width and height.
    fn region(&self, width: usize, height: usize) -> Region {
        match self.applies_exif() {
            // Which they are is known once it is turned.
            true => Region::whole(width, height),
            false => (self.request.region)(width, height),
        }
    }

    /// Memory for the pixels.
    fn take_scratch(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.request.scratch)
    }

    /// The most bytes that a decoder may take for `samples` a pixel, and some for its own.
    fn memory(&self, samples: u64) -> u64 {
        let info = self.info.expect("`admit` came first");
        u64::from(info.width) * u64::from(info.height) * samples + (16 << 20)
    }
}

/// Bytes that decoding may take for each pixel of an image.
fn bytes_a_pixel(format: ImageFormat) -> u64 {
    match format {
        // Four inks and RGB; of a progressive file every coefficient is kept, in 16 bits.
        ImageFormat::Jpeg => 2 * 3 + 4 + 3,
        _ => DECODER_BYTES_A_PIXEL,
    }
}

fn undecodable(message: impl Into<String>) -> RowError {
    RowError::new(RowStatus::ImageUndecodable, message)
}

fn truncated() -> RowError {
    RowError::new(RowStatus::ImageTruncated, "the file ends before the image does")
}

/// Truncated if the decoder ran out of bytes, else damaged.
fn io_error(error: &io::Error) -> RowError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => truncated(),
        _ => undecodable(error.to_string()),
    }
}
