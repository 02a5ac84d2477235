//! The rules that a compiler does not know.

use std::{fs, path::Path, process::Command};

use pipeline::exit::Kind;
use tests::repository;

/// Lines that a person reads in one sitting.
const LONGEST: usize = 400;

/// The repository's files, relative to its root.
fn tracked() -> Vec<String> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(repository())
        .output()
        .unwrap();
    assert!(output.status.success(), "git ls-files failed");
    let listed = String::from_utf8(output.stdout).unwrap();
    listed
        .lines()
        .filter(|file| repository().join(file).is_file())
        .map(str::to_owned)
        .collect()
}

fn text(file: &str) -> Option<String> {
    fs::read_to_string(repository().join(file)).ok()
}

/// Files whose line contains one of `banned`, as `file:line: what`.
fn lines_with(banned: &[String], chosen: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for file in tracked().iter().filter(|file| chosen(file)) {
        for (number, line) in text(file).unwrap_or_default().lines().enumerate() {
            for word in banned.iter().filter(|word| line.contains(word.as_str())) {
                found.push(format!("{file}:{}: {word}", number + 1));
            }
        }
    }
    found
}

#[test]
fn nothing_is_left_unwritten() {
    // In pieces, so that this file does not name them itself.
    let banned = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!("));
    let found = lines_with(&banned, |file| file.ends_with(".rs"));
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn no_path_of_some_machine_is_named() {
    let banned = ["work", "home", "root", "Users"].map(|top| format!("\"/{top}/"));
    let found = lines_with(&banned, |file| !file.ends_with(".lock"));
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn files_are_read_in_one_sitting() {
    let listed = text("tests/long-files.txt").unwrap();
    let allowed: Vec<&str> = listed
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .collect();
    let mut long = Vec::new();
    let files = tracked();
    for file in files
        .iter()
        .filter(|file| file.ends_with(".rs") || file.ends_with(".py"))
    {
        let lines = text(file).unwrap_or_default().lines().count();
        if lines > LONGEST && !allowed.contains(&file.as_str()) {
            long.push(format!("{file}: {lines} lines"));
        }
    }
    assert!(
        long.is_empty(),
        "split them, or list them in tests/long-files.txt: {long:#?}"
    );
    for file in allowed {
        assert!(
            files.iter().any(|tracked| tracked == file),
            "tests/long-files.txt: {file} is gone"
        );
    }
}

#[test]
fn modules_are_named_for_what_they_hold() {
    let banned = ["util", "utils", "common", "manager", "helper", "helpers", "misc"];
    let named: Vec<String> = tracked()
        .into_iter()
        .filter(|file| {
            Path::new(file).components().any(|part| {
                let part = part.as_os_str().to_string_lossy();
                let stem = part.split('.').next().unwrap_or_default();
                stem.split(['_', '-']).any(|word| banned.contains(&word))
            })
        })
        .collect();
    assert!(named.is_empty(), "{named:#?}");
}

#[test]
fn every_crate_takes_the_workspace_lints() {
    // Among them missing_docs, which `just lint` turns into an error.
    for file in tracked().iter().filter(|file| file.ends_with("/Cargo.toml")) {
        let manifest = text(file).unwrap();
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{file}: without the workspace's lints"
        );
    }
}

#[test]
fn what_is_published_passes_the_exit() {
    // In pieces, so that this file does not name them itself.
    let banned = [
        ".publish",
        ".send_publish",
        ".publish_with_headers",
        ".send_request",
    ]
    .map(|name| format!("{name}("));
    let found = lines_with(&banned, |file| {
        file.starts_with("workers/") && file.contains("/src/") && file != "workers/pipeline/src/publish.rs"
    });
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_algorithm_knows_no_network_and_no_clock() {
    let banned = [
        "async_nats",
        "tokio",
        "pipeline::",
        "std::env",
        "SystemTime::now",
        "rand::rng(",
    ]
    .map(str::to_owned);
    let found = lines_with(&banned, |file| {
        file.starts_with("workers/nnunet/src/") && !file.ends_with("tests.rs")
    });
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_table_of_kinds_is_the_codes() {
    let text = fs::read_to_string(repository().join("deploy/exposure.md")).unwrap();
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<String> = Kind::ALL
        .into_iter()
        .map(|kind| format!("| `{kind}` | {} | {} |", kind.holds(), kind.when()))
        .collect();
    assert_eq!(rows[..expected.len()], expected);
}
