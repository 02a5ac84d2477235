//! Who takes part in a round, with their public keys.

use sha2::{Digest, Sha256};

use super::Bytes32;
use crate::{Error, Result};

/// The fewest whose sum tells nobody's own update.
pub const LEAST: usize = 3;

/// What a site makes public in a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKeys {
    /// X25519: shares are sealed for it by this key.
    pub sharing: Bytes32,
    /// X25519: its masks with the others are agreed on by this key.
    pub masking: Bytes32,
    /// SHA-256 of the seed of its own mask, by which a wrong one is found out.
    pub seed: Bytes32,
}

/// A site with its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The site.
    pub site: String,
    /// Its keys.
    pub keys: PublicKeys,
}

/// Those whose keys a round goes by.
#[derive(Clone, Debug)]
pub struct Group {
    members: Vec<Member>,
    threshold: usize,
    digest: Bytes32,
}

impl Group {
    /// The group of `members`, in the order of their names, for what `label` says: the job and the round. `threshold`
    /// shares rebuild a secret.
    ///
    /// # Errors
    /// Fewer than 3 members or more than 255, members out of order, or a threshold that is not above half of them: two
    /// halves could then be asked for unlike shares.
    pub fn new(label: &str, threshold: usize, members: Vec<Member>) -> Result<Self> {
        let count = members.len();
        let wrong = |reason: String| Err(Error::invalid("secure aggregation", reason));
        if !(LEAST..=255).contains(&count) {
            return wrong(format!("{count} sites take part: expected {LEAST} to 255"));
        }
        if let Some(pair) = members.windows(2).find(|pair| pair[0].site >= pair[1].site) {
            return wrong(format!("site {} is not behind {}", pair[1].site, pair[0].site));
        }
        if !(LEAST..=count).contains(&threshold) || 2 * threshold <= count {
            return wrong(format!(
                "threshold {threshold}: expected at least {LEAST}, more than half of the {count} sites, and at most all"
            ));
        }
        let mut hash = Sha256::new();
        let mut put = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        put(b"rounds secure sum 1");
        put(label.as_bytes());
        put(&(threshold as u64).to_le_bytes());
        for Member { site, keys } in &members {
            put(site.as_bytes());
            put(&keys.sharing);
            put(&keys.masking);
            put(&keys.seed);
        }
        Ok(Self {
            digest: hash.finalize().into(),
            members,
            threshold,
        })
    }

    /// The members, in the order of their names.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// How many shares rebuild a secret.
    pub fn threshold(&self) -> usize {
        self.threshold
    }

    /// What stands for all of it in what is derived for it.
    pub(super) fn digest(&self) -> &Bytes32 {
        &self.digest
    }

    /// A member's keys.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn keys(&self, site: &str) -> Result<&PublicKeys> {
        self.place(site)
            .map(|place| &self.members[usize::from(place) - 1].keys)
    }

    /// A member's place, from 1: where its shares are of the polynomials.
    pub(super) fn place(&self, site: &str) -> Result<u8> {
        let place = self.members.iter().position(|member| member.site == site);
        place
            .and_then(|place| u8::try_from(place + 1).ok())
            .ok_or_else(|| Error::invalid(format!("site {site}"), "is no member of the round"))
    }

    /// Fails unless `sites` are some of the members, in order, at least `threshold` of them.
    pub fn check_some(&self, what: &str, sites: &[String]) -> Result<()> {
        for site in sites {
            self.place(site)?;
        }
        if let Some(pair) = sites.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(Error::invalid(
                what,
                format!("site {} is not behind {}", pair[1], pair[0]),
            ));
        }
        if sites.len() < self.threshold {
            return Err(Error::invalid(
                what,
                format!(
                    "{} of {} sites: expected at least the threshold, {}",
                    sites.len(),
                    self.members.len(),
                    self.threshold
                ),
            ));
        }
        Ok(())
    }
}
