//! The streams that hide an update.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;
use x25519_dalek::StaticSecret;

use super::{
    Bytes32,
    group::Group,
    secret::{Secret, agree, derive},
};
use crate::Result;

/// A stream of 64-bit numbers (ChaCha20, RFC 8439) that is added or subtracted.
#[derive(Clone, Copy)]
pub struct Stream {
    seed: Bytes32,
    subtract: bool,
}

/// Numbers that are drawn at a time.
const DRAWN: usize = 512;

impl Stream {
    /// The stream of a site's own mask.
    pub fn own(seed: Bytes32) -> Self {
        Self {
            seed,
            subtract: false,
        }
    }

    /// The stream that `site`, which holds `key`, and `other` hide their updates by, as `site` applies it.
    pub fn between(group: &Group, key: &StaticSecret, site: &str, other: &str) -> Result<Self> {
        let agreed = agree(key, &group.keys(other)?.masking, other)?;
        let (one, two) = (group.place(site)?, group.place(other)?);
        let places = [one.min(two), one.max(two)];
        Ok(Self {
            seed: derive(&agreed, &[b"mask", group.digest(), &places]),
            subtract: one > two,
        })
    }

    /// All that hide the update of `own` in a sum over `sharers`.
    pub fn of_site(group: &Group, secret: &Secret, own: &str, sharers: &[String]) -> Result<Vec<Self>> {
        let key = secret.masking_key();
        let mut streams = vec![Self::own(secret.seed())];
        for other in sharers.iter().filter(|other| *other != own) {
            streams.push(Self::between(group, &key, own, other)?);
        }
        Ok(streams)
    }

    /// The same stream, taken off where it was put on.
    pub fn turned(self) -> Self {
        Self {
            subtract: !self.subtract,
            ..self
        }
    }

    /// Applies the stream to `values`, the first of which is the number `first` of the update.
    pub fn apply(&self, first: u64, values: &mut [u64]) {
        let mut random = ChaCha20Rng::from_seed(self.seed);
        random.set_word_pos(2 * u128::from(first));
        let mut drawn = [0; 8 * DRAWN];
        for values in values.chunks_mut(DRAWN) {
            let drawn = &mut drawn[..8 * values.len()];
            random.fill_bytes(drawn);
            for (value, bytes) in values.iter_mut().zip(drawn.as_chunks::<8>().0) {
                let mask = u64::from_le_bytes(*bytes);
                *value = if self.subtract {
                    value.wrapping_sub(mask)
                } else {
                    value.wrapping_add(mask)
                };
            }
        }
    }
}
