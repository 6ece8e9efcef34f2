//! What the hub's answers mean: what may pass, what is not there, what it does not show, and the cure.
//!
//! By the headers that huggingface_hub goes by (`hf_raise_for_status`). Nothing is asked here.

use std::error::Error as StdError;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use url::Url;

use crate::error::Error;

/// Why there is no answer of use.
#[derive(Debug)]
pub enum Failure {
    /// Another try may go better.
    Passing { why: String, retry_after: Option<Duration> },
    /// The hub has no such file, or no such revision.
    Missing { revision: bool },
    /// The hub shows nothing of the repository, or what it says makes no sense.
    Refused { problem: String },
    /// It is this machine.
    Local(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Local(error)
    }
}

/// A failure, and the headers of the answer that it was, if it was one.
pub struct Missed {
    pub failure: Failure,
    pub headers: HeaderMap,
}

impl From<Failure> for Missed {
    fn from(failure: Failure) -> Self {
        Self { failure, headers: HeaderMap::new() }
    }
}

/// Of whom something was asked.
pub struct Asked<'a> {
    pub endpoint: &'a Url,
    pub has_token: bool,
    /// Whether it was the endpoint itself, and not where a redirect of its leads.
    pub is_own: bool,
}

impl Asked<'_> {
    /// What is wrong with an answer, if anything is.
    pub fn judge(&self, status: StatusCode, headers: &HeaderMap) -> Option<Failure> {
        let said = |name| header(headers, name).unwrap_or_default();
        let (code, message) = (said("x-error-code"), said("x-error-message"));
        // Or another's that the endpoint stands for.
        let is_hub = self.is_own || !code.is_empty();
        Some(match (status.as_u16(), code.as_str()) {
            (200..=299, _) => return None,
            (408 | 425 | 429 | 500 | 502 | 503 | 504, _) => {
                let seconds = header(headers, RETRY_AFTER.as_str()).and_then(|s| s.parse().ok());
                let why = format!("it answered {status}");
                Failure::Passing { why, retry_after: seconds.map(Duration::from_secs) }
            }
            (_, "RevisionNotFound") => Failure::Missing { revision: true },
            (404 | 410, code) if code != "RepoNotFound" && is_hub => {
                Failure::Missing { revision: false }
            }
            (_, code) if is_hub => {
                let says = match message.as_str() {
                    "" => String::new(),
                    message => format!(" (it says: {message})"),
                };
                Failure::Refused { problem: self.refusal(status, code) + &says }
            }
            // A signed address that has grown too old; the next try gets a new one.
            _ => Failure::Passing { why: format!("it answered {status}"), retry_after: None },
        })
    }

    /// What it means that the hub shows nothing, and what to do.
    fn refusal(&self, status: StatusCode, code: &str) -> String {
        let endpoint = self.endpoint;
        match (status.as_u16(), code, self.has_token) {
            (_, "GatedRepo", _) => format!(
                "is gated: ask for access on its page on {endpoint}, then set HF_TOKEN to a token \
                 of that account"
            ),
            (401 | 404, _, false) => format!(
                "is not shown by {endpoint}: there is none of that name, or it is private and \
                 wants HF_TOKEN to be a token of an account that may read it"
            ),
            (401 | 404, _, true) => format!(
                "is not shown by {endpoint} to the token of HF_TOKEN or `hf auth login`: there is \
                 none of that name, or that account may not read it, or the token is none any more"
            ),
            (403, ..) => format!(
                "may not be read: {endpoint} answered {status}; set HF_TOKEN to a token of an \
                 account that may read it"
            ),
            _ => format!("could not be read: {endpoint} answered {status}"),
        }
    }
}

/// A header's value, where it is text.
pub fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?;
    value.to_str().ok().map(str::to_owned)
}

/// Nothing has come for so long.
pub fn late(limit: Duration) -> Failure {
    let why = format!("nothing came for {} s", limit.as_secs());
    Failure::Passing { why, retry_after: None }
}

/// What an error of a request means. Its last cause says most.
pub fn passing(error: &reqwest::Error) -> Failure {
    let mut cause: &dyn StdError = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    Failure::Passing { why: cause.to_string(), retry_after: None }
}
