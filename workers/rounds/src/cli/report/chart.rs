//! Line charts as SVG.

use std::fmt::Write as _;

use super::page::escaped;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 40.0;

/// Colours that people with any colour vision tell apart (Okabe and Ito), the first for what all sites do together.
pub const COLOURS: [&str; 8] = [
    "#1f2933", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b",
];

/// A line: its name, and its points in the order of x.
pub struct Series {
    /// The name in the legend.
    pub name: String,
    /// (x, y).
    pub points: Vec<(f64, f64)>,
    /// Whether it is drawn bold.
    pub bold: bool,
}

/// A chart with its title and legend; empty where no series has a point.
pub fn lines(title: &str, x_name: &str, series: &[Series]) -> String {
    let points = || series.iter().flat_map(|series| &series.points);
    let finite = || points().filter(|(x, y)| x.is_finite() && y.is_finite());
    if finite().next().is_none() {
        return String::new();
    }
    let range = |of: fn(&(f64, f64)) -> f64| {
        finite()
            .map(of)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
                (low.min(v), high.max(v))
            })
    };
    let (x_low, x_high) = widened(range(|p| p.0), 0.5);
    let (y_low, y_high) = range(|p| p.1);
    let (y_low, y_high) = widened((y_low, y_high), (y_low.abs() * 0.1).max(1e-6));
    let y_ticks = ticks(y_low, y_high, 5);
    let margin = (y_high - y_low) * 0.05;
    let (y_low, y_high) = (y_low - margin, y_high + margin);
    let x_at = |x: f64| LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT);
    let y_at = |y: f64| HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM);

    let mut svg = format!(
        "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
        escaped(title),
        escaped(title)
    );
    for tick in y_ticks {
        let y = y_at(tick);
        _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            number(tick)
        );
    }
    // Epochs and rounds are whole.
    for tick in ticks(x_low, x_high, 8)
        .into_iter()
        .filter(|tick| tick.fract() == 0.0)
    {
        let x = x_at(tick);
        _ = write!(
            svg,
            "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - BOTTOM + 17.0,
            number(tick)
        );
    }
    _ = write!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 5.0,
        escaped(x_name)
    );
    for (place, series) in series.iter().enumerate() {
        let colour = COLOURS[place % COLOURS.len()];
        let width = if series.bold { 2.6 } else { 1.4 };
        let shown: Vec<(f64, f64)> = series
            .points
            .iter()
            .filter(|(x, y)| x.is_finite() && y.is_finite())
            .map(|&(x, y)| (x_at(x), y_at(y)))
            .collect();
        let path: Vec<String> = shown.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        _ = write!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" \
             stroke-linejoin=\"round\"/>",
            path.join(" ")
        );
        // A line through few points is seen by its points.
        if shown.len() <= 30 {
            for (x, y) in shown {
                _ = write!(
                    svg,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{:.1}\" fill=\"{colour}\"/>",
                    width + 1.0
                );
            }
        }
    }
    svg.push_str("</svg><p class=\"legend\">");
    for (place, series) in series.iter().enumerate() {
        let colour = COLOURS[place % COLOURS.len()];
        _ = write!(
            svg,
            "<span><i style=\"background:{colour}\"></i>{}</span>",
            escaped(&series.name)
        );
    }
    svg.push_str("</p></figure>");
    svg
}

/// A range that is not empty.
fn widened((low, high): (f64, f64), by: f64) -> (f64, f64) {
    if high > low {
        (low, high)
    } else {
        (low - by, high + by)
    }
}

/// About `count` round numbers between the two.
fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let rough = (high - low) / count.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= rough)
        .unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    (first..=last).map(|tick| tick as f64 * step).collect()
}

/// A number as an axis shows it.
fn number(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && size < 1e-3 {
        return format!("{value:.0e}");
    }
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let near = |found: Vec<f64>, expected: &[f64]| {
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-9, "{found} for {expected}");
            }
        };
        near(ticks(0.0, 1.0, 5), &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
        near(ticks(-0.31, 0.42, 5), &[-0.2, 0.0, 0.2, 0.4]);
        near(ticks(0.0, 999.0, 8), &[0.0, 200.0, 400.0, 600.0, 800.0]);
        assert_eq!(number(0.0001), "1e-4");
        assert_eq!(number(-0.00001), "-1e-5");
        assert_eq!(number(2.50), "2.5");
    }

    #[test]
    fn a_chart_shows_each_series_and_skips_what_is_no_number() {
        let series = [
            Series {
                name: "a & <b>".into(),
                points: vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0)],
                bold: true,
            },
            Series {
                name: "one".into(),
                points: vec![(1.0, 2.0)],
                bold: false,
            },
        ];
        let svg = lines("Loss", "epoch", &series);
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(svg.contains("a &amp; &lt;b&gt;") && !svg.contains("NaN"), "{svg}");
        assert!(lines("Loss", "epoch", &[]).is_empty());
    }
}
