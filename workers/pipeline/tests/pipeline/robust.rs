//! Averages that withstand a poisoned update: what the orchestrator is told.

use schemas::{
    event::Event,
    names::Phase,
    task::{Base, TaskInput, Weights},
};

use crate::model::{World, jobs, undisturbed};

fn bases(world: &World) -> Vec<Option<Base>> {
    let releases = world.releases().into_iter().filter_map(|event| match event {
        Event::Released(release) if (release.phase, release.pass) == (Phase::Average, 0) => Some(release),
        _ => None,
    });
    releases
        .map(|release| match &release.work[0].input {
            TaskInput::Average { base, .. } => base.clone(),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_bounded_average_is_told_what_its_round_started_from() {
    let mut accepted = jobs().swap_remove(0);
    assert_eq!(bases(&undisturbed(&accepted)), vec![None; 6]);
    accepted.message.federation.norm_bound = Some(2.0);
    // A checkpoint's weights, which the orchestrator could not make, come from a site.
    let checkpoint = serde_json::json!({ "path": "m", "plans": "keep" });
    let mut started = accepted.clone();
    started.message.federation.initial_checkpoint = Some(serde_json::from_value(checkpoint).unwrap());
    let sent = bases(&undisturbed(&started)).swap_remove(0).unwrap().weights;
    let Weights::Average { artifact } = sent else {
        panic!("{sent:?}");
    };
    assert_eq!(
        (&*artifact.owner, artifact.digest),
        ("a", schemas::sha256(b"weights"))
    );

    let world = undisturbed(&accepted);
    let told = bases(&world);
    for (round, base) in told.iter().enumerate() {
        let weights = &base.as_ref().unwrap().weights;
        assert_eq!(matches!(weights, Weights::Initial { .. }), round == 0);
        let started = world.releases().into_iter().any(|event| match event {
            Event::Released(release) => release.work.iter().any(|work| {
                matches!(&work.input, TaskInput::TrainRound { base, .. }
                    if release.round as usize == round && release.pass == 0 && base == weights)
            }),
            _ => false,
        });
        assert!(started, "round {round}");
    }
}
