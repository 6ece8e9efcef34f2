//! Who may import whom: the rule of the page in `lib.rs`, read from the sources themselves.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::common;

/// The page's table: module -> what it may import of ours. Modules that may import anything are
/// not in it.
fn may_import() -> Vec<(String, BTreeSet<String>)> {
    let page = fs::read_to_string(common::root().join("src/lib.rs")).expect("the page");
    let mut rows = Vec::new();
    for line in page.lines().filter_map(|line| line.strip_prefix("//! | [`")) {
        let cells: Vec<_> = line.split(" | ").collect();
        let imports = cells.last().expect("split gives one").trim_end_matches('|').trim();
        if imports == "anything" {
            continue;
        }
        let allowed: BTreeSet<_> =
            imports.trim_matches('`').split_whitespace().map(str::to_owned).collect();
        let modules = cells[0].split(['`', '[', ']', ',', ' ']).filter(|word| !word.is_empty());
        rows.extend(modules.map(|module| (module.replace("mod@", ""), allowed.clone())));
    }
    rows
}

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
fn modules_import_only_what_the_page_says() {
    let src = common::root().join("src");
    let rows = may_import();
    assert!(rows.len() >= 20, "the table of lib.rs was not read: {rows:?}");
    for (module, allowed) in rows {
        let mut found = BTreeSet::new();
        let file = src.join(format!("{module}.rs"));
        let folder = src.join(&module);
        assert!(file.exists() || folder.exists(), "there is no module {module}");
        for path in [file, folder] {
            if path.exists() {
                imports(&path, &mut found);
            }
        }
        found.remove(&module);
        let wrong: Vec<_> = found.difference(&allowed).collect();
        assert!(wrong.is_empty(), "{module} imports {wrong:?}");
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
