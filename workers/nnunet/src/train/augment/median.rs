//! Median filter (batchgeneratorsv2 `MedianFilterTransform`, which is `scipy.ndimage.median_filter`).

use super::{
    patch::Patch,
    random::{integer, some_channels},
};
use crate::wide::wide;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// A median filter per channel.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Median {
    /// Per channel the edge of the cube (in 2D the square) of voxels; None leaves the channel alone.
    pub sizes: Vec<Option<usize>>,
}

impl Median {
    /// Each channel with probability 0.5, an edge of 2 to 7 voxels.
    pub fn draw(channels: usize, random: &mut ChaCha8Rng) -> Self {
        let sizes = some_channels(channels, random, |random| integer(random, 2, 7) as usize);
        Median { sizes }
    }

    /// Replaces each voxel by the median of the cube around it: the upper one of an even number. An even cube
    /// reaches one voxel further to lower indices; at the border the patch is mirrored, its last voxels doubled.
    pub fn apply(&self, patch: &mut Patch) {
        // Along an axis of one voxel the cube holds its values as often again, which leaves the median.
        let size = patch.size;
        for (c, edge) in self.sizes.iter().enumerate() {
            if let Some(edge) = *edge {
                let cube = size.map(|n| if n == 1 { 1 } else { edge });
                filter(patch.channel(c), size, cube);
            }
        }
    }
}

fn filter(channel: &mut [f32], size: [usize; 3], cube: [usize; 3]) {
    let padded: [usize; 3] = std::array::from_fn(|d| size[d] + cube[d] - 1);
    let source: [Vec<usize>; 3] = std::array::from_fn(|d| {
        (0..padded[d])
            .map(|i| doubled(i as i64 - (cube[d] / 2) as i64, size[d]))
            .collect()
    });
    // Voxels of the padded channel in ascending order, the value above the index. A voxel's place in that order is
    // its rank; no two have the same one.
    let mut order = Vec::with_capacity(padded.iter().product());
    for z in &source[0] {
        for y in &source[1] {
            let row = &channel[(z * size[1] + y) * size[2]..][..size[2]];
            for &x in &source[2] {
                order.push(u64::from(ascending(row[x])) << 32 | order.len() as u64);
            }
        }
    }
    order.sort_unstable();
    let mut ranks = vec![0; order.len()];
    for (rank, voxel) in order.iter().enumerate() {
        ranks[*voxel as u32 as usize] = rank as u32;
    }
    let mut within = Ranks::new(ranks.len());
    let half = cube.iter().product::<usize>() / 2;
    for z in 0..size[0] {
        for y in 0..size[1] {
            let to = &mut channel[(z * size[1] + y) * size[2]..][..size[2]];
            let rows: Vec<&[u32]> = (z..z + cube[0])
                .flat_map(|z| (y..y + cube[1]).map(move |y| (z * padded[1] + y) * padded[2]))
                .map(|at| &ranks[at..at + padded[2]])
                .collect();
            slide(to, &rows, cube[2], half as u32, &mut within, &order);
        }
    }
}

wide! {
    /// Medians along a row: the cube moves by a voxel, so that a face of it enters and another leaves.
    fn slide(to: &mut [f32], rows: &[&[u32]], edge: usize, half: u32, within: &mut Ranks, order: &[u64]) {
        for row in rows {
            row[..edge - 1].iter().for_each(|rank| within.add(*rank));
        }
        for (x, to) in to.iter_mut().enumerate() {
            for row in rows {
                within.add(row[x + edge - 1]);
            }
            *to = value((order[within.nth(half)] >> 32) as u32);
            for row in rows {
                within.remove(row[x]);
            }
        }
        for row in rows {
            row[to.len()..].iter().for_each(|rank| within.remove(*rank));
        }
    }
}

/// A set of ranks that knows its n-th.
struct Ranks {
    /// A bit for each rank.
    bits: Vec<u64>,
    /// How many are in each block of `BLOCK` words of bits.
    counts: Vec<u32>,
    /// A block near the last answer, and how many are in those before it.
    block: usize,
    before: u32,
}

/// Words in a block.
const BLOCK: usize = 16;

impl Ranks {
    fn new(ranks: usize) -> Self {
        let blocks = ranks.div_ceil(64 * BLOCK);
        Ranks {
            bits: vec![0; blocks * BLOCK],
            counts: vec![0; blocks],
            block: 0,
            before: 0,
        }
    }

    #[inline(always)]
    fn add(&mut self, rank: u32) {
        let rank = rank as usize;
        self.bits[rank / 64] |= 1 << (rank % 64);
        self.counts[rank / (64 * BLOCK)] += 1;
        self.before += u32::from(rank / (64 * BLOCK) < self.block);
    }

    #[inline(always)]
    fn remove(&mut self, rank: u32) {
        let rank = rank as usize;
        self.bits[rank / 64] &= !(1 << (rank % 64));
        self.counts[rank / (64 * BLOCK)] -= 1;
        self.before -= u32::from(rank / (64 * BLOCK) < self.block);
    }

    /// The rank that `n` others are below. There are more than `n`.
    #[inline(always)]
    fn nth(&mut self, n: u32) -> usize {
        while self.before > n {
            self.block -= 1;
            self.before -= self.counts[self.block];
        }
        while self.before + self.counts[self.block] <= n {
            self.before += self.counts[self.block];
            self.block += 1;
        }
        let mut left = n - self.before;
        let mut word = self.block * BLOCK;
        while self.bits[word].count_ones() <= left {
            left -= self.bits[word].count_ones();
            word += 1;
        }
        let mut bits = self.bits[word];
        for _ in 0..left {
            bits &= bits - 1;
        }
        word * 64 + bits.trailing_zeros() as usize
    }
}

/// Index `i` mirrored into `0..n` at the outer faces of the first and last voxel (scipy's `reflect`).
fn doubled(i: i64, n: usize) -> usize {
    let i = i.rem_euclid(2 * n as i64) as usize;
    i.min(2 * n - 1 - i)
}

/// Bits that are ordered as the numbers are.
fn ascending(value: f32) -> u32 {
    let bits = value.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

/// The number with those ordered bits.
#[inline(always)]
fn value(ascending: u32) -> f32 {
    f32::from_bits(if ascending >> 31 == 1 {
        ascending & !(1 << 31)
    } else {
        !ascending
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_those_of_sorted_cubes() {
        for size in [[5, 9, 33], [1, 7, 6], [3, 2, 4]] {
            let count = size.iter().product::<usize>();
            // Ties, both zeros and infinities among them.
            let values: Vec<f32> = (0..count)
                .map(|i| match i * 7919 % 23 {
                    0 => 0.0,
                    1 => -0.0,
                    2 => f32::INFINITY,
                    k => (k as f32 - 11.0) * if i % 3 == 0 { 1.5 } else { 0.25 },
                })
                .collect();
            for edge in 1..=8 {
                let mut patch = Patch {
                    data: values.clone(),
                    seg: vec![0; count],
                    channels: 1,
                    size,
                };
                Median {
                    sizes: vec![Some(edge)],
                }
                .apply(&mut patch);
                for (at, got) in patch.data.iter().enumerate() {
                    let centre = [at / (size[1] * size[2]), at / size[2] % size[1], at % size[2]];
                    let axis = |d: usize| {
                        (0..edge).map(move |k| doubled((centre[d] + k) as i64 - (edge / 2) as i64, size[d]))
                    };
                    let mut cube: Vec<f32> = axis(0)
                        .flat_map(|z| {
                            axis(1).flat_map(move |y| axis(2).map(move |x| (z * size[1] + y) * size[2] + x))
                        })
                        .map(|at| values[at])
                        .collect();
                    cube.sort_by(f32::total_cmp);
                    assert_eq!(*got, cube[cube.len() / 2], "{size:?}, edge {edge}, voxel {at}");
                }
            }
        }
    }
}
