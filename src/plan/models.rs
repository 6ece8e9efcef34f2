//! The models of a plan: opened, checked against each other, and what each of them is given.
//!
//! Models that want the same pixels share them, and those that read text alike share its tokens:
//! an image is decoded once for all, and resized once for each way. No weights are read here.

use std::sync::Arc;

use crate::batch::PixelScale;
use crate::columns::{Lengths, Needs};
use crate::digest;
use crate::encode::Inputs;
use crate::error::Error;
use crate::hub::{Commit, Hub};
use crate::images::Preprocess;
use crate::model::device::{self, Placement};
use crate::model::{DualEncoder, ModelFiles, Towers};
use crate::spec::{
    DeclaredColumn, DeclaredModel, Family, ModelPlace, ModelSpec, ModelsSpec, PipelineSpec,
};
use crate::text::Tokenizer;

/// One model of a plan.
#[derive(Clone)]
pub struct PlannedModel {
    pub spec: ModelSpec,
    /// What it is on the hub, where it comes from there.
    pub hub: Option<Commit>,
    pub files: Arc<ModelFiles>,
    /// The work that the columns ask of it.
    pub needs: Needs,
    /// One a device.
    pub placements: Vec<Placement>,
    pub inputs: Inputs,
    /// How it wants its pixels, where it looks at any.
    pub preprocess: Option<Preprocess>,
}

impl PlannedModel {
    pub fn lengths(&self) -> Lengths {
        Lengths {
            embedding: self.files.embedding_dim(),
            context: self.files.context_length(),
            text_width: self.files.text_width(),
        }
    }

    /// Loads it onto the device of that index.
    pub fn load(&self, device: usize) -> Result<Box<dyn DualEncoder>, Error> {
        let scale = self.preprocess.as_ref().map_or(PixelScale::NONE, Preprocess::scale);
        self.files.load(self.inputs.towers, scale, self.placements[device])
    }

    /// The precision as a pipeline file writes it.
    pub fn precision(&self) -> &'static str {
        self.placements[0].precision()
    }
}

/// What the models of a plan are and share.
pub struct Models {
    /// At least one, in the pipeline's order.
    pub all: Vec<PlannedModel>,
    /// The ways in which they want pixels; none where no column needs images.
    pub preprocess: Vec<Preprocess>,
    /// The ways in which they read text; none where no column needs captions.
    pub readers: Vec<Reader>,
}

/// A way to read text.
pub struct Reader {
    pub tokenizer: Tokenizer,
    /// Whose rules it follows.
    family: Family,
    /// Of the files that it was read from, one after the other.
    pub sha256: String,
    /// Whether captions are wanted filled up to the context too.
    pub padded: bool,
}

impl Models {
    /// Opens every model, fetched before where it has to be, and finds what they share. `needs` is
    /// the plan's: where it has the image tower's work done already, no model does it.
    pub fn resolve(spec: &PipelineSpec, needs: Needs, hub: Hub) -> Result<Self, Error> {
        let specs = spec.model.all();
        let mut of_model = vec![Vec::new(); specs.len()];
        for (name, column) in &spec.columns {
            if let Some(model) = model_of(name, column, &spec.model)? {
                of_model[model].push(column.kind);
            }
        }
        let mut models = Self { all: Vec::new(), preprocess: Vec::new(), readers: Vec::new() };
        for (declared, kinds) in specs.iter().zip(of_model) {
            let own = Needs::of(kinds);
            let own = Needs { image_tower: own.image_tower && needs.image_tower, ..own };
            models.add(spec, found(declared, hub)?, own)?;
        }
        if needs.images && models.preprocess.is_empty() {
            // What images are is asked, and no model looks at them: any way will do.
            let first = &mut models.all[0];
            let any = preprocess(spec, &first.spec, &first.files)?;
            first.preprocess = Some(any.clone());
            models.preprocess.push(any);
        }
        Ok(models)
    }

    fn add(
        &mut self,
        spec: &PipelineSpec,
        (model, hub): (ModelSpec, Option<Commit>),
        needs: Needs,
    ) -> Result<(), Error> {
        let model = &model;
        let files = Arc::new(ModelFiles::open(model)?);
        let placements = device::resolve(spec.run.device, model.precision)?.placements();
        let towers =
            Towers { image: needs.image_tower, text: needs.text_tower, states: needs.text_states };
        let looks = needs.image_tower.then(|| preprocess(spec, model, &files)).transpose()?;
        let mut pixels = 0;
        if let Some(wanted) = &looks {
            let alike = |form: &Preprocess| form.same_pixels(wanted);
            pixels = self.preprocess.iter().position(alike).unwrap_or(self.preprocess.len());
            if pixels == self.preprocess.len() {
                self.preprocess.push(wanted.clone());
            }
        }
        let mut captions = 0;
        if needs.captions {
            let wanted = reader(spec, model, (&files, needs.text_states))?;
            let rules = |Reader { family, tokenizer, .. }: &Reader| {
                (*family, tokenizer.context_length(), tokenizer.pad())
            };
            let alike =
                |reader: &Reader| rules(reader) == rules(&wanted) && reader.sha256 == wanted.sha256;
            captions = self.readers.iter().position(alike).unwrap_or(self.readers.len());
            match self.readers.get_mut(captions) {
                Some(shared) => shared.padded |= wanted.padded,
                None => self.readers.push(wanted),
            }
        }
        let (spec, inputs) = (model.clone(), Inputs { towers, pixels, captions });
        let preprocess = looks;
        self.all.push(PlannedModel { spec, hub, files, needs, placements, inputs, preprocess });
        Ok(())
    }
}

/// A model in its folder, which is in the hub's cache where it comes from the hub.
fn found(declared: &DeclaredModel, hub: Hub) -> Result<(ModelSpec, Option<Commit>), Error> {
    Ok(match &declared.place {
        ModelPlace::Dir(dir) => (declared.in_folder(dir.clone()), None),
        ModelPlace::Hub(spec) => {
            let snapshot = hub.snapshot(spec, Some(declared.family))?;
            (declared.in_folder(snapshot.dir), Some(snapshot.commit))
        }
    })
}

/// The model that a declared column is about: its place among the pipeline's.
///
/// # Errors
/// `Setting` where several could be meant, where none has that name, or where the column is about
/// no model.
pub fn model_of(
    name: &str,
    column: &DeclaredColumn,
    models: &ModelsSpec,
) -> Result<Option<usize>, Error> {
    let wrong = |problem: String| Error::Setting { key: format!("columns.{name}"), problem };
    let kind = column.kind.as_str();
    let names =
        || -> Vec<&str> { models.all().iter().filter_map(|model| model.name.as_deref()).collect() };
    match (&column.model, models.all()) {
        (Some(_), _) if !column.kind.is_of_a_model() => {
            Err(wrong(format!("{kind} is about no model")))
        }
        (None, _) if !column.kind.is_of_a_model() => Ok(None),
        (None, [_]) => Ok(Some(0)),
        (None, _) => Err(wrong(format!(
            "{kind} could be of any of the models {}: write {{ kind = \"{kind}\", model = \"{}\" }}",
            names().join(", "),
            names()[0],
        ))),
        (Some(wanted), all) => {
            let place = all.iter().position(|model| model.name.as_ref() == Some(wanted));
            place.map(Some).ok_or_else(|| {
                wrong(match names().as_slice() {
                    [] => format!(
                        "the pipeline's one model has no name: leave out model = \"{wanted}\""
                    ),
                    names => {
                        format!("no model is named \"{wanted}\": there is {}", names.join(", "))
                    }
                })
            })
        }
    }
}

fn preprocess(
    spec: &PipelineSpec,
    model: &ModelSpec,
    files: &ModelFiles,
) -> Result<Preprocess, Error> {
    let preprocess = Preprocess::of(model, &spec.preprocess)?;
    let (made, vision) = (preprocess.shape(), &files.architecture().vision);
    if vision.takes(made) {
        return Ok(preprocess);
    }
    let problem = format!(
        "gives images as {made}, and {}'s image tower takes {}",
        model.family().config_file(),
        vision.input()
    );
    Err(Error::ModelFile { path: preprocess.path().to_owned(), problem })
}

fn reader(
    spec: &PipelineSpec,
    model: &ModelSpec,
    (files, padded): (&ModelFiles, bool),
) -> Result<Reader, Error> {
    if padded && !files.states_of_padding() {
        let what = "text_hidden_state is of captions filled up to the context, and this family's \
                    text tower does not see what fills them up: leave the column out";
        return Err(Error::Setting { key: model.key(), problem: what.into() });
    }
    let tokenizer = Tokenizer::of(model, files.context_length(), &spec.caption)?;
    let (has, takes) = (tokenizer.vocab_size(), files.vocab_size());
    if has > takes {
        let problem = format!("its text tower knows {takes} tokens, and the tokenizer has {has}");
        let path = model.dir().join(model.family().config_file());
        return Err(Error::ModelFile { path, problem });
    }
    let digests = tokenizer.files().iter().map(|file| digest::of_file(file));
    let sha256 = digests.collect::<Result<Vec<_>, _>>()?.join(" ");
    Ok(Reader { tokenizer, family: model.family(), sha256, padded })
}
