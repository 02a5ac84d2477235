//! Secure aggregation (Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning"):
//! the orchestrator learns the weighted sum of the sites' weights and no site's own.
//!
//! All of it is pure: what is random comes from one secret a site draws for a round.
//!
//! - `shamir`: a secret in shares, of which some rebuild it
//! - `group`: who takes part in a round, with their public keys
//! - `secret`: what one site knows: its keys, and the shares of them that it seals for the others
//! - `fixed_point`: weights as integers, so that masks cancel exactly
//! - `mask`: the streams that hide an update
//! - `masked`: an update, hidden, as a file
//! - `sum`: the sum of such files, and the masks taken off
//! - `hidden`: numbers in a sum from which nobody may be missing: the fingerprint's
//!
//! Every site adds to its update a mask of its own, and with each other site one that the two agree on: the one adds it,
//! the other subtracts it. Of a site whose update counts, the others' shares rebuild its own mask; of one that
//! vanished, the key by which its masks with the others are found. Never both: whoever had both could read its update.

mod fixed_point;
mod group;
mod hidden;
mod mask;
mod masked;
mod secret;
mod shamir;
mod sum;
#[cfg(test)]
mod tests;

pub use self::{
    fixed_point::{RANGE, SCALE},
    group::{Group, Member, PublicKeys},
    hidden::hide,
    masked::{Own, mask},
    secret::{Secret, Shares},
    sum::{Revealed, sum},
};

/// 32 bytes: a key, a seed, or a share of one.
pub type Bytes32 = [u8; 32];
