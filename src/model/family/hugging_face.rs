//! Hugging Face's text towers inside OpenCLIP's folders: XLM-RoBERTa.
//!
//! A folder gives such a tower's name and not its config.json: of each name that is known here
//! stands what the weights do not tell; widths, layers and tables are read off their shapes. Other
//! names are refused. Facts: the config.json of those names, `HFTextEncoder` of open_clip's
//! hf_model.py, modeling_xlm_roberta.py of transformers.

use serde_json::Value;

use super::section::Section;
use super::{Source, bert};
use crate::error::Error;
use crate::model::architecture::{
    Activation, BlockKind, Pooling, Projection, Sight, TextConfig, TokenEmbedding, TowerConfig,
};
use crate::model::weights::Weights;

/// Name and heads.
const TOWERS: [(&str, i64); 2] = [("xlm-roberta-base", 12), ("xlm-roberta-large", 16)];

/// Whether a folder's `text_cfg` names such a tower.
pub fn is_named(section: &Section) -> bool {
    section.map.get("hf_model_name").is_some_and(|name| !name.is_null())
}

/// Reads `text_cfg`, and the tower's sizes from the weights.
///
/// # Errors
/// `ModelFile` naming the key that cannot be used; `Tensor` for weights that are no such tower's.
pub fn read(section: &Section, embedding_dim: i64, weights: &Weights) -> Result<TextConfig, Error> {
    let heads = heads(section)?;
    let side = |name: &str, side: usize| -> Result<i64, Error> {
        let shape = weights.shape(&format!("{PREFIX}{name}.weight"))?;
        Ok(shape.get(side).copied().unwrap_or(0))
    };
    let width = side("embeddings.word_embeddings", 1)?;
    if width % heads != 0 {
        let what = format!("has {heads} heads, and the weights' width is {width}");
        return Err(section.problem("hf_model_name", &what));
    }
    let there =
        |layer: &i64| weights.has(&format!("{PREFIX}encoder.layer.{layer}.output.dense.weight"));
    let tower = TowerConfig {
        width,
        mlp_width: side("encoder.layer.0.intermediate.dense", 0)?,
        layers: (0..1024).take_while(there).count() as i64,
        heads,
        activation: Activation::Gelu,
        layer_norm_eps: 1e-5,
        block: BlockKind::PostNorm,
    };
    // The first two rows are that of padding and the one before.
    let (positions, first) = (side("embeddings.position_embeddings", 0)?, 2);
    let context_length = section.size("context_length", 77)?;
    if positions < context_length + first {
        let what = format!("is {context_length}, and the weights have {positions} positions");
        return Err(section.problem("context_length", &what));
    }
    let segments = side("embeddings.token_type_embeddings", 0)?;
    Ok(TextConfig {
        tower,
        vocab_size: side("embeddings.word_embeddings", 0)?,
        context_length,
        embedding: TokenEmbedding::Bert { positions, first, segments },
        pooling: pooling(section)?,
        sight: Sight::Full,
        projection: projection(section, (width + embedding_dim) / 2)?,
    })
}

fn pooling(section: &Section) -> Result<Pooling, Error> {
    match section.map.get("hf_pooler_type").map(Value::as_str) {
        None | Some(Some("mean_pooler")) => Ok(Pooling::Mean),
        Some(Some("cls_pooler")) => Ok(Pooling::FirstThroughTanh),
        Some(Some("cls_last_hidden_state_pooler")) => Ok(Pooling::First),
        _ => Err(not_known(section, "hf_pooler_type")),
    }
}

fn projection(section: &Section, hidden: i64) -> Result<Projection, Error> {
    match section.map.get("hf_proj_type").map(Value::as_str) {
        None | Some(Some("mlp")) => Ok(Projection::Perceptron { hidden }),
        Some(Some("linear")) => Ok(Projection::Product),
        _ => Err(not_known(section, "hf_proj_type")),
    }
}

fn heads(section: &Section) -> Result<i64, Error> {
    let name = section.map.get("hf_model_name").unwrap_or(&Value::Null);
    let short = name.as_str().map(|name| name.rsplit('/').next().unwrap_or(name));
    let known = TOWERS.into_iter().find(|(known, _)| short == Some(known));
    let Some((_, heads)) = known else {
        let names = TOWERS.map(|(name, _)| name).join(", ");
        let what = format!(
            "is {name}: of Hugging Face's towers clipmill computes {names}; take the same weights \
             as a folder of transformers, where there is one"
        );
        return Err(section.problem("hf_model_name", &what));
    };
    match section.map.get("hf_tokenizer_name").and_then(Value::as_str) {
        None | Some("") => {
            Err(section.problem("hf_tokenizer_name", "is missing, and this tower needs its own"))
        }
        Some(_) => Ok(heads),
    }
}

fn not_known(section: &Section, key: &str) -> Error {
    section.problem(key, &format!("is {}, which clipmill does not compute", section.map[key]))
}

const PREFIX: &str = "text.transformer.";

/// Where a tensor of the text tower is in the weights; `None` for the others.
pub fn source(tensor: &str) -> Option<Source> {
    match tensor {
        "text_projection.weight" => Some(Source::whole("text.proj.weight")),
        "text_projection.fc1.weight" => Some(Source::whole("text.proj.0.weight")),
        "text_projection.fc2.weight" => Some(Source::whole("text.proj.2.weight")),
        _ => bert::source(PREFIX, tensor),
    }
}
