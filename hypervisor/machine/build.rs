//! Hands the link script to the linker, for the bare-metal target alone: on the host only the library is linked.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=link.ld");
    let bare_metal = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none");
    if bare_metal && let Ok(folder) = env::var("CARGO_MANIFEST_DIR") {
        println!("cargo::rustc-link-arg-bins=-T{folder}/link.ld");
        // The code is position-independent, the image is not: every address is the one in the script.
        println!("cargo::rustc-link-arg-bins=-no-pie");
        println!("cargo::rustc-link-arg-bins=--gc-sections");
        // What tells this build from all others: a hash of the image, which the control domain may ask for.
        println!("cargo::rustc-link-arg-bins=--build-id=sha1");
        // Segments are mapped page by page with exact rights; padding to 2 MiB would only grow the file.
        println!("cargo::rustc-link-arg-bins=-zmax-page-size=4096");
    }
}
