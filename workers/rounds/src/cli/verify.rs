//! `rounds verify`: a job, checked by somebody who trusts its members' keys and nothing else.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use clap::Args;
use nnunet::{
    average::{Contribution, average},
    checkpoint::results::ModelFolder,
    network::Layout,
    progress::Unobserved,
    train::network_of,
    update::Update,
};
use pipeline::{
    archive::{Archive, Evidence},
    conductor::ShardState,
    signing::{self, RosterFile},
};
use schemas::{
    event::{Accepted, Event, Release},
    job::Payload,
    masking::Unmasking,
    names::{ORCHESTRATOR, Phase},
    nnunet::DatasetJson,
    roster::Roster,
    task::{self, ArtifactRef, TaskInput, TaskOutput},
};

use crate::phases::{
    average::combine,
    model::{model_folder, unpack},
};

/// Check a job by its members' signatures alone
///
/// Who submitted it; that each result is signed by the site it names; that the orchestrator released each step as it
/// follows from them; that each average is that of the signed updates, where the archive keeps these (keep_updates in
/// the orchestrator's settings); and that the final checkpoint holds the last average.
#[derive(Args)]
pub struct Verify {
    /// The job's id
    job: String,
    /// The orchestrators' archive, or a copy of it
    #[arg(long)]
    archive: PathBuf,
    /// Who belongs to the federation
    #[arg(long)]
    roster: PathBuf,
}

impl Verify {
    /// Prints a line a check; fails at the first that does not hold.
    pub fn run(self) -> anyhow::Result<()> {
        let archive = Archive::open(&self.archive)?;
        let roster = RosterFile::open(&self.roster)?.roster();
        let evidence = archive.evidence(&self.job, &roster)?;
        let accepted = evidence
            .record
            .accepted
            .as_ref()
            .context("the job was never accepted")?;
        submitted(accepted, &roster)?;
        results(&evidence)?;
        match evidence.check_releases() {
            Ok(releases) => println!("releases    {releases}, each as it follows from the results before it"),
            Err(step) => {
                bail!("{step}: the orchestrator's decision does not follow from the results before it")
            }
        }
        let again = averages(&archive, &evidence, accepted)?;
        checkpoint(&archive, &evidence, accepted)?;
        ensure!(
            again,
            "not all averages could be made again: keep_updates was not set for this job, or a norm_bound is measured from \
             weights that the archive does not hold"
        );
        Ok(())
    }
}

fn submitted(accepted: &Accepted, roster: &Roster) -> anyhow::Result<()> {
    let signed = accepted
        .signed
        .as_ref()
        .context("the job's message is not signed")?;
    let message = signing::check_body(signed)?;
    let keys = roster.submitters.get(&signed.submitter);
    ensure!(
        keys.is_some_and(|keys| keys.all().any(|key| key == signed.key)),
        "the job is signed with {}, which is no key of submitter {:?} in the roster",
        signed.key,
        signed.submitter
    );
    ensure!(
        message == accepted.message,
        "the job that was accepted is not the one that {} signed",
        signed.submitter
    );
    println!("submitter   {}, with key {}", signed.submitter, signed.key);
    Ok(())
}

fn results(evidence: &Evidence) -> anyhow::Result<()> {
    for (key, reason) in &evidence.refused {
        println!(
            "refused     {} {} round {}: {reason}",
            key.site, key.phase, key.round
        );
    }
    println!(
        "results     {} signed, {} refused",
        evidence.signed,
        evidence.refused.len()
    );
    Ok(())
}

/// Averages every round's updates again. False where the archive lacks some.
fn averages(archive: &Archive, evidence: &Evidence, accepted: &Accepted) -> anyhow::Result<bool> {
    let (mut again, mut missing) = (0, Vec::new());
    let temporary = tempfile::tempdir()?;
    let output = temporary.path().join("average.safetensors");
    for average in evidence
        .record
        .releases
        .iter()
        .filter_map(|release| Averaged::of(evidence, release))
    {
        match average.again(archive, accepted, &output)? {
            true => again += 1,
            false => missing.push(average.round),
        }
    }
    println!("averages    {again} made again from the signed updates, to the same bytes");
    if !missing.is_empty() {
        println!(
            "            {} could not be: their updates, or what bounds them, were not kept",
            missing.len()
        );
    }
    Ok(missing.is_empty())
}

/// What went into an average, and what came out.
struct Averaged<'a> {
    round: u32,
    updates: &'a [task::Update],
    base: Option<&'a task::Base>,
    unmasking: Option<&'a Unmasking>,
    global: &'a ArtifactRef,
}

impl<'a> Averaged<'a> {
    fn of(evidence: &'a Evidence, release: &'a Release) -> Option<Self> {
        let work = release.work.first().filter(|_| release.phase == Phase::Average)?;
        let TaskInput::Average {
            updates,
            base,
            unmasking,
        } = &work.input
        else {
            return None;
        };
        match evidence.record.shard(release, ORCHESTRATOR, 0) {
            ShardState::Done(TaskOutput::Averaged { global, .. }) => Some(Self {
                round: release.round,
                updates,
                base: base.as_ref(),
                unmasking: unmasking.as_ref(),
                global,
            }),
            _ => None,
        }
    }

    /// Makes it again in a file. False where the archive lacks an update.
    fn again(&self, archive: &Archive, accepted: &Accepted, output: &Path) -> anyhow::Result<bool> {
        let kept = |digest: &str| archive.find(&accepted.job, digest);
        let mut contributions = Vec::new();
        for update in self.updates {
            let Some(weights) = kept(&update.artifact.digest) else {
                return Ok(false);
            };
            must_be(
                &update.artifact.digest,
                &weights,
                &format!("the update of {}", update.site),
            )?;
            contributions.push(Contribution {
                site: update.site.clone(),
                weights,
                weight: update.weight,
            });
        }
        match self.unmasking {
            Some(unmasking) => {
                let (round, observer) = (self.round, &Unobserved);
                combine::sum(accepted, round, &contributions, unmasking, output, observer)
                    .map_err(|failure| anyhow!(failure.message))?;
            }
            None => {
                let base = self.base.map(|base| base.weights.digest());
                let base = match base.map(|digest| (digest, kept(digest))) {
                    Some((_, None)) => return Ok(false),
                    Some((digest, Some(file))) => {
                        must_be(digest, &file, "what the round started from")?;
                        Some(file)
                    }
                    None => None,
                };
                let rule = combine::rule(&accepted.message.federation, base)
                    .map_err(|failure| anyhow!(failure.message))?;
                average(&contributions, &rule, output, &Unobserved)?;
            }
        }
        must_be(
            &self.global.digest,
            output,
            &format!("the average of round {}", self.round),
        )?;
        Ok(true)
    }
}

fn must_be(digest: &str, file: &Path, what: &str) -> anyhow::Result<()> {
    let (found, _) = pipeline::artifacts::digest_file(file)?;
    ensure!(
        found == digest,
        "{what}: found digest {found}, the signed one is {digest}"
    );
    Ok(())
}

/// The final checkpoint holds the last average, tensor for tensor.
fn checkpoint(archive: &Archive, evidence: &Evidence, accepted: &Accepted) -> anyhow::Result<()> {
    let (Some(Event::Finished(finished)), Payload::Training(training)) =
        (&evidence.record.end, &accepted.message.payload)
    else {
        println!("checkpoint  none: the job is no finished training");
        return Ok(());
    };
    let kept = |artifact: &ArtifactRef, what: &str| {
        let file = archive.find(&accepted.job, &artifact.digest);
        let file = file.with_context(|| format!("{what} is not in the archive"))?;
        must_be(&artifact.digest, &file, what)?;
        anyhow::Ok(file)
    };
    let results = finished.results.as_ref().context("the job has no results")?;
    let mut averages = evidence.record.releases.iter().rev();
    let last = averages.find_map(|release| Averaged::of(evidence, release));
    let global = last.context("the job has no average")?.global;
    let temporary = tempfile::tempdir()?;
    let unpacked = temporary.path().join("results");
    unpack(&kept(results, "the results folder")?, &unpacked).map_err(|failure| anyhow!(failure.message))?;
    let folder = model_folder(&unpacked).map_err(|failure| anyhow!(failure.message))?;
    let model = ModelFolder::open(&folder)?;
    let dataset_json: DatasetJson = schemas::parse(model.dataset_json.to_string().as_bytes())?;
    let configuration = model.plans.configuration(training.model_configuration.as_str())?;
    let layout = Layout::new(
        &network_of(&training.trainer_name, &configuration.architecture),
        dataset_json.channels(),
        dataset_json.segmentation_heads(),
    )?;
    let average = std::fs::read(kept(global, "the last average")?)?;
    let average = Update::from_bytes(&average, "the last average", &layout)?;
    let checkpoint = model.checkpoint(training.fold_id, "checkpoint_final.pth")?;
    ensure!(
        checkpoint.weights(&layout)? == average.weights,
        "checkpoint_final.pth does not hold the last average, {}",
        global.digest
    );
    println!(
        "checkpoint  checkpoint_final.pth holds the last average, {}",
        global.digest
    );
    println!("results     {}", results.digest);
    Ok(())
}
