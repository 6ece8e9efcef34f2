//! Of the scores: how they are spread, what a threshold keeps, and the pairs that show it.

use maud::{Markup, html};

use crate::analysis::report::chart::{self, count, share};
use crate::analysis::report::data::{Data, QUANTILES, Scores};
use crate::analysis::report::html::{Pictures, shown};
use crate::analysis::report::tally::Pair;

/// Pairs on either side of the cut that are shown at once; the script knows the same number.
const AROUND: usize = 6;

impl Scores {
    fn cut_index(&self) -> usize {
        self.thresholds.partition_point(|threshold| *threshold < self.cut)
    }

    pub fn kept_at_cut(&self) -> u64 {
        self.kept.get(self.cut_index()).copied().unwrap_or(0)
    }

    pub fn write(&self, value: f64) -> String {
        self.ruler.write(value)
    }
}

pub fn score(data: &Data, scores: &Scores) -> Markup {
    let kept = scores.kept_at_cut();
    let (n, index) = (scores.bins.n, scores.cut_index());
    let outside = n - scores.bars.iter().sum::<u64>();
    let texts = |values: Vec<String>| values.join(" ");
    let edges = scores.ruler.edges();
    let old = data.old.as_ref().and_then(|old| old.scores.as_ref()).map(|(_, bars)| &bars[..]);
    html! {
        h2 { "Scores" }
        p.lead {
            "How " span.mono { (shown(&scores.column, 80)) } " is spread, and what a threshold keeps. "
            @if !scores.cut_asked {
                "No cut was asked for, so it begins where three quarters of the rows are kept; move it."
            }
        }
        div #cut
            data-thresholds=(texts(scores.thresholds.iter().map(|t| scores.write(*t)).collect()))
            data-kept=(texts(scores.kept.iter().map(u64::to_string).collect()))
            data-range=(format!("{} {}", edges[0], edges[scores.ruler.bars]))
            data-rows=(n) {
            output.said for="slider" {
                "Threshold " b data-cut="threshold" { (scores.write(scores.cut)) } " keeps "
                b data-cut="share" { (share(kept, n)) } " "
                small {
                    span data-cut="rows" { (count(kept)) } " of " (count(n)) " scored pairs, "
                    span data-cut="left" { (count(n - kept)) } " left out"
                }
            }
            (chart::histogram(scores, old))
            div.slide {
                input #slider type="range" min="0" max=(scores.thresholds.len() - 1) step="1"
                    value=(index) disabled aria-label="Threshold" autocomplete="off";
            }
        }
        ul.key {
            li { (swatch("bar on")) "kept" } li { (swatch("bar")) "left out" }
            @if old.is_some() { li { (swatch("was")) "the earlier table, scaled to as many rows" } }
            li { "rows, in bars of " (scores.ruler.width()) }
            @if outside > 0 { li { (count(outside)) " rows lie beyond the plot" } }
        }
        (quantile_table(scores))
    }
}

fn swatch(class: &str) -> Markup {
    html! {
        svg aria-hidden="true" {
            @if class == "was" { line class=(class) x1="0" x2="100%" y1="5" y2="5" {} }
            @else { rect class=(class) width="100%" height="10" rx="2" {} }
        }
    }
}

/// A quantile's name.
pub fn named(q: f64) -> String {
    match q {
        0.0 => "min".into(),
        0.5 => "median".into(),
        1.0 => "max".into(),
        _ => format!("{:.0} %", q * 100.0),
    }
}

fn quantile_table(scores: &Scores) -> Markup {
    let mean = ("mean".to_owned(), scores.bins.mean());
    let all = QUANTILES.iter().map(|q| (named(*q), scores.bins.quantile(*q))).chain([mean]);
    html! {
        h3 { "Quantiles" }
        dl.quantiles { @for (name, value) in all {
            div { dt { (name) } dd { (format!("{value:.4}")) } }
        } }
    }
}

fn card(pair: &Pair, pictures: &Pictures) -> Markup {
    html! {
        (pictures.show(pair))
        p.score {
            @match pair.score { Some(score) => { (format!("{score:.4}")) }, None => { "no score" } }
            span { "row " (count(pair.row)) }
        }
        @match &pair.caption {
            Some(caption) if caption.trim().is_empty() => p.words.none { "empty caption" },
            Some(caption) => p.words dir="auto" title=[long(caption)] { bdi { (shown(caption, 400)) } },
            None => {},
        }
        @if let Some(image) = &pair.image {
            @let path = shown(&String::from_utf8_lossy(image), 300);
            p.file title=(path) { bdi { (path) } }
        }
    }
}

/// What a caption says, where the card is likely to cut it.
fn long(caption: &str) -> Option<String> {
    (caption.chars().count() > 80).then(|| shown(caption, 400))
}

pub fn around(data: &Data, scores: &Scores, pictures: &Pictures) -> Markup {
    let limits: Vec<_> =
        scores.thresholds.iter().map(|limit| data.columns.rounding.round(*limit)).collect();
    let reaches = |pair: &Pair| {
        let score = pair.score.unwrap_or(f64::NEG_INFINITY);
        limits.partition_point(|limit| *limit <= score)
    };
    let index = scores.cut_index();
    let (mut under, mut over): (Vec<_>, Vec<_>) =
        scores.samples.iter().map(|pair| (reaches(pair), pair)).partition(|(n, _)| *n <= index);
    under.reverse();
    let list = |id: &str, pairs: &mut Vec<(usize, &Pair)>| {
        html! {
            ul.pairs id=(id) {
                @for (at, (reaches, pair)) in pairs.iter().enumerate() {
                    li.pair data-reaches=(reaches) data-score=(pair.score.unwrap_or_default())
                        hidden[at >= AROUND] { (card(pair, pictures)) }
                }
            }
        }
    };
    html! {
        h2 { "At the cut" }
        p.lead {
            "The pairs that decide about a threshold: nearest to "
            span data-cut="threshold" { (scores.write(scores.cut)) }
            " among " (count(scores.samples.len() as u64)) " that were drawn over the whole range."
        }
        h3 { "Just kept" small { "at or above the threshold" } }
        p.none #none-above hidden[!over.is_empty()] { "No pair is above it." }
        (list("above", &mut over))
        h3 { "Just left out" small { "below it" } }
        p.none #none-below hidden[!under.is_empty()] { "No pair is below it." }
        (list("below", &mut under))
    }
}

pub fn pairs(data: &Data, pictures: &Pictures) -> Markup {
    let list = |name: &str, what: &str, pairs: &[Pair]| {
        html! {
            @if !pairs.is_empty() {
                h3 { (name) small { (what) } }
                ul.pairs { @for pair in pairs { li.pair { (card(pair, pictures)) } } }
            }
        }
    };
    html! {
        h2 { "Pairs" }
        p.lead { "The ends of the table, and its middle as chance draws it." }
        @if let Some(scores) = &data.scores {
            (list("Worst", "lowest scores first", &scores.worst))
            (list("Best", "highest scores first", &scores.best))
        }
        (list("Random", "rows that did not fail", &data.random))
    }
}
