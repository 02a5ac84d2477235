//! Where tiles lie, and how they are mirrored.

/// Where tiles begin along one axis: evenly spaced, at most `tile * step` apart, the last one at the end.
/// `image` is at least `tile`. (compute_steps_for_sliding_window)
pub fn tile_starts(image: usize, tile: usize, step: f64) -> Vec<usize> {
    let last = image.saturating_sub(tile) as f64;
    let count = (last / (tile as f64 * step)).ceil() as usize + 1;
    let distance = if count > 1 { last / (count - 1) as f64 } else { 0.0 };
    (0..count)
        .map(|i| (distance * i as f64).round_ties_even() as usize)
        .collect()
}

/// The non-empty subsets of `axes`, the smaller ones first, each in the order of `axes`
/// (itertools.combinations for 1, 2, ... axes).
pub fn mirror_combinations(axes: &[usize]) -> Vec<Vec<usize>> {
    let mut all: Vec<Vec<usize>> = (1..1usize << axes.len())
        .map(|bits| (0..axes.len()).filter(|i| bits >> i & 1 == 1).collect())
        .collect();
    all.sort_by(|a, b| a.len().cmp(&b.len()).then(a.cmp(b)));
    all.into_iter()
        .map(|places| places.into_iter().map(|i| axes[i]).collect())
        .collect()
}
