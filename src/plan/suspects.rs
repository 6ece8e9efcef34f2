//! The images that a dead process was decoding, tried again where they can do no harm.

use std::num::NonZeroU64;
use std::time::Duration;

use super::Plan;
use crate::contain::own_program;
use crate::crash::{Killer, RowId, try_images};
use crate::digest;
use crate::error::Error;
use crate::images::LoadError;
use crate::prepare::elements;
use crate::source::{InputFile, Part};

/// Memory that a trial may take besides what decoding takes in a run.
const MARGIN: u64 = 256 << 20;

impl Plan {
    /// Tries the images of rows in child processes, and returns those that kill them, besides those
    /// that are known to.
    pub(super) fn killers(
        &self,
        rows: &[RowId],
        known: &[Killer],
        notes: &mut Vec<String>,
    ) -> Result<Vec<Killer>, Error> {
        let (mut images, ids) = (Vec::new(), self.input_ids());
        for row in rows {
            images.extend(self.images(*row, &ids)?);
        }
        images.sort();
        images.dedup();
        images.retain(|image| Killer::among(known, image).is_none());
        if images.is_empty() || own_program().is_none() {
            return Ok(Vec::new());
        }
        notes.push(format!(
            "the last run ended while it decoded {}: trying {} in another process",
            if images.len() == 1 {
                "an image".to_owned()
            } else {
                format!("{} images", images.len())
            },
            if images.len() == 1 { "it" } else { "them" },
        ));
        let settings = serde_json::to_string(&self.spec.preprocess).expect("plain data");
        let bytes = self.memory.decoding.saturating_add(MARGIN);
        let command = || {
            let mut command = own_program().expect("only the program itself leaves suspects");
            let model = &self.models.all[0].spec;
            command.arg("try-images").args(["--family", model.family().as_str()]);
            command.arg("--model").arg(model.dir());
            command.args(["--preprocess", &settings, "--memory", &bytes.to_string()]);
            command
        };
        let limit = Duration::from_secs(self.spec.run.decode_timeout.get().into());
        let killers = try_images(command, &images, limit)?;
        for Killer { bytes, death, .. } in &killers {
            notes.push(format!(
                "an image of {bytes} bytes ends the process that decodes it ({death}): its rows are decoder_crash"
            ));
        }
        Ok(killers)
    }

    /// What the journals of this plan and of those to come call its inputs: by their names' digests.
    pub(super) fn input_ids(&self) -> Vec<NonZeroU64> {
        let id = |input: &InputFile| {
            let digest = digest::raw_of_bytes(input.full_name().as_bytes());
            let (first, _) = digest.split_first_chunk().expect("32 bytes");
            NonZeroU64::new(u64::from_le_bytes(*first)).unwrap_or(NonZeroU64::MIN)
        };
        self.inputs.iter().map(id).collect()
    }

    /// The bytes of a row's images, where the plan has that row and there are bytes.
    fn images(
        &self,
        RowId { input, row }: RowId,
        ids: &[NonZeroU64],
    ) -> Result<Vec<Vec<u8>>, Error> {
        let (Some(column), Some(loader)) = (&self.image_column, &self.loader) else {
            return Ok(Vec::new());
        };
        let has_it = |part: &&Part| {
            ids[part.input] == input && (part.start..part.start + part.rows).contains(&row)
        };
        let Some(part) = self.parts.iter().find(has_it) else {
            return Ok(Vec::new());
        };
        let row = row - part.start;
        let mut source = self.source(vec![*part]);
        while let Some(batch) = source.next_batch()? {
            let Some(at) = row.checked_sub(batch.position.offset) else { break };
            if at >= batch.rows.num_rows() as u64 {
                continue;
            }
            let row = batch.rows.slice(at as usize, 1);
            let (row, _) = elements(row, &self.lists)?;
            let images = row.column_by_name(column).expect("`resolve` checked it");
            let images = loader.bind(images)?;
            let mut found = Vec::new();
            for at in 0..images.len() {
                match loader.load(&images, at) {
                    Ok(bytes) => found.push(bytes.into_owned()),
                    Err(LoadError::Row(_)) => {}
                    Err(LoadError::Machine(error)) => return Err(error),
                }
            }
            return Ok(found);
        }
        Ok(Vec::new())
    }
}
