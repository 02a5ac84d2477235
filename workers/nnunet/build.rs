//! Gives every program that links libtorch an rpath to it, so that it runs without LD_LIBRARY_PATH,
//! keeps the CUDA half linked where the libtorch has one (its kernels register themselves), and has all libraries use the
//! program's allocator, where it has one.

use std::{env, path::PathBuf};

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Some(libtorch) = env::var_os("LIBTORCH") else {
        return;
    };
    if env::var_os("CARGO_FEATURE_TORCH").is_none() {
        return;
    }
    let lib = PathBuf::from(libtorch).join("lib");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib");
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        // The linker exports what the libraries that it sees ask for; those that they load may ask for others.
        for name in [
            "malloc",
            "calloc",
            "realloc",
            "free",
            "posix_memalign",
            "aligned_alloc",
            "memalign",
            "valloc",
            "malloc_usable_size",
        ] {
            println!("cargo:rustc-link-arg=-Wl,--export-dynamic-symbol={name}");
        }
    }
    if lib.join("libtorch_cuda.so").exists() {
        println!("cargo:rustc-link-arg=-Wl,--no-as-needed,-ltorch_cuda,--as-needed");
    }
}
