//! What follows from a job's record, step by step.

use pipeline::conductor::{Step, WINDOW, next};
use schemas::{
    event::{Accepted, Event},
    job::{CheckpointName, InitialCheckpoint, InitialPlans, Momentum},
    names::Phase,
    task::{Failure, Outcome, Task, TaskInput, TaskOutput, TaskResult},
};

use crate::{
    canned,
    model::{View, World, jobs, undisturbed},
};

#[test]
fn a_training_job_goes_through_its_steps() {
    let world = undisturbed(&jobs()[0]);
    let steps: Vec<String> = world
        .releases()
        .iter()
        .map(|event| match event {
            Event::Released(release) => Step::of(release).to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = "fingerprint.0.0 aggregate.0.0 fingerprint.0.1 aggregate.0.1 fingerprint.0.2 aggregate.0.2 \
        plan-verify.0.0 preprocess.0.0 train-round.0.0 average.0.0 train-round.1.0 average.1.0 train-round.2.0 \
        average.2.0 train-round.3.0 average.3.0 train-round.4.0 average.4.0 train-round.5.0 average.5.0 \
        train-round.5.1 average.5.1";
    assert_eq!(steps.join(" "), expected);
    let Some(Event::Finished(finished)) = world.end() else {
        panic!("{:?}", world.end());
    };
    let history = &finished.history;
    assert_eq!(history.scores.len(), 7);
    assert_eq!(
        history.epochs.iter().map(|epoch| epoch.epoch).collect::<Vec<_>>(),
        (0..12).collect::<Vec<_>>()
    );
    // -(21 * 21 + 5 * 5 + 2 * 2) / 28 in round 0.
    assert!((history.epochs[0].train_loss + 470.0 / 28.0).abs() < 1e-12);
    let dice = history.scores[2].dice.clone();
    assert_eq!(dice, [Some(54.0 / 69.0), None], "counts are pooled over sites");
    assert_eq!(
        history.scores[0].ema_dice, None,
        "the initial weights are no candidate"
    );
    let last = world.releases().pop();
    let Some(Event::Released(last)) = last else {
        panic!();
    };
    let TaskInput::Results { last, best, .. } = &last.work[0].input else {
        panic!();
    };
    // Rounds score 1, 3, 9, 4, 2, 1, 3 true positives. Each scores the average before it.
    let emas: Vec<f64> = history.scores.iter().filter_map(|score| score.ema_dice).collect();
    let index = (0..emas.len())
        .reduce(|a, b| if emas[b] > emas[a] { b } else { a })
        .unwrap();
    assert_eq!(best.digest(), history.scores[index + 1].weights);
    assert_ne!(best.digest(), last.digest());
}

#[test]
fn a_job_that_evaluates_segments_the_validation_cases_before_its_results() {
    let mut accepted = jobs()[0].clone();
    accepted.message.federation.evaluate = true;
    let world = undisturbed(&accepted);
    let released: Vec<_> = world
        .releases()
        .into_iter()
        .filter_map(|event| match event {
            Event::Released(release) => Some(release),
            _ => None,
        })
        .collect();
    let [.., scoring, validating, results] = &released[..] else {
        panic!("{released:?}");
    };
    let steps = [scoring, validating, results].map(|release| Step::of(release).to_string());
    assert_eq!(steps, ["train-round.5.1", "infer.5.3", "average.5.1"]);
    let TaskInput::Results {
        last, validations, ..
    } = &results.work[0].input
    else {
        panic!("{results:?}");
    };
    // All sites' shards, in their order, of what the last average segmented.
    let expected = validating
        .work
        .iter()
        .flat_map(|work| vec![&work.site; work.shards as usize]);
    assert!(validations.iter().map(|validation| &validation.site).eq(expected));
    assert_eq!(validating.work.len(), 3);
    for work in &validating.work {
        let TaskInput::Validate { weights, .. } = &work.input else {
            panic!("{work:?}");
        };
        assert_eq!(weights, last);
    }
    assert!(matches!(world.end(), Some(Event::Finished(_))));
}

#[test]
fn the_window_bounds_open_tasks() {
    let accepted = &jobs()[0];
    let mut world = World::of(accepted.clone());
    let mut view = View::default();
    for _ in 0..1_000 {
        view.read_all(&world);
        for action in next(&view.record) {
            world.perform(action);
        }
        let open = world.open();
        for site in ["a", "b", "c"] {
            assert!(open.iter().filter(|key| key.site == site).count() <= WINDOW);
        }
        match open.first() {
            Some(key) => world.work(key, None),
            None if world.end().is_some() => return,
            None => {}
        }
    }
    panic!("the job does not end");
}

fn after_one_step(accepted: &Accepted, phase: Phase, change: impl Fn(&Task, &mut TaskOutput)) -> Event {
    let mut world = World::of(accepted.clone());
    let mut view = View::default();
    for _ in 0..1_000 {
        view.read_all(&world);
        for action in next(&view.record) {
            world.perform(action);
        }
        if let Some(end) = world.end() {
            return end.clone();
        }
        for key in world.open() {
            world.work(&key, None);
            let task = world.tasks[&key].clone();
            if let Some(TaskResult {
                outcome: Outcome::Done { output },
                ..
            }) = world.results.last_mut()
                && key.phase == phase
            {
                change(&task, output);
            }
        }
    }
    panic!("the job does not end");
}

#[test]
fn plans_that_differ_are_named() {
    let end = after_one_step(&jobs()[0], Phase::PlanVerify, |task, output| {
        if let (
            TaskOutput::Plans {
                plans, plans_digest, ..
            },
            "b",
        ) = (output, &*task.key.site)
        {
            plans["configurations"]["3d_fullres"]["batch_size"] = 3.into();
            *plans_digest = schemas::sha256(b"other");
        }
    });
    let Event::Failed(failed) = end else {
        panic!("{end:?}");
    };
    assert_eq!(failed.failure.code, "plan-differs");
    assert_eq!(
        failed.failure.message,
        "plans.configurations.3d_fullres.batch_size is 2 at site a and 3 at site b"
    );
}

/// A job of three sites that starts from a checkpoint.
fn from_checkpoint(plans: InitialPlans) -> Accepted {
    let mut accepted = jobs()[0].clone();
    accepted.message.federation.initial_checkpoint = Some(InitialCheckpoint {
        path: "model".into(),
        fold_id: None,
        checkpoint_name: CheckpointName::Final,
        plans,
    });
    accepted
}

#[test]
fn checkpoints_that_differ_are_named_with_their_sites() {
    let other = schemas::sha256(b"other");
    let end = after_one_step(
        &from_checkpoint(InitialPlans::Remake),
        Phase::PlanVerify,
        |task, output| {
            if let (
                TaskOutput::Plans {
                    checkpoint_digest,
                    plans_digest,
                    ..
                },
                "b",
            ) = (output, &*task.key.site)
            {
                *checkpoint_digest = Some(other.clone());
                // Other plans come of it: the cause is named, not the consequence.
                *plans_digest = other.clone();
            }
        },
    );
    let Event::Failed(failed) = end else {
        panic!("{end:?}");
    };
    assert_eq!(failed.failure.code, "checkpoint-differs");
    let held = schemas::sha256(b"checkpoint");
    let named = format!("{held} at site a, {other} at site b, {held} at site c");
    assert!(
        failed.failure.message.contains(&named),
        "{}",
        failed.failure.message
    );

    let end = after_one_step(
        &from_checkpoint(InitialPlans::Keep),
        Phase::PlanVerify,
        |task, output| {
            if let (
                TaskOutput::Plans {
                    checkpoint_digest, ..
                },
                "c",
            ) = (output, &*task.key.site)
            {
                *checkpoint_digest = None;
            }
        },
    );
    let Event::Failed(failed) = end else {
        panic!("{end:?}");
    };
    assert_eq!((&*failed.site, &*failed.failure.code), ("c", "bad-output"));
}

#[test]
fn kept_plans_reach_the_results_folder() {
    for (plans, kept) in [(InitialPlans::Keep, true), (InitialPlans::Remake, false)] {
        let world = undisturbed(&from_checkpoint(plans));
        assert!(
            matches!(world.end(), Some(Event::Finished(_))),
            "{:?}",
            world.end()
        );
        let Some(Event::Released(last)) = world.releases().pop() else {
            panic!();
        };
        let TaskInput::Results { kept_plans, .. } = &last.work[0].input else {
            panic!();
        };
        let batch_size = kept_plans
            .as_ref()
            .map(|plans| plans["configurations"]["3d_fullres"]["batch_size"].clone());
        assert_eq!(batch_size, kept.then(|| 2.into()));
    }
}

#[test]
fn a_round_knows_the_sites_last_averaged_update() {
    for (momentum, known) in [
        (Momentum::Keep, true),
        (Momentum::Average, true),
        (Momentum::Reset, false),
    ] {
        let mut accepted = jobs()[1].clone();
        accepted.message = canned::training(Some("one"), &["b"], 2);
        accepted.message.federation.momentum = momentum;
        let world = undisturbed(&accepted);
        let previous: Vec<Option<String>> = world
            .tasks
            .values()
            .filter_map(|task| match &task.input {
                TaskInput::TrainRound { previous_update, .. } if task.key.pass == 0 => {
                    Some(previous_update.clone())
                }
                _ => None,
            })
            .collect();
        let updates = world.results.iter().find_map(|result| match &result.outcome {
            Outcome::Done {
                output:
                    TaskOutput::Trained {
                        update_norm: None,
                        update: Some(update),
                        ..
                    },
            } if result.key.round == 0 => Some(update.digest.clone()),
            _ => None,
        });
        assert!(updates.is_some());
        assert_eq!(previous, [None, updates.filter(|_| known)]);
    }
}

#[test]
fn models_that_differ_and_artifacts_of_others_are_refused() {
    let end = after_one_step(&jobs()[2], Phase::Infer, |task, output| {
        if let (TaskOutput::Model { digest, .. }, "c") = (output, &*task.key.site) {
            *digest = schemas::sha256(b"other");
        }
    });
    let Event::Failed(failed) = end else {
        panic!("{end:?}");
    };
    assert_eq!(failed.failure.code, "model-differs");
    assert!(failed.failure.message.contains("site c"));
    let end = after_one_step(&jobs()[0], Phase::TrainRound, |task, output| {
        if let (
            TaskOutput::Trained {
                update: Some(update), ..
            },
            "b",
        ) = (output, &*task.key.site)
        {
            update.owner = "a".into();
        }
    });
    let Event::Failed(failed) = end else {
        panic!("{end:?}");
    };
    assert_eq!((&*failed.site, &*failed.failure.code), ("b", "bad-output"));
    assert_eq!(failed.failure.message, "update.owner is a: expected b");
}

#[test]
fn an_update_from_other_weights_is_never_averaged() {
    let stale = |task: &Task, output: &mut TaskOutput| {
        if let (TaskOutput::Trained { base, .. }, "b", 1, 0) =
            (output, &*task.key.site, task.key.round, task.key.pass)
        {
            *base = schemas::sha256(b"the round before");
        }
    };
    let mut job = jobs().remove(0);
    let end = after_one_step(&job, Phase::TrainRound, stale);
    let Event::Failed(failed) = end else {
        panic!("{end:?}");
    };
    assert_eq!((&*failed.site, &*failed.failure.code), ("b", "stale-base"));
    // Where two sites are enough, the round goes on without it, and the next one with it.
    job.message.federation.min_sites = Some(2);
    let end = after_one_step(&job, Phase::TrainRound, stale);
    let Event::Finished(finished) = end else {
        panic!("{end:?}");
    };
    let without: Vec<&[String]> = finished
        .history
        .scores
        .iter()
        .map(|score| &*score.without)
        .collect();
    assert_eq!(without[0], [""; 0]);
    assert_eq!(without[1], ["b"]);
    assert_eq!(without[2], [""; 0]);
}

#[test]
fn three_attempts_and_no_more() {
    let accepted = &jobs()[1];
    let mut world = World::of(accepted.clone());
    let mut view = View::default();
    for _ in 0..10 {
        view.read_all(&world);
        for action in next(&view.record) {
            world.perform(action);
        }
        for key in world.open() {
            world.work(
                &key,
                Some(Failure::retryable("disk-full", "the site's disk is full")),
            );
        }
    }
    let Some(Event::Failed(failed)) = world.end() else {
        panic!("{:?}", world.end());
    };
    assert_eq!(
        (&*failed.site, failed.phase, failed.round),
        ("b", Phase::Fingerprint, 0)
    );
    assert_eq!(failed.failure.message, "the site's disk is full (attempt 3 of 3)");
    assert_eq!(world.tasks.len(), 3);
}
