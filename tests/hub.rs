//! Models from the Hugging Face hub: what is asked for, what of it is kept, and that the hub's
//! Python client and clipmill find in the cache what the other put there.
//!
//! The hub is on a loopback port and does what its repositories' names say (`common/hub.rs`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use clipmill::digest;
use serde_json::Value;

use crate::common::hub::{COMMITS, LoopbackHub, TOKEN};
use crate::common::{Ran, command, python, root, sample, scratch};

/// A command that has this hub and a cache in this folder, and nothing else of its environment's.
fn with_hub(mut command: Command, hub: &LoopbackHub, home: &Path) -> Command {
    for name in [
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_TOKEN_PATH",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
    ] {
        command.env_remove(name);
    }
    command.env("HF_HOME", home).env("HF_ENDPOINT", &hub.endpoint).env("NO_PROXY", "127.0.0.1");
    command
}

fn ran(output: Output) -> Ran {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let code = output.status.code().expect("not killed");
    Ran { code, stdout: text(output.stdout), stderr: text(output.stderr) }
}

struct Home {
    dir: tempfile::TempDir,
    hub: LoopbackHub,
}

impl Home {
    fn new() -> Self {
        Self { dir: scratch(), hub: LoopbackHub::start() }
    }

    fn command(&self, args: &[&str]) -> Command {
        with_hub(command(args), &self.hub, &self.dir.path().join("hf"))
    }

    fn run(&self, args: &[&str]) -> Ran {
        ran(self.command(args).output().expect("it starts"))
    }

    fn offline(&self, args: &[&str]) -> Ran {
        ran(self.command(args).env("HF_HUB_OFFLINE", "1").output().expect("it starts"))
    }

    /// `clipmill models` of a kind of repository.
    fn models(&self, kind: &str) -> Ran {
        self.run(&["models", &format!("hub:org/{kind}")])
    }

    fn repository(&self, kind: &str) -> PathBuf {
        self.dir.path().join("hf/hub").join(format!("models--org--{kind}"))
    }

    fn blobs(&self, kind: &str) -> Vec<String> {
        let dir = fs::read_dir(self.repository(kind).join("blobs"));
        let names = dir.into_iter().flatten().map(|entry| entry.expect("an entry").file_name());
        names.map(|name| name.to_string_lossy().into_owned()).collect()
    }

    /// The ranges that weights were asked for in.
    fn ranges(&self) -> Vec<Option<String>> {
        let asked = self.hub.asked().into_iter();
        asked.filter(|asked| asked.cdn).map(|asked| asked.range).collect()
    }

    /// The sample's pipeline with its model on the hub.
    fn pipeline(&self, kind: &str) -> String {
        let text = fs::read_to_string(root().join("pipelines/sample.toml")).expect("the sample's");
        let ours =
            text.replace("dir       = \"sample_data/model\"", &format!("hub = \"org/{kind}\""));
        assert_ne!(ours, text);
        let path = self.dir.path().join("pipeline.toml");
        fs::write(&path, ours).expect("written");
        path.display().to_string()
    }
}

#[test]
fn a_run_takes_a_commit_and_stays_with_it() {
    let home = Home::new();
    let (pipeline, out) = (home.pipeline("plain"), home.dir.path().join("out"));
    let out = out.display().to_string();
    let args = |command: &'static str, more: &[&'static str]| -> Vec<String> {
        let all = [&[command, &pipeline, "--output", &out, "--limit", "40"][..], more].concat();
        all.into_iter().map(str::to_owned).collect()
    };
    let run = |args: Vec<String>, token: &str| {
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        ran(home.command(&args).env("HF_TOKEN", token).output().expect("it starts"))
    };

    let first = run(args("run", &[]), "secret").ok();
    let says = format!("org/plain is at commit {} now (main)", COMMITS[0]);
    assert!(first.stderr.contains(&says), "{}", first.stderr);
    let asked = home.hub.asked();
    for name in ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"] {
        let gets = asked.iter().filter(|a| a.method == "GET" && a.path.contains(name));
        assert!(gets.count() >= 1, "{name} in {asked:?}");
    }
    for name in ["vocab.json", "pytorch_model.bin", "README.md", "index.json"] {
        assert!(asked.iter().all(|a| !a.path.contains(name)), "{name} is not needed: {asked:?}");
    }
    for asked in &asked {
        let token = (!asked.cdn).then(|| "Bearer secret".to_owned());
        assert_eq!(asked.token, token, "{asked:?}");
    }

    // Again: one request, for what `main` is. What was made says from what.
    let again = run(args("run", &[]), "").ok();
    assert!(again.stdout.contains("is complete already"), "{}", again.stdout);
    let asked = home.hub.asked();
    let is_redirect = |path: &str| path.starts_with("/api/resolve-cache");
    let direct: Vec<_> = asked.iter().filter(|asked| !is_redirect(&asked.path)).collect();
    assert!(direct.len() == 1 && direct[0].method == "HEAD", "{asked:?}");
    assert_eq!(direct[0].token, None, "an empty token is none");
    let inspected = home.run(&["inspect", &out]).ok().stdout;
    assert!(inspected.contains(COMMITS[0]) && inspected.contains("org/plain"), "{inspected}");
    assert!(!inspected.contains("models--org"), "where the cache is says nothing: {inspected}");

    // The model of a table is in the cache, and nobody is asked for it.
    home.run(&["search", &out, "a red apple", "--json"]).ok();
    assert_eq!(home.hub.asked(), []);

    // Of a quiet night, the same one request, and nothing of the cache is opened.
    let night = || run(args("run", &["--incremental"]), "");
    assert!(!night().ok().stdout.contains("nothing is new"));
    home.hub.asked();
    let quiet = night().ok();
    assert!(quiet.stdout.contains("nothing is new"), "{}", quiet.stdout);
    let asked = home.hub.asked();
    let direct: Vec<_> = asked.iter().filter(|asked| !is_redirect(&asked.path)).collect();
    assert!(direct.len() == 1 && direct[0].method == "HEAD", "{asked:?}");

    // The branch has moved: what is there is of another commit, and can be had by naming it.
    home.hub.move_main();
    assert_eq!(night().code, 2);
    let refused = run(args("run", &[]), "");
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    let says = format!("commit (`revision` can pin it) was {} and is {}", COMMITS[0], COMMITS[1]);
    assert!(refused.stderr.contains(&says), "{}", refused.stderr);
    home.hub.asked();
    let pinned = format!("model.clip.revision={}", COMMITS[0]);
    let mut pinned_args = args("run", &["--set"]);
    pinned_args.push(pinned);
    let pinned = run(pinned_args, "").ok();
    assert!(pinned.stdout.contains("is complete already"), "{}", pinned.stdout);
    assert!(!pinned.stderr.contains("pins it"), "{}", pinned.stderr);
    assert_eq!(home.hub.asked(), [], "a commit that is there needs no request");

    let plan = run(args("plan", &["--json"]), "").ok().stdout;
    let plan: Value = serde_json::from_str(&plan).expect("JSON");
    assert_eq!(plan["from_hub"][0]["commit"], COMMITS[1]);
    assert_eq!(plan["from_hub"][0]["repo"], "org/plain");
    assert_eq!(plan["from_hub"][0]["revision"], "main");

    // Taken away from the cache, it is not fetched for a table's sake.
    fs::remove_dir_all(home.repository("plain")).expect("it was there");
    home.hub.asked();
    let refused = home.run(&["search", &out, "a red apple"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    let cure = format!("--model hub:org/plain@{} fetches it", COMMITS[0]);
    assert!(refused.stderr.contains(&cure), "{}", refused.stderr);
    assert_eq!(home.hub.asked(), []);
    let model = format!("hub:org/plain@{}", COMMITS[0]);
    home.run(&["search", &out, "a red apple", "--model", &model, "--json"]).ok();
}

#[test]
fn what_broke_off_goes_on_where_it_was_and_only_the_right_bytes_are_kept() {
    let home = Home::new();
    let etag = home.hub.weights_etag();
    let size = fs::metadata(sample().join("model/model.safetensors")).expect("there").len();
    let third = size / 3;

    home.models("cut").ok();
    let second = third + (size - third) / 3;
    assert_eq!(
        home.ranges(),
        [None, Some(format!("bytes={third}-")), Some(format!("bytes={second}-"))]
    );

    // A server that cannot begin in the middle begins anew.
    home.models("norange").ok();
    assert_eq!(home.ranges(), [None, Some(format!("bytes={third}-"))]);

    // What an earlier process left is gone on with; what is of something else is found out.
    let weights = fs::read(sample().join("model/model.safetensors")).expect("the weights");
    for (kind, left, wanted) in [
        ("plain", weights[..1000].to_vec(), vec![Some("bytes=1000-".to_owned())]),
        ("early", vec![7; 1000], vec![Some("bytes=1000-".to_owned()), None]),
        ("long", vec![7; weights.len() + 1], vec![None]),
        ("whole", weights.clone(), vec![]),
    ] {
        fs::create_dir_all(home.repository(kind).join("blobs")).expect("made");
        let path = home.repository(kind).join(format!("blobs/{etag}.incomplete"));
        fs::write(path, left).expect("written");
        home.models(kind).ok();
        assert_eq!(home.ranges(), wanted, "{kind}");
    }
    for kind in ["cut", "norange", "plain", "early", "long", "whole"] {
        let blob = home.repository(kind).join("blobs").join(&etag);
        assert_eq!(digest::of_file(&blob).expect("a blob"), etag, "{kind}");
        assert!(home.blobs(kind).iter().all(|name| !name.contains("incomplete")), "{kind}");
    }

    let refused = home.models("wrong");
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    let says = format!("where {etag} was announced");
    assert!(refused.stderr.contains(&says), "{}", refused.stderr);
    assert_eq!(home.ranges(), [None, None], "once more, and no more");
    assert!(!home.blobs("wrong").contains(&etag));
    assert!(
        !home
            .repository("wrong")
            .join("snapshots")
            .join(COMMITS[0])
            .join("model.safetensors")
            .exists()
    );
}

#[test]
fn what_the_hub_does_not_give_is_said_with_the_cure() {
    let home = Home::new();
    for (name, code, says) in [
        ("org/private", 2, "HF_TOKEN"),
        ("org/gated", 2, "is gated: ask for access on its page|it says: Ask first."),
        ("org/plain@none", 2, "has no revision \"none\""),
        ("nobody/none", 2, "there is none of that name"),
        ("org/pickled", 1, "pytorch_model.bin alone|refs/pr/N"),
        ("org/bare", 2, "has no model.safetensors at commit"),
        ("org/elsewhere", 2, "from http to https"),
        ("org/nohub", 2, "does not answer as a hub does"),
        ("org/away", 75, "127.0.0.1 gives no answer: it answered 503"),
        ("../x", 2, "is no repository of the hub"),
    ] {
        let refused = home.run(&["models", &format!("hub:{name}")]);
        assert_eq!(refused.code, code, "{name}: {}", refused.stderr);
        let mut says = says.split('|');
        assert!(says.all(|says| refused.stderr.contains(says)), "{name}: {}", refused.stderr);
    }
    assert!(home.hub.asked().iter().all(|asked| !asked.path.contains("..")));
    for (name, value) in [("HF_ENDPOINT", "ftp://x"), ("HF_TOKEN", "a\nb")] {
        let args = ["models", "hub:org/plain"];
        let refused = ran(home.command(&args).env(name, value).output().expect("it starts"));
        assert_eq!(refused.code, 2, "{name}: {}", refused.stderr);
        assert!(refused.stderr.contains(name), "{}", refused.stderr);
    }
    // What may pass is tried again; what is gated is shown to who may see it, whose token may be
    // in the file that `hf auth login` writes.
    home.models("busy").ok();
    fs::write(home.dir.path().join("hf/token"), format!("{TOKEN}\n")).expect("written");
    home.models("gated").ok();
    let sharded = home.models("sharded").ok();
    assert!(sharded.stdout.contains("clip"), "{}", sharded.stdout);
    home.run(&["models", "hub:org/plain@refs/pr/1"]).ok();
}

#[test]
fn without_the_hub_the_cache_is_enough_or_what_is_missing_is_said() {
    let home = Home::new();
    let refused = home.offline(&["models", "hub:org/plain"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    for says in ["HF_HUB_OFFLINE is set", "hf download org/plain --revision main"] {
        assert!(refused.stderr.contains(says), "{}", refused.stderr);
    }
    home.models("plain").ok();
    home.hub.asked();
    home.offline(&["models", "hub:org/plain"]).ok();
    assert_eq!(home.hub.asked(), []);

    // Nobody listens there: what `main` was counts, and that is said.
    let args = ["models", "hub:org/plain"];
    let mut command = home.command(&args);
    let away = ran(command.env("HF_ENDPOINT", "http://127.0.0.1:1").output().expect("it starts"));
    let away = away.ok();
    let says = format!("taking org/plain at {}", COMMITS[0]);
    assert!(away.stderr.contains(&says), "{}", away.stderr);

    let snapshot = home.repository("plain").join("snapshots").join(COMMITS[0]);
    fs::remove_file(snapshot.join("model.safetensors")).expect("it was there");
    let refused = home.offline(&["models", "hub:org/plain"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("model.safetensors of commit 1111"), "{}", refused.stderr);
    // Its bytes are there still.
    home.models("plain").ok();
    assert_eq!(home.ranges(), []);
}

#[test]
fn two_at_once_fetch_once() {
    let home = Home::new();
    let start = || {
        let mut command = home.command(&["models", "hub:org/slow"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
    };
    let both = [start(), start()];
    let both = both.map(|child| ran(child.wait_with_output().expect("it ends")).ok());
    assert_eq!(both[0].stdout, both[1].stdout);
    assert_eq!(home.ranges(), [None]);
}

#[test]
fn python_and_clipmill_share_the_cache() {
    let Some(python) = python() else { return };
    let home = Home::new();
    let oracle = |args: &[&str], offline: bool| {
        let mut command = Command::new(&python);
        command.arg(root().join("tests/oracle/hub.py")).args(args);
        let mut command = with_hub(command, &home.hub, &home.dir.path().join("hf"));
        if offline {
            command.env("HF_HUB_OFFLINE", "1");
        }
        command.env("PYTHONDONTWRITEBYTECODE", "1").env("HF_HUB_DISABLE_TELEMETRY", "1");
        ran(command.output().expect("Python starts")).ok()
    };
    let names = [
        "config.json",
        "preprocessor_config.json",
        "tokenizer_config.json",
        "tokenizer.json",
        "open_clip_config.json",
        "model.safetensors",
    ];

    // What Python fetched is used without a request, and so is what it knows not to be there.
    oracle(&[&["fetch", "org/plain", "v1"][..], &names].concat(), false);
    home.hub.asked();
    let pinned = format!("hub:org/plain@{}", COMMITS[0]);
    home.run(&["models", &pinned]).ok();
    assert_eq!(home.hub.asked(), []);
    home.offline(&["models", "hub:org/plain@v1"]).ok();

    // And the other way round.
    fs::remove_dir_all(home.repository("plain")).expect("it was there");
    home.models("plain").ok();
    home.hub.asked();
    let folder = sample().join("model").display().to_string();
    oracle(&[&["cached", "org/plain", "main", &folder][..], &names].concat(), true);
    assert_eq!(home.hub.asked(), []);
}
