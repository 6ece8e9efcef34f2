//! oneDNN's fused linear layer, which LibTorch carries and its C++ and `tch` interfaces hide.
//!
//! `f_linear` in f32 goes to MKL, repacks the weights on every call and leaves the activation
//! to a pass of its own over memory. `mkldnn::_linear_pointwise`, which TorchInductor generates
//! calls to, takes packed weights and does both in one pass: see
//! tests/bench/README.md for what that gains. It is reached through LibTorch's C shim
//! (torch/csrc/inductor/aoti_torch/c/shim_cpu.h and torch/csrc/stable/c/shim.h, whose
//! functions are `extern "C"` and versioned). Where a build lacks them, `OneDnn::get` is `None`
//! and the caller computes the plain way. Which layers use it is not decided here.

use std::ffi::{CStr, c_char};
use std::mem::ManuallyDrop;
use std::ptr;
use std::sync::LazyLock;

use libloading::os::unix::Library;
use tch::{TchError, Tensor};

/// What oneDNN applies to a product before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Epilogue {
    Nothing,
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * (1 + erf(x / sqrt 2)) / 2`.
    Gelu,
    /// `x * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`.
    GeluTanh,
}

/// `AtenTensorHandle`: a pointer to an `at::Tensor`, as `tch::Tensor` holds one.
type Handle = *mut torch_sys::C_tensor;
type Status = i32;
type Unary = unsafe extern "C" fn(
    Handle,
    Handle,
    *const Handle,
    *const c_char,
    *const *const f64,
    i64,
    *const *const c_char,
    *mut Handle,
) -> Status;
type Call = unsafe extern "C" fn(*const c_char, *const c_char, *mut u64) -> Status;

/// The functions, once found.
pub(super) struct OneDnn {
    unary: Unary,
    call: Call,
}

static FOUND: LazyLock<Option<OneDnn>> = LazyLock::new(OneDnn::find);

impl OneDnn {
    /// The functions, where this LibTorch has them.
    pub(super) fn get() -> Option<&'static Self> {
        FOUND.as_ref()
    }

    fn find() -> Option<Self> {
        // Measured on x86_64 alone; elsewhere oneDNN hands products to other libraries.
        if !cfg!(target_arch = "x86_64") || !tch::utils::has_mkldnn() {
            return None;
        }
        let program = Library::this();
        // SAFETY: the types are those of LibTorch 2.11's shim.h and shim_cpu.h, and tch 0.24
        // binds that version alone. LibTorch is linked, so the symbols outlive `program`.
        unsafe {
            Some(Self {
                unary: *program.get(b"aoti_torch_cpu__linear_pointwise\0").ok()?,
                call: *program.get(b"aoti_torch_call_dispatcher\0").ok()?,
            })
        }
    }

    /// Lays weights `[out, in]` out as oneDNN's product reads them. The result is opaque.
    pub(super) fn pack(&self, weight: Tensor) -> Result<Tensor, TchError> {
        const NAME: &CStr = c"mkldnn::_reorder_linear_weight";
        // The callee takes the handle over. The second argument is an absent batch size.
        let mut stack = [ManuallyDrop::new(weight).as_ptr() as u64, 0];
        // SAFETY: the stack holds the operator's two arguments and has room for its result, in
        // the representation that stableivalue_conversions.h gives.
        let status = unsafe { (self.call)(NAME.as_ptr(), c"".as_ptr(), stack.as_mut_ptr()) };
        take(status, stack[0] as Handle)
    }

    /// `epilogue(x weight^T + bias)` for `x` of shape `[rows, in]`, contiguous, and packed
    /// weights.
    pub(super) fn linear(
        &self,
        x: &Tensor,
        (weight, bias): (&Tensor, &Tensor),
        epilogue: Epilogue,
    ) -> Result<Tensor, TchError> {
        let (name, algorithm) = match epilogue {
            Epilogue::Nothing => (c"none", ptr::null()),
            Epilogue::Silu => (c"swish", ptr::null()),
            Epilogue::Gelu => (c"gelu", &c"none".as_ptr() as *const _),
            Epilogue::GeluTanh => (c"gelu", &c"tanh".as_ptr() as *const _),
        };
        let mut out = ptr::null_mut();
        // SAFETY: the handles live through the call; no scalars are passed, and their count is 0.
        let status = unsafe {
            (self.unary)(
                handle(x),
                handle(weight),
                &handle(bias),
                name.as_ptr(),
                ptr::null(),
                0,
                algorithm,
                &mut out,
            )
        };
        take(status, out)
    }
}

/// The shim does not write through the handles of inputs.
fn handle(tensor: &Tensor) -> Handle {
    tensor.as_ptr().cast_mut()
}

/// A new handle as a tensor. On failure the shim has printed why to standard error.
fn take(status: Status, handle: Handle) -> Result<Tensor, TchError> {
    if status != 0 || handle.is_null() {
        return Err(TchError::Torch("oneDNN's linear layer failed; the reason is above".into()));
    }
    // SAFETY: the shim returns a new `at::Tensor` that the caller owns, as tch's do.
    Ok(unsafe { Tensor::from_ptr(handle) })
}
