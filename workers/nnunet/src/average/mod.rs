//! The average of a round: the weighted mean of the sites' weights (McMahan et al., arXiv 1602.05629), and of their
//! momentum where it travels with them; or what a few sites cannot drag away.
//!
//! Needs no libtorch. While some values are averaged, those before are written: the memory of a few MB, whatever the
//! number of sites.

mod norm_bound;
mod rule;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use self::rule::Values;
pub use self::{norm_bound::Bounded, rule::Rule};

use crate::{
    Error, Result,
    checkpoint::{
        made::{self, PART, Part},
        safetensors::{TensorFile, check_shapes},
    },
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

/// Writes the average of `contributions` by `rule` to `output` as safetensors. The file is not synced: what is to outlive
/// a power cut is stored from it.
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

    let files: Vec<TensorFile> = ordered
        .iter()
        .map(|c| TensorFile::open(&c.weights))
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
    let sites = Sites {
        ordered: &ordered,
        files: &files,
        rule,
        bound: bound.as_ref(),
    };

    let digest = made::write(
        output,
        &shapes,
        observer,
        || vec![[0; 4]; PART * (files.len() + 1)],
        |buffer, part, out| sites.average(buffer, part, out),
    )?;
    Ok(Averaged {
        digest,
        bounded: bound.map(|bound| bound.bounded).unwrap_or_default(),
    })
}

/// What is averaged, and how.
struct Sites<'a> {
    ordered: &'a [&'a Contribution],
    files: &'a [TensorFile],
    rule: &'a Rule,
    bound: Option<&'a norm_bound::Bound>,
}

impl Sites<'_> {
    /// The average of some values.
    fn average(&self, buffer: &mut [[u8; 4]], part: Part<'_>, out: &mut [f32]) -> Result<()> {
        let Part { name, first, .. } = part;
        let bound = self.bound.filter(|bound| bound.base.has(name));
        let (base, buffer) = buffer.split_at_mut(PART);
        let mut inputs: Vec<Values> = Vec::with_capacity(self.files.len());
        // A site without a buffer of momentum takes no part in its tensor.
        let present = self.files.iter().enumerate().filter(|(_, file)| file.has(name));
        for ((place, file), buffer) in present.zip(buffer.chunks_mut(PART)) {
            let values = &mut buffer[..out.len()];
            file.read(name, first, values.as_flattened_mut())?;
            if !rule::all_finite(values) {
                return Err(Error::invalid(
                    format!("site {}", self.ordered[place].site),
                    format!("tensor {name} holds a value that is not finite"),
                ));
            }
            inputs.push((place, values));
        }
        match (self.rule, bound) {
            (Rule::BoundedMean { .. }, Some(bound)) => {
                let base = &mut base[..out.len()];
                bound.base.read(name, first, base.as_flattened_mut())?;
                rule::bounded_mean(self.ordered, &inputs, base, &bound.factors, out);
            }
            (Rule::Median, _) => rule::median(&inputs, out),
            (Rule::TrimmedMean { trim }, _) => rule::trimmed_mean(&inputs, *trim, out),
            _ => rule::mean(self.ordered, &inputs, out),
        }
        Ok(())
    }
}

/// The tensors of all sites, which must have the same.
fn shapes(ordered: &[&Contribution], files: &[TensorFile]) -> Result<Vec<(String, Vec<usize>)>> {
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
