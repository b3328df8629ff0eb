//! The build script of every guest that runs on the runtime: how to link its image.
//!
//! Link arguments of a program must come from its own package's build script, so each guest names this
//! file in its manifest (`build = ".../driver-domain/runtime/link.rs"`) instead of having a copy. Programs
//! for another target than bare metal (a type check on the host) are left alone.

fn main() {
    println!("cargo::rerun-if-env-changed=DEP_BULKHEAD_GUEST_LINK_SCRIPT");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let Ok(script) = std::env::var("DEP_BULKHEAD_GUEST_LINK_SCRIPT") else {
        panic!("a guest depends on bulkhead-runtime, which names the link script");
    };
    println!("cargo::rerun-if-changed={script}");
    println!("cargo::rustc-link-arg-bins=-T{script}");
    println!("cargo::rustc-link-arg-bins=-no-pie");
}
