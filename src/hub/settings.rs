//! What the environment says of the hub, in the variables of its Python client.
//!
//! `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN` (or the file that `hf auth login` writes),
//! `HF_HUB_OFFLINE`, `HF_HUB_ETAG_TIMEOUT`, `HF_HUB_DOWNLOAD_TIMEOUT` and their older names, as
//! `constants.py` of huggingface_hub 2.4 reads them. Nothing else is read from the environment.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use crate::error::Error;

/// Where the hub is, unless `HF_ENDPOINT` says so.
const ENDPOINT: &str = "https://huggingface.co";

/// Of each of both timeouts, in seconds.
const TIMEOUT: u64 = 10;

/// The hub as the environment has it.
#[derive(Debug)]
pub struct Settings {
    /// Ends with a slash.
    pub endpoint: Url,
    pub cache: PathBuf,
    pub token: Option<String>,
    /// Nothing may be asked for.
    pub offline: bool,
    /// For an answer.
    pub answer_timeout: Duration,
    /// For the next bytes of a file.
    pub stall_timeout: Duration,
}

impl Settings {
    /// # Errors
    /// `Setting`, naming the variable, for an endpoint that is none.
    pub fn of_environment() -> Result<Self, Error> {
        let home = home();
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        Ok(Self {
            endpoint: endpoint(text("HF_ENDPOINT").as_deref().unwrap_or(ENDPOINT))?,
            cache: cache.unwrap_or_else(|| home.join("hub")),
            token: token(&home),
            offline: is_true("HF_HUB_OFFLINE") || is_true("TRANSFORMERS_OFFLINE"),
            answer_timeout: seconds("HF_HUB_ETAG_TIMEOUT"),
            stall_timeout: seconds("HF_HUB_DOWNLOAD_TIMEOUT"),
        })
    }

    /// The hub's host, for messages.
    pub fn host(&self) -> &str {
        self.endpoint.host_str().unwrap_or_default()
    }
}

/// The hub's address. Plain HTTP is used where it is asked for in so many words, and nowhere else.
fn endpoint(text: &str) -> Result<Url, Error> {
    let wrong = |why: String| Error::Setting {
        key: "HF_ENDPOINT".into(),
        problem: format!("\"{text}\" is no address of a hub ({why}): write one such as {ENDPOINT}"),
    };
    let with_slash = format!("{}/", text.trim_end_matches('/'));
    let url = Url::parse(&with_slash).map_err(|error| wrong(error.to_string()))?;
    match url.scheme() {
        "http" | "https" if url.has_host() && url.query().is_none() => Ok(url),
        _ => Err(wrong("it is not https".into())),
    }
}

/// The hub's folder, `~/.cache/huggingface` where nothing else is said.
fn home() -> PathBuf {
    path("HF_HOME").unwrap_or_else(|| {
        let caches = path("XDG_CACHE_HOME").unwrap_or_else(|| users_home().join(".cache"));
        caches.join("huggingface")
    })
}

fn users_home() -> PathBuf {
    text("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from)
}

/// The token that is sent to the hub, and to nobody else.
fn token(home: &Path) -> Option<String> {
    let clean = |token: String| {
        let token = token.trim().to_owned();
        (!token.is_empty()).then_some(token)
    };
    // As Python has it: none at all then, but one that is given in code.
    if is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
        return None;
    }
    if let Some(token) =
        ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].into_iter().find_map(text).and_then(clean)
    {
        return Some(token);
    }
    let file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
    fs::read_to_string(file).ok().and_then(clean)
}

fn text(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// A path, whose `~` is the user's folder.
fn path(name: &str) -> Option<PathBuf> {
    let value = text(name)?;
    Some(match value.strip_prefix("~/") {
        Some(rest) => users_home().join(rest),
        None => PathBuf::from(value),
    })
}

fn is_true(name: &str) -> bool {
    let value = text(name).unwrap_or_default().to_ascii_uppercase();
    ["1", "ON", "YES", "TRUE"].contains(&value.as_str())
}

fn seconds(name: &str) -> Duration {
    let given = text(name).and_then(|value| value.trim().parse().ok());
    Duration::from_secs(given.filter(|seconds| *seconds > 0).unwrap_or(TIMEOUT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_web_address() {
        for (text, wanted) in [
            ("https://huggingface.co", "https://huggingface.co/"),
            ("https://mirror.example.org/hf//", "https://mirror.example.org/hf/"),
            ("http://127.0.0.1:80", "http://127.0.0.1/"),
        ] {
            assert_eq!(endpoint(text).expect(text).as_str(), wanted);
        }
        for text in ["huggingface.co", "ftp://x", "file:///x", "https://", "https://x/?a=b"] {
            assert_eq!(endpoint(text).expect_err(text).exit_code(), 2, "{text}");
        }
    }
}
