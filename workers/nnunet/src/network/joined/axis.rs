//! What an output is made of along one axis.
//!
//! Along an axis of stride s, output voxel s i + q looks at upsampled voxels s i + q + d, which are made of voxels
//! i + floor((q + d) / s) below. Where the kernel is 3 and s is above 1 those are i - 1 and i for q = 0, otherwise i and
//! perhaps i + 1: two taps for every q, the outputs of q = 0 one place before the others'.

/// The way up along one axis.
#[derive(Clone, Copy)]
pub struct Axis {
    pub stride: usize,
    /// 1 or 3.
    pub kernel: usize,
}

impl Axis {
    /// How many neighbours below an output is made of.
    pub fn taps(self) -> usize {
        match (self.kernel, self.stride) {
            (1, _) => 1,
            (_, 1) => 3,
            _ => 2,
        }
    }

    /// By how much the grid of the lower convolution is longer than the image below.
    pub fn more(self) -> usize {
        usize::from(self.taps() == 2)
    }

    /// For output q and kernel place d: the tap, and the place in the transposed convolution's kernel.
    pub fn source(self, q: usize, d: usize) -> (usize, usize) {
        let half = self.kernel / 2;
        // Counted from one voxel of the image below farther down, to stay positive.
        let from = |d: usize| q + d + self.stride - half;
        (
            from(d) / self.stride - from(0) / self.stride,
            from(d) % self.stride,
        )
    }

    /// Where the outputs of a line of `length` voxels are found.
    pub fn places(self, length: usize) -> Vec<Place> {
        let place = |at: usize| Place {
            low: at / self.stride + usize::from(self.more() == 1 && !at.is_multiple_of(self.stride)),
            parity: at % self.stride,
            class: match self.kernel {
                1 => 0,
                _ => usize::from(at == 0) + 2 * usize::from(at + 1 == length),
            },
        };
        (0..length).map(place).collect()
    }

    /// Whether kernel place d of a voxel of this class lies in the image.
    pub fn is_inside(self, class: usize, d: usize) -> bool {
        self.kernel == 1 || !(class & 1 == 1 && d == 0 || class & 2 == 2 && d == 2)
    }
}

/// Of an output's coordinate along one axis.
#[derive(Clone, Copy)]
pub struct Place {
    /// The coordinate in the lower convolution's grid.
    pub low: usize,
    pub parity: usize,
    /// Which ends of the axis are beside it: 1 for the lower, 2 for the upper.
    pub class: usize,
}

/// Classes of a voxel along one axis.
pub const CLASSES: usize = 4;
