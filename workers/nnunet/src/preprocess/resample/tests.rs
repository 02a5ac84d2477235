use super::*;
use ndarray::Array3;
use serde_json::json;

fn volume(shape: [usize; 3]) -> Array3<f32> {
    Array3::from_shape_fn(shape, |(z, y, x)| (((z * 7 + y * 13 + x * 29) % 17) as f32) - 3.5)
}

fn resampling(is_seg: bool, order: u8) -> Resampling {
    let kwargs = json!({"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": null});
    Resampling::from_plans("resampling_fn_data", IMPLEMENTED, kwargs.as_object().unwrap()).unwrap()
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
    assert_eq!(r.separate_axis([5.0, 1.0, 1.0], [1.0; 3]), Some(0));
    assert_eq!(r.separate_axis([1.0; 3], [1.0, 1.0, 3.5]), Some(2));
    assert_eq!(r.separate_axis([3.0, 1.0, 1.0], [3.0, 1.0, 1.0]), None);
    assert_eq!(r.separate_axis([0.24, 1.25, 1.25], [0.24, 1.25, 1.25]), None);
    assert_eq!(r.separate_axis([1.0, 5.0, 5.0], [9.0, 1.0, 1.0]), None);
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
    let refuse = |name: &str, kwargs: Value| {
        Resampling::from_plans("resampling_fn_data", name, kwargs.as_object().unwrap())
            .unwrap_err()
            .to_string()
    };
    assert!(refuse("resample_torch_fornnunet", json!({})).contains("resample_torch_fornnunet"));
    assert!(refuse(IMPLEMENTED, json!({"order": 5})).contains("resampling_fn_data_kwargs.order"));
    assert!(refuse(IMPLEMENTED, json!({"order_z": 1})).contains("order_z"));
    assert!(refuse(IMPLEMENTED, json!({"is_seg": true, "order": 3})).contains("segmentations"));
}

#[test]
fn shapes_are_rounded_to_even() {
    assert_eq!(
        resampled_shape([5, 7, 10], [1.0, 1.0, 0.5], [2.0, 2.0, 1.0]),
        [2, 4, 5]
    );
}
