//! How much memory a network needs, as nnU-Net estimates it: the voxels of all feature maps
//! (`compute_conv_feature_map_size` of dynamic_network_architectures, without deep supervision).

use schemas::nnunet::NetworkKind;

/// A network to estimate.
pub(super) struct Network<'a> {
    pub kind: NetworkKind,
    pub features: &'a [usize],
    pub strides: &'a [Vec<usize>],
    /// Convolutions or residual blocks of each encoder stage.
    pub encoder: &'a [usize],
    /// Convolutions of each decoder stage, deepest first.
    pub decoder: &'a [usize],
    /// Labels, background and ignore included.
    pub classes: usize,
}

/// The voxels of all feature maps for one patch.
pub(super) fn feature_map_size(network: &Network, patch_size: &[usize]) -> f64 {
    let mut size = patch_size.to_vec();
    let mut voxels = Vec::with_capacity(network.strides.len());
    let mut total = 0.0;
    let voxels_of = |size: &[usize]| size.iter().map(|&n| n as f64).product::<f64>();
    if network.kind == NetworkKind::ResidualEncoderUNet {
        // The stem is one convolution at full resolution.
        total += network.features[0] as f64 * voxels_of(&size);
    }
    let mut channels_before = network.features[0];
    for (stage, stride) in network.strides.iter().enumerate() {
        let before = size.clone();
        for (n, s) in size.iter_mut().zip(stride) {
            *n /= s;
        }
        let maps = network.features[stage] as f64 * voxels_of(&size);
        total += match network.kind {
            NetworkKind::PlainConvUNet => network.encoder[stage] as f64 * maps,
            NetworkKind::ResidualEncoderUNet => {
                // A block has two convolutions; the first block of a stage has a skip where something changes.
                let has_skip = channels_before != network.features[stage] || before != size;
                (2 * network.encoder[stage] + usize::from(has_skip)) as f64 * maps
            }
        };
        channels_before = network.features[stage];
        voxels.push(voxels_of(&size));
    }
    for (i, &convolutions) in network.decoder.iter().enumerate() {
        let skip = network.strides.len() - 2 - i;
        // The convolutions and the transposed convolution.
        total += (convolutions + 1) as f64 * network.features[skip] as f64 * voxels[skip];
    }
    if !network.decoder.is_empty() {
        total += network.classes as f64 * voxels[0];
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    // The values in nnU-Net's source comments, less the heads of deep supervision.
    #[test]
    fn residual_encoders_are_nnunets() {
        let mut strides = vec![vec![2; 3]; 6];
        strides[0] = vec![1; 3];
        let network = Network {
            kind: NetworkKind::ResidualEncoderUNet,
            features: &[32, 64, 128, 256, 320, 320],
            strides: &strides,
            encoder: &[1, 3, 4, 6, 6, 6],
            decoder: &[1; 5],
            classes: 3,
        };
        assert_eq!(feature_map_size(&network, &[128; 3]), 557_420_544.0);
        let mut strides = vec![vec![2; 2]; 7];
        strides[0] = vec![1; 2];
        let network = Network {
            features: &[32, 64, 128, 256, 512, 512, 512],
            strides: &strides,
            encoder: &[1, 3, 4, 6, 6, 6, 6],
            decoder: &[1; 6],
            ..network
        };
        assert_eq!(feature_map_size(&network, &[512; 2]), 129_531_904.0);
    }
}
