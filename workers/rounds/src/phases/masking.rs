//! train-round passes 2 to 4, and what masks an update in pass 0; fingerprint pass 3, and what hides its numbers in
//! passes 1 and 2: a site's part in secure aggregation. The mathematics
//! are `nnunet::secure_sum`'s.
//!
//! What a site once agreed to in a round it keeps to, whatever it is asked later: the keys it shared its secrets by,
//! whom it masked its update for, and of whom it told which share.
//!
//!     jobs/<job>/protected/<round>/masks             the secret that all of it comes from
//!     jobs/<job>/protected/<round>/secret.json       with what was agreed to; readable by its owner alone

use std::{collections::BTreeMap, path::PathBuf};

use nnunet::{
    network::StateDict,
    secure_sum::{self, Bytes32, Group, Member, Own, PublicKeys, Revealed, Secret},
};
use pipeline::signing;
use schemas::{
    event::Accepted,
    job::{SecureAggregation, Weighting},
    masking::{RevealedShare, SealedShares, SignedKeys, SiteKeys, SiteShares, Unmasking},
    task::{Failure, Task, TaskKey, TaskOutput},
};
use serde::{Deserialize, Serialize};

use super::{failure, protected};
use crate::site::{Site, write_whole};

/// The secret, as it was drawn.
const MASKS: &str = "masks";

/// What a site keeps of a round.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// Its secret, in hexadecimal digits.
    secret: String,
    /// The keys that it shared its secrets by; empty before.
    keys: Vec<SignedKeys>,
    /// The sites whom its update was masked for; empty before.
    sharers: Vec<String>,
    /// The sites of whose seeds it told its share; empty before.
    counted: Vec<String>,
}

/// Keys for this round, or for the fingerprint.
pub fn make_keys(site: &Site, task: &Task) -> Result<TaskOutput, Failure> {
    let file = file(site, task);
    if !file.exists() {
        let kept = Kept {
            secret: hex::encode(protected::drawn(site, task, MASKS)?),
            keys: Vec::new(),
            sharers: Vec::new(),
            counted: Vec::new(),
        };
        store(site, task, &kept)?;
    }
    let public = load(site, task)?.secret()?.public_keys();
    let keys = SiteKeys {
        job: task.key.job.clone(),
        phase: task.key.phase,
        round: task.key.round,
        site: task.key.site.clone(),
        sharing: hex::encode(public.sharing),
        masking: hex::encode(public.masking),
        seed: hex::encode(public.seed),
    };
    let signer = site.identity.signer.as_ref();
    let signature = signer
        .map(|signer| signer.sign(&keys))
        .transpose()
        .map_err(|error| failure::bug(error.to_string()))?;
    Ok(TaskOutput::Keys {
        keys: SignedKeys { keys, signature },
    })
}

/// pass 3: the secrets behind the keys, sealed for each other site.
pub fn share(site: &Site, task: &Task, keys: &[SignedKeys]) -> Result<TaskOutput, Failure> {
    let mut kept = load(site, task)?;
    if !kept.keys.is_empty() && kept.keys != keys {
        return Err(changed("the keys that it shared its secrets by"));
    }
    check_members(task, keys)?;
    check_signatures(site, keys)?;
    let group = group(&task.job, task.key.round, keys)?;
    let sealed = kept.secret()?.seal(&group, &task.key.site).map_err(of_error)?;
    kept.keys = keys.to_vec();
    store(site, task, &kept)?;
    let shares = sealed.into_iter().map(|(to, sealed)| SealedShares {
        from: task.key.site.clone(),
        to,
        sealed: hex::encode(sealed),
    });
    Ok(TaskOutput::Shared {
        shares: shares.collect(),
    })
}

/// pass 0: writes the weights, hidden for a sum over `sharers`, to `output`. Returns the digest of its bytes.
pub fn mask(
    site: &Site,
    task: &Task,
    weights: &StateDict,
    weight: u64,
    sharers: &[String],
    output: &std::path::Path,
) -> Result<String, Failure> {
    let mut kept = load(site, task)?;
    if !kept.sharers.is_empty() && kept.sharers != sharers {
        return Err(changed("the sites whom it masked its update for"));
    }
    let group = group(&task.job, task.key.round, &kept.keys)?;
    kept.sharers = sharers.to_vec();
    store(site, task, &kept)?;
    let own = Own {
        site: &task.key.site,
        secret: &kept.secret()?,
        weight,
    };
    secure_sum::mask(weights, &own, &group, sharers, output).map_err(of_error)
}

/// fingerprint passes 1 and 2: hides a shard's numbers in the sum of all sites'. Every member has its part in it.
pub fn hide(site: &Site, task: &Task, keys: &[SignedKeys], numbers: &mut [u64]) -> Result<(), Failure> {
    let members = task.job.members.iter().map(|member| &member.site);
    if !keys.iter().map(|signed| &signed.keys.site).eq(members) {
        let reason =
            "the keys are not one of each of the job's sites, in order: expected so of a fingerprint";
        return Err(Failure::fatal("masking", reason));
    }
    let mut kept = load(site, task)?;
    if !kept.keys.is_empty() && kept.keys != keys {
        return Err(changed("the keys by which it hid its fingerprint"));
    }
    check_members(task, keys)?;
    check_signatures(site, keys)?;
    if kept.keys.is_empty() {
        kept.keys = keys.to_vec();
        store(site, task, &kept)?;
    }
    // One mask hides one list of numbers: all that they depend on stands in the label, and is the same at all sites.
    let input = serde_json::to_vec(&task.input).map_err(|error| failure::bug(error.to_string()))?;
    let digest = schemas::sha256(&input);
    let label = format!("{} fingerprint {} {digest}", task.key.job, task.key.pass);
    let group = labelled(&task.job, &label, keys)?;
    let (shard, shards) = (task.key.shard, task.shards);
    secure_sum::hide(numbers, &task.key.site, &kept.secret()?, &group, shard, shards).map_err(of_error)
}

/// What a masked update counts; the orchestrator divides by the same.
pub fn counts(task: &Task, cases: usize) -> u64 {
    match task.job.message.federation.weighting {
        Weighting::Cases => cases as u64,
        Weighting::Iterations | Weighting::Equal => 1,
    }
}

/// pass 4: the shares that take the masks off: of a site whose update counts that of its seed, of another that of its
/// key, and never both.
pub fn unmask(
    site: &Site,
    task: &Task,
    sharers: &[String],
    counted: &[String],
    shares: &[SealedShares],
) -> Result<TaskOutput, Failure> {
    let own = &*task.key.site;
    let mut kept = load(site, task)?;
    if kept.sharers != sharers {
        return Err(changed("the sites whom it masked its update for"));
    }
    if !kept.counted.is_empty() && kept.counted != counted {
        return Err(changed("the sites whose updates count"));
    }
    let group = group(&task.job, task.key.round, &kept.keys)?;
    group
        .check_some("the sites whose updates count", counted)
        .map_err(of_error)?;
    if let Some(stranger) = counted.iter().find(|site| !sharers.contains(site)) {
        let reason = format!("site {stranger} is to count, but shared no secrets");
        return Err(Failure::fatal("masking", reason));
    }
    // What it is about to tell of whom stands before it is told.
    kept.counted = counted.to_vec();
    store(site, task, &kept)?;
    let secret = kept.secret()?;
    let mut told = SiteShares {
        site: own.to_owned(),
        seeds: Vec::new(),
        keys: Vec::new(),
    };
    for sharer in sharers {
        let both = if sharer == own {
            secret.own_shares(&group, own).map_err(of_error)?
        } else {
            let sealed = shares
                .iter()
                .find(|shares| (&*shares.from, &*shares.to) == (sharer, own));
            let sealed = sealed.ok_or_else(|| {
                Failure::fatal("masking", format!("site {sharer}: its sealed shares are missing"))
            })?;
            let bytes = hex::decode(&sealed.sealed).map_err(|error| {
                Failure::fatal("masking", format!("site {sharer}: its sealed shares: {error}"))
            })?;
            secret.open(&group, own, sharer, &bytes).map_err(of_error)?
        };
        let (list, share) = if counted.contains(sharer) {
            (&mut told.seeds, both.seed)
        } else {
            (&mut told.keys, both.masking)
        };
        list.push(RevealedShare {
            site: sharer.clone(),
            share: hex::encode(share),
        });
    }
    Ok(TaskOutput::Unmasked { shares: told })
}

/// The group that a round goes by, at a site and at the orchestrator.
pub fn group(job: &Accepted, round: u32, keys: &[SignedKeys]) -> Result<Group, Failure> {
    labelled(job, &format!("{} {round}", job.job), keys)
}

fn labelled(job: &Accepted, label: &str, keys: &[SignedKeys]) -> Result<Group, Failure> {
    let member = |signed: &SignedKeys| {
        let own = &signed.keys;
        let key = |digits: &str| bytes(&own.site, digits);
        Ok(Member {
            site: own.site.clone(),
            keys: PublicKeys {
                sharing: key(&own.sharing)?,
                masking: key(&own.masking)?,
                seed: key(&own.seed)?,
            },
        })
    };
    let members = keys.iter().map(member).collect::<Result<_, Failure>>()?;
    let threshold = secure(job)?.threshold(job.members.len());
    Group::new(label, threshold, members).map_err(of_error)
}

/// What the sites told, at the orchestrator.
pub fn revealed(unmasking: &Unmasking) -> Result<Vec<Revealed>, Failure> {
    let shares = |told: &[RevealedShare]| -> Result<BTreeMap<String, Bytes32>, Failure> {
        let share = |one: &RevealedShare| Ok((one.site.clone(), bytes(&one.site, &one.share)?));
        told.iter().map(share).collect()
    };
    let of_site = |told: &SiteShares| {
        Ok(Revealed {
            by: told.site.clone(),
            seeds: shares(&told.seeds)?,
            keys: shares(&told.keys)?,
        })
    };
    unmasking.shares.iter().map(of_site).collect()
}

fn secure(job: &Accepted) -> Result<&SecureAggregation, Failure> {
    let secure = job.message.federation.secure_aggregation.as_ref();
    secure.ok_or_else(|| failure::bug("a job that masks no updates"))
}

/// Each key is of a member of the job, for this phase and round.
fn check_members(task: &Task, keys: &[SignedKeys]) -> Result<(), Failure> {
    for signed in keys {
        let own = &signed.keys;
        let member = task.job.members.iter().any(|member| member.site == own.site);
        let TaskKey {
            job, phase, round, ..
        } = &task.key;
        if !member || (&own.job, own.phase, own.round) != (job, *phase, *round) {
            let reason = format!(
                "keys of site {} for job {}, {} {}: expected keys of the job's sites for {phase} {round}",
                own.site, own.job, own.phase, own.round
            );
            return Err(Failure::fatal("masking", reason));
        }
    }
    Ok(())
}

/// Each key is signed by the site whose it is, as the roster here has it: whoever relays the keys cannot put in its own.
fn check_signatures(site: &Site, keys: &[SignedKeys]) -> Result<(), Failure> {
    let Some(roster) = site.identity.roster() else {
        tracing::warn!(
            "no roster: whoever relays the keys of the others is believed, and could put in its own"
        );
        return Ok(());
    };
    for SignedKeys { keys, signature } in keys {
        let known = roster.sites.get(&keys.site).map_or(&[][..], |keys| &keys.current);
        let signed = signature.as_ref().is_some_and(|signature| {
            known
                .iter()
                .any(|public| signing::verify(public, keys, signature))
        });
        if !signed {
            let reason = format!(
                "the keys of site {} are not signed by a key that this site's roster has for it",
                keys.site
            );
            return Err(Failure::fatal("bad-signature", reason));
        }
    }
    Ok(())
}

fn bytes(site: &str, digits: &str) -> Result<Bytes32, Failure> {
    let mut bytes = Bytes32::default();
    hex::decode_to_slice(digits, &mut bytes)
        .map_err(|error| Failure::fatal("masking", format!("site {site}: a key or a share: {error}")))?;
    Ok(bytes)
}

impl Kept {
    fn secret(&self) -> Result<Secret, Failure> {
        let mut bytes = Bytes32::default();
        hex::decode_to_slice(&self.secret, &mut bytes)
            .map_err(|_| Failure::fatal("masking", "the round's secret is damaged"))?;
        Ok(Secret::new(bytes))
    }
}

fn file(site: &Site, task: &Task) -> PathBuf {
    protected::folder(site, task).join("secret.json")
}

fn load(site: &Site, task: &Task) -> Result<Kept, Failure> {
    let file = file(site, task);
    let read = std::fs::read(&file).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::fatal("masking", "the secret that this site drew for the round is lost")
        }
        _ => failure::io("the round's secret", &file, &error),
    })?;
    // What is wrong with it is not told: it may be part of the secret.
    schemas::parse(&read).map_err(|_| Failure::fatal("masking", "the round's secret is damaged"))
}

fn store(site: &Site, task: &Task, kept: &Kept) -> Result<(), Failure> {
    let file = file(site, task);
    write_whole(&file, &to_json(kept)?).map_err(|error| failure::io("the round's secret", &file, &error))
}

fn to_json(kept: &Kept) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(kept).map_err(|error| failure::bug(error.to_string()))
}

fn changed(what: &str) -> Failure {
    Failure::fatal(
        "masking",
        format!("{what} are others than before: this site keeps to what it agreed to"),
    )
}

/// An error of the mathematics. None names a case.
pub fn of_error(error: nnunet::Error) -> Failure {
    match error {
        nnunet::Error::Invalid { what, reason } => Failure::fatal("masking", format!("{what}: {reason}")),
        other => failure::of_error(other),
    }
}
