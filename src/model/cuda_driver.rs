//! What the NVIDIA driver says about itself and its devices.
//!
//! Asked through libcuda.so.1 before LibTorch is, because LibTorch gives one answer (no device)
//! for every cause. The driver's events, which `tch` does not give, are here too: what they mark
//! is `transfer`'s affair. No memory is taken on a device here.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::LazyLock;

use libloading::Library;

/// A device as the driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    pub name: String,
    /// All of its memory, in bytes.
    pub memory: u64,
}

type Status = c_int;
type Context = *mut c_void;
type Handle = *mut c_void;

/// A mark in the work that a device has been given.
pub(super) struct Event {
    driver: &'static Driver,
    handle: Handle,
    device: usize,
}

static DRIVER: LazyLock<Option<Driver>> = LazyLock::new(|| {
    let driver = Driver::open().ok()?;
    driver.devices().is_ok().then_some(driver)
});

impl Event {
    /// Behind all that the default stream, which is the one that LibTorch uses, has been given
    /// so far. `None` where the driver does not let us.
    pub fn record(device: usize) -> Option<Self> {
        let driver = DRIVER.as_ref()?;
        let recorded = driver.with_context(device, || {
            // CU_EVENT_DISABLE_TIMING, which costs, and CU_EVENT_BLOCKING_SYNC: the core that
            // waits is wanted for decoding.
            const FLAGS: c_uint = 2 | 1;
            let mut handle = ptr::null_mut();
            // SAFETY: the types are cuda.h's, the pointer lives through the call, and a null
            // stream is the default one.
            unsafe {
                let create: unsafe extern "C" fn(*mut Handle, c_uint) -> Status =
                    driver.function(b"cuEventCreate\0")?;
                let record: unsafe extern "C" fn(Handle, Handle) -> Status =
                    driver.function(b"cuEventRecord\0")?;
                driver.check(create(&mut handle, FLAGS))?;
                let event = Self { driver, handle, device };
                driver.check(record(event.handle, ptr::null_mut()))?;
                Ok(event)
            }
        });
        recorded.ok()
    }

    /// Until the device has passed it.
    ///
    /// # Errors
    /// What the driver says of the device's work, such as an illegal access.
    pub fn wait(&self) -> Result<(), String> {
        self.call(b"cuEventSynchronize\0")
    }

    fn call(&self, name: &[u8]) -> Result<(), String> {
        self.driver.with_context(self.device, || {
            // SAFETY: both functions that are called by this have this type, and the event is
            // live.
            unsafe {
                let call: unsafe extern "C" fn(Handle) -> Status = self.driver.function(name)?;
                self.driver.check(call(self.handle))
            }
        })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // An event that cannot be given back is a few bytes of the driver's.
        let _ = self.call(b"cuEventDestroy_v2\0");
    }
}

/// The opened driver library.
pub(super) struct Driver(Library);

impl Driver {
    /// Opens the library that the driver installs.
    ///
    /// # Errors
    /// What the loader said.
    pub fn open() -> Result<Self, String> {
        // SAFETY: the driver's library; opening it runs its constructors alone.
        unsafe { Library::new("libcuda.so.1") }.map(Self).map_err(|error| error.to_string())
    }

    /// The newest CUDA that the driver can serve, such as "13.0".
    pub fn cuda_version(&self) -> Option<String> {
        let mut version: c_int = 0;
        // SAFETY: the type is cuda.h's.
        let status = unsafe {
            let call =
                self.0.get::<unsafe extern "C" fn(*mut c_int) -> Status>(b"cuDriverGetVersion\0");
            call.ok()?(&mut version)
        };
        (status == 0).then(|| format!("{}.{}", version / 1000, version % 1000 / 10))
    }

    /// The devices that this process may use (`CUDA_VISIBLE_DEVICES`), in CUDA's order.
    ///
    /// # Errors
    /// What the driver said, or that it sees none.
    pub fn devices(&self) -> Result<Vec<Gpu>, String> {
        // SAFETY: the types are cuda.h's, and every pointer lives through its call.
        unsafe {
            let init: unsafe extern "C" fn(c_uint) -> Status = self.function(b"cuInit\0")?;
            let count: unsafe extern "C" fn(*mut c_int) -> Status =
                self.function(b"cuDeviceGetCount\0")?;
            self.check(init(0))?;
            let mut n = 0;
            self.check(count(&mut n))?;
            if n == 0 {
                return Err(no_device());
            }
            (0..n).map(|index| self.device(index)).collect()
        }
    }

    /// Bytes that are free on a device now.
    ///
    /// # Errors
    /// What the driver said.
    pub fn free_memory(&self, index: usize) -> Result<u64, String> {
        self.with_context(index, || {
            let (mut free, mut total) = (0_usize, 0_usize);
            // SAFETY: the type is cuda.h's, and the pointers live through the call.
            unsafe {
                let get: unsafe extern "C" fn(*mut usize, *mut usize) -> Status =
                    self.function(b"cuMemGetInfo_v2\0")?;
                self.check(get(&mut free, &mut total))?;
            }
            Ok(free as u64)
        })
    }

    /// Calls something with the context that LibTorch uses on a device: the primary one, which
    /// is kept from then on as LibTorch keeps it.
    fn with_context<T>(
        &self,
        index: usize,
        call: impl FnOnce() -> Result<T, String>,
    ) -> Result<T, String> {
        let (mut device, mut context) = (0, ptr::null_mut());
        // SAFETY: the types are cuda.h's, and the pointers live through their calls.
        unsafe {
            let get: unsafe extern "C" fn(*mut c_int, c_int) -> Status =
                self.function(b"cuDeviceGet\0")?;
            let retain: unsafe extern "C" fn(*mut Context, c_int) -> Status =
                self.function(b"cuDevicePrimaryCtxRetain\0")?;
            let push: unsafe extern "C" fn(Context) -> Status =
                self.function(b"cuCtxPushCurrent_v2\0")?;
            self.check(get(&mut device, c_int::try_from(index).unwrap_or(c_int::MAX)))?;
            self.check(retain(&mut context, device))?;
            self.check(push(context))?;
        }
        let result = call();
        // SAFETY: as above; what was pushed is popped.
        unsafe {
            let pop: unsafe extern "C" fn(*mut Context) -> Status =
                self.function(b"cuCtxPopCurrent_v2\0")?;
            self.check(pop(&mut context))?;
        }
        result
    }

    fn device(&self, index: c_int) -> Result<Gpu, String> {
        let mut device: c_int = 0;
        let mut name: [c_char; 256] = [0; 256];
        let mut memory = 0_usize;
        // SAFETY: the types are cuda.h's, and every pointer lives through its call. `name` keeps
        // its last zero, as one byte less than its size is offered.
        unsafe {
            let get: unsafe extern "C" fn(*mut c_int, c_int) -> Status =
                self.function(b"cuDeviceGet\0")?;
            let get_name: unsafe extern "C" fn(*mut c_char, c_int, c_int) -> Status =
                self.function(b"cuDeviceGetName\0")?;
            let get_memory: unsafe extern "C" fn(*mut usize, c_int) -> Status =
                self.function(b"cuDeviceTotalMem_v2\0")?;
            self.check(get(&mut device, index))?;
            self.check(get_name(name.as_mut_ptr(), name.len() as c_int - 1, device))?;
            self.check(get_memory(&mut memory, device))?;
            let name = CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned();
            Ok(Gpu { name, memory: memory as u64 })
        }
    }

    /// # Safety
    /// `F` has to be the type of the function of that name.
    unsafe fn function<F: Copy>(&self, name: &[u8]) -> Result<F, String> {
        // SAFETY: promised by the caller.
        let symbol = unsafe { self.0.get::<F>(name) };
        symbol.map(|symbol| *symbol).map_err(|error| error.to_string())
    }

    fn check(&self, status: Status) -> Result<(), String> {
        const NO_DEVICE: Status = 100;
        match status {
            0 => Ok(()),
            NO_DEVICE => Err(no_device()),
            _ => Err(format!("{} (error {status})", self.message(status).unwrap_or_default())),
        }
    }

    fn message(&self, status: Status) -> Option<String> {
        let mut message: *const c_char = ptr::null();
        // SAFETY: the type is cuda.h's; the driver gives a static string, or null.
        unsafe {
            let get: unsafe extern "C" fn(Status, *mut *const c_char) -> Status =
                self.function(b"cuGetErrorString\0").ok()?;
            get(status, &mut message);
            (!message.is_null()).then(|| CStr::from_ptr(message).to_string_lossy().into_owned())
        }
    }
}

fn no_device() -> String {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES");
    let hint = visible.map(|list| format!(" (CUDA_VISIBLE_DEVICES is \"{list}\")"));
    format!("it sees no GPU{}", hint.unwrap_or_default())
}

/// The version of the driver's package, such as "580.65.06".
pub(super) fn package_version() -> Option<String> {
    let version = std::fs::read_to_string("/sys/module/nvidia/version").ok()?;
    Some(version.trim().to_owned())
}
