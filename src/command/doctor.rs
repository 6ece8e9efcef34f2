//! `clipmill doctor`: what this machine offers a run, and what is wrong with it.

use serde_json::json;

use super::table;
use crate::cli::DoctorArgs;
use crate::error::Error;
use crate::model::doctor::DoctorReport;

pub fn doctor(args: &DoctorArgs) -> Result<(), Error> {
    let report = DoctorReport::look();
    table::print(&if args.json { as_json(&report) } else { as_text(&report) })
}

fn as_text(report: &DoctorReport) -> String {
    let mut rows = Vec::new();
    let mut row = |what: &str, found: String| rows.push(vec![what.to_owned(), found]);
    row("clipmill", env!("CARGO_PKG_VERSION").to_owned());
    row("LibTorch", report.libtorch_version.clone());
    let dir = report.libtorch_dir.as_ref();
    row("  from", dir.map_or("unknown".into(), |dir| dir.display().to_string()));
    let library = report.cuda_library.as_ref();
    row("CUDA library", library.map_or("none".into(), |path| path.display().to_string()));
    row("NVIDIA driver", driver(report));
    for (index, gpu) in report.gpus.iter().enumerate() {
        row(&format!("  cuda:{index}"), format!("{}, {}", gpu.name, table::bytes(gpu.memory)));
    }
    let usable = match &report.cuda_problem {
        None => "can be used".to_owned(),
        Some(problem) => format!("cannot be used: {problem}"),
    };
    row("CUDA", usable);
    let features = report.cpu_features.iter();
    let features = features.map(|(name, here)| format!("{}{name}", if *here { "" } else { "no " }));
    row("CPU features", features.collect::<Vec<_>>().join(", "));
    row("cores", report.cores.to_string());
    row("LibTorch threads", report.threads.to_string());
    let auto = &report.auto;
    row("device = \"auto\"", auto.placement.device_name());
    let why = auto.precision_reason.as_deref().unwrap_or_default();
    row("precision = \"auto\"", format!("{}: {why}", auto.placement.precision()));
    format!("{}\n", table::table(&[], rows, &[]))
}

fn driver(report: &DoctorReport) -> String {
    match &report.driver {
        None => "none".to_owned(),
        Some((package, cuda)) => {
            let unknown = || "unknown".to_owned();
            let package = package.clone().unwrap_or_else(unknown);
            format!("{package}, for CUDA up to {}", cuda.clone().unwrap_or_else(unknown))
        }
    }
}

fn as_json(report: &DoctorReport) -> String {
    let gpus: Vec<_> = report
        .gpus
        .iter()
        .map(|gpu| json!({"name": gpu.name, "memory_bytes": gpu.memory}))
        .collect();
    let features: serde_json::Map<_, _> =
        report.cpu_features.iter().map(|(name, here)| ((*name).to_owned(), json!(here))).collect();
    let report = json!({
        "clipmill": env!("CARGO_PKG_VERSION"),
        "libtorch": {"version": report.libtorch_version, "dir": report.libtorch_dir},
        "cuda": {
            "library": report.cuda_library,
            "driver": report.driver.as_ref().map(|(package, _)| package),
            "driver_cuda": report.driver.as_ref().map(|(_, cuda)| cuda),
            "devices": gpus,
            "usable": report.cuda_problem.is_none(),
            "problem": report.cuda_problem.as_ref().map(ToString::to_string),
        },
        "cpu": {"features": features, "cores": report.cores},
        "libtorch_threads": report.threads,
        "auto": {
            "device": report.auto.placement.device_name(),
            "precision": report.auto.placement.precision(),
        },
    });
    format!("{report:#}\n")
}
