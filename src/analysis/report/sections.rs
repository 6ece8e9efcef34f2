//! The page's sections, one function each. A section that the table has nothing for is left out.

use maud::{Markup, html};

use super::chart::{self, Scale, count, share};
use super::data::{Data, Groups, Old, QUANTILES, Scores};
use super::drift::{Drift, Verdict, term};
use super::html::{Facts, Pictures, shown};
use super::tally::Pair;

/// A part of the page that has a name.
pub struct Section {
    pub id: &'static str,
    pub name: &'static str,
    pub markup: Markup,
}

/// Pairs on either side of the cut that are shown at once; the script knows the same number.
const AROUND: usize = 6;

pub fn all(data: &Data, facts: &Facts, pictures: &Pictures) -> Vec<Section> {
    let mut all = Vec::new();
    let mut add = |id, name, markup: Option<Markup>| {
        all.extend(markup.map(|markup| Section { id, name, markup }));
    };
    let scores = data.scores.as_ref();
    add("funnel", "Funnel", (data.rows > 0).then(|| funnel(data, facts)));
    add("scores", "Scores", scores.map(|scores| score(data, scores)));
    add("around", "At the cut", scores.map(|scores| around(data, scores, pictures)));
    add("pairs", "Pairs", (data.ok > 0).then(|| pairs(data, pictures)));
    add("failures", "Failures", (!data.failed.is_empty()).then(|| failures(data)));
    add("captions", "Captions", captions(data));
    add("groups", "Groups", (!data.groups.is_empty()).then(|| groups(data)));
    add("drift", "Drift", data.old.as_ref().map(|old| drift(data, old)));
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
                    span.share { (share(kept, whole)) }
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

impl Scores {
    fn cut_index(&self) -> usize {
        self.thresholds.partition_point(|threshold| *threshold < self.cut)
    }

    fn kept_at_cut(&self) -> u64 {
        self.kept.get(self.cut_index()).copied().unwrap_or(0)
    }

    fn write(&self, value: f64) -> String {
        self.ruler.write(value)
    }
}

fn score(data: &Data, scores: &Scores) -> Markup {
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
fn named(q: f64) -> String {
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

fn around(data: &Data, scores: &Scores, pictures: &Pictures) -> Markup {
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

fn pairs(data: &Data, pictures: &Pictures) -> Markup {
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

fn length_table(captions: &super::captions::CaptionTally) -> Markup {
    let rows = [("Characters", &captions.characters), ("Tokens", &captions.tokens)];
    html! {
        @for (name, counts) in rows { @if counts.n > 0 {
            h3 { (name) small { "quantiles" } }
            dl.quantiles {
                @for q in QUANTILES {
                    div { dt { (named(q)) } dd { (count(counts.quantile(q) as u64)) } }
                }
                div { dt { "mean" } dd { (format!("{:.1}", counts.mean())) } }
            }
        } }
    }
}

fn groups(data: &Data) -> Markup {
    html! {
        h2 { "Groups" }
        p.lead {
            "Scores of the rows that share a value: the largest groups of each column. The line is "
            "5 to 95 %, the box 25 to 75 %, the mark the median."
        }
        @for groups in &data.groups { (group_table(groups)) }
    }
}

fn group_table(groups: &Groups) -> Markup {
    let scored = groups.groups.iter().filter(|group| group.scores.n > 0);
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for group in scored {
        low = low.min(group.scores.quantile(0.05));
        high = high.max(group.scores.quantile(0.95));
    }
    let margin = (high - low) * 0.03;
    let scale = Scale { low: low - margin, high: high + margin };
    let others = match groups.more {
        true => "all other values".to_owned(),
        false => format!("{} other values", count(groups.others as u64)),
    };
    html! {
        h3 { "By " bdi { (shown(&groups.column, 80)) } }
        table.stack {
            thead { tr {
                th scope="col" { "Value" } th.n scope="col" { "Rows" }
                @for name in ["Mean", "5 %", "Median", "95 %"] { th.n scope="col" { (name) } }
                th.wide scope="col" { }
            } }
            tbody { @for group in &groups.groups { tr {
                th scope="row" {
                    @match &group.name {
                        Some(name) if name.is_empty() => span.none { "(empty)" },
                        Some(name) => bdi { (shown(name, 100)) },
                        None => span.none { (others) },
                    }
                }
                td.n data-label="rows" { (count(group.rows)) }
                @if group.scores.n > 0 {
                    td.n.extra { (format!("{:.3}", group.scores.mean())) }
                    td.n.extra { (format!("{:.3}", group.scores.quantile(0.05))) }
                    td.n.extra { (format!("{:.3}", group.scores.quantile(0.5))) }
                    td.n.extra { (format!("{:.3}", group.scores.quantile(0.95))) }
                    td.wide { (chart::box_plot(&group.scores, scale)) }
                } @else {
                    td.n.extra colspan="4" { "no scores" } td.wide { }
                }
            } } }
        }
    }
}

/// The rule of thumb in a word.
pub fn verdict(drift: &Drift) -> &'static str {
    match drift.verdict() {
        Verdict::Little => "little change",
        Verdict::Some => "some change",
        Verdict::Much => "a shift",
    }
}

fn drift(data: &Data, old: &Old) -> Markup {
    html! {
        h2 { "Drift" }
        p.lead { "Against " bdi.mono { (shown(&old.name, 200)) } ", " (count(old.rows)) " rows." }
        @match &old.drift {
            Some(found) => (index(found)),
            None => p { "One of the two tables has no scores to compare." },
        }
        div.columns {
            @if let (Some(new), Some((before, _))) = (&data.scores, &old.scores) { div {
                h3 { "Quantiles" }
                table {
                    thead { tr {
                        th scope="col" { }
                        @for name in ["Before", "Now", "Change"] { th.n scope="col" { (name) } }
                    } }
                    tbody { @for q in QUANTILES { tr {
                        @let (was, is) = (before.quantile(q), new.bins.quantile(q));
                        th scope="row" { (named(q)) }
                        td.n { (format!("{was:.4}")) } td.n { (format!("{is:.4}")) }
                        td.n { (format!("{:+.4}", is - was)) }
                    } } }
                }
            } }
            div { h3 { "Status" } (status_table(data, old)) }
        }
    }
}

fn index(drift: &Drift) -> Markup {
    let old: u64 = drift.rows.iter().map(|(old, _)| old).sum();
    let new: u64 = drift.rows.iter().map(|(_, new)| new).sum();
    let edge = |index: usize| drift.edges.get(index).map(|edge| format!("{edge:.4}"));
    html! {
        p.figure #psi data-psi=(drift.psi) { (format!("{:.3}", drift.psi)) }
        p {
            "Population stability index over " (drift.rows.len()) " intervals of the earlier scores: "
            b { (verdict(drift)) } "."
            @if drift.psi < drift.by_chance { " Two samples of this size differ as much by chance." }
        }
        p.lead {
            "Rule of thumb: below 0.1 little change, up to 0.25 some, above that a shift (Siddiqi, "
            i { "Credit Risk Scorecards" } ", 2006). It knows nothing of sample size: of two samples "
            "of one population with " (count(old)) " and " (count(new)) " rows, one pair in twenty is "
            "above " (format!("{:.4}", drift.by_chance)) " (Yurdakul and Naranjo, 2020)."
        }
        details {
            summary { "The intervals" }
            div.scroll { table #intervals {
                thead { tr {
                    th scope="col" { "From" } th scope="col" { "To, without" }
                    @for name in ["Before", "Now", "Adds"] { th.n scope="col" { (name) } }
                } }
                tbody { @for (at, (was, is)) in drift.rows.iter().enumerate() {
                    tr data-edge=[drift.edges.get(at)] data-old=(was) data-new=(is) {
                        td { (at.checked_sub(1).and_then(edge).unwrap_or("–".into())) }
                        td { (edge(at).unwrap_or("–".into())) }
                        td.n { (share(*was, old)) } td.n { (share(*is, new)) }
                        td.n { (format!("{:.4}", term((*was, old), (*is, new)))) }
                    }
                } }
            } }
        }
    }
}

fn status_table(data: &Data, old: &Old) -> Markup {
    let mut words: Vec<_> = data.failed.iter().map(|(word, ..)| word.as_str()).collect();
    let gone = old.failed.iter().map(|(word, _)| word.as_str());
    let gone: Vec<_> = gone.filter(|word| !words.contains(word)).collect();
    words.extend(gone);
    let now =
        |word: &str| data.failed.iter().find(|(is, ..)| is == word).map_or(0, |found| found.1);
    let was = |word: &str| old.failed.iter().find(|(is, _)| is == word).map_or(0, |found| found.1);
    let failed = words.iter().map(|word| (*word, was(word), now(word)));
    html! {
        table {
            thead { tr {
                th scope="col" { }
                @for name in ["Before", "Now"] { th.n scope="col" { (name) } }
            } }
            tbody { @for (word, was, is) in [("ok", old.ok, data.ok)].into_iter().chain(failed) { tr {
                th scope="row" { span.mono { bdi { (shown(word, 60)) } } }
                td.n { (count(was)) " (" (share(was, old.rows)) ")" }
                td.n { (count(is)) " (" (share(is, data.rows)) ")" }
            } } }
        }
    }
}
