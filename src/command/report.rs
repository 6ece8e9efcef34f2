//! `clipmill report`: a table as one HTML page, for people.
//!
//! What is counted and how it looks is `analysis::report`'s affair. Here it is joined with what the
//! files beside the table say, and with pictures from `images`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryViewArray};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::table;
use crate::analysis::report::{Data, Facts, Made, Picture, Thumbnail, Thumbnails, Verdict, page};
use crate::analysis::summary::QUANTILES;
use crate::cli::ReportArgs;
use crate::error::{Error, RowError, RowStatus};
use crate::files;
use crate::images::resize::Rgb;
use crate::images::thumbnail::{encode, fit, thumbnail};
use crate::images::{ImageLoader, LoadError, PathLoader};
use crate::manifest::{self, SUCCESS};
use crate::report::RunReport;
use crate::spec::{ImagePathSpec, PreprocessSpec, ReportSpec};
use crate::store::is_url;
use crate::table::{Table, Written};

pub fn report(args: &ReportArgs) -> Result<(), Error> {
    let spec = args.spec();
    let (data, bytes) = write(&spec, &args.input)?;
    table::print(&if args.json { as_json(&data, &spec) } else { said(&data, &spec, bytes) })
}

/// Reports on a table; gives what the terminal shows.
pub fn step(spec: &ReportSpec, input: &Path) -> Result<String, Error> {
    let (data, bytes) = write(spec, input)?;
    Ok(said(&data, spec, bytes))
}

/// Finds what is wrong with it before there are rows: over a table without any, into `page`.
pub fn rehearse(spec: &ReportSpec, input: &Path, page: &Path) -> Result<(), Error> {
    super::check_file_name("out", &spec.out)?;
    spec.against.as_deref().map(Table::open).transpose()?;
    let spec = ReportSpec { out: page.to_owned(), against: None, ..spec.clone() };
    write(&spec, input).map(drop)
}

/// Writes the page; gives what is on it, and its size.
///
/// # Errors
/// `NotFound` for a folder that is not there, those of reading the tables and of writing the page.
fn write(spec: &ReportSpec, input: &Path) -> Result<(Data, usize), Error> {
    super::check_file("--out", &spec.out)?;
    if spec.cut.is_some_and(|cut| !cut.is_finite()) {
        let problem = "is no finite number".to_owned();
        return Err(Error::Setting { key: "cut".into(), problem });
    }
    let found = Table::open(input)?;
    let old = spec.against.as_deref().map(Table::open).transpose()?;
    let pictures = Pictures::open(&found, spec)?;
    let data = Data::gather(&found, old.as_ref(), spec)?;
    let mut facts = facts(&found, input)?;
    if let (Some(pictures), Some(column)) = (&pictures, &data.columns.image) {
        let root = format!("{} (column {column})", pictures.root_path.display());
        facts.made.push(("Pictures from".into(), root));
    }
    let thumbnails = pictures.as_ref().map(|pictures| pictures as &dyn Thumbnails);
    let html = page(&data, &facts, thumbnails);
    files::replace(&spec.out, html.as_bytes())?;
    Ok((data, html.len()))
}

fn as_json(data: &Data, spec: &ReportSpec) -> String {
    let failed = data.failed.iter().map(|(word, rows, _)| (word.clone(), json!(rows)));
    let scores = data.scores.as_ref().map(|scores| {
        json!({
            "column": scores.column,
            "rows": scores.bins.n,
            "mean": scores.bins.mean(),
            "quantiles": QUANTILES.map(|q| (q, scores.bins.quantile(q))),
            "cut": scores.cut,
            "kept": scores.at_cut(),
        })
    });
    let drift = data.old.as_ref().and_then(|old| old.drift.as_ref());
    let json = json!({
        "report": spec.out,
        "rows": data.rows,
        "ok": data.ok,
        "failed": failed.collect::<serde_json::Map<_, _>>(),
        "scores": scores,
        "population_stability_index": drift.map(|drift| drift.psi),
    });
    format!("{json:#}\n")
}

/// What the terminal shows.
fn said(data: &Data, spec: &ReportSpec, bytes: usize) -> String {
    let mut rows = vec![("rows".to_owned(), data.rows), ("ok".to_owned(), data.ok)];
    rows.extend(data.failed.iter().map(|(word, n, _)| (format!("failed: {word}"), *n)));
    let rows = rows.into_iter().map(|(name, n)| vec![table::one_line(&name, 60), table::count(n)]);
    let mut text = format!("{}\n", table::table(&[], rows.collect(), &[1]));
    if let Some(scores) = &data.scores {
        let kept = scores.at_cut();
        text += &format!(
            "\n {}: median {:.4}, mean {:.4}; {} or more: {} of {} ({:.1} %)\n",
            scores.column,
            scores.bins.quantile(0.5),
            scores.bins.mean(),
            scores.cut,
            table::count(kept),
            table::count(scores.bins.n),
            kept as f64 * 100.0 / scores.bins.n as f64
        );
    }
    if let Some(drift) = data.old.as_ref().and_then(|old| old.drift.as_ref()) {
        let verdict = match drift.verdict() {
            Verdict::Little => "little change",
            Verdict::Some => "some change",
            Verdict::Much => "a shift",
        };
        text += &format!(" Drift: PSI {:.4}, {verdict}\n", drift.psi);
    }
    text + &format!("\n Report: {} ({})\n", spec.out.display(), table::bytes(bytes as u64))
}

/// What the table and the files beside it say of how it was made.
fn facts(found: &Table, input: &Path) -> Result<Facts, Error> {
    let mut facts = Facts { title: input.display().to_string(), ..Facts::default() };
    of_run(found, &mut facts);
    let bytes = found.files().iter().map(|file| file.bytes).sum();
    let files = table::counted(found.files().len() as u64, "file");
    facts.made.push(("Table".into(), format!("{files}, {}", table::bytes(bytes))));
    if input.is_dir() || (is_url(input) && found.files()[0].path != input) {
        beside(input, &mut facts)?;
    }
    if let Some(pipeline) = found.made_by("pipeline") {
        facts.details.push(("Pipeline".into(), pipeline.to_owned()));
    }
    let column =
        |field: &arrow::datatypes::FieldRef| format!("{:32} {}", field.name(), field.data_type());
    let columns: Vec<_> = found.schema().fields().iter().map(column).collect();
    facts.details.push((format!("{} columns", columns.len()), columns.join("\n")));
    Ok(facts)
}

/// What the run wrote into the table itself.
fn of_run(found: &Table, facts: &mut Facts) {
    let mut add = |name: &str, value: Option<String>| {
        facts.made.extend(value.map(|value| (name.to_owned(), value)));
    };
    let text = |key| found.made_by(key).map(str::to_owned);
    let json = |key| found.made_by(key).and_then(|text| serde_json::from_str(text).ok());
    add("Version", text("version").map(|version| format!("clipmill {version}")));
    add("Model", json("model").map(|model| model_in_words(&model)));
    add("Ran on", text("device").or_else(|| text("precision")));
    add("Preprocessing", json("preprocessing").map(|settings| pixels_in_words(&settings)));
}

fn model_in_words(model: &Value) -> String {
    let said = |key: &str| model.get(key).and_then(Value::as_str);
    let text = |key: &str| said(key).unwrap_or("?");
    let place = match (said("hub"), said("commit")) {
        (Some(repo), Some(commit)) => format!("{repo} at commit {commit}"),
        _ => text("dir").to_owned(),
    };
    let digest: String = text("weights_sha256").chars().take(12).collect();
    let dim = model.get("embedding_dim").and_then(Value::as_u64);
    let dim = dim.map(|dim| format!(", {dim}-d")).unwrap_or_default();
    format!("{place} ({}{dim}), weights sha256 {digest}…", text("family"))
}

fn pixels_in_words(settings: &Value) -> String {
    let number = |path: &str| settings.pointer(path).and_then(Value::as_u64);
    let filters = ["nearest", "Lanczos", "bilinear", "bicubic", "box", "Hamming"];
    let filter = number("/resample").and_then(|index| filters.get(index as usize));
    let size = match (number("/size/shortest_edge"), number("/size/height"), number("/size/width"))
    {
        (Some(side), ..) => format!("shortest side to {side}"),
        (_, Some(height), Some(width)) => format!("squashed to {height} × {width}"),
        _ => "size kept".to_owned(),
    };
    let crop = match (number("/crop_size/height"), number("/crop_size/width")) {
        (Some(height), Some(width)) => format!(", crop {height} × {width}"),
        _ => String::new(),
    };
    let exif = settings.get("exif").and_then(Value::as_str).unwrap_or("ignore");
    format!("{size}{crop}, {}, EXIF turns: {exif}", filter.unwrap_or(&"unknown filter"))
}

/// What the files beside the parts say.
fn beside(dir: &Path, facts: &mut Facts) -> Result<(), Error> {
    let mut add = |name: &str, value: String| facts.made.push((name.to_owned(), value));
    if let Some(made) = Written::read(dir)? {
        let (rows_in, rows_out) = (table::count(made.rows_in), table::count(made.rows_out));
        add("Then", format!("clipmill {}: {rows_in} rows in, {rows_out} out", made.command));
        facts.funnel = funnel(made.clone())?;
        let settings = serde_json::to_string_pretty(&made.settings).unwrap_or_default();
        facts.details.push((format!("Settings of {}", made.command), settings));
    } else if files::exists(&dir.join(manifest::FILE_NAME))? {
        let complete = files::exists(&dir.join(SUCCESS))?;
        add("State", if complete { "complete" } else { "not complete yet" }.to_owned());
    }
    if let Some(run) = RunReport::read(dir)? {
        let work = &run.this_run;
        let speed = work.rows as f64 / work.seconds.max(1e-9);
        let memory = work.peak_memory.map(|peak| format!(", {} of memory", table::bytes(peak)));
        facts.made.push((
            "Last run".into(),
            format!(
                "{} rows in {:.1} s ({speed:.1} rows/s), {} threads, batches of {}{}",
                table::count(work.rows),
                work.seconds,
                run.threads,
                run.batch_size,
                memory.unwrap_or_default()
            ),
        ));
    }
    Ok(())
}

/// Steps back from a table to the run that scored it, at the most.
const MOST_STEPS: usize = 8;

/// What each step that led to a folder kept: of a filter every rule, of others what came out.
fn funnel(made: Written) -> Result<Vec<(String, u64)>, Error> {
    let mut steps: Vec<Vec<(String, u64)>> = Vec::new();
    let mut next = Some(made);
    while let Some(made) = next.take() {
        let mut own = vec![(format!("before {}", made.command), made.rows_in)];
        match made.command.as_str() {
            "filter" => own.extend(rules(&made.summary)),
            _ => own.push((format!("after {}", made.command), made.rows_out)),
        }
        steps.push(own);
        let from = made.inputs.first().and_then(|(path, _)| Path::new(path).parent());
        if let Some(from) = from.filter(|_| steps.len() < MOST_STEPS) {
            next = Written::read(from)?;
        }
    }
    let mut funnel: Vec<_> = steps.into_iter().rev().flatten().collect();
    // What one step gave is what the next one took.
    funnel.dedup_by(|next, before| next.1 == before.1 && next.0.starts_with("before "));
    Ok(funnel)
}

/// `{"funnel": [{"keeps": "...", "rows": N}, ...]}`, where a summary has it.
fn rules(summary: &Value) -> Vec<(String, u64)> {
    let steps = summary.get("funnel").and_then(Value::as_array);
    let step =
        |step: &Value| Some((step.get("keeps")?.as_str()?.to_owned(), step.get("rows")?.as_u64()?));
    steps.into_iter().flatten().take(64).filter_map(step).collect()
}

/// The longest side of a picture; smaller ones where all would take too much.
const SIDES: [usize; 5] = [224, 176, 136, 104, 72];
const QUALITY: u8 = 80;

/// Pictures of the images beneath a root, opened as a run opens them.
struct Pictures {
    loader: PathLoader,
    root_path: PathBuf,
    /// For absolute paths that lie in it.
    root: PathBuf,
    limits: PreprocessSpec,
}

impl Pictures {
    /// Where the settings or the run that made the table say that images are. A root that only the
    /// table names may be gone; and it gives no leave to read absolute paths, whatever it says.
    fn open(found: &Table, spec: &ReportSpec) -> Result<Option<Self>, Error> {
        let asked = spec.images_root.clone();
        let root = asked.clone().or_else(|| Made::of(found).images_root());
        let Some(root_path) = root.filter(|_| spec.thumbnails) else { return Ok(None) };
        let limits = PreprocessSpec::default();
        let path_spec = ImagePathSpec { root: root_path.clone(), allow_absolute: false };
        let loader = match PathLoader::open(&path_spec, limits.max_bytes) {
            Ok(loader) => loader,
            Err(_) if asked.is_none() => return Ok(None),
            Err(error) => return Err(error),
        };
        let root = root_path.canonicalize().map_err(Error::io("find", &root_path))?;
        Ok(Some(Self { loader, root_path, root, limits }))
    }

    fn small(&self, column: &ArrayRef, row: usize) -> Result<Rgb, RowError> {
        let bytes = self.loader.load(column, row).map_err(|error| match error {
            LoadError::Row(error) => error,
            // Of one picture of a page it is said there.
            LoadError::Machine(error) => {
                RowError::new(RowStatus::ImageUnreadable, error.to_string())
            }
        })?;
        thumbnail(&bytes, &self.limits, SIDES[0])
    }
}

impl Thumbnails for Pictures {
    fn make(&self, images: &[&[u8]], bytes: usize) -> Vec<Thumbnail> {
        let relative = |image: &&[u8]| {
            let path = Path::new(OsStr::from_bytes(image));
            let inside = path.strip_prefix(&self.root).unwrap_or(path);
            inside.as_os_str().as_encoded_bytes().to_vec()
        };
        let column: BinaryViewArray = images.iter().map(relative).map(Some).collect();
        let column: ArrayRef = Arc::new(column);
        let load = |row| self.small(&column, row);
        let large: Vec<_> = (0..images.len()).into_par_iter().map(load).collect();
        let at = |side: usize| -> Vec<Result<Picture, RowError>> {
            let picture = |image: &Result<Rgb, RowError>| {
                let small = fit(image.as_ref().map_err(RowError::clone)?, side);
                let jpeg = encode(&small, QUALITY)?;
                Ok(Picture { width: small.width, height: small.height, jpeg })
            };
            large.par_iter().map(picture).collect()
        };
        let size = |made: &[Result<Picture, RowError>]| -> usize {
            made.iter().flatten().map(|picture| picture.jpeg.len()).sum()
        };
        let mut made = at(SIDES[0]);
        for side in &SIDES[1..] {
            if size(&made) <= bytes {
                break;
            }
            made = at(*side);
        }
        let word = |error: RowError| (error.status.to_string(), error.message);
        made.into_iter().map(|picture| picture.map_err(word)).collect()
    }
}
