//! Random kills of everything and a bad line, over whole jobs: each ends in the bytes of the undisturbed one.
//!
//! Kills are counted in things that happen to the job, not in time, so that a seed says what is killed and in what order.
//! `just chaos` runs the long version.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use pipeline::client::Watched;
use schemas::event::{Event, Finished};
use serde_json::json;
use tests::{
    federation::{Dataset, Federation, ORCHESTRATOR},
    scans::{SMALL, Scans},
};

const SITES: [&str; 3] = ["alpha", "beta", "gamma"];
/// The second orchestrator: the two share an archive, and race.
const OTHER: &str = "orchestrator-2";

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

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    KillServer,
    KillOrchestrator(&'static str),
    KillAllOrchestrators,
    KillSite(&'static str),
    Cut(&'static str),
    Halve(&'static str),
    Delay(&'static str),
}

impl Trouble {
    fn draw(random: &mut Random) -> Self {
        let site = SITES[random.below(SITES.len())];
        match random.below(16) {
            0..=4 => Trouble::KillServer,
            5 | 6 => Trouble::KillOrchestrator(ORCHESTRATOR),
            7 | 8 => Trouble::KillOrchestrator(OTHER),
            9 | 10 => Trouble::KillAllOrchestrators,
            11 | 12 => Trouble::KillSite(site),
            13 => Trouble::Cut(site),
            14 => Trouble::Delay(site),
            _ => Trouble::Halve(site),
        }
    }

    /// Makes it happen. Gives how many processes were killed.
    fn strike(self, federation: &mut Federation) -> anyhow::Result<usize> {
        match self {
            Trouble::KillServer => federation.kill_server()?,
            Trouble::KillOrchestrator(name) | Trouble::KillSite(name) => federation.kill(name)?,
            Trouble::KillAllOrchestrators => {
                federation.kill_together(&[ORCHESTRATOR, OTHER])?;
                return Ok(2);
            }
            Trouble::Cut(site) => federation.line(site)?.cut(),
            Trouble::Halve(site) => federation.line(site)?.halve(),
            Trouble::Delay(site) => federation.line(site)?.delay(Duration::from_millis(20)),
        }
        Ok(match self {
            Trouble::Cut(_) | Trouble::Halve(_) | Trouble::Delay(_) => 0,
            _ => 1,
        })
    }
}

/// The federation, each site behind a line of its own.
fn federation(data: Option<&Path>) -> anyhow::Result<Federation> {
    let mut federation = Federation::start()?;
    federation.orchestrator(OTHER)?;
    let sets: Vec<String> = match data {
        Some(folder) => {
            let mut sets = Vec::new();
            for site in fs::read_dir(folder)? {
                for set in fs::read_dir(site?.path())? {
                    sets.push(set?.path().display().to_string());
                }
            }
            sets.sort();
            anyhow::ensure!(
                sets.len() == SITES.len(),
                "{}: expected three data sets, as `rounds demo` leaves them, found {sets:?}",
                folder.display()
            );
            sets
        }
        None => Vec::new(),
    };
    for (index, site) in SITES.iter().enumerate() {
        let folder = match sets.get(index) {
            Some(set) => set.clone(),
            None => {
                let folder = format!("Dataset044_{site}");
                let scans = Scans {
                    seed: index as u64,
                    cases: 2,
                    ..SMALL
                };
                scans.write(&federation.folder().join(&folder))?;
                folder
            }
        };
        let dataset = Dataset {
            id: site,
            folder: &folder,
            dataset_id: Some(44),
        };
        federation.behind_a_line(site)?;
        federation.site(site, &[dataset])?;
    }
    Ok(federation)
}

/// Trains jobs until so many processes were killed.
fn chaos(seed: u64, kills: usize, rounds: u32, data: Option<&Path>) -> anyhow::Result<()> {
    println!("chaos with seed {seed}: {kills} kills");
    let mut federation = federation(data)?;
    let mut random = Random(seed);
    let calm = train(&mut federation, "calm", rounds, None)?;
    println!("calm: {}", calm.digest);
    let (mut killed, mut jobs, mut struck) = (0, 0, BTreeMap::new());
    while killed < kills {
        jobs += 1;
        let mut storm = Storm {
            random: &mut random,
            left: kills - killed,
            struck: &mut struck,
        };
        let job = format!("storm-{jobs}");
        let stormy = train(&mut federation, &job, rounds, Some(&mut storm))?;
        killed = kills - storm.left;
        println!("{job}: {} after {killed} kills", stormy.digest);
        anyhow::ensure!(
            stormy == calm,
            "seed {seed}: {job} ended in other bytes than the undisturbed job\n{}",
            federation.said()
        );
    }
    println!("{killed} kills over {jobs} jobs, all ended in {}", calm.digest);
    for (trouble, times) in struck {
        println!("  {times:4} {trouble:?}");
    }
    Ok(())
}

struct Storm<'a> {
    random: &'a mut Random,
    /// Kills that are still to come.
    left: usize,
    struck: &'a mut BTreeMap<Trouble, usize>,
}

/// What must not depend on any disturbance.
#[derive(Debug, PartialEq)]
struct End {
    /// Of the final checkpoint.
    digest: String,
    /// Of all averages.
    weights: Vec<String>,
}

fn train(
    federation: &mut Federation,
    job: &str,
    rounds: u32,
    mut storm: Option<&mut Storm<'_>>,
) -> anyhow::Result<End> {
    let job = federation.submit(&json!({
        "job_id": job,
        "datasets": SITES,
        "payload": { "mode": "training", "num_rounds": rounds, "dataset_id": 44, "epochs_per_round": 2,
                     "model_configuration": "3d_fullres", "device": "cpu" },
        "federation": { "iterations_per_epoch": 2, "val_iterations_per_epoch": 1, "seed": 5, "name": "chaos",
                        "gpu_memory_target_gb": 1.0 },
    }))?;
    let mut watching = federation.watch(&job)?;
    let mut until = storm.as_mut().map_or(0, |storm| 1 + storm.random.below(20));
    let finished: Finished = loop {
        match watching.next(federation)? {
            Watched::Event(Event::Finished(finished)) => break *finished,
            Watched::Event(event) if event.is_end() => {
                anyhow::bail!("job {job}: {event:?}\n{}", federation.said())
            }
            _ => {}
        }
        let Some(storm) = storm.as_mut().filter(|storm| storm.left > 0) else {
            continue;
        };
        until = until.saturating_sub(1);
        if until == 0 {
            let trouble = Trouble::draw(storm.random);
            storm.left = storm.left.saturating_sub(trouble.strike(federation)?);
            *storm.struck.entry(trouble).or_insert(0) += 1;
            until = 1 + storm.random.below(20);
        }
    };
    let model = federation.download(&job)?;
    let checkpoint = fs::read(model[0].join("fold_all/checkpoint_final.pth"))?;
    let scores = finished.history.scores.into_iter();
    Ok(End {
        digest: schemas::sha256(&checkpoint),
        weights: scores.map(|score| score.weights).collect(),
    })
}

#[test]
fn a_few_random_kills_change_no_byte() {
    chaos(8, 6, 2, None).unwrap();
}

/// ROUNDS_CHAOS_SEED, ROUNDS_CHAOS_KILLS; ROUNDS_CHAOS_DATA: the folder `demo` in the home of a `rounds demo`.
#[test]
#[ignore = "an hour: just chaos"]
fn many_random_kills_change_no_byte() {
    let number = |name: &str, default: u64| match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}: {text:?} is no number")),
        Err(_) => default,
    };
    let seed = number("ROUNDS_CHAOS_SEED", 1);
    let kills = number("ROUNDS_CHAOS_KILLS", 200);
    let data = std::env::var_os("ROUNDS_CHAOS_DATA");
    chaos(seed, kills as usize, 3, data.as_deref().map(Path::new)).unwrap();
}
