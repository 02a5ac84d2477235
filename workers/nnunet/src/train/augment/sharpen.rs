//! Sharpening (batchgeneratorsv2 `SharpeningTransform`, without its clamp, as nnU-Net configures it).

use super::{intensity::PerChannel, patch::Patch};
use crate::wide::wide;

/// Adds to each voxel its channel's strength times how far it stands out from its neighbours: those that share a
/// face; the border voxel stands in for one outside. In 2D the two along z, which are the voxel itself, drop out.
pub fn sharpen(patch: &mut Patch, strengths: &PerChannel) {
    let [nz, ny, nx] = patch.size;
    for (c, strength) in strengths.chosen() {
        let channel = patch.channel(c);
        let before = channel.to_vec();
        let row = |z: usize, y: usize| &before[(z * ny + y) * nx..][..nx];
        for (zy, to) in channel.chunks_exact_mut(nx).enumerate() {
            let (z, y) = (zy / ny, zy % ny);
            let neighbours = [
                row(z.saturating_sub(1), y),
                row((z + 1).min(nz - 1), y),
                row(z, y.saturating_sub(1)),
                row(z, (y + 1).min(ny - 1)),
            ];
            sharpen_row(to, row(z, y), &neighbours, strength);
        }
    }
}

wide! {
    fn sharpen_row(to: &mut [f32], from: &[f32], neighbours: &[&[f32]; 4], strength: f32) {
        let n = to.len();
        let from = &from[..n];
        let [a, b, c, d]: [&[f32]; 4] = std::array::from_fn(|k| &neighbours[k][..n]);
        let sharpened = |x: usize, left: f32, right: f32| {
            let others = a[x] + b[x] + c[x] + d[x] + left + right;
            (6.0 * from[x] - others) * strength + from[x]
        };
        for x in 1..n.saturating_sub(1) {
            to[x] = sharpened(x, from[x - 1], from[x + 1]);
        }
        for x in [0, n - 1] {
            to[x] = sharpened(x, from[x.saturating_sub(1)], from[(x + 1).min(n - 1)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plane_is_sharpened_within_itself_and_a_ramp_at_its_ends() {
        let mut patch = Patch {
            data: (0..12).map(|i| (i % 4) as f32).collect(),
            seg: vec![0; 12],
            channels: 1,
            size: [1, 3, 4],
        };
        sharpen(&mut patch, &PerChannel(vec![Some(0.5)]));
        for row in patch.data.chunks_exact(4) {
            assert_eq!(row, [-0.5, 1.0, 2.0, 3.5]);
        }
    }
}
