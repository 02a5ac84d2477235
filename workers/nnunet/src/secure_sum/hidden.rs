//! Numbers hidden in the sum of all members' numbers. Nobody may be missing from such a sum, so the masks that each two
//! members agree on are enough, and no secret is ever told.
//!
//! A site may add its numbers in shards, each hidden by itself: the first carries the masks with the other members, each
//! other one a mask of the site's own, which the first takes off.

use rayon::prelude::*;

use super::{group::Group, mask::Stream, masked::CHUNK, secret::Secret};
use crate::{Error, Result};

/// Hides the numbers of one of `own`'s shards. All members' shards add up to what they would without it, modulo 2^64.
///
/// The same group hides one list of numbers: two unlike ones would tell their difference. Its label must say all that
/// they depend on, but for the shards.
///
/// # Errors
/// `own` is no member by this secret, a member's key is none, or there is no such shard.
pub fn hide(
    numbers: &mut [u64],
    own: &str,
    secret: &Secret,
    group: &Group,
    shard: u32,
    shards: u32,
) -> Result<()> {
    secret.check(group, own)?;
    if shard >= shards {
        let reason = format!("shard {shard} of {shards}");
        return Err(Error::invalid("hidden numbers", reason));
    }
    let of_shard = |shard| Stream::own(secret.shard_seed(group, shard, shards));
    let streams = match shard {
        0 => {
            let key = secret.masking_key();
            let others = group.members().iter().filter(|member| member.site != own);
            others
                .map(|member| Stream::between(group, &key, own, &member.site))
                .chain((1..shards).map(|shard| Ok(of_shard(shard).turned())))
                .collect::<Result<Vec<_>>>()?
        }
        _ => vec![of_shard(shard)],
    };
    numbers
        .par_chunks_mut(CHUNK)
        .enumerate()
        .for_each(|(chunk, numbers)| {
            for stream in &streams {
                stream.apply((chunk * CHUNK) as u64, numbers);
            }
        });
    Ok(())
}
