//! Links a program for Linux, at a fixed address, from code for bare metal: it needs nobody to load or relocate it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}
