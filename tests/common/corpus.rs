//! Finds the shared corpus of wire data, or the project's own smaller one.

use std::path::PathBuf;

use serde_json::Value;

/// Directory of the shared corpus: `METALBOND_CORPUS`, else `../shared/wire` beside this package.
fn shared() -> PathBuf {
    match std::env::var_os("METALBOND_CORPUS") {
        Some(directory) => directory.into(),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/wire"),
    }
}

fn own() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

/// A file of the shared corpus, or `own_name` of the own one.
pub fn file(name: &str, own_name: &str) -> Value {
    let path = shared().join(name);
    if path.is_file() {
        return parse(&path);
    }
    eprintln!("NOTE: no shared corpus at {}: testing with the small own one only", path.display());
    parse(&own().join(own_name))
}

/// All files of a folder of the corpus, with their names, sorted.
pub fn folder(name: &str) -> Vec<(String, Value)> {
    let mut path = shared().join(name);
    if !path.is_dir() {
        eprintln!(
            "NOTE: no shared corpus at {}: testing with the small own one only",
            path.display()
        );
        path = own().join(name);
    }
    let mut files: Vec<_> = std::fs::read_dir(&path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), parse(&path)))
        .collect();
    files.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(!files.is_empty(), "{} is empty", path.display());
    files
}

fn parse(path: &std::path::Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
