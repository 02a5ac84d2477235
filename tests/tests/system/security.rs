//! A federation as `rounds provision` makes it, and a member of it that is out for the others: the job ends unharmed.

mod attacks;
mod verified;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use async_nats::Subscriber;
use futures::{FutureExt, StreamExt, future::join_all};
use pipeline::{
    connection::{Access, Connection},
    streams, tail,
};
use serde_json::{Value, json};
use tests::{
    federation::ORCHESTRATOR,
    provisioned::{Provisioned, Way},
    scans::{SMALL, Scans},
};

use attacks::{ALPHA, Attack, FORGED, MALLORY};

/// A server on this machine answers sooner.
const ANSWER: Duration = Duration::from_secs(3);
/// One that lets nobody in says so at once.
const REFUSAL: Duration = Duration::from_millis(500);
/// More than the largest message.
const TOO_LARGE: usize = 9 << 20;

fn federation(way: Way) -> Result<Provisioned> {
    let mut federation = Provisioned::start(way)?;
    for (seed, site) in [ALPHA, MALLORY].into_iter().enumerate() {
        let scans = Scans {
            cases: 2,
            seed: seed as u64,
            ..SMALL
        };
        federation.site(site, 61, &scans)?;
    }
    Ok(federation)
}

fn message(job: &str) -> Value {
    json!({
        "job_id": job,
        "datasets": [ALPHA, MALLORY],
        "payload": { "mode": "training", "num_rounds": 2, "dataset_id": 61,
                     "model_configuration": "3d_fullres", "device": "cpu" },
        "federation": { "iterations_per_epoch": 2, "val_iterations_per_epoch": 1, "seed": 5, "name": "trial",
                        "gpu_memory_target_gb": 1.0 },
    })
}

/// Waits until a job is finished: the digests of all averages, as the submitter sees them.
fn finished(federation: &Provisioned, job: &str) -> Result<Vec<String>> {
    federation.lead(&["watch", job])?;
    let shown: Value = serde_json::from_str(&federation.lead(&["show", job, "--json"])?)?;
    ensure!(shown["state"] == "finished", "{shown:#}");
    let scores = shown["end"]["history"]["scores"]
        .as_array()
        .context("no scores")?;
    let digests = scores
        .iter()
        .map(|score| score["weights"].as_str().map(str::to_owned));
    digests.collect::<Option<_>>().context("a score without weights")
}

/// Messages whose subject speaks of the attacked.
async fn overheard(mut ears: Subscriber) -> Vec<String> {
    let mut heard = Vec::new();
    while let Some(Some(message)) = ears.next().now_or_never() {
        if message.subject.contains(ALPHA) {
            heard.push(message.subject.to_string());
        }
    }
    heard
}

/// What of an attacker's words stands at the hub under another name than its own.
async fn landed(hub: &Connection, mut heard: Subscriber) -> Result<Vec<String>> {
    // Its queues are `mallory_<phase>`.
    let own = |subject: &str| subject.split(['.', '_']).any(|token| token == MALLORY);
    let bears = |bytes: &[u8]| bytes.windows(FORGED.len()).any(|part| part == FORGED.as_bytes());
    let mut found = BTreeSet::new();
    for stream in [
        streams::JOBS,
        streams::TASKS,
        streams::RESULTS,
        streams::ARTIFACTS,
        streams::SITES,
    ] {
        for message in tail::read_all(hub, stream, "").await? {
            if bears(&message.payload) && !own(&message.subject) {
                found.insert(message.subject);
            }
        }
    }
    while let Some(Some(message)) = heard.next().now_or_never() {
        // Answers to the attacker, and the server's own notes on what it refused.
        let plain = !["_INBOX.", "_R_.", "$JS.EVENT."]
            .iter()
            .any(|own| message.subject.starts_with(own));
        if bears(&message.payload) && plain && !own(&message.subject) {
            found.insert(message.subject.to_string());
        }
    }
    Ok(found.into_iter().collect())
}

/// Attacks a federation that works on a job, with the real key and certificate of a member.
async fn attack(
    mallory: &Connection,
    [hub, ear]: [&Connection; 2],
    alpha: &Connection,
    job: &str,
) -> Result<usize> {
    let client = mallory.client();
    // On a connection of its own: the server cuts off who cannot follow a flood.
    let everything = ear.client().subscribe(">").await?;
    let at_alpha = alpha.client().subscribe(">").await?;
    let ears = [
        ">",
        "rounds.>",
        "$JS.>",
        "HUB.>",
        "rounds.heartbeat.*",
        "rounds.progress.*.*",
        "rounds.ask.*.jobs",
    ];
    let mut listening = Vec::new();
    for subject in ears {
        listening.push((subject, client.subscribe(subject).await?));
    }
    let attacks = attacks::all(job);
    let mut succeeded = Vec::new();
    for (attack, came) in attacks
        .iter()
        .zip(join_all(attacks.iter().map(|attack| attack.strike(client))).await)
    {
        let own = attack.subject.starts_with(&format!("rounds.result.{MALLORY}."));
        match came {
            Ok(why) => println!("{:64} {why}", attack.name),
            // What is one's own is stored, and read by nobody.
            Err(receipt) if own => println!("{:64} under its own name: {receipt}", attack.name),
            Err(brought) => succeeded.push(format!("{}: {}: {brought}", attack.name, attack.subject)),
        }
    }
    ensure!(succeeded.is_empty(), "{succeeded:#?}");

    // Answered once is answered: neither replayed nor taken back.
    let again = Attack {
        name: "answer a task of one's own again",
        subject: format!("rounds.result.{MALLORY}.infer.{FORGED}.0.0.0.1"),
        payload: FORGED.to_owned(),
        headers: Default::default(),
        reply: None,
    };
    let why = again.strike(client).await.map_err(anyhow::Error::msg)?;
    println!("{:64} {why}", again.name);
    let large = client
        .publish(format!("rounds.heartbeat.{MALLORY}"), vec![0; TOO_LARGE].into())
        .await;
    println!("{:64} {large:?}", "send a message that is too large");
    ensure!(large.is_err(), "{TOO_LARGE} bytes were sent");
    for number in 0..20_000 {
        let subject = match number % 3 {
            0 => format!("rounds.heartbeat.{MALLORY}"),
            1 => format!("rounds.progress.{MALLORY}.{job}"),
            _ => format!("rounds.ask.{MALLORY}.jobs"),
        };
        client.publish(subject, FORGED.into()).await?;
    }
    let announce = json!({ "site": ALPHA, "version": FORGED }).to_string();
    client
        .publish(format!("rounds.site.{MALLORY}.announce"), announce.into())
        .await?;
    client.flush().await?;
    println!("{:64} 20000 messages", "flood the hub");

    for (subject, ears) in listening {
        let heard = overheard(ears).await;
        println!(
            "{:64} {} messages of others",
            format!("listen to {subject}"),
            heard.len()
        );
        ensure!(
            heard
                .iter()
                .all(|subject| attacks.iter().any(|attack| attack.subject == *subject)),
            "{subject}: {heard:?}"
        );
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let found = landed(hub, everything).await?;
    ensure!(found.is_empty(), "under other names: {found:?}");
    let mut at_alpha = at_alpha;
    while let Some(Some(message)) = at_alpha.next().now_or_never() {
        let bears = String::from_utf8_lossy(&message.payload).contains(FORGED);
        ensure!(!bears, "alpha heard {}", message.subject);
    }
    Ok(attacks.len() + 3 + ears.len())
}

fn a_malicious_site_changes_nothing(way: Way) {
    let mut federation = federation(way).unwrap();
    federation.submit(&message("calm")).unwrap();
    let calm = finished(&federation, "calm").unwrap();
    assert_eq!(calm.len(), 3, "the initial weights, and two averages");
    let listed = federation.lead(&["list"]).unwrap();
    assert!(listed.contains("calm"), "{listed}");
    let sites = federation.lead(&["sites"]).unwrap();
    assert!(sites.contains(ALPHA) && sites.contains(MALLORY), "{sites}");

    let connect = |name: &str| {
        let access = federation.access(name).unwrap();
        federation.connect(&access, ANSWER).unwrap()
    };
    let (mallory, hub, alpha) = (connect(MALLORY), connect(ORCHESTRATOR), connect(ALPHA));
    let ear = connect(ORCHESTRATOR);
    federation.submit(&message("attacked")).unwrap();
    let begun = Instant::now();
    let tried = federation
        .runtime
        .block_on(attack(&mallory, [&hub, &ear], &alpha, "attacked"));
    let tried = tried.with_context(|| federation.said()).unwrap();
    println!("{tried} attacks in {:?}, none succeeded", begun.elapsed());
    assert_eq!(
        finished(&federation, "attacked").unwrap(),
        calm,
        "{}",
        federation.said()
    );

    verified::anybody_verifies_a_job(&federation, "attacked", calm.last().unwrap());
    the_doctor_finds_a_site_well(&federation, way);
    strangers_are_refused(&federation);
    a_rotated_key_goes_on(&mut federation, way, &calm);
    a_revoked_key_is_cut_off(&federation, way, &mallory);
}

fn the_doctor_finds_a_site_well(federation: &Provisioned, way: Way) {
    let settings = federation.site_folder(ALPHA).join("site.toml");
    let said = tests::process::run(&["doctor".as_ref(), settings.as_os_str()]).unwrap();
    let mut lines = vec![
        "ok    key            U",
        "ok    permissions    5 queues of this site",
        "ok    account        its own",
        "ok    jobs           2 of this site are known",
        "ok    version",
    ];
    if way == Way::Direct {
        lines.push("ok    certificate    ");
    }
    for line in lines {
        assert!(said.contains(line), "{line:?} is not in\n{said}");
    }
}

fn strangers_are_refused(federation: &Provisioned) {
    let hub = federation.access(ORCHESTRATOR).unwrap();
    let (_, seed) = stranger(federation);
    for (who, access) in [
        (
            "a key that nobody knows",
            Access {
                nkey: Some(seed),
                ..hub.clone()
            },
        ),
        (
            "no key",
            Access {
                nkey: None,
                ..hub.clone()
            },
        ),
        (
            "no certificate",
            Access {
                client_certificate: None,
                ..hub.clone()
            },
        ),
        (
            "no TLS",
            Access {
                url: hub.url.replace("tls://", "nats://"),
                tls_first: false,
                ..hub.clone()
            },
        ),
        (
            "another hub's authority",
            Access {
                root_certificates: None,
                ..hub.clone()
            },
        ),
    ] {
        let refused = federation.connect(&access, REFUSAL).map(drop).unwrap_err();
        println!("{who}: {refused:#}");
    }
    federation.connect(&hub, ANSWER).unwrap();
}

/// A key as anybody can make one.
fn stranger(federation: &Provisioned) -> (String, String) {
    let file = federation.hub().join("stranger.nk");
    let file = file.to_str().unwrap();
    let public = tests::process::run(&["provision", "key", file]).unwrap();
    (public, std::fs::read_to_string(file).unwrap().trim().to_owned())
}

/// A site gets a new key in the middle of a job, and its old one opens nothing.
fn a_rotated_key_goes_on(federation: &mut Provisioned, way: Way, calm: &[String]) {
    // What Mallory announced is its own to spoil: it says it again.
    federation.rounds(MALLORY).unwrap();
    let old = federation.access(ALPHA).unwrap();
    federation.submit(&message("rotated")).unwrap();
    federation.provision(&["rotate", ALPHA]).unwrap();
    let said = federation.reload().unwrap();
    if way == Way::Leaf {
        assert!(said.contains("trial-alpha: cut off"), "{said}");
        federation.stop("leaf-alpha");
        federation.leaf(ALPHA).unwrap();
    }
    let refused = federation.connect(&old, REFUSAL).map(drop).unwrap_err();
    println!("a key that was replaced: {refused:#}");
    federation.rounds(ALPHA).unwrap();
    assert_eq!(finished(federation, "rotated").unwrap(), calm);
}

/// A site is put out: its open connection is cut, and it does not come back.
fn a_revoked_key_is_cut_off(federation: &Provisioned, way: Way, mallory: &Connection) {
    let attempt = |connection: &Connection| {
        let subject = format!("HUB.API.CONSUMER.INFO.ROUNDS_TASKS.{MALLORY}_infer");
        let asked = connection.client().request(subject, "".into());
        // A timeout is made on a runtime.
        let answer = federation
            .runtime
            .block_on(async { tokio::time::timeout(ANSWER, asked).await });
        matches!(answer, Ok(Ok(message)) if message.status.is_none())
    };
    assert!(attempt(mallory), "before it was revoked");
    federation.provision(&["revoke", MALLORY]).unwrap();
    let said = federation.reload().unwrap();
    assert_eq!(
        said.contains("trial-mallory: cut off"),
        way == Way::Leaf,
        "{said}"
    );
    assert!(!attempt(mallory), "after it was revoked");
    if way == Way::Direct {
        let access = federation.access(MALLORY).unwrap();
        let refused = federation.connect(&access, REFUSAL).map(drop).unwrap_err();
        println!("a key that was revoked: {refused:#}");
    }
    let listed = federation.provision(&["list"]).unwrap();
    let line = listed
        .lines()
        .find(|line| line.contains(MALLORY))
        .unwrap_or_default();
    assert!(line.contains("revoked"), "{listed}");
    // The others are not disturbed.
    let alpha = federation
        .connect(&federation.access(ALPHA).unwrap(), ANSWER)
        .unwrap();
    assert!(!attempt(&alpha), "alpha may not look at another's queue either");
    federation.lead(&["list"]).unwrap();
}

#[test]
fn a_malicious_site_changes_nothing_over_tls() {
    a_malicious_site_changes_nothing(Way::Direct);
}

#[test]
fn a_malicious_site_changes_nothing_through_a_leaf_node() {
    a_malicious_site_changes_nothing(Way::Leaf);
}
