//! Bars as SVG: a dozen rectangles and lines of text, which no library need draw.

use std::fmt::Write;

/// One bar.
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) value: f64,
    /// Whether it is Velo's.
    pub(crate) ours: bool,
}

const LABELS: f64 = 270.0;
const BARS: f64 = 560.0;
const FIGURES: f64 = 90.0;
const LINE: f64 = 22.0;
const HEAD: f64 = 62.0;

/// Bars on a logarithmic scale, the smallest value first; nothing where there are none.
pub(crate) fn bars(title: &str, unit: &str, mut bars: Vec<Bar>) -> Option<String> {
    bars.retain(|bar| bar.value.is_finite() && bar.value > 0.0);
    bars.sort_by(|one, other| one.value.total_cmp(&other.value));
    let (least, most) = (bars.first()?.value, bars.last()?.value);
    // Whole powers of ten, so that a bar of the least value is still one.
    let low = least.log10().floor();
    let high = most.log10().ceil().max(low + 1.0);
    let x = |value: f64| LABELS + BARS * (value.log10() - low) / (high - low);
    let (width, height) = (LABELS + BARS + FIGURES, HEAD + LINE * bars.len() as f64 + 14.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"16\" fill=\"#1a1a1a\">{}</text>\n",
        escape(title)
    );
    for power in low as i32..=high as i32 {
        let at = x(10f64.powi(power));
        let _ = writeln!(
            out,
            "<line x1=\"{at:.1}\" y1=\"{:.1}\" x2=\"{at:.1}\" y2=\"{height}\" stroke=\"#d8d8d8\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"11\" fill=\"#666666\">{} {unit}</text>",
            HEAD - 6.0,
            HEAD - 10.0,
            figure(10f64.powi(power))
        );
    }
    for (line, bar) in bars.iter().enumerate() {
        let y = HEAD + LINE * line as f64;
        let (end, text) = (x(bar.value), y + 15.0);
        let fill = if bar.ours { "#1f6feb" } else { "#9aa4b2" };
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{text:.1}\" text-anchor=\"end\" fill=\"#1a1a1a\">{}</text>\
             <rect x=\"{LABELS}\" y=\"{:.1}\" width=\"{:.1}\" height=\"16\" fill=\"{fill}\"/>\
             <text x=\"{:.1}\" y=\"{text:.1}\" fill=\"#1a1a1a\">{}</text>",
            LABELS - 8.0,
            escape(&bar.label),
            y + 3.0,
            (end - LABELS).max(1.0),
            end + 6.0,
            figure(bar.value)
        );
    }
    out.push_str("</svg>\n");
    Some(out)
}

fn figure(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 1.0 => format!("{}", (v * 10.0).round() / 10.0),
        v => format!("{}", (v * 1000.0).round() / 1000.0),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
