//! Link arguments of the shared library.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libdqlite.so.0");
    // Without it a missing symbol shows only when a host loads the library.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,defs");
}
