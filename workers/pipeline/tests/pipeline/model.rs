//! A model of JetStream, for the conductor's pure function.

use std::collections::{BTreeMap, BTreeSet};

use pipeline::{
    conductor::{Action, Purge, Record, Step, next},
    subjects,
};
use schemas::{
    event::{Accepted, DeadlinePassed, Event},
    job::SecureAggregation,
    task::{ArtifactRef, Failure, Outcome, Task, TaskKey, TaskOutput, TaskResult},
};

use crate::canned;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
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
    /// The events, as a record takes them.
    pub record: Record,
    pub timers: BTreeMap<String, DeadlinePassed>,
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
        let mut world = Self::default();
        world.event(Event::Accepted(Box::new(accepted)));
        world
    }

    pub fn event(&mut self, event: Event) {
        if self.subjects.insert(subjects::event(&event)) {
            self.say(event);
        }
    }

    fn say(&mut self, event: Event) {
        self.record.event(event.clone());
        self.events.push(event);
    }

    /// The server publishes what a timer holds back. It forgets the timer, or says the same once more later.
    pub fn fire(&mut self, timer: &str, forget: bool) {
        self.say(Event::DeadlinePassed(self.timers[timer].clone()));
        if forget {
            self.timers.remove(timer);
        }
    }

    fn answer(&mut self, result: TaskResult) {
        if self.answered.insert(result.key.clone()) {
            self.results.push(result);
        }
    }

    pub fn perform(&mut self, action: Action) {
        match action {
            Action::Publish(Event::Released(mut release)) => {
                let accepted = self.record.accepted.as_ref().unwrap();
                let timed = accepted.message.federation.round_deadline_seconds.is_some();
                if timed && !release.phase.at_orchestrator() {
                    release.deadline = Some(format!("the deadline of {}", Step::of(&release)));
                }
                self.event(Event::Released(release));
            }
            Action::Publish(event) => self.event(event),
            Action::Timer(timer) => {
                let subject = subjects::timer(&timer.passed, timer.resumes);
                self.timers.entry(subject).or_insert(timer.passed);
            }
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
        self.answer_with(key, failure, |_| {});
    }

    /// Does a task, with a change to its output.
    pub fn work_as(&mut self, key: &TaskKey, change: impl FnOnce(&mut TaskOutput)) {
        self.answer_with(key, None, change);
    }

    fn answer_with(
        &mut self,
        key: &TaskKey,
        mut failure: Option<Failure>,
        change: impl FnOnce(&mut TaskOutput),
    ) {
        let task = self.tasks[key].clone();
        if self.answered.contains(key) {
            return;
        }
        for artifact in canned::artifacts_in(&task.input) {
            let needed = (artifact.owner, artifact.digest);
            if self.purged.contains(&needed) {
                // Only one who comes too late may find something gone.
                assert!(
                    self.is_left_out(key),
                    "{key:?} needs {needed:?}, which was purged"
                );
                failure = Some(Failure::retryable("artifact-missing", "it was purged"));
            }
        }
        let mut uploaded = Vec::new();
        let outcome = match failure {
            Some(failure) => Outcome::Failed { failure },
            None => {
                let mut output = canned::output(&task, &mut |bytes| {
                    let artifact = ArtifactRef {
                        owner: canned::owner(&key.site).to_owned(),
                        job: key.job.clone(),
                        digest: schemas::sha256(&bytes),
                        size: bytes.len() as u64,
                    };
                    uploaded.push((artifact.owner.clone(), artifact.digest.clone()));
                    Ok(artifact)
                })
                .unwrap();
                change(&mut output);
                Outcome::Done { output }
            }
        };
        for name in uploaded {
            self.purged.remove(&name);
            self.uploaded.insert(name);
        }
        self.answer(TaskResult {
            key: key.clone(),
            outcome,
            made: None,
            signature: None,
        });
    }

    /// The sites that a step was gone on from without; none while the step is the last.
    pub fn left_out(&self, step: Step) -> Option<&[String]> {
        let releases = &self.record.releases;
        let place = releases.iter().position(|release| Step::of(release) == step)?;
        releases.get(place + 1).map(|next| &*next.without)
    }

    fn is_left_out(&self, key: &TaskKey) -> bool {
        self.left_out(step_of(key))
            .is_some_and(|without| without.contains(&key.site))
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
        self.record.end.as_ref()
    }
}

impl View {
    /// Reads one message of either stream; duplicates of results are read now and then.
    pub fn read(&mut self, world: &World, random: &mut Random) {
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

/// The step that a task is of.
pub fn step_of(key: &TaskKey) -> Step {
    Step {
        phase: key.phase,
        round: key.round,
        pass: key.pass,
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

/// A job of four sites whose updates are masked, and that goes on with three.
pub fn masked() -> Accepted {
    let sites = ["a", "b", "c", "d"];
    let mut job = canned::accepted("m", canned::training(Some("m"), &sites, 3), &sites);
    job.message.federation.secure_aggregation = Some(SecureAggregation::default());
    job.message.federation.min_sites = Some(3);
    job.message.federation.round_deadline_seconds = Some(60);
    job
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
