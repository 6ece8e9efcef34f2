//! The pipeline arguments that several commands share: file, flags and `--set` into one spec.

use super::steps;
use crate::cli::PipelineArgs;
use crate::error::Error;
use crate::spec::layers::{Layered, Override, read};

/// Reads the pipeline file and lays the command line over it. Flags win over `--set`.
pub fn read_layered(
    args: &PipelineArgs,
    more: impl IntoIterator<Item = Override>,
) -> Result<Layered, Error> {
    let mut overrides =
        args.set.iter().map(|set| Override::parse(set)).collect::<Result<Vec<_>, _>>()?;
    let flags = [
        ("--input", "source.*.path", args.input.clone()),
        ("--output", "sink.parquet.path", args.output.clone()),
        ("--device", "run.device", args.device.map(|device| device.to_string())),
    ];
    for (flag, key, value) in flags {
        overrides.extend(value.map(|value| Override::flag(flag, key, value)));
    }
    let numbers = [
        ("--batch-size", "run.batch_size", args.batch_size.map(|n| n.get() as u64)),
        ("--threads", "run.threads", args.threads.map(|n| n.get() as u64)),
        ("--limit", "source.*.limit", args.limit),
    ];
    for (flag, key, value) in numbers {
        // TOML integers are i64; nobody's table has more rows than that.
        let value = value.map(|value| i64::try_from(value).unwrap_or(i64::MAX));
        overrides.extend(value.map(|value| Override::flag(flag, key, value)));
    }
    overrides.extend(more);
    let layered = read(&args.pipeline, &overrides)?;
    steps::check(&layered.spec)?;
    Ok(layered)
}
