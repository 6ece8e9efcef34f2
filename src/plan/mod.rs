//! The pipeline resolved against disk and device: opened, checked, sized, cut into parts.
//!
//! Everything that can be wrong before the first batch is found here, cheapest first, and before
//! the weights are read. A plan is made once and then only read; `stages` turns it into a run.

mod input;
mod loading;
mod memory;
mod models;
mod provenance;
mod resume;
mod settings;
mod sources;
mod suspects;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};

pub use memory::Memory;
pub use resume::{Resume, Wanted};

use loading::Loading;
use models::{Models, PlannedModel, Reader};
use settings::{Heads, check_settings, columns, heads, needs, output_schema, sink};

use crate::batch::hidden;
use crate::columns::{Column, Needs};
use crate::crash::{Journal, RowId};
use crate::error::{self, Error};
use crate::files;
use crate::hub::{Commit, Hub};
use crate::images::ImageLoader;
use crate::manifest::{MadeWith, Manifest};
use crate::model::device::{self, Placement};
use crate::prepare::{CaptionReader, CaptionStep, ImageStep, Prepare, StoredStep};
use crate::run::{LoadModels, Stages};
use crate::sink::{ParquetSink, PartOptions, Sink};
use crate::source::{InputFile, Part};
use crate::spec::PipelineSpec;
use crate::spec::layers::{Layered, Setting};
use crate::travel::{holds_text, travel_field};
use crate::write::Output;

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
    /// The input columns that are used.
    image_column: Option<String>,
    caption_columns: Vec<String>,
    /// Where the image tower's work is in the input already.
    stored: Option<StoredStep>,
}

impl Plan {
    /// Resolves a pipeline. Reads footers and the model's small files, not its weights; but a model
    /// on the hub is fetched first, whole, where the cache does not have it.
    pub fn resolve(layered: Layered, hub: Hub) -> Result<Self, Error> {
        let Layered { spec, settings } = layered;
        check_settings(&spec)?;
        let heads = heads(&spec)?;
        let sink = sink(&spec);
        let (needs, stored) = needs(&spec)?;
        let inputs = sources::open_inputs(&spec)?;
        let used = input::check_columns(&spec, needs, &inputs[0])?;
        stored.iter().try_for_each(|column| input::check_vectors(&inputs[0], column))?;
        files::check_writable(&sink.path)?;

        let loader = needs.images.then(|| sources::image_loader(&spec, &inputs)).transpose()?;
        let mut models = Models::resolve(&spec, needs, hub)?;
        let dim = models.all[0].files.embedding_dim();
        let stored = stored.map(|column| StoredStep { column, dim });
        let columns = columns(&spec, &models.all, &used.captions, &heads)?;
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
        Ok(Self {
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
            image_column: used.image,
            caption_columns: used.captions,
            stored,
            spec,
        })
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

    /// The input columns that show the image and the first caption in words, where they are used.
    pub fn used_columns(&self) -> (Option<&str>, Option<&str>) {
        let field = |column: &str| self.schema.field_with_name(column).ok();
        let is_shown = |column: &&str| field(column).is_some_and(|f| holds_text(f.data_type()));
        let image = match self.image_column.as_deref() {
            Some(hidden::COLUMN) => Some("__key__"),
            other => other.filter(is_shown),
        };
        (image, self.caption_columns.first().map(String::as_str))
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

    /// Makes the stages that do what is left. For who holds the lock of the whole output folder,
    /// which `claim` has made ready, or those of these parts.
    pub fn stages(mut self, resume: Resume, writes_manifest: bool) -> Result<Stages, Error> {
        let Resume { manifest, remaining: parts, keys, .. } = resume;
        if self.loading.is_empty() {
            self.start_loading()?;
        }
        let threads = self.model_threads();
        let load_models = std::mem::take(&mut self.loading).into_iter().map(|loading| {
            let load = move || {
                // This thread's, which will run the model.
                device::set_threads(threads);
                loading.wait()
            };
            Box::new(load) as LoadModels
        });
        let load_models = load_models.collect();
        let inputs = self.models.all.iter().map(|model| model.inputs).collect();
        let killers = manifest.killers.clone();
        let journal = match self.image_column {
            Some(_) => Some(self.journal()?),
            None => None,
        };
        let sink = ParquetSink::new(self.output(), self.part_options(&manifest));
        let source = self.source(parts.clone());
        let output = Output {
            dir: self.output().to_owned(),
            schema: self.travelling(),
            columns: self.columns,
            on_row_error: settings::sink(&self.spec).on_row_error,
            parts,
            keys,
            inputs: self.inputs.clone(),
            total_parts: self.parts.len(),
            manifest,
            writes_manifest,
        };
        let Models { preprocess, readers, .. } = self.models;
        let image = self.image_column.zip(self.loader).map(|(column, loader)| ImageStep {
            column,
            loader,
            preprocess,
            sha256: self.needs.image_sha256,
            journal,
            killers,
        });
        let columns = self.caption_columns;
        let readers = readers.into_iter();
        let tokenizers: Vec<_> = readers
            .map(|Reader { tokenizer, padded, .. }| CaptionReader { tokenizer, padded })
            .collect();
        let caption = (!tokenizers.is_empty()).then_some(CaptionStep { columns, tokenizers });
        let prepare = Prepare { image, stored: self.stored, caption };
        Ok(Stages {
            source,
            prepare,
            load_models,
            inputs,
            sink: Box::new(sink),
            output,
            threads: self.threads,
        })
    }
}

impl Plan {
    /// Writes a part without rows that is otherwise like those of the plan, into a folder that is
    /// not its own. What comes of the weights is left out, for they are not read.
    pub fn write_empty(&self, dir: &Path) -> Result<(), Error> {
        let manifest = Manifest::new(MadeWith::new(), 1);
        let mut sink = ParquetSink::new(dir, self.part_options(&manifest));
        std::fs::create_dir_all(dir).map_err(Error::io("create the folder", dir))?;
        let name = Part { index: 0, input: 0, start: 0, rows: 0 }.file_name();
        sink.begin(&name, &self.inputs[0].metadata)?;
        sink.publish(String::new()).map(drop)
    }

    fn part_options(&self, manifest: &Manifest) -> PartOptions {
        PartOptions {
            schema: self.travelling(),
            declared: self.schema.clone(),
            input: self.inputs[0].parquet.clone(),
            metadata: provenance::metadata(self, manifest),
        }
    }

    /// The output's columns as batches have them: those of the input travel.
    fn travelling(&self) -> SchemaRef {
        let from_input = self.schema.fields().len() - self.columns.len();
        let (given, made) = self.schema.fields().split_at(from_input);
        let fields: Vec<_> = given.iter().map(travel_field).chain(made.iter().cloned()).collect();
        Arc::new(Schema::new_with_metadata(fields, self.schema.metadata().clone()))
    }

    /// The journal of a run, and who watches it.
    fn journal(&self) -> Result<Arc<Journal>, Error> {
        let journal = Arc::new(Journal::create(self.output(), self.threads)?);
        let seconds = self.spec.run.decode_timeout.get();
        let (parts, inputs) = (self.parts.clone(), self.inputs.clone());
        journal.watch(Duration::from_secs(seconds.into()), move |RowId { part, row }| {
            let Part { input, start, .. } = parts[part];
            let path = inputs[input].path.clone();
            error::exit(&Error::DecoderHangs { path, row: start + row, seconds });
        });
        Ok(journal)
    }
}

/// Cores that the process may use.
pub fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
