//! FedAvg: the weighted mean of the sites' weights (McMahan et al., arXiv 1602.05629), and of their momentum where it
//! travels with them.
//!
//! Works tensor by tensor on mapped files and needs no libtorch: memory of a tensor, whatever the number of sites.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

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

/// Writes the weighted mean of `contributions` to `output` as safetensors, and returns the digest of its bytes.
///
/// The sum runs in f64 in the order of the sites' names, so that it does not depend on who answered first.
/// The tensors keep the order of the first site. A momentum buffer that a site does not have counts as 0 there.
///
/// # Errors
/// None contributes, a site contributes twice, the weights add up to zero, or a site's tensors differ in name or shape
/// or are not finite: the error names site and tensor.
pub fn average(contributions: &[Contribution], output: &Path, observer: &dyn Observer) -> Result<String> {
    let mut ordered: Vec<&Contribution> = contributions.iter().collect();
    ordered.sort_by(|a, b| a.site.cmp(&b.site));
    if let Some(pair) = ordered.windows(2).find(|pair| pair[0].site == pair[1].site) {
        return Err(Error::invalid(
            format!("site {}", pair[0].site),
            "contributes twice to one average",
        ));
    }
    let total: u64 = ordered.iter().map(|c| c.weight).sum();
    if total == 0 {
        return Err(Error::invalid(
            "average",
            "no site contributes, or all weights are zero",
        ));
    }

    let files: Vec<MappedTensors> = ordered
        .iter()
        .map(|c| MappedTensors::open(&c.weights))
        .collect::<Result<_>>()?;
    let mut expected = files[0].shapes();
    for (contribution, file) in ordered.iter().zip(&files) {
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
    for (contribution, file) in ordered.iter().zip(&files) {
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

    let shapes: Vec<_> = expected.into_iter().collect();
    let mut writer = Writer::create(output, &shapes)?;
    for (done, (name, shape)) in shapes.iter().enumerate() {
        if observer.stop_requested() {
            return Err(Error::Stopped);
        }
        let inputs: Vec<(&Contribution, &[[u8; 4]])> = ordered
            .iter()
            .zip(&files)
            .filter_map(|(contribution, file)| Some((*contribution, file.bytes(name)?.as_chunks().0)))
            .collect();
        let mut mean = vec![0f32; shape.iter().product()];
        mean.par_chunks_mut(CHUNK)
            .enumerate()
            .try_for_each(|(chunk, out)| {
                let mut sum = vec![0f64; out.len()];
                for (contribution, input) in &inputs {
                    let values = &input[chunk * CHUNK..][..sum.len()];
                    let mut finite = true;
                    for (sum, bytes) in sum.iter_mut().zip(values) {
                        let value = f32::from_le_bytes(*bytes);
                        finite &= value.is_finite();
                        *sum += contribution.weight as f64 * f64::from(value);
                    }
                    if !finite {
                        return Err(Error::invalid(
                            format!("site {}", contribution.site),
                            format!("tensor {name} holds a value that is not finite"),
                        ));
                    }
                }
                for (out, sum) in out.iter_mut().zip(sum) {
                    *out = (sum / total as f64) as f32;
                }
                Ok(())
            })?;
        writer.push(&mean)?;
        observer.advanced("tensors averaged", done + 1, shapes.len());
    }
    writer.finish()
}

/// Values that one thread averages at a time.
const CHUNK: usize = 1 << 16;
