//! A job that goes on from an earlier one.

use pipeline::conductor::Step;
use schemas::{
    event::Event,
    names::Phase,
    task::{TaskInput, Weights},
};

use crate::{
    canned,
    model::{jobs, undisturbed},
};

#[test]
fn a_continued_job_starts_from_the_earlier_average() {
    let world = undisturbed(&jobs()[0]);
    let average = world.events.iter().find_map(|event| match event {
        Event::Released(release) if Step::of(release).to_string() == "train-round.3.0" => {
            Some(release.work[0].input.clone())
        }
        _ => None,
    });
    let Some(TaskInput::TrainRound {
        base: Weights::Average { artifact },
        pooled,
        ..
    }) = average
    else {
        panic!();
    };
    let mut message = canned::training(Some("u"), &["a", "b", "c"], 2);
    let schemas::job::Payload::Training(training) = &mut message.payload else {
        panic!();
    };
    training.starting_fed_round = 3;
    let mut accepted = canned::accepted("u", message, &["a", "b", "c"]);
    accepted.continues = Some(schemas::event::Continuation {
        job: "t".into(),
        pooled,
        kept_plans: None,
        weights: artifact.clone(),
        updates: vec![("b".into(), schemas::sha256(b"momentum"))],
        epochs: 6,
        history: Default::default(),
        best: None,
    });
    let world = undisturbed(&accepted);
    let first = world.releases().into_iter().find_map(|event| match event {
        Event::Released(release) if release.phase == Phase::TrainRound => Some(release),
        _ => None,
    });
    let TaskInput::TrainRound {
        base,
        previous_update,
        epochs_before,
        total_epochs,
        ..
    } = &first.unwrap().work[1].input
    else {
        panic!();
    };
    assert_eq!(base.digest(), artifact.digest);
    assert_eq!(*previous_update, Some(schemas::sha256(b"momentum")));
    assert_eq!((*epochs_before, *total_epochs), (6, 10));
    assert!(matches!(world.end(), Some(Event::Finished(_))));
    assert!(!world.tasks.keys().any(|key| key.phase == Phase::Fingerprint));
}
