//! Thousands of random histories: conductors lag, race and crash in the middle of what they do; tasks fail, are done
//! twice and come in any order; sites fall asleep and come back, deadlines pass twice or late, and jobs that ended are
//! resumed.
//!
//! What holds in each of them:
//! - a step is released once, and a shard has one done result at most;
//! - every released task is answered, closed or failed in the end;
//! - of a site that shared its secrets either the seed is told or the key, to whoever asks, and never both;
//! - an average counts those that its release says, each by its one done result, and never one who was late;
//! - the releases and the end are a function of the frozen lists: a job whose sites sleep exactly where this one
//!   went on without them has the same.

use std::collections::{BTreeMap, BTreeSet};

use pipeline::{
    client::dead,
    conductor::{MAX_ATTEMPTS, Step, next},
};
use schemas::{
    event::{Accepted, Cancelled, Event, Resumed},
    names::{ORCHESTRATOR, Phase},
    task::{Failure, Outcome, TaskInput, TaskKey, TaskOutput},
};

use crate::{
    masked::either_secret_is_told,
    model::{Random, View, World, jobs, masked, step_of, undisturbed},
};

/// What may go wrong in a history, as one in so many; 0: never.
#[derive(Clone, Copy, Default)]
struct Trouble {
    /// A task fails and is tried again.
    retries: usize,
    /// A task fails for good.
    failures: usize,
    /// In a turn, the job is cancelled.
    cancels: usize,
    /// In a turn, a site falls asleep.
    sleeps: usize,
    /// A job that failed or was cancelled stays so.
    stays: usize,
}

/// A random history up to its end. Conductors read, act in part, and forget all.
fn disturbed(accepted: &Accepted, random: &mut Random, trouble: Trouble) -> World {
    let mut world = World::of(accepted.clone());
    let mut views: Vec<View> = (0..1 + random.below(3)).map(|_| View::default()).collect();
    let mut asleep: BTreeSet<String> = BTreeSet::new();
    let (mut cancels, mut fired) = (0, BTreeMap::new());
    let chance = |random: &mut Random, one_in: usize| one_in > 0 && random.below(one_in) == 0;
    for _ in 0..200_000 {
        let view = random.below(views.len());
        match random.below(8) {
            0..=2 => (0..1 + random.below(6)).for_each(|_| views[view].read(&world, random)),
            3 | 4 => {
                let mut actions = next(&views[view].record);
                if random.below(4) == 0 && !actions.is_empty() {
                    // It crashes in the middle, in any order of its actions.
                    for index in (1..actions.len()).rev() {
                        actions.swap(index, random.below(index + 1));
                    }
                    actions.truncate(random.below(actions.len() + 1));
                    views[view] = View::default();
                    // A conductor reads the past before it acts; the function does not rely on it.
                    if random.below(2) == 0 {
                        views[view].read_all(&world);
                    }
                }
                for action in actions {
                    world.perform(action);
                }
            }
            5 if !world.timers.is_empty() => {
                let timers: Vec<String> = world.timers.keys().cloned().collect();
                let timer = &timers[random.below(timers.len())];
                let times = fired.entry(timer.clone()).or_insert(0);
                *times += 1;
                match *times {
                    1 | 2 => world.fire(timer, random.below(2) == 0),
                    _ => drop(world.timers.remove(timer)),
                }
            }
            _ => {
                let mut open = world.open();
                open.retain(|key| !asleep.contains(&key.site));
                if !open.is_empty() {
                    let key = &open[random.below(open.len())];
                    let failure = if chance(random, trouble.failures) {
                        Some(Failure::fatal("bad-case", "wrong"))
                    } else if key.attempt < MAX_ATTEMPTS && chance(random, trouble.retries) {
                        Some(Failure::retryable("disk-full", "full"))
                    } else {
                        None
                    };
                    world.work(key, failure);
                }
                if cancels < 5 && chance(random, trouble.cancels) && world.end().is_none() {
                    cancels += 1;
                    world.event(Event::Cancelled(Cancelled {
                        job: accepted.job.clone(),
                        reason: "enough".into(),
                        resumes: world.record.resumes(),
                    }));
                }
                if chance(random, trouble.sleeps) {
                    let member = random.below(accepted.members.len());
                    asleep.insert(accepted.members[member].site.clone());
                }
                if random.below(20) == 0 {
                    asleep.clear();
                }
            }
        }
        let Some(end) = world.end() else { continue };
        if !matches!(end, Event::Finished(_)) && trouble.stays > 0 && !chance(random, trouble.stays) {
            // Whoever resumes it looks at the streams as they are, whatever conductors have read.
            if random.below(4) == 0 {
                resume(&mut world);
            }
        } else if settled(&mut world, &mut views) {
            return world;
        }
    }
    panic!("the job hangs after {:?}", world.events.last());
}

/// What `rounds resume` does.
fn resume(world: &mut World) {
    let mut view = View::default();
    view.read_all(world);
    let retry = dead(&view.record).into_iter().filter(|dead| dead.counts);
    let number = view.record.resumes() + 1;
    let last = view.record.releases.last().and_then(|last| last.deadline.clone());
    world.event(Event::Resumed(Resumed {
        job: view.record.accepted.clone().unwrap().job,
        number,
        retry: retry.map(|dead| dead.key).collect(),
        deadline: last.map(|last| format!("{last}, resumed {number}")),
        time: String::new(),
    }));
}

/// After the end all conductors catch up, and close what is open.
fn settled(world: &mut World, views: &mut [View]) -> bool {
    loop {
        let before = (world.events.len(), world.tasks.len(), world.results.len());
        for view in views.iter_mut() {
            view.read_all(world);
            for action in next(&view.record) {
                world.perform(action);
            }
        }
        if before == (world.events.len(), world.tasks.len(), world.results.len()) {
            return world.open().is_empty();
        }
    }
}

/// The invariants that hold in every history.
fn check(accepted: &Accepted, world: &World, seed: u64) {
    let mut done: BTreeSet<TaskKey> = BTreeSet::new();
    for result in &world.results {
        if matches!(result.outcome, Outcome::Done { .. }) {
            let shard = TaskKey {
                attempt: 0,
                ..result.key.clone()
            };
            assert!(done.insert(shard), "seed {seed}: {:?} is done twice", result.key);
        }
    }
    assert!(
        world.open().is_empty(),
        "seed {seed}: {:?} are open",
        world.open()
    );
    let released = world.releases().len();
    assert_eq!(
        released,
        world.record.releases.len(),
        "seed {seed}: released twice"
    );
    either_secret_is_told(world, seed);
    let least = accepted.message.federation.min_sites;
    for release in &world.record.releases {
        let TaskInput::Average { updates, .. } = &release.work[0].input else {
            continue;
        };
        let trained = Step {
            phase: Phase::TrainRound,
            ..Step::of(release)
        };
        let without = world.left_out(trained).unwrap();
        let trained = world.record.release(trained).unwrap();
        let counted = trained.work.iter().filter(|work| !without.contains(&work.site));
        let counted: Vec<&str> = counted.map(|work| &*work.site).collect();
        let averaged: Vec<&str> = updates.iter().map(|update| &*update.site).collect();
        assert_eq!(counted, averaged, "seed {seed}");
        assert!(
            averaged.len() >= least.map_or(accepted.members.len(), |least| least as usize),
            "seed {seed}: below quorum"
        );
        for update in updates {
            let result = world.results.iter().find(|result| {
                result.key.site == update.site
                    && step_of(&result.key) == Step::of(trained)
                    && matches!(result.outcome, Outcome::Done { .. })
            });
            let Outcome::Done {
                output: TaskOutput::Trained { update: made, .. },
            } = &result.unwrap().outcome
            else {
                panic!("seed {seed}");
            };
            assert_eq!(made.as_ref(), Some(&update.artifact), "seed {seed}");
        }
    }
}

/// A job whose sites never answer where `frozen` went on without them, and at once elsewhere.
fn replayed(accepted: &Accepted, frozen: &World) -> World {
    let segmented: Option<Vec<&str>> = match frozen.end() {
        Some(Event::Finished(finished)) if finished.results.is_none() => {
            Some(finished.segmentations.iter().map(|made| &*made.site).collect())
        }
        _ => None,
    };
    let sleeps = |key: &TaskKey| match frozen.left_out(step_of(key)) {
        Some(without) => without.contains(&key.site),
        None => {
            key.site != ORCHESTRATOR && segmented.as_ref().is_some_and(|made| !made.contains(&&*key.site))
        }
    };
    let mut world = World::of(accepted.clone());
    let mut view = View::default();
    for _ in 0..10_000 {
        view.read_all(&world);
        for action in next(&view.record) {
            world.perform(action);
        }
        if world.end().is_some() {
            return world;
        }
        let mut open = world.open();
        open.retain(|key| !sleeps(key));
        open.iter().for_each(|key| world.work(key, None));
        if open.is_empty() {
            let timers: Vec<String> = world.timers.keys().cloned().collect();
            timers.iter().for_each(|timer| world.fire(timer, true));
        }
    }
    panic!("the replayed job does not end");
}

/// An end without what only tells of how it came about.
fn outcome(world: &World) -> Option<Event> {
    let mut end = world.end().cloned();
    if let Some(Event::Finished(finished)) = &mut end {
        finished.resumes = 0;
    }
    end
}

/// Jobs that go on without one site of three, or without two.
fn elastic() -> Vec<Accepted> {
    let mut elastic = jobs();
    elastic.remove(1);
    for (job, least) in elastic.iter_mut().zip([2, 1]) {
        job.message.federation.min_sites = Some(least);
        job.message.federation.round_deadline_seconds = Some(60);
    }
    elastic.push(masked());
    elastic
}

#[test]
fn every_history_releases_the_same_once() {
    // Without a deadline nobody is gone on without.
    let mut whole = masked();
    whole.message.federation.round_deadline_seconds = None;
    for accepted in jobs().into_iter().chain([whole]) {
        let expected = undisturbed(&accepted);
        for seed in 0..500 {
            let world = disturbed(&accepted, &mut Random(seed), Trouble::default());
            check(&accepted, &world, seed);
            assert_eq!(world.releases(), expected.releases(), "seed {seed}");
            assert_eq!(world.end(), expected.end(), "seed {seed}");
            assert_eq!(world.tasks.len(), expected.tasks.len(), "seed {seed}");
        }
    }
}

#[test]
fn what_fails_for_now_or_is_resumed_changes_nothing_of_the_outcome() {
    let mut resumed = 0;
    for mut accepted in jobs() {
        for deadline in [None, Some(60)] {
            accepted.message.federation.round_deadline_seconds = deadline;
            let expected = undisturbed(&accepted);
            for seed in 0..60 {
                let trouble = Trouble {
                    retries: 3,
                    failures: 40,
                    cancels: 100,
                    sleeps: 10,
                    stays: 1 << 30,
                };
                let world = disturbed(&accepted, &mut Random(seed), trouble);
                check(&accepted, &world, seed);
                assert_eq!(world.releases(), expected.releases(), "seed {seed}");
                assert_eq!(outcome(&world), outcome(&expected), "seed {seed}");
                resumed += usize::from(world.record.resumes() > 0);
            }
        }
    }
    assert!(resumed > 60, "{resumed} were resumed");
}

#[test]
fn a_job_that_fails_or_is_cancelled_ends_once_with_no_task_open() {
    let (mut failed, mut cancelled) = (0, 0);
    for accepted in jobs().into_iter().chain(elastic()) {
        for seed in 0..150 {
            let trouble = Trouble {
                retries: 6,
                failures: 20,
                cancels: 200,
                sleeps: 10,
                stays: 0,
            };
            let world = disturbed(&accepted, &mut Random(seed), trouble);
            check(&accepted, &world, seed);
            assert_eq!(world.events.iter().filter(|event| event.is_end()).count(), 1);
            match world.end() {
                Some(Event::Failed(event)) => {
                    failed += 1;
                    assert_eq!(event.failure.code, "bad-case");
                }
                Some(Event::Cancelled(_)) => cancelled += 1,
                _ => {}
            }
        }
    }
    assert!(
        failed > 100 && cancelled > 100,
        "{failed} failed, {cancelled} cancelled"
    );
}

#[test]
fn the_outcome_is_a_function_of_who_took_part() {
    let (mut partial, mut late) = (0, 0);
    for accepted in elastic() {
        for seed in 0..250 {
            let trouble = Trouble {
                retries: 6,
                failures: 60,
                cancels: 300,
                sleeps: 30,
                stays: 1 << 30,
            };
            let world = disturbed(&accepted, &mut Random(seed), trouble);
            check(&accepted, &world, seed);
            let replayed = replayed(&accepted, &world);
            assert_eq!(world.releases(), replayed.releases(), "seed {seed}");
            assert_eq!(outcome(&world), outcome(&replayed), "seed {seed}");
            partial += usize::from(world.record.releases.iter().any(|next| !next.without.is_empty()));
            late += world
                .results
                .iter()
                .filter(|result| {
                    matches!(result.outcome, Outcome::Done { .. })
                        && world
                            .left_out(step_of(&result.key))
                            .is_some_and(|without| without.contains(&result.key.site))
                })
                .count();
        }
    }
    assert!(
        partial > 100 && late > 50,
        "{partial} went on without a site; {late} late results counted nowhere"
    );
}
