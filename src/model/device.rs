//! Where a model runs and in which precision: what the pipeline asks for against what is here.
//!
//! LibTorch's CUDA half is a library of its own that nothing links: the linker drops it from
//! the program (`--as-needed`), and then every GPU is invisible. It is opened here, before the
//! first CUDA call, and only when a CUDA device is wanted and a driver is there, because that
//! takes seconds. One program so serves LibTorch with CUDA and without.

use std::fmt;
use std::path::PathBuf;
use std::sync::LazyLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use tch::{Cuda, Device, Kind};

use super::cuda_driver::Driver;
use crate::error::Error;
use crate::spec::{DeviceSpec, PrecisionSpec};

const CUDA_LIBRARY: &str = "libtorch_cuda.so";

/// A device and the type in which it multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    pub device: Device,
    /// `Float`, `BFloat16` or `Half`.
    pub kind: Kind,
}

impl Placement {
    /// The precision as a pipeline file writes it.
    pub fn precision(&self) -> &'static str {
        match self.kind {
            Kind::Half => "f16",
            Kind::BFloat16 => "bf16",
            _ => "f32",
        }
    }

    /// The device as a pipeline file writes it.
    pub fn device_name(&self) -> String {
        match self.device {
            Device::Cuda(index) => format!("cuda:{index}"),
            _ => "cpu".to_owned(),
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.device_name(), self.precision())
    }
}

/// A placement and why it is that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The first device, or the only one.
    pub placement: Placement,
    /// Every device; more than one where the pipeline asks for all.
    pub devices: Vec<Device>,
    /// Why `auto` chose the device; `None` where the pipeline did.
    pub device_reason: Option<String>,
    /// Why `auto` chose the precision; `None` where the pipeline did.
    pub precision_reason: Option<String>,
}

impl Choice {
    /// One a device.
    pub fn placements(&self) -> Vec<Placement> {
        let kind = self.placement.kind;
        self.devices.iter().map(|&device| Placement { device, kind }).collect()
    }
}

/// Finds the device and the precision that a run takes.
///
/// # Errors
/// `Device` when a CUDA device is asked for and cannot be used, with the cause and the cure;
/// `Setting` for f16 on a CPU.
pub fn resolve(device: DeviceSpec, precision: PrecisionSpec) -> Result<Choice, Error> {
    let mut devices = Vec::new();
    let (device, device_reason) = match device {
        DeviceSpec::Cpu => (Device::Cpu, None),
        DeviceSpec::Cuda(index) => (cuda_device(index)?, None),
        DeviceSpec::CudaAll => {
            let first = cuda_device(0)?;
            devices = (0..cuda_devices().unwrap_or(1)).map(Device::Cuda).collect();
            (first, None)
        }
        DeviceSpec::Auto => match cuda_devices() {
            Ok(_) => (Device::Cuda(0), Some("the first CUDA device".into())),
            Err(problem) => (Device::Cpu, Some(format!("no CUDA device: {problem}"))),
        },
    };
    if devices.is_empty() {
        devices.push(device);
    }
    let (kind, precision_reason) = match precision {
        PrecisionSpec::F32 => (Kind::Float, None),
        PrecisionSpec::Bf16 => (Kind::BFloat16, None),
        PrecisionSpec::F16 if device == Device::Cpu => return Err(f16_on_cpu()),
        PrecisionSpec::F16 => (Kind::Half, None),
        PrecisionSpec::Auto => {
            let (kind, reason) = auto_precision(device);
            (kind, Some(reason.into()))
        }
    };
    let placement = Placement { device, kind };
    Ok(Choice { placement, devices, device_reason, precision_reason })
}

fn auto_precision(device: Device) -> (Kind, &'static str) {
    match device {
        Device::Cpu if cpu_multiplies_bf16() => (Kind::BFloat16, "this CPU multiplies it natively"),
        Device::Cpu => (Kind::Float, "this CPU does not multiply bf16 natively"),
        _ => (Kind::Half, "the fast one on CUDA"),
    }
}

fn f16_on_cpu() -> Error {
    Error::Setting {
        key: "precision".into(),
        problem: "f16 on a CPU is hundreds of times slower than f32: use \"auto\", \"bf16\" or \
                  \"f32\", or a CUDA device"
            .into(),
    }
}

fn cuda_device(index: usize) -> Result<Device, Error> {
    let refused = |problem| Error::Device { device: format!("cuda:{index}"), problem };
    match cuda_devices() {
        Ok(n) if index < n => Ok(Device::Cuda(index)),
        Ok(n) => Err(refused(format!("this machine has {n}, counted from cuda:0"))),
        Err(problem) => Err(refused(problem.to_string())),
    }
}

/// Sets how many threads LibTorch takes for one operation on a CPU, for the calling thread's work.
pub fn set_threads(threads: usize) {
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
}

/// Why there is no CUDA device that can be used. Displayed with the cure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CudaProblem {
    /// The driver's library cannot be opened.
    NoDriver(String),
    /// The driver is there and refuses to start, or sees no GPU.
    Driver(String),
    /// A LibTorch without its CUDA half.
    NoLibrary(PathBuf),
    /// The CUDA half is there and cannot be opened.
    Library { path: PathBuf, cause: String },
    /// Everything is there, and LibTorch counts no device.
    Unusable,
}

impl fmt::Display for CudaProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDriver(cause) => write!(
                f,
                "there is no NVIDIA driver ({cause}); install one, or give the container the \
                 GPUs (docker run --gpus all)"
            ),
            Self::Driver(cause) => write!(f, "the NVIDIA driver says: {cause}"),
            Self::NoLibrary(path) => write!(
                f,
                "this LibTorch is for CPUs only ({} does not exist); build with a LibTorch for \
                 CUDA",
                path.display()
            ),
            Self::Library { path, cause } => write!(
                f,
                "{} cannot be opened ({cause}); install that LibTorch whole",
                path.display()
            ),
            Self::Unusable => write!(
                f,
                "LibTorch counts no device though the driver does; the driver is probably older \
                 than LibTorch's CUDA needs: update it"
            ),
        }
    }
}

/// How many CUDA devices LibTorch can use. Found once: opening the library takes seconds.
///
/// # Errors
/// Why there are none.
pub fn cuda_devices() -> Result<usize, CudaProblem> {
    static FOUND: LazyLock<Result<usize, CudaProblem>> = LazyLock::new(find_cuda);
    FOUND.clone()
}

/// Bytes that are free on a CUDA device now, where the driver says.
pub(super) fn free_memory(index: usize) -> Option<u64> {
    Driver::open().ok()?.free_memory(index).ok()
}

fn find_cuda() -> Result<usize, CudaProblem> {
    let driver = Driver::open().map_err(CudaProblem::NoDriver)?;
    driver.devices().map_err(CudaProblem::Driver)?;
    open_cuda_library()?;
    match usize::try_from(Cuda::device_count()) {
        Ok(n) if n > 0 => Ok(n),
        _ => Err(CudaProblem::Unusable),
    }
}

fn open_cuda_library() -> Result<(), CudaProblem> {
    let path = cuda_library();
    if !path.exists() {
        return Err(CudaProblem::NoLibrary(path));
    }
    // SAFETY: this is LibTorch's own library, from the folder of the LibTorch in use; what it
    // runs on opening is the registration of its kernels.
    match unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) } {
        Ok(library) => {
            // LibTorch keeps pointers into it for the life of the program.
            std::mem::forget(library);
            Ok(())
        }
        Err(error) => Err(CudaProblem::Library { path, cause: error.to_string() }),
    }
}

/// Where LibTorch's CUDA half is, if it is anywhere.
pub(super) fn cuda_library() -> PathBuf {
    libtorch_dir().unwrap_or_default().join(CUDA_LIBRARY)
}

/// The folder of the LibTorch that this process runs on, else of the one it was built with.
pub(super) fn libtorch_dir() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let paths = maps.lines().filter_map(|line| line.find('/').map(|start| &line[start..]));
    let mut loaded = paths.filter_map(|path| path.strip_suffix("/libtorch_cpu.so"));
    loaded.next().or(option_env!("CLIPMILL_LIBTORCH_LIB")).map(PathBuf::from)
}

/// Whether bf16 products are faster than f32 ones on this CPU, and not emulated.
pub(super) fn cpu_multiplies_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512bf16");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("bf16");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}
