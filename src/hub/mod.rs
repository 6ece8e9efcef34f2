//! Model folders from the Hugging Face hub, in the cache that its Python client keeps.
//!
//! ```text
//! HubSpec -> commit (settings, remote) -> each file that the family needs:
//!            cache? -- no --> remote: etag, size, place -> download -> cache -> folder
//! ```
//!
//! What the cache has of a commit is used without a request, and what is fetched here is there for
//! Python (`huggingface_hub`, transformers) as if it had fetched it. Only the files that clipmill
//! reads are fetched. No model is opened here.

mod answer;
mod cache;
mod download;
mod remote;
mod settings;

use std::cell::OnceCell;
use std::path::PathBuf;

use serde::Serialize;

use self::answer::Failure;
use self::cache::{Cached, Repository};
use self::remote::Remote;
use self::settings::Settings;
use crate::error::Error;
use crate::log::Event;
use crate::model::family;
use crate::model::weights::{FileNames, PICKLED, shard_names};
use crate::spec::{Family, HubSpec};

/// Files besides the configuration and the weights that a model's folder may have.
const BESIDE: [&str; 3] = ["preprocessor_config.json", "tokenizer_config.json", "tokenizer.json"];

/// What some folders have instead of tokenizer.json.
const VOCABULARY: [&str; 3] = ["vocab.json", "merges.txt", "vocab.txt"];

/// A repository's files at one commit, as far as clipmill reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The folder, in the cache.
    pub dir: PathBuf,
    pub commit: Commit,
}

/// What a model from the hub is told by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Commit {
    /// What was asked for.
    #[serde(flatten)]
    pub spec: HubSpec,
    /// 40 hexadecimal digits.
    pub commit: String,
}

/// The hub as a command may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hub {
    /// Asked for what the cache lacks, with its progress on stderr.
    Shown,
    /// The same without a word.
    Quiet,
    /// Never asked: for a repository that a table names and nobody typed.
    CacheAlone,
}

impl Hub {
    /// The hub, with its progress shown unless `quiet`.
    pub fn new(quiet: bool) -> Self {
        if quiet { Hub::Quiet } else { Hub::Shown }
    }

    /// A folder with what a model of that family is read from; where no family is named, of the
    /// one that the repository's configuration tells.
    ///
    /// # Errors
    /// `Hub` for a repository, revision or file that is not there or not shown, or that is not in
    /// the cache where the hub is not asked; `HubAway` where it gives no answer; `HubFile` for
    /// bytes that are not what it says they are; `PickledHub` for weights of no other kind;
    /// `Io` for the cache.
    pub fn snapshot(self, spec: &HubSpec, family: Option<Family>) -> Result<Snapshot, Error> {
        let visit = self.visit(spec)?;
        // Whatever the family, one of these is there.
        let configs = match family {
            Some(family) => vec![family.config_file()],
            None => Family::ALL.map(Family::config_file).to_vec(),
        };
        let commit = visit.commit(configs[0])?;
        let at = At { visit: &visit, commit: &commit };
        at.fetch(&configs, family)?;
        let dir = visit.repository.folder(&commit);
        Ok(Snapshot { dir, commit: Commit { spec: spec.clone(), commit } })
    }

    /// The commit that a model of that family is at, and nothing of it.
    ///
    /// # Errors
    /// Those of [`Self::snapshot`] for a repository or a revision.
    pub fn commit(self, spec: &HubSpec, family: Family) -> Result<String, Error> {
        self.visit(spec)?.commit(family.config_file())
    }

    fn visit(self, spec: &HubSpec) -> Result<Visit<'_>, Error> {
        let mut settings = Settings::of_environment()?;
        settings.offline |= self == Hub::CacheAlone;
        let repository = Repository::new(&settings.cache, spec.repo());
        Ok(Visit { hub: self, spec, settings, repository, remote: OnceCell::new() })
    }
}

/// One look at a repository.
struct Visit<'a> {
    hub: Hub,
    spec: &'a HubSpec,
    settings: Settings,
    repository: Repository,
    /// Made for the first request: what is cached needs no certificates.
    remote: OnceCell<Remote>,
}

impl Visit<'_> {
    /// The commit that the revision stands for. `probe` is a file to ask for.
    fn commit(&self, probe: &str) -> Result<String, Error> {
        let revision = self.spec.revision();
        if let Some(commit) = self.spec.pinned() {
            return Ok(commit.to_owned());
        }
        let last = self.repository.commit_of(revision)?;
        if self.settings.offline {
            return last.ok_or_else(|| self.not_cached(&format!("revision {revision}")));
        }
        // Who has an answer already does not wait long for a better one.
        let tries = if last.is_some() { 1 } else { remote::TRIES };
        match (self.remote()?.commit(self.spec, probe, tries), last) {
            (Ok(commit), _) => {
                self.repository.note_commit(revision, &commit)?;
                Ok(commit)
            }
            (Err(Failure::Passing { why, .. }), Some(last)) => {
                let (host, repo) = (self.settings.host(), self.spec.repo());
                Event::warning(format!(
                    "{host} gives no answer ({why}): taking {repo} at {last}, which was its \
                     {revision} the last time"
                ))
                .say();
                Ok(last)
            }
            (Err(failure), _) => Err(self.error(failure)),
        }
    }

    fn remote(&self) -> Result<&Remote, Error> {
        if self.remote.get().is_none() {
            let made = Remote::new(&self.settings)?;
            // Nobody else has put one there since.
            let _ = self.remote.set(made);
        }
        Ok(self.remote.get().expect("it was put there"))
    }

    fn not_cached(&self, what: &str) -> Error {
        let (repo, revision) = (self.spec.repo(), self.spec.revision());
        let cache = self.settings.cache.display();
        let cure = match self.hub {
            Hub::CacheAlone => format!("--model hub:{} fetches it", self.spec),
            _ => format!(
                "HF_HUB_OFFLINE is set: unset it once, or run `hf download {repo} --revision \
                 {revision}` where there is a network and bring its cache here"
            ),
        };
        Error::Hub {
            repo: repo.to_owned(),
            problem: format!("{what} is not in the cache {cache}; {cure}"),
        }
    }

    fn error(&self, failure: Failure) -> Error {
        let repo = self.spec.repo().to_owned();
        match failure {
            Failure::Passing { why, .. } => {
                Error::HubAway { repo, host: self.settings.host().to_owned(), why }
            }
            Failure::Refused { problem } => Error::Hub { repo, problem },
            Failure::Missing { revision: true } => {
                let (endpoint, revision) = (&self.settings.endpoint, self.spec.revision());
                let problem = format!(
                    "has no revision \"{revision}\": {endpoint}{repo}/tree/main lists them"
                );
                Error::Hub { repo, problem }
            }
            // Of a configuration: `At::needed` says so of the others.
            Failure::Missing { revision: false } => {
                let problem = format!("has no model at revision {}", self.spec.revision());
                Error::Hub { repo, problem }
            }
            Failure::Local(error) => error,
        }
    }
}

/// The same, at one commit.
struct At<'a> {
    visit: &'a Visit<'a>,
    commit: &'a str,
}

impl At<'_> {
    /// Fetches what the folder of a model has.
    fn fetch(&self, configs: &[&str], family: Option<Family>) -> Result<(), Error> {
        let mut there = Vec::new();
        for config in configs {
            if !there.contains(config) && self.file(config)? {
                there.push(*config);
            }
        }
        if there.is_empty() {
            return Err(self.lacks(configs[0]));
        }
        for name in BESIDE {
            if !self.file(name)? && name == "tokenizer.json" {
                VOCABULARY.iter().try_for_each(|name| self.file(name).map(drop))?;
            }
        }
        let dir = self.visit.repository.folder(self.commit);
        match family {
            Some(family) => self.weights(family.weights_files()),
            None => {
                // Which of two layouts a folder is told by, where it has both, are the weights.
                if there.len() > 1 {
                    self.some_weights(Family::Clip.weights_files())?;
                }
                self.weights(family::detect(&dir)?.weights_files())
            }
        }
    }

    fn weights(&self, names: FileNames) -> Result<(), Error> {
        if self.some_weights(names)? {
            return Ok(());
        }
        for name in PICKLED {
            if self.is_there(name)? {
                let (repo, file) = (self.visit.spec.repo().to_owned(), name.to_owned());
                return Err(Error::PickledHub { repo, file });
            }
        }
        Err(self.lacks(names.single[0]))
    }

    /// Fetches weights, the first kind that there is. False where there are none.
    fn some_weights(&self, names: FileNames) -> Result<bool, Error> {
        for name in names.single {
            if self.file(name)? {
                return Ok(true);
            }
        }
        for name in names.single {
            let index = format!("{name}.index.json");
            if self.file(&index)? {
                let dir = self.visit.repository.folder(self.commit);
                for shard in shard_names(&dir.join(index))? {
                    if !self.file(&shard)? {
                        return Err(self.lacks(&shard));
                    }
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes sure that a file is in the folder. False where the repository has none of that name.
    fn file(&self, name: &str) -> Result<bool, Error> {
        let Visit { spec, settings, repository, .. } = self.visit;
        match repository.find(self.commit, name)? {
            Cached::There => return Ok(true),
            Cached::NotInRepository => return Ok(false),
            // As transformers does where it may not ask: the reader says what it misses.
            Cached::Unknown if settings.offline => return Ok(false),
            Cached::Unknown => {}
        }
        let remote = self.visit.remote()?;
        let shown = self.visit.hub != Hub::Quiet;
        match remote.about(spec, self.commit, name).and_then(|about| {
            let wanted = download::Wanted { spec, commit: self.commit, name, about, shown };
            download::download(remote, repository, &wanted)
        }) {
            Ok(()) => Ok(true),
            Err(Failure::Missing { revision: false }) => {
                repository.note_missing(self.commit, name)?;
                Ok(false)
            }
            Err(failure) => Err(self.visit.error(failure)),
        }
    }

    /// Whether the repository has a file, which is not fetched.
    fn is_there(&self, name: &str) -> Result<bool, Error> {
        match self.visit.repository.find(self.commit, name)? {
            Cached::There => return Ok(true),
            Cached::NotInRepository => return Ok(false),
            Cached::Unknown if self.visit.settings.offline => return Ok(false),
            Cached::Unknown => {}
        }
        match self.visit.remote()?.about(self.visit.spec, self.commit, name) {
            Ok(_) => Ok(true),
            Err(Failure::Missing { revision: false }) => Ok(false),
            Err(failure) => Err(self.visit.error(failure)),
        }
    }

    fn lacks(&self, name: &str) -> Error {
        if self.visit.settings.offline {
            return self.visit.not_cached(&format!("{name} of commit {}", self.commit));
        }
        let repo = self.visit.spec.repo().to_owned();
        let problem = format!(
            "has no {name} at commit {}: `clipmill models` lists what a model of each family has",
            self.commit
        );
        Error::Hub { repo, problem }
    }
}
