//! An update, hidden, as a file: safetensors of unsigned 64-bit integers, with the names and shapes of the weights.

use std::path::Path;

use rayon::prelude::*;
use schemas::masking::LARGEST_TOTAL;

use super::{
    fixed_point::{self, RANGE},
    group::Group,
    mask::Stream,
    secret::Secret,
};
use crate::{Error, Result, checkpoint::safetensors::Writer, network::StateDict};

/// Values that one thread masks at a time.
pub(super) const CHUNK: usize = 1 << 16;

/// A site in a round.
pub struct Own<'a> {
    /// Its name.
    pub site: &'a str,
    /// Its secret of the round.
    pub secret: &'a Secret,
    /// What its update counts.
    pub weight: u64,
}

/// Writes `weights` times what they count, hidden for a sum over `sharers`, to `output`. Returns the digest of its
/// bytes.
///
/// # Errors
/// A value that is not finite or out of range: the error names its tensor. A weight that is 0 or too large, a member's
/// key that is none, or too few sharers.
pub fn mask(
    weights: &StateDict,
    own: &Own,
    group: &Group,
    sharers: &[String],
    output: &Path,
) -> Result<String> {
    own.secret.check(group, own.site)?;
    group.check_some("the sites that shared their secrets", sharers)?;
    if !sharers.iter().any(|site| site == own.site) {
        return Err(Error::invalid(
            format!("site {}", own.site),
            "is not among the sites that shared their secrets",
        ));
    }
    if !(1..=LARGEST_TOTAL).contains(&own.weight) {
        let reason = format!("counts {}: expected 1 to {LARGEST_TOTAL}", own.weight);
        return Err(Error::invalid(format!("site {}", own.site), reason));
    }
    let streams = Stream::of_site(group, own.secret, own.site, sharers)?;
    let shapes: Vec<_> = weights
        .iter()
        .map(|(name, tensor)| (name.to_owned(), tensor.shape.clone()))
        .collect();
    let mut writer = Writer::<u64>::create(output, &shapes)?;
    let mut first = 0u64;
    for (name, tensor) in weights.iter() {
        let mut masked = vec![0u64; tensor.data.len()];
        masked
            .par_chunks_mut(CHUNK)
            .zip(tensor.data.par_chunks(CHUNK))
            .enumerate()
            .try_for_each(|(chunk, (masked, values))| {
                for (masked, value) in masked.iter_mut().zip(values) {
                    *masked = fixed_point::encode(*value, own.weight).ok_or_else(|| {
                        Error::OutOfRange(format!(
                            "tensor {name} holds {value}: expected a number of size below {RANGE}"
                        ))
                    })?;
                }
                for stream in &streams {
                    stream.apply(first + (chunk * CHUNK) as u64, masked);
                }
                Ok::<(), Error>(())
            })?;
        writer.push(&masked)?;
        first += masked.len() as u64;
    }
    writer.finish()
}
