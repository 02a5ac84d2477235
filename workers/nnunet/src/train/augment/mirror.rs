//! Mirroring (batchgeneratorsv2 `MirrorTransform`).

use super::{patch::Patch, random::chance};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// Which axes (z, y, x) are mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Mirror(pub [bool; 3]);

impl Mirror {
    /// Each allowed axis with probability 0.5. `axes` counts from y in 2D.
    pub fn draw(axes: &[usize], is_2d: bool, random: &mut ChaCha8Rng) -> Self {
        let mut mirrored = [false; 3];
        for axis in axes {
            if let Some(mirrored) = mirrored.get_mut(axis + usize::from(is_2d)) {
                *mirrored = chance(random, 0.5);
            }
        }
        Mirror(mirrored)
    }

    /// Mirrors image and segmentation.
    pub fn apply(&self, patch: &mut Patch) {
        let (size, voxels) = (patch.size, patch.voxels());
        for channel in patch.data.chunks_exact_mut(voxels) {
            self.volume(channel, size);
        }
        self.volume(&mut patch.seg, size);
    }

    fn volume<T: Copy>(&self, volume: &mut [T], [_, ny, nx]: [usize; 3]) {
        let Mirror([z, y, x]) = *self;
        if z {
            swap_outer(volume, ny * nx);
        }
        if y {
            volume
                .chunks_exact_mut(ny * nx)
                .for_each(|plane| swap_outer(plane, nx));
        }
        if x {
            volume.chunks_exact_mut(nx).for_each(<[T]>::reverse);
        }
    }
}

/// Reverses the order of consecutive blocks of `length`.
fn swap_outer<T>(values: &mut [T], length: usize) {
    let count = values.len() / length;
    let (first, last) = values.split_at_mut(count / 2 * length);
    let last = &mut last[(count % 2) * length..];
    for (a, b) in first
        .chunks_exact_mut(length)
        .zip(last.chunks_exact_mut(length).rev())
    {
        a.swap_with_slice(b);
    }
}
