//! What `doctor` reports about LibTorch, CUDA and the CPU. It looks and decides nothing.

use std::path::{Path, PathBuf};

pub use super::cuda_driver::Gpu;
use super::cuda_driver::{self, Driver};
use super::device::{self, Choice, CudaProblem};
use crate::spec::{DeviceSpec, PrecisionSpec};

/// The LibTorch that tch 0.24 binds.
const BUILT_FOR: &str = "2.11.0";

/// The machine as a run would find it.
#[derive(Debug, Clone)]
pub struct DoctorReport {
    /// As LibTorch's own files say; where they do not, the version this program is built for.
    pub libtorch_version: String,
    /// Where LibTorch's libraries are.
    pub libtorch_dir: Option<PathBuf>,
    /// LibTorch's CUDA half, where it is installed.
    pub cuda_library: Option<PathBuf>,
    /// The version of the driver's package and the newest CUDA that it serves, where known.
    pub driver: Option<(Option<String>, Option<String>)>,
    /// As the driver describes them.
    pub gpus: Vec<Gpu>,
    /// Why no CUDA device can be used, and the cure. `None` where one can.
    pub cuda_problem: Option<CudaProblem>,
    /// CPU features that decide the speed, and whether they are here.
    pub cpu_features: Vec<(&'static str, bool)>,
    /// Cores that this process may use.
    pub cores: usize,
    /// Threads that LibTorch takes for one operation.
    pub threads: usize,
    /// What `device = "auto"` and `precision = "auto"` take here.
    pub auto: Choice,
}

impl DoctorReport {
    /// Looks at the machine. Takes seconds where there is a GPU.
    pub fn look() -> Self {
        let dir = device::libtorch_dir();
        let driver = Driver::open().ok();
        let auto = device::resolve(DeviceSpec::Auto, PrecisionSpec::Auto);
        Self {
            libtorch_version: libtorch_version(dir.as_deref()),
            libtorch_dir: dir,
            cuda_library: Some(device::cuda_library()).filter(|path| path.exists()),
            gpus: driver.as_ref().and_then(|d| d.devices().ok()).unwrap_or_default(),
            driver: driver.map(|d| (cuda_driver::package_version(), d.cuda_version())),
            cuda_problem: device::cuda_devices().err(),
            cpu_features: cpu_features(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            threads: tch::get_num_threads().max(1) as usize,
            auto: auto.expect("auto refuses nothing: it falls back to the CPU"),
        }
    }
}

/// From `torch/version.py` of a Python package or `build-version` of a download.
fn libtorch_version(lib: Option<&Path>) -> String {
    let read = |name: &str| std::fs::read_to_string(lib?.parent()?.join(name)).ok();
    let from_python = read("version.py").and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("__version__"))?;
        line.split(['\'', '"']).nth(1).map(str::to_owned)
    });
    let from_download = || read("build-version").map(|text| text.trim().to_owned());
    from_python.or_else(from_download).unwrap_or_else(|| BUILT_FOR.into())
}

/// As Linux names them.
fn cpu_features() -> Vec<(&'static str, bool)> {
    const NAMES: &[&str] = if cfg!(target_arch = "aarch64") {
        &["asimd", "sve", "bf16", "i8mm"]
    } else {
        &["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16"]
    };
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find(|line| line.starts_with("flags") || line.starts_with("Features"));
    let has = |name: &&str| line.is_some_and(|line| line.split_whitespace().any(|f| f == *name));
    NAMES.iter().map(|name| (*name, has(name))).collect()
}
