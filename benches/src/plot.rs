//! Two kinds of plot as SVG, by hand: a plotting crate would bring more code than this file and the rest together.

use std::fmt::Write;

use crate::statistics::Spread;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 120.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 44.0;
const COLORS: [&str; 6] = ["#0b6e4f", "#c8553d", "#3d5a80", "#8e7dbe", "#b08900", "#555555"];

/// One library: its name and a figure for each place on the horizontal axis.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<Option<Spread>>,
}

/// How figures are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Joined by lines.
    Lines,
    /// Side by side.
    Bars,
}

/// Figures above a logarithmic axis, each with the spread of its rounds.
pub(crate) fn plot(
    kind: Kind,
    title: &str,
    unit: &str,
    places: &[String],
    series: &[Series],
) -> Option<String> {
    let spreads = || series.iter().flat_map(|series| series.points.iter().flatten());
    let lowest = spreads().map(|spread| spread.low).filter(|low| *low > 0.0).reduce(f64::min)?;
    let highest = spreads().map(|spread| spread.high).reduce(f64::max)?;
    let scale = Scale::new(lowest, highest.max(lowest));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    text(&mut svg, LEFT, 20.0, "start", title);
    text(&mut svg, 8.0, TOP - 4.0, "start", unit);
    for power in scale.first..=scale.last {
        let value = 10_f64.powi(power);
        let y = scale.y(value);
        line(&mut svg, (LEFT, y), (WIDTH - RIGHT, y), "#ddd");
        text(&mut svg, LEFT - 6.0, y + 4.0, "end", &number(value));
    }
    let slot = (WIDTH - LEFT - RIGHT) / places.len() as f64;
    for (place, name) in places.iter().enumerate() {
        text(&mut svg, LEFT + slot * (place as f64 + 0.5), HEIGHT - BOTTOM + 18.0, "middle", name);
    }
    for (number, (one, color)) in series.iter().zip(COLORS.iter().cycle()).enumerate() {
        let offset = match kind {
            Kind::Lines => 0.5,
            Kind::Bars => (number as f64 + 1.0) / (series.len() as f64 + 1.0),
        };
        let x = |place: usize| LEFT + slot * (place as f64 + offset);
        draw(&mut svg, kind, one, color, x, slot / (series.len() as f64 + 2.0), &scale);
        let y = TOP + 16.0 * number as f64;
        rectangle(&mut svg, (WIDTH - RIGHT + 12.0, y), (10.0, 10.0), color);
        text(&mut svg, WIDTH - RIGHT + 28.0, y + 10.0, "start", &one.name);
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

fn draw(
    svg: &mut String,
    kind: Kind,
    series: &Series,
    color: &str,
    x: impl Fn(usize) -> f64,
    width: f64,
    scale: &Scale,
) {
    let mut before = None;
    for (place, spread) in series.points.iter().enumerate() {
        let Some(spread) = spread else { continue };
        let (x, y) = (x(place), scale.y(spread.median));
        match kind {
            Kind::Lines => {
                if let Some(before) = before {
                    line(svg, before, (x, y), color);
                }
                rectangle(svg, (x - 3.0, y - 3.0), (6.0, 6.0), color);
                before = Some((x, y));
            }
            Kind::Bars => {
                rectangle(svg, (x - width / 2.0, y), (width, HEIGHT - BOTTOM - y), color);
            }
        }
        line(svg, (x, scale.y(spread.low)), (x, scale.y(spread.high)), "#000");
        text(svg, x, y - 6.0, "middle", &number(spread.median));
    }
}

/// Powers of ten from below the lowest to above the highest figure.
struct Scale {
    first: i32,
    last: i32,
}

impl Scale {
    fn new(lowest: f64, highest: f64) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "a logarithm of a figure that was measured")]
        let power = |value: f64| value as i32;
        let first = power(lowest.log10().floor());
        Self { first, last: power(highest.log10().ceil()).max(first + 1) }
    }

    fn y(&self, value: f64) -> f64 {
        let share = (value.log10() - f64::from(self.first)) / f64::from(self.last - self.first);
        HEIGHT - BOTTOM - share.clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    }
}

fn number(value: f64) -> String {
    match value {
        1e6.. => format!("{:.1}M", value / 1e6),
        1e4.. => format!("{:.0}k", value / 1e3),
        10.0.. => format!("{value:.0}"),
        0.1.. => format!("{value:.1}"),
        _ => format!("{value}"),
    }
}

// Writing to a String cannot fail.
fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), color: &str) {
    let (x1, y1) = from;
    let (x2, y2) = to;
    let _ = writeln!(
        svg,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{color}\" stroke-width=\"1.5\"/>"
    );
}

fn rectangle(svg: &mut String, (x, y): (f64, f64), (width, height): (f64, f64), color: &str) {
    let _ = writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{color}\"/>"
    );
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, medians: &[f64]) -> Series {
        let spread = |median: &f64| Some(Spread { low: median * 0.9, median: *median, high: median * 1.1 });
        Series { name: name.to_owned(), points: medians.iter().map(spread).collect() }
    }

    #[test]
    fn higher_figures_are_drawn_higher() {
        let scale = Scale::new(90.0, 11_000.0);
        assert_eq!((scale.first, scale.last), (1, 5));
        assert!(scale.y(11_000.0) < scale.y(90.0));
        assert_eq!(scale.y(1e9), TOP);
    }

    #[test]
    fn every_figure_is_written_and_names_are_escaped() {
        let places = ["1".to_owned(), "8".to_owned()];
        for kind in [Kind::Lines, Kind::Bars] {
            let both = [series("a<b", &[100.0, 2500.0]), series("C", &[30.0, 300.0])];
            let svg = plot(kind, "t", "tx/s", &places, &both).unwrap();
            for part in ["a&lt;b", ">100<", ">2500<", ">300<", "</svg>"] {
                assert!(svg.contains(part), "{part} in {svg}");
            }
        }
    }

    #[test]
    fn nothing_gives_no_plot() {
        assert_eq!(plot(Kind::Bars, "t", "u", &[], &[]), None);
    }
}
