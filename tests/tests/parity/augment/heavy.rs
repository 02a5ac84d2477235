//! Samples of the heavy augmentation.

use super::samples::{Sample, base, drawn, only, some};
use nnunet::train::augment::{
    Augmentation, AugmentationSettings, Drawn, SegInterpolation, Transform,
    blur::Blur,
    intensity::PerChannel,
    local::Local,
    low_resolution::LowResolution,
    median::Median,
    rectangles::{Rectangle, Rectangles},
    spatial::Spatial,
    turn::{QuarterTurns, Transposition},
};

/// Every transform that is not the default augmentation's alone, then all kinds together as drawn.
pub fn heavy_samples() -> Vec<Sample> {
    let heavy = |patch: &[usize]| AugmentationSettings {
        augmentation: Augmentation::Heavy,
        ..base(patch)
    };
    let volume = || heavy(&[24, 24, 24]);
    let plane = || heavy(&[40, 40]);
    let thin = || heavy(&[8, 40, 40]);
    let mut samples = Vec::new();
    let mut add = |name: &str, settings: AugmentationSettings, drawn: Drawn| {
        samples.push(Sample::new(&format!("heavy_{name}"), settings, drawn, 5));
    };

    let nearest = AugmentationSettings {
        seg_interpolation: SegInterpolation::Nearest,
        ..volume()
    };
    let both = AugmentationSettings {
        nearest_image: true,
        ..nearest.clone()
    };
    let turned = || some(Spatial::new([0.3, 0.0, 0.45], [0.75, 1.2, 1.42]));
    add("turned", volume(), turned());
    add("turned_nearest", nearest, turned());
    add("turned_both_nearest", both, turned());
    add("turned_2d", plane(), some(Spatial::in_plane(2.3, [0.8, 1.3])));
    add("turned_thin", thin(), some(Spatial::in_plane(-1.1, [1.2, 0.9])));
    // Drawn, but of no angle: sampled all the same, where nothing drawn is the centre crop.
    add("identity", volume(), some(Spatial::new([0.0; 3], [1.0; 3])));

    for axes in [[0, 1], [0, 2], [1, 2]] {
        for count in 0..4 {
            let name = format!("quarters_{}{}_{count}", axes[0], axes[1]);
            add(
                &name,
                volume(),
                only(Transform::QuarterTurns(QuarterTurns { axes, count })),
            );
        }
    }
    let quarters = |count| only(Transform::QuarterTurns(QuarterTurns { axes: [1, 2], count }));
    add("quarters_2d", plane(), quarters(1));
    for axes in [[1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let name = format!("axes_{}{}{}", axes[0], axes[1], axes[2]);
        add(
            &name,
            volume(),
            only(Transform::Transposition(Transposition { axes })),
        );
    }
    let exchanged = || only(Transform::Transposition(Transposition { axes: [0, 2, 1] }));
    add("axes_2d", plane(), exchanged());
    add("axes_thin", thin(), exchanged());

    for edges in [[2, 3], [4, 5], [6, 7]] {
        let median = || {
            only(Transform::Median(Median {
                sizes: edges.map(Some).to_vec(),
            }))
        };
        add(&format!("median_{}", edges[0]), volume(), median());
        add(&format!("median_2d_{}", edges[0]), plane(), median());
        add(&format!("median_thin_{}", edges[0]), thin(), median());
    }
    let blur = |sigmas| only(Transform::Blur(Blur { sigmas }));
    add("blur", volume(), blur(vec![Some([0.31; 3]), Some([1.49; 3])]));
    add("blur_2d", plane(), blur(vec![Some([0.0, 1.3, 1.3]), None]));
    let some_numbers = |a, b| PerChannel(vec![a, b]);
    add(
        "shift",
        volume(),
        only(Transform::Shift(some_numbers(None, Some(-0.7)))),
    );
    for keep_range in [true, false] {
        let contrast = Transform::Contrast {
            factors: some_numbers(Some(1.9), Some(0.55)),
            keep_range,
        };
        add(&format!("contrast_{keep_range}"), volume(), only(contrast));
    }
    let low = |scales| only(Transform::LowResolution(LowResolution { scales }));
    add("low", volume(), low(vec![Some([0.26; 3]), Some([0.6; 3])]));
    add("low_thin", thin(), low(vec![Some([1.0, 0.26, 0.26]), None]));
    let rectangle = |low, size| Rectangle { low, size };
    let rectangles = |first| {
        only(Transform::Rectangles(Rectangles {
            channels: vec![Some(first), None],
        }))
    };
    // The second overlaps the first, whose mean it takes in.
    let two = vec![rectangle([3, 0, 15], [7, 5, 4]), rectangle([5, 2, 12], [2, 7, 6])];
    add("rectangles", volume(), rectangles(two));
    let one = vec![rectangle([0, 30, 1], [1, 10, 13])];
    add("rectangles_2d", plane(), rectangles(one));
    let local = |centre, sigma, value| Some(Local { centre, sigma, value });
    for (name, settings) in [("", volume()), ("_2d", plane()), ("_thin", thin())] {
        let places = |first, second| {
            vec![
                local([5.0, 17.5, -9.0], [4.0, 13.0, 22.0], first),
                local([12.0, 33.0, 20.0], [7.0, 6.0, 4.1], second),
            ]
        };
        let gradient = only(Transform::Gradient(places(-4.9, 3.1)));
        add(&format!("gradient{name}"), settings.clone(), gradient);
        let gamma = only(Transform::LocalGamma(places(0.02, 0.75)));
        add(&format!("gamma_low{name}"), settings.clone(), gamma);
        let gamma = only(Transform::LocalGamma(places(1.6, 3.9)));
        add(&format!("gamma_high{name}"), settings.clone(), gamma);
        let sharpening = Transform::Sharpening(some_numbers(Some(0.15), Some(0.99)));
        add(&format!("sharpening{name}"), settings, only(sharpening));
    }

    let masked = AugmentationSettings {
        use_mask_for_norm: vec![false, true],
        ..heavy(&[20, 28, 20])
    };
    let regions = AugmentationSettings {
        regions: Some(vec![vec![1, 2, 3], vec![2, 3], vec![3]]),
        ignore_label: Some(4),
        ..heavy(&[24, 32, 20])
    };
    let all = [volume(), plane(), thin(), masked, regions];
    for number in 0..30 {
        let settings = all[number % all.len()].clone();
        let drawn = drawn(&settings, number, number % 10 < 5);
        add(&format!("drawn_{number}"), settings, drawn);
    }
    samples
}
