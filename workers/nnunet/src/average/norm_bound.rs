//! How far each update lies from where the round started, and how far it may.

use std::path::Path;

use rayon::prelude::*;

use super::Contribution;
use crate::{
    Error, Result,
    checkpoint::safetensors::{TensorFile, check_shapes},
    progress::Observer,
    update::weight_of_momentum,
};

/// An update that was scaled down.
#[derive(Clone, Debug, PartialEq)]
pub struct Bounded {
    /// The site.
    pub site: String,
    /// Its distance (L2) from where the round started.
    pub norm: f64,
    /// The distance that it counts with.
    pub bound: f64,
}

/// What is known before the first tensor is averaged.
pub(super) struct Bound {
    /// The weights that the round started from.
    pub base: TensorFile,
    /// By how much each site's update is multiplied, in site order.
    pub factors: Vec<f64>,
    /// Those that are scaled down.
    pub bounded: Vec<Bounded>,
}

/// Measures all updates. Sums run chunk after chunk, however many threads there are.
pub(super) fn measure(
    ordered: &[&Contribution],
    files: &[TensorFile],
    shapes: &[(String, Vec<usize>)],
    norm_bound: f64,
    base: &Path,
    observer: &dyn Observer,
) -> Result<Bound> {
    let base = TensorFile::open(base)?;
    let expected = shapes.iter().cloned().collect();
    // An earlier job may have averaged momentum too.
    let mut found = base.shapes();
    found.retain(|name, _| weight_of_momentum(name).is_none());
    check_shapes(&expected, &found).map_err(|reason| {
        Error::invalid(
            "the weights that the round started from",
            format!("{reason} (held against site {})", ordered[0].site),
        )
    })?;
    let mut norms = Vec::with_capacity(files.len());
    for (contribution, file) in ordered.iter().zip(files) {
        let mut sum = 0f64;
        for (name, shape) in shapes {
            if observer.stop_requested() {
                return Err(Error::Stopped);
            }
            if file.has(name) && base.has(name) {
                sum += squared_distance(name, shape.iter().product(), file, &base)?;
            }
        }
        if !sum.is_finite() {
            return Err(Error::invalid(
                format!("site {}", contribution.site),
                "its update holds a value that is not finite",
            ));
        }
        norms.push(sum.sqrt());
    }
    let bound = norm_bound * median(&norms);
    let factors = norms
        .iter()
        .map(|norm| if *norm > bound { bound / norm } else { 1.0 });
    let bounded = ordered.iter().zip(&norms).filter(|(_, norm)| **norm > bound);
    Ok(Bound {
        base,
        factors: factors.collect(),
        bounded: bounded
            .map(|(contribution, norm)| Bounded {
                site: contribution.site.clone(),
                norm: *norm,
                bound,
            })
            .collect(),
    })
}

/// Values that are added up before their sum is: another number is another sum.
const CHUNK: usize = 1 << 16;

fn squared_distance(name: &str, count: usize, file: &TensorFile, base: &TensorFile) -> Result<f64> {
    let chunks: Vec<f64> = (0..count.div_ceil(CHUNK))
        .into_par_iter()
        .map_init(
            || (vec![[0; 4]; CHUNK], vec![[0; 4]; CHUNK]),
            |(values, origins), chunk| {
                let length = CHUNK.min(count - chunk * CHUNK);
                let (values, origins) = (&mut values[..length], &mut origins[..length]);
                file.read(name, chunk * CHUNK, values.as_flattened_mut())?;
                base.read(name, chunk * CHUNK, origins.as_flattened_mut())?;
                let differences = values.iter().zip(origins).map(|(value, origin)| {
                    f64::from(f32::from_le_bytes(*value)) - f64::from(f32::from_le_bytes(*origin))
                });
                Ok(differences.map(|difference| difference * difference).sum())
            },
        )
        .collect::<Result<_>>()?;
    Ok(chunks.into_iter().sum())
}

fn median(norms: &[f64]) -> f64 {
    let mut sorted = norms.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
        _ => sorted[middle],
    }
}
