//! OpenCLIP's folders against open_clip: embeddings, token ids and pixels of random models.
//!
//! tests/oracle/open_clip.py makes the folders, in both layouts of the weights, and computes what
//! is expected.

mod common;

use std::path::Path;

use clipmill::batch::{Captions, Pixels};
use clipmill::error::RowStatus;
use clipmill::images::Preprocess;
use clipmill::model::device::Placement;
use clipmill::model::{ModelFiles, Towers, family};
use clipmill::spec::{CaptionSpec, Family, ModelSpec, PreprocessSpec};
use clipmill::text::Tokenizer;
use serde::Deserialize;
use serde_json::{Value, json};
use tch::{Device, Kind};

const F32: Placement = Placement { device: Device::Cpu, kind: Kind::Float };
const BF16: Placement = Placement { device: Device::Cpu, kind: Kind::BFloat16 };

/// What the oracle wrote beside a model.
#[derive(Deserialize)]
struct Case {
    captions: Vec<Written>,
    images: Vec<String>,
    logit_scale: f32,
    logit_bias: Option<f32>,
}

#[derive(Deserialize)]
struct Written {
    caption: String,
    ids: Vec<i64>,
    /// Tokens before truncation.
    all: u32,
}

fn spec(dir: &Path) -> ModelSpec {
    ModelSpec::new(Family::OpenClip, dir)
}

fn case(dir: &Path) -> Case {
    serde_json::from_slice(&std::fs::read(dir.join("case.json")).unwrap()).unwrap()
}

fn tokenizer(dir: &Path) -> Tokenizer {
    let context = ModelFiles::open(&spec(dir)).unwrap().context_length();
    Tokenizer::of(&spec(dir), context, &CaptionSpec::default()).unwrap()
}

/// The images as u8 pixels, one after another, as the folder of a family says.
fn pixels(model: &ModelSpec, dir: &Path, case: &Case) -> Pixels {
    let preprocess = Preprocess::of(model, &PreprocessSpec::default()).unwrap();
    let (height, width) = (preprocess.height(), preprocess.width());
    let mut data = vec![0; case.images.len() * preprocess.n_bytes()];
    for (name, slot) in case.images.iter().zip(data.chunks_exact_mut(preprocess.n_bytes())) {
        let bytes = std::fs::read(dir.join(name)).unwrap();
        preprocess.apply(&bytes, slot).1.unwrap();
    }
    Pixels { data, height, width, rows: (0..case.images.len() as u32).collect() }
}

/// How far image and text embeddings are from the oracle's, at most.
fn apart(dir: &Path, placement: Placement) -> [f32; 2] {
    let case = case(dir);
    let scale = Preprocess::of(&spec(dir), &PreprocessSpec::default()).unwrap().scale();
    let files = ModelFiles::open(&spec(dir)).unwrap();
    let model = files.load(Towers::BOTH, scale, placement).unwrap();
    assert!((model.logit_scale() / case.logit_scale - 1.0).abs() < 1e-5);
    assert_eq!(model.logit_bias(), case.logit_bias);
    let image = model.encode_image(&pixels(&spec(dir), dir, &case)).unwrap();
    let ids: Vec<_> = case.captions.iter().map(|written| written.ids.clone()).collect();
    let rows = (0..ids.len() as u32).collect();
    let text = model.encode_text(&Captions { ids, rows }).unwrap();
    let apart = [(&image, "image.f32"), (&text, "text.f32")]
        .map(|(ours, name)| common::most_apart(&ours.data, &common::read_f32(&dir.join(name))));
    eprintln!("{} on {placement}: image {:e}, text {:e}", dir.display(), apart[0], apart[1]);
    apart
}

fn agrees(dir: &Path) {
    assert_eq!(family::detect(dir).unwrap(), Family::OpenClip);
    let case = case(dir);
    let tokenizer = tokenizer(dir);
    let mut compared = 0;
    for Written { caption, ids, all } in &case.captions {
        match tokenizer.encode(caption) {
            Ok((ours, info)) => {
                assert_eq!(&ours, ids, "{caption:?}");
                assert_eq!(info.tokens, *all, "{caption:?}");
                compared += 1;
            }
            Err(error) => {
                assert_eq!(error.status, RowStatus::CaptionEmpty, "{caption:?}");
                assert_eq!(*all, 2, "{caption:?}");
            }
        }
    }
    assert!(compared > 300, "{compared} captions");
    let theirs = std::fs::read(dir.join("pixels.u8")).unwrap();
    assert!(pixels(&spec(dir), dir, &case).data == theirs, "{}: other pixels", dir.display());
    let [image, text] = apart(dir, F32);
    assert!(image <= 1e-5 && text <= 1e-5, "{image:e}, {text:e}");
    let [image, text] = apart(dir, BF16);
    assert!(image <= 2e-2 && text <= 2e-2, "{image:e}, {text:e}");
}

/// The configuration with something changed, for as long as `then` runs.
fn with(dir: &Path, change: impl FnOnce(&mut Value), then: impl FnOnce()) {
    let path = dir.join("open_clip_config.json");
    let before = std::fs::read(&path).unwrap();
    let mut json = serde_json::from_slice(&before).unwrap();
    change(&mut json);
    std::fs::write(&path, json.to_string()).unwrap();
    then();
    std::fs::write(&path, before).unwrap();
}

#[test]
fn openclips_folders_agree_with_open_clip() {
    let dir = common::scratch();
    if !common::oracle("open_clip.py", [dir.path()]) {
        return;
    }
    for name in ["quick_gelu", "custom_text", "longest"] {
        agrees(&dir.path().join(name));
    }
    common::scores_and_searches("open_clip", &dir.path().join("quick_gelu"));
    what_is_wrong_is_seen(&dir.path().join("quick_gelu"));
    what_is_not_supported_is_refused(&dir.path().join("quick_gelu"));
}

/// The oracle can fail: another activation, filter, crop or rule for captions is far from it.
fn what_is_wrong_is_seen(dir: &Path) {
    with(
        dir,
        |config| config["model_cfg"]["quick_gelu"] = false.into(),
        || {
            let [image, text] = apart(dir, F32);
            assert!(image > 1e-3 && text > 1e-3, "{image:e}, {text:e}");
        },
    );
    let case = case(dir);
    let theirs = std::fs::read(dir.join("pixels.u8")).unwrap();
    for (key, value) in [("interpolation", "bilinear"), ("resize_mode", "squash")] {
        let change = |config: &mut Value| config["preprocess_cfg"][key] = value.into();
        with(dir, change, || {
            assert!(pixels(&spec(dir), dir, &case).data != theirs, "{key} makes no difference");
        });
    }
    // transformers' crop is another.
    let config = json!({"size": {"shortest_edge": 32}, "crop_size": 32});
    std::fs::write(dir.join("preprocessor_config.json"), config.to_string()).unwrap();
    assert!(pixels(&ModelSpec::new(Family::Clip, dir), dir, &case).data != theirs);
    let clean = |config: &mut Value| {
        config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = json!({"clean": "canonicalize"});
    };
    with(dir, clean, || {
        let tokenizer = tokenizer(dir);
        let differs = |written: &&Written| {
            !tokenizer.encode(&written.caption).is_ok_and(|(ids, _)| ids == written.ids)
        };
        assert!(case.captions.iter().filter(differs).count() > 50);
    });
}

fn what_is_not_supported_is_refused(dir: &Path) {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 7] = [
        (|c| c["vision_cfg"]["timm_model_name"] = "vit".into(), "vision_cfg.timm_model_name is"),
        (|c| c["vision_cfg"]["layers"] = json!([3, 4, 6, 3]), "not ResNets"),
        (|c| c["vision_cfg"]["ls_init_value"] = 0.1.into(), "vision_cfg.ls_init_value is 0.1"),
        (|c| c["text_cfg"]["hf_model_name"] = "xlm".into(), "text_cfg.hf_model_name is \"xlm\""),
        (|c| c["text_cfg"]["no_causal_mask"] = true.into(), "text_cfg.no_causal_mask is true"),
        (|c| c["text_cfg"]["heads"] = 5.into(), "text_cfg.heads makes 5 heads"),
        (|c| c["custom_text"] = true.into(), "is missing"),
    ];
    for (change, wanted) in cases {
        with(
            dir,
            |config| change(&mut config["model_cfg"]),
            || {
                let error = ModelFiles::open(&spec(dir)).unwrap_err().to_string();
                assert!(error.contains(wanted), "{error}");
            },
        );
    }
    let change = |config: &mut Value| config["preprocess_cfg"]["resize_mode"] = "stretch".into();
    with(dir, change, || {
        let error = Preprocess::of(&spec(dir), &PreprocessSpec::default()).unwrap_err();
        assert!(error.to_string().contains("use shortest, longest or squash"), "{error}");
    });
}

#[test]
fn the_readme_has_the_table_of_families() {
    let printed = common::clipmill(["models"]).ok().stdout;
    let readme = std::fs::read_to_string(common::root().join("README.md")).unwrap();
    assert!(readme.contains(printed.trim_end()), "README.md has another table than\n{printed}");
    assert!(Family::ALL.iter().all(|family| printed.contains(&format!("| `{family}` |"))));
    let sample = common::clipmill(["models", "sample_data/model", "--json"]).ok().stdout;
    let sample: Value = serde_json::from_str(&sample).unwrap();
    assert_eq!(sample["family"], "clip");
    assert_eq!(sample["image_tower"]["side"], 48);
    assert!(common::clipmill(["models", "sample_data/model"]).ok().stdout.contains("image tower"));
    assert_ne!(common::clipmill(["models", "sample_data"]).code, 0);
}
