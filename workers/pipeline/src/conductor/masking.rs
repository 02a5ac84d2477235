//! What is hidden in a sum. The fingerprint's numbers: pass 3 of fingerprint makes keys, which go to all sites with passes
//! 1 and 2. All sites take part, so no mask need be taken off.
//!
//! A round whose updates are masked: pass 2 makes keys, pass 3 shares the secrets behind them, pass 0 trains, pass 4
//! tells what takes the masks off the sum. Each goes on with those who are done with the one before.
//!
//! What sites tell each other goes by way of the releases: sealed, but for the keys, which the sites sign.

use schemas::{
    event::{Event, Release},
    masking::{LARGEST_TOTAL, SealedShares, SignedKeys, SiteShares, Unmasking},
    names::{self, Phase},
    task::{Failure, TaskInput, TaskOutput, Update},
};

use super::{
    next::{Job, Outputs},
    record::{Record, Step},
    train,
};

/// Behind the passes that train and score.
pub(super) const KEYS: u32 = 2;
pub(super) const SHARES: u32 = 3;
pub(super) const UNMASK: u32 = 4;

/// The pass of fingerprint that makes its keys.
pub(super) const FINGERPRINT_KEYS: u32 = 3;

fn step(round: u32, pass: u32) -> Step {
    Step {
        phase: Phase::TrainRound,
        round,
        pass,
    }
}

fn fingerprint_step() -> Step {
    Step::once(Phase::Fingerprint, FINGERPRINT_KEYS)
}

/// Before the scan of a fingerprint whose numbers are hidden.
pub(super) fn fingerprint_release(job: &Job<'_>) -> Event {
    job.at_sites(fingerprint_step(), |_| (1, TaskInput::MakeKeys {}))
}

/// The keys of a fingerprint whose numbers are hidden; none where they are not.
pub(super) fn fingerprint_keys(job: &Job<'_>) -> Result<Vec<SignedKeys>, Failure> {
    if job.accepted.message.federation.secure_aggregation.is_none() {
        return Ok(Vec::new());
    }
    let made = job.record.outputs_of(fingerprint_step());
    keys(&made).ok_or_else(|| job.unknown_step())
}

/// The start of a round.
pub(super) fn release(job: &Job<'_>, round: u32) -> Event {
    job.at_sites(step(round, KEYS), |_| (1, TaskInput::MakeKeys {}))
}

/// After the keys: each site that made some shares its secrets with the others.
pub(super) fn after_keys(job: &Job<'_>, outputs: &Outputs) -> Result<Event, Failure> {
    let keys = keys(outputs).ok_or_else(|| job.unknown_step())?;
    Ok(job.at_some(step(job.step.round, SHARES), |member| {
        let takes_part = keys.iter().any(|own| own.keys.site == member.site);
        takes_part.then(|| (1, TaskInput::ShareSecrets { keys: keys.clone() }))
    }))
}

/// After the shares: those who shared train.
pub(super) fn after_shares(job: &Job<'_>, outputs: &Outputs) -> Result<Event, Failure> {
    let round = job.step.round;
    let sharers = outputs.iter().map(|(site, _)| site.clone()).collect();
    train::release_at(job, round, train::base(job, round)?, sharers)
}

/// After the training: those whose masked update is there tell what takes the masks off.
pub(super) fn after_training(job: &Job<'_>, outputs: &Outputs) -> Result<Event, Failure> {
    let round = job.step.round;
    let shared = job.record.outputs_of(step(round, SHARES));
    let sharers: Vec<String> = shared.iter().map(|(site, _)| site.clone()).collect();
    let counted: Vec<String> = outputs.iter().map(|(site, _)| site.clone()).collect();
    let sealed: Vec<&SealedShares> = shared
        .iter()
        .flat_map(|(_, outputs)| outputs)
        .filter_map(|output| match output {
            TaskOutput::Shared { shares } => Some(shares),
            _ => None,
        })
        .flatten()
        .collect();
    Ok(job.at_some(step(round, UNMASK), |member| {
        let shares = sealed.iter().filter(|shares| shares.to == member.site);
        let input = || TaskInput::Unmask {
            sharers: sharers.clone(),
            counted: counted.clone(),
            shares: shares.map(|shares| (*shares).clone()).collect(),
        };
        counted.contains(&member.site).then(|| (1, input()))
    }))
}

/// After the masks were told: the sum, over all whose update is there, whether they told anything or not.
pub(super) fn after_unmasking(job: &Job<'_>, outputs: &Outputs) -> Result<Event, Failure> {
    let round = job.step.round;
    let trained = job.record.outputs_of(step(round, 0));
    let shares: Vec<SiteShares> = outputs
        .iter()
        .flat_map(|(_, outputs)| outputs)
        .filter_map(|output| match output {
            TaskOutput::Unmasked { shares } => Some(shares.clone()),
            _ => None,
        })
        .collect();
    let made = job.record.outputs_of(step(round, KEYS));
    let unmasking = Unmasking {
        keys: keys(&made).ok_or_else(|| job.unknown_step())?,
        sharers: sharers(job.record, round),
        shares,
    };
    train::average(job, round, &trained, Some(unmasking))
}

/// Refuses updates that count too much.
pub(super) fn check_total(updates: &[Update]) -> Result<(), Failure> {
    let total: u64 = updates.iter().map(|update| update.weight).sum();
    if total <= LARGEST_TOTAL {
        return Ok(());
    }
    let message = format!("the updates count {total} together: masked ones may count {LARGEST_TOTAL}");
    Err(Failure::fatal("masked-weights", message))
}

fn keys(outputs: &Outputs) -> Option<Vec<SignedKeys>> {
    let of_site = |(_, outputs): &(String, Vec<TaskOutput>)| match &outputs[..] {
        [TaskOutput::Keys { keys }] => Some(keys.clone()),
        _ => None,
    };
    outputs.iter().map(of_site).collect()
}

/// The sites that shared their secrets in a round, in order.
pub(super) fn sharers(record: &Record, round: u32) -> Vec<String> {
    let shared = record.outputs_of(step(round, SHARES));
    shared.into_iter().map(|(site, _)| site).collect()
}

/// Checks what a site made of a pass against what was asked for.
pub(super) fn check_keys(keys: &SignedKeys, release: &Release, site: &str) -> Result<(), String> {
    let own = &keys.keys;
    let Release {
        job, phase, round, ..
    } = release;
    if (&own.job, own.phase, own.round, &*own.site) != (job, *phase, *round, site) {
        return Err(format!(
            "the keys are of site {}, job {}, {} {}: expected site {site}, job {job}, {phase} {round}",
            own.site, own.job, own.phase, own.round
        ));
    }
    for (name, digits) in [
        ("sharing", &own.sharing),
        ("masking", &own.masking),
        ("seed", &own.seed),
    ] {
        check_digits(&format!("keys.{name}"), digits, 32)?;
    }
    Ok(())
}

/// One for each other site, in order.
pub(super) fn check_sealed(shares: &[SealedShares], keys: &[SignedKeys], site: &str) -> Result<(), String> {
    let expected = keys.iter().map(|own| &*own.keys.site).filter(|to| *to != site);
    if !shares.iter().map(|shares| &*shares.to).eq(expected) {
        return Err("the shares are not one for each other site, in order".to_owned());
    }
    for shares in shares {
        if shares.from != site {
            return Err(format!("a share is from {}: expected {site}", shares.from));
        }
        // Two shares, and the tag that seals them.
        check_digits("sealed", &shares.sealed, 80)?;
    }
    Ok(())
}

/// A seed's share for each whose update counts, a key's for each other sharer, in order.
pub(super) fn check_told(
    told: &SiteShares,
    sharers: &[String],
    counted: &[String],
    site: &str,
) -> Result<(), String> {
    if told.site != site {
        return Err(format!("the shares are told by {}: expected {site}", told.site));
    }
    let rest = sharers.iter().filter(|sharer| !counted.contains(sharer));
    if !told.seeds.iter().map(|share| &share.site).eq(counted.iter())
        || !told.keys.iter().map(|share| &share.site).eq(rest)
    {
        return Err("the shares are not of each site's one secret, in order".to_owned());
    }
    let mut all = told.seeds.iter().chain(&told.keys);
    all.try_for_each(|share| check_digits("share", &share.share, 32))
}

fn check_digits(name: &str, digits: &str, bytes: usize) -> Result<(), String> {
    names::check_hex(name, digits, bytes).map_err(|error| error.to_string())
}
