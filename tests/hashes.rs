//! The columns that tell images by their content, against hashlib and ImageHash.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{self, clipmill, oracle, python, sample, scratch};

/// Runs a pipeline of hashes alone, and compares.
fn hash_and_check(dir: &Path, more: &[&str], root: &Path) {
    let text = fs::read_to_string(common::root().join("pipelines/sample.toml")).expect("it is");
    let hashes = "[columns]\nimage_sha256 = \"image_sha256\"\nimage_phash = \"image_phash\"\n";
    let (head, rest) = text.split_once("[columns]").expect("columns");
    let (_, sink) = rest.split_once("\n\n").expect("the next section");
    let pipeline = dir.join("hashes.toml");
    fs::write(&pipeline, format!("{head}{hashes}\n{sink}")).expect("written");
    let out = dir.join("out");
    let mut args = ["run".into(), pipeline, "--output".into(), out.clone()].to_vec();
    args.extend(more.iter().map(PathBuf::from));
    clipmill(args).ok();
    assert!(oracle("hashes.py", ["check".as_ref(), out.as_path(), root]));
}

#[test]
fn the_samples_images_are_hashed_as_hashlib_and_imagehash_do() {
    if python().is_some() {
        hash_and_check(scratch().path(), &[], &sample());
    }
}

#[test]
fn images_of_any_mode_and_shape_are_hashed_as_imagehash_does() {
    let dir = scratch();
    let images = dir.path().join("images");
    fs::create_dir(&images).expect("a folder");
    if !oracle("hashes.py", ["make".as_ref(), images.as_path()]) {
        return;
    }
    let input = images.join("table.parquet").display().to_string();
    let root = format!("image.path.root={}", images.display());
    hash_and_check(dir.path(), &["--input", &input, "--set", &root], &images);
}
