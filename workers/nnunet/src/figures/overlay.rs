//! A segmentation over its scan, in three orientations.

use std::path::Path;

use ndarray::{ArrayView2, ArrayView3, Axis};

use super::write_png;
use crate::{
    Error, Result,
    image::{Image, Segmentation},
};

/// What to draw. All arrays have the shape (z, y, x).
pub struct Overlay<'a> {
    /// The scan.
    pub scan: ArrayView3<'a, f32>,
    /// The segmentation: drawn as filled colour.
    pub segmentation: ArrayView3<'a, i16>,
    /// A reference: drawn as contours.
    pub reference: Option<ArrayView3<'a, i16>>,
    /// Millimetres per voxel, (z, y, x): voxels are drawn in their true proportions.
    pub spacing: [f64; 3],
}

impl<'a> Overlay<'a> {
    /// The first channel of a scan, with its segmentation and a reference.
    pub fn of(image: &'a Image, segmentation: &'a Segmentation, reference: Option<&'a Segmentation>) -> Self {
        Self {
            scan: image.data.index_axis(Axis(0), 0),
            segmentation: segmentation.labels.view(),
            reference: reference.map(|reference| reference.labels.view()),
            spacing: image.spacing,
        }
    }
}

/// The side of one of the three pictures, in pixels.
const SIDE: usize = 420;
const GAP: usize = 12;
/// Colours of labels 1, 2, ...; repeated beyond.
const COLOURS: [[u8; 3]; 8] = [
    [230, 60, 60],
    [60, 150, 255],
    [80, 200, 90],
    [255, 190, 40],
    [190, 90, 230],
    [0, 200, 200],
    [255, 120, 190],
    [170, 140, 90],
];

/// Writes three slices side by side as PNG: across z, y and x, each where the segmentation (or else the reference)
/// has most foreground, in the middle where there is none.
///
/// # Errors
/// Where the arrays differ in shape or are empty, or `path` cannot be written.
pub fn write_overlay(overlay: &Overlay, path: &Path) -> Result<()> {
    let shape = overlay.scan.shape();
    if overlay.segmentation.shape() != shape || overlay.reference.is_some_and(|r| r.shape() != shape) {
        return Err(Error::invalid(
            "overlay",
            format!("scan {shape:?} and segmentation or reference differ in shape"),
        ));
    }
    if shape.contains(&0) {
        return Err(Error::invalid("overlay", format!("the scan is empty: {shape:?}")));
    }
    // A flat image has one orientation only.
    let axes: Vec<usize> = (0..3)
        .filter(|&a| shape.iter().enumerate().all(|(b, &n)| a == b || n > 1))
        .collect();
    let axes = if axes.is_empty() { vec![0] } else { axes };
    let width = axes.len() * SIDE + (axes.len() + 1) * GAP;
    let height = SIDE + 2 * GAP;
    let mut pixels = vec![24u8; width * height * 3];
    let window = window(&overlay.scan);
    for (place, &axis) in axes.iter().enumerate() {
        let slice = best_slice(overlay, axis);
        let others: Vec<usize> = (0..3).filter(|&a| a != axis).collect();
        let tile = Tile {
            scan: overlay.scan.index_axis(Axis(axis), slice),
            segmentation: overlay.segmentation.index_axis(Axis(axis), slice),
            reference: overlay
                .reference
                .as_ref()
                .map(|r| r.index_axis(Axis(axis), slice)),
            size: [0, 1].map(|i| shape[others[i]] as f64 * overlay.spacing[others[i]]),
            // Rows of slices across y and x run along z, whose low end is at the feet: draw it at the bottom.
            flip: axis != 0,
        };
        tile.draw(window, &mut pixels, width, GAP, GAP + place * (SIDE + GAP));
    }
    write_png(path, &pixels, width as u32, height as u32)
}

/// Black and white: the 1st and 99th percentile of the scan.
fn window(scan: &ArrayView3<f32>) -> (f32, f32) {
    let step = (scan.len() / 200_000).max(1);
    let mut values: Vec<f32> = scan
        .iter()
        .step_by(step)
        .copied()
        .filter(|v| v.is_finite())
        .collect();
    if values.is_empty() {
        return (0.0, 1.0);
    }
    values.sort_by(f32::total_cmp);
    let at = |q: f64| values[((values.len() - 1) as f64 * q).round() as usize];
    let (low, high) = (at(0.01), at(0.99));
    if high > low { (low, high) } else { (low, low + 1.0) }
}

fn best_slice(overlay: &Overlay, axis: usize) -> usize {
    let fullest = |labels: &ArrayView3<i16>| {
        let counts = labels
            .axis_iter(Axis(axis))
            .map(|s| s.iter().filter(|&&l| l > 0).count());
        let (slice, count) = counts
            .enumerate()
            .fold((0, 0), |best, (i, n)| if n > best.1 { (i, n) } else { best });
        (count > 0).then_some(slice)
    };
    fullest(&overlay.segmentation)
        .or_else(|| overlay.reference.as_ref().and_then(fullest))
        .unwrap_or(overlay.scan.shape()[axis] / 2)
}

struct Tile<'a> {
    scan: ArrayView2<'a, f32>,
    segmentation: ArrayView2<'a, i16>,
    reference: Option<ArrayView2<'a, i16>>,
    /// Millimetres (rows, columns).
    size: [f64; 2],
    flip: bool,
}

impl Tile<'_> {
    fn draw(&self, (low, high): (f32, f32), pixels: &mut [u8], width: usize, top: usize, left: usize) {
        let scale = SIDE as f64 / self.size[0].max(self.size[1]);
        let rows = ((self.size[0] * scale).round() as usize).clamp(1, SIDE);
        let columns = ((self.size[1] * scale).round() as usize).clamp(1, SIDE);
        let (top, left) = (top + (SIDE - rows) / 2, left + (SIDE - columns) / 2);
        let (n_rows, n_columns) = self.scan.dim();
        let voxel = |row: usize, column: usize| {
            let row = if self.flip { rows - 1 - row } else { row };
            [row * n_rows / rows, column * n_columns / columns]
        };
        for row in 0..rows {
            for column in 0..columns {
                let at = voxel(row, column);
                let grey =
                    ((self.grey(row, column, rows, columns) - low) / (high - low)).clamp(0.0, 1.0) * 255.0;
                let mut rgb = [grey as u8; 3];
                if let Some(colour) = colour(self.segmentation[at]) {
                    rgb = std::array::from_fn(|i| {
                        (0.65 * f32::from(rgb[i]) + 0.35 * f32::from(colour[i])) as u8
                    });
                }
                if let Some(reference) = self.reference {
                    // A pixel is on the contour where its label differs from that two pixels further.
                    let label = reference[at];
                    let edge = [
                        (row + 2, column),
                        (row, column + 2),
                        (row.saturating_sub(2), column),
                        (row, column.saturating_sub(2)),
                    ]
                    .iter()
                    .any(|&(r, c)| reference[voxel(r.min(rows - 1), c.min(columns - 1))] != label);
                    if let Some(colour) = colour(label).filter(|_| edge) {
                        rgb = colour;
                    }
                }
                let start = ((top + row) * width + left + column) * 3;
                pixels[start..start + 3].copy_from_slice(&rgb);
            }
        }
    }

    /// The scan at a pixel's centre, linear between voxels.
    fn grey(&self, row: usize, column: usize, rows: usize, columns: usize) -> f32 {
        let (n_rows, n_columns) = self.scan.dim();
        let row = if self.flip { rows - 1 - row } else { row };
        let place = |i: usize, pixels: usize, voxels: usize| {
            let x = ((i as f64 + 0.5) * voxels as f64 / pixels as f64 - 0.5).clamp(0.0, (voxels - 1) as f64);
            let low = (x as usize).min(voxels - 1);
            (low, (low + 1).min(voxels - 1), (x - low as f64) as f32)
        };
        let (r0, r1, tr) = place(row, rows, n_rows);
        let (c0, c1, tc) = place(column, columns, n_columns);
        let mix = |a: f32, b: f32, t: f32| a * (1.0 - t) + b * t;
        let upper = mix(self.scan[[r0, c0]], self.scan[[r0, c1]], tc);
        mix(upper, mix(self.scan[[r1, c0]], self.scan[[r1, c1]], tc), tr)
    }
}

fn colour(label: i16) -> Option<[u8; 3]> {
    (label > 0).then(|| COLOURS[(label as usize - 1) % COLOURS.len()])
}
