//! OpenCLIP's folders against open_clip: embeddings, token ids and pixels of random models.
//!
//! tests/oracle/open_clip.py makes the folders, in both layouts of the weights and with towers of
//! timm, and computes what is expected.

use clipmill::images::Preprocess;
use clipmill::model::ModelFiles;
use clipmill::spec::{CaptionSpec, Family, ModelSpec, PreprocessSpec};
use clipmill::text::Tokenizer;
use serde_json::{Value, json};

use crate::common;
use crate::common::family::{F32, Folder};

const CONFIG: &str = "open_clip_config.json";

#[test]
fn openclips_folders_agree_with_open_clip() {
    let dir = common::scratch();
    if !common::oracle("open_clip.py", [dir.path()]) {
        return;
    }
    let folder = |name: &str| Folder::read(Family::OpenClip, &dir.path().join(name));
    for name in ["quick_gelu", "custom_text", "longest", "xlm"] {
        let folder = folder(name);
        folder.agrees(300, folder.expected.captions.len());
    }
    let names =
        ["pe", "pe_bare", "eva02", "mobile", "mobile2", "mci0", "mci3", "siglip", "siglip2"];
    for name in names.into_iter().chain(["xlm_cls"]) {
        folder(name).agrees(100, 20);
    }
    folder("mci0").neighbours_do_not_matter();
    let one = folder("quick_gelu");
    common::scores_and_searches("open_clip", &one.dir);
    what_is_wrong_is_seen(&one);
    what_is_not_supported_is_refused(&one);
    wrong_towers_of_timm_are_seen(&folder);
    wrong_towers_of_hugging_face_are_seen(&folder);
}

/// A name whose tower has other activations or other rotary positions is far from the oracle; a
/// tower that is not known, or read in another way, is refused.
fn wrong_towers_of_timm_are_seen(folder: &dyn Fn(&str) -> Folder) {
    fn vision(key: &'static str, value: impl Into<Value>) -> impl FnOnce(&mut Value) {
        let value = value.into();
        move |config| config["model_cfg"]["vision_cfg"][key] = value
    }
    // The exact GELU is near to the one by tanh.
    for (name, other, least) in [
        ("siglip2", "vit_so400m_patch14_siglip_384", 2e-5),
        ("pe_bare", "vit_pe_core_large_patch14_336", 1e-3),
    ] {
        let folder = folder(name);
        folder.with(CONFIG, vision("timm_model_name", other), || {
            let [image, text] = folder.apart(F32);
            assert!(image > least && text <= 1e-5, "{image:e}, {text:e}");
        });
    }
    let siglip = folder("siglip");
    let clean = |config: &mut Value| {
        config["model_cfg"]["text_cfg"]["tokenizer_kwargs"]["clean"] = "whitespace".into();
    };
    siglip.with(CONFIG, clean, || assert!(siglip.other_captions() > 30));
    let heads = vision("timm_model_name", "vit_pe_core_large_patch14_336");
    siglip.refuses(CONFIG, heads, "has 16 heads, and the weights' width is 48");
    siglip.refuses(CONFIG, vision("timm_model_name", "resnet50"), "of timm's towers clipmill");
    siglip.refuses(CONFIG, vision("timm_pool", "avg"), "timm_pool is \"avg\"");
    siglip.refuses(CONFIG, vision("timm_proj", "mlp"), "timm_proj is \"mlp\"");
    let mci0 = folder("mci0");
    mci0.refuses(CONFIG, vision("timm_pool", "token"), "clipmill computes this tower with \"avg\"");
    mci0.refuses(CONFIG, vision("timm_proj", "linear"), "visual.head.proj.weight\" is missing");
    mci0.refuses(CONFIG, vision("timm_model_name", "fastvit_sa12"), "of timm's towers clipmill");
    let folded = ModelSpec::new(Family::OpenClip, format!("{}_folded", mci0.dir.display()));
    let error = ModelFiles::open(&folded).unwrap_err().to_string();
    assert!(error.contains("branches were folded (reparam_conv)"), "{error}");
    let shown = common::clipmill(["models", mci0.dir.to_str().unwrap(), "--json"]).ok().stdout;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let mixers = "convolution, convolution, convolution, attention of 2 heads";
    assert_eq!(shown["image_tower"]["mixers"], mixers);
    siglip.refuses(CONFIG, vision("image_size", 7), "image_size is 7, and a patch has 8");
    siglip.refuses(CONFIG, |c| c["model_cfg"]["embed_dim"] = 24.into(), "embed_dim is 24");
    let class = |config: &mut Value| config["tokenizer_class"] = "BertTokenizer".into();
    siglip.with("tokenizer_config.json", class, || {
        let error = Tokenizer::of(&siglip.spec, 16, &CaptionSpec::default()).err().unwrap();
        assert!(error.to_string().contains("tokenizer_class is \"BertTokenizer\""), "{error}");
    });
}

/// Another pooling is far from the oracle; a tower that is not known is refused.
fn wrong_towers_of_hugging_face_are_seen(folder: &dyn Fn(&str) -> Folder) {
    fn text(key: &'static str, value: impl Into<Value>) -> impl FnOnce(&mut Value) {
        let value = value.into();
        move |config| config["model_cfg"]["text_cfg"][key] = value
    }
    let one = folder("xlm");
    one.with(CONFIG, text("hf_pooler_type", "cls_last_hidden_state_pooler"), || {
        let [image, text] = one.apart(F32);
        assert!(image <= 1e-5 && text > 1e-3, "{image:e}, {text:e}");
    });
    let clean = text("tokenizer_kwargs", json!({"clean": "canonicalize"}));
    one.with(CONFIG, clean, || assert!(one.other_captions() > 50));
    one.refuses(CONFIG, text("hf_pooler_type", "max_pooler"), "hf_pooler_type is \"max_pooler\"");
    one.refuses(CONFIG, text("hf_proj_type", "both"), "hf_proj_type is \"both\"");
    one.refuses(CONFIG, text("hf_tokenizer_name", ""), "hf_tokenizer_name is missing");
    one.refuses(CONFIG, text("hf_model_name", "bert-base"), "of Hugging Face's towers clipmill");
    one.refuses(CONFIG, text("context_length", 89), "the weights have 90 positions");
}

/// The oracle can fail: another activation, filter, crop or rule for captions is far from it.
fn what_is_wrong_is_seen(folder: &Folder) {
    let activation = |config: &mut Value| config["model_cfg"]["quick_gelu"] = false.into();
    folder.with(CONFIG, activation, || {
        let [image, text] = folder.apart(F32);
        assert!(image > 1e-3 && text > 1e-3, "{image:e}, {text:e}");
    });
    for (key, value) in [("interpolation", "bilinear"), ("resize_mode", "squash")] {
        let change = |config: &mut Value| config["preprocess_cfg"][key] = value.into();
        folder.with(CONFIG, change, || {
            assert!(!folder.has_pixels_of(&folder.spec), "{key} makes no difference");
        });
    }
    // transformers' crop is another.
    let config = json!({"size": {"shortest_edge": 32}, "crop_size": 32});
    std::fs::write(folder.dir.join("preprocessor_config.json"), config.to_string()).unwrap();
    assert!(!folder.has_pixels_of(&ModelSpec::new(Family::Clip, &folder.dir)));
    let clean = |config: &mut Value| {
        config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = json!({"clean": "canonicalize"});
    };
    folder.with(CONFIG, clean, || assert!(folder.other_captions() > 50));
}

fn what_is_not_supported_is_refused(folder: &Folder) {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 7] = [
        (|c| c["vision_cfg"]["timm_model_name"] = "vit".into(), "vision_cfg.timm_model_name is"),
        (|c| c["vision_cfg"]["layers"] = json!([3, 4, 6, 3]), "not ResNets"),
        (|c| c["vision_cfg"]["ls_init_value"] = 0.1.into(), "vision_cfg.ls_init_value is 0.1"),
        (|c| c["text_cfg"]["hf_model_name"] = "xlm".into(), "text_cfg.hf_model_name is \"xlm\""),
        (|c| c["text_cfg"]["pool_type"] = "first".into(), "text_cfg.pool_type is \"first\""),
        (|c| c["text_cfg"]["heads"] = 5.into(), "text_cfg.heads makes 5 heads"),
        (|c| c["custom_text"] = true.into(), "is missing"),
    ];
    for (change, wanted) in cases {
        folder.refuses(CONFIG, |config| change(&mut config["model_cfg"]), wanted);
    }
    let change = |config: &mut Value| config["preprocess_cfg"]["resize_mode"] = "stretch".into();
    folder.with(CONFIG, change, || {
        let error = Preprocess::of(&folder.spec, &PreprocessSpec::default()).unwrap_err();
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
