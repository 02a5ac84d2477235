//! Rounds whose updates are masked: the passes, who vanishes in which, and what is told of whom.

use std::collections::BTreeMap;

use pipeline::conductor::{Step, next};
use schemas::{
    event::{Accepted, Event},
    masking::Unmasking,
    names::{ORCHESTRATOR, Phase},
    task::{Failure, Outcome, TaskInput, TaskKey, TaskOutput},
};

use crate::model::{View, World, masked, undisturbed};

/// Of each site that shared its secrets all who told anything told the one secret or the other, in all attempts
/// together; and what takes the masks off an average is of those whom it counts, told by enough.
pub fn either_secret_is_told(world: &World, seed: u64) {
    let mut told: BTreeMap<(u32, String), bool> = BTreeMap::new();
    for result in &world.results {
        let Outcome::Done {
            output: TaskOutput::Unmasked { shares },
        } = &result.outcome
        else {
            continue;
        };
        let seeds = shares.seeds.iter().map(|share| (share, true));
        for (share, is_seed) in seeds.chain(shares.keys.iter().map(|share| (share, false))) {
            let before = told.insert((result.key.round, share.site.clone()), is_seed);
            let both = before.is_some_and(|before| before != is_seed);
            assert!(!both, "seed {seed}: both secrets of {} are told", share.site);
        }
    }
    for release in &world.record.releases {
        let TaskInput::Average {
            updates,
            unmasking: Some(unmasking),
            ..
        } = &release.work[0].input
        else {
            continue;
        };
        assert!(unmasking.shares.len() >= 3, "seed {seed}: below the threshold");
        for told in &unmasking.shares {
            let counted = updates.iter().map(|update| &update.site);
            assert!(
                told.seeds.iter().map(|share| &share.site).eq(counted),
                "seed {seed}"
            );
        }
    }
}

fn steps(world: &World, round: u32) -> Vec<String> {
    let releases = world.record.releases.iter().filter(|release| {
        release.round == round && matches!(release.phase, Phase::TrainRound | Phase::Average)
    });
    releases.map(|release| Step::of(release).to_string()).collect()
}

/// The average's sites, and how its masks are taken off.
fn average(world: &World, round: u32) -> (Vec<&str>, &Unmasking) {
    let step = Step {
        phase: Phase::Average,
        round,
        pass: 0,
    };
    let release = world.record.release(step).unwrap();
    let TaskInput::Average {
        updates,
        unmasking: Some(unmasking),
        ..
    } = &release.work[0].input
    else {
        panic!("{release:?}");
    };
    (updates.iter().map(|update| &*update.site).collect(), unmasking)
}

/// A job in which sites fail for good, or answer something else.
fn with(
    accepted: &Accepted,
    fails: impl Fn(&TaskKey) -> bool,
    change: impl Fn(&TaskKey, &mut TaskOutput),
) -> World {
    let mut world = World::of(accepted.clone());
    let mut view = View::default();
    for _ in 0..1_000 {
        view.read_all(&world);
        for action in next(&view.record) {
            world.perform(action);
        }
        if world.end().is_some() {
            return world;
        }
        for key in world.open() {
            if fails(&key) {
                world.work(&key, Some(Failure::fatal("power-cut", "it is gone")));
            } else {
                world.work_as(&key, |output| change(&key, output));
            }
        }
    }
    panic!("the job does not end");
}

#[test]
fn a_masked_fingerprint_goes_by_keys_of_its_own() {
    let world = undisturbed(&masked());
    let steps: Vec<String> = world
        .record
        .releases
        .iter()
        .take(7)
        .map(|release| Step::of(release).to_string())
        .collect();
    let expected = [
        "fingerprint.0.0",
        "aggregate.0.0",
        "fingerprint.0.3",
        "fingerprint.0.1",
        "aggregate.0.1",
        "fingerprint.0.2",
        "aggregate.0.2",
    ];
    assert_eq!(steps, expected);
    for place in [3, 5] {
        for work in &world.record.releases[place].work {
            let (TaskInput::Scan { keys, .. } | TaskInput::Select { keys, .. }) = &work.input else {
                panic!("{work:?}");
            };
            let sites: Vec<&str> = keys.iter().map(|own| &*own.keys.site).collect();
            assert_eq!(sites, ["a", "b", "c", "d"]);
            assert!(keys.iter().all(|own| own.keys.phase == Phase::Fingerprint));
        }
    }
    // Nobody may be missing: the job waits for a site without which there is no sum.
    let mut patient = masked();
    patient.message.federation.round_deadline_seconds = None;
    assert!(undisturbed(&patient).end().is_some());
}

#[test]
fn a_masked_round_goes_through_its_passes() {
    let world = undisturbed(&masked());
    for round in 0..3 {
        let expected = [
            "train-round.R.2",
            "train-round.R.3",
            "train-round.R.0",
            "train-round.R.4",
            "average.R.0",
        ];
        let mut expected: Vec<String> = expected
            .iter()
            .map(|step| step.replace('R', &round.to_string()))
            .collect();
        if round == 2 {
            expected.extend(["train-round.2.1".to_owned(), "average.2.1".to_owned()]);
        }
        assert_eq!(steps(&world, round), expected);
        let (sites, unmasking) = average(&world, round);
        assert_eq!(sites, ["a", "b", "c", "d"]);
        assert_eq!(unmasking.sharers, sites);
        assert_eq!((unmasking.keys.len(), unmasking.shares.len()), (4, 4));
        assert!(
            unmasking
                .shares
                .iter()
                .all(|told| told.seeds.len() == 4 && told.keys.is_empty())
        );
    }
    let Some(Event::Finished(finished)) = world.end() else {
        panic!("{:?}", world.end());
    };
    assert_eq!(finished.history.scores.len(), 4);
}

#[test]
fn a_site_may_vanish_in_any_pass() {
    let in_round_1 = |pass: u32| {
        with(
            &masked(),
            move |key| (&*key.site, key.phase, key.round, key.pass) == ("b", Phase::TrainRound, 1, pass),
            |_, _| {},
        )
    };
    // Before it made keys: the round knows nothing of it.
    let world = in_round_1(2);
    let (sites, unmasking) = average(&world, 1);
    assert_eq!(
        (sites.len(), unmasking.keys.len(), unmasking.sharers.len()),
        (3, 3, 3)
    );
    // With keys, but before it shared its secrets: nobody masks for it.
    let world = in_round_1(3);
    let (sites, unmasking) = average(&world, 1);
    assert_eq!(
        (sites.len(), unmasking.keys.len(), unmasking.sharers.len()),
        (3, 4, 3)
    );
    // Behind sharing: the others tell its key, and the seeds of those who are there.
    let world = in_round_1(0);
    let (sites, unmasking) = average(&world, 1);
    assert_eq!(sites, ["a", "c", "d"]);
    assert_eq!(unmasking.sharers, ["a", "b", "c", "d"]);
    for told in &unmasking.shares {
        assert_eq!(
            told.seeds.iter().map(|share| &*share.site).collect::<Vec<_>>(),
            ["a", "c", "d"]
        );
        assert_eq!(
            told.keys.iter().map(|share| &*share.site).collect::<Vec<_>>(),
            ["b"]
        );
    }
    // Before it told anything: it counts all the same.
    let world = in_round_1(4);
    let (sites, unmasking) = average(&world, 1);
    assert_eq!(sites, ["a", "b", "c", "d"]);
    assert_eq!(unmasking.shares.len(), 3);
    // In the next round it is there again.
    assert_eq!(average(&world, 2).1.shares.len(), 4);
}

#[test]
fn below_the_threshold_the_job_fails_by_name() {
    let gone = |key: &TaskKey| matches!(&*key.site, "b" | "c") && (key.round, key.pass) == (1, 4);
    let world = with(&masked(), gone, |_, _| {});
    let Some(Event::Failed(failed)) = world.end() else {
        panic!("{:?}", world.end());
    };
    assert_eq!((&*failed.failure.code, &*failed.site), ("power-cut", "b"));
}

#[test]
fn what_does_not_answer_a_pass_counts_as_failed() {
    type Change = fn(&mut TaskOutput);
    let cases: Vec<(u32, Change, &str)> = vec![
        (
            2,
            |output| {
                if let TaskOutput::Keys { keys } = output {
                    keys.keys.site = "a".into();
                }
            },
            "the keys are of site a",
        ),
        (
            2,
            |output| {
                if let TaskOutput::Keys { keys } = output {
                    keys.keys.masking.pop();
                }
            },
            "keys.masking: 63 characters",
        ),
        (
            3,
            |output| {
                if let TaskOutput::Shared { shares } = output {
                    shares.swap(0, 1);
                }
            },
            "not one for each other site",
        ),
        (
            4,
            |output| {
                if let TaskOutput::Unmasked { shares } = output {
                    shares.keys = shares.seeds.clone();
                }
            },
            "not of each site's one secret",
        ),
    ];
    let mut accepted = masked();
    accepted.message.federation.min_sites = None;
    for (pass, change, reason) in cases {
        let world = with(
            &accepted,
            |_| false,
            |key, output| {
                if (&*key.site, key.phase, key.pass) == ("b", Phase::TrainRound, pass) {
                    change(output);
                }
            },
        );
        let Some(Event::Failed(failed)) = world.end() else {
            panic!("{:?}", world.end());
        };
        assert_eq!((&*failed.failure.code, &*failed.site), ("bad-output", "b"));
        assert!(
            failed.failure.message.contains(reason),
            "{}",
            failed.failure.message
        );
    }
    let weighty = {
        let mut accepted = masked();
        accepted.message.federation.min_sites = None;
        with(
            &accepted,
            |_| false,
            |_, output| {
                if let TaskOutput::Plans { training_cases, .. } = output {
                    *training_cases = 1 << 20;
                }
            },
        )
    };
    let Some(Event::Failed(failed)) = weighty.end() else {
        panic!("{:?}", weighty.end());
    };
    assert_eq!(
        (&*failed.failure.code, &*failed.site),
        ("masked-weights", ORCHESTRATOR)
    );
}
