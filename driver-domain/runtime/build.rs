//! Tells the build scripts of guests where the link script lies (`DEP_BULKHEAD_GUEST_LINK_SCRIPT`).

fn main() {
    println!(
        "cargo::metadata=LINK_SCRIPT={}/link.ld",
        env!("CARGO_MANIFEST_DIR")
    );
    println!("cargo::rerun-if-changed=build.rs");
}
