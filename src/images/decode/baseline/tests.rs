//! Against libjpeg-turbo: sample images, made ones, and damaged ones.

use std::path::Path;
use std::slice;

use turbojpeg_sys as raw;

use super::*;
use crate::images::decode::turbo::{Decompressor, PixelFormat};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) % n as u64) as usize
    }

    fn region(&mut self, width: usize, height: usize) -> Region {
        let (x, y) = (self.below(width), self.below(height));
        Region {
            columns: x..x + 1 + self.below(width - x),
            rows: y..y + 1 + self.below(height - y),
        }
    }
}

/// libjpeg-turbo's pixels.
fn expected(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut turbo = Decompressor::new(500)?;
    let jpeg = turbo.header(bytes)?;
    let mut out = vec![0; jpeg.width * jpeg.height * 3];
    let whole = Region::whole(jpeg.width, jpeg.height);
    turbo.decode(&jpeg, &whole, PixelFormat::Rgb, &mut out).map(|()| out)
}

/// Whether the file is plain. If so, its pixels are compared.
fn compare(bytes: &[u8], random: &mut Random, name: &str) -> bool {
    let Some(jpeg) = Baseline::read(bytes) else { return false };
    let (width, height) = (jpeg.width, jpeg.height);
    // Damage may say so.
    if width * height > 1 << 24 {
        return false;
    }
    let mut is_plain = false;
    for vector in Vector::available() {
        for region in [Region::whole(width, height), random.region(width, height)] {
            let mut out = vec![0; width * height * 3];
            if Decoder::new(vector).decode(&jpeg, &region, &mut out).is_none() {
                assert!(!is_plain, "{name}: {vector:?} {region:?} differs in what is plain");
                continue;
            }
            is_plain = true;
            let expected = expected(bytes).expect("what is plain has no flaw");
            for y in region.rows.clone() {
                let at = |x: usize| (y * width + x) * 3;
                let row = at(region.columns.start)..at(region.columns.end);
                let same = out[row.clone()] == expected[row];
                assert!(same, "{name}: row {y} of {region:?}, {vector:?}");
            }
        }
    }
    is_plain
}

/// A small JPEG of stripes and noise.
fn make(random: &mut Random) -> Vec<u8> {
    let (width, height) = (1 + random.below(70), 1 + random.below(70));
    let (step, noise) = (random.below(12), 1 + random.below(256));
    let pixel = |at: usize| at / 3 % width * step + at / 3 / width * (1 + at % 3);
    let pixels: Vec<u8> =
        (0..width * height * 3).map(|at| (pixel(at) + random.below(noise)) as u8).collect();
    let samplings = [
        raw::TJSAMP_TJSAMP_444,
        raw::TJSAMP_TJSAMP_422,
        raw::TJSAMP_TJSAMP_420,
        raw::TJSAMP_TJSAMP_440,
        raw::TJSAMP_TJSAMP_GRAY,
    ];
    let settings = [
        (raw::TJPARAM_TJPARAM_QUALITY, 1 + random.below(100) as i32),
        (raw::TJPARAM_TJPARAM_SUBSAMP, samplings[random.below(5)]),
        (raw::TJPARAM_TJPARAM_OPTIMIZE, random.below(2) as i32),
        (raw::TJPARAM_TJPARAM_RESTARTBLOCKS, random.below(9).saturating_sub(5) as i32),
    ];
    let (mut out, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: the pixels are as many as the sides say; the library allocates `out`, which is
    // copied before it is freed.
    unsafe {
        let handle = raw::tj3Init(raw::TJINIT_TJINIT_COMPRESS as i32);
        for (what, value) in settings {
            assert_eq!(raw::tj3Set(handle, what as i32, value), 0, "a valid setting");
        }
        let (pixels, format) = (pixels.as_ptr(), raw::TJPF_TJPF_RGB);
        let (width, height) = (width as i32, height as i32);
        let status =
            raw::tj3Compress8(handle, pixels, width, 0, height, format, &mut out, &mut size);
        assert_eq!(status, 0, "the pixels are compressed");
        let bytes = slice::from_raw_parts(out, size as usize).to_vec();
        raw::tj3Free(out.cast());
        raw::tj3Destroy(handle);
        bytes
    }
}

fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(3) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes.truncate(at.max(1)),
            1 => drop(bytes.remove(at.min(bytes.len() - 2))),
            2 => bytes.insert(at, random.below(256) as u8),
            3 => bytes[at] = [0, 0xff, 0xd9, 0xd0][random.below(4)],
            _ => bytes[at] ^= 1 << random.below(8),
        }
    }
}

#[test]
fn sample_images_have_libjpeg_turbos_pixels() {
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("sample_data/images");
    let names = std::fs::read_dir(images).expect("the sample is there");
    let paths = names.map(|entry| entry.expect("an entry").path());
    let mut random = Random(1);
    let mut n_plain = 0;
    for path in paths.filter(|path| path.extension().is_some_and(|kind| kind == "jpg")) {
        let bytes = std::fs::read(&path).expect("the image is there");
        n_plain += usize::from(compare(&bytes, &mut random, &path.display().to_string()));
    }
    assert!(n_plain > 100, "{n_plain} of the sample's JPEGs are plain");
}

#[test]
fn made_images_have_libjpeg_turbos_pixels() {
    let mut random = Random(2);
    let is_plain = |case: usize| compare(&make(&mut random), &mut Random(3), &case.to_string());
    let n_plain = (0..500).map(is_plain).filter(|plain| *plain).count();
    // Those up to 4 pixels wide are not.
    assert!(n_plain > 450, "{n_plain} of 500 images are plain");
}

/// What passes for plain has no flaw that libjpeg-turbo sees.
#[test]
fn damaged_images_are_not_plain() {
    let mut random = Random(4);
    let mut n_plain = 0;
    for case in 0..4000 {
        let mut bytes = make(&mut random);
        damage(&mut bytes, &mut random);
        n_plain += usize::from(compare(&bytes, &mut Random(5), &case.to_string()));
    }
    assert!((200..3000).contains(&n_plain), "{n_plain} of 4000 damaged images are plain");
}
