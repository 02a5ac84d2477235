//! Blanked rectangles (batchgeneratorsv2 `BlankRectangleTransform`).

use super::{
    patch::Patch,
    random::{integer, some_channels},
};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// A part of the patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rectangle {
    /// Its first voxel (z, y, x).
    pub low: [usize; 3],
    /// Its size.
    pub size: [usize; 3],
}

/// The rectangles of each channel, in the order in which they are blanked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rectangles {
    /// None leaves the channel alone.
    pub channels: Vec<Option<Vec<Rectangle>>>,
}

impl Rectangles {
    /// One to four for each channel with probability 0.5, each axis from a tenth to less than a third of the patch's.
    pub fn draw(channels: usize, patch: [usize; 3], random: &mut ChaCha8Rng) -> Self {
        let channels = some_channels(channels, random, |random| {
            (0..integer(random, 1, 4))
                .map(|_| {
                    let size = patch.map(|n| {
                        // An axis of fewer than 6 voxels has no such number, and Python stops with an error.
                        let least = (n as i64 / 10).max(1);
                        integer(random, least, (n as i64 / 3 - 1).max(least)) as usize
                    });
                    let low =
                        std::array::from_fn(|d| integer(random, 0, (patch[d] - size[d]) as i64) as usize);
                    Rectangle { low, size }
                })
                .collect()
        });
        Rectangles { channels }
    }

    /// Sets each rectangle to its mean.
    pub fn apply(&self, patch: &mut Patch) {
        let [_, ny, nx] = patch.size;
        for (c, rectangles) in self.channels.iter().enumerate() {
            let channel = patch.channel(c);
            for Rectangle { low, size } in rectangles.iter().flatten() {
                let rows = (low[0]..low[0] + size[0])
                    .flat_map(|z| (low[1]..low[1] + size[1]).map(move |y| (z * ny + y) * nx + low[2]));
                let sum: f64 = rows
                    .clone()
                    .flat_map(|at| &channel[at..at + size[2]])
                    .map(|v| f64::from(*v))
                    .sum();
                let mean = (sum / size.iter().product::<usize>() as f64) as f32;
                rows.for_each(|at| channel[at..at + size[2]].fill(mean));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::augment::distribution::{close, fill};
    use rand::SeedableRng;

    #[test]
    fn counts_sizes_and_places_are_nnunets() {
        let mut random = ChaCha8Rng::seed_from_u64(8);
        let patch = [1, 5, 60];
        let drawn: Vec<Option<Vec<Rectangle>>> = (0..10_000)
            .flat_map(|_| Rectangles::draw(2, patch, &mut random).channels)
            .collect();
        let chosen: Vec<&Vec<Rectangle>> = drawn.iter().flatten().collect();
        close(chosen.len() as f64 / drawn.len() as f64, 0.5);
        for count in 1..=4 {
            let those = chosen.iter().filter(|r| r.len() == count).count();
            close(those as f64 / chosen.len() as f64, 0.25);
        }
        let all: Vec<&Rectangle> = chosen.into_iter().flatten().collect();
        assert!(all.iter().all(|r| r.size[..2] == [1, 1] && r.low[0] == 0));
        fill(
            &all.iter().map(|r| r.size[2] as f64).collect::<Vec<_>>(),
            6.0,
            19.0,
        );
        fill(&all.iter().map(|r| r.low[1] as f64).collect::<Vec<_>>(), 0.0, 4.0);
        assert!(all.iter().all(|r| r.low[2] + r.size[2] <= 60));
        assert!(all.iter().any(|r| r.low[2] == 0) && all.iter().any(|r| r.low[2] + r.size[2] == 60));
    }
}
