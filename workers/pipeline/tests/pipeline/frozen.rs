//! Frozen histories: the messages of whole jobs as an earlier program wrote them. A program of the same protocol goes on with
//! such a job exactly as that one did, or a job that is under way while the program is exchanged becomes a mixture.
//!
//! `histories/<protocol>/*.jsonl` are never changed. Where a step must change, the protocol gets another number, by which
//! sites and orchestrators refuse each other's jobs by name, and ROUNDS_WRITE_HISTORIES=1 writes that number's folder.

use std::{fs, path::PathBuf};

use pipeline::conductor::{Action, Record, Step, next};
use schemas::{
    PROTOCOL_VERSION,
    event::{Accepted, Event},
    task::TaskResult,
};
use serde::{Deserialize, Serialize};

use crate::{
    canned,
    model::{masked, undisturbed},
};

/// One line of a history.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Message {
    Event(Box<Event>),
    Result(Box<TaskResult>),
}

fn folder() -> PathBuf {
    let histories = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/histories");
    histories.join(PROTOCOL_VERSION.to_string())
}

/// A job of each kind.
fn jobs() -> [(&'static str, Accepted); 3] {
    let sites = ["b", "c"];
    [
        (
            "training",
            canned::accepted("t", canned::training(Some("t"), &sites, 2), &sites),
        ),
        (
            "inference",
            canned::accepted("i", canned::inference(Some("i"), &sites, "model"), &sites),
        ),
        ("masked", masked()),
    ]
}

#[test]
fn a_job_that_is_under_way_goes_on_as_it_began() {
    let folder = folder();
    if std::env::var_os("ROUNDS_WRITE_HISTORIES").is_some() {
        fs::create_dir_all(&folder).unwrap();
        for (name, accepted) in jobs() {
            let world = undisturbed(&accepted);
            let events = world
                .events
                .into_iter()
                .map(|event| Message::Event(Box::new(event)));
            let results = world
                .results
                .into_iter()
                .map(|one| Message::Result(Box::new(one)));
            let lines: Vec<String> = results
                .chain(events)
                .map(|message| serde_json::to_string(&message).unwrap())
                .collect();
            let file = folder.join(format!("{name}.jsonl"));
            assert!(!file.exists(), "{}: a history is never changed", file.display());
            fs::write(file, lines.join("\n") + "\n").unwrap();
        }
    }
    for (name, _) in jobs() {
        let file = folder.join(format!("{name}.jsonl"));
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut record = Record::default();
        let mut events = Vec::new();
        for (place, line) in text.lines().enumerate() {
            match serde_json::from_str(line) {
                Ok(Message::Event(event)) => events.push(*event),
                Ok(Message::Result(result)) => record.result(*result),
                Err(error) => panic!("{name}, line {}: {error}", place + 1),
            }
        }
        for event in events {
            let follows = |own: &Event| match (own, &event) {
                (Event::Released(own), Event::Released(frozen)) => {
                    // The deadline is the orchestrator's clock.
                    let mut own = own.clone();
                    own.deadline.clone_from(&frozen.deadline);
                    own == *frozen
                }
                (own, frozen) => own == frozen,
            };
            let published = |action: &Action| matches!(action, Action::Publish(own) if follows(own));
            if matches!(event, Event::Released(_) | Event::Finished(_)) {
                let last = record.releases.last().map(Step::of);
                assert!(
                    next(&record).iter().any(published),
                    "{name}: behind {last:?} this program goes on otherwise than with {event:?}"
                );
            }
            record.event(event);
        }
        assert!(
            matches!(record.end, Some(Event::Finished(_))),
            "{name}: {:?}",
            record.end
        );
    }
}
