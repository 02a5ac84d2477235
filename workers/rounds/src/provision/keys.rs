//! Keys of members, and their own files.

use std::{fs, path::Path};

use anyhow::ensure;
use nkeys::{KeyPair, KeyPairType};

use super::files::{Access, write};

/// A new key: the public half and the seed.
pub(super) fn new_key() -> anyhow::Result<(String, String)> {
    let pair = KeyPair::new_user();
    let seed = pair.seed().map_err(|error| anyhow::anyhow!("nkey: {error}"))?;
    Ok((pair.public_key(), seed))
}

/// Checks a public key that a member made itself.
pub(super) fn check_public(key: &str) -> anyhow::Result<()> {
    let user = KeyPair::from_public_key(key).is_ok_and(|pair| pair.key_pair_type() == KeyPairType::User);
    ensure!(
        user,
        "{key:?}: expected the public key of a user nkey, U..., as `rounds provision key FILE` prints it"
    );
    Ok(())
}

/// Writes a new key's seed to a file where there is none, and gives the public key.
pub fn write_key(file: &Path) -> anyhow::Result<String> {
    ensure!(!fs::exists(file)?, "{}: there is a file already", file.display());
    let (public, seed) = new_key()?;
    write(file, &format!("{seed}\n"), Access::Owner)?;
    Ok(public)
}
