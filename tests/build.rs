//! Tells the XDP benchmark where the wrapper is that it measures with.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // From the build script of `steerage`, which compiles the kernel programs.
    let path = std::env::var("DEP_STEERAGE_EBPF_BENCH_OBJECT").unwrap_or_default();
    println!("cargo:rustc-env=STEERAGE_EBPF_BENCH_OBJECT={path}");
}
