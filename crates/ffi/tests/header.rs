//! `include/dqlite.h` is what cbindgen makes of the sources. `UPDATE_HEADER=1 cargo test -p ffi --test header` rewrites it.

use std::path::Path;

/// In the order of the header.
const SOURCES: [&str; 6] =
    ["types.rs", "version.rs", "node.rs", "settings.rs", "recover.rs", "server_api.rs"];

#[test]
fn header_is_up_to_date() {
    let ffi = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = ffi.join("../..");
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("cbindgen.toml can be read");
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(ffi.join("src").join(source));
    }
    let mut made = Vec::new();
    builder.generate().expect("the sources can be parsed").write(&mut made);
    let made = String::from_utf8(made).unwrap();

    let path = root.join("include/dqlite.h");
    if std::env::var_os("UPDATE_HEADER").is_some() {
        std::fs::create_dir_all(root.join("include")).unwrap();
        std::fs::write(&path, &made).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == made, "include/dqlite.h is not what the sources say; UPDATE_HEADER=1 rewrites it");
}

/// Every source that exports something is in `SOURCES`.
#[test]
fn no_source_is_forgotten() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in std::fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let exports = std::fs::read_to_string(&path).unwrap().contains("unsafe(no_mangle)");
        assert!(!exports || SOURCES.contains(&name), "{name}");
    }
}
