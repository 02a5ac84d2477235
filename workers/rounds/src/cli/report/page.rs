//! A report as one HTML page: its style and pictures are in it, and it needs no script.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    chart::{self, Series},
    content::{Curve, Report, Table},
    timeline,
};

const STYLE: &str = "
:root { color: #1f2933; background: #f4f5f7; font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', sans-serif; }
body { max-width: 1180px; margin: 0 auto; padding: 24px; }
h1 { font-size: 26px; margin: 0; }
h2 { font-size: 18px; margin: 0 0 12px; }
section { background: #fff; border: 1px solid #dfe3e8; border-radius: 8px; padding: 18px 20px; margin-top: 18px; }
.state { display: inline-block; padding: 1px 10px; border-radius: 10px; font-size: 14px; background: #dfe3e8; }
.finished { background: #c9ecd9; } .failed-state { background: #f8d0cb; } .running { background: #d3e5f7; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 18px; }
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; margin-bottom: 4px; }
svg { width: 100%; height: auto; display: block; }
svg text { font-size: 12px; fill: #52606d; }
.grid { stroke: #e4e7eb; } .lane { fill: #f4f5f7; } rect.failed { stroke: #b3261e; stroke-width: 2; }
.legend { margin: 6px 0 10px; font-size: 13px; display: flex; flex-wrap: wrap; gap: 4px 16px; }
.legend i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px; vertical-align: -1px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 12px 5px 0; border-bottom: 1px solid #e4e7eb; vertical-align: top; }
th { font-weight: 600; white-space: nowrap; } td.n, th.n { text-align: right; }
th:first-child { width: 17em; }
p { margin: 0; } .note { margin-top: 10px; } .note { color: #52606d; font-size: 14px; }
.pictures img { width: 100%; border-radius: 6px; display: block; }
@media print { body { padding: 0; } section { break-inside: avoid; border: 0; padding: 8px 0; } }
";

/// The page.
pub fn of(report: &Report) -> String {
    let mut page = format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{} - Rounds</title><style>{STYLE}</style></head><body>",
        escaped(&report.job)
    );
    let state = match report.state.as_str() {
        "failed" | "rejected" => "failed-state",
        other => other,
    };
    _ = write!(
        page,
        "<header><h1>{} <span class=\"state {state}\">{}</span></h1></header>",
        escaped(&report.job),
        escaped(&report.state)
    );
    for note in &report.notes {
        _ = write!(page, "<section><p>{}</p></section>", escaped(note));
    }
    section(&mut page, "Sites", &table(&report.sites));
    let charts: String = report.curves.iter().map(chart).collect();
    if !charts.is_empty() {
        section(
            &mut page,
            "Curves",
            &format!("<div class=\"charts\">{charts}</div>"),
        );
    }
    for scores in &report.scores {
        section(&mut page, &scores.title, &table(scores));
    }
    if !report.pictures.is_empty() {
        let mut pictures = String::from("<div class=\"charts pictures\">");
        for picture in &report.pictures {
            _ = write!(
                pictures,
                "<figure><figcaption>{}</figcaption><img alt=\"{}\" src=\"data:image/png;base64,{}\"></figure>",
                escaped(&picture.name),
                escaped(&picture.name),
                STANDARD.encode(&picture.png)
            );
        }
        pictures.push_str(
            "</div><p class=\"note\">Filled: what was segmented. Contour: the reference, where there is one.</p>",
        );
        section(&mut page, "Pictures", &pictures);
    }
    if let Some(plans) = &report.plans {
        section(&mut page, "Plans", &table(plans));
    }
    let drawn = timeline::draw(&report.bars);
    if !drawn.is_empty() {
        section(
            &mut page,
            "Who worked when",
            &format!("{drawn}{}", table(&report.timings)),
        );
    }
    if !report.failures.rows.is_empty() {
        section(&mut page, "What failed", &table(&report.failures));
    }
    section(&mut page, "The job's message", &table(&report.facts));
    page.push_str("</body></html>\n");
    page
}

fn section(page: &mut String, title: &str, content: &str) {
    _ = write!(page, "<section><h2>{}</h2>{content}</section>", escaped(title));
}

fn chart(curve: &Curve) -> String {
    let series: Vec<Series> = curve
        .lines
        .iter()
        .enumerate()
        .map(|(place, (name, points))| Series {
            name: name.clone(),
            points: points.clone(),
            bold: place == 0,
        })
        .collect();
    chart::lines(&curve.title, curve.x_name, &series)
}

fn table(table: &Table) -> String {
    let mut html = String::from("<div class=\"wide\"><table>");
    // Numbers are read downwards.
    let class = |place: usize| {
        if table.numbers && place > 0 {
            " class=\"n\""
        } else {
            ""
        }
    };
    if !table.head.is_empty() {
        html.push_str("<tr>");
        for (place, cell) in table.head.iter().enumerate() {
            _ = write!(html, "<th{}>{}</th>", class(place), escaped(cell));
        }
        html.push_str("</tr>");
    }
    for row in &table.rows {
        html.push_str("<tr>");
        for (place, cell) in row.iter().enumerate() {
            let kind = if place == 0 { "th" } else { "td" };
            _ = write!(html, "<{kind}{}>{}</{kind}>", class(place), escaped(cell));
        }
        html.push_str("</tr>");
    }
    html.push_str("</table></div>");
    if let Some(note) = &table.note {
        _ = write!(html, "<p class=\"note\">{}</p>", escaped(note));
    }
    html
}

/// Text in HTML.
pub fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            other => html.push(other),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_job_is_called_is_no_markup() {
        let report = Report {
            job: "<script>".into(),
            ..Report::default()
        };
        let page = of(&report);
        assert!(!page.contains("<script") && page.contains("&lt;script&gt;"));
        assert!(!page.contains("http"), "it opens without a network");
    }
}
