//! Quarter turns and transposed axes (batchgeneratorsv2 `Rot90Transform`, `TransposeAxesTransform`).

use super::{patch::Patch, random::integer};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// Turns by 90 degrees in a plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct QuarterTurns {
    /// The axes of the plane (0 is z), ascending; a turn goes from the first towards the second.
    pub axes: [usize; 2],
    /// How many turns.
    pub count: usize,
}

impl QuarterTurns {
    /// 0 to 3 turns, in a plane of two of the axes; at least two are given, ascending.
    pub fn draw(axes: &[usize], random: &mut ChaCha8Rng) -> Self {
        let count = integer(random, 0, 3) as usize;
        let mut plane = axes.to_vec();
        while plane.len() > 2 {
            plane.remove(integer(random, 0, plane.len() as i64 - 1) as usize);
        }
        QuarterTurns {
            axes: [plane[0], plane[1]],
            count,
        }
    }

    /// Turns image and segmentation, as `torch.rot90`.
    pub fn apply(&self, patch: &mut Patch) {
        let [a, b] = self.axes;
        let (mut source, mut reversed) = ([0, 1, 2], [false; 3]);
        if self.count % 2 == 1 {
            (source[a], source[b]) = (b, a);
        }
        reversed[a] = matches!(self.count % 4, 1 | 2);
        reversed[b] = matches!(self.count % 4, 2 | 3);
        rearrange_patch(patch, source, reversed);
    }
}

/// Axes in another order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Transposition {
    /// For each axis of the result, the axis that it was.
    pub axes: [usize; 3],
}

impl Transposition {
    /// Any order of the given axes, the one they have included.
    pub fn draw(given: &[usize], random: &mut ChaCha8Rng) -> Self {
        let mut order = given.to_vec();
        order.shuffle(random);
        let mut axes = [0, 1, 2];
        for (&axis, from) in given.iter().zip(order) {
            axes[axis] = from;
        }
        Transposition { axes }
    }

    /// Transposes image and segmentation.
    pub fn apply(&self, patch: &mut Patch) {
        rearrange_patch(patch, self.axes, [false; 3]);
    }
}

fn rearrange_patch(patch: &mut Patch, source: [usize; 3], reversed: [bool; 3]) {
    if (source, reversed) == ([0, 1, 2], [false; 3]) {
        return;
    }
    let (size, voxels) = (patch.size, patch.voxels());
    let mut data = Vec::with_capacity(patch.data.len());
    for channel in patch.data.chunks_exact(voxels) {
        data.extend(rearrange(channel, size, source, reversed));
    }
    patch.data = data;
    patch.seg = rearrange(&patch.seg, size, source, reversed);
    patch.size = source.map(|d| size[d]);
}

/// Axis d of the result is axis `source[d]` of `from`, backwards where `reversed[d]`.
fn rearrange<T: Copy + Default>(
    from: &[T],
    size: [usize; 3],
    source: [usize; 3],
    reversed: [bool; 3],
) -> Vec<T> {
    // Blocks keep the rows read and the rows written in the cache, whichever axes change places.
    const BLOCK: usize = 16;
    let stride = [size[1] * size[2], size[2], 1];
    let new = source.map(|d| size[d]);
    let step = source.map(|d| stride[d]);
    let at = |d: usize, i: usize| step[d] * if reversed[d] { new[d] - 1 - i } else { i };
    let mut to = vec![T::default(); from.len()];
    let starts = |d: usize| (0..new[d]).step_by(BLOCK);
    let block = |d: usize, start: usize| start..(start + BLOCK).min(new[d]);
    for z0 in starts(0) {
        for y0 in starts(1) {
            for x0 in starts(2) {
                for z in block(0, z0) {
                    for y in block(1, y0) {
                        let row = (z * new[1] + y) * new[2];
                        let base = at(0, z) + at(1, y);
                        for x in block(2, x0) {
                            to[row + x] = from[base + at(2, x)];
                        }
                    }
                }
            }
        }
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::augment::distribution::close;
    use rand::SeedableRng;
    use std::collections::BTreeMap;

    fn patch(size: [usize; 3]) -> Patch {
        let voxels = size.iter().product::<usize>();
        Patch {
            data: (0..2 * voxels).map(|i| i as f32).collect(),
            seg: (0..voxels).map(|i| i as i16).collect(),
            channels: 2,
            size,
        }
    }

    #[test]
    fn four_turns_or_two_exchanges_change_nothing() {
        let before = patch([3, 18, 5]);
        for axes in [[0, 1], [0, 2], [1, 2]] {
            let mut turned = before.clone();
            for _ in 0..4 {
                QuarterTurns { axes, count: 1 }.apply(&mut turned);
                assert_eq!(turned.size.iter().product::<usize>(), 270);
            }
            assert_eq!(turned, before);
            for count in [2, 3] {
                let (mut once, mut again) = (before.clone(), before.clone());
                QuarterTurns { axes, count }.apply(&mut once);
                (0..count).for_each(|_| QuarterTurns { axes, count: 1 }.apply(&mut again));
                assert_eq!(once, again);
            }
        }
        let mut exchanged = before.clone();
        let exchange = Transposition { axes: [2, 1, 0] };
        exchange.apply(&mut exchanged);
        assert_eq!((exchanged.size, exchanged.seg[1]), ([5, 18, 3], 90));
        exchange.apply(&mut exchanged);
        assert_eq!(exchanged, before);
    }

    #[test]
    fn all_orders_and_planes_are_as_likely() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let (mut orders, mut turns) = (BTreeMap::new(), BTreeMap::new());
        for _ in 0..20_000 {
            *orders
                .entry(Transposition::draw(&[0, 1, 2], &mut random).axes)
                .or_insert(0) += 1;
            let turn = QuarterTurns::draw(&[0, 1, 2], &mut random);
            *turns.entry((turn.axes, turn.count)).or_insert(0) += 1;
        }
        assert_eq!((orders.len(), turns.len()), (6, 12));
        orders
            .values()
            .for_each(|n| close(f64::from(*n) / 20_000.0, 1.0 / 6.0));
        turns
            .values()
            .for_each(|n| close(f64::from(*n) / 20_000.0, 1.0 / 12.0));
    }
}
