//! The conductor's pure function against a model of JetStream: thousands of histories in which conductors
//! lag, race and crash in the middle of what they do, and tasks fail, are done twice and come in any order.

use std::collections::{BTreeMap, BTreeSet};

use pipeline::{
    conductor::{Action, MAX_ATTEMPTS, Purge, Record, next},
    subjects,
};
use schemas::{
    event::{Accepted, Cancelled, Event},
    task::{ArtifactRef, Failure, Outcome, Task, TaskKey, TaskResult},
};

use crate::canned;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// The streams, with their create-only rule.
#[derive(Default)]
pub struct World {
    pub events: Vec<Event>,
    subjects: BTreeSet<String>,
    pub tasks: BTreeMap<TaskKey, Task>,
    pub results: Vec<TaskResult>,
    answered: BTreeSet<TaskKey>,
    purged: BTreeSet<(String, String)>,
    uploaded: BTreeSet<(String, String)>,
}

/// One conductor's view: how far it has read.
#[derive(Default)]
pub struct View {
    pub record: Record,
    events: usize,
    results: usize,
}

impl World {
    pub fn of(accepted: Accepted) -> Self {
        Self {
            events: vec![Event::Accepted(Box::new(accepted))],
            ..Self::default()
        }
    }

    fn event(&mut self, event: Event) {
        let subject = match &event {
            Event::Released(release) => {
                subjects::release(&release.job, release.phase, release.round, release.pass)
            }
            end => subjects::end(end.job()),
        };
        if self.subjects.insert(subject) {
            self.events.push(event);
        }
    }

    fn answer(&mut self, result: TaskResult) {
        if self.answered.insert(result.key.clone()) {
            self.results.push(result);
        }
    }

    pub fn perform(&mut self, action: Action) {
        match action {
            Action::Publish(event) => self.event(event),
            Action::Task(task) => match self.tasks.get(&task.key) {
                Some(standing) => assert_eq!(*standing, task, "conductors publish the same task"),
                None => drop(self.tasks.insert(task.key.clone(), task)),
            },
            Action::Close(result) => self.answer(result),
            Action::Purge(Purge { owner, digest, .. }) => match digest {
                Some(digest) => drop(self.purged.insert((owner, digest))),
                None => {
                    let own = self.uploaded.iter().filter(|(by, _)| *by == owner).cloned();
                    self.purged.extend(own.collect::<Vec<_>>());
                }
            },
        }
    }

    /// Does a task, again or not.
    pub fn work(&mut self, key: &TaskKey, failure: Option<Failure>) {
        let task = self.tasks[key].clone();
        if self.answered.contains(key) {
            return;
        }
        for artifact in canned::artifacts_in(&task.input) {
            let needed = (artifact.owner, artifact.digest);
            assert!(
                !self.purged.contains(&needed),
                "{key:?} needs {needed:?}, which was purged"
            );
        }
        let mut uploaded = Vec::new();
        let outcome = match failure {
            Some(failure) => Outcome::Failed { failure },
            None => Outcome::Done {
                output: canned::output(&task, &mut |bytes| {
                    let artifact = ArtifactRef {
                        owner: canned::owner(&key.site).to_owned(),
                        job: key.job.clone(),
                        digest: schemas::sha256(&bytes),
                        size: bytes.len() as u64,
                    };
                    uploaded.push((artifact.owner.clone(), artifact.digest.clone()));
                    Ok(artifact)
                })
                .unwrap(),
            },
        };
        for name in uploaded {
            self.purged.remove(&name);
            self.uploaded.insert(name);
        }
        self.answer(TaskResult {
            key: key.clone(),
            outcome,
            made: None,
        });
    }

    pub fn open(&self) -> Vec<TaskKey> {
        let open = self.tasks.keys().filter(|key| !self.answered.contains(key));
        open.cloned().collect()
    }

    pub fn releases(&self) -> Vec<Event> {
        let releases = self
            .events
            .iter()
            .filter(|event| matches!(event, Event::Released(_)));
        releases.cloned().collect()
    }

    pub fn end(&self) -> Option<&Event> {
        self.events.iter().find(|event| event.is_end())
    }
}

impl View {
    /// Reads one message of either stream; duplicates of results are read now and then.
    fn read(&mut self, world: &World, random: &mut Random) {
        if random.below(2) == 0 && self.events < world.events.len() {
            self.record.event(world.events[self.events].clone());
            self.events += 1;
        } else if self.results < world.results.len() {
            self.record.result(world.results[self.results].clone());
            self.results += 1;
            let again = random.below(self.results);
            self.record.result(world.results[again].clone());
        }
    }

    pub fn read_all(&mut self, world: &World) {
        for event in &world.events[self.events..] {
            self.record.event(event.clone());
        }
        for result in &world.results[self.results..] {
            self.record.result(result.clone());
        }
        (self.events, self.results) = (world.events.len(), world.results.len());
    }
}

/// One conductor that reads everything, and tasks done in order.
pub fn undisturbed(accepted: &Accepted) -> World {
    let mut world = World::of(accepted.clone());
    let mut view = View::default();
    for _ in 0..10_000 {
        view.read_all(&world);
        for action in next(&view.record) {
            world.perform(action);
        }
        for key in world.open() {
            world.work(&key, None);
        }
        if world.end().is_some() {
            return world;
        }
    }
    panic!("the undisturbed job does not end");
}

/// What may go wrong in a history.
#[derive(Clone, Copy)]
struct Trouble {
    /// One task in so many fails and is tried again; 0: none.
    retries: usize,
    /// One task in so many fails for good; 0: none.
    failures: usize,
    /// One turn in so many cancels the job; 0: none.
    cancels: usize,
}

/// A random history up to its end. Conductors read, act in part, and forget all.
fn disturbed(accepted: &Accepted, random: &mut Random, trouble: Trouble) -> World {
    let mut world = World::of(accepted.clone());
    let mut views: Vec<View> = (0..1 + random.below(3)).map(|_| View::default()).collect();
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
                }
                for action in actions {
                    world.perform(action);
                }
            }
            _ => {
                let open = world.open();
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
                if chance(random, trouble.cancels) {
                    world.event(Event::Cancelled(Cancelled {
                        job: accepted.job.clone(),
                        reason: "enough".into(),
                    }));
                }
            }
        }
        if world.end().is_some() && settled(&mut world, &mut views) {
            return world;
        }
    }
    panic!("the job hangs after {:?}", world.events.last());
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

pub fn jobs() -> Vec<Accepted> {
    let sites = ["a", "b", "c"];
    let mut jobs = vec![
        canned::accepted("t", canned::training(Some("t"), &sites, 6), &sites),
        canned::accepted("one", canned::training(Some("one"), &["b"], 1), &["b"]),
        canned::accepted("i", canned::inference(Some("i"), &sites, "model"), &sites),
    ];
    jobs[0].message.federation.total_rounds = Some(8);
    jobs
}

#[test]
fn every_history_releases_the_same_once() {
    for accepted in jobs() {
        let expected = undisturbed(&accepted);
        for seed in 0..500 {
            let trouble = Trouble {
                retries: 0,
                failures: 0,
                cancels: 0,
            };
            let world = disturbed(&accepted, &mut Random(seed), trouble);
            assert_eq!(world.releases(), expected.releases(), "seed {seed}");
            assert_eq!(world.end(), expected.end(), "seed {seed}");
            assert_eq!(world.tasks.len(), expected.tasks.len(), "seed {seed}");
        }
    }
}

#[test]
fn attempts_that_fail_for_now_change_nothing_of_the_outcome() {
    for accepted in jobs() {
        let expected = undisturbed(&accepted);
        for seed in 0..150 {
            let trouble = Trouble {
                retries: 3,
                failures: 0,
                cancels: 0,
            };
            let world = disturbed(&accepted, &mut Random(seed), trouble);
            assert_eq!(world.releases(), expected.releases(), "seed {seed}");
            assert_eq!(world.end(), expected.end(), "seed {seed}");
        }
    }
}

#[test]
fn a_job_that_fails_or_is_cancelled_ends_once_with_no_task_open() {
    let (mut failed, mut cancelled) = (0, 0);
    for accepted in jobs() {
        for seed in 0..400 {
            let trouble = Trouble {
                retries: 6,
                failures: 40,
                cancels: 200,
            };
            let world = disturbed(&accepted, &mut Random(seed), trouble);
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
