//! The page's sections, one function each. A section that the table has nothing for is left out.

mod drift;
mod groups;
mod scores;

use maud::{Markup, html};

pub use drift::verdict;

use super::captions::CaptionTally;
use super::chart::{self, count, share};
use super::data::{Data, QUANTILES};
use super::html::{Facts, Pictures, shown};
use super::tally::Pair;

/// A part of the page that has a name.
pub struct Section {
    pub id: &'static str,
    pub name: &'static str,
    pub markup: Markup,
}

/// All of them, in the page's order.
pub fn all(data: &Data, facts: &Facts, pictures: &Pictures) -> Vec<Section> {
    let mut all = Vec::new();
    let mut add = |id, name, markup: Option<Markup>| {
        all.extend(markup.map(|markup| Section { id, name, markup }));
    };
    let scores = data.scores.as_ref();
    add("funnel", "Funnel", (data.rows > 0).then(|| funnel(data, facts)));
    add("scores", "Scores", scores.map(|scores| scores::score(data, scores)));
    add("around", "At the cut", scores.map(|scores| scores::around(data, scores, pictures)));
    add("pairs", "Pairs", (data.ok > 0).then(|| scores::pairs(data, pictures)));
    add("failures", "Failures", (!data.failed.is_empty()).then(|| failures(data)));
    add("captions", "Captions", captions(data));
    add("groups", "Groups", (!data.groups.is_empty()).then(|| groups::groups(data)));
    add("drift", "Drift", data.old.as_ref().map(|old| drift::drift(data, old)));
    add("run", "What ran", Some(what_ran(facts)));
    all
}

/// One sentence of what the table is.
pub fn in_words(data: &Data) -> Markup {
    let failed = data.rows - data.ok;
    html! {
        @match (&data.scores, data.rows) {
            (_, 0) => "The table has no rows.",
            (Some(scores), _) => {
                (count(scores.bins.n)) " scored rows between "
                (format!("{:.3}", scores.bins.min)) " and " (format!("{:.3}", scores.bins.max))
                " in " span.mono { (shown(&scores.column, 80)) }
            },
            (None, _) if data.ok == 0 => "Every row failed.",
            (None, _) if data.columns.score.is_some() => "No row has a score.",
            (None, _) => "The table has no column of scores (--score names one).",
        }
        @if failed > 0 && data.ok > 0 { "; " (count(failed)) " rows failed" }
        @if data.scores.is_some() { "." }
    }
}

fn what_ran(facts: &Facts) -> Markup {
    html! {
        h2 { "What ran" }
        @if facts.made.is_empty() {
            p.lead { "The table does not say how it was made." }
        } @else {
            p.lead { "As the table and the files beside it say." }
            dl.facts {
                @for (name, value) in &facts.made {
                    dt { (name) } dd { bdi { (shown(value, 600)) } }
                }
            }
        }
        @for (name, value) in &facts.details {
            details { summary { (name) } pre { (disarmed(value)) } }
        }
    }
}

/// Of several lines, at most 8 KiB.
fn disarmed(text: &str) -> String {
    text.lines().take(400).map(|line| shown(line, 1000) + "\n").collect()
}

fn funnel(data: &Data, facts: &Facts) -> Markup {
    let whole = facts.funnel.iter().map(|(_, rows)| *rows).max().unwrap_or(0).max(data.rows);
    let mut steps: Vec<(String, u64)> = facts.funnel.clone();
    if steps.last().is_none_or(|(_, rows)| *rows != data.rows) {
        steps.push(("in this table".into(), data.rows));
    }
    if data.ok < data.rows {
        steps.push(("did not fail".into(), data.ok));
    }
    if let Some(scores) = data.scores.as_ref().filter(|scores| scores.bins.n < data.ok) {
        steps.push(("have a score".into(), scores.bins.n));
    }
    html! {
        h2 { "Funnel" }
        p.lead { "Rows left after each step, of " (count(whole)) "." }
        ol.steps {
            @for (name, rows) in &steps {
                li {
                    span.label { (shown(name, 200)) }
                    span.track-cell { (chart::part(*rows, whole, None)) }
                    span.n { (count(*rows)) } span.share { (share(*rows, whole)) }
                }
            }
            @if let Some(scores) = &data.scores {
                @let kept = scores.kept_at_cut();
                li {
                    span.label {
                        "at or above " span data-cut="threshold" { (scores.write(scores.cut)) }
                    }
                    span.track-cell { (chart::part(kept, whole, Some("kept-bar"))) }
                    span.n data-cut="rows" { (count(kept)) }
                    span.share data-cut="of-all" { (share(kept, whole)) }
                }
            }
        }
        @if data.unscored + data.not_finite > 0 && data.columns.score.is_some() {
            p.note {
                "Of those that did not fail, " (count(data.unscored)) " have no score and "
                (count(data.not_finite)) " one that is not a finite number."
            }
        }
    }
}

fn failures(data: &Data) -> Markup {
    let failed = data.rows - data.ok;
    html! {
        h2 { "Failures" }
        p.lead {
            (count(failed)) " of " (count(data.rows)) " rows failed (" (share(failed, data.rows))
            "). They have no score and are left out of everything else."
        }
        table.stack.failures {
            thead { tr {
                th scope="col" { "Reason" } th.n scope="col" { "Rows" } th.n scope="col" { "Share" }
                th.wide scope="col" { "Examples" }
            } }
            tbody { @for (word, rows, examples) in &data.failed { tr {
                th scope="row" { span.mono { bdi { (shown(word, 80)) } } }
                td.n { (count(*rows)) }
                td.n.extra { (share(*rows, data.rows)) }
                td.wide { ul.examples { @for pair in examples { li { (example(pair)) } } } }
            } } }
        }
    }
}

fn example(pair: &Pair) -> Markup {
    let image = pair.image.as_ref().map(|image| shown(&String::from_utf8_lossy(image), 160));
    html! {
        "row " (count(pair.row))
        @if let Some(message) = &pair.error_message { ": " bdi { (shown(message, 240)) } }
        @if let Some(image) = image { " " span.mono { bdi { (image) } } }
    }
}

fn captions(data: &Data) -> Option<Markup> {
    let captions = data.captions.as_ref()?;
    let (there, tokens) = (captions.characters.n, captions.tokens.n);
    if data.rows == 0 {
        return None;
    }
    let column = data.columns.caption.as_deref().unwrap_or_default();
    Some(html! {
        h2 { "Captions" }
        p.lead {
            "Lengths of " span.mono { (shown(column, 80)) } " in all rows. "
            @for (n, what) in [(captions.missing, "missing"), (captions.empty, "empty"),
                (captions.invalid, "not UTF-8")] {
                @if n > 0 { (count(n)) " " (what) ". " }
            }
            @if captions.known > 0 {
                (share(captions.truncated, captions.known)) " were cut to the model’s context ("
                (count(captions.truncated)) " of " (count(captions.known)) ")."
            } @else {
                "Whether captions were cut is known where the pipeline has columns "
                code { "caption_tokens" } " and " code { "caption_truncated" } "."
            }
        }
        div.columns {
            @if there > 0 { div {
                h3 { "Characters" } (chart::lengths(&captions.characters, "characters"))
            } }
            @if tokens > 0 { div {
                h3 { "Tokens" small { "before cutting, start and end included" } }
                (chart::lengths(&captions.tokens, "tokens"))
            } }
        }
        @if there > 0 { (length_table(captions)) }
    })
}

fn length_table(captions: &CaptionTally) -> Markup {
    let rows = [("Characters", &captions.characters), ("Tokens", &captions.tokens)];
    html! {
        @for (name, counts) in rows { @if counts.n > 0 {
            h3 { (name) small { "quantiles" } }
            dl.quantiles {
                @for q in QUANTILES {
                    div { dt { (scores::named(q)) } dd { (count(counts.quantile(q) as u64)) } }
                }
                div { dt { "mean" } dd { (format!("{:.1}", counts.mean())) } }
            }
        } }
    }
}
