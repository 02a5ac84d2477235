//! What sites tell each other, by way of the hub, so that a sum hides what each of them sent: a round's updates, or the
//! numbers of the fingerprint.
//!
//! Keys, seeds and shares are 32 bytes each, written in hexadecimal digits.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::names::Phase;

/// What masked updates may count together, so that their sum is known from its bits: `nnunet::secure_sum`'s fixed point
/// leaves so much room.
pub const LARGEST_TOTAL: u64 = (1 << 21) - 1;

/// What a site makes public for a sum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SiteKeys {
    /// The job.
    pub job: String,
    /// fingerprint or train-round: what is summed. Keys of the one never serve for the other, whose secrets may be told.
    pub phase: Phase,
    /// The round; 0 for the fingerprint.
    pub round: u32,
    /// The site.
    pub site: String,
    /// X25519 key by which shares are sealed for the site.
    pub sharing: String,
    /// X25519 key by which its masks with the others are agreed on.
    pub masking: String,
    /// SHA-256 of the seed of its own mask.
    pub seed: String,
}

/// A site's keys, and that they are the site's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignedKeys {
    /// The keys.
    pub keys: SiteKeys,
    /// The site's signature over them; none where the federation is not provisioned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// One site's shares of another's secrets, which only the one it is for can read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SealedShares {
    /// Whose secrets.
    pub from: String,
    /// For whom.
    pub to: String,
    /// The sealed bytes, in hexadecimal digits.
    pub sealed: String,
}

/// One site's share of another's secret, told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevealedShare {
    /// Whose secret.
    pub site: String,
    /// The share.
    pub share: String,
}

/// What one site tells so that the masks of a sum can be taken off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SiteShares {
    /// The site that tells.
    pub site: String,
    /// Shares of the seeds of those whose updates count, in site order.
    pub seeds: Vec<RevealedShare>,
    /// Shares of the keys of those whose updates do not, in site order.
    pub keys: Vec<RevealedShare>,
}

/// How the masks of a sum are taken off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Unmasking {
    /// The keys that the round goes by, in site order.
    pub keys: Vec<SignedKeys>,
    /// The sites that shared their secrets, in order: each masked its update for a sum over them.
    pub sharers: Vec<String>,
    /// What the sites tell, in site order.
    pub shares: Vec<SiteShares>,
}
