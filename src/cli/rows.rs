//! The arguments of what looks at rows' values: `filter`, `dedup`, `report`. Each becomes what a
//! pipeline file's section of that name says.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::Args;

use crate::spec::filter::Preset;
use crate::spec::{DedupSpec, DeviceSpec, ReportSpec, default_distance, default_threshold};

pub(super) const FILTER_EXAMPLE: &str = "\
Examples:
  clipmill filter out/sample kept --where 'similarity >= 0.28 and image_width >= 200'
  clipmill filter out/sample best --keep-top 0.3 --rejected rest
  clipmill filter 'datacomp/*.parquet' basic --preset datacomp-basic --uids basic.npy
  clipmill filter out/sample kept --where 'similarity > 0.2' --json | jq .funnel

A row is kept if every rule keeps it. Rows that failed are left out first, and counted by status.
Asked for again, nothing is done; interrupted, the same command starts again.";

#[derive(Debug, Args)]
pub struct FilterArgs {
    /// A run's output folder, or any Parquet file, folder of them or quoted glob.
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// The folder for the kept rows: all columns, in their order.
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// Keep rows for which this is true: SQL over the columns of one row, as polars reads it. A
    /// null is not true.
    #[arg(long = "where", value_name = "SQL")]
    pub condition: Option<String>,
    /// Keep this share of the usable rows (not failed, with a score), those that score highest: at
    /// least that many, and those that tie with the last. Exact, over all files: every score is
    /// held, 16 bytes a row at the most.
    #[arg(long, value_name = "F", conflicts_with = "keep_quantile")]
    pub keep_top: Option<f64>,
    /// Keep rows that score at least this quantile of the usable rows' scores, as numpy.quantile
    /// has it: 0.7 keeps about the best 30 %.
    #[arg(long, value_name = "Q")]
    pub keep_quantile: Option<f64>,
    /// The column of scores. By default the one that the run made, else `similarity`.
    #[arg(long, value_name = "COLUMN")]
    pub score: Option<String>,
    /// The rules of a published dataset: datacomp-basic, datacomp-clip-b32-threshold (0.25),
    /// datacomp-clip-l14-30 (the best 30 %; b32 and other whole percentages too), laion-400m or
    /// laion-5b-en. DataComp's keep what its apply_filter.py keeps.
    #[arg(long, value_name = "NAME")]
    pub preset: Option<Preset>,
    /// The column that holds something, where it is not a usual one: uid, caption, width, height,
    /// language or image_bytes. Give it again for more.
    #[arg(long = "map", value_name = "WHAT=NAME")]
    pub columns: Vec<String>,
    /// A folder for the other rows, with a column `rejected_by` that names the rule.
    #[arg(long, value_name = "DIR")]
    pub rejected: Option<PathBuf>,
    /// A file for the uids of the kept rows, sorted, as DataComp's resharder reads them.
    #[arg(long, value_name = "FILE.npy")]
    pub uids: Option<PathBuf>,
    /// Replace what other settings left in OUT and in the folder of rejected rows.
    #[arg(long)]
    pub overwrite: bool,
    /// As one JSON object.
    #[arg(long)]
    pub json: bool,
}

pub(super) const DEDUP_EXAMPLE: &str = "\
Examples:
  clipmill dedup out/sample kept --exact --perceptual
  clipmill dedup out/sample kept --semantic --threshold 0.95 --score similarity
  clipmill dedup out/sample marked --exact --mark

--exact and --perceptual need columns that a run makes: under [columns],
  image_sha256 = \"image_sha256\"
  image_phash  = \"image_phash\"";

#[derive(Debug, Args)]
pub struct DedupArgs {
    /// A run's output folder, a Parquet file, or a quoted glob.
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// The output folder.
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// Rows of equal content: the same image_sha256.
    #[arg(long)]
    pub exact: bool,
    /// Rows whose images look the same: an image_phash that differs in a few bits. Finds other
    /// sizes, formats and qualities of a picture; not crops.
    #[arg(long)]
    pub perceptual: bool,
    /// Rows whose embeddings are near, within k-means cells (SemDeDup). Near rows of two cells are
    /// not found.
    #[arg(long)]
    pub semantic: bool,
    /// Of the 64 bits, how many may differ. 0 is the same picture but for its encoding; from about
    /// 10 on unlike pictures come together.
    #[arg(long, value_name = "BITS", default_value_t = default_distance(), requires = "perceptual")]
    pub distance: u32,
    /// The least cosine of embeddings that are near. Lower finds more that mean the same.
    #[arg(long, value_name = "COSINE", default_value_t = default_threshold(), requires = "semantic")]
    pub threshold: f64,
    /// K-means cells. More take less time and miss more. By default the square root of the rows.
    #[arg(long, value_name = "K", requires = "semantic")]
    pub cells: Option<NonZeroU32>,
    /// The cells' seed.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "semantic")]
    pub seed: u64,
    /// The column whose highest value of a group is kept. By default similarity where there is one;
    /// else the first row is.
    #[arg(long, value_name = "COLUMN")]
    pub score: Option<String>,
    /// Leave out nothing: add is_duplicate, next to duplicate_group.
    #[arg(long)]
    pub mark: bool,
    /// The column that --exact compares: a hash, or the image's bytes.
    #[arg(long, value_name = "COLUMN", default_value = "image_sha256", requires = "exact")]
    pub exact_column: String,
    /// The column that --perceptual compares: 64 bits.
    #[arg(long, value_name = "COLUMN", default_value = "image_phash", requires = "perceptual")]
    pub phash_column: String,
    /// The embedding column that --semantic compares. By default image_embedding.
    #[arg(long, value_name = "COLUMN", requires = "semantic")]
    pub column: Option<String>,
    /// The new column: the input's row that a row's group is kept by.
    #[arg(long, value_name = "NAME", default_value = "duplicate_group")]
    pub group_column: String,
    /// The new column with --mark: whether the row is not the one that is kept.
    #[arg(long, value_name = "NAME", default_value = "is_duplicate", requires = "mark")]
    pub duplicate_column: String,
    /// Where --semantic multiplies: auto, cpu, cuda or cuda:N.
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceSpec::Auto, requires = "semantic")]
    pub device: DeviceSpec,
    /// Replace an output of other settings.
    #[arg(long)]
    pub overwrite: bool,
    /// As one JSON object.
    #[arg(long)]
    pub json: bool,
}

impl DedupArgs {
    /// The same as a pipeline file would say it.
    pub fn spec(&self) -> DedupSpec {
        DedupSpec {
            path: self.output.clone(),
            exact: self.exact,
            exact_column: self.exact_column.clone(),
            perceptual: self.perceptual,
            phash_column: self.phash_column.clone(),
            distance: self.distance,
            semantic: self.semantic,
            column: self.column.clone(),
            threshold: self.threshold,
            cells: self.cells,
            seed: self.seed,
            score: self.score.clone(),
            mark: self.mark,
            group_column: self.group_column.clone(),
            duplicate_column: self.duplicate_column.clone(),
            device: self.device,
            overwrite: self.overwrite,
        }
    }
}

pub(super) const REPORT_EXAMPLE: &str = "\
Examples:
  clipmill report out/sample
  clipmill report out/sample --out sample.html --cut 0.28 --by image_format
  clipmill report out/new --against out/old
  clipmill report 'shards/*.parquet' --score clip_l14_similarity_score --caption text --image file \\
      --images-root images

The page needs no network and no other file. Its memory does not grow with the table.";

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// A Parquet file, a run's output folder, or a quoted glob. Any table will do: what it lacks is
    /// left out of the page.
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// The page, replaced if it is there; under 3 MB, of which pictures are at most 2.3.
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    pub out: PathBuf,
    /// An earlier table, to see what has changed: quantiles, rates of failures, population stability
    /// index. Reads its scores twice.
    #[arg(long, value_name = "OLD")]
    pub against: Option<PathBuf>,
    /// Scores by the values of this column: its 12 largest groups. Give it again for more columns.
    #[arg(long, value_name = "COLUMN")]
    pub by: Vec<String>,
    /// The number that ranks rows. By default the run's score column, else similarity, clip_score or
    /// DataComp's columns.
    #[arg(long, value_name = "COLUMN")]
    pub score: Option<String>,
    /// The text that is shown. By default the run's caption column, else caption or text.
    #[arg(long, value_name = "COLUMN")]
    pub caption: Option<String>,
    /// The column that holds the image's path. By default the run's, else image_path or image.
    #[arg(long, value_name = "COLUMN")]
    pub image: Option<String>,
    /// The folder that images are in, and which no path leaves. By default the run's own.
    #[arg(long, value_name = "DIR")]
    pub images_root: Option<PathBuf>,
    /// Read no image. For a table that you do not trust: its metadata names the folder of its
    /// images.
    #[arg(long, conflicts_with = "images_root")]
    pub no_thumbnails: bool,
    /// The threshold that the page begins at; rows with this score or more are kept. By default the
    /// score that three quarters of the rows reach. It can be moved on the page.
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub cut: Option<f64>,
    /// Draws other random pairs. The same seed gives the same page.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// What the terminal shows, as one JSON object.
    #[arg(long)]
    pub json: bool,
}

impl ReportArgs {
    /// As a pipeline file says it.
    pub fn spec(&self) -> ReportSpec {
        ReportSpec {
            out: self.out.clone(),
            against: self.against.clone(),
            by: self.by.clone(),
            score: self.score.clone(),
            caption: self.caption.clone(),
            image: self.image.clone(),
            images_root: self.images_root.clone(),
            thumbnails: !self.no_thumbnails,
            cut: self.cut,
            seed: self.seed,
        }
    }
}
