//! The patch that the transforms work on.

/// One sample on its way through the transforms.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch {
    /// The image (c, z, y, x) in C order.
    pub data: Vec<f32>,
    /// The segmentation (z, y, x) in C order; -1 is outside.
    pub seg: Vec<i16>,
    /// Number of image channels.
    pub channels: usize,
    /// (z, y, x); z is 1 in 2D configurations.
    pub size: [usize; 3],
}

impl Patch {
    /// Voxels of one channel.
    pub fn voxels(&self) -> usize {
        self.size.iter().product()
    }

    /// One channel of the image (z, y, x).
    pub fn channel(&mut self, channel: usize) -> &mut [f32] {
        let voxels = self.voxels();
        &mut self.data[channel * voxels..(channel + 1) * voxels]
    }
}
