//! What a page says, gathered from the table in two passes; how it looks is `html`'s affair.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::captions::CaptionTally;
use super::columns::Columns;
use super::drift::Drift;
use super::fold::fold;
use super::ruler::Ruler;
use super::survey::{Names, Survey};
use super::tally::{Failed, GroupTally, Look, Pair, Tally};
use crate::analysis::bins::Bins;
use crate::analysis::lowest::Lowest;
use crate::error::Error;
use crate::spec::ReportSpec;
use crate::table::Table;

/// Pairs shown of a kind, and nearest to the cut on either side.
const PAIRS: usize = 12;
/// The range of scores has so many strata, each with so many pairs for the slider to show.
const STRATA: usize = 48;
const A_STRATUM: usize = 2;
/// Groups shown of a column.
const GROUPS: usize = 12;

/// Quantiles that pages give.
pub const QUANTILES: [f64; 9] = [0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0];

/// Everything that a page says of a table.
pub struct Data {
    pub columns: Columns,
    pub rows: u64,
    pub ok: u64,
    /// Rows that are ok and have no score, or one that is NaN or infinite.
    pub unscored: u64,
    pub not_finite: u64,
    /// Status words of rows that failed, most rows first, with some of the rows.
    pub failed: Vec<(String, u64, Vec<Pair>)>,
    pub scores: Option<Scores>,
    pub random: Vec<Pair>,
    pub captions: Option<CaptionTally>,
    pub groups: Vec<Groups>,
    pub old: Option<Old>,
}

/// The scores of the rows that are ok.
pub struct Scores {
    pub column: String,
    pub bins: Bins,
    pub ruler: Ruler,
    /// Rows of each of the ruler's bars.
    pub bars: Vec<u64>,
    pub thresholds: Vec<f64>,
    /// For each threshold, the rows with that score or more.
    pub kept: Vec<u64>,
    /// The cut that the page begins at, one of the thresholds, and whether it was asked for.
    pub cut: f64,
    pub cut_asked: bool,
    pub worst: Vec<Pair>,
    pub best: Vec<Pair>,
    /// Pairs over the whole range and those nearest to the cut, by score.
    pub samples: Vec<Pair>,
}

impl Scores {
    /// Rows that the cut keeps.
    pub fn at_cut(&self) -> u64 {
        let at = self.thresholds.partition_point(|threshold| *threshold < self.cut);
        self.kept.get(at).copied().unwrap_or(0)
    }
}

/// The values of one column, and the scores of the rows that have them.
pub struct Groups {
    pub column: String,
    pub groups: Vec<Group>,
    /// Values that are not shown, at least.
    pub others: usize,
    /// Whether there were more values than were counted.
    pub more: bool,
}

/// Rows with one value.
pub struct Group {
    /// `None`: all other values.
    pub name: Option<String>,
    pub rows: u64,
    pub scores: Bins,
}

/// An earlier table to compare with.
pub struct Old {
    pub name: String,
    pub rows: u64,
    pub ok: u64,
    pub failed: Vec<(String, u64)>,
    /// Its scores, and how many lie in each of the new ruler's bars.
    pub scores: Option<(Bins, Vec<u64>)>,
    pub drift: Option<Drift>,
}

/// An old table as it is read.
struct Before<'a> {
    table: &'a Table,
    columns: Columns,
    scores: Bins,
    deciles: Vec<f64>,
}

impl Data {
    /// Reads `table`, and `old` to compare it with: the scores twice (thrice where they are no
    /// cosines), the rest once.
    ///
    /// # Errors
    /// `NoColumn` and `ColumnType` for columns that the settings name; what reading gives.
    pub fn gather(table: &Table, old: Option<&Table>, spec: &ReportSpec) -> Result<Self, Error> {
        let columns = Columns::find(table, spec)?;
        let before = old.map(|old| Before::read(old, &columns, spec)).transpose()?;
        let survey = Survey::of(table, &columns)?;
        let any = survey.scores.n > 0;
        let ruler = any.then(|| Ruler::over(&survey.scores, spec.cut));
        let cut = spec.cut.unwrap_or_else(|| usual_cut(&survey.scores, ruler.as_ref()));
        let look = Look {
            seed: spec.seed,
            thresholds: ruler.as_ref().map(|ruler| ruler.thresholds(cut)).unwrap_or_default(),
            deciles: before.as_ref().map(|before| before.deciles.clone()).unwrap_or_default(),
            cut,
            bins: survey.scores.emptied(),
            groups: survey.names.iter().map(index).collect(),
            pairs: PAIRS,
            strata: STRATA,
            a_stratum: A_STRATUM,
            columns,
        };
        let mut tally = fold(table, &look.columns.names(), || Tally::new(&look))?;
        let old = before
            .map(|before| before.compare(&tally, ruler.as_ref(), &old_name(spec)))
            .transpose()?;
        let scores = ruler.map(|ruler| Scores::of(&mut tally, &look, (survey.scores, ruler), spec));
        let captions = look.columns.caption.is_some().then_some(tally.captions);
        let groups = groups(&look, &survey.names, tally.groups);
        Ok(Self {
            rows: tally.rows,
            ok: tally.ok,
            unscored: tally.unscored,
            not_finite: tally.not_finite,
            failed: failed(tally.failed),
            scores,
            random: tally.random.into_sorted(),
            captions,
            groups,
            old,
            columns: look.columns,
        })
    }

    /// Every pair that may be shown with a picture.
    pub fn pairs(&self) -> impl Iterator<Item = &Pair> {
        let scores = self.scores.iter();
        let lists = scores.flat_map(|scores| [&scores.samples, &scores.worst, &scores.best]);
        lists.chain([&self.random]).flatten()
    }
}

/// The threshold that three quarters of the rows reach, as the ruler writes it.
fn usual_cut(scores: &Bins, ruler: Option<&Ruler>) -> f64 {
    let Some(ruler) = ruler else { return 0.0 };
    let cut = scores.quantile(0.25);
    let all = ruler.thresholds(ruler.edges()[0]);
    // One that keeps at least as many.
    all[all.partition_point(|threshold| *threshold <= cut).saturating_sub(1)]
}

fn old_name(spec: &ReportSpec) -> String {
    spec.against.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
}

impl Scores {
    fn of(
        tally: &mut Tally<'_>,
        look: &Look,
        (bins, ruler): (Bins, Ruler),
        spec: &ReportSpec,
    ) -> Self {
        let take = |list: &mut Lowest<Pair>| std::mem::replace(list, Lowest::new(0)).into_sorted();
        let near = [&mut tally.below, &mut tally.above].map(take);
        let strata = tally.strata.iter_mut().map(take);
        let mut samples: Vec<_> = near.into_iter().chain(strata).flatten().collect();
        let mut seen = HashSet::new();
        samples.retain(|pair| seen.insert(pair.row));
        let score = |pair: &Pair| pair.score.unwrap_or_default();
        samples.sort_by(|a, b| score(a).total_cmp(&score(b)).then(a.row.cmp(&b.row)));
        let kept = tally.kept.kept();
        let bars = bars(&ruler, &look.thresholds, &kept);
        Self {
            column: look.columns.score.clone().unwrap_or_default(),
            bins,
            bars,
            ruler,
            thresholds: look.thresholds.clone(),
            kept,
            cut: look.cut,
            cut_asked: spec.cut.is_some(),
            worst: take(&mut tally.worst),
            best: take(&mut tally.best),
            samples,
        }
    }
}

/// Rows of each bar, from the rows above thresholds that the bars' edges are among.
fn bars(ruler: &Ruler, thresholds: &[f64], kept: &[u64]) -> Vec<u64> {
    let above = |edge: &f64| {
        let at = thresholds.partition_point(|threshold| threshold < edge);
        kept.get(at).copied().unwrap_or(0)
    };
    let above: Vec<_> = ruler.edges().iter().map(above).collect();
    above.windows(2).map(|pair| pair[0] - pair[1]).collect()
}

fn index(names: &Names) -> HashMap<Option<Vec<u8>>, usize> {
    names.most(GROUPS).into_iter().enumerate().map(|(index, name)| (name, index)).collect()
}

fn groups(look: &Look, names: &[Names], tallies: Vec<Vec<GroupTally>>) -> Vec<Groups> {
    let of_column = |((column, names), tallies): ((&String, &Names), Vec<_>)| {
        let shown = names.most(GROUPS);
        let name = |name: &Option<Vec<u8>>| match name {
            Some(name) => String::from_utf8_lossy(name).into_owned(),
            None => "null".to_owned(),
        };
        let names_then_others = shown.iter().map(|shown| Some(name(shown))).chain([None]);
        let mut groups: Vec<_> = names_then_others
            .zip(tallies)
            .map(|(name, tally): (_, GroupTally)| Group {
                name,
                rows: tally.rows,
                scores: tally.scores,
            })
            .filter(|group| group.rows > 0)
            .collect();
        // Exact now; the others stay last.
        groups.sort_by(|a, b| (a.name.is_none(), b.rows).cmp(&(b.name.is_none(), a.rows)));
        let others = names.n().saturating_sub(shown.len());
        Groups { column: column.clone(), groups, others, more: names.more }
    };
    look.columns.by.iter().zip(names).zip(tallies).map(of_column).collect()
}

/// Status words, most rows first.
fn failed(failed: BTreeMap<String, Failed>) -> Vec<(String, u64, Vec<Pair>)> {
    let each =
        |(word, failed): (String, Failed)| (word, failed.rows, failed.examples.into_sorted());
    let mut all: Vec<_> = failed.into_iter().map(each).collect();
    all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    all
}

impl<'a> Before<'a> {
    /// The old table's columns and deciles. Its score column is the new one's where it has one of
    /// that name.
    fn read(table: &'a Table, new: &Columns, spec: &ReportSpec) -> Result<Self, Error> {
        let is_there =
            |name: &String| table.find(name).is_some_and(|field| field.data_type().is_numeric());
        let same = new.score.clone().filter(is_there);
        let score = spec.score.clone().or(same);
        let spec = ReportSpec { score, by: Vec::new(), caption: None, image: None, ..spec.clone() };
        let mut columns = Columns::find(table, &spec)?;
        (columns.caption, columns.image) = (None, None);
        let scores = Survey::of(table, &columns)?.scores;
        let mut deciles: Vec<_> = match scores.n {
            0 => Vec::new(),
            _ => (1..10).map(|tenth| scores.quantile(f64::from(tenth) / 10.0)).collect(),
        };
        deciles.dedup();
        Ok(Self { table, columns, scores, deciles })
    }

    /// Counts the old table's rows as the new one's were counted.
    fn compare(self, new: &Tally<'_>, ruler: Option<&Ruler>, name: &str) -> Result<Old, Error> {
        let look = Look {
            seed: 0,
            thresholds: ruler.map(Ruler::edges).unwrap_or_default(),
            deciles: self.deciles,
            cut: 0.0,
            bins: self.scores.emptied(),
            groups: Vec::new(),
            pairs: 0,
            strata: 0,
            a_stratum: 0,
            columns: self.columns,
        };
        let tally = fold(self.table, &look.columns.names(), || Tally::new(&look))?;
        let drift = Drift::of(look.deciles.clone(), tally.deciles.between(), new.deciles.between());
        let bars = ruler.map(|ruler| bars(ruler, &look.thresholds, &tally.kept.kept()));
        Ok(Old {
            name: name.to_owned(),
            rows: tally.rows,
            ok: tally.ok,
            failed: failed(tally.failed).into_iter().map(|(word, n, _)| (word, n)).collect(),
            scores: (self.scores.n > 0).then(|| (self.scores, bars.unwrap_or_default())),
            drift,
        })
    }
}
