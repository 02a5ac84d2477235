//! Names that travel as NATS subject tokens, and the seven phases.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

use crate::Invalid;

/// The site name under which the orchestrator takes its own tasks.
pub const ORCHESTRATOR: &str = "orchestrator";
/// The owner of artifacts that every member of a job may read.
pub const GLOBAL: &str = "global";

/// Checks a name that becomes a subject token: `[A-Za-z0-9_-]+`, at most 128 characters.
pub fn check_token(path: &str, name: &str) -> Result<(), Invalid> {
    let fits = !name.is_empty()
        && name.len() <= 128
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if fits {
        Ok(())
    } else {
        Err(Invalid::new(
            path,
            format!("{name:?} is not a name: expected 1 to 128 of A-Z a-z 0-9 _ -"),
        ))
    }
}

/// Checks bytes as messages carry them: lower-case hexadecimal digits, two a byte.
pub fn check_hex(path: &str, digits: &str, bytes: usize) -> Result<(), Invalid> {
    let hexadecimal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if digits.len() == 2 * bytes && digits.bytes().all(hexadecimal) {
        return Ok(());
    }
    let reason = format!(
        "{} characters: expected {} lower-case hexadecimal digits",
        digits.chars().count(),
        2 * bytes
    );
    Err(Invalid::new(path, reason))
}

/// Checks a SHA-256.
pub fn check_digest(path: &str, digest: &str) -> Result<(), Invalid> {
    check_hex(path, digest, 32)
}

/// Checks a site's name: a token that is not reserved.
pub fn check_site(path: &str, name: &str) -> Result<(), Invalid> {
    check_token(path, name)?;
    if name == ORCHESTRATOR || name == GLOBAL {
        return Err(Invalid::new(path, format!("{name:?} is reserved")));
    }
    Ok(())
}

/// One kind of work. The spelling is the same in subjects, durables, metrics and on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// A site reads its data set: inventory, scan, select.
    Fingerprint,
    /// The orchestrator merges each pass of the fingerprint.
    Aggregate,
    /// A site plans from the pooled documents and returns what it planned.
    PlanVerify,
    /// A site crops, normalises and resamples its cases.
    Preprocess,
    /// A site trains from the global weights, or scores them.
    TrainRound,
    /// The orchestrator averages the updates, and at the end writes the results folder.
    Average,
    /// A site segments its scans.
    Infer,
}

impl Phase {
    /// All phases, in the order of a job.
    pub const ALL: [Phase; 7] = [
        Phase::Fingerprint,
        Phase::Aggregate,
        Phase::PlanVerify,
        Phase::Preprocess,
        Phase::TrainRound,
        Phase::Average,
        Phase::Infer,
    ];

    /// The phase's one spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Fingerprint => "fingerprint",
            Phase::Aggregate => "aggregate",
            Phase::PlanVerify => "plan-verify",
            Phase::Preprocess => "preprocess",
            Phase::TrainRound => "train-round",
            Phase::Average => "average",
            Phase::Infer => "infer",
        }
    }

    /// True for the phases that run at the orchestrator.
    pub fn at_orchestrator(self) -> bool {
        matches!(self, Phase::Aggregate | Phase::Average)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Phase {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        Phase::ALL
            .into_iter()
            .find(|phase| phase.as_str() == text)
            .ok_or_else(|| {
                let known = Phase::ALL.map(Phase::as_str).join(", ");
                Invalid::new(
                    "phase",
                    format!("{text:?} is not a phase: expected one of {known}"),
                )
            })
    }
}
