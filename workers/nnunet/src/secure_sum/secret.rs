//! What one site knows in a round: all of it comes from one secret of 32 bytes.

use chacha20poly1305::{ChaCha20Poly1305, Key, KeyInit, Nonce, aead::Aead, aead::Payload};
use hkdf::Hkdf;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};

use super::{
    Bytes32,
    group::{Group, PublicKeys},
    shamir,
};
use crate::{Error, Result};

/// A site's secret of one round.
pub struct Secret(Bytes32);

/// One site's shares of another's secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Of the key of its masks with the others: told only if its update does not count.
    pub masking: Bytes32,
    /// Of the seed of its own mask: told only if its update counts.
    pub seed: Bytes32,
}

impl Secret {
    /// The secret of these bytes, which nobody else may know and no other round may have.
    pub fn new(bytes: Bytes32) -> Self {
        Self(bytes)
    }

    /// What is public of it.
    pub fn public_keys(&self) -> PublicKeys {
        PublicKeys {
            sharing: *PublicKey::from(&self.sharing_key()).as_bytes(),
            masking: *PublicKey::from(&self.masking_key()).as_bytes(),
            seed: Sha256::digest(self.seed()).into(),
        }
    }

    fn sharing_key(&self) -> StaticSecret {
        StaticSecret::from(derive(&self.0, &[b"sharing"]))
    }

    pub(super) fn masking_key(&self) -> StaticSecret {
        StaticSecret::from(derive(&self.0, &[b"masking"]))
    }

    /// The seed of the site's own mask.
    pub(super) fn seed(&self) -> Bytes32 {
        derive(&self.0, &[b"seed"])
    }

    /// The seed of the mask of one of so many shards of its numbers, where they are hidden shard by shard.
    pub(super) fn shard_seed(&self, group: &Group, shard: u32, shards: u32) -> Bytes32 {
        let place = [shard.to_le_bytes(), shards.to_le_bytes()].concat();
        derive(&self.0, &[b"shard", group.digest(), &place])
    }

    /// The shares of all members, in their order. The same at each call.
    fn split(&self, group: &Group) -> Vec<Shares> {
        let places: Vec<u8> = (1..=group.members().len() as u8).collect();
        let mut random = ChaCha20Rng::from_seed(derive(&self.0, &[b"polynomials", group.digest()]));
        let mut split = |secret: &Bytes32| shamir::split(secret, group.threshold(), &places, &mut random);
        let (masking, seed) = (split(&self.masking_key().to_bytes()), split(&self.seed()));
        let both = masking.into_iter().zip(seed);
        both.map(|(masking, seed)| Shares { masking, seed }).collect()
    }

    /// The shares for each other member, sealed so that only it can read them.
    ///
    /// # Errors
    /// `own` is no member by these keys, or a member's key is none.
    pub fn seal(&self, group: &Group, own: &str) -> Result<Vec<(String, Vec<u8>)>> {
        self.check(group, own)?;
        let members = group.members().iter().zip(self.split(group));
        let others = members.filter(|(member, _)| member.site != own);
        others
            .map(|(member, shares)| {
                let mut plain = shares.masking.to_vec();
                plain.extend(shares.seed);
                let cipher = self.cipher(group, own, &member.site, &member.site)?;
                let payload = Payload {
                    msg: &plain,
                    aad: group.digest(),
                };
                let sealed = cipher.encrypt(&Nonce::default(), payload).map_err(|_| {
                    Error::invalid(format!("site {}", member.site), "its shares cannot be sealed")
                })?;
                Ok((member.site.clone(), sealed))
            })
            .collect()
    }

    /// The shares that member `from` sealed for `own`.
    ///
    /// # Errors
    /// They were not sealed by that member for this one in this group.
    pub fn open(&self, group: &Group, own: &str, from: &str, sealed: &[u8]) -> Result<Shares> {
        self.check(group, own)?;
        let payload = Payload {
            msg: sealed,
            aad: group.digest(),
        };
        let plain = self
            .cipher(group, from, own, from)?
            .decrypt(&Nonce::default(), payload);
        let shares = plain.ok().and_then(|plain| {
            let (masking, seed) = plain.split_at_checked(32)?;
            Some(Shares {
                masking: masking.try_into().ok()?,
                seed: seed.try_into().ok()?,
            })
        });
        shares.ok_or_else(|| {
            let reason = "its sealed shares are damaged, or of another site or round";
            Error::invalid(format!("site {from}"), reason)
        })
    }

    /// The site's share of its own secrets.
    pub fn own_shares(&self, group: &Group, own: &str) -> Result<Shares> {
        self.check(group, own)?;
        let place = usize::from(group.place(own)?);
        Ok(self.split(group).swap_remove(place - 1))
    }

    /// Fails where the group goes by other keys of the site than this secret's.
    pub fn check(&self, group: &Group, own: &str) -> Result<()> {
        if group.keys(own)? == &self.public_keys() {
            return Ok(());
        }
        Err(Error::invalid(
            format!("site {own}"),
            "the round goes by other keys than this site made",
        ))
    }

    /// The cipher for what `from` sends `to`, one of whom is this site and the other `peer`. Its key seals one message, so
    /// the nonce is always 0.
    fn cipher(&self, group: &Group, from: &str, to: &str, peer: &str) -> Result<ChaCha20Poly1305> {
        let agreed = agree(&self.sharing_key(), &group.keys(peer)?.sharing, peer)?;
        let places = [group.place(from)?, group.place(to)?];
        let key = derive(&agreed, &[b"shares", group.digest(), &places]);
        Ok(ChaCha20Poly1305::new(Key::from_slice(&key)))
    }
}

/// What the holder of `own` and the site of the public key `theirs` agree on.
///
/// # Errors
/// The key is one by which everybody would agree on the same.
pub fn agree(own: &StaticSecret, theirs: &Bytes32, site: &str) -> Result<Bytes32> {
    let agreed = own.diffie_hellman(&PublicKey::from(*theirs));
    if !agreed.was_contributory() {
        return Err(Error::invalid(
            format!("site {site}"),
            "its public key is no key: it agrees on the same with everybody",
        ));
    }
    Ok(agreed.to_bytes())
}

/// HKDF-SHA256 (RFC 5869) of a secret, for what the parts say. Only the last part may be of any length.
pub fn derive(secret: &Bytes32, parts: &[&[u8]]) -> Bytes32 {
    let mut derived = [0; 32];
    let mut info: Vec<&[u8]> = vec![b"rounds secure sum 1 "];
    info.extend(parts);
    Hkdf::<Sha256>::new(None, secret)
        .expand_multi_info(&info, &mut derived)
        .expect("32 bytes are fewer than HKDF can give");
    derived
}
