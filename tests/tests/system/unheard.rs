//! A program whose log nobody reads any more: what collected it has died, and the pipe is broken.

use tests::{federation::PATIENCE, process::RoundsProcess, scans::SMALL};

#[test]
fn a_log_without_a_reader_ends_no_work() {
    let scratch = tempfile::tempdir().unwrap();
    let (home, data) = (
        scratch.path().join("home"),
        scratch.path().join("Dataset007_Small"),
    );
    SMALL.write(&data).unwrap();
    let site = format!("a={}", data.display());
    let arguments = ["up", "--home", home.to_str().unwrap(), "--site", &site];
    let log = scratch.path().join("up.log");
    let mut up = RoundsProcess::start_unheard(&arguments, &log, "orchestrator ready", PATIENCE).unwrap();
    up.wait_for("rounds is up", PATIENCE).unwrap();
    up.signal(libc::SIGTERM).unwrap();
    let status = up.wait(PATIENCE).unwrap();
    assert!(status.success(), "{status}\n{}", up.said());
}
