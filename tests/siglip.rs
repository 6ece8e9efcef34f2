//! SigLIP and SigLIP 2 against transformers: embeddings, token ids and pixels of random models.
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
fn siglip_and_siglip_2_agree_with_transformers() {
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
