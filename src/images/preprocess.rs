//! What a model folder says of preprocessing, and what that does to one image up to u8 pixels.
//!
//! `CLIPImageProcessor` and its kin: RGB on white, resize (shortest side, or squash), centre crop;
//! or `Siglip2ImageProcessor`, which keeps the image's shape and cuts it into patches. Scaling to
//! floats and normalising are read and described here and done on the device. Which keys a
//! family's file has is in `config`, what sizes follow in `target` and `patches`.

mod config;
mod open_clip;
mod patches;
mod target;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use self::config::{Config, Defaults};
use self::target::{Crop, Target};
use super::budget::Budget;
use super::decode::{self, Request};
use super::phash::phash;
use super::resize::{Filter, Region, Resize, Rgb, Size, Vector};
use crate::batch::{Grid, ImageInfo, ImageShape, PixelScale};
use crate::error::{Error, RowError};
use crate::regular;
use crate::spec::{Family, ModelSpec, PreprocessSpec};

/// What a thread keeps of the largest decoded image for the next one. Fresh memory costs the
/// kernel's time; more than photos of web size need is given back.
const SCRATCH_BYTES: usize = 8 << 20;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Turns encoded images into the pixels that one model expects.
#[derive(Debug, Clone)]
pub struct Preprocess {
    resize: Target,
    filter: Filter,
    /// What the model takes.
    output: ImageShape,
    crop: Crop,
    rescale: Option<f64>,
    normalise: Option<([f32; 3], [f32; 3])>,
    spec: PreprocessSpec,
    budget: Arc<Budget>,
    /// Whether images are hashed by what they look like.
    phash: bool,
    /// The file that says all this.
    path: PathBuf,
}

/// What is known of an image once its pixels are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fitted {
    /// Of the decoded image.
    pub size: Size,
    /// Where it was asked for.
    pub phash: Option<u64>,
}

impl Preprocess {
    /// Reads `dir/preprocessor_config.json`. Keys that are missing or null have the defaults of
    /// transformers 5.23's `CLIPImageProcessor`.
    ///
    /// # Errors
    /// [`Error::NotFound`] without the file; [`Error::ModelFile`], naming the key, if it asks for
    /// what clipmill does not do, or if images would come out in different sizes.
    pub fn read(dir: &Path, spec: &PreprocessSpec) -> Result<Self, Error> {
        Self::read_with(dir, spec, &[&config::CLIP])
    }

    /// Reads what the folder of a model of any family says.
    ///
    /// # Errors
    /// As [`Preprocess::read`].
    pub fn of(model: &ModelSpec, spec: &PreprocessSpec) -> Result<Self, Error> {
        match model.family() {
            Family::Clip => Self::read_with(model.dir(), spec, &[&config::CLIP]),
            Family::Siglip => {
                Self::read_with(model.dir(), spec, &[&config::SIGLIP, &config::SIGLIP2])
            }
            Family::OpenClip => open_clip::read(model.dir(), spec),
            Family::ChineseClip => Self::read_with(model.dir(), spec, &[&config::CHINESE_CLIP]),
        }
    }

    /// With the defaults of the processor that the file names, those of the first one if of none.
    fn read_with(dir: &Path, spec: &PreprocessSpec, of: &[&Defaults]) -> Result<Self, Error> {
        let path = dir.join("preprocessor_config.json");
        if !path.exists() {
            let hint = ": it says how the model wants its pixels".to_owned();
            return Err(Error::NotFound { what: "the model file", path, hint });
        }
        let text = regular::read_to_string(&path).map_err(Error::io("read", &path))?;
        let wrong = |problem| Error::ModelFile { path: path.clone(), problem };
        let map = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let named = of.iter().find(|defaults| Config::is_kind(&map, defaults));
        let defaults = named.unwrap_or(&of[0]);
        let config = Config { map, defaults };
        Self::from_config(&config, (&path, spec)).map_err(wrong)
    }

    fn from_config(
        config: &Config<'_>,
        (path, spec): (&Path, &PreprocessSpec),
    ) -> Result<Self, String> {
        config.check_kind()?;
        let resize = match config.flag("do_resize", true)? {
            true => config.target()?,
            false => Target::Keep,
        };
        let crop = config.flag("do_center_crop", config.defaults.crop.is_some())?;
        let whole = |size: Size| ImageShape::Whole { height: size.height, width: size.width };
        let output = match (crop, resize) {
            (_, Target::Patches { side, most }) => ImageShape::Patches { side, most },
            (true, _) => whole(config.crop()?),
            (false, Target::Squash(size)) => whole(size),
            (false, _) => {
                return Err(
                    "without do_center_crop and a size of {\"height\", \"width\"}, images \
                            come out in different sizes"
                        .to_owned(),
                );
            }
        };
        let number = config.count("resample", config.defaults.resample)?;
        let filter = Filter::from_number(number)
            .ok_or_else(|| format!("\"resample\" is {number}: 0 to 5 are Pillow's filters"))?;
        let rescale = match config.flag("do_rescale", true)? {
            true => Some(config.number("rescale_factor", 1.0 / 255.0)?),
            false => None,
        };
        let normalise = match config.flag("do_normalize", true)? {
            true => Some((
                config.triple("image_mean", config.defaults.mean)?,
                config.triple("image_std", config.defaults.std)?,
            )),
            false => None,
        };
        let (spec, budget) = (spec.clone(), Arc::new(Budget::new(u64::MAX)));
        let path = path.to_owned();
        let crop = Crop::Floored;
        let phash = false;
        Ok(Self { resize, filter, output, crop, rescale, normalise, spec, budget, phash, path })
    }

    /// The same, with a limit to the bytes that images may take that are decoded at once.
    pub fn with_memory(self, bytes: u64) -> Self {
        Self { budget: Arc::new(Budget::new(bytes)), ..self }
    }

    /// The same; gives a perceptual hash of each image too, for which all of it is decoded.
    pub fn with_phash(self, phash: bool) -> Self {
        Self { phash, ..self }
    }

    /// The file that was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What an image becomes.
    pub fn shape(&self) -> ImageShape {
        self.output
    }

    /// The bytes of one image's pixels.
    pub fn n_bytes(&self) -> usize {
        self.output.n_bytes()
    }

    /// The grid of a decoded image of that size, where images are cut into patches.
    pub fn grid(&self, size: Size) -> Option<Grid> {
        match self.resize {
            Target::Patches { side, most } => Some(patches::grid(size, side, most)),
            _ => None,
        }
    }

    /// Whether both give the same pixels; what is done to them on the device may differ.
    pub fn same_pixels(&self, other: &Self) -> bool {
        let pixels = |form: &Self| (form.resize, form.filter, form.output, form.crop);
        pixels(self) == pixels(other)
    }

    /// What is left to do to the pixels, on the device.
    pub fn scale(&self) -> PixelScale {
        let (mean, std) = self.normalise.unwrap_or((PixelScale::NONE.mean, PixelScale::NONE.std));
        PixelScale { rescale: self.rescale.unwrap_or(1.0) as f32, mean, std }
    }

    /// All that decides the pixels and their scaling, as one line of JSON with keys in a fixed
    /// order: equal descriptions give equal model inputs.
    pub fn describe(&self) -> String {
        let resize = match self.resize {
            Target::Keep => Value::Null,
            Target::ShortestSide(side) => json!({ "shortest_edge": side }),
            Target::Squash(size) => json!({ "height": size.height, "width": size.width }),
            Target::LongestSide(side) => json!({ "longest_edge": side }),
            Target::Patches { side, most } => {
                json!({ "patch_size": side, "max_num_patches": most })
            }
        };
        let crop = match self.output {
            ImageShape::Whole { height, width } => json!({ "height": height, "width": width }),
            ImageShape::Patches { .. } => Value::Null,
        };
        let mut description = json!({
            "size": resize,
            "resample": self.filter as u8,
            "crop_size": crop,
            "rescale_factor": self.rescale,
            "image_mean": self.normalise.map(|(mean, _)| mean.map(f64::from)),
            "image_std": self.normalise.map(|(_, std)| std.map(f64::from)),
            "transparency": "white",
            "exif": self.spec.exif,
        });
        if self.crop == Crop::Rounded {
            description["crop_offset"] = json!("rounded");
        }
        description.to_string()
    }

    /// Decodes, resizes and crops one image into `out`: u8 RGB, of `shape()`.
    ///
    /// Gives what the image's header says, where it could be read, and whether `out` was filled,
    /// with the grid where that is patches; if not, what is in `out` is of no use.
    ///
    /// # Errors
    /// Inside the pair: `image_too_large`, `image_truncated`, `image_undecodable` or
    /// `decoder_panic`.
    ///
    /// # Panics
    /// If `out` is not `n_bytes()` long.
    pub fn apply(
        &self,
        bytes: &[u8],
        out: &mut [u8],
    ) -> (Option<ImageInfo>, Result<Option<Grid>, RowError>) {
        let (info, outcome) = Self::apply_all(std::slice::from_ref(self), bytes, out, &|| {});
        (info, outcome.map(|fitted| self.grid(fitted.size)))
    }

    /// The same in several forms, one behind the other in `out`, from an image that is decoded
    /// once: within the limits of the first of `forms`. Calls `on_permit` when there is memory for
    /// the image and decoding begins. Gives the perceptual hash where the first asks for it.
    ///
    /// # Panics
    /// Without forms, and if `out` is not as long as all of them.
    pub fn apply_all(
        forms: &[Self],
        bytes: &[u8],
        out: &mut [u8],
        on_permit: &dyn Fn(),
    ) -> (Option<ImageInfo>, Result<Fitted, RowError>) {
        let first = &forms[0];
        let n_bytes: usize = forms.iter().map(Self::n_bytes).sum();
        assert_eq!(out.len(), n_bytes, "`out` has the size of one image in every form");
        let region = |width, height| match first.phash {
            true => Region::whole(width, height),
            false => {
                let seen =
                    forms.iter().map(|form| form.window(width, height).0.source(width, height));
                seen.reduce(Region::hull).expect("there is a first form")
            }
        };
        // Held until the pixels are not needed any more.
        let mut permit = None;
        let request = Request {
            spec: &first.spec,
            region: &region,
            scratch: SCRATCH.take(),
            budget: &first.budget,
            permit: &mut permit,
            on_permit,
        };
        let (info, decoded) = decode::decode(bytes, request);
        let fitted = decoded.map(|mut image| {
            let mut rest = &mut *out;
            for form in forms {
                let (own, others) = std::mem::take(&mut rest).split_at_mut(form.n_bytes());
                form.fit(&image, own);
                rest = others;
            }
            let size = Size { width: image.width, height: image.height };
            let phash = first.phash.then(|| phash(&mut image));
            if image.data.capacity() <= SCRATCH_BYTES {
                SCRATCH.set(image.data);
            }
            Fitted { size, phash }
        });
        (info, fitted)
    }

    /// Resizes decoded pixels into `out`, and crops them or cuts them into patches.
    fn fit(&self, image: &Rgb, out: &mut [u8]) {
        let (resize, [left, top]) = self.window(image.width, image.height);
        match self.output {
            ImageShape::Whole { height, width } => {
                if resize.columns.len() < width || resize.rows.len() < height {
                    out.fill(0);
                }
                let stride = width * 3;
                resize.apply(image, &mut out[top * stride + left * 3..], stride);
            }
            ImageShape::Patches { side, .. } => {
                let Size { width, height } = resize.to;
                let mut whole = vec![0; height * width * 3];
                resize.apply(image, &mut whole, width * 3);
                let (own, rest) = out.split_at_mut(whole.len());
                let grid = Grid { rows: height / side, columns: width / side };
                patches::cut(&whole, (grid, side), own);
                rest.fill(0);
            }
        }
    }

    /// How an image of that width and height is resized, and where in the output the resized
    /// pixels begin.
    fn window(&self, width: usize, height: usize) -> (Resize, [usize; 2]) {
        let to = self.resize.size(width, height);
        let [wanted_width, wanted_height] = match self.output {
            ImageShape::Whole { height, width } => [width, height],
            ImageShape::Patches { .. } => [to.width, to.height],
        };
        let (columns, left) = self.crop.along(to.width, wanted_width);
        let (rows, top) = self.crop.along(to.height, wanted_height);
        (Resize { to, filter: self.filter, columns, rows, vector: Vector::best() }, [left, top])
    }
}
