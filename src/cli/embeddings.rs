//! The arguments of what is done with embeddings: `label`, `cluster`, `search`, `export`. Each becomes what a pipeline file's section of that name says.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use clap::Args;

use crate::spec::{
    ClusterSpec, DeviceSpec, ExportLayout, ExportSpec, LabelSpec, ModelPlace, PrecisionSpec,
    SearchSpec, default_batch, default_hits, default_iterations, default_labels, default_passes,
    default_top_words,
};

pub(super) const LABEL_EXAMPLE: &str = "\
Examples:
  clipmill label out/sample out/labelled --labels labels.txt
  clipmill label out/sample out/labelled --labels labels.txt --template 'a photo of a {}' \
    --template 'a drawing of a {}'
  clipmill label scored labelled --labels imagenet.txt --imagenet-templates --name class";

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
    #[arg(long, value_name = "N", default_value_t = default_labels())]
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

pub(super) const CLUSTER_EXAMPLE: &str = "\
Examples:
  clipmill cluster out/sample clusters --k 20
  clipmill cluster out/sample clusters --k 20 --words words.txt --top-words 3
  clipmill cluster new.parquet assigned --centroids clusters/_centroids.safetensors

The same seed gives the same clusters on the same machine with as many threads.";

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

pub(super) const SEARCH_EXAMPLE: &str = "\
Examples:
  clipmill search out/sample 'a red apple' 'a cat'
  clipmill search out/sample --image apple.png --top 50 --html apples.html
  clipmill search out/sample --like 17 --json | jq '.queries[0].hits'
  clipmill search out/sample --export sample.usearch

The first search puts the vectors into a file beside the table (_vectors-COLUMN.bin in a folder),
the next ones read that alone. It is made again when the table changes, and can be removed.";

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
    #[arg(long, value_name = "N", default_value_t = default_hits())]
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
    /// Read no image of the table. For one that you do not trust.
    #[arg(long, conflicts_with = "images_root")]
    pub no_thumbnails: bool,
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
            thumbnails: !self.no_thumbnails,
            export: self.export.clone(),
            cache: !self.no_cache,
        }
    }
}

pub(super) const EXPORT_EXAMPLE: &str = "\
Examples:
  clipmill export out/sample arrays                 # for clip-retrieval, autofaiss, numpy
  clipmill export out/datacomp_scores arrays --layout npz
  clipmill run pipelines/sample.toml --also npy     # out/sample-npy";

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// A run's output folder, or any Parquet with columns of vectors: a file, a folder or a quoted
    /// glob. Each of its files is one of each array.
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// The output folder.
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// How files are named, and what is in them.
    #[arg(long, value_enum, default_value_t = ExportLayout::Npy)]
    pub layout: ExportLayout,
    /// The column of img_emb. By default the image embeddings that the run made.
    #[arg(long, value_name = "COLUMN")]
    pub image: Option<String>,
    /// The column of text_emb. By default the text embeddings that the run made.
    #[arg(long, value_name = "COLUMN")]
    pub text: Option<String>,
    /// A column that is an array of npz, by its own name; give it again for more. By default every
    /// column of vectors.
    #[arg(long = "array", value_name = "COLUMN")]
    pub arrays: Vec<String>,
    /// What the column of row numbers is called, counted from 0 over IN: rows without a vector
    /// are in none of the files.
    #[arg(long, value_name = "NAME", default_value = "row")]
    pub row: String,
    /// Replace an output of other settings.
    #[arg(long)]
    pub overwrite: bool,
    /// As one JSON object.
    #[arg(long)]
    pub json: bool,
}

impl ExportArgs {
    /// The same as settings.
    pub fn spec(&self) -> ExportSpec {
        ExportSpec {
            path: self.output.clone(),
            layout: self.layout,
            image: self.image.clone(),
            text: self.text.clone(),
            arrays: self.arrays.clone(),
            row: self.row.clone(),
            overwrite: self.overwrite,
        }
    }
}

/// The model of a command that encodes a few texts or images.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// The model's folder, or hub:ORG/NAME[@REVISION], a model on the Hugging Face hub, which is
    /// downloaded into its cache. By default the one that made the table's embeddings, which is
    /// not downloaded; without a table the sample's, which knows emoji and nothing else.
    #[arg(long, value_name = "MODEL")]
    pub model: Option<ModelPlace>,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceSpec::Auto)]
    pub device: DeviceSpec,
    /// auto is f16 on CUDA, bf16 on a CPU that multiplies it natively, else f32. bf16 moves a
    /// similarity by up to 0.005, f32 by up to 0.00001.
    #[arg(long, value_enum, default_value_t = PrecisionSpec::Auto)]
    pub precision: PrecisionSpec,
}
