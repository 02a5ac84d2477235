use std::time::SystemTime;

use super::*;
use schemas::{
    names::Phase,
    task::{Failure, TaskKey},
};

fn signer() -> Signer {
    Signer::of_seed(&KeyPair::new_user().seed().unwrap()).unwrap()
}

fn keys(signer: &Signer) -> Keys {
    Keys {
        current: vec![signer.public().to_owned()],
        former: Vec::new(),
    }
}

fn result(site: &str) -> TaskResult {
    TaskResult {
        key: TaskKey {
            site: site.to_owned(),
            phase: Phase::TrainRound,
            job: "j".to_owned(),
            round: 1,
            pass: 0,
            shard: 0,
            attempt: 1,
        },
        outcome: Outcome::Failed {
            failure: Failure::fatal("nan-weights", "layer 1 has NaN"),
        },
        made: None,
        signature: None,
    }
}

#[test]
fn a_result_is_believed_from_its_site_only() {
    let (a, b, orchestrator) = (signer(), signer(), signer());
    let mut roster = Roster {
        sites: [("a".to_owned(), keys(&a)), ("b".to_owned(), keys(&b))].into(),
        orchestrators: keys(&orchestrator),
        ..Roster::default()
    };
    let mut signed = result("a");
    let error = check_result(&roster, &signed).unwrap_err();
    assert!(error.contains("not signed") && error.contains('a'), "{error}");
    a.sign_result(&mut signed).unwrap();
    check_result(&roster, &signed).unwrap();
    // Over the wire and back.
    let bytes = serde_json::to_vec(&signed).unwrap();
    check_result(&roster, &schemas::parse(&bytes).unwrap()).unwrap();

    let mut changed = signed.clone();
    changed.key.round = 2;
    check_result(&roster, &changed).unwrap_err();
    let mut forged = result("a");
    b.sign_result(&mut forged).unwrap();
    check_result(&roster, &forged).unwrap_err();
    let mut unknown = result("c");
    b.sign_result(&mut unknown).unwrap();
    check_result(&roster, &unknown).unwrap_err();
    // Only an orchestrator closes a task.
    let mut closed = result("a");
    closed.outcome = Outcome::Closed {
        reason: "late".to_owned(),
        resumes: 0,
    };
    a.sign_result(&mut closed).unwrap();
    check_result(&roster, &closed).unwrap_err();
    orchestrator.sign_result(&mut closed).unwrap();
    check_result(&roster, &closed).unwrap();
    // What a key signed before it was replaced stands.
    roster.sites.insert(
        "a".to_owned(),
        Keys {
            current: vec![signer().public().to_owned()],
            former: vec![a.public().to_owned()],
        },
    );
    check_result(&roster, &signed).unwrap();
}

#[test]
fn a_job_is_taken_from_a_submitter_who_signed_it() {
    let (lead, other) = (signer(), signer());
    let mut roster = Roster {
        submitters: [("lead".to_owned(), keys(&lead))].into(),
        ..Roster::default()
    };
    let body = |job_id: &str| {
        format!(
            "{{{job_id}\"datasets\": [\"a\"], \"payload\": {{\"mode\": \"training\", \"num_rounds\": 1, \
             \"dataset_id\": 4, \"model_configuration\": \"2d\"}}}}"
        )
    };
    let named = body("\"job_id\": \"j\", ");
    let check = |roster: &Roster, headers: Option<&HeaderMap>, body: &str| {
        check_submit(roster, headers, body.as_bytes()).map_err(|error| error.to_string())
    };
    let headers = lead.job_headers(named.as_bytes());
    let signed = check(&roster, Some(&headers), &named).unwrap();
    assert_eq!((&*signed.submitter, &*signed.body), ("lead", &*named));
    assert_eq!(check_body(&signed).unwrap().job_id.as_deref(), Some("j"));

    assert!(check(&roster, None, &named).unwrap_err().contains("missing"));
    let foreign = other.job_headers(named.as_bytes());
    assert!(
        check(&roster, Some(&foreign), &named)
            .unwrap_err()
            .contains(other.public())
    );
    let altered = named.replace("\"2d\"", "\"3d_fullres\"");
    assert!(check(&roster, Some(&headers), &altered).is_err());
    let nameless = body("");
    let headers = lead.job_headers(nameless.as_bytes());
    assert!(
        check(&roster, Some(&headers), &nameless)
            .unwrap_err()
            .starts_with("job_id")
    );
    // A revoked key signs no more.
    let keys = roster.submitters.get_mut("lead").unwrap();
    keys.former.append(&mut keys.current);
    let headers = lead.job_headers(named.as_bytes());
    assert!(check(&roster, Some(&headers), &named).is_err());
}

#[test]
fn a_seed_is_not_repeated_in_errors_and_a_changed_roster_is_read_anew() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("site.nk");
    fs::write(&file, "SUNOSEED").unwrap();
    let error = Signer::read(&file).unwrap_err().to_string();
    assert!(
        error.contains("site.nk") && !error.contains("SUNOSEED"),
        "{error}"
    );
    fs::write(&file, KeyPair::new_account().seed().unwrap()).unwrap();
    assert!(Signer::read(&file).is_err(), "an account is nobody");

    let file = folder.path().join("roster.json");
    fs::write(&file, "{\"sites\": {}}").unwrap();
    let roster = RosterFile::open(&file).unwrap();
    assert!(roster.roster().sites.is_empty());
    fs::write(&file, "{\"sites\": {\"a\": {\"current\": [\"UA\"]}}}").unwrap();
    let later = SystemTime::now() + std::time::Duration::from_secs(2);
    fs::File::open(&file).unwrap().set_modified(later).unwrap();
    assert_eq!(roster.roster().sites["a"].current, ["UA"]);
    fs::write(&file, "{\"site\": 1}").unwrap();
    fs::File::open(&file)
        .unwrap()
        .set_modified(later + std::time::Duration::from_secs(2))
        .unwrap();
    assert_eq!(roster.roster().sites.len(), 1, "the last good one stands");
}
