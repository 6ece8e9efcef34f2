//! `[image.url]`: the image column holds URLs. Besides `hub` of a model, what lets a run onto the
//! network.
//!
//! What its words mean (host patterns, address ranges) is `images::net`'s to say.

use std::num::{NonZeroU32, NonZeroUsize};

use serde::{Deserialize, Serialize};

/// `[image.url]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageUrlSpec {
    /// The hosts (for object stores: the buckets) that may be asked: names, `*.name` for all
    /// beneath one, `*` for any public host.
    pub hosts: Vec<String>,
    /// The schemes that may be used.
    #[serde(default = "https_alone")]
    pub schemes: Vec<UrlScheme>,
    /// Addresses that are not public and may be asked all the same: `127.0.0.1:8080`, or a range
    /// such as `10.1.0.0/16`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub private: Vec<String>,
    /// Seconds that a request may take, from the connection to the last byte.
    #[serde(default = "default_timeout")]
    pub timeout: NonZeroU32,
    /// How often a request is made again where another try may go better.
    #[serde(default = "default_retries")]
    pub retries: u32,
    /// Requests at once.
    #[serde(default = "default_parallel")]
    pub parallel: NonZeroUsize,
    /// After so many rows in a row without an answer the run ends (75) and can go on later; 0:
    /// never.
    #[serde(default = "default_outage")]
    pub outage: usize,
}

/// `schemes = [...]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UrlScheme {
    Http,
    Https,
    /// Amazon S3, and what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
}

impl UrlScheme {
    pub const ALL: [UrlScheme; 5] =
        [UrlScheme::Http, UrlScheme::Https, UrlScheme::S3, UrlScheme::Gs, UrlScheme::Az];

    /// As in a URL, and in the pipeline file.
    pub const fn as_str(self) -> &'static str {
        match self {
            UrlScheme::Http => "http",
            UrlScheme::Https => "https",
            UrlScheme::S3 => "s3",
            UrlScheme::Gs => "gs",
            UrlScheme::Az => "az",
        }
    }
}

fn https_alone() -> Vec<UrlScheme> {
    vec![UrlScheme::Https]
}

const fn default_timeout() -> NonZeroU32 {
    const { NonZeroU32::new(20).unwrap() }
}

const fn default_retries() -> u32 {
    3
}

const fn default_parallel() -> NonZeroUsize {
    const { NonZeroUsize::new(64).unwrap() }
}

const fn default_outage() -> usize {
    20
}
