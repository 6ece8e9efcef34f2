//! Each kind of source: its files opened, the rows of a plan's parts read from them, its images
//! loaded.

use std::path::PathBuf;

use super::settings::loader;
use super::{Plan, is_stream};
use crate::error::Error;
use crate::images::{ImageLoader, PlaceLoader, Shard};
use crate::source::{
    Folders, InputFile, Members, ParquetSource, Part, Source, WebdatasetSource, find_all,
    find_shards, open_files, open_shards, partition,
};
use crate::spec::{HiveSpec, PipelineSpec, SourceSpec, WebdatasetSourceSpec};

/// The input files of a pipeline, opened.
pub fn open_inputs(spec: &PipelineSpec) -> Result<Vec<InputFile>, Error> {
    match &spec.source {
        _ if is_stdin(spec) => Err(Error::Setting {
            key: "source.parquet.path".into(),
            problem: "- is an Arrow stream on stdin, which `clipmill run` alone reads, and whole: \
                      name a file"
                .into(),
        }),
        SourceSpec::Parquet(source) => open_tables(&source.path.0, source.hive),
        SourceSpec::Webdataset(source) => {
            open_shards(&find_shards(&source.path.0)?, &members(source))
        }
    }
}

/// Whether rows come on stdin.
pub fn is_stdin(spec: &PipelineSpec) -> bool {
    match &spec.source {
        SourceSpec::Parquet(source) => {
            matches!(source.path.0.as_slice(), [path] if is_stream(path))
        }
        SourceSpec::Webdataset(_) => false,
    }
}

fn members(source: &WebdatasetSourceSpec) -> Members {
    Members::of(&source.image, &source.caption.clone().unwrap_or_default().0)
}

/// The Parquet files that paths stand for, opened, with what their folders' names say.
fn open_tables(paths: &[PathBuf], hive: HiveSpec) -> Result<Vec<InputFile>, Error> {
    let folders = if hive == HiveSpec::No { Folders::Flat } else { Folders::Partitioned };
    let found = find_all(paths, folders)?;
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
    let SourceSpec::Webdataset(source) = &spec.source else { return loader(spec) };
    if spec.image.is_some() {
        let problem = "[source.webdataset] brings its images: remove [image]";
        return Err(Error::Setting { key: "image".into(), problem: problem.into() });
    }
    let shard = |input: &InputFile| {
        let stamp = (input.bytes, input.modified);
        Shard { path: input.path.clone(), stamp }
    };
    let shards = inputs.iter().map(shard).collect();
    Ok(Box::new(PlaceLoader::new(shards, &source.image, spec.preprocess.max_bytes)))
}

impl Plan {
    /// What reads some of the plan's parts.
    pub(super) fn source(&self, parts: Vec<Part>) -> Box<dyn Source> {
        let inputs = self.inputs.clone();
        match &self.spec.source {
            SourceSpec::Parquet(_) => Box::new(ParquetSource::new(inputs, parts, self.batch_size)),
            SourceSpec::Webdataset(source) => {
                Box::new(WebdatasetSource::new(inputs, members(source), parts, self.batch_size))
            }
        }
    }
}
