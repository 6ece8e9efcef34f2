//! Zero-shot classes for the rows of a table: the settings of `clipmill label`.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The 80 templates of OpenAI's zero-shot ImageNet; where they come from is said beside them.
const IMAGENET: &str = include_str!("templates/imagenet.txt");

/// What a class is put into where no template is given.
const USUAL: &str = "a photo of a {}";

/// `[label]`: once the parts are there, each row gets the classes that its image is nearest to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelSpec {
    /// The output folder.
    pub path: PathBuf,
    /// A file of class names, one a line.
    pub labels: PathBuf,
    /// Texts with `{}` where the class's name goes; a class is the mean of all of them. By default
    /// one: "a photo of a {}".
    #[serde(default)]
    pub templates: Vec<String>,
    /// Whether OpenAI's 80 templates for ImageNet are used, after those above.
    #[serde(default)]
    pub imagenet_templates: bool,
    /// Classes a row that are listed.
    #[serde(default = "default_labels")]
    pub top: NonZeroUsize,
    /// The embeddings that are labelled; by default `image_embedding`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// What the new columns are called: `label`, `label_probability` and, with more than one
    /// class listed, `labels` and `label_probabilities`.
    #[serde(default = "default_name")]
    pub name: String,
    /// Whether an output of other settings may be replaced.
    #[serde(default)]
    pub overwrite: bool,
}

/// Classes a row.
pub const fn default_labels() -> NonZeroUsize {
    const { NonZeroUsize::new(5).unwrap() }
}

fn default_name() -> String {
    "label".to_owned()
}

impl LabelSpec {
    /// Labels of that file into that folder, everything else as it is by default.
    pub fn new(path: PathBuf, labels: PathBuf) -> Self {
        Self {
            path,
            labels,
            templates: Vec::new(),
            imagenet_templates: false,
            top: default_labels(),
            column: None,
            name: default_name(),
            overwrite: false,
        }
    }

    /// The templates that are used, each once.
    ///
    /// # Errors
    /// What is wrong with one.
    pub fn all_templates(&self) -> Result<Vec<String>, String> {
        let mut all = self.templates.clone();
        if self.imagenet_templates {
            all.extend(IMAGENET.lines().map(str::to_owned));
        }
        if all.is_empty() {
            all.push(USUAL.to_owned());
        }
        let mut seen = BTreeSet::new();
        for template in &all {
            if !template.contains("{}") {
                return Err(format!("{template:?} has no {{}}, where the class's name goes"));
            }
            if !seen.insert(template) {
                return Err(format!("{template:?} is there twice"));
            }
        }
        Ok(all)
    }
}

/// The class names in the text of a labels file: one a line, without the space around it, blank
/// lines left out.
///
/// # Errors
/// What is wrong: none, or one twice.
pub fn label_names(path: &Path, text: &str) -> Result<Vec<String>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut first = std::collections::BTreeMap::new();
    let mut names = Vec::new();
    for (line, name) in text.lines().map(str::trim).enumerate() {
        if name.is_empty() {
            continue;
        }
        if let Some(before) = first.insert(name, line + 1) {
            let line = line + 1;
            return Err(format!(
                "line {line} of {} is line {before} again: {name}",
                path.display()
            ));
        }
        names.push(name.to_owned());
    }
    match names.is_empty() {
        true => Err(format!("{} has no names: write one a line", path.display())),
        false => Ok(names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lines_without_blanks_and_none_twice() {
        let names = |text| label_names(Path::new("l.txt"), text);
        assert_eq!(names("\u{feff}a cat\r\n\n  dög \n"), Ok(vec!["a cat".into(), "dög".into()]));
        assert_eq!(names("a\nb\n\na\n"), Err("line 4 of l.txt is line 1 again: a".into()));
        assert!(names(" \n").is_err());
    }

    #[test]
    fn templates_have_a_place_for_the_name_and_imagenets_are_eighty() {
        let mut spec = LabelSpec::new("out".into(), "l.txt".into());
        assert_eq!(spec.all_templates(), Ok(vec!["a photo of a {}".to_owned()]));
        spec.imagenet_templates = true;
        let all = spec.all_templates().expect("they are good");
        assert_eq!((all.len(), all[0].as_str()), (80, "a bad photo of a {}."));
        spec.templates = vec!["a photo".into()];
        assert!(spec.all_templates().is_err_and(|problem| problem.contains("has no {}")));
        spec.templates = vec![all[3].clone()];
        assert!(spec.all_templates().is_err_and(|problem| problem.contains("twice")));
    }
}
