//! Every way in which a model folder can be wrong gives the error that names it.
//!
//! The folders are the sample's model with one thing changed. What right weights compute is
//! tested in `towers.rs`.

use std::collections::BTreeMap;
use std::path::Path;

use clipmill::batch::PixelScale;
use clipmill::digest;
use clipmill::error::Error;
use clipmill::model::architecture::{Activation, Pooling, Vision};
use clipmill::model::device::Placement;
use clipmill::model::family;
use clipmill::model::{ModelFiles, Towers};
use clipmill::spec::{Family, ModelSpec};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde_json::{Value, json};
use tch::{Device, Kind};
use tempfile::TempDir;

use crate::common;

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const SOME: &str = "text_model.encoder.layers.1.mlp.fc1.bias";

/// Tensor name -> type, shape and bytes.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn sample() -> Tensors {
    let bytes = std::fs::read(common::sample().join("model").join(WEIGHTS)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let parts = |view: TensorView| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
    tensors.tensors().into_iter().map(|(name, view)| (name, parts(view))).collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    std::fs::write(path, serialize(views, None).unwrap()).unwrap();
}

/// A folder with the sample's config.json and no weights.
fn folder() -> TempDir {
    let dir = common::scratch();
    let config = common::sample().join("model/config.json");
    std::fs::copy(config, dir.path().join("config.json")).unwrap();
    dir
}

/// The sample's model with its weights changed.
fn with_weights(change: impl FnOnce(&mut Tensors)) -> TempDir {
    let (dir, mut tensors) = (folder(), sample());
    change(&mut tensors);
    write(&dir.path().join(WEIGHTS), &tensors);
    dir
}

/// The sample's model with its configuration changed.
fn with_config(change: impl FnOnce(&mut Value)) -> TempDir {
    let dir = with_weights(|_| ());
    let path = dir.path().join("config.json");
    let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(path, config.to_string()).unwrap();
    dir
}

/// The sample's weights in two shards, with the index changed.
fn sharded(change: impl FnOnce(&mut Tensors, &mut Value)) -> TempDir {
    let dir = folder();
    let names = ["a.safetensors", "b.safetensors"];
    let (mut first, mut second) = (sample(), Tensors::new());
    while first.len() > second.len() {
        second.extend(first.pop_last());
    }
    let listed = first.keys().map(|name| (name.clone(), names[0]));
    let listed = listed.chain(second.keys().map(|name| (name.clone(), names[1])));
    let mut index = json!({"weight_map": listed.collect::<BTreeMap<_, _>>()});
    change(&mut first, &mut index);
    write(&dir.path().join(names[0]), &first);
    write(&dir.path().join(names[1]), &second);
    std::fs::write(dir.path().join(INDEX), index.to_string()).unwrap();
    dir
}

fn open(dir: &Path) -> Result<ModelFiles, Error> {
    ModelFiles::open(&ModelSpec::new(Family::Clip, dir))
}

fn refused(dir: &TempDir) -> Error {
    open(dir.path()).expect_err("is refused")
}

#[track_caller]
fn names_tensor(error: &Error, name: &str, wanted: &str) {
    assert!(matches!(error, Error::Tensor { tensor, .. } if tensor == name), "{error}");
    assert!(error.to_string().contains(wanted), "{error}");
}

#[track_caller]
fn is_model_file(error: &Error, wanted: &str) {
    assert!(matches!(error, Error::ModelFile { .. }), "{error}");
    assert!(error.to_string().contains(wanted), "{error}");
}

#[test]
fn a_tensor_that_is_missing_or_too_many_is_named() {
    let dir = with_weights(|tensors| drop(tensors.remove(SOME)));
    names_tensor(&refused(&dir), SOME, "is missing");
    let dir = with_weights(|tensors| {
        tensors.insert("text_model.adapter".into(), (Dtype::F16, vec![2], vec![0; 4]));
    });
    names_tensor(&refused(&dir), "text_model.adapter", "is not part of the model");
    // A layer less in config.json is a layer too many in the file, and the other way round.
    let dir = with_config(|config| config["text_config"]["num_hidden_layers"] = json!(2));
    let layer = "text_model.encoder.layers.2.layer_norm1.bias";
    names_tensor(&refused(&dir), layer, "is not part of the model");
    let dir = with_config(|config| config["text_config"]["num_hidden_layers"] = json!(4));
    assert!(refused(&dir).to_string().contains("\"text_model.encoder.layers.3."));
}

#[test]
fn a_misshapen_tensor_or_one_of_another_type_is_named() {
    for shape in [vec![511], vec![1], vec![512, 1], vec![]] {
        let dir = with_weights(|tensors| {
            let bytes = vec![0; 2 * shape.iter().product::<usize>()];
            tensors.insert(SOME.into(), (Dtype::F16, shape, bytes));
        });
        names_tensor(&refused(&dir), SOME, "where config.json makes it [512]");
    }
    let dir = with_config(|config| config["vision_config"]["image_size"] = json!(40));
    let positions = "vision_model.embeddings.position_embedding.weight";
    names_tensor(&refused(&dir), positions, "has shape [37, 128] where config.json makes it");
    let dir = with_weights(|tensors| {
        tensors.insert(SOME.into(), (Dtype::I64, vec![512], vec![0; 8 * 512]));
    });
    names_tensor(&refused(&dir), SOME, "is I64: use F32, F16 or BF16");
}

#[test]
fn a_value_that_is_not_finite_is_named() {
    // A NaN and an infinity in f16.
    for bits in [0x7E00_u16, 0xFC00] {
        let dir = with_weights(|tensors| {
            let (_, _, bytes) = tensors.get_mut(SOME).unwrap();
            bytes[100..102].copy_from_slice(&bits.to_le_bytes());
        });
        let scale = PixelScale { rescale: 1.0, mean: [0.0; 3], std: [1.0; 3] };
        let cpu = Placement { device: Device::Cpu, kind: Kind::Float };
        let error = open(dir.path())
            .and_then(|files| files.load(Towers::BOTH, scale, cpu))
            .err()
            .expect("is refused");
        names_tensor(&error, SOME, "NaN or an infinity");
    }
}

#[test]
fn buffers_of_old_exports_are_known() {
    let dir = with_weights(|tensors| {
        for tower in ["text_model", "vision_model"] {
            let name = format!("{tower}.embeddings.position_ids");
            tensors.insert(name, (Dtype::I64, vec![1, 2], vec![0; 16]));
        }
    });
    open(dir.path()).unwrap();
}

#[test]
fn shards_and_their_index_have_to_fit() {
    open(sharded(|_, _| ()).path()).unwrap();
    let moved = "visual_projection.weight";

    let dir = sharded(|_, index| index["weight_map"][moved] = json!("a.safetensors"));
    names_tensor(&refused(&dir), moved, "says otherwise");

    let dir = sharded(|first, _| {
        first.insert(moved.into(), (Dtype::F16, vec![1], vec![0; 2]));
    });
    names_tensor(&refused(&dir), moved, "is in ");

    let dir = sharded(|first, _| drop(first.pop_first()));
    names_tensor(&refused(&dir), "logit_scale", "is missing, and model.safetensors.index.json");

    let dir = sharded(|_, index| {
        index["weight_map"].as_object_mut().unwrap().remove(moved);
    });
    names_tensor(&refused(&dir), moved, "says otherwise");

    let dir = sharded(|_, index| index["weight_map"]["x"] = json!("../a.safetensors"));
    is_model_file(&refused(&dir), "no plain file name");

    let dir = sharded(|_, _| ());
    std::fs::remove_file(dir.path().join("b.safetensors")).unwrap();
    let error = refused(&dir);
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert!(error.to_string().contains("lists it: copy the whole folder"), "{error}");
}

#[test]
fn a_file_that_is_not_whole_is_named() {
    let whole = std::fs::read(common::sample().join("model").join(WEIGHTS)).unwrap();
    let mut scrambled = whole.clone();
    scrambled[20] = b'!';
    let mut long = whole.clone();
    long.push(0);
    let cut = |n: usize| whole[..n].to_vec();
    let html = b"<html>404</html>".to_vec();
    for bytes in [cut(whole.len() - 1), cut(whole.len() / 2), cut(5), cut(0), html, scrambled, long]
    {
        let dir = folder();
        std::fs::write(dir.path().join(WEIGHTS), bytes).unwrap();
        is_model_file(&refused(&dir), "is not a whole safetensors file");
    }
    let dir = folder();
    std::fs::write(dir.path().join(INDEX), "{\"weight_map\": 3}").unwrap();
    is_model_file(&refused(&dir), "is not an index of shards");
}

/// `safetensors` writes no such header, and takes the last of the two when it reads one.
#[test]
fn a_tensor_that_is_twice_in_one_file_is_named() {
    let dir = with_weights(|_| ());
    let path = dir.path().join(WEIGHTS);
    let bytes = std::fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let (header, data) = bytes[8..].split_at(length);
    let header = std::str::from_utf8(header).unwrap().trim_end();
    let other = format!("{{\"{SOME}\":{{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}},");
    let twice = format!("{other}{}", &header[1..]);
    let whole = [&(twice.len() as u64).to_le_bytes(), twice.as_bytes(), data].concat();
    std::fs::write(&path, whole).unwrap();
    names_tensor(&refused(&dir), SOME, "is there twice");
}

#[test]
fn weights_that_can_run_code_are_not_read() {
    let dir = folder();
    assert!(refused(&dir).to_string().contains("model.safetensors does not exist"));
    std::fs::write(dir.path().join("pytorch_model.bin"), "cposix\nsystem\n").unwrap();
    let error = refused(&dir);
    assert!(matches!(error, Error::PickledWeights { .. }), "{error}");
    assert!(error.to_string().contains("save_pretrained"), "{error}");
    // Beside safetensors it is not looked at.
    write(&dir.path().join(WEIGHTS), &sample());
    open(dir.path()).unwrap();
}

#[test]
fn a_configuration_that_is_not_clips_is_named() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 13] = [
        (|c| c["model_type"] = json!("siglip"), "model_type is \"siglip\""),
        (|c| drop(c.as_object_mut().unwrap().remove("model_type")), "model_type is \"missing\""),
        (|c| c["text_config"]["hidden_act"] = json!("silu"), "text_config.hidden_act is \"silu\""),
        (|c| c["vision_config"]["hidden_act"] = json!(3), "vision_config.hidden_act is 3"),
        (|c| c["vision_config"]["num_channels"] = json!(1), "vision_config.num_channels is not 3"),
        (|c| c["vision_config"]["image_size"] = json!([48, 32]), "image_size is not square"),
        (|c| c["vision_config"]["patch_size"] = json!(64), "patch_size is larger"),
        (|c| c["text_config"]["num_attention_heads"] = json!(5), "does not divide hidden_size 128"),
        (|c| c["text_config"]["hidden_size"] = json!(0), "hidden_size is 0"),
        (|c| c["text_config"]["vocab_size"] = json!(1e30), "vocab_size is 1e+30"),
        // Their names alone would take gigabytes.
        (
            |c| c["text_config"]["num_hidden_layers"] = json!(1 << 24),
            "num_hidden_layers is 16777216, over 1024",
        ),
        (|c| c["text_config"]["eos_token_id"] = json!([1, 2]), "eos_token_id is not one token id"),
        (|c| c["projection_dim"] = json!("128"), "projection_dim is \"128\""),
    ];
    for (change, wanted) in cases {
        is_model_file(&refused(&with_config(change)), wanted);
    }
    assert!(matches!(refused(&common::scratch()), Error::NotFound { .. }));
}

/// As in transformers: missing keys are ViT-B/32's, and `*_config_dict` counts where it is.
#[test]
fn sparse_configurations_take_the_defaults() {
    let dir = common::scratch();
    let write = |json: Value| {
        std::fs::write(dir.path().join("config.json"), json.to_string()).unwrap();
        family::architecture(&ModelSpec::new(Family::Clip, dir.path())).unwrap()
    };
    let transformer = |vision: &Vision| match vision {
        Vision::Transformer(config) => config.clone(),
        Vision::FastVit(_) => panic!("CLIP's image tower is a transformer"),
    };
    let b32 = write(json!({"model_type": "clip"}));
    let vision = transformer(&b32.vision);
    assert_eq!((vision.tower.width, vision.tower.layers, vision.tower.heads), (768, 12, 12));
    assert_eq!((vision.image_size, vision.patch_size, vision.tokens()), (224, 32, 50));
    assert_eq!(
        (b32.text.tower.width, b32.text.vocab_size, b32.text.context_length),
        (512, 49408, 77)
    );
    assert_eq!((b32.embedding_dim, b32.text.pooling), (512, Pooling::FirstOf(49407)));
    assert_eq!(b32.text.tower.activation, Activation::QuickGelu);
    let old = write(json!({
        "model_type": "clip",
        "text_config": {"hidden_size": 1024, "eos_token_id": 49407},
        "text_config_dict": {"hidden_act": "gelu", "eos_token_id": 2},
        "vision_config": {"image_size": [336, 336], "patch_size": 14},
        "vision_config_dict": null,
    }));
    assert_eq!((old.text.tower.width, old.text.pooling), (512, Pooling::HighestId));
    assert_eq!(old.text.tower.activation, Activation::Gelu);
    let vision = transformer(&old.vision);
    assert_eq!((vision.tower.activation, vision.tokens()), (Activation::QuickGelu, 577));
}

#[test]
fn digests_are_sha256sums() {
    let dir = common::scratch();
    let path = dir.path().join("abc");
    std::fs::write(&path, "abc").unwrap();
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(digest::of_file(&path).unwrap(), abc);
    let sample = common::sample().join("model");
    let one = open(&sample).unwrap().weights_sha256().unwrap();
    assert_eq!(one, digest::of_file(&sample.join(WEIGHTS)).unwrap());
    let two = sharded(|_, _| ());
    let line =
        |name: &str| format!("{}  {name}\n", digest::of_file(&two.path().join(name)).unwrap());
    let lines = dir.path().join("lines");
    std::fs::write(&lines, line("a.safetensors") + &line("b.safetensors")).unwrap();
    let both = open(two.path()).unwrap().weights_sha256().unwrap();
    assert_eq!(both, digest::of_file(&lines).unwrap());
}
