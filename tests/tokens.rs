//! Token ids against transformers' `CLIPTokenizerFast`, for captions of every odd kind.
//!
//! tests/oracle/tokens.py makes the captions and the ids. What the text tower makes of them is
//! tested in `towers.rs`.

use std::path::{Path, PathBuf};

use clipmill::error::{Error, RowStatus};
use clipmill::spec::{CaptionSpec, SpecialTokensSpec};
use clipmill::text::Tokenizer;
use serde::Deserialize;

use crate::common;

const CONTEXT: usize = 32;
const START: i64 = 3070;
const END: i64 = 3071;

fn read(dir: &Path, special_tokens: SpecialTokensSpec) -> Tokenizer {
    Tokenizer::read(dir, CONTEXT, &CaptionSpec { special_tokens, ..CaptionSpec::default() })
        .unwrap()
}

fn sample(special_tokens: SpecialTokensSpec) -> Tokenizer {
    read(&common::sample().join("model"), special_tokens)
}

/// What transformers makes of one caption.
#[derive(Deserialize)]
struct Case {
    caption: String,
    /// Truncated.
    ids: Vec<i64>,
    /// How many they were before.
    all: u32,
}

impl Case {
    /// Whether the caption spells a control token, which only `control` reads as transformers.
    fn has_control(&self) -> bool {
        ["<|startoftext|>", "<|endoftext|>"].iter().any(|token| self.caption.contains(token))
    }
}

fn cases(model: &Path) -> Option<Vec<Case>> {
    let dir = common::scratch();
    let out = dir.path().join("tokens.jsonl");
    let mut args = vec![model.to_owned(), out.clone(), PathBuf::from(CONTEXT.to_string())];
    args.extend(common::corpora("captions").map(|captions| captions.join("blns/blns.json")));
    if !common::oracle("tokens.py", args) {
        return None;
    }
    let text = std::fs::read_to_string(out).unwrap();
    let cases: Vec<Case> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(cases.len() >= 500, "{} captions", cases.len());
    Some(cases)
}

fn agrees(tokenizer: &Tokenizer, case: &Case) {
    match tokenizer.encode(&case.caption) {
        Ok((ids, info)) => {
            assert_eq!(ids, case.ids, "{:?}", case.caption);
            assert_eq!(info.tokens, case.all, "{:?}", case.caption);
            assert_eq!(info.truncated, case.all as usize > CONTEXT, "{:?}", case.caption);
        }
        Err(error) => {
            assert_eq!(error.status, RowStatus::CaptionEmpty);
            assert_eq!(case.ids, [START, END], "{:?}", case.caption);
        }
    }
}

fn agree_in(model: &Path) {
    let Some(cases) = cases(model) else { return };
    let control = read(model, SpecialTokensSpec::Control);
    let text = read(model, SpecialTokensSpec::Text);
    for case in &cases {
        agrees(&control, case);
        if !case.has_control() {
            agrees(&text, case);
        } else if let Ok((ids, _)) = text.encode(&case.caption) {
            let inside = &ids[1..ids.len() - 1];
            assert!(!inside.iter().any(|id| [START, END].contains(id)), "{:?}", case.caption);
            assert_eq!((ids[0], ids[ids.len() - 1]), (START, END));
        }
    }
    assert!(cases.iter().filter(|case| case.has_control()).count() > 10);
}

#[test]
fn ids_are_those_of_transformers() {
    agree_in(&common::sample().join("model"));
}

#[test]
fn vocab_json_and_merges_txt_serve_as_well() {
    let dir = common::scratch();
    for name in ["vocab.json", "merges.txt", "tokenizer_config.json", "config.json"] {
        std::fs::copy(common::sample().join("model").join(name), dir.path().join(name)).unwrap();
    }
    agree_in(dir.path());
}

#[test]
fn a_control_token_in_a_caption_is_text() {
    let (text, control) = (sample(SpecialTokensSpec::Text), sample(SpecialTokensSpec::Control));
    let ids = |tokenizer: &Tokenizer, caption: &str| tokenizer.encode(caption).unwrap().0;
    assert_eq!(ids(&control, "a <|endoftext|> b"), [START, 320, END, 321, END]);
    // Spelled as other letters between such signs are.
    let spelled = ids(&text, "a <|endoftext|> b");
    assert_eq!(spelled, ids(&text, "a <| endoftext |> b"));
    assert_eq!(spelled, ids(&control, "a <|ENDOFTEXT|> b"));
}

#[test]
fn truncation_keeps_the_end_of_text() {
    let tokenizer = sample(SpecialTokensSpec::Text);
    let (ids, info) = tokenizer.encode(&"the cat ".repeat(100)).unwrap();
    assert_eq!((ids.len(), ids[CONTEXT - 1]), (CONTEXT, END));
    assert!(info.truncated && info.tokens as usize > CONTEXT);
    let (ids, info) = tokenizer.encode(&"a ".repeat(CONTEXT - 2)).unwrap();
    assert_eq!((ids.len(), info.tokens as usize, info.truncated), (CONTEXT, CONTEXT, false));
}

#[test]
fn a_caption_of_megabytes_is_read_from_its_start() {
    let tokenizer = sample(SpecialTokensSpec::Text);
    // 3 bytes each, so that 64 KiB end within a character.
    let (ids, info) = tokenizer.encode(&"猫".repeat(4 << 20)).unwrap();
    assert_eq!((ids.len(), info.truncated), (CONTEXT, true));
    assert_eq!(ids, tokenizer.encode(&"猫".repeat(1000)).unwrap().0);
    // Nothing but white space for longer than is read.
    let late = format!("{}cat", " ".repeat(100_000));
    assert_eq!(tokenizer.encode(&late).unwrap_err().status, RowStatus::CaptionEmpty);
}

#[test]
fn white_space_is_an_empty_caption() {
    let tokenizer = sample(SpecialTokensSpec::Text);
    for caption in ["", " ", "\t\r\n", "\u{3000}\u{a0}\u{2028}"] {
        assert_eq!(tokenizer.encode(caption).unwrap_err().status, RowStatus::CaptionEmpty);
    }
    // Not white space: a token each.
    for caption in ["\0", "\u{200b}", "\u{feff}"] {
        assert!(tokenizer.encode(caption).is_ok());
    }
}

#[test]
fn what_tokenizer_json_says_of_truncation_and_padding_does_not_count() {
    let (dir, path) = edited(|json| {
        json["truncation"] = serde_json::json!({"direction": "Right", "max_length": 5,
            "strategy": "LongestFirst", "stride": 0});
        json["padding"] = serde_json::json!({"strategy": {"Fixed": 77}, "direction": "Right",
            "pad_to_multiple_of": null, "pad_id": 3071, "pad_type_id": 0, "pad_token": "!"});
    });
    assert!(path.exists());
    let (ids, info) =
        read(dir.path(), SpecialTokensSpec::Text).encode("a red cat and a blue dog").unwrap();
    let (wanted, _) = sample(SpecialTokensSpec::Text).encode("a red cat and a blue dog").unwrap();
    assert_eq!((ids, info.truncated), (wanted, false));
}

/// The sample's tokenizer.json with something changed, alone in a folder.
fn edited(change: impl FnOnce(&mut serde_json::Value)) -> (tempfile::TempDir, PathBuf) {
    let dir = common::scratch();
    let path = dir.path().join("tokenizer.json");
    let json = std::fs::read(common::sample().join("model/tokenizer.json")).unwrap();
    let mut json = serde_json::from_slice(&json).unwrap();
    change(&mut json);
    std::fs::write(&path, json.to_string()).unwrap();
    (dir, path)
}

fn refused(dir: &Path) -> Error {
    Tokenizer::read(dir, CONTEXT, &CaptionSpec::default()).err().expect("is refused")
}

#[test]
fn a_tokenizer_that_is_not_clips_is_refused() {
    let error = refused(common::scratch().path());
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert!(error.to_string().contains("tokenizer.json does not exist, nor does vocab.json"));

    let (dir, _) = edited(|json| {
        json["model"]["vocab"].as_object_mut().unwrap().remove("<|endoftext|>");
    });
    assert!(refused(dir.path()).to_string().contains("has no \"<|endoftext|>\""));

    let (dir, _) = edited(|json| {
        json["model"]["vocab"].as_object_mut().unwrap().remove("a</w>");
    });
    assert!(refused(dir.path()).to_string().contains("has no \"a</w>\""));

    let (dir, _) = edited(|json| {
        let added = json["added_tokens"].as_array_mut().unwrap();
        let mut token = added[0].clone();
        token["content"] = "<cat-toy>".into();
        added.push(token);
    });
    assert!(refused(dir.path()).to_string().contains("adds the token \"<cat-toy>\""));

    let (dir, path) = edited(|_| ());
    std::fs::write(path, "{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\", 0.5]]}}")
        .unwrap();
    assert!(refused(dir.path()).to_string().contains("vocabulary of a CLIP tokenizer"));

    let dir = common::scratch();
    let vocab = common::sample().join("model/vocab.json");
    std::fs::copy(vocab, dir.path().join("vocab.json")).unwrap();
    assert!(refused(dir.path()).to_string().contains("merges.txt does not exist"));
}
