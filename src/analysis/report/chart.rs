//! The page's charts as SVG: x in percent and y in pixels, so that they fit any width and their
//! text keeps its size.
//!
//! Numbers in, markup out; what they mean is said by whoever asks.

use maud::{Markup, html};

use super::data::Scores;
use crate::analysis::bins::Bins;

/// Height of a histogram's bars, and room for its axis, in pixels.
const HEIGHT: f64 = 190.0;
const AXIS: f64 = 24.0;
/// Room above the highest bar.
const HEAD: f64 = 18.0;

/// Where a number lies in a range, in percent of its width.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    pub low: f64,
    pub high: f64,
}

impl Scale {
    pub fn at(self, value: f64) -> f64 {
        let share = (value - self.low) / (self.high - self.low);
        if share.is_finite() { share.clamp(0.0, 1.0) * 100.0 } else { 0.0 }
    }
}

fn percent(x: f64) -> String {
    let text = format!("{x:.3}");
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

/// `1234567` as `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `12.3 %`.
pub fn share(part: u64, whole: u64) -> String {
    match whole {
        0 => "–".to_owned(),
        _ => format!("{:.1} %", part as f64 * 100.0 / whole as f64),
    }
}

/// The histogram of the scores; of those that a cut keeps in the accent colour; an older table's
/// as an outline, with as much area.
pub fn histogram(scores: &Scores, old: Option<&[u64]>) -> Markup {
    let edges = scores.ruler.edges();
    let scale = Scale { low: edges[0], high: edges[scores.ruler.bars] };
    let rows: u64 = scores.bars.iter().sum();
    let old = old.map(|bars| {
        let all: u64 = bars.iter().sum();
        bars.iter().map(|n| *n as f64 * rows as f64 / all.max(1) as f64).collect::<Vec<_>>()
    });
    let highest = scores.bars.iter().map(|n| *n as f64).chain(old.iter().flatten().copied());
    let most = highest.fold(1.0, f64::max);
    let up = |n: f64| level(n, most);
    let cut = percent(scale.at(scores.cut));
    let label = format!("Histogram of {}: {} rows", scores.column, count(rows));
    let bars = |class: &str| {
        let n = scores.ruler.bars as f64;
        html! {
            @for (index, rows) in scores.bars.iter().enumerate().filter(|(_, rows)| **rows > 0) {
                rect class=(class) x=(percent((index as f64 + 0.06) * 100.0 / n))
                    width=(percent(88.0 / n)) y=(format!("{:.1}", up(*rows as f64)))
                    height=(format!("{:.1}", HEIGHT - up(*rows as f64))) {}
            }
        }
    };
    html! {
        svg.plot height=(HEIGHT + AXIS) role="img" aria-label=(label) {
            clipPath #kept-side {
                rect #cut-clip x=(cut) y="0" height=(HEIGHT)
                    width=(percent(100.0 - scale.at(scores.cut))) {}
            }
            (lines(most, up))
            (bars("bar"))
            g clip-path="url(#kept-side)" { (bars("bar on")) }
            @if let Some(old) = &old { (outline(old, up)) }
            line.rule x1="0" x2="100%" y1=(HEIGHT) y2=(HEIGHT) {}
            line.cut-line #cut-line x1=(cut) x2=(cut) y1="4" y2=(HEIGHT) {}
            (ticks(scale, scores.ruler.ticks(7).iter().map(|tick| {
                (*tick, format!("{tick}"))
            })))
        }
    }
}

/// How far from the top a bar of so many rows begins. One row is seen, too.
fn level(rows: f64, most: f64) -> f64 {
    let height = (HEIGHT - HEAD) * rows / most;
    HEIGHT - if rows > 0.0 { height.max(1.0) } else { 0.0 }
}

/// Lines at round numbers of rows, with the number beside the plot.
fn lines(most: f64, up: impl Fn(f64) -> f64) -> Markup {
    let rough = most / 4.0;
    let power = 10_f64.powf(rough.max(1.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power);
    let step = step.into_iter().find(|step| *step >= rough).unwrap_or(most).max(1.0);
    let n = (most / step).floor().min(4.0) as u32;
    html! {
        text x="-10" y=(HEIGHT + 4.0) text-anchor="end" { "0" }
        @for n in (1..=n).map(|i| f64::from(i) * step) {
            line.rule x1="0" x2="100%" y1=(format!("{:.1}", up(n))) y2=(format!("{:.1}", up(n))) {}
            text x="-10" y=(format!("{:.1}", up(n) + 4.0)) text-anchor="end" { (short(n as u64)) }
        }
    }
}

/// `20k`, `3M`: round numbers in little room.
fn short(n: u64) -> String {
    match n {
        0..10_000 => count(n),
        10_000..1_000_000 => format!("{}k", n as f64 / 1e3),
        _ => format!("{}M", count(n / 1_000_000) + &format!("{:.1}", n as f64 / 1e6 % 1.0)[1..])
            .replace(".0", ""),
    }
}

/// The steps of an older histogram.
fn outline(bars: &[f64], up: impl Fn(f64) -> f64) -> Markup {
    let n = bars.len() as f64;
    let with_ends = std::iter::once(0.0).chain(bars.iter().copied()).chain([0.0]);
    let heights: Vec<_> = with_ends.map(|n| format!("{:.1}", up(n))).collect();
    let x = |index: usize| percent(index as f64 * 100.0 / n);
    html! {
        @for (index, pair) in heights.windows(2).enumerate() {
            @if pair[0] != pair[1] {
                line.was x1=(x(index)) x2=(x(index)) y1=(pair[0]) y2=(pair[1]) {}
            }
        }
        @for (index, height) in heights[1..=bars.len()].iter().enumerate() {
            @if bars[index] > 0.0 {
                line.was x1=(x(index)) x2=(x(index + 1)) y1=(height) y2=(height) {}
            }
        }
    }
}

/// Numbers under an axis; those at its ends stay within it.
fn ticks(scale: Scale, at: impl Iterator<Item = (f64, String)>) -> Markup {
    html! {
        @for (value, text) in at {
            @let x = scale.at(value);
            @let anchor = if x < 3.0 { "start" } else if x > 97.0 { "end" } else { "middle" };
            text x=(percent(x)) y=(HEIGHT + 18.0) text-anchor=(anchor) { (text) }
        }
    }
}

/// How many captions have how many characters or tokens.
pub fn lengths(counts: &Bins, what: &str) -> Markup {
    let most = counts.quantile(0.995).max(1.0);
    let rough = most / 40.0;
    let widths = [1, 2, 5, 10, 20, 50, 100, 200, 500];
    let width = widths.into_iter().find(|width| *width as f64 >= rough).unwrap_or(500);
    let n = (most as usize / width) + 1;
    let bars = counts.bars(width, n);
    let highest = bars.iter().copied().max().unwrap_or(1).max(1) as f64;
    let up = |rows: f64| level(rows, highest);
    let every = [1, 2, 5, 10, 20, 50].into_iter().find(|every| n / every <= 8).unwrap_or(50);
    let scale = Scale { low: 0.0, high: (n * width) as f64 };
    let at = (0..=n).step_by(every).map(|bar| ((bar * width) as f64, count((bar * width) as u64)));
    html! {
        svg.plot height=(HEIGHT + AXIS) role="img" aria-label=(format!("Histogram of {what}")) {
            (lines(highest, up))
            @for (index, rows) in bars.iter().enumerate().filter(|(_, rows)| **rows > 0) {
                rect.bar.on x=(percent((index as f64 + 0.06) * 100.0 / n as f64))
                    width=(percent(88.0 / n as f64)) y=(format!("{:.1}", up(*rows as f64)))
                    height=(format!("{:.1}", HEIGHT - up(*rows as f64))) {}
            }
            line.rule x1="0" x2="100%" y1=(HEIGHT) y2=(HEIGHT) {}
            (ticks(scale, at))
        }
    }
}

/// 5 to 95 % as a line, 25 to 75 % as a box, the median as a mark.
pub fn box_plot(scores: &Bins, scale: Scale) -> Markup {
    let at = |q: f64| scale.at(scores.quantile(q));
    let (low, high) = (at(0.25), at(0.75));
    html! {
        svg height="20" role="img" aria-label="5, 25, 50, 75 and 95 % of the scores" {
            rect.track x="0" y="9" width="100%" height="2" {}
            line.whisker x1=(percent(at(0.05))) x2=(percent(at(0.95))) y1="10" y2="10" {}
            rect.box x=(percent(low)) y="3.5" height="13" width=(percent((high - low).max(0.2))) {}
            line.median x1=(percent(at(0.5))) x2=(percent(at(0.5))) y1="3" y2="17" {}
        }
    }
}

/// A part of a whole, as a bar. `id` where the script moves it.
pub fn part(part: u64, whole: u64, id: Option<&str>) -> Markup {
    let width = percent(part as f64 * 100.0 / whole.max(1) as f64);
    html! {
        svg height="10" aria-hidden="true" {
            rect.track x="0" y="0" width="100%" height="10" rx="2" {}
            rect.bar.on id=[id] data-of=[id.map(|_| whole)] x="0" y="0" width=(width) height="10"
                rx="2" {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_people_write_them() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        let all = [5, 9_000, 20_000, 2_500_000, 10_000_000].map(short);
        assert_eq!(all, ["5", "9,000", "20k", "2.5M", "10M"]);
        assert_eq!(percent(12.5), "12.5%");
        assert_eq!(percent(100.0), "100%");
        assert_eq!(share(0, 0), "–");
        assert_eq!(Scale { low: 1.0, high: 1.0 }.at(1.0), 0.0);
    }
}
