//! What a search found as one page with the images, for people: self-contained, without a script.
//!
//! Texts and paths are strangers': all are escaped, images are decoded and encoded anew, and the
//! page may load nothing (its Content-Security-Policy).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryViewArray};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::about;
use super::answer::{Answer, Asked};
use crate::analysis::search::Hit;
use crate::command::table;
use crate::error::Error;
use crate::files;
use crate::images::thumbnail::{encode, thumbnail};
use crate::images::{ImageLoader, LoadError, PathLoader};
use crate::spec::{ImagePathSpec, PreprocessSpec, SearchSpec};

const STYLE: &str = include_str!("sheet.css");

/// Pixels of a thumbnail's longer side: twice what a card has, for fine screens.
const SIDE: usize = 320;

const QUALITY: u8 = 82;

/// Characters of a caption that are kept; the page shows three lines, a pointer the rest.
const MOST_CHARS: usize = 1000;

/// A row's picture as a data URL, or why there is none.
type Pictures = BTreeMap<u64, Result<String, String>>;

/// Writes the page to `path`, with the pictures that `spec` wants.
///
/// # Errors
/// `NotFound` for an image root that was named and is not there; what writing gives.
pub fn write(answer: &Answer, input: &Path, spec: &SearchSpec, path: &Path) -> Result<(), Error> {
    let pictures = match spec.thumbnails {
        true => Some(pictures(answer, spec.images_root.as_deref())?),
        false => None,
    };
    let page = page(answer, input, pictures.as_ref()).into_string();
    files::replace(path, page.as_bytes())
}

fn page(answer: &Answer, input: &Path, pictures: Option<&Pictures>) -> Markup {
    let style_digest = STANDARD.encode(Sha256::digest(STYLE));
    let policy = format!(
        "default-src 'none'; img-src data:; style-src 'sha256-{style_digest}'; base-uri 'none'; \
         form-action 'none'"
    );
    let input = table::one_line(&input.display().to_string(), 200);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="referrer" content="no-referrer";
                title { "clipmill search: " (input) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    p.brand { "clipmill search" }
                    h1 { (input) }
                    p.about { (about(answer)) "; column " (table::one_line(&answer.column, 80)) }
                }
                main {
                    @for (asked, hits) in answer.results() {
                        (section(answer, (asked, hits), pictures))
                    }
                }
            }
        }
    }
}

fn section(
    answer: &Answer,
    (asked, hits): (&Asked, &[Hit]),
    pictures: Option<&Pictures>,
) -> Markup {
    let (kind, title) = match asked {
        Asked::Text(text) => ("text", table::one_line(text, MOST_CHARS)),
        Asked::Image(path) => ("image", table::one_line(&path.display().to_string(), 200)),
        Asked::Like(row) => ("like", format!("row {row}")),
    };
    let own = match asked {
        Asked::Text(_) => None,
        Asked::Image(path) => std::fs::read(path).ok().and_then(|bytes| data_url(&bytes).ok()),
        Asked::Like(row) => pictures.and_then(|all| all.get(row)?.clone().ok()),
    };
    html! {
        section {
            div.asked {
                @if let Some(own) = own { img src=(own) alt=""; }
                div { p.kind { (kind) } h2 { (title) } }
            }
            @if hits.is_empty() { p.none { "nothing was found" } }
            ol { @for hit in hits { (card(answer, *hit, pictures.map(|all| all.get(&hit.row)))) } }
        }
    }
}

/// A result; without a frame where there are no pictures at all.
fn card(answer: &Answer, hit: Hit, picture: Option<Option<&Result<String, String>>>) -> Markup {
    let texts = answer.texts(hit.row);
    let mut texts =
        texts.iter().map(|text| text.as_deref().map(|t| table::one_line(t, MOST_CHARS)));
    let path = if answer.has_images { texts.next().flatten() } else { None };
    let caption = texts.next().flatten();
    html! {
        li {
            @if let Some(picture) = picture {
                div.frame {
                    @match picture {
                        Some(Ok(url)) => img src=(url) alt=(caption.clone().unwrap_or_default());,
                        Some(Err(why)) => span { (why) },
                        None => span { "no image" },
                    }
                }
            }
            p.facts { strong { (format!("{:.3}", hit.score)) } span { "row " (hit.row) } }
            @if let Some(caption) = caption { p.caption title=(caption) { (caption) } }
            @if let Some(path) = path { p.path title=(path) { (path) } }
        }
    }
}

/// The pictures of all rows that are shown, several at once.
fn pictures(answer: &Answer, images_root: Option<&Path>) -> Result<Pictures, Error> {
    if !answer.has_images {
        return Ok(Pictures::new());
    }
    let names: Vec<_> = answer.named().filter_map(|row| Some((row, answer.image(row)?))).collect();
    let loader = match loader(answer, images_root) {
        Ok(loader) => loader,
        Err(error) if images_root.is_some() => return Err(error),
        Err(error) => {
            let why = format!("{error} (--images-root)");
            return Ok(names.into_iter().map(|(row, _)| (row, Err(why.clone()))).collect());
        }
    };
    let column: ArrayRef = Arc::new(BinaryViewArray::from_iter_values(names.iter().map(|n| n.1)));
    let column = loader.bind(&column)?;
    let picture = |at: usize| match loader.load(&column, at) {
        Ok(bytes) => Ok((names[at].0, data_url(&bytes))),
        Err(LoadError::Row(error)) => Ok((names[at].0, Err(error.status.as_str().to_owned()))),
        Err(LoadError::Machine(error)) => Err(error),
    };
    (0..names.len()).into_par_iter().map(picture).collect()
}

/// Reads beneath the root that is asked for, or else the run's, as its pipeline allowed.
fn loader(answer: &Answer, images_root: Option<&Path>) -> Result<PathLoader, Error> {
    let of_run = answer.pipeline.get("image").and_then(|image| image.get("path"));
    let of_run: Option<ImagePathSpec> =
        of_run.and_then(|image| image.clone().try_into::<ImagePathSpec>().ok());
    let spec = match (images_root, of_run) {
        (Some(root), _) => ImagePathSpec { root: root.to_owned(), allow_absolute: false },
        // It gives no leave to read absolute paths, whatever it says.
        (None, Some(spec)) => ImagePathSpec { allow_absolute: false, ..spec },
        (None, None) => {
            let problem = "the table does not say where its images are".to_owned();
            return Err(Error::Setting { key: "images".into(), problem });
        }
    };
    PathLoader::open(&spec, PreprocessSpec::default().max_bytes)
}

fn data_url(bytes: &[u8]) -> Result<String, String> {
    let picture = thumbnail(bytes, &PreprocessSpec::default(), SIDE);
    let jpeg = picture.and_then(|picture| encode(&picture, QUALITY));
    let jpeg = jpeg.map_err(|error| error.status.as_str().to_owned())?;
    Ok(format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg)))
}
