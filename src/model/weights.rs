//! Safetensors files as named tensors, checked both ways before a byte of them is used.
//!
//! A model folder holds one file, such as model.safetensors, or shards listed by
//! model.safetensors.index.json.
//! What is missing, too many, misshapen or not finite is an error that names the tensor:
//! LibTorch's own loaders skip, broadcast or invent. Pickled weights are refused. Which tensors
//! an architecture has is not known here.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::{fmt, io};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};
use serde::Deserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use tch::{Device, Kind, Tensor};

use crate::digest;
use crate::error::Error;
use crate::regular;

/// Names of weights that can run code when they are read.
pub const PICKLED: [&str; 4] = [
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.pt",
    "open_clip_pytorch_model.bin",
];

/// What a family calls the files of its weights.
#[derive(Debug, Clone, Copy)]
pub struct FileNames {
    /// Which says what the weights hold, for messages.
    pub config: &'static str,
    /// Names of a file that holds all weights; the first that is there is read. Shards are listed
    /// by NAME.index.json.
    pub single: &'static [&'static str],
}

/// A tensor that the architecture has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    pub name: String,
    pub shape: Vec<i64>,
}

/// The opened weights files of a model folder.
#[derive(Debug)]
pub struct Weights {
    files: Vec<WeightsFile>,
    /// Tensor name -> index into `files`.
    tensors: BTreeMap<String, usize>,
    /// Which says what the weights hold.
    config: &'static str,
}

#[derive(Debug)]
struct WeightsFile {
    path: PathBuf,
    map: Mmap,
    metadata: Metadata,
    /// Where tensor data starts.
    start: usize,
}

impl Weights {
    /// Opens a folder's weights and reads their headers.
    ///
    /// # Errors
    /// `NotFound` without weights or without a listed shard, `PickledWeights` where there is no
    /// other kind, `ModelFile` for a damaged header or index, `Tensor` for a tensor in two files
    /// or in another than the index says.
    pub fn open(dir: &Path, names: FileNames) -> Result<Self, Error> {
        let FileNames { config, single } = names;
        let there = |name: &str| dir.join(name).exists();
        if let Some(name) = single.iter().find(|name| there(name)) {
            return Self::collect(vec![WeightsFile::open(dir.join(name), name)?], config);
        }
        let indices: Vec<_> = single.iter().map(|name| format!("{name}.index.json")).collect();
        if let Some(index) = indices.iter().find(|name| there(name)) {
            return Self::sharded(dir, index, config);
        }
        if let Some(name) = PICKLED.iter().find(|name| there(name)) {
            return Err(Error::PickledWeights { path: dir.join(name) });
        }
        let others = single[1..].iter().map(|name| (*name).to_owned()).chain(indices);
        Err(Error::NotFound {
            what: "weights file",
            path: dir.join(single[0]),
            hint: format!(", nor does {}", others.collect::<Vec<_>>().join(" or ")),
        })
    }

    /// Opens one file of weights and reads its header. `config` says what the weights hold.
    ///
    /// # Errors
    /// `NotFound`; `ModelFile` for a damaged header.
    pub fn of_file(path: &Path, config: &'static str) -> Result<Self, Error> {
        if !path.exists() {
            let (what, hint) = ("weights file", String::new());
            return Err(Error::NotFound { what, path: path.to_owned(), hint });
        }
        Self::collect(vec![WeightsFile::open(path.to_owned(), config)?], config)
    }

    /// All tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    fn sharded(dir: &Path, index: &str, config: &'static str) -> Result<Self, Error> {
        let listed = read_index(&dir.join(index))?;
        let mut names: Vec<&String> = listed.values().collect();
        names.sort_unstable();
        names.dedup();
        let files = names.into_iter().map(|name| WeightsFile::open(dir.join(name), index));
        let weights = Self::collect(files.collect::<Result<_, _>>()?, config)?;
        for (tensor, &file) in &weights.tensors {
            let file = &weights.files[file];
            let named = listed.get(tensor).map(|name| dir.join(name));
            if named.as_ref() != Some(&file.path) {
                let problem = format!("is in this shard, and {index} says otherwise");
                return Err(file.problem(tensor, problem));
            }
        }
        match listed.iter().find(|(tensor, _)| !weights.tensors.contains_key(*tensor)) {
            Some((tensor, name)) => Err(Error::Tensor {
                path: dir.join(name),
                tensor: tensor.clone(),
                problem: format!("is missing, and {index} says that it is in this shard"),
            }),
            None => Ok(weights),
        }
    }

    fn collect(files: Vec<WeightsFile>, config: &'static str) -> Result<Self, Error> {
        let mut tensors = BTreeMap::new();
        for (index, file) in files.iter().enumerate() {
            for name in file.metadata.offset_keys() {
                if let Some(other) = tensors.insert(name.clone(), index) {
                    let problem = format!("is in {} as well", files[other].path.display());
                    return Err(file.problem(&name, problem));
                }
            }
        }
        Ok(Self { files, tensors, config })
    }

    /// Compares names and shapes with what the architecture has, both ways.
    ///
    /// `ignored` says which others may be there: buffers that are computed, not learned.
    ///
    /// # Errors
    /// `Tensor` naming the first that is missing, too many, misshapen or of an unusable type.
    pub fn check(&self, expected: &[Expected], ignored: fn(&str) -> bool) -> Result<(), Error> {
        for wanted in expected {
            let (file, info) = self.find(&wanted.name)?;
            if info.shape.iter().map(|&side| side as i64).ne(wanted.shape.iter().copied()) {
                let problem = format!(
                    "has shape {:?} where {} makes it {:?}",
                    info.shape, self.config, wanted.shape
                );
                return Err(file.problem(&wanted.name, problem));
            }
            file.kind(&wanted.name, info)?;
        }
        let known = |name: &str| expected.iter().any(|wanted| wanted.name == name);
        let extra = self.tensors.iter().find(|(name, _)| !known(name) && !ignored(name));
        match extra {
            Some((name, &file)) => {
                let problem = format!("is not part of the model that {} describes", self.config);
                Err(self.files[file].problem(name, problem))
            }
            None => Ok(()),
        }
    }

    /// Whether there is a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The shape of a tensor.
    ///
    /// # Errors
    /// `Tensor` when it is missing.
    pub fn shape(&self, name: &str) -> Result<Vec<i64>, Error> {
        let (_, info) = self.find(name)?;
        Ok(info.shape.iter().map(|&side| side as i64).collect())
    }

    /// One tensor as f32 on the CPU. In an f32 file its memory is the file's own, mapped: it must
    /// not be changed, and what outlives `self` must be a copy.
    ///
    /// # Errors
    /// `Tensor` when it is missing or holds a NaN or an infinity.
    pub(super) fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        let (file, info) = self.find(name)?;
        let kind = file.kind(name, info)?;
        let (from, to) = info.data_offsets;
        let bytes = &file.map[file.start + from..file.start + to];
        let load = || -> Result<(Tensor, bool), tch::TchError> {
            let tensor = mapped(bytes, &info.shape, kind)?;
            let tensor = tensor.f_to_device_(Device::Cpu, Kind::Float, false, false)?;
            let finite = all_finite(&tensor)?;
            Ok((tensor, finite))
        };
        match load().map_err(Error::torch("read the weights"))? {
            (tensor, true) => Ok(tensor),
            _ => Err(file.problem(name, "holds a NaN or an infinity".into())),
        }
    }

    /// Whether `tensor` survived a conversion to a narrower type.
    ///
    /// # Errors
    /// `Tensor` naming it when a value became an infinity.
    pub fn converted(&self, name: &str, tensor: &Tensor) -> Result<(), Error> {
        if all_finite(tensor).map_err(Error::torch("check the weights"))? {
            return Ok(());
        }
        let (file, _) = self.find(name)?;
        let problem = "does not fit the precision: take `precision = \"f32\"` or \"bf16\"";
        Err(file.problem(name, problem.into()))
    }

    /// A digest of the weights files, in hexadecimal: of a single file what `sha256sum` prints,
    /// of shards the digest of `sha256sum`'s lines in the order of their names.
    ///
    /// # Errors
    /// `Io` when a file cannot be read.
    pub fn sha256(&self) -> Result<String, Error> {
        if let [file] = self.files.as_slice() {
            return digest::of_file(&file.path);
        }
        let mut all = String::new();
        for file in &self.files {
            let name = file.path.file_name().unwrap_or_default().to_string_lossy();
            all += &format!("{}  {name}\n", digest::of_file(&file.path)?);
        }
        Ok(digest::of_bytes(all.as_bytes()))
    }

    fn find(&self, name: &str) -> Result<(&WeightsFile, &TensorInfo), Error> {
        let file = &self.files[self.tensors.get(name).copied().unwrap_or(0)];
        match file.metadata.info(name) {
            Some(info) => Ok((file, info)),
            None => Err(file.problem(name, "is missing".into())),
        }
    }
}

impl WeightsFile {
    /// `index` lists the file, where it is a shard.
    fn open(path: PathBuf, index: &str) -> Result<Self, Error> {
        let file = match regular::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let hint = format!(", and {index} lists it: copy the whole folder");
                return Err(Error::NotFound { what: "weights file", path, hint });
            }
            other => other.map_err(Error::io("open", &path))?,
        };
        // SAFETY: the map is only read. A file that another process cuts short meanwhile would
        // end this one with SIGBUS; weights are not written while they are used.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", &path))?;
        match SafeTensors::read_metadata(&map) {
            Ok((header, metadata)) => match twice(&map[8..8 + header]) {
                None => Ok(Self { path, map, metadata, start: 8 + header }),
                Some(tensor) => {
                    Err(Error::Tensor { path, tensor, problem: "is there twice".to_owned() })
                }
            },
            Err(error) => {
                let problem = format!("is not a whole safetensors file ({error}): copy it again");
                Err(Error::ModelFile { path, problem })
            }
        }
    }

    fn kind(&self, name: &str, info: &TensorInfo) -> Result<Kind, Error> {
        match info.dtype {
            Dtype::F32 => Ok(Kind::Float),
            Dtype::F16 => Ok(Kind::Half),
            Dtype::BF16 => Ok(Kind::BFloat16),
            other => Err(self.problem(name, format!("is {other:?}: use F32, F16 or BF16"))),
        }
    }

    fn problem(&self, tensor: &str, problem: String) -> Error {
        Error::Tensor { path: self.path.clone(), tensor: tensor.into(), problem }
    }
}

/// The first name that a header has twice. Its reader keeps the last of them and says nothing.
fn twice(header: &[u8]) -> Option<String> {
    struct Names(Option<String>);

    impl<'de> Visitor<'de> for Names {
        type Value = Option<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("tensors by name")
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut seen = HashSet::new();
            while let Some(name) = map.next_key::<String>()? {
                map.next_value::<IgnoredAny>()?;
                if seen.contains(&name) {
                    self.0.get_or_insert(name);
                } else {
                    seen.insert(name);
                }
            }
            Ok(self.0)
        }
    }
    let mut header = serde_json::Deserializer::from_slice(header);
    // What is no JSON has been refused already.
    header.deserialize_map(Names(None)).ok().flatten()
}

/// The bytes as a tensor, without a copy where their place in the file allows it.
fn mapped(bytes: &[u8], shape: &[usize], kind: Kind) -> Result<Tensor, tch::TchError> {
    let shape: Vec<i64> = shape.iter().map(|&side| side as i64).collect();
    if !bytes.as_ptr().addr().is_multiple_of(kind.elt_size_in_bytes()) {
        return Tensor::f_from_data_size(bytes, &shape, kind);
    }
    let strides: Vec<i64> = (0..shape.len()).map(|i| shape[i + 1..].iter().product()).collect();
    // SAFETY: the map holds that many bytes (the header was checked against it), aligned, and
    // lives as long as `Weights`; `Weights::tensor` hands the duty not to outlive it on.
    unsafe { Tensor::f_from_blob(bytes.as_ptr(), &shape, &strides, kind, Device::Cpu) }
}

/// A sum with a NaN or an infinity in it is no number, and takes one pass. One that is no number
/// may also have grown too large, so then every value is looked at.
fn all_finite(tensor: &Tensor) -> Result<bool, tch::TchError> {
    if tensor.f_sum(Kind::Float)?.f_double_value(&[])?.is_finite() {
        return Ok(true);
    }
    Ok(tensor.f_isfinite()?.f_all()?.f_int64_value(&[])? != 0)
}

/// The shards that an index lists, each once.
///
/// # Errors
/// `ModelFile` for what is no index, or names that are no plain ones of files.
pub fn shard_names(index: &Path) -> Result<Vec<String>, Error> {
    let mut names: Vec<_> = read_index(index)?.into_values().collect();
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Tensor name -> shard name. A name that is a path would let an index reach outside its folder.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>, Error> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let problem = |problem: String| Error::ModelFile { path: path.into(), problem };
    let json = regular::read(path).map_err(Error::io("read", path))?;
    let index: Index = serde_json::from_slice(&json)
        .map_err(|error| problem(format!("is not an index of shards: {error}")))?;
    if index.weight_map.is_empty() {
        return Err(problem("lists no tensors".into()));
    }
    match index.weight_map.values().find(|name| Path::new(name).file_name() != Some(name.as_ref()))
    {
        Some(name) => Err(problem(format!("lists \"{name}\", which is no plain file name"))),
        None => Ok(index.weight_map),
    }
}
