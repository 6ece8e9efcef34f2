//! `[head.NAME]`: a small network over embeddings, such as a predictor of aesthetics. Columns name it.
//!
//! Which shapes its file has is found by `model::head`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[head.NAME]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadSpec {
    /// Its linear layers, in safetensors.
    pub file: PathBuf,
    /// What stands between two of them. No file says it, and the wrong one raises no error: a head
    /// of several layers has to be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<HeadActivation>,
    /// What is done to what the last one gives.
    #[serde(default)]
    pub output: HeadOutput,
}

/// `activation = ...`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadActivation {
    None,
    Relu,
    /// `x * (1 + erf(x / sqrt 2)) / 2`
    Gelu,
    /// `x * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`
    GeluTanh,
    /// `x * sigmoid(x)`
    Silu,
    Tanh,
}

/// `output = ...`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadOutput {
    #[default]
    None,
    /// Of each number for itself.
    Sigmoid,
    /// Over all numbers of a row.
    Softmax,
}
