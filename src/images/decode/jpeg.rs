//! JPEG as libjpeg-turbo decodes it, which is what Pillow decodes with: plain files by a faster
//! decoder of clipmill's own with the same pixels (`baseline`), all others, and whatever that one
//! finds odd, by libjpeg-turbo itself, which alone says what is wrong with a file.
//!
//! libjpeg fills in what a damaged file lacks and calls it a warning; here a warning is an
//! error, except for stray bytes before the end marker, which lose no pixel. A missing end
//! marker is an error to Pillow too.

use std::cell::RefCell;

use super::baseline::{self, Baseline};
use super::turbo::{Colorspace, Decompressor, Jpeg, PixelFormat};
use super::{Gate, convert, exif, truncated, undecodable};
use crate::batch::ImageFormat;
use crate::error::RowError;
use crate::images::resize::{Region, Rgb};

thread_local! {
    /// The faster one, for plain files. `None` if it is not faster on this machine.
    static PLAIN: RefCell<Option<baseline::Decoder>> = RefCell::new(baseline::Decoder::best());
}

/// More scans than any encoder writes: a small file of many scans takes minutes (CVE-2018-11813).
const MAX_SCANS: u32 = 500;

/// The end-of-image marker.
const END: [u8; 2] = [0xff, 0xd9];

/// The image and its EXIF orientation (1 unless the pipeline applies it).
pub fn decode(bytes: &[u8], gate: &mut Gate<'_>) -> Result<(Rgb, u32), RowError> {
    let markers = Markers::read(bytes);
    let mut read = |bytes: &[u8]| {
        pixels(bytes, &markers, |width, height| {
            gate.admit(width as u32, height as u32, ImageFormat::Jpeg)?;
            Ok((gate.region(width, height), gate.take_scratch()))
        })
    };
    let (rgb, _) = read(bytes).or_else(|error| match markers.tidied(bytes, &error.message) {
        Some(tidied) => read(&tidied).map_err(|_| error),
        // libjpeg takes the end of the file for an end marker, and then misses the scan.
        None if error.message.contains("missing SOS") && !bytes.ends_with(&END) => Err(truncated()),
        None => Err(error),
    })?;
    let orientation = match gate.applies_exif() {
        true => exif::orientation(markers.exif.as_deref(), markers.xmp),
        false => 1,
    };
    Ok((rgb, orientation))
}

/// One strip or tile of a TIFF, and whether it is stored as RGB, gray or YCbCr.
///
/// # Errors
/// `image_undecodable` if it is not of that width and height.
pub fn decode_part(bytes: &[u8], size: (usize, usize)) -> Result<(Rgb, Colorspace), RowError> {
    if !bytes.starts_with(&[0xff, 0xd8]) {
        return Err(undecodable("no JPEG data in a JPEG-compressed TIFF"));
    }
    pixels(bytes, &Markers::read(bytes), |width, height| match (width, height) {
        found if found == size => Ok((Region::whole(width, height), Vec::new())),
        _ => Err(undecodable("JPEG data of another size in a TIFF")),
    })
}

/// The pixels as RGB and what they were stored as. `admit` has its say on width and height
/// before memory is taken for them, and names the pixels that matter and memory to use again.
fn pixels(
    bytes: &[u8],
    markers: &Markers<'_>,
    admit: impl FnOnce(usize, usize) -> Result<(Region, Vec<u8>), RowError>,
) -> Result<(Rgb, Colorspace), RowError> {
    let admitted = match Baseline::read(bytes).filter(|_| PLAIN.with_borrow(Option::is_some)) {
        Some(jpeg) => {
            let (region, data) = admit(jpeg.width, jpeg.height)?;
            match decode_plain(&jpeg, &region, data) {
                Ok(decoded) => return Ok(decoded),
                // There is something about its scan, which libjpeg has to judge.
                Err(data) => Ok((region, data)),
            }
        }
        None => Err(admit),
    };
    // A new one each time: it keeps the tables of the last file for one that has none.
    let mut decompressor = Decompressor::new(MAX_SCANS).map_err(damaged)?;
    let jpeg = decompressor.header(bytes).map_err(damaged)?;
    if markers.components == 0 {
        // Tables alone, of which the library says what it knew of the last image.
        return Err(undecodable("a JPEG without an image"));
    }
    let admitted = admitted.or_else(|admit| admit(jpeg.width, jpeg.height))?;
    let rgb = decompress(&mut decompressor, &jpeg, markers, admitted)?;
    Ok((rgb, jpeg.colorspace))
}

/// Gives back the memory if the file is not plain after all.
fn decode_plain(
    jpeg: &Baseline<'_>,
    region: &Region,
    mut data: Vec<u8>,
) -> Result<(Rgb, Colorspace), Vec<u8>> {
    let (width, height) = (jpeg.width, jpeg.height);
    data.resize(width * height * 3, 0);
    let decode = |decoder: &mut Option<baseline::Decoder>| {
        decoder.as_mut().and_then(|decoder| decoder.decode(jpeg, region, &mut data))
    };
    if PLAIN.with_borrow_mut(decode).is_none() {
        return Err(data);
    }
    let colorspace = if jpeg.is_gray() { Colorspace::Gray } else { Colorspace::YCbCr };
    Ok((Rgb { width, height, data }, colorspace))
}

fn decompress(
    decompressor: &mut Decompressor,
    jpeg: &Jpeg<'_>,
    markers: &Markers<'_>,
    (region, mut data): (Region, Vec<u8>),
) -> Result<Rgb, RowError> {
    let format = match (markers.components, jpeg.colorspace) {
        (1 | 3, _) => PixelFormat::Rgb,
        (4, Colorspace::Cmyk | Colorspace::Ycck) => PixelFormat::Cmyk,
        (components, _) => return Err(undecodable(format!("a JPEG of {components} components"))),
    };
    let (width, height) = (jpeg.width, jpeg.height);
    // Whatever an earlier image left outside of the region is never read.
    data.resize(width * format.size() * height, 0);
    if let Err(message) = decompressor.decode(jpeg, &region, format, &mut data)
        && !markers.lost_nothing(&message)
    {
        return Err(damaged(message));
    }
    if format == PixelFormat::Cmyk {
        // Adobe stores inks inverted, and Pillow assumes that everyone does.
        data = convert::each::<4>(&data, |inks| convert::cmyk(inks.map(|ink| 255 - ink)));
    }
    Ok(Rgb { width, height, data })
}

fn damaged(message: String) -> RowError {
    match message.contains("Premature end of JPEG file") {
        true => truncated(),
        false => undecodable(format!("damaged JPEG ({message})")),
    }
}

/// What the segments before the first scan say.
#[derive(Default)]
struct Markers<'a> {
    components: u8,
    restarts: bool,
    /// The segments up to the first scan, markers included, without colour profiles.
    segments: Vec<&'a [u8]>,
    /// Where the first scan's marker is.
    scan: Option<usize>,
    exif: Option<Vec<u8>>,
    xmp: Option<&'a [u8]>,
}

impl<'a> Markers<'a> {
    /// Stops without complaint where the segments do: libjpeg says what is wrong.
    fn read(bytes: &'a [u8]) -> Self {
        let mut markers = Self::default();
        let mut rest = &bytes[2..];
        while let [first, tail @ ..] = rest {
            // Fill bytes, and stray ones, may stand before a marker.
            let (0xff, [code @ 1..=0xfe, tail @ ..]) = (*first, tail) else {
                rest = tail;
                continue;
            };
            rest = tail;
            if matches!(code, 0x01 | 0xd0..=0xd8) {
                continue;
            }
            let start = bytes.len() - tail.len() - 2;
            let Some((segment, after)) = segment(tail) else { break };
            if *code == 0xda {
                markers.scan = Some(start);
            } else if !segment.starts_with(b"ICC_PROFILE\0") {
                markers.segments.push(&bytes[start..bytes.len() - after.len()]);
            }
            match code {
                0xc4 | 0xc8 | 0xcc => {}
                0xc0..=0xcf => {
                    markers.components = segment.get(5).copied().unwrap_or(0);
                }
                0xdd => markers.restarts = segment != [0, 0],
                0xe1 => markers.app1(segment),
                0xda | 0xd9 => break,
                _ => {}
            }
            rest = after;
        }
        markers
    }

    fn app1(&mut self, segment: &'a [u8]) {
        const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
        if let Some(more) = segment.strip_prefix(b"Exif\0\0") {
            // A long EXIF block goes on in the next segment.
            self.exif.get_or_insert_default().extend(more);
        } else if let Some(xmp) = segment.strip_prefix(XMP) {
            self.xmp = Some(xmp);
        }
    }

    /// The file without what libjpeg warned of, if it cannot touch a pixel: stray bytes between
    /// the segments before the first scan, and colour profiles in the wrong number of pieces.
    fn tidied(&self, bytes: &[u8], warning: &str) -> Option<Vec<u8>> {
        let harmless = warning.contains("bad ICC marker") || warning.contains("extraneous bytes");
        let scan = self.scan.filter(|_| harmless)?;
        Some([&[0xff, 0xd8], self.segments.concat().as_slice(), &bytes[scan..]].concat())
    }

    /// Whether libjpeg's warning came after every pixel was there. Only its first is known, so
    /// with restart markers, where it skips and goes on, there may be worse behind it.
    fn lost_nothing(&self, warning: &str) -> bool {
        warning.contains("extraneous bytes before marker 0xd9") && !self.restarts
    }
}

/// A segment's content and what follows it, from its length on.
fn segment(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = bytes.first_chunk::<2>().map(|length| u16::from_be_bytes(*length))?;
    bytes.split_at_checked(usize::from(length))?.0.get(2..).zip(bytes.get(usize::from(length)..))
}
