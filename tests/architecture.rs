//! Who may import whom: the rule of the page in `lib.rs`, read from the sources themselves.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// What each module may import of ours. A module that is not here may import anything.
const MAY_IMPORT: [(&str, &[&str]); 14] = [
    ("error", &[]),
    ("spec", &["error"]),
    ("batch", &["error"]),
    ("digest", &["error"]),
    ("files", &["error"]),
    ("source", &["error", "spec", "batch"]),
    ("images", &["error", "spec", "batch"]),
    ("text", &["error", "spec", "batch"]),
    ("model", &["error", "spec", "batch", "digest"]),
    ("score", &["error", "spec", "batch"]),
    ("columns", &["error", "spec", "batch", "score"]),
    ("sink", &["error", "spec", "batch", "digest", "files"]),
    ("manifest", &["error", "digest", "files"]),
    ("analysis", &["error", "spec", "batch"]),
];

/// Modules that `crate::` paths in the files of a module lead to.
fn imports(path: &Path, found: &mut BTreeSet<String>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a folder") {
            imports(&entry.expect("an entry").path(), found);
        }
        return;
    }
    let text = fs::read_to_string(path).expect("a source file");
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        found.insert(rest[..end].to_owned());
    }
}

#[test]
fn modules_import_only_what_the_house_allows() {
    let src = common::root().join("src");
    for (module, allowed) in MAY_IMPORT {
        let mut found = BTreeSet::new();
        let file = src.join(format!("{module}.rs"));
        let folder = src.join(module);
        assert!(file.exists() || folder.exists(), "there is no module {module}");
        for path in [file, folder] {
            if path.exists() {
                imports(&path, &mut found);
            }
        }
        found.remove(module);
        let allowed: BTreeSet<_> = allowed.iter().map(|name| (*name).to_owned()).collect();
        let wrong: Vec<_> = found.difference(&allowed).collect();
        assert!(wrong.is_empty(), "{module} imports {wrong:?}");
    }
}

#[test]
fn run_knows_traits_and_not_what_is_behind_them() {
    let mut found = BTreeSet::new();
    imports(&common::root().join("src/run.rs"), &mut found);
    for builder in ["images", "text", "plan", "cli", "command", "analysis"] {
        assert!(!found.contains(builder), "run imports {builder}");
    }
}

#[test]
fn every_source_file_opens_with_what_it_is() {
    fn walk(path: &Path) {
        if path.is_dir() {
            fs::read_dir(path).expect("a folder").for_each(|e| walk(&e.expect("an entry").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(path).expect("a source file");
            assert!(text.starts_with("//! "), "{} has no //! at its top", path.display());
        }
    }
    walk(&common::root().join("src"));
}
