//! PNG: samples from the `png` crate, then Pillow's idea of what they mean.
//!
//! Pillow keeps the high byte of 16-bit colour, saturates 16-bit gray, and compares `tRNS` with
//! the sample after it was widened to 8 bits. That is followed here, odd as some of it is.

use std::io::Cursor;

use png::{
    BitDepth, ColorType, DecodeOptions, Decoder, DecodingError, Limits, Reader, Transformations,
};

use super::convert::{self, Palette};
use super::{Gate, exif, io_error, undecodable};
use crate::batch::ImageFormat;
use crate::error::{RowError, RowStatus};
use crate::images::resize::Rgb;

/// The image (the first frame of an animation) and its EXIF orientation.
pub fn decode(bytes: &[u8], gate: &mut Gate<'_>) -> Result<(Rgb, u32), RowError> {
    const END: &[u8] = b"\0\0\0\0IEND\xae\x42\x60\x82";
    decode_whole(bytes, gate).or_else(|error| match error.status {
        // Pillow does not miss the end chunk if the pixels are all there.
        RowStatus::ImageTruncated => decode_whole(&[bytes, END].concat(), gate).map_err(|_| error),
        _ => Err(error),
    })
}

fn decode_whole(bytes: &[u8], gate: &mut Gate<'_>) -> Result<(Rgb, u32), RowError> {
    let mut options = DecodeOptions::default();
    // Skipping a damaged `tRNS` would change the picture without a word.
    options.set_skip_ancillary_crc_failures(false);
    let mut decoder = Decoder::new_with_options(Cursor::new(bytes), options);
    decoder.set_transformations(Transformations::IDENTITY);
    // A small one may inflate to gigabytes, and nothing reads it.
    decoder.set_ignore_iccp_chunk(true);
    let header = decoder.read_header_info().map_err(|error| damaged(&error))?;
    let (width, height) = (header.width, header.height);
    gate.admit(width, height, ImageFormat::Png)?;
    decoder.set_limits(Limits { bytes: gate.memory(8) as usize });
    let mut reader = decoder.read_info().map_err(|error| damaged(&error))?;
    let size = reader.output_buffer_size().ok_or_else(|| undecodable("too many bytes"))?;
    let mut samples = vec![0; size];
    let frame = reader.next_frame(&mut samples).map_err(|error| damaged(&error))?;
    if (frame.width, frame.height) != (width, height) {
        return Err(undecodable("the first frame does not cover the image"));
    }
    let orientation = match gate.applies_exif() {
        true => orientation(&mut reader),
        false => 1,
    };
    let data = to_rgb(samples, &reader, width as usize)?;
    Ok((Rgb { width: width as usize, height: height as usize, data }, orientation))
}

/// From `eXIf`, else from the XMP text; both may come after the pixels.
fn orientation(reader: &mut Reader<Cursor<&[u8]>>) -> u32 {
    // Pillow too ignores what is wrong behind the pixels.
    let _ = reader.finish();
    let info = reader.info();
    let xmp = info.utf8_text.iter().find(|text| text.keyword == "XML:com.adobe.xmp");
    let xmp = xmp.and_then(|text| text.get_text().ok());
    exif::orientation(info.exif_metadata.as_deref(), xmp.as_ref().map(|text| text.as_bytes()))
}

fn to_rgb(
    samples: Vec<u8>,
    reader: &Reader<Cursor<&[u8]>>,
    width: usize,
) -> Result<Vec<u8>, RowError> {
    use BitDepth::{Eight, Sixteen};
    let info = reader.info();
    let clear = info.trns.as_deref();
    Ok(match (info.color_type, info.bit_depth) {
        (ColorType::Grayscale, Sixteen) => gray16(&samples, clear),
        (ColorType::Grayscale, depth) => gray(&samples, width, depth as usize, clear),
        (ColorType::Rgb, Eight) => match clear {
            None => samples,
            Some(_) => rgb::<3>(&samples, [0, 1, 2], clear),
        },
        (ColorType::Rgb, Sixteen) => rgb::<6>(&samples, [0, 2, 4], clear),
        (ColorType::Indexed, depth) => {
            let colours = info.palette.as_deref().ok_or_else(|| undecodable("no palette"))?;
            let mut palette = Palette::from_rgb(colours);
            for (colour, alpha) in palette.0.iter_mut().zip(clear.unwrap_or_default()) {
                colour[3] = *alpha;
            }
            palette.paint(&convert::unpack(&samples, width, depth as usize))
        }
        (ColorType::GrayscaleAlpha, Eight) => {
            convert::each::<2>(&samples, |[v, a]| convert::on_white([v, v, v, a]))
        }
        (ColorType::GrayscaleAlpha, Sixteen) => {
            convert::each::<4>(&samples, |[v, _, a, _]| convert::on_white([v, v, v, a]))
        }
        (ColorType::Rgba, Eight) => convert::each::<4>(&samples, convert::on_white),
        (ColorType::Rgba, Sixteen) => {
            convert::each::<8>(&samples, |[r, _, g, _, b, _, a, _]| convert::on_white([r, g, b, a]))
        }
        (color, depth) => return Err(undecodable(format!("{color:?} of {depth:?} bits"))),
    })
}

/// Gray of 1 to 8 bits; `clear` is the sample that is transparent.
fn gray(samples: &[u8], width: usize, bits: usize, clear: Option<&[u8]>) -> Vec<u8> {
    let step = if bits == 8 { 1 } else { convert::gray_step(bits) };
    let mut levels = Palette::gray();
    if let Some(clear) = low_bytes(clear).first() {
        // For 1 bit Pillow widens the transparent sample too; for 2 and 4 it does not.
        let clear = if bits == 1 { clear.min(&1) * 255 } else { *clear };
        levels.0[usize::from(clear)][3] = 0;
    }
    let widened: Vec<u8> = convert::unpack(samples, width, bits).iter().map(|v| v * step).collect();
    levels.paint(&widened)
}

fn gray16(samples: &[u8], clear: Option<&[u8]>) -> Vec<u8> {
    let clear = low_bytes(clear).first().copied();
    convert::each::<2>(samples, |sample| {
        let value = convert::gray16(u16::from_be_bytes(sample));
        [if Some(value) == clear { 255 } else { value }; 3]
    })
}

/// The bytes `at` of each `N`, but white where they are the transparent colour.
fn rgb<const N: usize>(samples: &[u8], at: [usize; 3], clear: Option<&[u8]>) -> Vec<u8> {
    let clear = low_bytes(clear);
    convert::each::<N>(samples, |sample| {
        let rgb = at.map(|index| sample[index]);
        if rgb[..] == clear[..] { [255; 3] } else { rgb }
    })
}

/// The low bytes of a `tRNS` of gray or colour: Pillow compares only those. The crate has
/// already dropped the high bytes for depths up to 8.
fn low_bytes(clear: Option<&[u8]>) -> Vec<u8> {
    match clear {
        Some(bytes @ ([_, _] | [_, _, _, _, _, _])) => {
            bytes.iter().skip(1).step_by(2).copied().collect()
        }
        Some(bytes) => bytes.to_vec(),
        None => Vec::new(),
    }
}

fn damaged(error: &DecodingError) -> RowError {
    match error {
        DecodingError::IoError(error) => io_error(error),
        _ => undecodable(error.to_string()),
    }
}
