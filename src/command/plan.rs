//! `clipmill plan`: what a run would do, without doing it.

use serde_json::json;

use super::run::pinned;
use super::{pipeline, table};
use crate::cli::PlanArgs;
use crate::error::Error;
use crate::hub::Hub;
use crate::plan::Plan;

/// More parts than this are counted, not listed.
const PARTS_SHOWN: usize = 5;

pub fn plan(args: &PlanArgs) -> Result<(), Error> {
    let plan = Plan::resolve(pipeline::read_layered(&args.pipeline, None)?, Hub::Shown)?;
    let text = if args.json { as_json(&plan) } else { as_text(&plan) };
    table::print(&text)
}

fn as_json(plan: &Plan) -> String {
    let parts: Vec<_> = plan
        .parts
        .iter()
        .map(|part| {
            json!({
                "index": part.index,
                "file": part.file_name(),
                "input": plan.inputs[part.input].path,
                "start": part.start,
                "rows": part.rows,
            })
        })
        .collect();
    let columns: Vec<_> = plan
        .schema
        .fields()
        .iter()
        .map(|field| json!({"name": field.name(), "type": field.data_type().to_string()}))
        .collect();
    let plan = json!({
        "settings": plan.settings,
        "output": plan.output(),
        "rows": plan.rows(),
        "device": plan.device_names(),
        "precision": plan.precision(),
        "batch_size": plan.batch_size,
        "threads": plan.threads,
        "memory": plan.memory,
        "from_hub": plan.from_hub().collect::<Vec<_>>(),
        "columns": columns,
        "parts": parts,
    });
    format!("{plan:#}\n")
}

fn as_text(plan: &Plan) -> String {
    let settings = plan.settings.iter().map(|setting| {
        vec![setting.key.clone(), setting.value.clone(), setting.origin.to_string()]
    });
    let from_input = plan.schema.fields().len() - plan.columns.len();
    let columns = plan.schema.fields().iter().enumerate().map(|(index, field)| {
        let how = match index.checked_sub(from_input) {
            None => "input, unchanged".to_owned(),
            Some(declared) => plan.columns[declared].kind.as_str().to_owned(),
        };
        vec![field.name().clone(), field.data_type().to_string(), how]
    });
    let parts = plan.parts.iter().take(PARTS_SHOWN).map(|part| {
        let input = plan.inputs[part.input].path.display();
        let rows = format!("{}..{}", part.start, part.start + part.rows);
        vec![part.file_name(), input.to_string(), rows]
    });
    let more = match plan.parts.len().saturating_sub(PARTS_SHOWN) {
        0 => String::new(),
        more => format!(" … and {more} more\n"),
    };
    let memory = &plan.memory;
    let memory = [
        ("weights", memory.weights),
        ("images between stages", memory.pixels),
        ("decoding, at the most", memory.decoding),
        ("blocks of the input's objects", memory.reading),
        ("row group being written", memory.writing),
    ];
    // What is not done is no row.
    let memory = memory.iter().filter(|(_, n)| *n > 0);
    let memory: Vec<_> =
        memory.map(|(what, n)| vec![(*what).to_owned(), table::bytes(*n)]).collect();
    let hub = plan.from_hub().map(|hub| match hub.spec.pinned() {
        Some(commit) => format!("{} at commit {commit}\n", hub.spec.repo()),
        None => format!("{}\n", pinned(hub)),
    });
    let hub: String = hub.collect();
    format!(
        "Settings\n{}\n\nOutput columns\n{}\n\n{}, {}, into {}\n{}\n{more}\n\
         Memory, besides LibTorch itself\n{}\n\n\
         {hub}{}, batches of {}, {}\n",
        table::table(&["key", "value", "from"], settings.collect(), &[]),
        table::table(&["column", "type", "filled with"], columns.collect(), &[]),
        table::counted(plan.parts.len() as u64, "part"),
        table::counted(plan.rows(), "row"),
        plan.output().display(),
        table::table(&["file", "input", "rows"], parts.collect(), &[]),
        table::table(&[], memory, &[1]),
        plan.runs_on(),
        plan.batch_size,
        table::counted(plan.threads as u64, "CPU thread"),
    )
}
