//! What one file holds, on the grid that one of nnU-Net's readers sees.

use ndarray::Array4;

use super::Geometry;

/// How much thicker than its larger pixel side nnU-Net takes the one slice of a 2D image to be.
pub(super) const THICKNESS_OF_2D: f64 = 999.0;

/// One file's channels.
pub(super) struct Grid {
    /// Intensities, (c, z, y, x).
    pub data: Array4<f32>,
    /// Spacing in mm, (z, y, x).
    pub spacing: [f64; 3],
    /// What it takes to write a segmentation on this grid.
    pub geometry: Geometry,
}

/// A segmentation's label values as little-endian bytes, x fastest: nnU-Net writes u8 where all are under 255,
/// else u16.
pub(super) struct LabelBytes {
    /// Bytes of a value: 1 or 2.
    pub size: usize,
    /// The values.
    pub bytes: Vec<u8>,
}

impl LabelBytes {
    /// The labels in their order.
    pub fn of<'a>(labels: impl Iterator<Item = &'a u16> + Clone) -> LabelBytes {
        if labels.clone().all(|&label| label < 255) {
            LabelBytes {
                size: 1,
                bytes: labels.map(|&label| label as u8).collect(),
            }
        } else {
            LabelBytes {
                size: 2,
                bytes: labels.flat_map(|label| label.to_le_bytes()).collect(),
            }
        }
    }

    /// The same values, the high byte first.
    pub fn big_endian(mut self) -> LabelBytes {
        if self.size == 2 {
            self.bytes
                .as_chunks_mut::<2>()
                .0
                .iter_mut()
                .for_each(|value| value.reverse());
        }
        self
    }
}
