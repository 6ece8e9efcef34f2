//! What the weights of transformers' BERT and its kin call a text tower's tensors.
//!
//! Names: `BertModel` of modeling_bert.py, which `ChineseCLIPTextModel` and `XLMRobertaModel`
//! share. What such a tower computes is the affair of `tower`, its sizes of the families.

use super::Source;

/// Where a tensor of the text tower is in the weights, under `prefix`; `None` for the others.
pub fn source(prefix: &str, tensor: &str) -> Option<Source> {
    let name = tensor.strip_prefix("text_model.")?;
    let renamed = |name: &str, parts: &[(&str, &str)]| {
        let found = parts.iter().find_map(|(from, to)| Some((*to, name.strip_prefix(from)?)));
        found.map(|(to, part)| format!("{to}{part}"))
    };
    const OUTSIDE: [(&str, &str); 5] = [
        ("embeddings.token_embedding.", "embeddings.word_embeddings."),
        ("embeddings.position_embedding.", "embeddings.position_embeddings."),
        ("embeddings.segment_embedding.", "embeddings.token_type_embeddings."),
        ("embeddings.layer_norm.", "embeddings.LayerNorm."),
        ("pooler.", "pooler.dense."),
    ];
    const PARTS: [(&str, &str); 8] = [
        ("self_attn.q_proj.", "attention.self.query."),
        ("self_attn.k_proj.", "attention.self.key."),
        ("self_attn.v_proj.", "attention.self.value."),
        ("self_attn.out_proj.", "attention.output.dense."),
        ("layer_norm1.", "attention.output.LayerNorm."),
        ("mlp.fc1.", "intermediate.dense."),
        ("mlp.fc2.", "output.dense."),
        ("layer_norm2.", "output.LayerNorm."),
    ];
    if let Some(name) = renamed(name, &OUTSIDE) {
        return Some(Source::whole(format!("{prefix}{name}")));
    }
    let (layer, part) = name.strip_prefix("encoder.layers.")?.split_once('.')?;
    let part = renamed(part, &PARTS)?;
    Some(Source::whole(format!("{prefix}encoder.layer.{layer}.{part}")))
}
