//! `clipmill try-images`: the child process in which a run tries the images that another died at.
//!
//! Not for people: `crash` starts it and talks to it.

use crate::cli::TryImagesArgs;
use crate::contain::limit_memory;
use crate::crash::serve_trials;
use crate::error::Error;
use crate::images::Preprocess;
use crate::spec::ModelSpec;

pub fn try_images(args: &TryImagesArgs) -> Result<(), Error> {
    let setting = |error: serde_json::Error| Error::Setting {
        key: "--preprocess".into(),
        problem: error.to_string(),
    };
    let spec = serde_json::from_str(&args.preprocess).map_err(setting)?;
    // All that a run may do with an image.
    let model = ModelSpec::new(args.family, &args.model);
    let preprocess = Preprocess::of(&model, &spec)?.with_phash(true);
    limit_memory(args.memory).map_err(Error::io("limit the memory of", "this process"))?;
    let decode = |image: &[u8]| drop(preprocess.apply(image, &mut vec![0; preprocess.n_bytes()]));
    serve_trials(decode).map_err(Error::io("talk on", "stdin and stdout"))
}
