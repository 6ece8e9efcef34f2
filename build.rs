//! Makes LibTorch's folder the program's rpath, so that it runs without `LD_LIBRARY_PATH`.
//!
//! LibTorch itself is found by `torch-sys`, from `LIBTORCH` (the Makefile sets it). LibTorch's
//! own libraries carry an rpath for everything else that they need.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    if let Ok(dir) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{dir}");
        println!("cargo:rustc-env=CLIPMILL_LIBTORCH_LIB={dir}");
    }
}
