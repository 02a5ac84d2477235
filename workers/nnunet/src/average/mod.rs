//! The average of a round: the weighted mean of the sites' weights (McMahan et al., arXiv 1602.05629), and of their
//! momentum where it travels with them; or what a few sites cannot drag away.
//!
//! Works tensor by tensor on mapped files, which it lets go of behind it, and needs no libtorch: memory of a tensor,
//! whatever the number of sites.

mod norm_bound;
mod rule;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use rayon::prelude::*;

pub use self::{norm_bound::Bounded, rule::Rule};

use crate::{
    Error, Result,
    checkpoint::safetensors::{MappedTensors, Writer, check_shapes},
    progress::Observer,
    update::weight_of_momentum,
};

/// What one site gives to an average.
#[derive(Clone, Debug)]
pub struct Contribution {
    /// The site, for messages and for the order of the sum.
    pub site: String,
    /// Its weights, a safetensors file of unique tensors: see [`crate::update::Update`].
    pub weights: PathBuf,
    /// How much it counts: training cases, iterations, or 1.
    pub weight: u64,
}

/// What was made of a round's updates.
#[derive(Clone, Debug, PartialEq)]
pub struct Averaged {
    /// Digest of the average's bytes.
    pub digest: String,
    /// The updates that were scaled down, in the order of the sites' names.
    pub bounded: Vec<Bounded>,
}

/// Writes the average of `contributions` by `rule` to `output` as safetensors.
///
/// Sums run in f64 in the order of the sites' names, so that they do not depend on who answered first.
/// The tensors keep the order of the first site. A momentum buffer that a site does not have counts as 0 there.
///
/// # Errors
/// None contributes, a site contributes twice, the weights add up to zero, too few contribute for the rule, or a
/// site's tensors differ in name or shape or are not finite: the error names site and tensor.
pub fn average(
    contributions: &[Contribution],
    rule: &Rule,
    output: &Path,
    observer: &dyn Observer,
) -> Result<Averaged> {
    let mut ordered: Vec<&Contribution> = contributions.iter().collect();
    ordered.sort_by(|a, b| a.site.cmp(&b.site));
    if let Some(pair) = ordered.windows(2).find(|pair| pair[0].site == pair[1].site) {
        return Err(Error::invalid(
            format!("site {}", pair[0].site),
            "contributes twice to one average",
        ));
    }
    rule.check(&ordered)?;

    let files: Vec<MappedTensors> = ordered
        .iter()
        .map(|c| MappedTensors::open(&c.weights))
        .collect::<Result<_>>()?;
    let shapes = shapes(&ordered, &files)?;
    let bound = match rule {
        Rule::BoundedMean { norm_bound, base } => Some(norm_bound::measure(
            &ordered,
            &files,
            &shapes,
            *norm_bound,
            base,
            observer,
        )?),
        _ => None,
    };
    let factors = bound.as_ref().map(|bound| &*bound.factors);

    let mut writer = Writer::<f32>::create(output, &shapes)?;
    for (done, (name, shape)) in shapes.iter().enumerate() {
        if observer.stop_requested() {
            return Err(Error::Stopped);
        }
        // A site without a buffer of momentum takes no part in its tensor.
        let present: Vec<(usize, &[[u8; 4]])> = files
            .iter()
            .enumerate()
            .filter_map(|(place, file)| Some((place, file.bytes(name)?.as_chunks().0)))
            .collect();
        let base = bound.as_ref().and_then(|bound| bound.base.bytes(name));
        let base: Option<&[[u8; 4]]> = base.map(|bytes| bytes.as_chunks().0);
        let mut mean = vec![0f32; shape.iter().product()];
        mean.par_chunks_mut(CHUNK)
            .enumerate()
            .try_for_each(|(chunk, out)| {
                let from = chunk * CHUNK;
                let range = from..from + out.len();
                let inputs: Vec<(usize, &[[u8; 4]])> = present
                    .iter()
                    .map(|(place, values)| (*place, &values[range.clone()]))
                    .collect();
                for (place, values) in &inputs {
                    if !values.iter().all(|bytes| f32::from_le_bytes(*bytes).is_finite()) {
                        return Err(Error::invalid(
                            format!("site {}", ordered[*place].site),
                            format!("tensor {name} holds a value that is not finite"),
                        ));
                    }
                }
                match (rule, base, factors) {
                    (Rule::BoundedMean { .. }, Some(base), Some(factors)) => {
                        rule::bounded_mean(&ordered, &inputs, &base[range], factors, out);
                    }
                    (Rule::Median, ..) => rule::median(&inputs, out),
                    (Rule::TrimmedMean { trim }, ..) => rule::trimmed_mean(&inputs, *trim, out),
                    _ => rule::mean(&ordered, &inputs, out),
                }
                for (place, values) in &inputs {
                    files[*place].release(values.as_flattened());
                }
                Ok(())
            })?;
        // What lies around a page that was read comes with it.
        for (place, values) in &present {
            files[*place].release(values.as_flattened());
        }
        writer.push(&mean)?;
        observer.advanced("tensors averaged", done + 1, shapes.len());
    }
    Ok(Averaged {
        digest: writer.finish()?,
        bounded: bound.map(|bound| bound.bounded).unwrap_or_default(),
    })
}

/// The tensors of all sites, which must have the same.
fn shapes(ordered: &[&Contribution], files: &[MappedTensors]) -> Result<Vec<(String, Vec<usize>)>> {
    let Some(first) = files.first() else {
        return Ok(Vec::new());
    };
    let mut expected = first.shapes();
    for (contribution, file) in ordered.iter().zip(files) {
        for (name, shape) in file.shapes() {
            let Some(weight) = weight_of_momentum(&name) else {
                continue;
            };
            // Some optimisers count their steps: a scalar.
            if expected.get(weight) != Some(&shape) && !(shape.is_empty() && expected.contains_key(weight)) {
                return Err(Error::invalid(
                    format!("site {}", contribution.site),
                    format!("tensor {name} of shape {shape:?} is the momentum of no weight"),
                ));
            }
            expected.entry(name).or_insert(shape);
        }
    }
    for (contribution, file) in ordered.iter().zip(files) {
        let mut found = file.shapes();
        for (name, shape) in &expected {
            if weight_of_momentum(name).is_some() {
                found.entry(name.clone()).or_insert_with(|| shape.clone());
            }
        }
        check_shapes(&expected, &found).map_err(|reason| {
            Error::invalid(
                format!("site {}", contribution.site),
                format!("{reason} (held against site {})", ordered[0].site),
            )
        })?;
    }
    Ok(expected.into_iter().collect())
}

/// Values that one thread averages at a time.
const CHUNK: usize = 1 << 16;
