//! The page: one HTML file that needs nothing else and can do nothing else.
//!
//! Whatever the table holds goes in as escaped text (`maud` escapes; `shown` disarms control
//! characters), the numbers of the script as attributes. The content security policy allows this
//! one style sheet and this one script, by their digests, and pictures within the file.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use super::chart::{count, share};
use super::data::Data;
use super::sections;
use super::tally::Pair;
use super::{Picture, Thumbnail, Thumbnails};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// Bytes of all pictures together; a third more in the page.
const PICTURE_BYTES: usize = 1_700_000;

/// Facts that stand under the title too.
const IN_HEAD: usize = 3;

/// What is said of how the table came about.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// What the page is about.
    pub title: String,
    /// Names and short values.
    pub made: Vec<(String, String)>,
    /// Names and long values, shown when asked for.
    pub details: Vec<(String, String)>,
    /// Rules and the rows left after each, of a table that was filtered.
    pub funnel: Vec<(String, u64)>,
}

/// The pictures of the pairs by what their image column says.
/// None where images are not shown.
pub struct Pictures(Option<HashMap<Vec<u8>, Thumbnail>>);

impl Pictures {
    fn of(data: &Data, thumbnails: Option<&dyn Thumbnails>) -> Self {
        let Some(thumbnails) = thumbnails else { return Self(None) };
        let mut images: Vec<_> = data.pairs().filter_map(|pair| pair.image.as_deref()).collect();
        images.sort_unstable();
        images.dedup();
        let made = thumbnails.make(&images, PICTURE_BYTES);
        let names = images.iter().map(|image| image.to_vec());
        Self(Some(names.zip(made).collect()))
    }

    /// A pair's picture, or the word that stands in its place.
    pub fn show(&self, pair: &Pair) -> Markup {
        let Some(made) = &self.0 else { return html! { div.no-picture {} } };
        let found = pair.image.as_ref().map(|image| made.get(image));
        let picture = match found {
            Some(Some(Ok(Picture { width, height, jpeg }))) => {
                let data = format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg));
                return html! {
                    div.picture { img src=(data) width=(width) height=(height) alt="" decoding="async"; }
                };
            }
            Some(Some(Err((status, message)))) => (status.as_str(), Some(shown(message, 300))),
            Some(None) => ("no picture", None),
            None => ("no image", None),
        };
        html! { div.picture title=[picture.1] { span { (picture.0) } } }
    }
}

/// A text from the table for the page: what is not to be seen is shown, and it is cut.
pub fn shown(text: &str, most: usize) -> String {
    let clean = |c: char| match c {
        '\n' | '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    let mut cut: String = text.chars().take(most).map(clean).collect();
    if text.chars().nth(most).is_some() {
        cut.push('…');
    }
    cut
}

/// Writes the page. Without `thumbnails` there are no pictures.
pub fn page(data: &Data, facts: &Facts, thumbnails: Option<&dyn Thumbnails>) -> String {
    let digest = |text: &str| STANDARD.encode(Sha256::digest(text.as_bytes()));
    let policy = format!(
        "default-src 'none'; img-src data:; style-src 'sha256-{}'; script-src 'sha256-{}'; \
         base-uri 'none'; form-action 'none'",
        digest(STYLE),
        digest(SCRIPT)
    );
    let pictures = Pictures::of(data, thumbnails);
    let sections = sections::all(data, facts, &pictures);
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="referrer" content="no-referrer";
                meta name="generator" content=(concat!("clipmill ", env!("CARGO_PKG_VERSION")));
                title { (shown(&facts.title, 80)) " – clipmill report" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (head(data, facts))
                nav aria-label="Sections" {
                    ul { @for section in &sections {
                        li { a href=(format!("#{}", section.id)) { (section.name) } }
                    } }
                }
                main {
                    @for section in &sections {
                        section id=(section.id) { (section.markup) }
                    }
                }
                (foot())
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    markup.into_string()
}

fn head(data: &Data, facts: &Facts) -> Markup {
    let failed = data.rows - data.ok;
    html! {
        header {
            div.brand { "clipmill report" }
            h1 { bdi { (shown(&facts.title, 200)) } }
            p.lead { (sections::in_words(data)) }
            @if !facts.made.is_empty() {
                ul.ran { @for (_, value) in facts.made.iter().take(IN_HEAD) {
                    li { bdi { (shown(value, 120)) } }
                } }
            }
            dl.tiles {
                div { dt { "Rows" } dd { (count(data.rows)) } }
                div { dt { "Failed" } dd { (count(failed)) } dd { (share(failed, data.rows)) } }
                @if let Some(scores) = &data.scores {
                    div {
                        dt { "Scored" } dd { (count(scores.bins.n)) }
                        dd { (share(scores.bins.n, data.rows)) }
                    }
                    div {
                        dt { "Median " (shown(&scores.column, 40)) }
                        dd { (format!("{:.3}", scores.bins.quantile(0.5))) }
                        dd { "mean " (format!("{:.3}", scores.bins.mean())) }
                    }
                }
                @if let Some(drift) = data.old.as_ref().and_then(|old| old.drift.as_ref()) {
                    div {
                        dt { "Drift (PSI)" } dd { (format!("{:.3}", drift.psi)) }
                        dd { (sections::verdict(drift)) }
                    }
                }
            }
        }
    }
}

fn foot() -> Markup {
    html! {
        footer {
            p {
                "Made by clipmill " (env!("CARGO_PKG_VERSION")) ". This file holds everything that \
                it shows and loads nothing. Counts at thresholds are exact; quantiles are exact to \
                0.00005 for cosines, and to 1/70,000 of the range for other scores. A row is at or \
                above a threshold if score ≥ threshold in the column’s own float type."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_long_texts_cut_by_characters() {
        assert_eq!(shown("a\u{0}b\u{1b}[31m\nc", 80), "a\u{fffd}b\u{fffd}[31m c");
        assert_eq!(shown("äöüß", 3), "äöü…");
        assert_eq!(shown("äöü", 3), "äöü");
    }

    #[test]
    fn style_and_script_cannot_end_their_elements() {
        for text in [STYLE, SCRIPT] {
            assert!(!text.contains("</") && !text.contains("<!--"));
        }
    }
}
