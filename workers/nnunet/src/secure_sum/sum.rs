//! The sum of hidden updates, and the masks taken off.

use std::{collections::BTreeMap, path::Path};

use schemas::masking::LARGEST_TOTAL;
use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};

use super::{Bytes32, fixed_point, group::Group, mask::Stream, shamir};
use crate::{
    Error, Result,
    average::Contribution,
    checkpoint::{
        made::{self, PART},
        safetensors::{TensorFile, check_shapes},
    },
    progress::Observer,
};

/// What one site reveals: for each sharer one share, of the seed of its mask where its update counts, else of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revealed {
    /// The site that reveals.
    pub by: String,
    /// The shares of those whose updates count.
    pub seeds: BTreeMap<String, Bytes32>,
    /// The shares of those whose updates do not.
    pub keys: BTreeMap<String, Bytes32>,
}

/// Writes the weighted mean of hidden `contributions` to `output` as safetensors, and returns the digest of its bytes.
/// The file is not synced. They were hidden for a sum over `sharers`; `revealed` takes the masks off.
///
/// # Errors
/// Fewer contributions or revealed shares than the threshold, a share that does not fit, tensors that differ in name or
/// shape, or weights that are too large together: the error names the site.
pub fn sum(
    contributions: &[Contribution],
    group: &Group,
    sharers: &[String],
    revealed: &[Revealed],
    output: &Path,
    observer: &dyn Observer,
) -> Result<String> {
    let mut ordered: Vec<&Contribution> = contributions.iter().collect();
    ordered.sort_by(|a, b| a.site.cmp(&b.site));
    let survivors: Vec<String> = ordered.iter().map(|c| c.site.clone()).collect();
    group.check_some("the sites that shared their secrets", sharers)?;
    group.check_some("the sites that sent an update", &survivors)?;
    let total = ordered
        .iter()
        .try_fold(0u64, |total, c| total.checked_add(c.weight))
        .filter(|total| (1..=LARGEST_TOTAL).contains(total))
        .ok_or_else(|| {
            let reason = format!("expected 1 to {LARGEST_TOTAL} in all");
            Error::invalid("what the sites count", reason)
        })?;
    let streams = streams(group, sharers, &survivors, revealed)?;

    let files: Vec<TensorFile<u64>> = ordered
        .iter()
        .map(|c| TensorFile::open(&c.weights))
        .collect::<Result<_>>()?;
    let shapes = files.first().map(TensorFile::shapes).unwrap_or_default();
    for (contribution, file) in ordered.iter().zip(&files) {
        check_shapes(&shapes, &file.shapes())
            .and_then(|()| match file.shapes().keys().eq(shapes.keys()) {
                true => Ok(()),
                false => Err("its tensors stand in another order".to_owned()),
            })
            .map_err(|reason| {
                let reason = format!("{reason} (held against site {})", ordered[0].site);
                Error::invalid(format!("site {}", contribution.site), reason)
            })?;
    }
    let shapes: Vec<_> = shapes.into_iter().collect();
    let scratch = || (vec![[0; 8]; PART], vec![0u64; PART]);
    made::write(output, &shapes, observer, scratch, |(input, sum), part, out| {
        let (input, sum) = (&mut input[..out.len()], &mut sum[..out.len()]);
        sum.fill(0);
        for file in &files {
            file.read(part.name, part.first, input.as_flattened_mut())?;
            for (sum, bytes) in sum.iter_mut().zip(&*input) {
                *sum = sum.wrapping_add(u64::from_le_bytes(*bytes));
            }
        }
        for stream in &streams {
            stream.apply(part.before as u64, sum);
        }
        for (out, sum) in out.iter_mut().zip(sum) {
            *out = fixed_point::decode(*sum, total);
        }
        Ok(())
    })
}

/// What takes the masks off: the survivors' own, and theirs with those who vanished behind sharing.
fn streams(
    group: &Group,
    sharers: &[String],
    survivors: &[String],
    revealed: &[Revealed],
) -> Result<Vec<Stream>> {
    let mut streams = Vec::new();
    for site in sharers {
        let counts = survivors.contains(site);
        let shares = revealed.iter().filter_map(|part| {
            let shares = if counts { &part.seeds } else { &part.keys };
            Some((&part.by, *shares.get(site)?))
        });
        let shares: Vec<(u8, Bytes32)> = shares
            .map(|(by, share)| Ok((group.place(by)?, share)))
            .collect::<Result<_>>()?;
        let Some(enough) = shares.get(..group.threshold()) else {
            let reason = format!(
                "{} shares of its secret were revealed: expected the threshold, {}",
                shares.len(),
                group.threshold()
            );
            return Err(Error::invalid(format!("site {site}"), reason));
        };
        let secret = shamir::combine(enough);
        let keys = group.keys(site)?;
        if counts {
            if Bytes32::from(Sha256::digest(secret)) != keys.seed {
                return Err(does_not_fit(site, revealed));
            }
            streams.push(Stream::own(secret).turned());
        } else {
            let key = StaticSecret::from(secret);
            if PublicKey::from(&key).as_bytes() != &keys.masking {
                return Err(does_not_fit(site, revealed));
            }
            // What the vanished site would have applied cancels what the survivor did.
            for other in survivors {
                streams.push(Stream::between(group, &key, site, other)?);
            }
        }
    }
    if let Some(stranger) = survivors.iter().find(|site| !sharers.contains(site)) {
        return Err(Error::invalid(
            format!("site {stranger}"),
            "sent an update and is not among the sites that shared their secrets",
        ));
    }
    Ok(streams)
}

fn does_not_fit(site: &str, revealed: &[Revealed]) -> Error {
    let by: Vec<&str> = revealed.iter().map(|part| &*part.by).collect();
    let reason = format!("the shares that {} revealed do not fit its keys", by.join(", "));
    Error::invalid(format!("site {site}"), reason)
}
