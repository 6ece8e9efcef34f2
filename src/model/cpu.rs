//! What our own CPU kernels (`attention`, `norm`) run on: LibTorch's threads, vectors, elements.
//!
//! LibTorch divides its operations among OpenMP threads that wait, spinning, for the next one.
//! Threads of another pool would fight them for the cores, so what is computed here between two
//! operations is given to the same team, through the entry point that compilers call for
//! `#pragma omp parallel`. Where LibTorch's runtime lacks it, and on CPUs without AVX2, `Cpu::get`
//! is `None` and LibTorch's operations are used. No formula is here.

use std::ffi::{c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use half::bf16;
use libloading::os::unix::Library;
use tch::{Device, Kind, TchError, Tensor};

use super::device::Placement;

/// `void GOMP_parallel(void (*fn)(void *), void *data, unsigned num_threads, unsigned flags)` of
/// GCC's libgomp, which LLVM's and Intel's runtimes have too.
type Parallel = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, c_uint, c_uint);

/// LibTorch's CPU threads, and the widest vectors that this machine has.
#[derive(Clone, Copy)]
pub(super) struct Cpu {
    parallel: Parallel,
    pub vector: Vector,
}

/// What a kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vector {
    /// And FMA.
    Avx2,
    /// And its parts BW and VL.
    Avx512,
}

static FOUND: LazyLock<Option<Cpu>> = LazyLock::new(|| {
    let vector = Vector::best()?;
    // SAFETY: the type is that of libgomp's ABI, which has not changed since GCC 4.9. The
    // runtime is linked, so the symbol outlives the library handle.
    let parallel = unsafe { *Library::this().get(b"GOMP_parallel\0").ok()? };
    Some(Cpu { parallel, vector })
});

impl Vector {
    fn best() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        {
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl");
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            match (avx512, avx2) {
                (true, _) => Some(Vector::Avx512),
                (_, true) => Some(Vector::Avx2),
                _ => None,
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        None
    }
}

/// A function over `0..n` that the team's threads share.
struct Shared<'a, S> {
    n: usize,
    next: AtomicUsize,
    panicked: AtomicBool,
    state: &'a (dyn Fn() -> S + Sync),
    work: &'a (dyn Fn(&mut S, usize) + Sync),
}

impl Cpu {
    /// For a model of that placement, where this machine and this LibTorch have what it takes.
    pub fn get(placement: Placement) -> Option<Self> {
        let Placement { device, kind } = placement;
        let fits = device == Device::Cpu && matches!(kind, Kind::Float | Kind::BFloat16);
        if fits { *FOUND } else { None }
    }

    /// Calls `work` for every index below `n`, in any order, on any of the threads that
    /// operations of the calling thread use. Each thread makes a state first and hands it to
    /// all its calls.
    ///
    /// # Panics
    /// If `work` does, once every thread is done.
    pub fn for_each<S>(
        self,
        n: usize,
        state: impl Fn() -> S + Sync,
        work: impl Fn(&mut S, usize) + Sync,
    ) {
        let shared = Shared {
            n,
            next: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            state: &state,
            work: &work,
        };
        let data = (&raw const shared).cast_mut().cast();
        // SAFETY: `share::<S>` reads `data` as what it is, `shared` lives until the call returns,
        // which is after every thread has, and it is `Sync` in all that the threads touch.
        unsafe { (self.parallel)(share::<S>, data, 0, 0) };
        assert!(!shared.panicked.into_inner(), "a thread of the team panicked");
    }
}

extern "C" fn share<S>(data: *mut c_void) {
    // SAFETY: `for_each` passes a live `Shared<S>`.
    let shared = unsafe { &*data.cast::<Shared<'_, S>>() };
    // A panic must not unwind into C.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut state = (shared.state)();
        loop {
            let index = shared.next.fetch_add(1, Ordering::Relaxed);
            if index >= shared.n {
                break;
            }
            (shared.work)(&mut state, index);
        }
    }));
    if outcome.is_err() {
        shared.panicked.store(true, Ordering::Relaxed);
    }
}

/// A type that tensors have and f32 can be made of.
pub(super) trait Element: Copy + Sync + Send {
    const KIND: Kind;
    fn to_f32(self) -> f32;
    fn from_f32(value: f32) -> Self;
}

impl Element for f32 {
    const KIND: Kind = Kind::Float;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Element for bf16 {
    const KIND: Kind = Kind::BFloat16;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// To the nearest, ties to even. Written so that the compiler makes vectors of it.
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        bf16::from_bits(if value.is_nan() { 0x7fc0 } else { rounded as u16 })
    }
}

/// A contiguous matrix `[rows, columns]` on the CPU as its elements, and its columns.
///
/// # Panics
/// If the tensor is of another type or elsewhere.
pub(super) fn elements<T: Element>(tensor: &Tensor) -> Result<(&[T], usize), TchError> {
    let (rows, columns) = tensor.size2()?;
    assert_eq!(tensor.f_kind()?, T::KIND, "the type that the kernel was called for");
    assert!(tensor.is_contiguous() && tensor.device() == Device::Cpu);
    if rows * columns == 0 {
        return Ok((&[], columns as usize));
    }
    let pointer = tensor.data_ptr().cast::<T>();
    // SAFETY: a contiguous CPU tensor of that type and shape, borrowed as long as the slice.
    let data = unsafe { std::slice::from_raw_parts(pointer, (rows * columns) as usize) };
    Ok((data, columns as usize))
}

/// Elements that threads write, each its own.
pub(super) struct Shares<T>(*mut T, usize);

// SAFETY: threads only get at it through `part`, whose callers keep out of each other's way.
unsafe impl<T: Element> Sync for Shares<T> {}

impl<T: Element> Shares<T> {
    /// The elements of a matrix as `elements` takes it, which nobody else uses meanwhile.
    pub fn of(tensor: &mut Tensor) -> Result<Self, TchError> {
        let n = elements::<T>(tensor)?.0.len();
        Ok(Self(tensor.data_ptr().cast(), n))
    }

    /// `n` elements from `first` on.
    ///
    /// # Safety
    /// The tensor is alive, and no other part that overlaps is in use.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "the caller promises that parts do not overlap")]
    pub unsafe fn part(&self, first: usize, n: usize) -> &mut [T] {
        assert!(first + n <= self.1, "within the tensor");
        // SAFETY: within the tensor, and the caller's alone.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(first), n) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const PLACEMENT: Placement = Placement { device: Device::Cpu, kind: Kind::Float };

    #[test]
    fn bf16_is_rounded_as_the_crate_half_does() {
        for bits in (0..=u32::MAX).step_by(9973) {
            let value = f32::from_bits(bits);
            let (ours, theirs) = (<bf16 as Element>::from_f32(value), bf16::from_f32(value));
            assert!(ours == theirs || (ours.is_nan() && theirs.is_nan()), "{value:e}");
        }
    }

    #[test]
    fn every_index_is_done_once() {
        let Some(cpu) = Cpu::get(PLACEMENT) else { return };
        let seen = Mutex::new(Vec::new());
        cpu.for_each(1000, || (), |(), index| seen.lock().expect("no panic").push(index));
        let mut seen = seen.into_inner().expect("no panic");
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..1000));
    }

    #[test]
    fn a_panic_comes_out_at_the_caller() {
        let Some(cpu) = Cpu::get(PLACEMENT) else { return };
        let caught = catch_unwind(|| cpu.for_each(8, || (), |(), index| assert!(index != 5)));
        assert!(caught.is_err());
    }
}
