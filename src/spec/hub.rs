//! Where a model is: a folder, or a repository of the Hugging Face hub at a revision.
//!
//! What a name may look like is known here, and that a repository's name leads to no path but its
//! own. What is there is found by `hub`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Serialize;

/// The revision where none is named.
const MAIN: &str = "main";

/// What says on the command line that a repository is meant.
const SCHEME: &str = "hub:";

/// Where a model is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelPlace {
    /// A folder.
    Dir(PathBuf),
    Hub(HubSpec),
}

/// A model repository of the hub, at a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HubSpec {
    repo: String,
    revision: String,
}

impl HubSpec {
    /// A repository, `org/name`, at a branch, a tag or a commit; at `main` where none is named.
    ///
    /// # Errors
    /// In words, for what is no name of a repository or of a revision.
    pub fn new(repo: &str, revision: Option<&str>) -> Result<Self, String> {
        if !is_repo(repo) {
            return Err(format!(
                "\"{repo}\" is no repository of the hub: write org/name, such as \
                 laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
            ));
        }
        let revision = revision.unwrap_or(MAIN);
        if !is_revision(revision) {
            return Err(format!(
                "\"{revision}\" is no revision: write a branch, a tag, or a commit of 40 digits"
            ));
        }
        let revision = match is_commit(revision) {
            true => revision.to_ascii_lowercase(),
            false => revision.to_owned(),
        };
        Ok(Self { repo: repo.to_owned(), revision })
    }

    /// `org/name`.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// A branch, a tag or a commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The commit, where the revision is one: what is there never changes.
    pub fn pinned(&self) -> Option<&str> {
        is_commit(&self.revision).then_some(self.revision.as_str())
    }
}

/// Whether a revision is a whole commit id.
pub fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The rules of huggingface_hub's `validate_repo_id`, which keep `--` for the cache's folders.
fn is_repo(repo: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_name = |name: &str| {
        (1..=96).contains(&name.len())
            && name.chars().all(is_plain)
            && !name.starts_with(['-', '.'])
            && !name.ends_with(['-', '.'])
    };
    repo.split('/').count() <= 2
        && repo.split('/').all(is_name)
        && !repo.contains("--")
        && !repo.contains("..")
        && !repo.ends_with(".git")
}

/// A name of git's that is also a path beneath a folder.
fn is_revision(revision: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.+@".contains(c);
    let is_name = |name: &str| {
        !name.is_empty() && !name.starts_with(['-', '.']) && name.chars().all(is_plain)
    };
    revision.len() <= 200 && revision.split('/').all(is_name) && !revision.contains("..")
}

impl fmt::Display for HubSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.repo, self.revision)
    }
}

impl fmt::Display for ModelPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelPlace::Dir(dir) => write!(f, "{}", dir.display()),
            ModelPlace::Hub(hub) => write!(f, "{SCHEME}{hub}"),
        }
    }
}

impl FromStr for ModelPlace {
    type Err = String;

    /// A folder, `hub:org/name` or `hub:org/name@revision`.
    fn from_str(text: &str) -> Result<Self, String> {
        let Some(name) = text.strip_prefix(SCHEME) else {
            return Ok(ModelPlace::Dir(text.into()));
        };
        let (repo, revision) = match name.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision)),
            None => (name, None),
        };
        HubSpec::new(repo, revision).map(ModelPlace::Hub)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        for (text, wanted) in [
            ("models/clip", "models/clip"),
            ("./hub:x", "./hub:x"),
            ("hub:org/name", "hub:org/name@main"),
            ("hub:gpt2@refs/pr/15", "hub:gpt2@refs/pr/15"),
            (&format!("hub:a/b@{}", commit.to_uppercase()), &format!("hub:a/b@{commit}")),
        ] {
            let place: ModelPlace = text.parse().expect(text);
            assert_eq!(place.to_string(), wanted);
        }
        let pinned = HubSpec::new("a/b", Some(commit)).expect("a commit");
        assert_eq!(pinned.pinned(), Some(commit));
        assert_eq!(HubSpec::new("a/b", Some("0123456")).expect("a revision").pinned(), None);
    }

    #[test]
    fn no_name_leads_out_of_the_cache() {
        for repo in ["", "/", "a/", "/a", "a/b/c", "..", "a/..", "../a", "a--b/c", "a b", "a/b.git"]
        {
            assert!(HubSpec::new(repo, None).is_err(), "{repo}");
        }
        for revision in ["", "/etc", "a/../b", "a//b", "..", "a/", ".x", "-x", "a b", "a\nb", "a%"]
        {
            assert!(HubSpec::new("a/b", Some(revision)).is_err(), "{revision}");
        }
    }
}
