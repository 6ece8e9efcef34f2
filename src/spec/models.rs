//! `[model.FAMILY]` and `[model.FAMILY.NAME]`: the models of a pipeline.
//!
//! One model needs no name. Several have one each, by which columns say whose they are. Whether
//! there are such models is found by `plan`.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Family, HubSpec, ModelPlace, PrecisionSpec};

/// One model of a pipeline, as it is declared.
#[derive(Debug, Clone, PartialEq)]
pub struct DeclaredModel {
    /// By which columns name it; a pipeline's only model may have none.
    pub name: Option<String>,
    pub family: Family,
    pub place: ModelPlace,
    pub precision: PrecisionSpec,
}

impl DeclaredModel {
    /// Where the pipeline file has it: `model.clip`, `model.clip.b32`.
    pub fn key(&self) -> String {
        let name = self.name.iter().map(|name| format!(".{name}"));
        format!("model.{}{}", self.family.as_str(), name.collect::<String>())
    }

    /// The same, in the folder that was found to hold it.
    pub fn in_folder(&self, dir: PathBuf) -> ModelSpec {
        let Self { name, family, precision, .. } = self.clone();
        ModelSpec { name, family, dir, precision }
    }
}

/// One model, in a folder.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// By which columns name it; a pipeline's only model may have none.
    pub name: Option<String>,
    pub family: Family,
    /// The model's folder.
    pub dir: PathBuf,
    pub precision: PrecisionSpec,
}

impl ModelSpec {
    /// A model of that family in a folder, in the precision that is best where it runs.
    pub fn new(family: Family, dir: impl Into<PathBuf>) -> Self {
        Self { name: None, family, dir: dir.into(), precision: PrecisionSpec::default() }
    }

    /// The kind of model.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The model's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the pipeline file has it: `model.clip`, `model.clip.b32`.
    pub fn key(&self) -> String {
        let name = self.name.iter().map(|name| format!(".{name}"));
        format!("model.{}{}", self.family.as_str(), name.collect::<String>())
    }
}

/// `[model]`: at least one, each name once.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelsSpec(Vec<DeclaredModel>);

impl ModelsSpec {
    /// In the order of the file.
    pub fn all(&self) -> &[DeclaredModel] {
        &self.0
    }
}

/// The settings of a model.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(expecting = "a section of a model's own: its settings are `dir` or `hub`, `revision` and \
                     `precision`")]
struct Settings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dir: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hub: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    #[serde(default)]
    precision: PrecisionSpec,
}

impl Settings {
    fn of(model: &DeclaredModel) -> Self {
        let settings = Self { precision: model.precision, ..Self::default() };
        match &model.place {
            ModelPlace::Dir(dir) => Self { dir: Some(dir.clone()), ..settings },
            ModelPlace::Hub(hub) => Self {
                hub: Some(hub.repo().to_owned()),
                revision: Some(hub.revision().to_owned()),
                ..settings
            },
        }
    }

    fn place(&self) -> Result<ModelPlace, String> {
        match (&self.dir, &self.hub, &self.revision) {
            (Some(dir), None, None) => Ok(ModelPlace::Dir(dir.clone())),
            (None, Some(repo), revision) => {
                HubSpec::new(repo, revision.as_deref()).map(ModelPlace::Hub)
            }
            (None, None, _) => Err("missing field `dir`, or `hub` with a model on the hub".into()),
            (Some(_), Some(_), _) => Err("`dir` and `hub` are two places: name one".into()),
            (Some(_), None, Some(_)) => {
                Err("`revision` is for `hub`: a folder has no revisions".into())
            }
        }
    }
}

/// `[model.FAMILY]`: one model, or one a name.
struct OfFamily(Vec<(Option<String>, Settings)>);

impl<'de> Deserialize<'de> for OfFamily {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Models;
        impl<'de> Visitor<'de> for Models {
            type Value = OfFamily;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a model's settings, or named sections of them")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OfFamily, A::Error> {
                let (mut own, mut named) = (toml::Table::new(), Vec::new());
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "dir" | "hub" | "revision" | "precision" => {
                            own.insert(key, map.next_value()?);
                        }
                        _ => named.push((Some(key), map.next_value()?)),
                    }
                }
                match (own.is_empty(), named.first()) {
                    (true, Some(_)) => Ok(OfFamily(named)),
                    (false, Some((name, _))) => Err(A::Error::custom(format!(
                        "the model beside \"{}\" has no name: give each of several models a \
                         section such as [model.clip.b32]",
                        name.as_deref().unwrap_or_default()
                    ))),
                    (_, None) => {
                        let own = own.try_into::<Settings>();
                        let own = own.map_err(|error| A::Error::custom(error.message()))?;
                        Ok(OfFamily(vec![(None, own)]))
                    }
                }
            }
        }
        deserializer.deserialize_map(Models)
    }
}

impl<'de> Deserialize<'de> for ModelsSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Families;
        impl<'de> Visitor<'de> for Families {
            type Value = ModelsSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a section for a model, such as [model.clip]")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ModelsSpec, A::Error> {
                let mut models = Vec::new();
                while let Some(family) = map.next_key::<Family>()? {
                    for (name, settings) in map.next_value::<OfFamily>()?.0 {
                        let place = settings.place().map_err(A::Error::custom)?;
                        let precision = settings.precision;
                        models.push(DeclaredModel { name, family, place, precision });
                    }
                }
                ModelsSpec::new(models).map_err(A::Error::custom)
            }
        }
        deserializer.deserialize_map(Families)
    }
}

impl ModelsSpec {
    fn new(models: Vec<DeclaredModel>) -> Result<Self, String> {
        if models.is_empty() {
            return Err("needs a model, such as [model.clip]".into());
        }
        if models.len() > 1
            && let Some(nameless) = models.iter().find(|model| model.name.is_none())
        {
            let key = nameless.key();
            return Err(format!(
                "[{key}] has no name: with several models each has one, [{key}.a]"
            ));
        }
        for (index, model) in models.iter().enumerate() {
            if models[..index].iter().any(|other| other.name == model.name) {
                let name = model.name.as_deref().unwrap_or_default();
                return Err(format!(
                    "\"{name}\" is the name of two models: columns could mean either"
                ));
            }
        }
        Ok(Self(models))
    }
}

impl Serialize for ModelsSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut families: Vec<Family> = self.0.iter().map(|model| model.family).collect();
        families.dedup();
        let mut map = serializer.serialize_map(Some(families.len()))?;
        for family in families {
            let of_family: Vec<_> = self.0.iter().filter(|model| model.family == family).collect();
            match of_family.as_slice() {
                [model] if model.name.is_none() => {
                    map.serialize_entry(family.as_str(), &Settings::of(model))?;
                }
                named => map.serialize_entry(family.as_str(), &Named(named))?,
            }
        }
        map.end()
    }
}

struct Named<'a>(&'a [&'a DeclaredModel]);

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let name = |model: &DeclaredModel| model.name.clone().unwrap_or_default();
        let of = |model: &&DeclaredModel| (name(model), Settings::of(model));
        serializer.collect_map(self.0.iter().map(of))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct File {
        model: ModelsSpec,
    }

    fn read(text: &str) -> Result<File, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn one_model_needs_no_name_and_several_have_one_each() {
        let one = "[model.clip]\ndir = \"a\"\nprecision = \"f32\"\n";
        let several = "[model.clip.b32]\ndir = \"a\"\nprecision = \"auto\"\n\n\
                       [model.clip.l14]\ndir = \"b\"\nprecision = \"bf16\"\n";
        let hub = "[model.siglip]\nhub = \"org/name\"\nrevision = \"main\"\nprecision = \"auto\"\n";
        for text in [one, several, hub] {
            let file = read(text).expect("models");
            assert_eq!(toml::to_string(&file).expect("it is written"), text);
        }
        let keys = |text| -> Vec<String> {
            read(text).expect("models").model.all().iter().map(DeclaredModel::key).collect()
        };
        assert_eq!(keys(one), ["model.clip"]);
        assert_eq!(keys(several), ["model.clip.b32", "model.clip.l14"]);
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("model = {}", "needs a model"),
            ("[model.clap]\ndir = \"a\"", "unknown variant `clap`"),
            ("[model.clip]\nprecision = \"f32\"", "missing field `dir`"),
            ("[model.clip]\ndir = \"a\"\nprecison = \"f32\"", "its settings are `dir` or `hub`"),
            ("[model.clip.b32]\ndri = \"a\"", "unknown field `dri`"),
            ("[model.clip]\ndir = 7", "invalid type: integer `7`"),
            ("[model.clip]\ndir = \"a\"\nhub = \"a/b\"", "`dir` and `hub` are two places"),
            ("[model.clip]\ndir = \"a\"\nrevision = \"x\"", "`revision` is for `hub`"),
            ("[model.clip.x]\nhub = \"../b\"", "\"../b\" is no repository of the hub"),
            ("[model.clip]\nhub = \"a/b\"\nrevision = \"/x\"", "\"/x\" is no revision"),
            ("[model.clip]\ndir = \"a\"\n[model.clip.b]\ndir = \"b\"", "beside \"b\" has no name"),
        ];
        for (text, wanted) in cases {
            let problem = read(text).expect_err(text);
            assert!(problem.contains(wanted), "{text}: {problem}");
        }
    }
}
