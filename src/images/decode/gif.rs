//! GIF: the first frame on its canvas.
//!
//! The canvas that the frame does not cover shows the frame's transparent colour, or else
//! colour 0; it is not the background colour. That is what Pillow does.

use gif::{ColorOutput, DecodeOptions, DecodingError, Frame, MemoryLimit};

use super::convert::Palette;
use super::{Gate, io_error, truncated, undecodable};
use crate::batch::ImageFormat;
use crate::error::RowError;
use crate::images::resize::Rgb;

/// The first frame.
pub fn decode(bytes: &[u8], gate: &mut Gate<'_>) -> Result<Rgb, RowError> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(MemoryLimit::Unlimited);
    let mut decoder = options.read_info(bytes).map_err(|error| damaged(&error))?;
    let screen = (decoder.width(), decoder.height());
    let frame = decoder.next_frame_info().map_err(|error| damaged(&error))?;
    let frame = frame.ok_or_else(truncated)?;
    // A frame may stick out of the screen, which then grows.
    let width = u32::from(screen.0).max(u32::from(frame.left) + u32::from(frame.width));
    let height = u32::from(screen.1).max(u32::from(frame.top) + u32::from(frame.height));
    gate.admit(width, height, ImageFormat::Gif)?;
    let frame = Frame { buffer: Default::default(), ..frame.clone() };
    let mut indices = vec![0; decoder.buffer_size()];
    decoder.read_into_buffer(&mut indices).map_err(|error| damaged(&error))?;
    let palette = palette(&frame, decoder.global_palette());
    let (width, height) = (width as usize, height as usize);
    let canvas = on_canvas(&frame, &indices, (width, height));
    Ok(Rgb { width, height, data: palette.paint(&canvas) })
}

fn on_canvas(frame: &Frame<'_>, indices: &[u8], (width, height): (usize, usize)) -> Vec<u8> {
    let mut canvas = vec![frame.transparent.unwrap_or(0); width * height];
    let rows = indices.chunks_exact(usize::from(frame.width).max(1));
    let lines = canvas.chunks_exact_mut(width).skip(usize::from(frame.top));
    for (row, line) in rows.zip(lines) {
        line[usize::from(frame.left)..][..row.len()].copy_from_slice(row);
    }
    canvas
}

/// The frame's own colours, or those of the file.
fn palette(frame: &Frame<'_>, global: Option<&[u8]>) -> Palette {
    let colours = frame.palette.as_deref().or(global).unwrap_or_default();
    let is_gray =
        |(level, rgb): (usize, &[u8; 3])| rgb.iter().all(|value| usize::from(*value) == level);
    // Pillow takes a palette of gray levels in order for no palette at all, so that indices
    // past its end are gray too.
    let mut palette = match colours.as_chunks::<3>().0.iter().enumerate().all(is_gray) {
        true => Palette::gray(),
        false => Palette::from_rgb(colours),
    };
    if let Some(index) = frame.transparent {
        palette.0[usize::from(index)][3] = 0;
    }
    palette
}

fn damaged(error: &DecodingError) -> RowError {
    match error {
        DecodingError::UnexpectedEof => truncated(),
        DecodingError::Io(error) => io_error(error),
        _ => undecodable(error.to_string()),
    }
}
