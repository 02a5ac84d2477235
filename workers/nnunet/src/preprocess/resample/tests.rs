use super::{
    arguments::{DEFAULT, TORCH, UNCHANGED},
    *,
};
use ndarray::Array3;
use serde_json::{Map, Value, json};

fn volume(shape: [usize; 3]) -> Array3<f32> {
    Array3::from_shape_fn(shape, |(z, y, x)| (((z * 7 + y * 13 + x * 29) % 17) as f32) - 3.5)
}

fn resampling(is_seg: bool, order: u8) -> Resampling {
    let kwargs = json!({"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": null});
    Resampling::from_plans("resampling_fn_data", DEFAULT, kwargs.as_object().unwrap(), is_seg).unwrap()
}

// Golden values: skimage 0.26 on the same volume, at six places of the flattened result, and the sum.
#[test]
fn volumes_are_skimages() {
    let places = |n: usize| [0, 1, 5, 37, 60, n - 1];
    let cubic_a = [
        -3.5,
        7.040383524807864,
        6.9682005482371565,
        8.656505210228879,
        7.500000000000007,
        10.720831057763863,
    ];
    let cubic_b = [
        -3.3384759030474687,
        3.804525625585332,
        1.3810182520662886,
        0.8669159917552066,
        3.7162188070099083,
        10.389395080564249,
    ];
    let linear_a = [
        -2.3333333333333335,
        6.833333333333334,
        6.666666666666667,
        7.833333333333334,
        7.5,
        9.333333333333332,
    ];
    let linear_b = [
        -1.8749999999999996,
        3.0625,
        1.770833333333332,
        2.3125,
        3.802083333333334,
        8.875,
    ];
    let (a, b) = ([3, 7, 6], [6, 4, 9]);
    for (order, shape, golden, sum, tolerance) in [
        (3, a, cubic_a, 565.504016312517, 1e-11),
        (3, b, cubic_b, 971.0784076115502, 1e-11),
        (1, a, linear_a, 566.4761904761906, 0.0),
        (1, b, linear_b, 971.1562500000001, 0.0),
        (0, a, [-3.5, 8.5, 5.5, 9.5, 2.5, 10.5], 554.0, 0.0),
        (0, b, [-3.5, 8.5, -1.5, -1.5, 5.5, 10.5], 947.0, 0.0),
    ] {
        let input = volume([4, 5, 6]);
        let found: Array3<f64> = resampling(false, order).channel(input.view(), shape, [1.0; 3], [1.0; 3]);
        let flat = found.as_slice().unwrap();
        for (place, expected) in places(flat.len()).into_iter().zip(golden) {
            assert!(
                (flat[place] - expected).abs() <= tolerance,
                "order {order}, {shape:?}: {} for {expected}",
                flat[place]
            );
        }
        assert!((found.sum() - sum).abs() < 1e-9);
    }
}

#[test]
fn a_shape_that_is_reached_changes_nothing() {
    let input = volume([4, 5, 6]);
    let found: Array3<f32> = resampling(false, 3).channel(input.view(), [4, 5, 6], [1.0; 3], [2.0; 3]);
    assert_eq!(found, input);
}

#[test]
fn thick_slices_are_picked_not_mixed() {
    let input = volume([4, 5, 6]);
    let found: Array3<f32> =
        resampling(false, 3).channel(input.view(), [2, 5, 6], [5.0, 1.0, 1.0], [10.0, 1.0, 1.0]);
    // Twice as coarse, scipy takes the later of two equally near slices.
    assert_eq!(found, input.select(Axis(0), &[1, 3]));
    let found: Array3<f32> =
        resampling(false, 3).channel(input.view(), [8, 5, 6], [5.0, 1.0, 1.0], [2.5, 1.0, 1.0]);
    assert_eq!(found, input.select(Axis(0), &[0, 0, 1, 1, 2, 2, 3, 3]));
}

#[test]
fn the_separate_axis_is_the_single_coarsest() {
    let r = resampling(false, 3);
    assert_eq!(r.separate.axis([5.0, 1.0, 1.0], [1.0; 3]), Some(0));
    assert_eq!(r.separate.axis([1.0; 3], [1.0, 1.0, 3.5]), Some(2));
    assert_eq!(r.separate.axis([3.0, 1.0, 1.0], [3.0, 1.0, 1.0]), None);
    assert_eq!(r.separate.axis([0.24, 1.25, 1.25], [0.24, 1.25, 1.25]), None);
    assert_eq!(r.separate.axis([1.0, 5.0, 5.0], [9.0, 1.0, 1.0]), None);
}

#[test]
fn equal_labels_go_to_the_nearest_voxel() {
    let labels = Array3::from_shape_vec((1, 1, 4), vec![0i16, 0, 3, -1]).unwrap();
    let found = resampling(true, 1).segmentation(labels.view(), [1, 1, 2], [1.0; 3], [1.0; 3]);
    assert_eq!(found.as_slice().unwrap(), [0, -1]);
    let found = resampling(true, 1).segmentation(labels.view(), [1, 1, 8], [1.0; 3], [1.0; 3]);
    assert_eq!(found.as_slice().unwrap(), [0, 0, 0, 0, 3, 3, -1, -1]);
}

#[test]
fn half_precision_goes_in_and_out() {
    let input = volume([4, 5, 6]).mapv(half::f16::from_f32);
    let found: Array3<half::f16> = resampling(false, 1).channel(input.view(), [6, 4, 9], [1.0; 3], [1.0; 3]);
    assert_eq!(found[[0, 0, 0]], half::f16::from_f64(-1.875));
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    let refuse = |name: &str, kwargs: Value, of_labels: bool| {
        Resampling::from_plans("resampling_fn_data", name, kwargs.as_object().unwrap(), of_labels)
            .unwrap_err()
            .to_string()
    };
    for (name, kwargs, of_labels, expected) in [
        (
            "resample_by_magic",
            json!({}),
            false,
            "'resample_by_magic' is not implemented",
        ),
        ("resample_torch_simple", json!({}), false, "cannot call it"),
        (
            DEFAULT,
            json!({"order": 5}),
            false,
            "resampling_fn_data_kwargs.order: 5: expected 0, 1 or 3",
        ),
        (
            DEFAULT,
            json!({"order_z": 1}),
            false,
            "resampling_fn_data_kwargs.order_z",
        ),
        (
            DEFAULT,
            json!({"is_seg": true, "order": 3}),
            true,
            "0 or 1 for segmentations",
        ),
        (DEFAULT, json!({"is_seg": true}), true, "0 or 1 for segmentations"),
        (
            DEFAULT,
            json!({"is_seg": true, "order": 1}),
            false,
            "is_seg: true: expected false",
        ),
        (DEFAULT, json!({"order": 1}), true, "is_seg: false: expected true"),
        (
            DEFAULT,
            json!({"mode": "linear"}),
            false,
            "mode: \"linear\": no argument of",
        ),
        (TORCH, json!({"order": 3}), false, "order: 3: no argument of"),
        (
            TORCH,
            json!({"aniso_axis_mode": "bicubic"}),
            false,
            "aniso_axis_mode: \"bicubic\"",
        ),
        (
            TORCH,
            json!({"force_separate_z": 2}),
            false,
            "force_separate_z: 2",
        ),
        (
            UNCHANGED,
            json!({"is_seg": true}),
            true,
            "is_seg: true: no argument of",
        ),
    ] {
        let found = refuse(name, kwargs, of_labels);
        assert!(found.contains(expected), "{found} for {expected}");
    }
}

#[test]
fn no_resampling_changes_nothing() {
    let none = Resampling::from_plans("resampling_fn_seg", UNCHANGED, &Map::new(), true).unwrap();
    let input = volume([4, 5, 6]);
    assert!(none.keeps_shape());
    assert_eq!(none.shape([4, 5, 6], [2.0; 3], [1.0; 3]), [4, 5, 6]);
    assert_eq!(
        none.channel::<f32, f32>(input.view(), [8, 10, 12], [2.0; 3], [1.0; 3]),
        input
    );
    let labels = input.mapv(|v| v as i16);
    assert_eq!(
        none.segmentation(labels.view(), [8, 10, 12], [2.0; 3], [1.0; 3]),
        labels
    );
}

#[test]
fn shapes_are_rounded_to_even() {
    assert_eq!(
        resampled_shape([5, 7, 10], [1.0, 1.0, 0.5], [2.0, 2.0, 1.0]),
        [2, 4, 5]
    );
}

// Golden values: resample_torch_fornnunet of nnU-Net 2.8.1 with torch 2.11, at six places of the flattened result,
// the sum, and of labels how many there are of each and their sum weighted by place.
#[test]
fn volumes_are_torchs() {
    let input = volume([4, 5, 6]);
    let labels = Array3::from_shape_fn((4, 5, 6), |(z, y, x)| {
        ((z / 2 * 3 + y / 2 * 2 + x / 2) % 4) as i16 - 1
    });
    let of = |is_seg: bool| {
        Resampling::from_plans(
            "resampling_fn",
            TORCH,
            json!({"is_seg": is_seg}).as_object().unwrap(),
            is_seg,
        )
        .unwrap()
    };
    let (a, b) = ([3, 7, 6], [6, 4, 9]);
    let (whole, slices) = ([1.0; 3], [5.0, 1.0, 1.0]);
    for (shape, spacing, golden, sum, counts, places_of_labels) in [
        (
            a,
            whole,
            [-2.3333333, 6.833333, 6.6666665, 7.833333, 7.5, 9.333335],
            566.4761910513043,
            [44, 36, 26, 20],
            2183,
        ),
        (
            a,
            slices,
            [-3.5, 8.5, 5.5, 9.5, 2.5, 10.5],
            566.1428588032722,
            [30, 36, 26, 34],
            4796,
        ),
        (
            b,
            whole,
            [-1.875, 3.0625, 1.7708341, 2.3125, 3.8020828, 8.875],
            971.1562445759773,
            [63, 63, 45, 45],
            9846,
        ),
        (
            b,
            slices,
            [-1.875, 3.0625, 1.7708341, 1.5625, 6.7708335, 8.875],
            966.5625015497208,
            [63, 63, 45, 45],
            9846,
        ),
    ] {
        let found: Array3<f32> = of(false).channel(input.view(), shape, spacing, [1.0; 3]);
        let flat = found.as_slice().unwrap();
        let places = [0, 1, 5, 37, 60, flat.len() - 1];
        for (place, expected) in places.into_iter().zip(golden) {
            let found: f32 = flat[place];
            assert!(
                (found - expected).abs() < 1e-6,
                "{shape:?} {spacing:?}: {found} for {expected}"
            );
        }
        let total: f64 = flat.iter().map(|&v| f64::from(v)).sum();
        assert!((total - sum).abs() < 1e-5, "{total} for {sum}");

        let found = of(true).segmentation(labels.view(), shape, spacing, [1.0; 3]);
        let count = |label: i16| found.iter().filter(|&&l| l == label).count();
        assert_eq!([-1, 0, 1, 2].map(count), counts, "{shape:?} {spacing:?}");
        let weighted: i64 = found
            .iter()
            .zip(0..)
            .map(|(&l, place)| i64::from(l) * place)
            .sum();
        assert_eq!(weighted, places_of_labels, "{shape:?} {spacing:?}");
    }
}
