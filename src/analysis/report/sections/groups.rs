//! Scores of the rows that share a value.

use maud::{Markup, html};

use crate::analysis::report::chart::{self, Scale, count};
use crate::analysis::report::data::{Data, Groups};
use crate::analysis::report::html::shown;

pub fn groups(data: &Data) -> Markup {
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
