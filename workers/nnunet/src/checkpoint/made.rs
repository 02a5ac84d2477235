//! A safetensors file whose values are made of other files': what is made is written while the next is made.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

use rayon::prelude::*;

use super::safetensors::Writer;
use crate::{Error, Result, progress::Observer};

/// Values that one thread makes at a time: those of a few files fit its processor's cache.
pub(crate) const PART: usize = 1 << 14;
/// Values that are written at a time. Tensors are of very unlike sizes: by tensors, one would wait for the other.
const STEP: usize = 1 << 20;

/// Some values of one tensor, at most [`PART`].
#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    /// The tensor.
    pub name: &'a str,
    /// The first of the values, counted in the tensor.
    pub first: usize,
    /// Values of the file before them.
    pub before: usize,
    /// How many tensors are complete with them.
    complete: usize,
    length: usize,
}

/// Writes tensors of these names and shapes to `output`, whose values `make` fills in, on all threads, each with a
/// `scratch` of its own. Holds two steps of 4 MiB. The file is not synced. Gives the digest of its bytes.
///
/// # Errors
/// The first of `make`'s, a file that cannot be written, or [`Error::Stopped`].
pub(crate) fn write<S: Default + Send>(
    output: &Path,
    shapes: &[(String, Vec<usize>)],
    observer: &dyn Observer,
    scratch: impl Fn() -> S + Sync + Send,
    make: impl Fn(&mut S, Part<'_>, &mut [f32]) -> Result<()> + Sync + Send,
) -> Result<String> {
    let mut writer = Writer::<f32>::create(output, shapes)?;
    let parts = parts(shapes);
    let kept = Mutex::new(Vec::new());
    let mut rest = &parts[..];
    let (mut made, mut next): (Vec<f32>, Vec<f32>) = (Vec::new(), Vec::new());
    while let Some(first) = rest.first() {
        if observer.stop_requested() {
            return Err(Error::Stopped);
        }
        let count = rest.partition_point(|part| part.before - first.before < STEP);
        let (step, more) = rest.split_at(count);
        rest = more;
        next.resize(step.iter().map(|part| part.length).sum(), 0.0);
        let (written, done) = rayon::join(
            || writer.append(&made),
            || {
                let pieces = pieces(step, &mut next).into_par_iter();
                let lend = || Lent::new(&kept, &scratch);
                pieces.try_for_each_init(lend, |lent, (part, out)| make(&mut lent.scratch, *part, out))
            },
        );
        written?;
        done?;
        std::mem::swap(&mut made, &mut next);
        let complete = step.last().map_or(0, |part| part.complete);
        observer.advanced("tensors averaged", complete, shapes.len());
    }
    writer.append(&made)?;
    writer.finish_scratch()
}

/// A scratch, made anew where none is kept from an earlier step, and kept for the next.
struct Lent<'k, S: Default> {
    kept: &'k Mutex<Vec<S>>,
    scratch: S,
}

impl<'k, S: Default> Lent<'k, S> {
    fn new(kept: &'k Mutex<Vec<S>>, make: impl Fn() -> S) -> Self {
        let scratch = kept.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self {
            kept,
            scratch: scratch.unwrap_or_else(make),
        }
    }
}

impl<S: Default> Drop for Lent<'_, S> {
    fn drop(&mut self) {
        let scratch = std::mem::take(&mut self.scratch);
        let kept = self.kept.lock();
        kept.unwrap_or_else(PoisonError::into_inner).push(scratch);
    }
}

/// All values, part by part.
fn parts(shapes: &[(String, Vec<usize>)]) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut before = 0;
    for (index, (name, shape)) in shapes.iter().enumerate() {
        let values: usize = shape.iter().product();
        parts.extend((0..values).step_by(PART).map(|first| Part {
            name,
            first,
            before: before + first,
            complete: index + usize::from(values - first <= PART),
            length: PART.min(values - first),
        }));
        before += values;
    }
    parts
}

/// The parts of a step with their places.
fn pieces<'a, 'p>(step: &'a [Part<'p>], mut values: &'a mut [f32]) -> Vec<(&'a Part<'p>, &'a mut [f32])> {
    let mut pieces = Vec::with_capacity(step.len());
    for part in step {
        let (own, rest) = values.split_at_mut(part.length);
        values = rest;
        pieces.push((part, own));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{checkpoint::safetensors, progress::Unobserved};

    #[test]
    fn values_land_where_they_belong() {
        let shapes: Vec<(String, Vec<usize>)> = [
            ("a", vec![]),
            ("b", vec![3, STEP]),
            ("none", vec![0, 7]),
            ("c", vec![PART + 1]),
            ("d", vec![PART]),
        ]
        .map(|(name, shape)| (name.to_owned(), shape))
        .into();
        let file = tempfile::tempdir().unwrap();
        let output = file.path().join("made");
        let make = |(): &mut (), part: Part<'_>, out: &mut [f32]| {
            for (i, value) in out.iter_mut().enumerate() {
                let tensor = f32::from(part.name.as_bytes()[0]);
                *value = ((part.first + i) % 1000) as f32 * 1000.0 + tensor;
            }
            Ok(())
        };
        let digest = write(&output, &shapes, &Unobserved, || (), make).unwrap();
        assert_eq!(digest, safetensors::digest(&std::fs::read(&output).unwrap()));
        let state = safetensors::read(&output).unwrap();
        for (name, shape) in &shapes {
            let tensor = state.get(name).unwrap();
            assert_eq!(tensor.shape, *shape);
            let tensor_number = f32::from(name.as_bytes()[0]);
            for (i, value) in tensor.data.iter().enumerate() {
                assert_eq!(*value, (i % 1000) as f32 * 1000.0 + tensor_number, "{name} {i}");
            }
        }
    }
}
