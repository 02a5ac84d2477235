//! How often each axis is pooled, and the kernels (experiment_planners/network_topology.py).

/// Smallest edge of a feature map in the bottleneck.
const MIN_EDGE: f64 = 4.0;

/// Strides and kernels of a network for a patch.
pub(super) struct Topology {
    /// Stride into each stage, per axis; the first is all ones.
    pub strides: Vec<Vec<usize>>,
    /// Kernel of each stage, per axis.
    pub kernel_sizes: Vec<Vec<usize>>,
    /// The patch, enlarged to what the strides divide.
    pub patch_size: Vec<usize>,
    /// What each axis of the patch must be a multiple of.
    pub divisible_by: Vec<usize>,
}

/// The topology for a patch at a spacing. The patch may hold halves, because it may come from a median.
pub(super) fn topology(spacing: &[f64], patch_size: &[f64]) -> Topology {
    let axes = spacing.len();
    let mut spacing = spacing.to_vec();
    let mut size = patch_size.to_vec();
    let mut divisible_by = vec![1usize; axes];
    let mut kernel = vec![1; axes];
    let mut strides = vec![vec![1; axes]];
    let mut kernel_sizes = Vec::new();
    loop {
        let large: Vec<usize> = (0..axes).filter(|&i| size[i] >= 2.0 * MIN_EDGE).collect();
        let finest = large.iter().map(|&i| spacing[i]).fold(f64::INFINITY, f64::min);
        let pooled: Vec<usize> = large.into_iter().filter(|&i| spacing[i] / finest < 2.0).collect();
        // A single axis is pooled only where a good margin is left.
        if pooled.is_empty() || (pooled.len() == 1 && size[pooled[0]] < 3.0 * MIN_EDGE) {
            break;
        }
        // An axis gets a wide kernel once its spacing is near the finest, and keeps it.
        let finest_of_all = spacing.iter().copied().fold(f64::INFINITY, f64::min);
        for i in 0..axes {
            if spacing[i] / finest_of_all < 2.0 {
                kernel[i] = 3;
            }
        }
        let mut stride = vec![1; axes];
        for &i in &pooled {
            stride[i] = 2;
            divisible_by[i] *= 2;
            spacing[i] *= 2.0;
            size[i] = (size[i] / 2.0).ceil();
        }
        strides.push(stride);
        kernel_sizes.push(kernel.clone());
    }
    kernel_sizes.push(vec![3; axes]);
    let patch_size = patch_size
        .iter()
        .zip(&divisible_by)
        .map(|(&n, &d)| (n / d as f64).ceil() as usize * d)
        .collect();
    Topology {
        strides,
        kernel_sizes,
        patch_size,
        divisible_by,
    }
}
