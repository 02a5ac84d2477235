//! From the augmented segmentation to what the loss compares with.

use super::{
    AugmentationSettings,
    low_resolution::{nearest_exact, scaled},
    patch::Patch,
};

/// Zeroes the channels that were normalised inside the mask where the segmentation is negative
/// (`MaskImageTransform`).
pub fn mask(patch: &mut Patch, use_mask_for_norm: &[bool]) {
    let voxels = patch.voxels();
    for (channel, _) in patch
        .data
        .chunks_exact_mut(voxels)
        .zip(use_mask_for_norm)
        .filter(|(_, masked)| **masked)
    {
        for (value, &label) in channel.iter_mut().zip(&patch.seg) {
            *value = if label < 0 { 0.0 } else { *value };
        }
    }
}

/// Turns -1, which is outside, into background (`RemoveLabelTransform`).
pub fn remove_outside(seg: &mut [i16]) {
    for label in seg {
        *label = if *label == -1 { 0 } else { *label };
    }
}

/// One map of 0 and 1 per region, and one for the ignore label where there is one
/// (`ConvertSegmentationToRegionsTransform`). Returns (regions [+ 1], z, y, x).
pub fn regions(seg: &[i16], regions: &[Vec<i16>], ignore_label: Option<i16>) -> Vec<i16> {
    let mut maps = Vec::with_capacity(seg.len() * (regions.len() + usize::from(ignore_label.is_some())));
    for region in regions {
        match region.as_slice() {
            [only] => maps.extend(seg.iter().map(|label| i16::from(label == only))),
            labels => maps.extend(seg.iter().map(|label| i16::from(labels.contains(label)))),
        }
    }
    if let Some(ignore) = ignore_label {
        maps.extend(seg.iter().map(|&label| i16::from(label == ignore)));
    }
    maps
}

/// The size (z, y, x) of each target, full resolution first.
pub fn sizes(settings: &AugmentationSettings) -> Vec<[usize; 3]> {
    let [z, y, x] = settings.patch_size;
    match &settings.deep_supervision_scales {
        None => vec![[z, y, x]],
        Some(scales) => scales
            .iter()
            .map(|scale| match scale[..] {
                [sy, sx] => [z, scaled(y, sy), scaled(x, sx)],
                [sz, sy, sx] => [scaled(z, sz), scaled(y, sy), scaled(x, sx)],
                _ => [z, y, x],
            })
            .collect(),
    }
}

/// The nearest voxels of maps (k, z, y, x) on a coarser grid (`DownsampleSegForDSTransform`).
pub fn downsample(maps: &[i16], from: [usize; 3], to: [usize; 3]) -> Vec<i16> {
    if from == to {
        return maps.to_vec();
    }
    let [zs, ys, xs] = std::array::from_fn(|d| nearest_exact(from[d], to[d]));
    let mut out =
        Vec::with_capacity(maps.len() / from.iter().product::<usize>() * to.iter().product::<usize>());
    for map in maps.chunks_exact(from.iter().product()) {
        for z in &zs {
            for y in &ys {
                let row = &map[(z * from[1] + y) * from[2]..][..from[2]];
                out.extend(xs.iter().map(|&x| row[x]));
            }
        }
    }
    out
}

/// All targets of an augmented segmentation.
pub fn targets(mut seg: Vec<i16>, settings: &AugmentationSettings) -> Vec<Vec<i16>> {
    remove_outside(&mut seg);
    let full = match &settings.regions {
        Some(labels) => regions(&seg, labels, settings.ignore_label),
        None => seg,
    };
    sizes(settings)
        .into_iter()
        .map(|size| downsample(&full, settings.patch_size, size))
        .collect()
}
