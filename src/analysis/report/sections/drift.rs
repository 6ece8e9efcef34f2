//! What has changed since an earlier table.

use maud::{Markup, html};

use crate::analysis::report::chart::{count, share};
use crate::analysis::report::data::{Data, Old, QUANTILES};
use crate::analysis::report::drift::{Drift, Verdict, term};
use crate::analysis::report::html::shown;

/// The rule of thumb in a word.
pub fn verdict(drift: &Drift) -> &'static str {
    match drift.verdict() {
        Verdict::Little => "little change",
        Verdict::Some => "some change",
        Verdict::Much => "a shift",
    }
}

pub fn drift(data: &Data, old: &Old) -> Markup {
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
                        th scope="row" { (super::scores::named(q)) }
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
