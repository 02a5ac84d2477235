//! Who worked when: a bar for each task, a row for each site, as SVG.

use std::fmt::Write as _;

use super::{chart::COLOURS, page::escaped};

/// One attempt at a task.
pub struct Bar {
    /// The site, or the orchestrator.
    pub site: String,
    /// The phase.
    pub phase: String,
    /// Seconds since 1970.
    pub start: u64,
    /// The same.
    pub end: u64,
    /// Whether it failed.
    pub failed: bool,
}

const WIDTH: f64 = 1140.0;
const LEFT: f64 = 130.0;
const ROW: f64 = 26.0;

/// The timeline; empty where nothing was done.
pub fn draw(bars: &[Bar]) -> String {
    let (Some(first), Some(last)) = (
        bars.iter().map(|bar| bar.start).min(),
        bars.iter().map(|bar| bar.end).max(),
    ) else {
        return String::new();
    };
    let span = (last - first).max(1) as f64;
    let at = |time: u64| LEFT + (time - first) as f64 / span * (WIDTH - LEFT - 10.0);
    let distinct = |of: fn(&Bar) -> &String| {
        let mut names: Vec<&String> = Vec::new();
        for bar in bars {
            if !names.contains(&of(bar)) {
                names.push(of(bar));
            }
        }
        names
    };
    let mut sites = distinct(|bar| &bar.site);
    sites.sort();
    let phases = distinct(|bar| &bar.phase);
    let colour = |phase: &String| {
        let place = phases.iter().position(|other| *other == phase).unwrap_or(0);
        COLOURS[(place + 1) % COLOURS.len()]
    };
    let height = ROW * sites.len() as f64 + 30.0;
    let mut svg =
        format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"Who worked when\">");
    for (row, site) in sites.iter().enumerate() {
        let y = row as f64 * ROW;
        _ = write!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect class=\"lane\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{}\" height=\"{}\"/>",
            LEFT - 8.0,
            y + 17.0,
            escaped(site),
            y + 3.0,
            WIDTH - LEFT - 10.0,
            ROW - 6.0
        );
        for bar in bars.iter().filter(|bar| bar.site == **site) {
            let (x, width) = (at(bar.start), (at(bar.end) - at(bar.start)).max(1.5));
            let failed = if bar.failed { " class=\"failed\"" } else { "" };
            _ = write!(
                svg,
                "<rect{failed} x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{}\" fill=\"{}\">\
                 <title>{}: {}, {}</title></rect>",
                y + 3.0,
                ROW - 6.0,
                colour(&bar.phase),
                escaped(site),
                escaped(&bar.phase),
                duration(bar.end - bar.start)
            );
        }
    }
    for part in 0..=4 {
        let seconds = span * f64::from(part) / 4.0;
        let x = LEFT + seconds / span * (WIDTH - LEFT - 10.0);
        let anchor = match part {
            0 => "start",
            4 => "end",
            _ => "middle",
        };
        _ = write!(
            svg,
            "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{}</text>",
            height - 10.0,
            duration(seconds as u64)
        );
    }
    svg.push_str("</svg><p class=\"legend\">");
    for phase in &phases {
        _ = write!(
            svg,
            "<span><i style=\"background:{}\"></i>{}</span>",
            colour(phase),
            escaped(phase)
        );
    }
    svg.push_str("</p>");
    svg
}

/// Seconds as people say them.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attempt_has_a_bar_in_its_sites_row() {
        let bar = |site: &str, start, end, failed| Bar {
            site: site.into(),
            phase: "train-round".into(),
            start,
            end,
            failed,
        };
        let svg = draw(&[
            bar("b", 100, 200, false),
            bar("a", 100, 100, true),
            bar("a", 100, 300, false),
        ]);
        assert_eq!(svg.matches("<title>").count(), 3);
        assert_eq!(svg.matches("class=\"failed\"").count(), 1);
        assert!(svg.contains("3 min 20 s"), "{svg}");
        assert!(draw(&[]).is_empty());
        assert_eq!(duration(7260), "2 h 1 min");
    }
}
