use super::*;

#[test]
fn weights_are_scipys_gaussian() {
    // gaussian_filter of an impulse at (2, 4) of (5, 8), sigma (5, 8) / 8, / max * 10, as float16
    #[rustfmt::skip]
    let expected: [u16; 40] = [
        0x150, 0x1170, 0x2024, 0x28a4, 0x2ba6, 0x28a4, 0x2024, 0x1170,
        0x13a4, 0x27e8, 0x3605, 0x3ebf, 0x4190, 0x3ebf, 0x3605, 0x27e8,
        0x1adf, 0x2f1c, 0x3d6a, 0x4611, 0x4900, 0x4611, 0x3d6a, 0x2f1c,
        0x13a4, 0x27e8, 0x3605, 0x3ebf, 0x4190, 0x3ebf, 0x3605, 0x27e8,
        0x150, 0x1170, 0x2024, 0x28a4, 0x2ba6, 0x28a4, 0x2024, 0x1170,
    ];
    let map: Vec<u16> = importance_map(&[5, 8]).iter().map(|v| v.to_bits()).collect();
    assert_eq!(map, expected);
}

#[test]
fn tiles_are_spaced_evenly() {
    // compute_steps_for_sliding_window((110,), (64,), 0.5), ((64,), (64,), 0.5), ((97,), (32,), 0.3)
    assert_eq!(tile_starts(110, 64, 0.5), [0, 23, 46]);
    assert_eq!(tile_starts(64, 64, 0.5), [0]);
    assert_eq!(tile_starts(97, 32, 0.3), [0, 9, 19, 28, 37, 46, 56, 65]);
}

#[test]
fn mirrors_come_in_itertools_order() {
    let all = mirror_combinations(&[0, 1, 2]);
    assert_eq!(
        all,
        [
            vec![0],
            vec![1],
            vec![2],
            vec![0, 1],
            vec![0, 2],
            vec![1, 2],
            vec![0, 1, 2]
        ]
    );
    assert!(mirror_combinations(&[]).is_empty());
}
