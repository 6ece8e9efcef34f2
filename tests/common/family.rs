//! A family's folder against its own implementation: what an oracle wrote beside the model, and how
//! far we are from it. Which folders, and what else has to be seen, is the family's own test.

use std::path::{Path, PathBuf};

use clipmill::batch::{Captions, Grid, Pixels};
use clipmill::error::RowStatus;
use clipmill::images::Preprocess;
use clipmill::model::device::Placement;
use clipmill::model::{ModelFiles, Towers, family};
use clipmill::spec::{CaptionSpec, Family, ModelSpec, PreprocessSpec};
use clipmill::text::Tokenizer;
use serde::Deserialize;
use serde_json::Value;
use tch::{Device, Kind};

use super::{most_apart, read_f32};

pub const F32: Placement = Placement { device: Device::Cpu, kind: Kind::Float };
const BF16: Placement = Placement { device: Device::Cpu, kind: Kind::BFloat16 };

/// A model folder and what its reference makes of some captions and images.
pub struct Folder {
    pub dir: PathBuf,
    pub spec: ModelSpec,
    pub expected: Expected,
}

/// What the oracle wrote beside the model.
#[derive(Deserialize)]
pub struct Expected {
    /// What is made of each caption.
    pub captions: Vec<Written>,
    pub images: Vec<String>,
    /// Rows and columns of patches of each image, where those have grids of their own.
    #[serde(default)]
    grids: Vec<[usize; 2]>,
    logit_scale: f32,
    logit_bias: Option<f32>,
}

#[derive(Deserialize)]
pub struct Written {
    caption: String,
    ids: Vec<i64>,
    /// Tokens before truncation.
    all: u32,
}

impl Folder {
    pub fn read(family: Family, dir: &Path) -> Self {
        let expected = std::fs::read(dir.join("case.json")).unwrap();
        let expected = serde_json::from_slice(&expected).unwrap();
        Self { dir: dir.to_owned(), spec: ModelSpec::new(family, dir), expected }
    }

    pub fn files(&self) -> ModelFiles {
        ModelFiles::open(&self.spec).unwrap()
    }

    fn tokenizer(&self) -> Tokenizer {
        let context = self.files().context_length();
        Tokenizer::of(&self.spec, context, &CaptionSpec::default()).unwrap()
    }

    /// The images as u8 pixels, one after another, as the folder says when it is read as a model of
    /// `spec`.
    pub fn pixels_of(&self, spec: &ModelSpec) -> Pixels {
        let preprocess = Preprocess::of(spec, &PreprocessSpec::default()).unwrap();
        let images = &self.expected.images;
        let mut grids = Vec::new();
        let mut data = vec![0; images.len() * preprocess.n_bytes()];
        for (name, slot) in images.iter().zip(data.chunks_exact_mut(preprocess.n_bytes())) {
            let bytes = std::fs::read(self.dir.join(name)).unwrap();
            grids.extend(preprocess.apply(&bytes, slot).1.unwrap());
        }
        let rows = (0..images.len() as u32).collect();
        Pixels { data, shape: preprocess.shape(), grids, rows }
    }

    /// Whether a model of `spec` in this folder would get the reference's pixels.
    pub fn has_pixels_of(&self, spec: &ModelSpec) -> bool {
        let Pixels { data, grids, .. } = self.pixels_of(spec);
        let theirs = self.expected.grids.iter().map(|&[rows, columns]| Grid { rows, columns });
        data == std::fs::read(self.dir.join("pixels.u8")).unwrap() && theirs.eq(grids)
    }

    /// Of how many captions we make other ids than the reference.
    pub fn other_captions(&self) -> usize {
        let tokenizer = self.tokenizer();
        let other = |written: &&Written| {
            !tokenizer.encode(&written.caption).is_ok_and(|(ids, _)| ids == written.ids)
        };
        self.expected.captions.iter().filter(other).count()
    }

    /// Of how many captions the reference makes control tokens alone.
    pub fn without_tokens(&self) -> usize {
        self.expected.captions.iter().filter(|written| written.all <= 2).count()
    }

    /// How far image and text embeddings are from the reference's, at most.
    pub fn apart(&self, placement: Placement) -> [f32; 2] {
        let scale = Preprocess::of(&self.spec, &PreprocessSpec::default()).unwrap().scale();
        let model = self.files().load(Towers::BOTH, scale, placement).unwrap();
        let Expected { captions, logit_scale, logit_bias, .. } = &self.expected;
        assert!((model.logit_scale() / logit_scale - 1.0).abs() < 1e-5);
        assert_eq!(model.logit_bias(), *logit_bias);
        let image = model.encode_image(&self.pixels_of(&self.spec)).unwrap();
        let ids: Vec<_> = captions.iter().map(|written| written.ids.clone()).collect();
        let rows = (0..ids.len() as u32).collect();
        let text = model.encode_text(&Captions { ids, rows }).unwrap();
        let apart = [(&image, "image.f32"), (&text, "text.f32")]
            .map(|(ours, name)| most_apart(&ours.data, &read_f32(&self.dir.join(name))));
        eprintln!(
            "{} on {placement}: image {:e}, text {:e}",
            self.dir.display(),
            apart[0],
            apart[1]
        );
        apart
    }

    /// Makes sure that an image alone has the embedding that it has among others.
    pub fn neighbours_do_not_matter(&self) {
        let scale = Preprocess::of(&self.spec, &PreprocessSpec::default()).unwrap().scale();
        let model = self.files().load(Towers::BOTH, scale, F32).unwrap();
        let pixels = self.pixels_of(&self.spec);
        let together = model.encode_image(&pixels).unwrap();
        for (slot, data) in pixels.data.chunks_exact(pixels.shape.n_bytes()).enumerate() {
            let grids = pixels.grid(slot).into_iter().collect();
            let rows = vec![slot as u32];
            let alone = Pixels { data: data.to_vec(), shape: pixels.shape, grids, rows };
            let alone = model.encode_image(&alone).unwrap();
            assert!(most_apart(alone.slot(0), together.slot(slot)) < 1e-5, "image {slot}");
        }
    }

    /// Makes sure of ids, pixels and embeddings: of more than `least` captions, where at most `empty`
    /// have no token.
    pub fn agrees(&self, least: usize, empty: usize) {
        assert_eq!(family::detect(&self.dir).unwrap(), self.spec.family());
        let tokenizer = self.tokenizer();
        let (mut compared, mut without) = (0, 0);
        for Written { caption, ids, all } in &self.expected.captions {
            match tokenizer.encode(caption) {
                Ok((ours, info)) => {
                    assert_eq!(&ours, ids, "{caption:?}");
                    assert_eq!(info.tokens, *all, "{caption:?}");
                    assert_eq!(info.truncated, *all as usize > ids.len(), "{caption:?}");
                    compared += 1;
                }
                Err(error) => {
                    assert_eq!(error.status, RowStatus::CaptionEmpty, "{caption:?}");
                    // The control tokens alone.
                    assert!(*all <= 2, "{caption:?}");
                    without += 1;
                }
            }
        }
        assert!(compared > least && without <= empty, "{compared} captions, {without} empty");
        assert!(self.has_pixels_of(&self.spec), "{}: other pixels", self.dir.display());
        let [image, text] = self.apart(F32);
        assert!(image <= 1e-5 && text <= 1e-5, "{image:e}, {text:e}");
        let [image, text] = self.apart(BF16);
        assert!(image <= 2e-2 && text <= 2e-2, "{image:e}, {text:e}");
    }

    /// A JSON file of the folder with something changed, for as long as `then` runs.
    pub fn with(&self, file: &str, change: impl FnOnce(&mut Value), then: impl FnOnce()) {
        let path = self.dir.join(file);
        let before = std::fs::read(&path).unwrap();
        let mut json = serde_json::from_slice(&before).unwrap();
        change(&mut json);
        std::fs::write(&path, json.to_string()).unwrap();
        then();
        std::fs::write(&path, before).unwrap();
    }

    /// Makes sure that the folder is refused with such a change, and says why.
    pub fn refuses(&self, file: &str, change: impl FnOnce(&mut Value), wanted: &str) {
        self.with(file, change, || {
            let error = ModelFiles::open(&self.spec).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        });
    }
}
