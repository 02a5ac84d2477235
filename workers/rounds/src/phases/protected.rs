//! What a site keeps of a round whose update leaves it masked or with noise: the secrets, and what it sent. A later
//! delivery sends the very same: two unlike updates behind one mask or one noise would tell their difference.
//!
//!     jobs/<job>/protected/fingerprint/              the secret behind the masks of the fingerprint's numbers
//!     jobs/<job>/protected/<round>/noise             the seed of the noise, readable by its owner alone
//!     jobs/<job>/protected/<round>/update.safetensors
//!     jobs/<job>/protected/<round>/trained.json      written last: with it the update is there
//!
//! A later round takes the folder away.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nnunet::network::StateDict;
use pipeline::{exit::Kind, worker::TaskContext};
use rand::TryRngCore;
use schemas::{
    names::Phase,
    task::{Failure, Task, TaskInput, TaskOutput},
};
use serde::{Deserialize, Serialize};

use super::{failure, mid_round};
use crate::{
    job_folder::PROTECTED,
    site::{Site, write_first, write_whole},
};

/// Beside the rounds' folders.
const FINGERPRINT: &str = "fingerprint";
/// The seed of the noise.
const NOISE: &str = "noise";

/// What a round's training came to, but for where the update is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    /// What it started from.
    input: TaskInput,
    output: TaskOutput,
}

/// The folder of the round, or of the fingerprint.
pub fn folder(site: &Site, task: &Task) -> PathBuf {
    let part = match task.key.phase {
        Phase::Fingerprint => FINGERPRINT.to_owned(),
        _ => task.key.round.to_string(),
    };
    site.job(task).join(PROTECTED).join(part)
}

/// The file of the update. Its folder is made.
pub fn update(site: &Site, task: &Task) -> Result<PathBuf, Failure> {
    let folder = folder(site, task);
    fs::create_dir_all(&folder).map_err(|error| failure::io("the update", &folder, &error))?;
    Ok(folder.join("update.safetensors"))
}

fn trained(folder: &Path) -> PathBuf {
    folder.join("trained.json")
}

/// Whether a job's updates leave the sites changed.
pub fn protects(task: &Task) -> bool {
    let federation = &task.job.message.federation;
    federation.secure_aggregation.is_some() || federation.privacy.is_some()
}

/// Refuses an update that is longer than the job allows, where nobody else can look at it.
pub fn check_length(task: &Task, norm: f64) -> Result<(), Failure> {
    let secure = task.job.message.federation.secure_aggregation.as_ref();
    match secure.and_then(|secure| secure.largest_norm) {
        Some(largest) if norm > largest => Err(Failure::fatal(
            "update-too-long",
            format!(
                "the round added {norm:.4} (L2) to the weights: federation.secure_aggregation.largest_norm is {largest}"
            ),
        )),
        _ => Ok(()),
    }
}

/// 32 bytes of the operating system's randomness in the round's file `name`, drawn once. Nobody but the site's own user
/// can read them.
pub fn drawn(site: &Site, task: &Task, name: &str) -> Result<[u8; 32], Failure> {
    let file = folder(site, task).join(name);
    let io = |error: std::io::Error| failure::io("the round's secret", &file, &error);
    fs::create_dir_all(folder(site, task)).map_err(io)?;
    let mut bytes = [0; 32];
    rand::rngs::OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| Failure::retryable("no-randomness", error.to_string()))?;
    // A second delivery finds what the first drew.
    write_first(&file, hex::encode(bytes).as_bytes()).map_err(io)?;
    hex::decode_to_slice(fs::read(&file).map_err(io)?, &mut bytes)
        .map_err(|_| Failure::fatal("bad-secret", "the round's secret is damaged"))?;
    Ok(bytes)
}

/// The weights that leave the site for those that the round came to: cut and with noise, where the job says so.
pub fn hide(site: &Site, task: &Task, weights: StateDict, base: &StateDict) -> Result<StateDict, Failure> {
    let Some(privacy) = &task.job.message.federation.privacy else {
        return Ok(weights);
    };
    let seed = drawn(site, task, NOISE)?;
    let deviation = privacy.clip * privacy.noise_multiplier;
    nnunet::privacy::protect(&weights, base, privacy.clip, deviation, seed).map_err(failure::of_error)
}

/// What an earlier delivery made ready, sent; none where there is nothing.
///
/// # Errors
/// It was made from something else: the site keeps to what it agreed to.
pub fn send_again(site: &Site, task: &Task, context: &TaskContext) -> Result<Option<TaskOutput>, Failure> {
    let file = trained(&folder(site, task));
    let bytes = match fs::read(&file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failure::io("what the round came to", &file, &error)),
    };
    let sent: Sent = schemas::parse(&bytes)
        .map_err(|error| Failure::fatal("masking", format!("what the round came to: {error}")))?;
    if sent.input != task.input {
        let reason =
            "the round is to start from something else than before: this site sends one update a round";
        return Err(Failure::fatal("masking", reason));
    }
    tracing::info!("sends the update that an earlier delivery made ready");
    send(site, task, context, sent.output).map(Some)
}

/// Keeps `output` and sends the update that stands ready, which completes it.
pub fn keep_and_send(
    site: &Site,
    task: &Task,
    context: &TaskContext,
    output: TaskOutput,
) -> Result<TaskOutput, Failure> {
    let sent = Sent {
        input: task.input.clone(),
        output,
    };
    let file = trained(&folder(site, task));
    let bytes = serde_json::to_vec(&sent).map_err(|error| failure::bug(error.to_string()))?;
    write_whole(&file, &bytes).map_err(|error| failure::io("what the round came to", &file, &error))?;
    send(site, task, context, sent.output)
}

fn send(
    site: &Site,
    task: &Task,
    context: &TaskContext,
    mut output: TaskOutput,
) -> Result<TaskOutput, Failure> {
    let stored = context.send_file(Kind::Weights, &update(site, task)?)?;
    if let TaskOutput::Trained { update, .. } = &mut output {
        *update = Some(stored);
    }
    Ok(output)
}

/// Takes away what belongs to rounds before `round`, and to the fingerprint, which comes before all of them.
pub fn forget_before(site: &Site, task: &Task, round: u32) {
    let folder = site.job(task).join(PROTECTED);
    mid_round::forget(&folder, round as usize);
    mid_round::remove(&folder.join(FINGERPRINT));
}
