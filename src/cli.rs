//! The command line: clap structs only. What a command does is in `command`.

mod embeddings;
mod rows;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};

use embeddings::{CLUSTER_EXAMPLE, EXPORT_EXAMPLE, LABEL_EXAMPLE, SEARCH_EXAMPLE};
pub use embeddings::{ClusterArgs, ExportArgs, LabelArgs, ModelArgs, SearchArgs};
use rows::{DEDUP_EXAMPLE, FILTER_EXAMPLE, REPORT_EXAMPLE};
pub use rows::{DedupArgs, FilterArgs, ReportArgs};

use crate::log::LogFormat;
use crate::plan::MOST_PARTS;
use crate::spec::{DeviceSpec, ExportLayout, Family, MaxFailed, ModelPlace};

/// Score image-text datasets with CLIP: Parquet in, the same rows with embeddings and
/// similarity out.
///
/// Every input row becomes one output row, in the same order, with all its columns. A row whose
/// image or caption is bad is kept, with nulls and a status.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    /// What is said on stderr: lines for people, or JSON objects, one a line, for what collects
    /// logs. JSON has no bars; its `progress` comes every 10 s.
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed
  2    bad usage or pipeline file
  3    finished, but more rows failed than --max-failed allows
  4    finished, but scores are not as --min-median-similarity or --max-drift ask
  73   another process writes to the output folder
  75   the system refused for now (disk full, I/O error, a host that is away): the same command
       later goes on
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
    /// Check a pipeline against its input, its model and its output folder, without running it; what
    /// is done with the scores later, on a table without rows. A model on the hub is downloaded
    /// first, as it is for `plan` and `run`.
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
    /// Write a table's embeddings as NumPy files: clip-retrieval's npy folders, or DataComp's npz.
    #[command(after_help = EXPORT_EXAMPLE)]
    Export(ExportArgs),
    /// Do parts of a job as they are asked for, for a scheduler: JSON lines in, JSON lines out.
    #[command(after_help = WORKER_EXAMPLE)]
    Worker(JobArgs),
    /// Give a stream of rows on with their new columns: `run --input - --output -`.
    #[command(after_help = TRANSFORM_EXAMPLE)]
    Transform(JobArgs),
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
    /// List the families of models that can be read, or say what a model folder holds.
    #[command(after_help = MODELS_EXAMPLE)]
    Models(ModelsArgs),
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
  clipmill run mine.toml --retry-failed        # when servers that were away are back
  producer | clipmill run mine.toml --input - --output - | consumer     # Arrow IPC streams

Interrupted, the complete parts stay; the same command goes on from there.";

const FINALIZE_EXAMPLE: &str = "\
Example:
  clipmill run mine.toml --parts 0-15      # here, and elsewhere the others
  clipmill finalize mine.toml              # when all are done";

const WORKER_EXAMPLE: &str = "\
Example:
  echo '{\"part\": 3}' | clipmill worker mine.toml     # parts of `clipmill plan mine.toml --json`
  clipmill finalize mine.toml                         # when all are done

The model is loaded once; the worker ends when its stdin does. On stdout:
  {\"event\":\"ready\",\"parts\":30,\"rows\":6000,\"device\":\"cpu\"}
  {\"event\":\"started\",\"part\":3,\"rows\":200}
  {\"event\":\"rows\",\"part\":3,\"rows\":64}           rows of it that are written so far
  {\"event\":\"done\",\"part\":3,\"file\":\"part-00003.parquet\",\"rows\":200,\"failed\":1,
   \"bytes\":1234,\"sha256\":\"...\",\"was_there\":false}
  {\"event\":\"failed\",\"part\":3,\"error\":\"...\",\"exit_code\":75}    and the worker ends so

Rows never pass through it: inputs and output are where the pipeline says. pipelines/ray_run.py
drives workers on a Ray cluster.";

const TRANSFORM_EXAMPLE: &str = "\
Example:
  producer | clipmill transform mine.toml | consumer

Arrow IPC streams: each batch that comes in goes out with the pipeline's columns, the same rows in the
same order, before the next has to be there.";

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

const VERIFY_EXAMPLE: &str = "\
Example:
  clipmill verify out/sample";

const SCORE_EXAMPLE: &str = "\
Examples:
  clipmill score cat.jpg dog.png --caption 'a cat' --caption 'a dog'
  clipmill score cat.jpg --caption 'a cat' --model models/clip-vit-base-patch32 --json";

const MODELS_EXAMPLE: &str = "\
Examples:
  clipmill models
  clipmill models sample_data/model
  clipmill models sample_data/model --json
  clipmill models hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K";

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
    /// Input instead of the pipeline's: a Parquet file, a folder of them, or a quoted glob, also in a
    /// store (s3://, gs://, az://). For `run`, - is an Arrow IPC stream on stdin.
    #[arg(long, value_name = "PATH", allow_hyphen_values = true)]
    pub input: Option<String>,
    /// Output folder instead of the pipeline's, also in a store. For `run`, - is an Arrow IPC stream
    /// on stdout.
    #[arg(long, value_name = "DIR", allow_hyphen_values = true)]
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
    /// The least that the median of every cosine similarity may be. Below, the output is still
    /// complete, and the exit code is 4.
    #[arg(long, value_name = "COSINE", allow_negative_numbers = true)]
    pub min_median_similarity: Option<f64>,
    /// The most that a quartile of any score may differ from that of the last run into the same
    /// output that was as its gates ask. Beyond, the output is still complete, and the exit code is 4.
    #[arg(long, value_name = "DISTANCE")]
    pub max_drift: Option<f64>,
    /// Follow an input whose files come, change and go: files that are new are scored as new parts,
    /// those that changed are done again, and all other parts stay as they are. Parts are numbered
    /// in the order in which their files came. A file that looks as it did from outside (size,
    /// times) is taken to be the same; where all do, nothing is opened and no model is loaded.
    #[arg(long, conflicts_with_all = ["parts", "parts_of"])]
    pub incremental: bool,
    /// With --incremental: remove the parts of files that are gone. Without it they stay, and are
    /// said to.
    #[arg(long, requires = "incremental")]
    pub prune: bool,
    /// Do these parts and no others, by their index in `clipmill plan --json`: 3,17,20-25. Any
    /// number of processes, on any number of machines, may work on one output at once, each at
    /// parts of its own; `clipmill finalize` ends the job.
    #[arg(long, value_name = "LIST")]
    pub parts: Option<PartList>,
    /// Do one of N shares of the parts, counted from 0: 3/64 is the fourth of 64. For array jobs:
    /// --parts-of "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT".
    #[arg(long, value_name = "I/N", conflicts_with_all = ["parts", "also"])]
    pub parts_of: Option<Share>,
    /// Where an input, the model or a setting has changed since parts were made: do those parts
    /// again. Without it a changed output is refused, naming what changed.
    #[arg(long)]
    pub redo_changed: bool,
    /// Do parts again that hold rows which may go better now (image_unreachable), whole; and what
    /// is done with the scores after them. Others are left alone.
    #[arg(long)]
    pub retry_failed: bool,
    /// Write the embeddings as NumPy files too, into the output's path with -npy or -npz behind it:
    /// as `clipmill export` does, or [export] in the pipeline.
    #[arg(long, value_name = "LAYOUT", conflicts_with = "parts")]
    pub also: Option<ExportLayout>,
    #[command(flatten)]
    pub observe: ObserveArgs,
    /// Say nothing but errors and warnings.
    #[arg(long, short)]
    pub quiet: bool,
}

/// Who is told what became of a run, besides its log.
#[derive(Debug, Clone, Default, Args)]
pub struct ObserveArgs {
    /// Write numbers of the run to FILE as Prometheus reads them, for the textfile collector of
    /// node_exporter (a name that ends in .prom): every 15 s, and at the end, however it ends.
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<PathBuf>,
    /// Tell of the run by OpenLineage events: a line each at the end of FILE, or posted to the URL of
    /// a server. OPENLINEAGE_NAMESPACE, OPENLINEAGE_API_KEY and OPENLINEAGE_PARENT_ID are heeded.
    /// One that is away costs at most 10 s.
    #[arg(long, value_name = "FILE|URL")]
    pub lineage: Option<String>,
}

#[derive(Debug, Args)]
pub struct FinalizeArgs {
    #[command(flatten)]
    pub job: JobArgs,
    #[command(flatten)]
    pub observe: ObserveArgs,
}

/// A pipeline, for commands that ask for nothing more.
#[derive(Debug, Args)]
pub struct JobArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Say nothing but errors and warnings.
    #[arg(long, short)]
    pub quiet: bool,
}

/// One of so many shares, counted from 0: `3/64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub index: usize,
    pub of: usize,
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text
            .split_once('/')
            .and_then(|(index, of)| Some((index.trim().parse().ok()?, of.trim().parse().ok()?)));
        match numbers {
            Some((index, of)) if index < of => Ok(Self { index, of }),
            Some((_, of)) if of > 0 => Err(format!("shares are counted from 0 to {}", of - 1)),
            _ => Err("write a share as 3/64, counted from 0".to_owned()),
        }
    }
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
    /// Where the model is. The sample's knows emoji and nothing else.
    pub fn model_place(&self) -> ModelPlace {
        let sample = || ModelPlace::Dir("sample_data/model".into());
        self.model.model.clone().unwrap_or_else(sample)
    }
}

#[derive(Debug, Args)]
pub struct ModelsArgs {
    /// A model's folder, of any family; or hub:ORG/NAME[@REVISION], a model on the Hugging Face
    /// hub, which is downloaded into its cache.
    #[arg(value_name = "MODEL")]
    pub model: Option<ModelPlace>,
    /// As JSON: a list of families, or an object about the folder.
    #[arg(long)]
    pub json: bool,
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
    /// The kind of model, for its preprocessing.
    #[arg(long)]
    pub family: Family,
    /// The model's folder.
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
