//! What is asked for, made rules over the columns that a table has.
//!
//! A preset's columns have several usual names. Where one stands for another, or a rule is left
//! out because its column is not there, a note says so. Nothing is written here.

use arrow::datatypes::DataType;

use super::cut::{Cut, Scores};
use super::rules::Rule;
use super::sql::Condition;
use crate::error::Error;
use crate::spec::filter::{ClipArch, FilterColumns, FilterSpec, Preset};
use crate::table::Table;
use crate::travel::is_text;

/// The usual names of columns, DataComp's, clipmill's and img2dataset's, by what they hold.
const UID: &[&str] = &["uid"];
const CAPTION: &[&str] = &["text", "caption", "TEXT"];
const WIDTH: &[&str] = &["original_width", "image_width", "width", "WIDTH"];
const HEIGHT: &[&str] = &["original_height", "image_height", "height", "HEIGHT"];
const LANGUAGE: &[&str] = &["language", "lang", "LANGUAGE"];
const IMAGE_BYTES: &[&str] = &["image_bytes", "image_size"];
const STATUS: &str = "status";

/// A filter's rules, in the order in which they are counted.
pub struct Rules {
    pub rules: Vec<Rule>,
    /// The column of uids, where those are asked for.
    pub uid: Option<String>,
    pub notes: Vec<String>,
}

impl Rules {
    /// Finds the columns, reads the condition, and computes the threshold that depends on all rows.
    ///
    /// # Errors
    /// `Setting`, `NoColumn`, `ColumnType`; what reading scores gives.
    pub fn resolve(spec: &FilterSpec, table: &Table) -> Result<Self, Error> {
        check_numbers(spec)?;
        let mut found = Resolver { table, names: &spec.columns, rules: vec![], notes: vec![] };
        let uid = match &spec.uids {
            Some(_) => Some(found.text("uid", spec.columns.uid.as_deref(), UID)?),
            None => None,
        };
        let status = found.status();
        if let Some(preset) = spec.preset {
            found.preset(preset, spec, status.as_deref())?;
        }
        if let Some(condition) = &spec.condition {
            found.rules.push(Rule::Where(Condition::new(condition, table)?));
        }
        let cut = match (spec.keep_top, spec.keep_quantile) {
            (Some(share), _) => Some((Cut::Top(share), "keep_top")),
            (_, Some(q)) => Some((Cut::Quantile(q), "keep_quantile")),
            _ => None,
        };
        if let Some((cut, why)) = cut {
            let column = found.score(spec.score.as_deref())?;
            let scores = Scores::read(table, &column, status.as_deref())?;
            let at_least = scores.threshold(cut);
            found.rules.push(Rule::Scored { column: column.clone() });
            found.rules.push(Rule::Score { column, at_least, why });
        }
        let Resolver { rules, notes, .. } = found;
        Ok(Self { rules, uid, notes })
    }

    /// The columns that the rules read, each once.
    pub fn columns(&self) -> Vec<&str> {
        let mut columns: Vec<_> = self.rules.iter().flat_map(Rule::columns).collect();
        columns.sort_unstable();
        columns.dedup();
        columns
    }
}

fn check_numbers(spec: &FilterSpec) -> Result<(), Error> {
    let wrong = |key: &str, problem: String| Err(Error::Setting { key: key.into(), problem });
    match (spec.keep_top, spec.keep_quantile) {
        (Some(_), Some(_)) => {
            wrong("keep_quantile", "is there beside keep_top: one of them decides".into())
        }
        (Some(share), _) if !(share > 0.0 && share <= 1.0) => {
            wrong("keep_top", format!("{share} is no share of the rows: more than 0, at most 1"))
        }
        (_, Some(q)) if !(0.0..=1.0).contains(&q) => {
            wrong("keep_quantile", format!("{q} is no quantile: from 0 to 1"))
        }
        _ => Ok(()),
    }
}

struct Resolver<'a> {
    table: &'a Table,
    names: &'a FilterColumns,
    rules: Vec<Rule>,
    notes: Vec<String>,
}

impl Resolver<'_> {
    /// The status column, where the table has one of words.
    fn status(&mut self) -> Option<String> {
        let is_text = self.table.find(STATUS).map(|field| is_text(field.data_type()))?;
        if !is_text {
            self.notes.push(format!("{STATUS} holds no words: no row counts as failed"));
            return None;
        }
        self.rules.push(Rule::Status { column: STATUS.into() });
        Some(STATUS.into())
    }

    /// The rules of a preset.
    fn preset(
        &mut self,
        preset: Preset,
        spec: &FilterSpec,
        status: Option<&str>,
    ) -> Result<(), Error> {
        match preset {
            Preset::DatacompBasic => self.basic(),
            Preset::DatacompThreshold => self.threshold(ClipArch::B32, 0.25, spec),
            Preset::DatacompFraction(arch, percent) => {
                self.fraction(arch, f64::from(percent) / 100.0, spec, status)
            }
            Preset::Laion400m => {
                let column = self.text("caption", self.names.caption.as_deref(), CAPTION)?;
                self.rules.push(Rule::Characters { column, at_least: 5 });
                match self.number_if_there(self.names.image_bytes.as_deref(), IMAGE_BYTES)? {
                    Some(column) => self.rules.push(Rule::ImageBytes { column, at_least: 5e3 }),
                    None => self.notes.push(
                        "no column of the images' sizes: images under 5 kB are not looked for \
                         (--map image_bytes=NAME)"
                            .into(),
                    ),
                }
                self.threshold(ClipArch::B32, 0.3, spec)
            }
            Preset::Laion5bEn => {
                self.language()?;
                self.threshold(ClipArch::B32, 0.28, spec)
            }
        }
    }

    /// DataComp's `basic_filter`.
    fn basic(&mut self) -> Result<(), Error> {
        self.language()?;
        let column = self.text("caption", self.names.caption.as_deref(), CAPTION)?;
        self.rules.push(Rule::Words { column: column.clone(), more_than: 2 });
        self.rules.push(Rule::Characters { column, at_least: 6 });
        let width = self.number("width", self.names.width.as_deref(), WIDTH)?;
        let height = self.number("height", self.names.height.as_deref(), HEIGHT)?;
        let (w, h) = (width.clone(), height.clone());
        self.rules.push(Rule::Side { width: w, height: h, at_least: 200.0 });
        self.rules.push(Rule::Aspect { width, height, at_most: 3.0 });
        Ok(())
    }

    fn language(&mut self) -> Result<(), Error> {
        let asked = self.names.language.as_deref();
        let there = LANGUAGE.iter().find(|name| self.table.find(name).is_some());
        if asked.is_none() && there.is_none() {
            let note = "no column of languages: captions of every language are kept (--map \
                        language=NAME)";
            self.notes.push(note.into());
            return Ok(());
        }
        let column = self.text("language", asked, LANGUAGE)?;
        self.rules.push(Rule::Language { column });
        Ok(())
    }

    /// Keeps scores of at least this, compared as numpy does: in the column's own type.
    fn threshold(&mut self, arch: ClipArch, at_least: f64, spec: &FilterSpec) -> Result<(), Error> {
        let column = self.score_of(arch, spec)?;
        let at_least = match self.table.field(&column)?.data_type() {
            DataType::Float16 => half::f16::from_f64(at_least).to_f64(),
            DataType::Float32 => f64::from(at_least as f32),
            _ => at_least,
        };
        self.rules.push(Rule::Score { column, at_least, why: "threshold" });
        Ok(())
    }

    /// Keeps DataComp's fraction of the rows.
    fn fraction(
        &mut self,
        arch: ClipArch,
        fraction: f64,
        spec: &FilterSpec,
        status: Option<&str>,
    ) -> Result<(), Error> {
        if fraction >= 1.0 {
            let problem = "a fraction of 1 has no threshold: DataComp's script ends with an \
                           IndexError there; --keep-top 1 keeps every row with a score";
            return Err(Error::Setting { key: "preset".into(), problem: problem.into() });
        }
        let column = self.score_of(arch, spec)?;
        let scores = Scores::read(self.table, &column, status)?;
        let at_least = scores.threshold(Cut::Datacomp(fraction));
        if at_least.is_nan() && self.table.rows() > 0 {
            self.notes.push(format!(
                "fewer rows have a {column} than are to be kept, so there is no threshold and, as \
                 by DataComp's script, no row is kept"
            ));
        }
        self.rules.push(Rule::Score { column, at_least, why: "fraction" });
        Ok(())
    }

    /// A preset's score column: the one that is asked for, DataComp's, or the run's.
    fn score_of(&mut self, arch: ClipArch, spec: &FilterSpec) -> Result<String, Error> {
        let usual = format!("clip_{}_similarity_score", arch.as_str());
        if spec.score.is_some() || self.table.find(&usual).is_none() {
            let column = self.score(spec.score.as_deref())?;
            if column != usual {
                let name = if arch == ClipArch::B32 { "ViT-B/32" } else { "ViT-L/14" };
                self.notes
                    .push(format!("{column} stands for {usual}: the preset means OpenAI's {name}"));
            }
            return Ok(column);
        }
        self.score(Some(&usual))
    }

    /// The score column: the one that is asked for, or the only one of the run.
    fn score(&self, asked: Option<&str>) -> Result<String, Error> {
        let column = match asked {
            Some(column) => column.to_owned(),
            None => self.only_score()?,
        };
        match self.table.field(&column)?.data_type() {
            data_type if data_type.is_numeric() => Ok(column),
            _ => Err(self.table.wrong_type(&column, "a score is a number".into())),
        }
    }

    fn only_score(&self) -> Result<String, Error> {
        let there = |name: &String| self.table.find(name).is_some();
        let mut scores: Vec<_> = self.table.made_scores().into_iter().filter(there).collect();
        if scores.is_empty() {
            let usual = ["similarity", "clip_b32_similarity_score", "clip_l14_similarity_score"];
            scores = usual.map(str::to_owned).into_iter().filter(there).collect();
        }
        let problem = match scores.as_slice() {
            [only] => return Ok(only.clone()),
            [] => {
                let floats = self.table.schema().fields().iter();
                let floats = floats.filter(|field| field.data_type().is_floating());
                let names: Vec<_> = floats.map(|field| field.name().as_str()).collect();
                match names.is_empty() {
                    true => "the table has no column of scores".to_owned(),
                    false => format!("name the column of scores (floats: {})", names.join(", ")),
                }
            }
            several => format!("the run made several scores, name one: {}", several.join(", ")),
        };
        Err(Error::Setting { key: "score".into(), problem })
    }

    /// A column of strings: the one that is asked for, or the first usual one that is there.
    fn text(&self, what: &str, asked: Option<&str>, usual: &[&str]) -> Result<String, Error> {
        let column = self.named(what, asked, usual)?;
        match self.table.field(&column)?.data_type() {
            data_type if is_text(data_type) => Ok(column),
            _ => Err(self.table.wrong_type(&column, format!("a {what} is a string"))),
        }
    }

    fn number(&self, what: &str, asked: Option<&str>, usual: &[&str]) -> Result<String, Error> {
        let column = self.named(what, asked, usual)?;
        match self.table.field(&column)?.data_type() {
            data_type if data_type.is_numeric() => Ok(column),
            _ => Err(self.table.wrong_type(&column, format!("a {what} is a number"))),
        }
    }

    /// The same of a column that need not be there, and under its usual name may be something else.
    fn number_if_there(
        &self,
        asked: Option<&str>,
        usual: &[&str],
    ) -> Result<Option<String>, Error> {
        if asked.is_some() {
            return self.number("size", asked, usual).map(Some);
        }
        let is_number = |name: &&&str| {
            self.table.find(name).is_some_and(|field| field.data_type().is_numeric())
        };
        Ok(usual.iter().find(is_number).map(|name| (*name).to_owned()))
    }

    fn named(&self, what: &str, asked: Option<&str>, usual: &[&str]) -> Result<String, Error> {
        if let Some(column) = asked {
            return self.table.field(column).map(|field| field.name().clone());
        }
        if let Some(name) = usual.iter().find(|name| self.table.find(name).is_some()) {
            return Ok((*name).to_owned());
        }
        // Says what the nearest name is.
        let wrong = self.table.field(usual[0]).map(|field| field.name().clone());
        wrong.map_err(|error| match error {
            Error::NoColumn { path, column, hint } => {
                let hint = format!(", which holds each row's {what}{hint} (--map {what}=NAME)");
                Error::NoColumn { path, column, hint }
            }
            other => other,
        })
    }
}
