//! The towers against transformers' `CLIPModel`, in every layout that a model folder comes in.
//!
//! tests/oracle/towers.py makes random models and computes what is expected. Weights that are
//! wrong are the affair of `weights.rs`; tokenizing and preprocessing have tests of their own.

use std::path::Path;

use clipmill::batch::{Captions, Embeddings, ImageShape, PixelScale, Pixels};
use clipmill::model::device::{self, Placement};
use clipmill::model::doctor::DoctorReport;
use clipmill::model::{DualEncoder, ModelFiles, Towers};
use clipmill::spec::{DeviceSpec, Family, ModelSpec, PrecisionSpec};
use serde::Deserialize;
use tch::{Device, Kind};

use crate::common::{self, most_apart};

const F32: Placement = Placement { device: Device::Cpu, kind: Kind::Float };
const BF16: Placement = Placement { device: Device::Cpu, kind: Kind::BFloat16 };

const SCALE: PixelScale = PixelScale {
    rescale: 1.0 / 255.0,
    mean: [0.48145466, 0.4578275, 0.40821073],
    std: [0.26862954_f64 as f32, 0.26130258_f64 as f32, 0.27577711_f64 as f32],
};

const SMALL: [&str; 7] = ["quick_gelu", "gelu", "legacy_eos", "sharded", "f16", "bf16", "odd"];

/// Square images.
fn square(data: Vec<u8>, side: usize, rows: Vec<u32>) -> Pixels {
    Pixels { data, shape: ImageShape::square(side), rows, ..Pixels::default() }
}

/// What the oracle wrote beside a model.
struct Case {
    pixels: Pixels,
    captions: Captions,
    logit_scale: f32,
    image: Vec<f32>,
    text: Vec<f32>,
    similarity: Vec<f32>,
}

impl Case {
    fn read(dir: &Path) -> Self {
        #[derive(Deserialize)]
        struct Written {
            ids: Vec<Vec<i64>>,
            images: u32,
            side: usize,
            logit_scale: f32,
        }
        let json = std::fs::read(dir.join("case.json")).unwrap();
        let Written { ids, images, side, logit_scale } = serde_json::from_slice(&json).unwrap();
        let data = std::fs::read(dir.join("pixels.u8")).unwrap();
        Self {
            pixels: square(data, side, (0..images).collect()),
            captions: Captions { rows: (0..ids.len() as u32).collect(), ids },
            logit_scale,
            image: common::read_f32(&dir.join("image.f32")),
            text: common::read_f32(&dir.join("text.f32")),
            similarity: common::read_f32(&dir.join("similarity.f32")),
        }
    }
}

/// How far we are from the oracle, at most: image embeddings, text embeddings, similarity.
#[derive(Debug)]
struct Apart {
    image: f32,
    text: f32,
    similarity: f32,
}

fn load(model: &Path, placement: Placement) -> Box<dyn DualEncoder> {
    let files = ModelFiles::open(&ModelSpec::new(Family::Clip, model)).unwrap();
    files.load(Towers::BOTH, SCALE, placement).unwrap()
}

fn apart(model: &Path, case: &Case, placement: Placement) -> Apart {
    let clip = load(model, placement);
    assert!((clip.logit_scale() - case.logit_scale).abs() < 1e-4);
    let image = clip.encode_image(&case.pixels).unwrap();
    let text = clip.encode_text(&case.captions).unwrap();
    let apart = Apart {
        image: most_apart(&image.data, &case.image),
        text: most_apart(&text.data, &case.text),
        similarity: most_apart(&similarity(&image, &text), &case.similarity),
    };
    eprintln!("{} on {placement}: {apart:?}", model.display());
    apart
}

fn similarity(image: &Embeddings, text: &Embeddings) -> Vec<f32> {
    let slots = |of: &Embeddings| 0..of.rows.len();
    slots(image)
        .flat_map(|i| slots(text).map(move |t| (i, t)))
        .map(|(i, t)| image.slot(i).iter().zip(text.slot(t)).map(|(a, b)| a * b).sum())
        .collect()
}

/// In f32 within float noise; in bf16 within what transformers' own bf16 is from its f32 (up to
/// 0.002 for ViT-B/32, 0.005 for the sample's narrow towers).
fn agrees(model: &Path, case: &Path) {
    let case = Case::read(case);
    let f32 = apart(model, &case, F32);
    assert!(f32.image <= 1e-5 && f32.text <= 1e-5 && f32.similarity <= 1e-5, "{f32:?}");
    let bf16 = apart(model, &case, BF16);
    assert!(bf16.similarity <= 5e-3, "{bf16:?}");
}

#[test]
fn small_towers_agree_with_transformers() {
    let dir = common::scratch();
    let sample = common::sample().join("model");
    let mut args = vec![dir.path().into(), sample.clone()];
    args.extend(SMALL.map(Into::into));
    if !common::oracle("towers.py", args) {
        return;
    }
    agrees(&sample, &dir.path().join("model"));
    for name in SMALL {
        let case = dir.path().join(name);
        agrees(&case, &case);
    }
    a_wrong_activation_is_seen(&dir.path().join("gelu"));
}

/// The oracle can fail: the same weights with the other activation are far from it.
fn a_wrong_activation_is_seen(model: &Path) {
    let case = Case::read(model);
    let config = model.join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.contains("\"gelu\""));
    std::fs::write(&config, text.replace("\"gelu\"", "\"quick_gelu\"")).unwrap();
    let apart = apart(model, &case, F32);
    assert!(apart.image > 1e-3 && apart.text > 1e-3, "{apart:?}");
}

#[test]
fn vit_b_32_agrees_with_transformers() {
    let dir = common::scratch();
    if common::oracle("towers.py", [dir.path(), Path::new("vit_b_32")]) {
        let case = dir.path().join("vit_b_32");
        agrees(&case, &case);
    }
}

/// Pixels and captions without an oracle, from a small generator with a fixed seed.
fn noise(images: u32, captions: u32) -> (Pixels, Captions) {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = move |below: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % below
    };
    let side = 48;
    let data = (0..images as usize * side * side * 3).map(|_| next(256) as u8).collect();
    let caption = |_| {
        let mut ids = vec![3070];
        ids.extend((0..1 + next(30)).map(|_| next(3070) as i64));
        ids.push(3071);
        ids
    };
    let ids = (0..captions).map(caption).collect();
    let pixels = square(data, side, (0..images).collect());
    (pixels, Captions { ids, rows: (0..captions).collect() })
}

#[test]
fn neighbours_in_a_batch_do_not_matter() {
    let clip = load(&common::sample().join("model"), F32);
    // More than one pass of each tower.
    let (pixels, captions) = noise(300, 700);
    let image = clip.encode_image(&pixels).unwrap();
    let text = clip.encode_text(&captions).unwrap();
    for slot in [0, 1, 149, 299] {
        let size = 48 * 48 * 3;
        let data = pixels.data[slot * size..(slot + 1) * size].to_vec();
        let alone = square(data, 48, vec![slot as u32]);
        let alone = clip.encode_image(&alone).unwrap();
        assert_eq!(alone.rows, [slot as u32]);
        assert!(most_apart(alone.slot(0), image.slot(slot)) < 1e-5);
    }
    for slot in [0, 1, 350, 699] {
        let alone = Captions { ids: vec![captions.ids[slot].clone()], rows: vec![slot as u32] };
        let alone = clip.encode_text(&alone).unwrap();
        assert!(most_apart(alone.slot(0), text.slot(slot)) < 1e-5);
    }
    let mut backwards = captions.clone();
    backwards.ids.reverse();
    backwards.ids.extend_from_within(..50);
    backwards.rows = (0..750).collect();
    let again = clip.encode_text(&backwards).unwrap();
    assert!((0..700).all(|slot| most_apart(again.slot(699 - slot), text.slot(slot)) < 1e-5));
    assert!((0..50).all(|slot| again.slot(700 + slot) == again.slot(slot)));
}

#[test]
fn an_empty_batch_has_no_embeddings() {
    let clip = load(&common::sample().join("model"), F32);
    assert!(clip.encode_image(&Pixels::default()).unwrap().data.is_empty());
    assert!(clip.encode_text(&Captions::default()).unwrap().data.is_empty());
}

#[test]
fn what_does_not_fit_the_model_is_refused() {
    let clip = load(&common::sample().join("model"), F32);
    let pixels = square(vec![0; 32 * 32 * 3], 32, vec![0]);
    let error = clip.encode_image(&pixels).unwrap_err().to_string();
    assert!(error.contains("image_size is 48 and the pixels are 32x32"), "{error}");
    for (ids, wanted) in [
        (vec![3070, 3072, 3071], "vocab_size is 3072 and a caption has token 3072"),
        (vec![5; 33], "max_position_embeddings is 32 and a caption has 33 tokens"),
        (vec![], "has 0 tokens"),
    ] {
        let error = clip.encode_text(&Captions { ids: vec![ids], rows: vec![0] }).unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
    }
}

#[test]
fn f16_runs_on_no_cpu() {
    let error = device::resolve(DeviceSpec::Cpu, PrecisionSpec::F16).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("\"bf16\""), "{error}");
    let auto = device::resolve(DeviceSpec::Cpu, PrecisionSpec::Auto).unwrap();
    assert!(auto.placement.device == Device::Cpu && auto.placement.kind != Kind::Half);
}

#[test]
fn the_doctor_sees_this_machine() {
    let report = DoctorReport::look();
    assert!(report.libtorch_version.starts_with("2.11"), "{report:?}");
    assert!(report.libtorch_dir.unwrap().join("libtorch_cpu.so").exists());
    assert!(report.cores > 0 && report.threads > 0);
    assert_eq!(report.cuda_problem.is_some(), report.auto.placement.device == Device::Cpu);
    if report.driver.is_none() {
        let problem = report.cuda_problem.unwrap().to_string();
        assert!(problem.contains("no NVIDIA driver"), "{problem}");
    }
}

#[test]
fn a_gpu_agrees_with_transformers() {
    let choice = device::resolve(DeviceSpec::Cuda(0), PrecisionSpec::Auto);
    let f16 = match choice {
        Ok(choice) => choice.placement,
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            let auto = device::resolve(DeviceSpec::Auto, PrecisionSpec::F32).unwrap();
            assert_eq!(auto.placement, F32);
            return;
        }
    };
    assert_eq!(f16.kind, Kind::Half);
    let dir = common::scratch();
    let mut args = vec![dir.path()];
    args.extend(SMALL.map(Path::new));
    if common::oracle("towers.py", args) {
        for model in SMALL.map(|name| dir.path().join(name)) {
            let case = Case::read(&model);
            // TF32 is off by default, so f32 on a GPU is f32.
            let f32 = apart(&model, &case, Placement { kind: Kind::Float, ..f16 });
            assert!(f32.image <= 1e-4 && f32.text <= 1e-4, "{f32:?}");
            assert!(apart(&model, &case, f16).similarity <= 1e-2);
        }
    }
    let past = device::resolve(DeviceSpec::Cuda(1000), PrecisionSpec::Auto).unwrap_err();
    assert!(past.to_string().contains("counted from cuda:0"), "{past}");
}
