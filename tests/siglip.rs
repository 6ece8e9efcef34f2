//! SigLIP and SigLIP 2 against transformers: embeddings, token ids and pixels of random models.
//!
//! tests/oracle/siglip.py makes the folders, tokenizers included, and computes what is expected.

mod common;

use std::path::Path;

use clipmill::batch::{Captions, PixelScale, Pixels};
use clipmill::error::RowStatus;
use clipmill::images::Preprocess;
use clipmill::model::device::Placement;
use clipmill::model::{DualEncoder, ModelFiles, Towers, family};
use clipmill::spec::{CaptionSpec, Family, ModelSpec, PreprocessSpec, SpecialTokensSpec};
use clipmill::text::Tokenizer;
use serde::Deserialize;
use serde_json::Value;
use tch::{Device, Kind};

const F32: Placement = Placement { device: Device::Cpu, kind: Kind::Float };
const BF16: Placement = Placement { device: Device::Cpu, kind: Kind::BFloat16 };

/// What the oracle wrote beside a model.
#[derive(Deserialize)]
struct Case {
    /// What is made of each caption.
    captions: Vec<Written>,
    images: Vec<String>,
    logit_scale: f32,
    logit_bias: f32,
}

#[derive(Deserialize)]
struct Written {
    caption: String,
    ids: Vec<i64>,
    /// Tokens before truncation.
    all: u32,
}

fn spec(dir: &Path) -> ModelSpec {
    ModelSpec::new(Family::Siglip, dir)
}

fn case(dir: &Path) -> Case {
    serde_json::from_slice(&std::fs::read(dir.join("case.json")).unwrap()).unwrap()
}

fn tokenizer(dir: &Path) -> Tokenizer {
    let context = ModelFiles::open(&spec(dir)).unwrap().context_length();
    Tokenizer::of(&spec(dir), context, &CaptionSpec::default()).unwrap()
}

fn preprocess(dir: &Path) -> Preprocess {
    Preprocess::of(&spec(dir), &PreprocessSpec::default()).unwrap()
}

/// The images as u8 pixels, one after another.
fn pixels(dir: &Path, case: &Case) -> Pixels {
    let preprocess = preprocess(dir);
    let (height, width) = (preprocess.height(), preprocess.width());
    let mut data = vec![0; case.images.len() * preprocess.n_bytes()];
    for (name, slot) in case.images.iter().zip(data.chunks_exact_mut(preprocess.n_bytes())) {
        let bytes = std::fs::read(dir.join(name)).unwrap();
        preprocess.apply(&bytes, slot).1.unwrap();
    }
    Pixels { data, height, width, rows: (0..case.images.len() as u32).collect() }
}

fn load(dir: &Path, scale: PixelScale, placement: Placement) -> Box<dyn DualEncoder> {
    ModelFiles::open(&spec(dir)).unwrap().load(Towers::BOTH, scale, placement).unwrap()
}

/// How far image and text embeddings are from the oracle's, at most.
fn apart(dir: &Path, placement: Placement) -> [f32; 2] {
    let case = case(dir);
    let model = load(dir, preprocess(dir).scale(), placement);
    assert!((model.logit_scale() / case.logit_scale - 1.0).abs() < 1e-5);
    assert!((model.logit_bias().unwrap() - case.logit_bias).abs() < 1e-5);
    let image = model.encode_image(&pixels(dir, &case)).unwrap();
    let ids: Vec<_> = case.captions.iter().map(|written| written.ids.clone()).collect();
    let rows = (0..ids.len() as u32).collect();
    let text = model.encode_text(&Captions { ids, rows }).unwrap();
    let apart = [(&image, "image.f32"), (&text, "text.f32")]
        .map(|(ours, name)| common::most_apart(&ours.data, &common::read_f32(&dir.join(name))));
    eprintln!("{} on {placement}: image {:e}, text {:e}", dir.display(), apart[0], apart[1]);
    apart
}

fn agrees(dir: &Path) {
    assert_eq!(family::detect(dir).unwrap(), Family::Siglip);
    let case = case(dir);
    let tokenizer = tokenizer(dir);
    let (mut compared, mut empty) = (0, 0);
    for Written { caption, ids, all } in &case.captions {
        match tokenizer.encode(caption) {
            Ok((ours, info)) => {
                assert_eq!(&ours, ids, "{caption:?}");
                assert_eq!(info.tokens, *all, "{caption:?}");
                assert_eq!(info.truncated, *all as usize > ids.len(), "{caption:?}");
                compared += 1;
            }
            Err(error) => {
                assert_eq!(error.status, RowStatus::CaptionEmpty, "{caption:?}");
                assert!(*all <= 2, "{caption:?}");
                empty += 1;
            }
        }
    }
    assert!(compared > 100 && empty < 20, "{compared} captions, {empty} empty");
    let theirs = std::fs::read(dir.join("pixels.u8")).unwrap();
    assert!(pixels(dir, &case).data == theirs, "{}: other pixels", dir.display());
    let [image, text] = apart(dir, F32);
    assert!(image <= 1e-5 && text <= 1e-5, "{image:e}, {text:e}");
    let [image, text] = apart(dir, BF16);
    assert!(image <= 2e-2 && text <= 2e-2, "{image:e}, {text:e}");
}

/// A JSON file of the folder with something changed, for as long as `then` runs.
fn with(dir: &Path, file: &str, change: impl FnOnce(&mut Value), then: impl FnOnce()) {
    let path = dir.join(file);
    let before = std::fs::read(&path).unwrap();
    let mut json = serde_json::from_slice(&before).unwrap();
    change(&mut json);
    std::fs::write(&path, json.to_string()).unwrap();
    then();
    std::fs::write(&path, before).unwrap();
}

#[test]
fn siglip_and_siglip_2_agree_with_transformers() {
    let dir = common::scratch();
    if !common::oracle("siglip.py", [dir.path()]) {
        return;
    }
    let [one, two] = ["siglip", "siglip2"].map(|name| dir.path().join(name));
    agrees(&one);
    agrees(&two);
    agrees(&dir.path().join("gemma"));
    common::scores_and_searches("siglip", &one);
    what_is_wrong_is_seen(&one);
    what_is_not_supported_is_refused(&one);
}

/// The oracle can fail: another activation, filter or rule for captions is far from it.
fn what_is_wrong_is_seen(dir: &Path) {
    let activation = |config: &mut Value| {
        config["vision_config"]["hidden_act"] = "quick_gelu".into();
        config["text_config"]["hidden_act"] = "gelu".into();
    };
    with(dir, "config.json", activation, || {
        let [image, text] = apart(dir, F32);
        assert!(image > 1e-3 && text > 2e-5, "{image:e}, {text:e}");
    });
    let case = case(dir);
    let theirs = std::fs::read(dir.join("pixels.u8")).unwrap();
    for (key, value) in [("resample", Value::from(2)), ("size", 32.into())] {
        let change = |config: &mut Value| {
            config[key] = value;
            config["crop_size"] = 32.into();
            config["do_center_crop"] = true.into();
        };
        with(dir, "preprocessor_config.json", change, || {
            assert!(pixels(dir, &case).data != theirs, "{key} makes no difference");
        });
    }
    let class = |config: &mut Value| config["tokenizer_class"] = "GemmaTokenizer".into();
    with(dir, "tokenizer_config.json", class, || {
        let tokenizer = tokenizer(dir);
        let same = |written: &&Written| {
            tokenizer.encode(&written.caption).is_ok_and(|(ids, _)| ids == written.ids)
        };
        let same = case.captions.iter().filter(same).count();
        assert!(same * 2 < case.captions.len(), "{same} captions are the same");
    });
}

fn what_is_not_supported_is_refused(dir: &Path) {
    let refused = |change: fn(&mut Value), wanted: &str| {
        with(dir, "config.json", change, || {
            let error = ModelFiles::open(&spec(dir)).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        });
    };
    refused(|c| c["model_type"] = "siglip2".into(), "take the weights of a fixed resolution");
    refused(|c| c["model_type"] = "clip".into(), "take [model.clip]");
    refused(|c| c["vision_config"]["vision_use_head"] = false.into(), "gives no embedding");
    refused(|c| c["text_config"]["projection_size"] = 7.into(), "projection_size is 7");
    refused(|c| c["text_config"]["hidden_act"] = "relu".into(), "text_config.hidden_act is");
    refused(|c| c["vision_config"]["hidden_size"] = 64.into(), "vision_config.hidden_size = 64");

    let control =
        CaptionSpec { special_tokens: SpecialTokensSpec::Control, ..CaptionSpec::default() };
    let error = Tokenizer::of(&spec(dir), 16, &control).err().unwrap().to_string();
    assert!(error.contains("special_tokens"), "{error}");
    let class = |config: &mut Value| config["tokenizer_class"] = "BertTokenizer".into();
    with(dir, "tokenizer_config.json", class, || {
        let error = Tokenizer::of(&spec(dir), 16, &CaptionSpec::default()).err().unwrap();
        assert!(error.to_string().contains("tokenizer_class is \"BertTokenizer\""), "{error}");
    });
    let short = Captions { ids: vec![vec![1; 15]], rows: vec![0] };
    let error = load(dir, PixelScale::NONE, F32).encode_text(&short).unwrap_err().to_string();
    assert!(error.contains("max_position_embeddings is 16"), "{error}");
}
