use ndarray::Array3;

use super::*;
use crate::checkpoint::{LoggedEpoch, Logging};

fn size(path: &Path) -> (u32, u32) {
    ::image::image_dimensions(path).unwrap()
}

#[test]
fn progress_has_a_panel_for_each_that_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let mut logging = Logging::default();
    let path = folder.path().join("empty.png");
    write_progress(&logging, false, &path).unwrap();
    for epoch in 0..40 {
        let t = f64::from(epoch) / 40.0;
        logging.record(LoggedEpoch {
            dice_per_class_or_region: vec![0.9 * t + 0.05 * (7.0 * t).sin(), 0.8 * t],
            train_loss: if epoch == 12 { f64::NAN } else { 0.8 - 1.5 * t },
            val_loss: 0.8 - 1.4 * t + 0.05 * (20.0 * t).cos(),
            lr: 0.01 * (1.0 - t).powf(0.9),
            start: 100.0 * t,
            end: 100.0 * t + 2.0 + 0.2 * (30.0 * t).sin(),
        });
        if epoch == 0 {
            write_progress(&logging, false, &path).unwrap();
        }
    }
    let path = folder.path().join("progress.png");
    write_progress(&logging, false, &path).unwrap();
    let (width, height) = size(&path);
    write_progress(&logging, true, &path).unwrap();
    assert_eq!(size(&path), (width, height / 2 * 3));
}

#[test]
fn an_overlay_shows_three_orientations() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("overlay.png");
    let shape = (20, 60, 50);
    let ball = |centre: [f64; 3], radius: f64| {
        Array3::from_shape_fn(shape, |(z, y, x)| {
            let d = [
                (z as f64 - centre[0]) * 3.0,
                y as f64 - centre[1],
                x as f64 - centre[2],
            ];
            d.iter().map(|v| v * v).sum::<f64>() < radius * radius
        })
    };
    let (head, lesion, reference) = (
        ball([10.0, 30.0, 25.0], 24.0),
        ball([12.0, 24.0, 30.0], 8.0),
        ball([12.0, 25.0, 31.0], 9.0),
    );
    let scan = Array3::from_shape_fn(shape, |at| {
        let grain = ((at.0 * 7 + at.1 * 13 + at.2 * 29) % 17) as f32;
        if head[at] {
            100.0 + 40.0 * f32::from(u8::from(lesion[at])) + grain
        } else {
            grain
        }
    });
    let labels = |mask: &Array3<bool>| mask.mapv(i16::from);
    let (segmentation, reference) = (labels(&lesion), labels(&reference));
    let overlay = Overlay {
        scan: scan.view(),
        segmentation: segmentation.view(),
        reference: Some(reference.view()),
        spacing: [3.0, 1.0, 1.0],
    };
    write_overlay(&overlay, &path).unwrap();
    assert_eq!(size(&path).1, 444);
    let flat = Array3::zeros((1, 60, 50));
    let (flat, empty) = (flat.mapv(|_: f32| 1.0), flat.mapv(|_| 0i16));
    let overlay = Overlay {
        scan: flat.view(),
        segmentation: empty.view(),
        reference: None,
        spacing: [999.0, 1.0, 1.0],
    };
    write_overlay(&overlay, &path).unwrap();
    assert_eq!(size(&path).0, 444);
    write_overlay(
        &Overlay {
            scan: scan.view(),
            ..overlay
        },
        &path,
    )
    .unwrap_err();
}
