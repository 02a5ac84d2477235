//! Rounds that end after a time.

use pipeline::conductor::next;
use schemas::{
    event::Event,
    job::Weighting,
    names::Phase,
    task::{TaskInput, TaskOutput},
};

use crate::model::{View, World, jobs};

/// Sites of unlike speed do unlike numbers of iterations in the same time.
#[test]
fn in_a_round_of_limited_time_a_site_counts_by_its_iterations() {
    let averaged = |round_seconds: Option<u32>, weighting: Weighting| {
        let mut accepted = jobs().swap_remove(0);
        accepted.message.federation.round_seconds = round_seconds;
        accepted.message.federation.weighting = weighting;
        let mut world = World::of(accepted);
        let mut view = View::default();
        for _ in 0..1_000 {
            view.read_all(&world);
            for action in next(&view.record) {
                world.perform(action);
            }
            for key in world.open() {
                // Site c is slow: it ends in the middle of its first epoch.
                let slow = (&*key.site, key.phase, key.pass) == ("c", Phase::TrainRound, 0);
                world.work_as(&key, |output| match output {
                    TaskOutput::Trained { epochs, .. } if slow && round_seconds.is_some() => {
                        epochs.truncate(1);
                        epochs[0].iterations = 3;
                    }
                    _ => {}
                });
            }
            if let Some(Event::Finished(finished)) = world.end() {
                assert_eq!(finished.history.epochs.len(), 12);
                let sites = finished.history.epochs[1].sites.len();
                assert_eq!(sites, if round_seconds.is_some() { 2 } else { 3 });
                break;
            }
        }
        let average = world.releases().into_iter().find_map(|event| match event {
            Event::Released(release) if release.phase == Phase::Average => Some(release),
            _ => None,
        });
        let TaskInput::Average { updates, .. } = &average.unwrap().work[0].input else {
            panic!();
        };
        updates.iter().map(|update| update.weight).collect::<Vec<_>>()
    };
    assert_eq!(averaged(None, Weighting::Cases), [21, 5, 2]);
    assert_eq!(averaged(Some(60), Weighting::Cases), [21 * 20, 5 * 20, 2 * 3]);
    assert_eq!(averaged(Some(60), Weighting::Iterations), [20, 20, 3]);
    assert_eq!(averaged(Some(60), Weighting::Equal), [20, 20, 3]);
}
