//! Where a batch's patches are cut: nnU-Net's sampling of cases and positions
//! (`nnunetv2/training/dataloading/data_loader.py`).

use super::augment::random::{chance, integer};
use crate::{Error, Result};
use ndarray::ArrayView4;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

/// The voxels of one class or region of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassVoxels {
    /// The labels of the key: one for a class, several for a region or for "all that is annotated".
    pub labels: Vec<i32>,
    /// Sampled voxels (z, y, x) of the preprocessed case. Empty where the class is absent.
    pub voxels: Vec<[u32; 3]>,
}

/// One preprocessed case, usually mapped into memory.
pub trait Case: Send + Sync {
    /// The image (c, z, y, x), in C order.
    fn data(&self) -> ArrayView4<'_, f32>;
    /// The segmentation (1, z, y, x), in C order; -1 is outside of the nonzero mask.
    fn seg(&self) -> ArrayView4<'_, i16>;
    /// nnU-Net's class_locations, in their order.
    fn class_locations(&self) -> &[ClassVoxels];
}

/// The cases that one split draws from.
pub trait Cases: Send + Sync {
    /// The identifiers, in the order that numbers them.
    fn identifiers(&self) -> &[String];
    /// Opens the case `index`. Called for every sample, from any thread.
    fn open(&self, index: usize) -> Result<Arc<dyn Case>>;
}

/// How samples that must show foreground are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Oversampling {
    /// The last part of every batch: sample `j` iff `j >= round(batch_size * (1 - fraction))`. nnU-Net: 0.33.
    LastOfBatch(f64),
    /// Every sample with this probability (`nnUNetTrainer_probabilisticOversampling`).
    Probabilistic(f64),
}

impl Oversampling {
    /// Whether sample `index` of a batch of `batch_size` must show foreground.
    pub fn forced(&self, index: usize, batch_size: usize, random: &mut ChaCha8Rng) -> bool {
        match *self {
            // Python's round: halves go to the even number.
            Oversampling::LastOfBatch(fraction) => {
                index as f64 >= (batch_size as f64 * (1.0 - fraction)).round_ties_even()
            }
            Oversampling::Probabilistic(rate) => chance(random, rate),
        }
    }

    /// The share of forced samples in a batch: what `nnUNetTrainer_probabilisticOversampling` takes as its rate.
    pub fn effective_rate(fraction: f64, batch_size: usize) -> f64 {
        let first = (batch_size as f64 * (1.0 - fraction)).round_ties_even();
        (0..batch_size).filter(|&j| j as f64 >= first).count() as f64 / batch_size as f64
    }
}

/// Draws positions of patches in cases. Sizes are (z, y, x); a 2D patch is (1, y, x).
#[derive(Debug, Clone, PartialEq)]
pub struct PatchSampler {
    /// What is cut from the case: the final patch, or the larger one that rotation and scaling need.
    pub initial_patch_size: [usize; 3],
    /// What the network gets.
    pub final_patch_size: [usize; 3],
    /// The labels of the annotated-voxels key, all labels behind -1, where the data set has an ignore label.
    /// Then samples that are not forced lie around annotated voxels.
    pub annotated: Option<Vec<i32>>,
}

impl PatchSampler {
    /// The lower corner (z, y, x) of a patch of `initial_patch_size` in a case of `shape`; it may lie outside.
    /// `get_bbox` of nnU-Net's data loader.
    pub fn draw(
        &self,
        shape: [usize; 3],
        forced: bool,
        locations: &[ClassVoxels],
        random: &mut ChaCha8Rng,
    ) -> [i64; 3] {
        let bounds = self.bounds(shape);
        let key = if forced {
            self.forced_key(locations, random)
        } else if let Some(annotated) = &self.annotated {
            locations
                .iter()
                .find(|l| &l.labels == annotated && !l.voxels.is_empty())
        } else {
            None
        };
        match key {
            Some(key) => {
                let voxel = key.voxels[integer(random, 0, key.voxels.len() as i64 - 1) as usize];
                // No upper clamp: a forced patch may reach further out than a free one.
                std::array::from_fn(|d| {
                    bounds[d]
                        .0
                        .max(i64::from(voxel[d]) - (self.initial_patch_size[d] / 2) as i64)
                })
            }
            None => std::array::from_fn(|d| integer(random, bounds[d].0, bounds[d].1)),
        }
    }

    /// The lowest and highest lower corner per axis, both included.
    pub fn bounds(&self, shape: [usize; 3]) -> [(i64, i64); 3] {
        std::array::from_fn(|d| {
            let (shape, patch) = (shape[d] as i64, self.initial_patch_size[d] as i64);
            let pad = (patch - self.final_patch_size[d] as i64).max(patch - shape);
            // Floor division on both sides, as in Python.
            let low = (-pad).div_euclid(2);
            let high = shape + pad.div_euclid(2) + pad.rem_euclid(2) - patch;
            (low, high)
        })
    }

    /// Uniform over the classes that the case has; the key of annotated voxels counts only where it is alone.
    fn forced_key<'l>(
        &self,
        locations: &'l [ClassVoxels],
        random: &mut ChaCha8Rng,
    ) -> Option<&'l ClassVoxels> {
        let mut eligible: Vec<&ClassVoxels> = locations.iter().filter(|l| !l.voxels.is_empty()).collect();
        if let Some(annotated) = &self.annotated
            && eligible.len() > 1
        {
            eligible.retain(|l| &l.labels != annotated);
        }
        if eligible.is_empty() {
            return None;
        }
        Some(eligible[integer(random, 0, eligible.len() as i64 - 1) as usize])
    }
}

/// A box of a case that may reach outside of it, where the image is 0 and the segmentation -1.
/// Nothing is copied until a transform reads it.
#[derive(Clone, Copy)]
pub struct Window<'a> {
    /// The image (c, z, y, x), in C order.
    pub data: &'a [f32],
    /// The segmentation (z, y, x), in C order.
    pub seg: &'a [i16],
    /// Number of image channels.
    pub channels: usize,
    /// The case's (z, y, x).
    pub shape: [usize; 3],
    /// Lower corner of the box in the case.
    pub start: [i64; 3],
    /// Size of the box.
    pub size: [usize; 3],
}

impl<'a> Window<'a> {
    /// The box of `size` at `start` of a case. Fails where the case's arrays do not fit each other.
    pub fn new(identifier: &str, case: &'a dyn Case, start: [i64; 3], size: [usize; 3]) -> Result<Self> {
        let (data, seg) = (case.data(), case.seg());
        let (c, z, y, x) = data.dim();
        if seg.dim() != (1, z, y, x) {
            return Err(Error::bad_case(
                identifier,
                format!(
                    "segmentation of shape {:?} for data of shape {:?}",
                    seg.dim(),
                    data.dim()
                ),
            ));
        }
        let order = || Error::bad_case(identifier, "preprocessed arrays are not in C order");
        // The views borrow the case, not the local variables.
        let data = data.to_slice().ok_or_else(order)?;
        let seg = seg.to_slice().ok_or_else(order)?;
        Ok(Window {
            data,
            seg,
            channels: c,
            shape: [z, y, x],
            start,
            size,
        })
    }

    /// The part of the box that lies in the case, as (first, last + 1) per axis in case coordinates.
    pub fn inside(&self) -> [(i64, i64); 3] {
        std::array::from_fn(|d| {
            let first = self.start[d].clamp(0, self.shape[d] as i64);
            let end = (self.start[d] + self.size[d] as i64).clamp(first, self.shape[d] as i64);
            (first, end)
        })
    }

    /// The box of `size` around this one's centre: what nnU-Net crops where neither rotation nor scale is drawn
    /// (`crop_tensor` of batchgeneratorsv2 at `floor(size / 2)`). What lies outside of this box stays unread.
    pub fn centre(&self, size: [usize; 3]) -> Window<'a> {
        let start = std::array::from_fn(|d| self.start[d] + (self.size[d] / 2) as i64 - (size[d] / 2) as i64);
        Window { start, size, ..*self }
    }

    /// Copies the image into `out` (c, z, y, x), zeros outside.
    pub fn read_data(&self, out: &mut [f32]) {
        let volume: usize = self.shape.iter().product();
        let voxels: usize = self.size.iter().product();
        for c in 0..self.channels {
            self.read(
                &self.data[c * volume..(c + 1) * volume],
                0.0,
                &mut out[c * voxels..(c + 1) * voxels],
            );
        }
    }

    /// Copies the segmentation into `out` (z, y, x), -1 outside.
    pub fn read_seg(&self, out: &mut [i16]) {
        self.read(self.seg, -1, out);
    }

    fn read<T: Copy>(&self, from: &[T], outside: T, out: &mut [T]) {
        let [(z0, z1), (y0, y1), (x0, x1)] = self.inside();
        let [_, sy, sx] = self.size;
        let whole = (0..3).all(|d| self.inside()[d].1 - self.inside()[d].0 == self.size[d] as i64);
        if !whole {
            out.fill(outside);
        }
        for z in z0..z1 {
            for y in y0..y1 {
                let source = ((z as usize * self.shape[1]) + y as usize) * self.shape[2];
                let target = (((z - self.start[0]) as usize * sy) + (y - self.start[1]) as usize) * sx
                    + (x0 - self.start[2]) as usize;
                let length = (x1 - x0) as usize;
                out[target..target + length]
                    .copy_from_slice(&from[source + x0 as usize..source + x1 as usize]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn sampler() -> PatchSampler {
        PatchSampler {
            initial_patch_size: [73, 80, 64],
            final_patch_size: [40, 56, 40],
            annotated: None,
        }
    }

    #[test]
    fn bounds_are_nnunets() {
        // Python's lbs and ubs of nnUNetDataLoader.get_bbox.
        assert_eq!(
            sampler().bounds([100, 100, 100]),
            [(-17, 44), (-12, 32), (-12, 48)]
        );
        assert_eq!(
            sampler().bounds([36, 50, 35]),
            [(-19, -18), (-15, -15), (-15, -14)]
        );
        let flat = PatchSampler {
            initial_patch_size: [1, 65, 65],
            final_patch_size: [1, 56, 40],
            annotated: None,
        };
        assert_eq!(flat.bounds([36, 50, 35]), [(0, 35), (-8, -7), (-15, -15)]);
    }

    #[test]
    fn the_last_third_is_forced() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut count = |size: usize| {
            (0..size)
                .filter(|&j| Oversampling::LastOfBatch(0.33).forced(j, size, &mut random))
                .count()
        };
        // Python: sum(not j < round(n * (1 - .33)) for j in range(n))
        assert_eq!(
            [1, 2, 3, 4, 5, 9, 12, 50, 366].map(&mut count),
            [0, 1, 1, 1, 2, 3, 4, 16, 121]
        );
        assert_eq!(Oversampling::effective_rate(0.33, 2), 0.5);
    }

    #[test]
    fn forced_patches_show_their_voxel_and_may_reach_past_the_upper_bound() {
        let locations = [
            ClassVoxels {
                labels: vec![1],
                voxels: vec![],
            },
            ClassVoxels {
                labels: vec![2],
                voxels: vec![[99, 98, 0]],
            },
        ];
        let mut random = ChaCha8Rng::seed_from_u64(2);
        let start = sampler().draw([100, 100, 100], true, &locations, &mut random);
        assert_eq!(start, [99 - 36, 98 - 40, -12]);
        assert!(start[0] > sampler().bounds([100, 100, 100])[0].1);
    }

    #[test]
    fn classes_are_uniform_whatever_their_size() {
        let locations = [
            ClassVoxels {
                labels: vec![-1, 0, 1, 2],
                voxels: vec![[1, 1, 1]; 900],
            },
            ClassVoxels {
                labels: vec![1],
                voxels: vec![[50, 50, 50]; 500],
            },
            ClassVoxels {
                labels: vec![2],
                voxels: vec![[60, 60, 60]],
            },
        ];
        let sampler = PatchSampler {
            annotated: Some(vec![-1, 0, 1, 2]),
            ..sampler()
        };
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let mut draw = |forced| sampler.draw([100, 100, 100], forced, &locations, &mut random)[0];
        let second = (0..2000).filter(|_| draw(true) == 60 - 36).count();
        assert!((900..1100).contains(&second), "{second}");
        // With an ignore label, samples that are not forced lie around annotated voxels.
        assert!((0..50).all(|_| draw(false) == -17));
        // The key of annotated voxels counts where it is alone.
        assert_eq!(sampler.draw([100; 3], true, &locations[..1], &mut random)[0], -17);
    }

    struct Memory(ndarray::Array4<f32>, ndarray::Array4<i16>);

    impl Case for Memory {
        fn data(&self) -> ArrayView4<'_, f32> {
            self.0.view()
        }
        fn seg(&self) -> ArrayView4<'_, i16> {
            self.1.view()
        }
        fn class_locations(&self) -> &[ClassVoxels] {
            &[]
        }
    }

    #[test]
    fn windows_are_padded_with_0_and_minus_1() {
        let case = Memory(
            ndarray::Array4::from_shape_fn((2, 3, 4, 5), |(c, z, y, x)| {
                (c * 1000 + z * 100 + y * 10 + x + 1) as f32
            }),
            ndarray::Array4::from_elem((1, 3, 4, 5), 2),
        );
        let window = Window::new("a", &case, [-1, 2, 3], [3, 3, 3]).unwrap();
        let (mut data, mut seg) = (vec![9.0; 54], vec![9; 27]);
        window.read_data(&mut data);
        window.read_seg(&mut seg);
        for (i, (&value, &label)) in data[27..].iter().zip(&seg).enumerate() {
            let (z, y, x) = (i as i64 / 9 - 1, i as i64 / 3 % 3 + 2, i as i64 % 3 + 3);
            let inside = z >= 0 && y < 4 && x < 5;
            let expected = if inside {
                (1001 + z * 100 + y * 10 + x) as f32
            } else {
                0.0
            };
            assert_eq!((value, label), (expected, if inside { 2 } else { -1 }));
        }
        let wrong = Memory(
            ndarray::Array4::zeros((1, 3, 4, 5)),
            ndarray::Array4::zeros((1, 3, 4, 4)),
        );
        assert!(
            Window::new("b", &wrong, [0; 3], [1; 3])
                .err()
                .unwrap()
                .to_string()
                .contains("case b")
        );
    }
}
