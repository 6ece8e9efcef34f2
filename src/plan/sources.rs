//! Each kind of source: its files opened, the rows of a plan's parts read from them, its images
//! loaded.

use std::path::PathBuf;
use std::sync::Arc;

use super::settings::loader;
use super::{Plan, is_stream};
use crate::error::Error;
use crate::images::{ImageLoader, PathLoader, PlaceLoader, Shard};
use crate::source::{
    BesideSource, ElementsSource, FolderSource, Folders, InputFile, Members, Open, ParquetSource,
    Part, Source, WebdatasetSource, find_all, find_beside, find_shards, open_files, open_folder,
    open_shards, partition, shard_of,
};
use crate::spec::{
    FolderSourceSpec, HiveSpec, ImagePathSpec, ImageSpec, PipelineSpec, SourceSpec,
    WebdatasetSourceSpec,
};

/// The input files of a pipeline, opened.
pub fn open_inputs(spec: &PipelineSpec) -> Result<Vec<InputFile>, Error> {
    match &spec.source {
        _ if is_stdin(spec) => Err(Error::Setting {
            key: "source.parquet.path".into(),
            problem: "- is an Arrow stream on stdin, which `clipmill run` alone reads, and whole: \
                      name a file"
                .into(),
        }),
        SourceSpec::Parquet(source) => {
            let mut inputs = open_tables(&source.path.0, source.hive)?;
            if let Some(members) = beside(spec) {
                find_beside(&mut inputs, &members)?;
            }
            Ok(inputs)
        }
        SourceSpec::Webdataset(source) => {
            open_shards(&find_shards(&source.path.0)?, &of_shards(source))
        }
        SourceSpec::Folder(source) => Ok(vec![open_folder(&source.path, &of_folder(source))?]),
    }
}

/// A file, and its version where a store has it.
pub type Listed = (PathBuf, Option<String>);

/// The files that a pipeline's rows come from, without a look into any. None where only a look tells: a stream, a folder of images.
pub fn list_inputs(spec: &PipelineSpec) -> Result<Option<Vec<Listed>>, Error> {
    let mut files: Vec<_> = match &spec.source {
        _ if is_stdin(spec) => return Ok(None),
        SourceSpec::Parquet(source) => {
            let found = find_all(&source.path.0, folders(source.hive))?;
            found.into_iter().map(|file| (file.path, file.version)).collect()
        }
        SourceSpec::Webdataset(source) => {
            find_shards(&source.path.0)?.into_iter().map(|shard| (shard, None)).collect()
        }
        SourceSpec::Folder(_) => return Ok(None),
    };
    if beside(spec).is_some() {
        let shards: Vec<_> = files.iter().map(|(table, _)| (shard_of(table), None)).collect();
        files.extend(shards);
    }
    Ok(Some(files))
}

/// Makes sure that a stream can be all of the input.
pub fn check_stdin(spec: &PipelineSpec) -> Result<(), Error> {
    match beside(spec) {
        None => Ok(()),
        Some(_) => Err(Error::Setting {
            key: "image.shard".into(),
            problem: "reads shards beside tables on disk: a stream has none".into(),
        }),
    }
}

/// Whether rows come on stdin.
pub fn is_stdin(spec: &PipelineSpec) -> bool {
    match &spec.source {
        SourceSpec::Parquet(source) => {
            matches!(source.path.0.as_slice(), [path] if is_stream(path))
        }
        SourceSpec::Webdataset(_) | SourceSpec::Folder(_) => false,
    }
}

fn of_shards(source: &WebdatasetSourceSpec) -> Members {
    Members::of(&source.image, &source.caption.clone().unwrap_or_default().0)
}

fn of_folder(source: &FolderSourceSpec) -> Members {
    Members::of(&source.image, &source.caption.clone().unwrap_or_default().0)
}

fn folders(hive: HiveSpec) -> Folders {
    if hive == HiveSpec::No { Folders::Flat } else { Folders::Partitioned }
}

/// The Parquet files that paths stand for, opened, with what their folders' names say.
fn open_tables(paths: &[PathBuf], hive: HiveSpec) -> Result<Vec<InputFile>, Error> {
    let found = find_all(paths, folders(hive))?;
    let mut inputs = open_files(&found.iter().map(|file| file.path.clone()).collect::<Vec<_>>())?;
    match hive {
        HiveSpec::No => {}
        // Where names say nothing of use, they are only names.
        HiveSpec::Auto => drop(partition(&mut inputs, &found)),
        HiveSpec::Yes => partition(&mut inputs, &found)
            .map_err(|problem| Error::Setting { key: "source.parquet.hive".into(), problem })?,
    }
    Ok(inputs)
}

/// What loads the images of these files.
pub fn image_loader(
    spec: &PipelineSpec,
    inputs: &[InputFile],
) -> Result<Box<dyn ImageLoader>, Error> {
    let (shards, image): (Vec<_>, _) = match (&spec.source, &spec.image) {
        (SourceSpec::Webdataset(_) | SourceSpec::Folder(_), Some(_)) => {
            let problem =
                format!("[source.{}] brings its images: remove [image]", spec.source.kind());
            return Err(Error::Setting { key: "image".into(), problem });
        }
        (SourceSpec::Folder(source), None) => {
            let root = ImagePathSpec { root: source.path.clone(), allow_absolute: false };
            return Ok(Box::new(PathLoader::open(&root, spec.preprocess.max_bytes)?));
        }
        (SourceSpec::Webdataset(source), None) => {
            let shard = |input: &InputFile| {
                let stamp = (input.bytes, input.modified);
                Shard { path: input.path.clone(), stamp }
            };
            (inputs.iter().map(shard).collect(), &source.image)
        }
        (SourceSpec::Parquet(_), Some(ImageSpec::Shard(shard))) => {
            let beside = inputs.iter().filter_map(|input| input.beside.as_ref());
            let shards =
                beside.map(|beside| Shard { path: beside.path.clone(), stamp: beside.stamp });
            (shards.collect(), &shard.image)
        }
        _ => return loader(spec),
    };
    Ok(Box::new(PlaceLoader::new(shards, image, spec.preprocess.max_bytes)))
}

/// What of the shards beside tables is read, where images come from those.
fn beside(spec: &PipelineSpec) -> Option<Members> {
    match &spec.image {
        Some(ImageSpec::Shard(shard)) => Some(Members::of(&shard.image, &[])),
        _ => None,
    }
}

impl Plan {
    /// What reads some of the plan's parts.
    pub(super) fn source(&self, parts: Vec<Part>) -> Box<dyn Source> {
        self.reading().source(self.shared_inputs(), parts)
    }

    fn shared_inputs(&self) -> Arc<[InputFile]> {
        self.inputs.clone().into()
    }

    /// What reads parts one by one, as they are asked for.
    pub(super) fn source_of_each(&self) -> Open {
        let (inputs, reading) = (self.shared_inputs(), self.reading());
        // All of them: a row's image may be told by the place of its shard among them.
        Box::new(move |part| reading.source(inputs.clone(), vec![part]))
    }

    /// The batches of a source, in pieces where rows hold lists.
    pub(super) fn in_pieces(&self, source: Box<dyn Source>) -> Box<dyn Source> {
        self.reading().in_pieces(source)
    }

    fn reading(&self) -> Reading {
        Reading {
            source: self.spec.source.clone(),
            beside: beside(&self.spec),
            lists: self.lists.lists.clone(),
            batch_size: self.batch_size,
        }
    }
}

/// How rows are read, whatever the files.
struct Reading {
    source: SourceSpec,
    /// What of the shards beside tables is read.
    beside: Option<Members>,
    /// Columns of lists that are used.
    lists: Vec<String>,
    batch_size: usize,
}

impl Reading {
    fn source(&self, inputs: Arc<[InputFile]>, parts: Vec<Part>) -> Box<dyn Source> {
        self.in_pieces(self.whole(inputs, parts))
    }

    fn in_pieces(&self, source: Box<dyn Source>) -> Box<dyn Source> {
        match self.lists.as_slice() {
            [] => source,
            lists => Box::new(ElementsSource::new(source, lists.to_vec(), self.batch_size)),
        }
    }

    fn whole(&self, inputs: Arc<[InputFile]>, parts: Vec<Part>) -> Box<dyn Source> {
        match &self.source {
            SourceSpec::Parquet(source) => {
                let of_parts: Vec<_> = parts.iter().map(|part| (part.index, part.input)).collect();
                let tables = ParquetSource::new(inputs.clone(), parts, self.batch_size);
                let Some(with) = self.beside.clone().zip(source.image.clone()) else {
                    return Box::new(tables);
                };
                Box::new(BesideSource::new(Box::new(tables), of_parts, inputs, with))
            }
            SourceSpec::Webdataset(source) => {
                Box::new(WebdatasetSource::new(inputs, of_shards(source), parts, self.batch_size))
            }
            SourceSpec::Folder(source) => {
                let folder = inputs.first().expect("a folder is one input").clone();
                Box::new(FolderSource::new(folder, of_folder(source), parts, self.batch_size))
            }
        }
    }
}
