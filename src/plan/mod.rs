//! The pipeline resolved against disk and device: opened, checked, sized, cut into parts.
//!
//! Everything that can be wrong before the first batch is found here, cheapest first, and before
//! the weights are read. A plan is made once and then only read; `stages` turns it into a run.

mod growth;
mod input;
mod loading;
mod memory;
mod models;
mod provenance;
mod resume;
mod seen;
mod settings;
mod sources;
mod stages;
mod stdin;
mod suspects;

use std::path::Path;

use arrow::datatypes::SchemaRef;

pub use growth::{Growth, News};
pub use memory::Memory;
pub use resume::{Allowed, Resume, Wanted, published};
pub use seen::Seen;
pub use sources::is_stdin;
pub use stdin::Spool;

use loading::Loading;
use models::{Models, PlannedModel};
use settings::{Heads, check_gates, check_settings, columns, heads, needs, output_schema, sink};

use crate::batch::hidden;
use crate::batch::lists::UsedLists;
use crate::columns::{Column, Needs};
use crate::error::Error;
use crate::files;
use crate::hub::{Commit, Hub};
use crate::images::ImageLoader;
use crate::manifest::MadeWith;
use crate::model::device::{self, Placement};
use crate::prepare::StoredStep;
use crate::run::LoadModels;
use crate::source::{InputFile, Part};
use crate::spec::layers::{Layered, Setting};
use crate::spec::{PipelineSpec, SourceSpec};
use crate::travel::holds_text;

/// Rows a batch on a CPU. The towers cut a batch into passes that fit its caches, so a larger one
/// gains nothing; a smaller one shows progress sooner.
const BATCH_CPU: usize = 64;
/// Rows a batch on CUDA.
const BATCH_CUDA: usize = 512;

/// More parts than this are a mistake, or a lie in a footer.
pub const MOST_PARTS: usize = 1_000_000;

/// A pipeline that can run.
pub struct Plan {
    pub spec: PipelineSpec,
    /// Every setting, with where it came from.
    pub settings: Vec<Setting>,
    pub inputs: Vec<InputFile>,
    pub parts: Vec<Part>,
    /// The declared columns, `status` and `error_message` included.
    pub columns: Vec<Column>,
    pub needs: Needs,
    /// The output's columns: the input's, then the declared ones.
    pub schema: SchemaRef,
    pub batch_size: usize,
    /// CPU threads of the prepare stage, and of the model on a CPU.
    pub threads: usize,
    pub memory: Memory,
    pub models: Models,
    /// Those that columns name.
    heads: Heads,
    loader: Option<Box<dyn ImageLoader>>,
    /// One a device, once it has begun.
    loading: Vec<Loading>,
    /// The input columns that are used, where some are lists.
    lists: UsedLists,
    image_column: Option<String>,
    caption_columns: Vec<String>,
    /// Where the image tower's work is in the input already.
    stored: Option<StoredStep>,
    /// Whether the output grows with its input: its parts have numbers of their own.
    grows: bool,
    /// Parts of it that have no number yet, in an output that grows.
    n_new: usize,
}

impl Plan {
    /// Resolves a pipeline. Reads footers and the model's small files, not its weights; but a model
    /// on the hub is fetched first, whole, where the cache does not have it.
    pub fn resolve(layered: Layered, hub: Hub) -> Result<Self, Error> {
        Self::over(layered, hub, None)
    }

    /// The same where the input is at hand already: what came on stdin.
    pub fn over(layered: Layered, hub: Hub, stdin: Option<InputFile>) -> Result<Self, Error> {
        let Layered { spec, settings } = layered;
        check_settings(&spec)?;
        let heads = heads(&spec)?;
        let sink = sink(&spec);
        let (needs, stored) = needs(&spec)?;
        let inputs = match stdin {
            Some(input) => {
                sources::check_stdin(&spec)?;
                vec![input]
            }
            None => sources::open_inputs(&spec)?,
        };
        let used = input::check_columns(&spec, needs, &inputs[0])?;
        stored.iter().try_for_each(|column| input::check_vectors(&inputs[0], column))?;
        if !is_stream(&sink.path) {
            files::check_writable(&sink.path)?;
        }

        let loader = needs.images.then(|| sources::image_loader(&spec, &inputs)).transpose()?;
        let mut models = Models::resolve(&spec, needs, hub)?;
        let dim = models.all[0].files.embedding_dim();
        let stored = stored.map(|column| StoredStep { column, dim });
        let lists = used.lists(&inputs[0], stored.as_ref().map(|stored| stored.column.as_str()));
        let columns = columns(&spec, &models.all, (&used, &lists), &heads)?;
        check_gates(&spec, &columns)?;
        let schema = output_schema(&inputs, &columns)?;

        let on_cuda = models.all[0].placements[0].device.is_cuda();
        let default_batch = if on_cuda { BATCH_CUDA } else { BATCH_CPU };
        let batch_size = spec.run.batch_size.map_or(default_batch, usize::from);
        let threads = spec.run.threads.map_or_else(available_threads, usize::from);
        let parts =
            input::cut(&inputs, u64::from(u32::from(sink.rows_per_part)), spec.source.limit());
        let image_memory = memory::image_memory(&spec, threads);
        if let Some(first) = models.preprocess.first_mut() {
            *first = first.clone().with_memory(image_memory).with_phash(needs.image_phash);
        }
        let memory = Memory::of(&spec, &models, (batch_size, threads));
        let mut plan = Self {
            settings,
            inputs,
            parts,
            columns,
            needs,
            schema,
            batch_size,
            threads,
            memory,
            models,
            heads,
            loader,
            loading: Vec::new(),
            lists,
            image_column: used.image,
            caption_columns: used.captions,
            stored,
            grows: false,
            n_new: 0,
            spec,
        };
        if !is_stream(plan.output()) {
            plan.number_parts(false)?;
        }
        Ok(plan)
    }

    /// The output folder.
    pub fn output(&self) -> &Path {
        &sink(&self.spec).path
    }

    /// Rows that the whole plan reads.
    pub fn rows(&self) -> u64 {
        self.parts.iter().map(|part| part.rows).sum()
    }

    /// The parts of these indices.
    ///
    /// # Errors
    /// `Setting` for an index that the plan does not have.
    pub fn chosen(&self, indices: &[usize]) -> Result<Vec<Part>, Error> {
        let part = |index: &usize| {
            self.parts.get(*index).copied().ok_or_else(|| Error::Setting {
                key: "--parts".into(),
                problem: format!(
                    "there is no part {index}: the plan has {}, from 0 on",
                    self.parts.len()
                ),
            })
        };
        indices.iter().map(part).collect()
    }

    /// The parts of one of `of` shares of the same size, counted from 0: those that follow one another.
    pub fn share(&self, index: usize, of: usize) -> Vec<Part> {
        let at = |share: usize| (self.parts.len() as u128 * share as u128 / of as u128) as usize;
        self.parts[at(index)..at(index + 1)].to_vec()
    }

    /// The input columns that show the image and the first caption in words, where they are used.
    pub fn used_columns(&self) -> (Option<&str>, Option<&str>) {
        let field = |column: &str| self.schema.field_with_name(column).ok();
        let is_shown = |column: &&str| field(column).is_some_and(|f| holds_text(f.data_type()));
        let image = match self.image_column.as_deref() {
            Some(hidden::COLUMN) => match &self.spec.source {
                SourceSpec::Parquet(source) => source.image.as_deref(),
                SourceSpec::Webdataset(_) => Some("__key__"),
                // A folder's images have a column of their own.
                SourceSpec::Folder(_) => None,
            },
            other => other.filter(is_shown),
        };
        let caption = self.caption_columns.first().map(String::as_str);
        (image, caption.filter(|column| !self.lists.lists.iter().any(|list| list == column)))
    }

    /// The devices as a pipeline file writes them.
    pub fn device_names(&self) -> String {
        let placements = &self.models.all[0].placements;
        let names: Vec<_> = placements.iter().map(Placement::device_name).collect();
        names.join(", ")
    }

    /// The precision as a pipeline file writes it; where models differ, of each in turn.
    pub fn precision(&self) -> String {
        let mut all: Vec<_> = self.models.all.iter().map(PlannedModel::precision).collect();
        all.dedup();
        all.join(", ")
    }

    /// The devices and the precision, in words.
    pub fn runs_on(&self) -> String {
        format!("{} in {}", self.device_names(), self.precision())
    }

    /// The models that come from the hub, at which commits.
    pub fn from_hub(&self) -> impl Iterator<Item = &Commit> {
        self.models.all.iter().filter_map(|model| model.hub.as_ref())
    }

    /// Everything that the output's values depend on. Reads the weights once to digest them.
    pub fn made_with(&self) -> Result<MadeWith, Error> {
        provenance::made_with(self)
    }

    /// Begins to load the models onto every device, for a run that is sure to need them.
    pub fn start_loading(&mut self) -> Result<(), Error> {
        let threads = self.model_threads();
        let n_devices = match self.needs_model() {
            true => self.models.all[0].placements.len(),
            false => 0,
        };
        for device in 0..n_devices {
            let models = self.models.all.clone();
            let load: LoadModels = Box::new(move || {
                device::set_threads(threads);
                models.iter().map(|model| model.load(device)).collect()
            });
            self.loading.push(Loading::start(load)?);
        }
        Ok(())
    }

    fn needs_model(&self) -> bool {
        self.models.all.iter().any(|model| model.inputs.towers.any())
    }

    /// CPU threads of the model. More than there are cores only wait for one another.
    fn model_threads(&self) -> usize {
        self.threads.min(available_threads())
    }
}

/// Whether a path stands for stdin or stdout.
pub fn is_stream(path: &Path) -> bool {
    path == Path::new("-")
}

/// Cores that the process may use.
pub fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
