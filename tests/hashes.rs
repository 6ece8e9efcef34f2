//! The columns that tell images by their content, against hashlib and ImageHash.

mod common;

use common::{clipmill, oracle, root, sample, scratch};

#[test]
fn a_run_hashes_bytes_and_pixels_as_hashlib_and_imagehash_do() {
    let dir = scratch();
    let text = std::fs::read_to_string(root().join("pipelines/sample.toml")).expect("a pipeline");
    let hashes = "[columns]\nimage_sha256 = \"image_sha256\"\nimage_phash = \"image_phash\"\n";
    let (head, rest) = text.split_once("[columns]").expect("columns");
    let (_, sink) = rest.split_once("\n\n").expect("the next section");
    let pipeline = dir.path().join("hashes.toml");
    std::fs::write(&pipeline, format!("{head}{hashes}\n{sink}")).expect("written");
    let out = dir.path().join("out");
    let args = ["run".into(), pipeline, "--output".into(), out.clone()];
    clipmill(args).ok();
    if !oracle("hashes.py", [out, sample()]) {
        eprintln!("SKIPPED");
    }
}
