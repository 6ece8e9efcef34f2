//! libjpeg-turbo's decompressor behind safe calls: a header, and the pixels of a region.
//!
//! The crate `turbojpeg` wraps the same library and leaves out the region, which is what spares
//! the work on pixels that the crop throws away. What an error means to a row is not decided
//! here (see `jpeg`).

use std::ffi::{CStr, c_int};

use turbojpeg_sys as raw;

use crate::images::resize::Region;

/// How a JPEG stores colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colorspace {
    Rgb,
    YCbCr,
    Gray,
    Cmyk,
    Ycck,
}

/// What pixels come out as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PixelFormat {
    Rgb,
    Cmyk,
}

impl PixelFormat {
    /// Bytes a pixel.
    pub fn size(self) -> usize {
        match self {
            PixelFormat::Rgb => 3,
            PixelFormat::Cmyk => 4,
        }
    }
}

/// A file, and what it says before its first scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jpeg<'a> {
    bytes: &'a [u8],
    pub width: usize,
    pub height: usize,
    pub colorspace: Colorspace,
    /// Width in pixels of the blocks that are coded together, where a region can be decoded.
    block_width: Option<usize>,
}

/// An instance of the library, for one file: it keeps that file's tables, and after an error in a
/// header the marker it stopped at.
pub struct Decompressor(raw::tjhandle);

/// Pixels within this many of a region's edge depend on chroma outside of it, which smooth
/// upsampling mixes in: two chroma samples of the coarsest subsampling, 4:1:1.
const MARGIN: usize = 8;

impl Decompressor {
    /// A new instance. Refuses files of more than `max_scans` scans.
    ///
    /// # Errors
    /// The library's message.
    pub fn new(max_scans: u32) -> Result<Self, String> {
        // SAFETY: takes a constant and returns a new instance or null.
        let handle = unsafe { raw::tj3Init(raw::TJINIT_TJINIT_DECOMPRESS as c_int) };
        let new = Self(handle);
        if handle.is_null() {
            return Err(new.message());
        }
        // SAFETY: the instance is live.
        let status = unsafe {
            raw::tj3Set(handle, raw::TJPARAM_TJPARAM_SCANLIMIT as c_int, max_scans as c_int)
        };
        new.check(status).map(|()| new)
    }

    /// Reads a file's header.
    ///
    /// # Errors
    /// The library's message, warnings included.
    pub fn header<'a>(&mut self, bytes: &'a [u8]) -> Result<Jpeg<'a>, String> {
        // SAFETY: the instance is live, and the bytes are only read during the call.
        let status = unsafe { raw::tj3DecompressHeader(self.0, bytes.as_ptr(), size(bytes)) };
        self.check(status)?;
        let colorspace = match self.get(raw::TJPARAM_TJPARAM_COLORSPACE) as raw::TJCS {
            raw::TJCS_TJCS_RGB => Colorspace::Rgb,
            raw::TJCS_TJCS_YCbCr => Colorspace::YCbCr,
            raw::TJCS_TJCS_GRAY => Colorspace::Gray,
            raw::TJCS_TJCS_CMYK => Colorspace::Cmyk,
            raw::TJCS_TJCS_YCCK => Colorspace::Ycck,
            other => return Err(format!("an unknown colour space ({other})")),
        };
        let subsampling = usize::try_from(self.get(raw::TJPARAM_TJPARAM_SUBSAMP)).ok();
        // Of a progressive file whose last scans are missing the library smooths the blocks, each
        // by those around it, and begins anew at a region's edge.
        let whole_only = [raw::TJPARAM_TJPARAM_LOSSLESS, raw::TJPARAM_TJPARAM_PROGRESSIVE];
        let whole_only = whole_only.into_iter().any(|what| self.get(what) != 0);
        // Block widths by TJSAMP: 4:4:4, 4:2:2, 4:2:0, gray, 4:4:0, 4:1:1, 4:4:1.
        let width = subsampling.and_then(|index| [8, 16, 16, 8, 8, 32, 8].get(index).copied());
        let side = |what| usize::try_from(self.get(what)).unwrap_or(0);
        Ok(Jpeg {
            bytes,
            width: side(raw::TJPARAM_TJPARAM_JPEGWIDTH),
            height: side(raw::TJPARAM_TJPARAM_JPEGHEIGHT),
            colorspace,
            block_width: width.filter(|_| !whole_only),
        })
    }

    /// Decodes a file into rows of `jpeg.width` pixels. At least the pixels of `wanted` are
    /// written; the rest of `out` is left as it is.
    ///
    /// # Errors
    /// The library's message, warnings included: the pixels may be there all the same.
    pub fn decode(
        &mut self,
        jpeg: &Jpeg<'_>,
        wanted: &Region,
        format: PixelFormat,
        out: &mut [u8],
    ) -> Result<(), String> {
        let whole = Region::whole(jpeg.width, jpeg.height);
        let region = jpeg.region(wanted);
        match self.decode_region(jpeg, &region, format, out) {
            // Sampling factors that the library takes for other ones move its blocks' edges.
            Err(message) if region != whole && message.contains("cropping region") => {
                self.decode_region(jpeg, &whole, format, out)
            }
            done => done,
        }
    }

    fn decode_region(
        &mut self,
        jpeg: &Jpeg<'_>,
        region: &Region,
        format: PixelFormat,
        out: &mut [u8],
    ) -> Result<(), String> {
        let pitch = jpeg.width * format.size();
        assert!(out.len() >= pitch * jpeg.height, "`out` holds the whole image");
        let side = |n: usize| c_int::try_from(n).expect("a JPEG's sides have 16 bits");
        let cropped = match *region == Region::whole(jpeg.width, jpeg.height) {
            true => raw::tjregion { x: 0, y: 0, w: 0, h: 0 },
            false => raw::tjregion {
                x: side(region.columns.start),
                y: side(region.rows.start),
                w: side(region.columns.len()),
                h: side(region.rows.len()),
            },
        };
        // SAFETY: the instance is live.
        let status = unsafe { raw::tj3SetCroppingRegion(self.0, cropped) };
        self.check(status)?;
        let out = &mut out[region.rows.start * pitch + region.columns.start * format.size()..];
        let format = match format {
            PixelFormat::Rgb => raw::TJPF_TJPF_RGB,
            PixelFormat::Cmyk => raw::TJPF_TJPF_CMYK,
        };
        // SAFETY: the region lies within the image that the file's header describes, and `out`
        // holds that image's rows from the region's first pixel on. The library reads the same
        // header again and refuses a region that does not fit it.
        let status = unsafe {
            let (from, to) = (jpeg.bytes.as_ptr(), out.as_mut_ptr());
            raw::tj3Decompress8(self.0, from, size(jpeg.bytes), to, side(pitch), format as c_int)
        };
        self.check(status)
    }

    fn get(&self, what: raw::TJPARAM) -> c_int {
        // SAFETY: the instance is live.
        unsafe { raw::tj3Get(self.0, what as c_int) }
    }

    fn check(&self, status: c_int) -> Result<(), String> {
        if status == 0 { Ok(()) } else { Err(self.message()) }
    }

    fn message(&self) -> String {
        // SAFETY: the library returns a string of its own, valid until its next call.
        unsafe { CStr::from_ptr(raw::tj3GetErrorStr(self.0)) }.to_string_lossy().into_owned()
    }
}

impl Drop for Decompressor {
    fn drop(&mut self) {
        // SAFETY: the instance is not used again; null is allowed.
        unsafe { raw::tj3Destroy(self.0) }
    }
}

impl Jpeg<'_> {
    /// What is decoded so that the pixels of `wanted` are those of the whole image. Always down
    /// to the last row: the library does not look at what follows a region, and a file that is
    /// cut off or damaged there is damaged.
    fn region(&self, wanted: &Region) -> Region {
        let Some(block) = self.block_width else { return Region::whole(self.width, self.height) };
        let left = wanted.columns.start.saturating_sub(MARGIN) / block * block;
        let top = wanted.rows.start.saturating_sub(MARGIN);
        Region {
            columns: left..(wanted.columns.end + MARGIN).min(self.width),
            rows: top..self.height,
        }
    }
}

fn size(bytes: &[u8]) -> raw::size_t {
    bytes.len() as raw::size_t
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Every region that is asked for has the pixels that the whole image has there.
    #[test]
    fn a_region_has_the_pixels_of_the_whole() {
        let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("sample_data/images");
        let names = std::fs::read_dir(images).expect("the sample is there");
        let paths = names.map(|entry| entry.expect("an entry").path());
        let mut n_regions = 0;
        for path in paths.filter(|path| path.extension().is_some_and(|kind| kind == "jpg")) {
            let bytes = std::fs::read(&path).expect("the image is there");
            let mut decompressor = Decompressor::new(500).expect("memory");
            let Ok(jpeg) = decompressor.header(&bytes) else { continue };
            let mut decode = |wanted: &Region| {
                let mut out = vec![0; jpeg.width * jpeg.height * 3];
                let done = decompressor.decode(&jpeg, wanted, PixelFormat::Rgb, &mut out);
                done.map(|()| out)
            };
            let Ok(whole) = decode(&Region::whole(jpeg.width, jpeg.height)) else { continue };
            let (w, h) = (jpeg.width, jpeg.height);
            for (columns, rows) in [
                (w / 4..w * 3 / 4, 0..h),
                (0..w, h / 3..h * 2 / 3),
                (w / 2..w, h / 2..h),
                (w / 5 + 1..w / 5 + 2, h / 5 + 1..h / 5 + 2),
                (w - 1..w, h - 1..h),
            ] {
                let region = Region { columns, rows };
                let part = decode(&region).expect("the whole was good");
                for y in region.rows.clone() {
                    let at = |x: usize| (y * w + x) * 3;
                    let bytes = at(region.columns.start)..at(region.columns.end);
                    assert_eq!(part[bytes.clone()], whole[bytes], "{path:?} {region:?} row {y}");
                }
                n_regions += 1;
            }
        }
        assert!(n_regions > 100, "{n_regions} regions of the sample's JPEGs");
    }
}
