//! progress.png: loss and pseudo Dice, epoch duration, learning rate, as nnU-Net draws them
//! (training/logging/nnunet_logger.py, plot_progress_png).

use std::{ops::Range, path::Path};

use plotters::{coord::Shift, prelude::*};

use super::{FONT, register_font, write_png};
use crate::{Error, Result, checkpoint::Logging};

const WIDTH: u32 = 1500;
/// The height of one of the panels.
const PANEL: u32 = 800;
const TEXT: i32 = 30;
const TRAIN: RGBColor = RGBColor(0, 0, 255);
const VALIDATION: RGBColor = RGBColor(255, 0, 0);
const DICE: RGBColor = RGBColor(0, 128, 0);

/// Writes the curves of `logging` to `path` as PNG.
///
/// The panel of the epochs' durations is drawn where `seconds` says that their times are real.
/// A loss that is not finite leaves a gap. Without a completed epoch the axes are empty.
pub fn write_progress(logging: &Logging, seconds: bool, path: &Path) -> Result<()> {
    let panels = if seconds { 3 } else { 2 };
    let (width, height) = (WIDTH, PANEL * panels);
    let mut pixels = vec![0; (width * height * 3) as usize];
    draw(logging, seconds, &mut pixels, (width, height)).map_err(|reason| Error::bad_file(path, reason))?;
    write_png(path, &pixels, width, height)
}

fn draw(logging: &Logging, seconds: bool, pixels: &mut [u8], size: (u32, u32)) -> Result<(), String> {
    register_font().map_err(|e| e.to_string())?;
    let root = BitMapBackend::with_buffer(pixels, size).into_drawing_area();
    root.fill(&WHITE).map_err(text)?;
    let epochs = logging.epochs();
    let areas = root.split_evenly((if seconds { 3 } else { 2 }, 1));
    let curve = |values: &'_ [f64], name, colour, dotted| Curve {
        values: values[..epochs].to_vec(),
        name,
        colour,
        dotted,
    };

    let losses = [
        curve(&logging.train_losses, "loss_tr", TRAIN, false),
        curve(&logging.val_losses, "loss_val", VALIDATION, false),
    ];
    let dice = [
        curve(&logging.mean_fg_dice, "pseudo dice", DICE, true),
        curve(&logging.ema_fg_dice, "pseudo dice (mov. avg.)", DICE, false),
    ];
    panel(
        &areas[0],
        epochs,
        "loss",
        &losses,
        None,
        Some(("pseudo dice", &dice)),
    )?;
    if seconds {
        let times = logging
            .epoch_start_timestamps
            .iter()
            .zip(&logging.epoch_end_timestamps);
        let durations: Vec<f64> = times.map(|(start, end)| end - start).collect();
        panel(
            &areas[1],
            epochs,
            "time [s]",
            &[curve(&durations, "epoch duration", TRAIN, false)],
            Some(0.0),
            None,
        )?;
    }
    let rates = [curve(&logging.lrs, "learning rate", TRAIN, false)];
    panel(
        &areas[areas.len() - 1],
        epochs,
        "learning rate",
        &rates,
        None,
        None,
    )?;
    root.present().map_err(text)
}

struct Curve {
    values: Vec<f64>,
    name: &'static str,
    colour: RGBColor,
    dotted: bool,
}

type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

/// Curves over epochs, with a legend above; `second` has its own axis on the right.
fn panel(
    area: &Area,
    epochs: usize,
    label: &str,
    curves: &[Curve],
    floor: Option<f64>,
    second: Option<(&str, &[Curve])>,
) -> Result<(), String> {
    let x = 0f64..epochs.saturating_sub(1).max(1) as f64;
    let right = if second.is_some() { 130 } else { 40 };
    let mut chart = ChartBuilder::on(area)
        .margin(20)
        .margin_top(90)
        .margin_right(if second.is_some() { 20 } else { right })
        .x_label_area_size(90)
        .y_label_area_size(150)
        .right_y_label_area_size(if second.is_some() { 130 } else { 0 })
        .build_cartesian_2d(x.clone(), range(curves, floor))
        .map_err(text)?
        .set_secondary_coord(x, second.map_or(0.0..1.0, |(_, curves)| range(curves, None)));
    let whole = |v: &f64| {
        if v.fract() == 0.0 {
            format!("{v}")
        } else {
            String::new()
        }
    };
    chart
        .configure_mesh()
        .bold_line_style(RGBColor(215, 215, 225))
        .light_line_style(RGBColor(240, 240, 245))
        .x_desc("epoch")
        .y_desc(label)
        .x_label_formatter(&whole)
        .y_label_formatter(&number)
        .label_style((FONT, TEXT))
        .axis_desc_style((FONT, TEXT + 4))
        .draw()
        .map_err(text)?;
    if let Some((label, curves)) = second {
        chart
            .configure_secondary_axes()
            .y_desc(label)
            .y_label_formatter(&number)
            .label_style((FONT, TEXT))
            .axis_desc_style((FONT, TEXT + 4))
            .draw()
            .map_err(text)?;
        for curve in curves {
            for part in curve.parts() {
                chart.draw_secondary_series(part).map_err(text)?;
            }
        }
    }
    for curve in curves {
        for part in curve.parts() {
            chart.draw_series(part).map_err(text)?;
        }
    }
    drop(chart);
    let mut left = 170;
    for curve in curves.iter().chain(second.map_or(&[][..], |(_, curves)| curves)) {
        left = legend(area, left, curve)?;
    }
    Ok(())
}

/// A line and its name above the panel; returns where the next one may begin.
fn legend(area: &Area, left: i32, curve: &Curve) -> Result<i32, String> {
    let step = if curve.dotted { 14 } else { 60 };
    for start in (0..60).step_by(step as usize) {
        let end = (start + if curve.dotted { 7 } else { 60 }).min(60);
        let line = Rectangle::new([(left + start, 53), (left + end, 58)], curve.colour.filled());
        area.draw(&line).map_err(text)?;
    }
    let style = (FONT, TEXT).into_text_style(area);
    area.draw_text(curve.name, &style, (left + 72, 40))
        .map_err(text)?;
    let (width, _) = area.estimate_text_size(curve.name, &style).map_err(text)?;
    Ok(left + 72 + width as i32 + 50)
}

impl Curve {
    /// The curve cut where a value is not finite, and into dots where it is dotted. A lone epoch is a point.
    fn parts(&self) -> Vec<Vec<PathElement<(f64, f64)>>> {
        let points: Vec<(f64, f64)> = self
            .values
            .iter()
            .enumerate()
            .map(|(x, &y)| (x as f64, y))
            .collect();
        let style = self.colour.stroke_width(if self.dotted { 3 } else { 4 });
        points
            .split(|(_, y)| !y.is_finite())
            .filter(|run| !run.is_empty())
            .map(|run| {
                if run.len() == 1 {
                    let (x, y) = run[0];
                    return vec![PathElement::new(vec![(x - 0.02, y), (x + 0.02, y)], style)];
                }
                if !self.dotted {
                    return vec![PathElement::new(run.to_vec(), style)];
                }
                dots(run)
                    .into_iter()
                    .map(|dot| PathElement::new(dot, style))
                    .collect()
            })
            .collect()
    }
}

/// Short pieces along a polyline, spaced evenly over the width of the panel.
fn dots(run: &[(f64, f64)]) -> Vec<Vec<(f64, f64)>> {
    let (first, last) = (run[0].0, run[run.len() - 1].0);
    let at = |x: f64| {
        let i = ((x - first) as usize).min(run.len() - 2);
        let t = x - run[i].0;
        (x, run[i].1 * (1.0 - t) + run[i + 1].1 * t)
    };
    let pieces = 120.0;
    let step = (last - first) / pieces;
    (0..pieces as usize)
        .map(|k| first + k as f64 * step)
        .map(|x| vec![at(x), at(x + step / 2.0)])
        .collect()
}

/// The range of finite values with a margin.
fn range(curves: &[Curve], floor: Option<f64>) -> Range<f64> {
    let values = curves
        .iter()
        .flat_map(|c| &c.values)
        .copied()
        .filter(|v| v.is_finite());
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
        (l.min(v), h.max(v))
    });
    if low > high {
        return 0.0..1.0;
    }
    let margin = if high > low {
        0.05 * (high - low)
    } else {
        0.05 * high.abs().max(1e-3)
    };
    floor.unwrap_or(low - margin)..high + margin
}

fn number(value: &f64) -> String {
    let rounded = format!("{value:.4}");
    let short = rounded.trim_end_matches('0').trim_end_matches('.');
    if short == "-0" { "0".into() } else { short.into() }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
