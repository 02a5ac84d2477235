//! `rounds doctor` at a site that is well, and at one that is not.

use tests::{federation::Federation, process, scans::SMALL};

#[test]
fn a_site_is_looked_at_hop_by_hop() {
    let federation = Federation::of_sites(12, &["east"], &SMALL, |_, _| String::new()).unwrap();
    let settings = federation.settings_file("east");
    let doctor = || process::run(&["doctor".as_ref(), settings.as_os_str()]);
    let said = doctor().unwrap();
    for line in [
        "ok    settings       site east",
        "ok    folder         ",
        "ok    data set       east: 5 cases",
        "ok    device         cpu, 1 threads",
        "ok    network        127.0.0.1:",
        "ok    NATS           connected",
        "ok    permissions    5 queues of this site, 0 tasks waiting",
        "ok    version        ",
        "ok    clock          ",
    ] {
        assert!(said.contains(line), "{line:?} is not in\n{said}");
    }

    std::fs::remove_file(federation.folder().join("Dataset012_east/dataset.json")).unwrap();
    let well = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, well.replace("token = \"", "token = \"no-")).unwrap();
    let said = doctor().unwrap_err().to_string();
    for line in [
        "FAIL  data set       east: ",
        "FAIL  NATS           ",
        "-> authorization",
        "2 of ",
    ] {
        assert!(said.contains(line), "{line:?} is not in\n{said}");
    }

    // Nobody listens on port 1.
    std::fs::write(
        &settings,
        well.replace("nats://127.0.0.1:", "nats://127.0.0.1:1,nats://127.0.0.1:1"),
    )
    .unwrap();
    let said = doctor().unwrap_err().to_string();
    assert!(
        said.contains("FAIL  network        127.0.0.1:1") && said.contains("-> refused"),
        "{said}"
    );
}
