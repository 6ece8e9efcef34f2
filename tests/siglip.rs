//! SigLIP, SigLIP 2 and Chinese-CLIP against transformers: embeddings, token ids and pixels of
//! random models.
//!
//! tests/oracle/siglip.py makes the folders, tokenizers included, and computes what is expected.

mod common;

use clipmill::batch::{Captions, PixelScale};
use clipmill::model::Towers;
use clipmill::spec::{CaptionSpec, Family, SpecialTokensSpec};
use clipmill::text::Tokenizer;
use common::family::{F32, Folder};
use serde_json::Value;

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
    chinese_clip(&Folder::read(Family::ChineseClip, &dir.path().join("chinese_clip")));
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
    refused(|c| c["model_type"] = "siglip2".into(), "take the weights of a fixed resolution");
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
