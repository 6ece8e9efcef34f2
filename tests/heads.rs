//! Heads over embeddings: the numbers that torch gives, from images, captions and what is stored.
//!
//! tests/oracle/heads.py makes the heads as their authors save them, from seeded weights.

use std::fs;
use std::path::Path;

use crate::common::{Ran, clipmill, oracle, sample, scratch};

/// Length of the sample model's embeddings.
const DIM: &str = "128";

/// A head's settings besides its file.
const HEADS: [(&str, &str); 7] = [
    ("linear", ""),
    ("aesthetic", "activation = \"none\""),
    ("relu", "activation = \"relu\"\noutput = \"sigmoid\""),
    ("gelu", "activation = \"gelu\"\noutput = \"softmax\""),
    ("gelu_tanh", "activation = \"gelu_tanh\""),
    ("silu", "activation = \"silu\""),
    ("tanh", "activation = \"tanh\""),
];

/// Those that give several numbers.
const SEVERAL: [&str; 2] = ["gelu", "tanh"];

fn sections(heads: &Path) -> String {
    let section = |(name, more): &(&str, &str)| {
        let file = heads.join(format!("{name}.safetensors"));
        format!("[head.{name}]\nfile = {file:?}\n{more}\n")
    };
    HEADS.iter().map(section).collect()
}

fn columns(of: &str) -> String {
    let column = |(name, _): &(&str, &str)| {
        let all = format!("{of}_{name} = {{ kind = \"{of}_head\", head = \"{name}\" }}\n");
        let one =
            format!("{of}_{name}_2 = {{ kind = \"{of}_head\", head = \"{name}\", index = 2 }}\n");
        if SEVERAL.contains(name) { all + &one } else { all }
    };
    HEADS.iter().map(column).collect()
}

struct Job<'a> {
    dir: &'a Path,
    table: &'a Path,
    image: &'a str,
    heads: &'a str,
    columns: &'a str,
}

impl Job<'_> {
    fn args(&self, command: &str, out: &str) -> Vec<String> {
        let Self { dir, table, image, heads, columns } = self;
        let text = format!(
            "version = 1\n[source.parquet]\npath = {table:?}\nimage = \"image_path\"\n\
             caption = \"caption\"\n{image}\n[model.clip]\ndir = {:?}\nprecision = \"f32\"\n\
             {heads}\n[columns]\n{columns}\n[sink.parquet]\npath = {:?}\nrows_per_part = 100\n",
            sample().join("model"),
            dir.join(out),
        );
        let path = dir.join(format!("{out}.toml"));
        fs::write(&path, text).expect("written");
        vec![command.to_owned(), path.display().to_string()]
    }

    fn run(&self, out: &str) -> Ran {
        clipmill(self.args("run", out))
    }
}

#[test]
fn heads_give_what_torch_gives_and_are_told_by_their_bytes() {
    let (dir, table) = (scratch(), sample().join("captions.parquet"));
    let heads = dir.path().join("heads");
    fs::create_dir(&heads).expect("a folder");
    let at = |name: &str| dir.path().join(name).display().to_string();
    if !oracle("heads.py", ["make", &at("heads"), DIM]) {
        return;
    }
    let sections = sections(&heads);
    let embeddings = "image_embedding = \"image_embedding\"\ntext_embedding = \"text_embedding\"\n";
    let (image, text) = (columns("image"), columns("text"));
    let images = format!("[image.path]\nroot = {:?}", sample());
    let all = [embeddings, &image, &text].concat();
    let job =
        Job { dir: dir.path(), table: &table, image: &images, heads: &sections, columns: &all };
    job.run("out").ok();
    assert!(oracle("heads.py", ["check", &at("out"), DIM]));

    // The same of embeddings that an earlier run has stored, without a look at an image.
    assert!(oracle("columns.py", [at("out"), at("kept")]));
    let kept = dir.path().join("kept");
    let stored = "[image.embedding]\ncolumn = \"image_embedding\"";
    let again = format!("text_embedding = \"text_embedding\"\n{image}{text}");
    let again = Job { table: &kept, image: stored, columns: &again, ..job };
    again.run("again").ok();
    assert!(oracle("heads.py", ["check", &at("again"), DIM]));
    // Heads alone: no tower runs, and the weights that made the column are asked for all the same.
    let alone =
        Job { columns: "aesthetic = { kind = \"image_head\", head = \"linear\" }", ..again };
    alone.run("alone").ok();

    // Nothing is left to do; with another head under the name, everything is.
    assert!(job.run("out").ok().stdout.contains("is complete already"));
    let said = clipmill(["inspect", &at("out")]).ok().stdout;
    assert!(said.contains("aesthetic.safetensors"), "{said}");
    fs::copy(heads.join("silu.safetensors"), heads.join("gelu_tanh.safetensors")).expect("copied");
    let refused = job.run("out");
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("head gelu_tanh sha256 was"), "{}", refused.stderr);

    what_does_not_fit_is_named(&job, &heads);
}

fn what_does_not_fit_is_named(job: &Job<'_>, heads: &Path) {
    let head = |file: &str, more: &str| format!("[head.h]\nfile = {:?}\n{more}", heads.join(file));
    let column = "x = { kind = \"image_head\", head = \"h\" }";
    for (head, columns, code, says) in [
        (head("none.safetensors", ""), column, 2, "none.safetensors does not exist"),
        (head("silu.safetensors", ""), column, 2, "head.h.activation: is needed"),
        (head("silu.safetensors", "activation = \"swish\""), column, 2, "unknown variant `swish`"),
        (head("broken.safetensors", "activation = \"none\""), column, 1, "takes 5 numbers"),
        (head("unordered.safetensors", ""), column, 1, "nothing says which comes first"),
        (head("batchnorm.safetensors", ""), column, 1, "\"0.running_mean\" is neither"),
        (head("linear.safetensors", ""), "x = \"image_head\"", 2, "image_head needs `head`"),
        (
            head("linear.safetensors", ""),
            "x = { kind = \"text_head\", head = \"g\" }",
            2,
            "no head is named \"g\": there is h",
        ),
        (
            head("linear.safetensors", ""),
            "x = { kind = \"image_head\", head = \"h\", index = 1 }",
            2,
            "there is no index 1",
        ),
        (
            head("linear.safetensors", ""),
            "x = { kind = \"image_head\", head = \"h\", caption = \"caption\" }",
            2,
            "image_head is about no caption",
        ),
        (
            head("linear.safetensors", ""),
            "x = { kind = \"cosine\", head = \"h\" }",
            2,
            "cosine is given by no head",
        ),
        (String::new(), "x = { kind = \"cosine\", index = 0 }", 2, "cosine has no `index`"),
    ] {
        let refused = clipmill(Job { heads: &head, columns, ..*job }.args("check", "refused"));
        assert_eq!(refused.code, code, "{columns}: {}", refused.stderr);
        assert!(refused.stderr.contains(says), "{says}: {}", refused.stderr);
    }
    assert!(oracle("heads.py", ["make", &heads.display().to_string(), "64"]));
    let short = head("linear.safetensors", "");
    let refused = clipmill(Job { heads: &short, columns: column, ..*job }.args("check", "refused"));
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    let says = "takes embeddings of 64 numbers, and the model's have 128";
    assert!(refused.stderr.contains(says), "{}", refused.stderr);
}
