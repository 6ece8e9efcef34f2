//! The command line: clap structs only. What a command does is in `command`.

use std::collections::BTreeSet;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};

use crate::plan::MOST_PARTS;
use crate::spec::filter::Preset;
use crate::spec::{
    ClusterSpec, DedupSpec, DeviceSpec, LabelSpec, MaxFailed, PrecisionSpec, ReportSpec,
    SearchSpec, default_batch, default_distance, default_iterations, default_passes,
    default_threshold, default_top_words,
};

/// Score image-text datasets with CLIP: Parquet in, the same rows with embeddings and
/// similarity out.
///
/// Every input row becomes one output row, in the same order, with all its columns. A row whose
/// image or caption is bad is kept, with nulls and a status.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed
  2    bad usage or pipeline file
  3    finished, but more rows failed than --max-failed allows
  73   another process writes to the output folder
  75   the system refused for now (disk full, I/O error): the same command later goes on
  130  interrupted (143 by SIGTERM): the same command goes on

Start here:
  clipmill run pipelines/sample.toml";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a pipeline, or go on with an interrupted one.
    #[command(after_help = RUN_EXAMPLE)]
    Run(RunArgs),
    /// Check that all parts of a job are there and whole, write its report and mark it complete.
    #[command(after_help = FINALIZE_EXAMPLE)]
    Finalize(FinalizeArgs),
    /// Check a pipeline against its input, its model and its output folder, without running it.
    #[command(after_help = CHECK_EXAMPLE)]
    Check(PipelineArgs),
    /// Show what a run would do: settings and their origin, columns, parts, memory.
    #[command(after_help = PLAN_EXAMPLE)]
    Plan(PlanArgs),
    /// Summarise a Parquet file or a run's output: statuses, nulls, quantiles, rows, provenance.
    #[command(after_help = INSPECT_EXAMPLE)]
    Inspect(InspectArgs),
    /// Keep the rows of a scored table that rules keep, and say how many each rule cost.
    #[command(after_help = FILTER_EXAMPLE)]
    Filter(FilterArgs),
    /// Check every part of an output against its recorded digest.
    #[command(after_help = VERIFY_EXAMPLE)]
    Verify(VerifyArgs),
    /// Score images against captions: the similarity of every pair.
    #[command(after_help = SCORE_EXAMPLE)]
    Score(ScoreArgs),
    /// Report on a scored table as one HTML page: scores, a movable cut, pairs, failures, drift.
    #[command(after_help = REPORT_EXAMPLE)]
    Report(ReportArgs),
    /// Put rows into k clusters by their embeddings (k-means), and name the clusters.
    #[command(after_help = CLUSTER_EXAMPLE)]
    Cluster(ClusterArgs),
    /// Of rows that are alike keep the best: exact, perceptual and semantic duplicates.
    #[command(after_help = DEDUP_EXAMPLE)]
    Dedup(DedupArgs),
    /// Put a table's rows into classes that are named by texts: zero-shot labels, as columns.
    #[command(after_help = LABEL_EXAMPLE)]
    Label(LabelArgs),
    /// Find the rows of a table that are nearest to a text, an image or another row.
    #[command(after_help = SEARCH_EXAMPLE)]
    Search(SearchArgs),
    /// Show what this machine offers: LibTorch, CUDA, CPU features; and what is wrong with it.
    #[command(after_help = DOCTOR_EXAMPLE)]
    Doctor(DoctorArgs),
    /// Read the footers of the files that are named on stdin, and live.
    #[command(hide = true)]
    Preflight,
    /// Decode the images that come in on stdin, and live.
    #[command(hide = true)]
    TryImages(TryImagesArgs),
    /// Print the completion script of a shell.
    #[command(after_help = COMPLETIONS_EXAMPLE)]
    Completions(CompletionsArgs),
}

const RUN_EXAMPLE: &str = "\
Examples:
  clipmill run pipelines/sample.toml
  clipmill run mine.toml --input 'shards/*.parquet' --output scored --device cuda:1
  clipmill run mine.toml --limit 1000 --set sink.parquet.embeddings=f16
  clipmill run mine.toml --parts 0-15          # a share of the job, on this machine
  clipmill run mine.toml --redo-changed        # after an input was replaced

Interrupted, the complete parts stay; the same command goes on from there.";

const FINALIZE_EXAMPLE: &str = "\
Example:
  clipmill run mine.toml --parts 0-15      # here, and elsewhere the others
  clipmill finalize mine.toml              # when all are done";

const CHECK_EXAMPLE: &str = "\
Example:
  clipmill check pipelines/sample.toml --input mine.parquet";

const PLAN_EXAMPLE: &str = "\
Examples:
  clipmill plan pipelines/sample.toml
  clipmill plan pipelines/sample.toml --json | jq '.parts | length'";

const INSPECT_EXAMPLE: &str = "\
Examples:
  clipmill inspect out/sample
  clipmill inspect out/sample/part-00000.parquet --rows 20";

const FILTER_EXAMPLE: &str = "\
Examples:
  clipmill filter out/sample kept --where 'similarity >= 0.28 and image_width >= 200'
  clipmill filter out/sample best --keep-top 0.3 --rejected rest
  clipmill filter 'datacomp/*.parquet' basic --preset datacomp-basic --uids basic.npy
  clipmill filter out/sample kept --where 'similarity > 0.2' --json | jq .funnel

A row is kept if every rule keeps it. Rows that failed are left out first, and counted by status.
Asked for again, nothing is done; interrupted, the same command starts again.";

const VERIFY_EXAMPLE: &str = "\
Example:
  clipmill verify out/sample";

const SCORE_EXAMPLE: &str = "\
Examples:
  clipmill score cat.jpg dog.png --caption 'a cat' --caption 'a dog'
  clipmill score cat.jpg --caption 'a cat' --model models/clip-vit-base-patch32 --json";

const REPORT_EXAMPLE: &str = "\
Examples:
  clipmill report out/sample
  clipmill report out/sample --out sample.html --cut 0.28 --by image_format
  clipmill report out/new --against out/old
  clipmill report 'shards/*.parquet' --score clip_l14_similarity_score --caption text --image file \\
      --images-root images

The page needs no network and no other file. Its memory does not grow with the table.";

const CLUSTER_EXAMPLE: &str = "\
Examples:
  clipmill cluster out/sample clusters --k 20
  clipmill cluster out/sample clusters --k 20 --words words.txt --top-words 3
  clipmill cluster new.parquet assigned --centroids clusters/_centroids.safetensors

The same seed gives the same clusters on the same machine with as many threads.";

const DEDUP_EXAMPLE: &str = "\
Examples:
  clipmill dedup out/sample kept --exact --perceptual
  clipmill dedup out/sample kept --semantic --threshold 0.95 --score similarity
  clipmill dedup out/sample marked --exact --mark

--exact and --perceptual need columns that a run makes: under [columns],
  image_sha256 = \"image_sha256\"
  image_phash  = \"image_phash\"";

const LABEL_EXAMPLE: &str = "\
Examples:
  clipmill label out/sample out/labelled --labels labels.txt
  clipmill label out/sample out/labelled --labels labels.txt --template 'a photo of a {}' \
    --template 'a drawing of a {}'
  clipmill label scored labelled --labels imagenet.txt --imagenet-templates --name class";

const SEARCH_EXAMPLE: &str = "\
Examples:
  clipmill search out/sample 'a red apple' 'a cat'
  clipmill search out/sample --image apple.png --top 50 --html apples.html
  clipmill search out/sample --like 17 --json | jq '.queries[0].hits'
  clipmill search out/sample --export sample.usearch

The first search puts the vectors into a file beside the table (_vectors-COLUMN.bin in a folder), the
next ones read that alone. It is made again when the table changes, and can be removed.";

const DOCTOR_EXAMPLE: &str = "\
Example:
  clipmill doctor --json | jq .cuda";

const COMPLETIONS_EXAMPLE: &str = "\
Example:
  clipmill completions bash > ~/.local/share/bash-completion/completions/clipmill";

/// A pipeline file and what is laid over it.
#[derive(Debug, Args)]
pub struct PipelineArgs {
    /// The pipeline file (TOML).
    #[arg(value_name = "PIPELINE.toml")]
    pub pipeline: PathBuf,
    /// Input instead of the pipeline's: a Parquet file, a folder of them, or a quoted glob.
    #[arg(long, value_name = "PATH")]
    pub input: Option<String>,
    /// Output folder instead of the pipeline's.
    #[arg(long, value_name = "DIR")]
    pub output: Option<String>,
    /// auto, cpu, cuda, cuda:N or cuda:*. auto takes the first CUDA device that works, else the
    /// CPU; `clipmill doctor` tells which and why. cuda:* takes every GPU of the machine, a model
    /// each and one queue of batches.
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceSpec>,
    /// Rows a batch, 150 kB each of 224-pixel images between the stages. A larger one keeps a GPU
    /// busier and gains nothing on a CPU, whose passes are as large as its caches. What goes
    /// through a GPU at once is found from its free memory, and halved when that was too much.
    /// Scores move only in their last digits. By default 64 on a CPU and 512 on CUDA.
    #[arg(long, value_name = "N")]
    pub batch_size: Option<NonZeroUsize>,
    /// CPU threads for decoding and, on a CPU, for the model. By default every core that the
    /// process may use.
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// Read no more than this many rows, from the start.
    #[arg(long, value_name = "ROWS")]
    pub limit: Option<u64>,
    /// Set anything else that the pipeline file can say; later ones win.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// The most rows that may fail: a number, or a share such as 1%. With more, the output is
    /// still complete, and the exit code is 3. By default any number may.
    #[arg(long, value_name = "N|P%")]
    pub max_failed: Option<MaxFailed>,
    /// Do these parts and no others, by their index in `clipmill plan --json`: 3,17,20-25. Any
    /// number of processes, on any number of machines, may work on one output at once, each at
    /// parts of its own; `clipmill finalize` ends the job.
    #[arg(long, value_name = "LIST")]
    pub parts: Option<PartList>,
    /// Where an input, the model or a setting has changed since parts were made: do those parts
    /// again. Without it a changed output is refused, naming what changed.
    #[arg(long)]
    pub redo_changed: bool,
    /// Say nothing but errors and warnings.
    #[arg(long, short)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct FinalizeArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Say nothing but errors and warnings.
    #[arg(long, short)]
    pub quiet: bool,
}

/// Indices of parts: `3,17,20-25`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartList(pub Vec<usize>);

impl FromStr for PartList {
    type Err = String;

    /// Sorted, each once.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            let wrong =
                |_| format!("\"{text}\" is no part's index; write a list such as 3,17,20-25");
            text.trim().parse::<usize>().map_err(wrong)
        };
        let mut parts = BTreeSet::new();
        for piece in text.split(',') {
            let (first, last) = piece.split_once('-').unwrap_or((piece, piece));
            let (first, last) = (number(first)?, number(last)?);
            if last < first || last - first > MOST_PARTS {
                return Err(format!("{piece} is no range of parts"));
            }
            parts.extend(first..=last);
        }
        Ok(Self(parts.into_iter().collect()))
    }
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// As one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A Parquet file, a run's output folder, or a quoted glob.
    pub path: PathBuf,
    /// How many sample rows to show.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub rows: usize,
}

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

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// A run's output folder.
    #[arg(value_name = "DIR")]
    pub output: PathBuf,
}

#[derive(Debug, Args)]
pub struct ScoreArgs {
    /// Image files.
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
    /// A caption; give it again for more.
    #[arg(long, required = true, value_name = "TEXT")]
    pub caption: Vec<String>,
    #[command(flatten)]
    pub model: ModelArgs,
    /// As one JSON object: images, captions, similarity and probability, a list an
    /// image with an entry a caption.
    #[arg(long)]
    pub json: bool,
}

impl ScoreArgs {
    /// The model's folder. The sample's knows emoji and nothing else.
    pub fn model_dir(&self) -> &Path {
        self.model.model.as_deref().unwrap_or(Path::new("sample_data/model"))
    }
}

#[derive(Debug, Args)]
pub struct LabelArgs {
    /// A run's output folder, or any Parquet with an embedding column: a file, a folder or a
    /// quoted glob.
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// The output folder: the same rows and columns, and the labels after them.
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// A text file of class names, one a line.
    #[arg(long, value_name = "FILE")]
    pub labels: PathBuf,
    /// A text with {} where the class's name goes; give it again for more. A class is the mean of
    /// the embeddings of all its texts. By default one: 'a photo of a {}'.
    #[arg(long, value_name = "TEXT")]
    pub template: Vec<String>,
    /// OpenAI's 80 templates for ImageNet, after those that are given: 3.5 points of accuracy there
    /// over one, as its paper has it, for 80 texts a class.
    #[arg(long)]
    pub imagenet_templates: bool,
    /// Classes a row in the lists of labels and probabilities; with 1 there are no lists.
    #[arg(long, value_name = "N", default_value_t = NonZeroUsize::new(5).expect("5 is not 0"))]
    pub top: NonZeroUsize,
    /// The embeddings that are labelled. By default image_embedding.
    #[arg(long, value_name = "COLUMN")]
    pub column: Option<String>,
    /// What the new columns are called: NAME, NAME_probability, NAMEs and NAME_probabilities.
    #[arg(long, value_name = "NAME", default_value = "label")]
    pub name: String,
    /// Replace an output of other settings.
    #[arg(long)]
    pub overwrite: bool,
    #[command(flatten)]
    pub model: ModelArgs,
    /// As one JSON object.
    #[arg(long)]
    pub json: bool,
}

impl LabelArgs {
    /// The same as settings.
    pub fn spec(&self) -> LabelSpec {
        LabelSpec {
            templates: self.template.clone(),
            imagenet_templates: self.imagenet_templates,
            top: self.top,
            column: self.column.clone(),
            name: self.name.clone(),
            overwrite: self.overwrite,
            ..LabelSpec::new(self.output.clone(), self.labels.clone())
        }
    }
}

#[derive(Debug, Args)]
pub struct SearchArgs {
    /// A run's output folder, or any Parquet with an embedding column: a file, a folder or a
    /// quoted glob.
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// What to search for. Several texts are searched in one pass.
    #[arg(value_name = "TEXT")]
    pub queries: Vec<String>,
    /// An image file to search for; give it again for more.
    #[arg(long, value_name = "FILE")]
    pub image: Vec<PathBuf>,
    /// A row of the table, counted from 0, to search the like of; it is not a result itself. No
    /// model is needed for it.
    #[arg(long, value_name = "ROW")]
    pub like: Vec<u64>,
    /// Results a query.
    #[arg(long, value_name = "N", default_value_t = NonZeroUsize::new(10).expect("10 is not 0"))]
    pub top: NonZeroUsize,
    /// The column that is searched: a list of f16, f32 or f64. By default image_embedding.
    #[arg(long, value_name = "COLUMN")]
    pub column: Option<String>,
    /// Write a page with the images of what was found: one HTML file that needs nothing else.
    #[arg(long, value_name = "FILE.html")]
    pub html: Option<PathBuf>,
    /// The folder that the table's image paths start in, for --html. By default that of the run
    /// that made the table.
    #[arg(long, value_name = "DIR")]
    pub images_root: Option<PathBuf>,
    /// Write an approximate index (HNSW) of the column in USearch's format, and say how many of
    /// the 10 nearest it finds. Its keys are row numbers. For tables too large to be scanned by
    /// each query.
    #[arg(long, value_name = "FILE.usearch")]
    pub export: Option<PathBuf>,
    /// Read the table each time, and put no file of vectors beside it.
    #[arg(long)]
    pub no_cache: bool,
    #[command(flatten)]
    pub model: ModelArgs,
    /// As one JSON object.
    #[arg(long)]
    pub json: bool,
}

impl SearchArgs {
    /// The same as settings.
    pub fn spec(&self) -> SearchSpec {
        SearchSpec {
            queries: self.queries.clone(),
            images: self.image.clone(),
            like: self.like.clone(),
            top: self.top,
            column: self.column.clone(),
            html: self.html.clone(),
            images_root: self.images_root.clone(),
            export: self.export.clone(),
            cache: !self.no_cache,
        }
    }
}

/// The model of a command that encodes a few texts or images.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// The model's folder (Hugging Face CLIPModel). By default the one that made the table's
    /// embeddings; without a table the sample's, which knows emoji and nothing else.
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceSpec::Auto)]
    pub device: DeviceSpec,
    /// auto is f16 on CUDA, bf16 on a CPU that multiplies it natively, else f32. bf16 moves a
    /// similarity by up to 0.005, f32 by up to 0.00001.
    #[arg(long, value_enum, default_value_t = PrecisionSpec::Auto)]
    pub precision: PrecisionSpec,
}

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

#[derive(Debug, Args)]
pub struct ClusterArgs {
    /// A run's output folder, a Parquet file with an embedding column, or a quoted glob.
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// The output folder: the same rows with the cluster and the distance from its centroid.
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// How many clusters.
    #[arg(long, value_name = "K", required_unless_present = "centroids")]
    pub k: Option<NonZeroU32>,
    /// Assign rows to these centroids (an earlier output's _centroids.safetensors) and train none.
    #[arg(long, value_name = "FILE", conflicts_with = "k")]
    pub centroids: Option<PathBuf>,
    /// The embedding column. By default image_embedding.
    #[arg(long, value_name = "COLUMN")]
    pub column: Option<String>,
    /// Another seed, other clusters; the inertia differs by about a percent.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// The most rounds over the sample. Training ends when a round gains less than 1e-5.
    #[arg(long, value_name = "N", default_value_t = default_iterations())]
    pub iterations: NonZeroU32,
    /// Rows a mini-batch, where the table has more rows than the sample.
    #[arg(long, value_name = "ROWS", default_value_t = default_batch())]
    pub batch: NonZeroUsize,
    /// The most rows that are held in memory, 4 bytes a number. A smaller table is clustered as a
    /// whole. By default 256 a cluster, at least 65,536, in at most 512 MiB.
    #[arg(long, value_name = "ROWS")]
    pub sample: Option<NonZeroUsize>,
    /// Rounds over all rows after the mini-batches; each reads the column once.
    #[arg(long, value_name = "N", default_value_t = default_passes())]
    pub passes: u32,
    /// Name the clusters by the words, or phrases, of this file, one a line.
    #[arg(long, value_name = "FILE")]
    pub words: Option<PathBuf>,
    /// Words a name.
    #[arg(long, value_name = "N", default_value_t = default_top_words(), requires = "words")]
    pub top_words: NonZeroUsize,
    /// The column with the cluster; the distance is in NAME_distance.
    #[arg(long, value_name = "NAME", default_value = "cluster")]
    pub name: String,
    /// Replace an output of other settings.
    #[arg(long)]
    pub overwrite: bool,
    /// As one JSON object.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub model: ModelArgs,
}

impl ClusterArgs {
    /// The same as a pipeline file would say it.
    pub fn spec(&self) -> ClusterSpec {
        ClusterSpec {
            path: self.output.clone(),
            k: self.k,
            centroids: self.centroids.clone(),
            column: self.column.clone(),
            seed: self.seed,
            iterations: self.iterations,
            batch: self.batch,
            sample: self.sample,
            passes: self.passes,
            words: self.words.clone(),
            top_words: self.top_words,
            name: self.name.clone(),
            device: self.model.device,
            overwrite: self.overwrite,
        }
    }
}

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

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// As one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// What a run gives the process in which it tries images.
#[derive(Debug, Args)]
pub struct TryImagesArgs {
    /// The model's folder, for its preprocessing.
    #[arg(long)]
    pub model: PathBuf,
    /// The pipeline's `[preprocess]`, as JSON.
    #[arg(long)]
    pub preprocess: String,
    /// Bytes that may be taken for decoding.
    #[arg(long)]
    pub memory: u64,
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// bash, zsh, fish, elvish or powershell.
    pub shell: clap_complete::Shell,
}
