use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use pipeline::signing::Signer;

use super::*;
use crate::settings::{OrchestratorSettings, SiteSettings, SubmitterSettings};

fn plan(encrypted: bool) -> Plan {
    Plan {
        name: "brain".into(),
        hosts: vec!["hub.example.org".into(), "10.0.0.4".into()],
        listen: "0.0.0.0".into(),
        port: 4222,
        leaf_port: 7422,
        websocket_port: Some(443),
        ingress: None,
        monitor: None,
        store: "data".into(),
        encrypted,
        admin: String::new(),
    }
}

/// Runs `nats-server -t` in a folder, as it would be started there.
fn accepts(folder: &Path, conf: &str, seed: &str) {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin/nats-server");
    let program = if own.is_file() { own } else { "nats-server".into() };
    let output = Command::new(program)
        .args(["-t", "-c", conf])
        .current_dir(folder)
        .env("ROUNDS_SEED", seed)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", folder.display());
}

#[test]
fn the_generated_files_are_taken_by_those_who_read_them() {
    let scratch = tempfile::tempdir().unwrap();
    for encrypted in [false, true] {
        let folder = scratch.path().join(format!("hub-{encrypted}"));
        let mut hub = Hub::create(&folder, plan(encrypted)).unwrap();
        accepts(&folder.join("nats"), "nats.conf", "");
        let a = hub.add(Kind::Site, "a", None).unwrap();
        let seed = read(&a.join("site.nk")).unwrap();
        accepts(&a, "nats-leaf.conf", seed.trim());
        accepts(&a, "nats-leaf-https.conf", seed.trim());
        let (public, _) = new_key().unwrap();
        let b = hub.add(Kind::Site, "b_1-x", Some(&public)).unwrap();
        assert!(!b.join("site.nk").exists(), "its seed is its own");
        let lead = hub.add(Kind::Submitter, "lead", None).unwrap();
        accepts(&folder.join("nats"), "nats.conf", "");

        let settings = SiteSettings::read(&a.join("site.toml")).unwrap();
        let access = settings.nats.access().unwrap();
        access.check().unwrap();
        assert_eq!(access.nkey.as_deref(), Some(seed.trim()));
        let identity = settings.nats.identity(settings.roster.as_deref()).unwrap();
        let signer = Signer::read(&a.join("site.nk")).unwrap();
        assert_eq!(hub.roster.sites["a"].current, [signer.public()]);
        // Every copy of the roster knows everybody.
        assert_eq!(*identity.roster().unwrap(), hub.roster);
        let submitter = SubmitterSettings::read(&lead.join("submitter.toml")).unwrap();
        submitter.nats.access().unwrap().check().unwrap();
        let orchestrator = folder.join("orchestrator/orchestrator.toml");
        let orchestrator = OrchestratorSettings::read(&orchestrator).unwrap();
        assert!(orchestrator.nats.api_prefix.is_none(), "the streams are its own");
        orchestrator.nats.access().unwrap().check().unwrap();
        hub.admin(None).unwrap().check().unwrap();
    }
}

#[test]
fn secrets_are_their_owners_only() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("hub");
    let mut hub = Hub::create(&folder, plan(true)).unwrap();
    hub.add(Kind::Site, "a", None).unwrap();
    hub.add(Kind::Submitter, "lead", None).unwrap();
    let mut secret = 0;
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = read(&path).unwrap();
            let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
            let seed = words.any(|word| word.starts_with("SU") && word.len() == 58);
            let holds = seed || text.contains("PRIVATE KEY");
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, if holds { 0o600 } else { 0o644 }, "{}", path.display());
            secret += usize::from(holds);
        }
    }
    // Of the authority, server, admin, orchestrator, site and submitter; and four seeds, and that of the storage.
    assert_eq!(secret, 6 + 4 + 1);
}

#[test]
fn a_member_is_let_in_once_gets_new_keys_and_is_put_out() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("hub");
    let mut hub = Hub::create(&folder, plan(false)).unwrap();
    let error = Hub::create(&folder, plan(false)).err().unwrap().to_string();
    assert!(
        error.contains("federation.toml") && error.contains("already"),
        "{error}"
    );
    hub.add(Kind::Site, "a", None).unwrap();
    for (kind, name, said) in [
        (Kind::Site, "a", "site a: is in roster.json already"),
        (Kind::Submitter, "a", "site a: is in roster.json already"),
        (Kind::Site, "orchestrator", "reserved"),
        (Kind::Site, "a.b", "a.b"),
        (Kind::Submitter, "", "submitter"),
    ] {
        let error = format!("{:#}", hub.add(kind, name, None).unwrap_err());
        assert!(error.contains(said), "{name}: {error}");
    }
    let first = hub.roster.sites["a"].current[0].clone();
    let error = hub.add(Kind::Site, "b", Some(&first)).unwrap_err().to_string();
    assert!(error.contains("is or was a key of a"), "{error}");
    for wrong in [
        "",
        "U",
        "SUAB",
        "ABJHLOVMPA4CI6R5KLNGOB4GSLNIY7IOUPAJC4YFNDLQVIOBYQGUWVLA",
    ] {
        assert!(hub.add(Kind::Site, "b", Some(wrong)).is_err(), "{wrong}");
    }

    let settings = folder.join("sites/a/site.toml");
    fs::write(&settings, "# edited\n").unwrap();
    hub.rotate("a", None).unwrap();
    assert_eq!(read(&settings).unwrap(), "# edited\n");
    let hub_again = Hub::open(&folder).unwrap();
    let keys = &hub_again.roster.sites["a"];
    assert_eq!(keys.former, std::slice::from_ref(&first));
    let members = read(&folder.join("nats/members.conf")).unwrap();
    assert!(members.contains(&keys.current[0]) && !members.contains(&first));
    assert_eq!(
        read(&folder.join("sites/a/site.nk"))
            .map(|seed| Signer::of_seed(&seed).unwrap().public().to_owned())
            .unwrap(),
        keys.current[0]
    );

    let second = keys.current[0].clone();
    hub.revoke("a").unwrap();
    let error = hub.revoke("a").unwrap_err().to_string();
    assert!(error.contains("no key"), "{error}");
    let members = read(&folder.join("nats/members.conf")).unwrap();
    assert!(
        !members.contains(&second) && !members.contains("_infer"),
        "{members}"
    );
    accepts(&folder.join("nats"), "nats.conf", "");
    assert_eq!(
        Hub::open(&folder).unwrap().roster.sites["a"].former,
        [first, second]
    );
    assert!(hub.accounts().is_empty());
    let error = hub.rotate("b", None).unwrap_err().to_string();
    assert!(error.contains("no member"), "{error}");
    hub.rotate("orchestrator", None).unwrap();
    assert_eq!(hub.roster.orchestrators.former.len(), 1);
}

#[test]
fn a_certificate_is_renewed_without_a_new_key() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("hub");
    let mut hub = Hub::create(&folder, plan(false)).unwrap();
    let site = hub.add(Kind::Site, "a", None).unwrap();
    let files = [
        site.join("site.pem"),
        folder.join("nats/server.pem"),
        folder.join("admin/admin.pem"),
    ];
    let before = files.each_ref().map(|file| read(file).unwrap());
    let seed = read(&site.join("site.nk")).unwrap();
    for name in ["a", "hub", "admin"] {
        hub.renew(name).unwrap();
    }
    let after = files.each_ref().map(|file| read(file).unwrap());
    for (before, after) in before.iter().zip(&after) {
        assert_ne!(before, after);
    }
    assert_eq!(read(&site.join("site.nk")).unwrap(), seed);
    assert!(hub.list().iter().all(|member| member.certificate_end.is_some()));
    assert!(hub.renew("nobody").is_err());
}

#[test]
fn a_key_of_ones_own_is_never_written_over() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("own.nk");
    let public = write_key(&file).unwrap();
    assert_eq!(Signer::read(&file).unwrap().public(), public);
    let error = write_key(&file).unwrap_err().to_string();
    assert!(error.contains("own.nk") && error.contains("already"), "{error}");
    assert!(!files::is_open(&file).unwrap());
}
