//! RGB pixels to a JPEG, by libjpeg-turbo: for the small pictures of a report.
//!
//! Nothing that a model sees passes through here.

use std::ffi::{CStr, c_int};

use turbojpeg_sys as raw;

use super::resize::Rgb;

/// An instance of the library, destroyed when dropped.
struct Compressor(raw::tjhandle);

/// A baseline JPEG of `image`, colour at half the resolution; `quality` is 1 to 100.
///
/// # Errors
/// The library's message.
pub fn jpeg(image: &Rgb, quality: u8) -> Result<Vec<u8>, String> {
    let side = |n: usize| c_int::try_from(n).map_err(|_| "the image is too large".to_owned());
    let (width, height) = (side(image.width)?, side(image.height)?);
    if image.data.len() != image.width * image.height * 3 || image.data.is_empty() {
        return Err("the image has no pixels".into());
    }
    // SAFETY: takes a constant and returns a new instance or null.
    let compressor = Compressor(unsafe { raw::tj3Init(raw::TJINIT_TJINIT_COMPRESS as c_int) });
    if compressor.0.is_null() {
        return Err(compressor.message());
    }
    let sampling = raw::TJSAMP_TJSAMP_420 as c_int;
    compressor.set(raw::TJPARAM_TJPARAM_SUBSAMP, sampling)?;
    compressor.set(raw::TJPARAM_TJPARAM_QUALITY, c_int::from(quality.clamp(1, 100)))?;
    compressor.set(raw::TJPARAM_TJPARAM_OPTIMIZE, 1)?;
    // The library writes to the buffer that it is given and to no other.
    compressor.set(raw::TJPARAM_TJPARAM_NOREALLOC, 1)?;
    // SAFETY: computes from three numbers.
    let most = unsafe { raw::tj3JPEGBufSize(width, height, sampling) };
    let mut bytes = vec![0_u8; most as usize];
    let (mut at, mut size) = (bytes.as_mut_ptr(), most);
    // SAFETY: the instance is live; `image.data` holds `height` rows of `width` RGB pixels without
    // padding, as was checked; the buffer has the size that the library asks for at most, and is
    // neither freed nor moved by it (NOREALLOC).
    let status = unsafe {
        let format = raw::TJPF_TJPF_RGB as c_int;
        let pixels = image.data.as_ptr();
        raw::tj3Compress8(compressor.0, pixels, width, 0, height, format, &mut at, &mut size)
    };
    if status != 0 {
        return Err(compressor.message());
    }
    bytes.truncate(size as usize);
    Ok(bytes)
}

impl Compressor {
    fn set(&self, what: raw::TJPARAM, value: c_int) -> Result<(), String> {
        // SAFETY: the instance is live.
        match unsafe { raw::tj3Set(self.0, what as c_int, value) } {
            0 => Ok(()),
            _ => Err(self.message()),
        }
    }

    fn message(&self) -> String {
        // SAFETY: the library returns a string of its own, valid until its next call.
        unsafe { CStr::from_ptr(raw::tj3GetErrorStr(self.0)) }.to_string_lossy().into_owned()
    }
}

impl Drop for Compressor {
    fn drop(&mut self) {
        // SAFETY: the instance is not used again; null is allowed.
        unsafe { raw::tj3Destroy(self.0) }
    }
}
