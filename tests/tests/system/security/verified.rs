//! A job, verified by somebody who has its archive and the roster.

use tests::provisioned::Provisioned;

/// With the archive and the roster alone; and finds what was changed.
pub fn anybody_verifies_a_job(federation: &Provisioned, job: &str, last: &str) {
    let (archive, roster) = (federation.archive(), federation.hub().join("roster.json"));
    let verify = || {
        tests::process::run(&[
            "verify".as_ref(),
            job.as_ref(),
            "--archive".as_ref(),
            archive.as_os_str(),
            "--roster".as_ref(),
            roster.as_os_str(),
        ])
    };
    let said = verify().unwrap();
    for line in [
        "submitter   lead, with key U",
        "averages    2 made again from the signed updates, to the same bytes",
        &format!("checkpoint_final.pth holds the last average, {last}"),
    ] {
        assert!(said.contains(line), "{line:?} is not in\n{said}");
    }
    let updates = archive.join(job).join("updates");
    let update = std::fs::read_dir(updates)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let honest = std::fs::read(&update).unwrap();
    let mut changed = honest.clone();
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(&update, changed).unwrap();
    let error = verify().unwrap_err().to_string();
    assert!(error.contains("the signed one is"), "{error}");
    std::fs::write(&update, honest).unwrap();
}
