//! Hostile messages: whatever stands in a job's streams, reading it is Ok or Err, and what follows is decided soon and
//! without a panic.

use std::time::{Duration, Instant};

use bytes::Bytes;
use pipeline::{
    conductor::{Record, next},
    exit, signing, subjects,
    tail::Tailed,
};
use schemas::{
    event::Event,
    job::JobMessage,
    roster::Roster,
    site::{Announce, Heartbeat, Progress, SiteFolder},
    task::Task,
};
use serde_json::{Value, json};

use crate::model::{Random, jobs, undisturbed};

/// No decision takes longer, with a build and a test on each core.
const SOON: Duration = Duration::from_secs(20);
const ROUNDS: usize = 2_000;

/// Places in a document.
fn nodes(value: &mut Value) -> Vec<&mut Value> {
    let inside: Vec<&mut Value> = match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(fields) => fields.values_mut().collect(),
        leaf => return vec![leaf],
    };
    inside.into_iter().flat_map(nodes).collect()
}

/// A document with some of its values changed for odd ones.
fn odd(document: &Value, random: &mut Random) -> Value {
    let mut document = document.clone();
    for _ in 0..1 + random.below(3) {
        let mut places = nodes(&mut document);
        if places.is_empty() {
            break;
        }
        let place = random.below(places.len());
        let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
        *places[place] = match random.below(12) {
            0 => Value::Null,
            1 => json!(u64::MAX),
            2 => json!(u32::MAX),
            3 => json!(-1),
            4 => json!(0),
            5 => json!(1e308),
            6 => json!("../../etc/passwd"),
            7 => json!("a.b.>"),
            8 => json!("x".repeat(100_000)),
            9 => deep,
            10 => json!([]),
            _ => json!({}),
        };
    }
    document
}

fn message(subject: String, payload: Vec<u8>) -> Tailed {
    Tailed {
        sequence: 1,
        subject,
        payload: Bytes::from(payload),
        headers: None,
        time: 0.0,
    }
}

fn text(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap()
}

#[test]
fn a_record_of_hostile_messages_is_read_and_decided_on() {
    let mut random = Random(7);
    for accepted in jobs() {
        let world = undisturbed(&accepted);
        let events: Vec<Value> = world.events.iter().map(text).collect();
        let results: Vec<Value> = world.results.iter().map(text).collect();
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..ROUNDS / jobs().len() {
            let begun = Instant::now();
            let mut record = Record::default();
            for (event, honest) in world.events.iter().zip(&events) {
                let hostile = match random.below(4) {
                    0 => odd(honest, &mut random),
                    _ => honest.clone(),
                };
                let subject = subjects::event(event);
                record.event_message(&message(subject, hostile.to_string().into_bytes()));
            }
            for (result, honest) in world.results.iter().zip(&results) {
                let hostile = match random.below(4) {
                    0 => odd(honest, &mut random),
                    _ => honest.clone(),
                };
                let subject = subjects::result(&result.key);
                let payload = hostile.to_string().into_bytes();
                // What leaves a site, and what comes from one.
                match exit::kind_of(&subject, &payload) {
                    Ok(_) => taken += 1,
                    Err(_) => refused += 1,
                }
                record
                    .result_message(result.key.clone(), &message(subject, payload), None)
                    .unwrap();
            }
            let followed = next(&record);
            let _ = (record.waiting(), record.history(), record.overdue());
            assert!(begun.elapsed() < SOON, "{followed:?}");
        }
        assert!(taken > 0 && refused > 0, "both come: {taken} and {refused}");
    }
}

#[test]
fn changed_bytes_are_an_error_or_another_message() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../../schemas/v1/examples");
    let mut random = Random(11);
    for entry in std::fs::read_dir(examples).unwrap() {
        let honest = std::fs::read(entry.unwrap().path()).unwrap();
        let document: Value = serde_json::from_slice(&honest).unwrap();
        let begun = Instant::now();
        for _ in 0..200 {
            let bytes = match random.below(2) {
                0 => odd(&document, &mut random).to_string().into_bytes(),
                _ => {
                    let mut bytes = honest.clone();
                    for _ in 0..random.below(12) {
                        let place = random.below(bytes.len());
                        bytes[place] = random.below(256) as u8;
                    }
                    bytes.truncate(bytes.len() - random.below(bytes.len()) * random.below(2));
                    bytes
                }
            };
            let _ = JobMessage::parse(&bytes, None);
            let _ = schemas::parse::<Event>(&bytes);
            let _ = schemas::parse::<Task>(&bytes);
            let _ = schemas::parse::<Announce>(&bytes);
            let _ = schemas::parse::<Heartbeat>(&bytes);
            let _ = schemas::parse::<Progress>(&bytes);
            let _ = schemas::parse::<SiteFolder>(&bytes);
            let _ = schemas::parse::<Roster>(&bytes);
            let _ = signing::check_submit(&Roster::default(), None, &bytes);
        }
        assert!(begun.elapsed() < SOON);
    }
}

#[test]
fn a_document_too_deep_is_refused() {
    let deep = format!("{}1{}", "[".repeat(1 << 20), "]".repeat(1 << 20));
    let message = format!("{{\"datasets\": [\"a\"], \"payload\": {deep}}}");
    let error = JobMessage::parse(message.as_bytes(), None).unwrap_err();
    assert!(error.reason.contains("recursion limit"), "{error}");
    assert!(schemas::parse::<Event>(deep.as_bytes()).is_err());
}
