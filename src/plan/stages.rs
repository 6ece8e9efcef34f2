//! A plan becomes the stages of a run: into part files, or on as a stream.
//!
//! What is found wrong here is the system's; the plan itself was checked when it was made.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use tempfile::TempDir;

use super::models::{Models, Reader};
use super::{Plan, Resume, provenance, settings};
use crate::crash::{Journal, Killer, RowId};
use crate::error::Error;
use crate::files;
use crate::log;
use crate::manifest::{MadeWith, Manifest};
use crate::model::device;
use crate::prepare::{CaptionReader, CaptionStep, ImageStep, Prepare};
use crate::run::{LoadModels, Stages};
use crate::sink::{ParquetSink, PartOptions, Sink, StreamSink};
use crate::source::{AskedSource, Part, Source, part_name};
use crate::travel::travel_field;
use crate::write::{AskedWriter, Follow, Output, OutputRows, PartWriter, StreamWriter};

/// Where it is written down which images are being decoded, and which are known to kill who does.
struct Watch {
    journal: Arc<Journal>,
    killers: Vec<Killer>,
}

impl Plan {
    /// Makes the stages that do what is left. For who holds the lock of the whole output folder,
    /// which `claim` has made ready, or those of these parts.
    pub fn stages(
        self,
        resume: Resume,
        writes_manifest: bool,
    ) -> Result<Stages<PartWriter>, Error> {
        let Resume { manifest, remaining: parts, keys, .. } = resume;
        let watch = self.watch_parts(manifest.killers.clone())?;
        let source = self.source(parts.clone());
        let follow: Follow = Box::new(|_| Ok(()));
        let writer = self.part_writer((manifest, keys), parts, (writes_manifest, follow));
        self.assemble(source, watch, writer)
    }

    /// Makes the stages that do the parts which are asked for, each for who holds its lock, until
    /// nobody will ask any more.
    pub fn stages_of_asked(
        self,
        resume: Resume,
        (asked, open): (Receiver<Part>, Arc<AtomicUsize>),
        follow: Follow,
    ) -> Result<Stages<AskedWriter>, Error> {
        let Resume { manifest, keys, .. } = resume;
        let watch = self.watch_parts(manifest.killers.clone())?;
        let source = Box::new(AskedSource::new(asked, self.source_of_each()));
        let parts = self.parts.clone();
        let writer = self.part_writer((manifest, keys), parts, (false, follow));
        self.assemble(source, watch, AskedWriter::new(writer, open))
    }

    fn watch_parts(&self, killers: Vec<Killer>) -> Result<Option<Watch>, Error> {
        let (ids, inputs) = (self.input_ids(), self.inputs.clone());
        self.watch(self.output(), killers, move |RowId { input, row }, seconds| {
            let input = ids.iter().position(|id| *id == input);
            // A name may have led elsewhere since.
            let path = input.map_or_else(PathBuf::new, |input| inputs[input].path.clone());
            Error::DecoderHangs { path, row, seconds }
        })
    }

    fn part_writer(
        &self,
        (manifest, keys): (Manifest, Vec<String>),
        parts: Vec<Part>,
        (writes_manifest, follow): (bool, Follow),
    ) -> PartWriter {
        let sink = ParquetSink::new(self.output(), self.part_options(&manifest));
        let output = Output {
            dir: self.output().to_owned(),
            rows: self.output_rows(self.travelling()),
            parts,
            keys,
            inputs: self.inputs.clone(),
            total_parts: manifest.n_parts,
            manifest,
            follow,
            writes_manifest,
        };
        PartWriter::new(Box::new(sink), output)
    }

    /// Makes the stages of a run that gives its rows on as a stream: those of `stdin`, or of all
    /// parts. Nothing is there to go on from. The folder has to live as long as the stages.
    pub fn streaming(
        self,
        stdin: Option<Box<dyn Source>>,
        stdout: Box<dyn std::io::Write + Send>,
        made_with: &MadeWith,
    ) -> Result<(Stages<StreamWriter>, TempDir), Error> {
        let scratch = tempfile::tempdir();
        let scratch = scratch.map_err(Error::io("make a folder in", std::env::temp_dir()))?;
        let hangs = |_, seconds| Error::StreamHangs { seconds };
        let watch = self.watch(scratch.path(), Vec::new(), hangs)?;
        let metadata = provenance::metadata(&self, &Manifest::new(made_with.clone(), 1));
        let pairs = metadata.into_iter().filter_map(|pair| Some((pair.key, pair.value?)));
        let mut said = self.schema.metadata().clone();
        said.extend(pairs);
        let declared = Schema::new_with_metadata(self.schema.fields().clone(), said);
        let sink = StreamSink::new("stdout".into(), stdout, Arc::new(declared))?;
        let (source, schema, parts) = match stdin {
            // A stream's columns are as they came; a file's travel.
            Some(stdin) => (self.in_pieces(stdin), self.schema.clone(), Vec::new()),
            None => {
                let of_part = |part: &Part| (self.inputs[part.input].path.clone(), part.start);
                let parts = self.parts.iter().map(of_part).collect();
                (self.source(self.parts.clone()), self.travelling(), parts)
            }
        };
        let writer = StreamWriter::new(sink, self.output_rows(schema), parts);
        Ok((self.assemble(source, watch, writer)?, scratch))
    }

    fn output_rows(&self, schema: SchemaRef) -> OutputRows {
        let on_row_error = settings::sink(&self.spec).on_row_error;
        OutputRows { schema, columns: self.columns.clone(), on_row_error }
    }

    /// The stages around a source and a writer.
    fn assemble<W>(
        mut self,
        source: Box<dyn Source>,
        watch: Option<Watch>,
        writer: W,
    ) -> Result<Stages<W>, Error> {
        if self.loading.is_empty() {
            self.start_loading()?;
        }
        let ids = self.input_ids();
        let start = |part: &Part| RowId { input: ids[part.input], row: part.start };
        let starts = self.parts.iter().map(start).collect();
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
        let Models { preprocess, readers, .. } = self.models;
        let (journal, killers) = match watch {
            Some(Watch { journal, killers }) => (Some(journal), killers),
            None => (None, Vec::new()),
        };
        let image = self.image_column.zip(self.loader).map(|(column, loader)| ImageStep {
            column,
            loader,
            preprocess,
            sha256: self.needs.image_sha256,
            journal,
            starts,
            killers,
        });
        let columns = self.caption_columns;
        let readers = readers.into_iter();
        let tokenizers: Vec<_> = readers
            .map(|Reader { tokenizer, padded, .. }| CaptionReader { tokenizer, padded })
            .collect();
        let caption = (!tokenizers.is_empty()).then_some(CaptionStep { columns, tokenizers });
        let prepare = Prepare { lists: self.lists, image, stored: self.stored, caption };
        Ok(Stages { source, prepare, load_models, inputs, writer, threads: self.threads })
    }

    /// Writes a part without rows that is otherwise like those of the plan, into a folder that is
    /// not its own. What comes of the weights is left out, for they are not read.
    pub fn write_empty(&self, dir: &Path) -> Result<(), Error> {
        let manifest = Manifest::new(MadeWith::new(), 1);
        let mut sink = ParquetSink::new(dir, self.part_options(&manifest));
        std::fs::create_dir_all(dir).map_err(Error::io("create the folder", dir))?;
        let name = part_name(0);
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

    /// The journal of a run that decodes images, in a folder, and who watches it: a row that takes too
    /// long ends the process in what is `said` of it.
    fn watch(
        &self,
        dir: &Path,
        killers: Vec<Killer>,
        said: impl Fn(RowId, u32) -> Error + Send + 'static,
    ) -> Result<Option<Watch>, Error> {
        if self.image_column.is_none() {
            return Ok(None);
        }
        let journal = Arc::new(Journal::create(&files::local(dir), self.threads)?);
        let seconds = self.spec.run.decode_timeout.get();
        journal.watch(Duration::from_secs(seconds.into()), move |row| {
            log::exit(&said(row, seconds));
        });
        Ok(Some(Watch { journal, killers }))
    }
}
