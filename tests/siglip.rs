//! SigLIP, SigLIP 2 (NaFlex too) and Chinese-CLIP against transformers: embeddings, token ids and pixels of
//! random models.
//!
//! tests/oracle/siglip.py makes the folders, tokenizers included, and computes what is expected.

use std::path::Path;

use clipmill::batch::{Captions, Grid, PixelScale, Pixels};
use clipmill::images::Preprocess;
use clipmill::images::resize::Size;
use clipmill::model::{DualEncoder, ModelFiles, Towers};
use clipmill::spec::{CaptionSpec, Family, ModelSpec, PreprocessSpec, SpecialTokensSpec};
use clipmill::text::Tokenizer;
use serde_json::Value;

use crate::common;
use crate::common::family::{F32, Folder};
use crate::common::{clipmill, most_apart, read_f32};

#[test]
fn siglip_and_chinese_clip_agree_with_transformers() {
    let dir = common::scratch();
    if !common::oracle("siglip.py", [dir.path()]) {
        return;
    }
    let folder = |name: &str| Folder::read(Family::Siglip, &dir.path().join(name));
    for name in ["siglip", "siglip2", "gemma"] {
        folder(name).agrees(100, 19);
    }
    let one = folder("siglip");
    common::scores_and_searches("siglip", &one.dir);
    what_is_wrong_is_seen(&one);
    what_is_not_supported_is_refused(&one);
    let any_shape = folder("naflex");
    naflex(&any_shape);
    share_a_pass([&any_shape, &one]);
    chinese_clip(&Folder::read(Family::ChineseClip, &dir.path().join("chinese_clip")));
}

/// Images keep their shape: wide, tall, tiny and square ones, with more patches along a side than
/// there are positions, and with fewer.
fn naflex(folder: &Folder) {
    folder.agrees(100, 19);
    let preprocess = || Preprocess::of(&folder.spec, &PreprocessSpec::default()).unwrap();
    let model = folder.files().load(Towers::BOTH, preprocess().scale(), F32).unwrap();
    let pixels = folder.pixels_of(&folder.spec);
    let image = model.encode_image(&pixels).unwrap();
    // Positions without antialiasing; padding that blocks and pooling see, and pooling alone.
    for wrong in ["aliased.f32", "seen.f32", "pooled.f32"] {
        let apart = most_apart(&image.data, &read_f32(&folder.dir.join(wrong)));
        assert!(apart > 1e-3, "{wrong}: {apart:e}");
    }
    neighbours_do_not_matter(model.as_ref(), &pixels);

    let file = "preprocessor_config.json";
    for (key, value) in [("resample", 3), ("max_num_patches", 19), ("patch_size", 4)] {
        folder.with(
            file,
            |config| config[key] = value.into(),
            || {
                assert!(!folder.has_pixels_of(&folder.spec), "{key} makes no difference");
            },
        );
    }
    folder.with(
        file,
        |config| config["patch_size"] = 4.into(),
        || {
            let error =
                model.encode_image(&folder.pixels_of(&folder.spec)).unwrap_err().to_string();
            let wanted = "vision_config.patch_size is 8 and the pixels are patches of 4x4";
            assert!(error.contains(wanted), "{error}");
        },
    );
    for (key, value) in [("do_resize", Value::from(false)), ("max_num_patches", 0.into())] {
        folder.with(
            file,
            |config| config[key] = value,
            || {
                let error = Preprocess::of(&folder.spec, &PreprocessSpec::default()).unwrap_err();
                assert!(error.to_string().contains(key), "{error}");
            },
        );
    }
    let positions = |config: &mut Value| config["vision_config"]["num_patches"] = 15.into();
    folder.refuses("config.json", positions, "num_patches is 15, and the positions");
    let clip = ModelSpec::new(Family::Clip, &folder.dir);
    let error = ModelFiles::open(&clip).unwrap_err().to_string();
    assert!(error.contains("take [model.siglip]"), "{error}");

    let grids = std::fs::read(folder.dir.join("grids.json")).unwrap();
    let grids: Vec<[usize; 6]> = serde_json::from_slice(&grids).unwrap();
    for same in grids.chunk_by(|a, b| a[2..4] == b[2..4]) {
        let sizes = |config: &mut Value| {
            config["patch_size"] = same[0][2].into();
            config["max_num_patches"] = same[0][3].into();
        };
        folder.with(file, sizes, || {
            let preprocess = preprocess();
            for &[width, height, _, _, rows, columns] in same {
                let grid = preprocess.grid(Size { width, height });
                assert_eq!(grid, Some(Grid { rows, columns }), "{width}x{height}");
            }
        });
    }
}

/// The images in one run, for a model of squares too, and each searched for: scores are the cosines of
/// the reference's embeddings.
fn share_a_pass([folder, squares]: [&Folder; 2]) {
    let dir = common::scratch();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let model = |name: &str, dir: &Path| {
        format!("[model.siglip.{name}]\ndir = {dir:?}\nprecision = \"f32\"\n")
    };
    let column =
        |name: &str| format!("{name} = {{ kind = \"image_embedding\", model = \"{name}\" }}\n");
    let pipeline = format!(
        "version = 1\n[source.folder]\npath = {:?}\n{}{}[columns]\n{}{}[sink.parquet]\npath = {:?}\n",
        folder.dir,
        model("squares", &squares.dir),
        model("naflex", &folder.dir),
        column("squares"),
        column("naflex"),
        at("out")
    );
    std::fs::write(at("two.toml"), pipeline).unwrap();
    folder.with(
        "preprocessor_config.json",
        |config| config["patch_size"] = 4.into(),
        || {
            let refused = clipmill(["check", &at("two.toml")]);
            let wanted =
                "images as patches of 4x4, and config.json's image tower takes patches of 8x8";
            assert!(refused.code == 1 && refused.stderr.contains(wanted), "{}", refused.stderr);
        },
    );
    clipmill(["run", &at("two.toml")]).ok();

    let images = &folder.expected.images;
    let path = |name: &String| folder.dir.join(name).display().to_string();
    let asked = images.iter().flat_map(|name| ["--image".to_owned(), path(name)]);
    let how = ["--column", "naflex", "--top", "99", "--precision", "f32", "--json"];
    let args = ["search".to_owned(), at("out")].into_iter().chain(how.map(str::to_owned));
    let found: Value = serde_json::from_str(&clipmill(args.chain(asked)).ok().stdout).unwrap();
    let theirs = read_f32(&folder.dir.join("image.f32"));
    let theirs: Vec<_> = theirs.chunks(theirs.len() / images.len()).collect();
    let queries = found["queries"].as_array().unwrap();
    assert_eq!(queries.len(), images.len());
    for (query, embedding) in queries.iter().zip(&theirs) {
        let hits = query["hits"].as_array().unwrap();
        assert_eq!(hits.len(), images.len());
        for hit in hits {
            let name = Path::new(hit["image_path"].as_str().unwrap()).file_name().unwrap();
            let other = images.iter().position(|image| name == image.as_str()).unwrap();
            let cosine: f32 = embedding.iter().zip(theirs[other]).map(|(a, b)| a * b).sum();
            assert!((hit["score"].as_f64().unwrap() as f32 - cosine).abs() < 1e-5, "{hit}");
        }
    }
}

/// Each image alone, and all of them the other way round.
fn neighbours_do_not_matter(model: &dyn DualEncoder, pixels: &Pixels) {
    let n = pixels.rows.len();
    let of = |slots: &[usize]| {
        let bytes = pixels.shape.n_bytes();
        let data = slots.iter().flat_map(|slot| &pixels.data[slot * bytes..][..bytes]);
        let grids = slots.iter().map(|&slot| pixels.grids[slot]).collect();
        let rows = (0..slots.len() as u32).collect();
        let pixels = Pixels { data: data.copied().collect(), shape: pixels.shape, grids, rows };
        model.encode_image(&pixels).unwrap()
    };
    let backwards: Vec<_> = (0..n).rev().collect();
    let (together, backwards) = (model.encode_image(pixels).unwrap(), of(&backwards));
    for slot in 0..n {
        for other in [of(&[slot]).slot(0), backwards.slot(n - 1 - slot)] {
            assert!(most_apart(other, together.slot(slot)) < 1e-6, "{slot}");
        }
    }
}

/// BERT reads captions: another activation, case or crop is seen, vocab.txt is the same tokenizer.
fn chinese_clip(folder: &Folder) {
    folder.agrees(300, 19);
    common::scores_and_searches("chinese_clip", &folder.dir);
    let activation = |config: &mut Value| {
        config["vision_config"]["hidden_act"] = "gelu".into();
        config["text_config"]["hidden_act"] = "quick_gelu".into();
    };
    folder.with("config.json", activation, || {
        let [image, text] = folder.apart(F32);
        assert!(image > 1e-3 && text > 1e-3, "{image:e}, {text:e}");
    });
    let resample = |config: &mut Value| config["resample"] = 2.into();
    folder.with("preprocessor_config.json", resample, || {
        assert!(!folder.has_pixels_of(&folder.spec), "resample makes no difference");
    });
    let case = |config: &mut Value| config["do_lower_case"] = false.into();
    folder.with("tokenizer_config.json", case, || assert!(folder.other_captions() > 50));
    let refused =
        |change: fn(&mut Value), wanted: &str| folder.refuses("config.json", change, wanted);
    refused(|c| c["model_type"] = "clip".into(), "take [model.clip]");
    refused(|c| c["text_config"]["type_vocab_size"] = 3.into(), "token_type_embeddings");

    let (whole, lines) = (folder.dir.join("tokenizer.json"), folder.dir.join("vocab.txt"));
    let json: Value = serde_json::from_slice(&std::fs::read(&whole).unwrap()).unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let mut pieces: Vec<_> =
        vocab.iter().map(|(piece, id)| (id.as_u64(), piece.as_str())).collect();
    pieces.sort_unstable();
    let text: Vec<_> = pieces.into_iter().map(|(_, piece)| piece).collect();
    std::fs::write(lines, text.join("\n")).unwrap();
    std::fs::remove_file(whole).unwrap();
    assert_eq!(folder.other_captions(), folder.without_tokens());
}

/// The oracle can fail: another activation, filter or rule for captions is far from it.
fn what_is_wrong_is_seen(folder: &Folder) {
    let activation = |config: &mut Value| {
        config["vision_config"]["hidden_act"] = "quick_gelu".into();
        config["text_config"]["hidden_act"] = "gelu".into();
    };
    folder.with("config.json", activation, || {
        let [image, text] = folder.apart(F32);
        assert!(image > 1e-3 && text > 2e-5, "{image:e}, {text:e}");
    });
    for (key, value) in [("resample", Value::from(2)), ("size", 32.into())] {
        let change = |config: &mut Value| {
            config[key] = value;
            config["crop_size"] = 32.into();
            config["do_center_crop"] = true.into();
        };
        folder.with("preprocessor_config.json", change, || {
            assert!(!folder.has_pixels_of(&folder.spec), "{key} makes no difference");
        });
    }
    let class = |config: &mut Value| config["tokenizer_class"] = "GemmaTokenizer".into();
    folder.with("tokenizer_config.json", class, || {
        let (other, all) = (folder.other_captions(), folder.expected.captions.len());
        assert!(other * 2 > all, "{other} captions differ");
    });
}

fn what_is_not_supported_is_refused(folder: &Folder) {
    let refused =
        |change: fn(&mut Value), wanted: &str| folder.refuses("config.json", change, wanted);
    refused(|c| c["model_type"] = "clip".into(), "take [model.clip]");
    refused(|c| c["vision_config"]["vision_use_head"] = false.into(), "gives no embedding");
    refused(|c| c["text_config"]["projection_size"] = 7.into(), "projection_size is 7");
    refused(|c| c["text_config"]["hidden_act"] = "relu".into(), "text_config.hidden_act is");
    refused(|c| c["vision_config"]["hidden_size"] = 64.into(), "vision_config.hidden_size = 64");

    let control =
        CaptionSpec { special_tokens: SpecialTokensSpec::Control, ..CaptionSpec::default() };
    let error = Tokenizer::of(&folder.spec, 16, &control).err().unwrap().to_string();
    assert!(error.contains("special_tokens"), "{error}");
    let class = |config: &mut Value| config["tokenizer_class"] = "BertTokenizer".into();
    folder.with("tokenizer_config.json", class, || {
        let error = Tokenizer::of(&folder.spec, 16, &CaptionSpec::default()).err().unwrap();
        assert!(error.to_string().contains("tokenizer_class is \"BertTokenizer\""), "{error}");
    });
    let short = Captions { ids: vec![vec![1; 15]], rows: vec![0] };
    let model = folder.files().load(Towers::BOTH, PixelScale::NONE, F32).unwrap();
    let error = model.encode_text(&short).unwrap_err().to_string();
    assert!(error.contains("max_position_embeddings is 16"), "{error}");
}
