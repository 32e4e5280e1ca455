//! A chart of some lines: SVG by `plotters`, with its key above it, where it covers nothing.

use std::fmt::Write as _;
use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::prelude::*;

use super::page::escaped;
use crate::Error;

const COLOURS: [RGBColor; 4] = [
    RGBColor(0x1f, 0x5f, 0x8b),
    RGBColor(0xc0, 0x5a, 0x1e),
    RGBColor(0x3c, 0x7d, 0x3c),
    RGBColor(0x7a, 0x7a, 0x7a),
];

/// So small that its text can still be read on a phone, to whose width it is scaled.
const SIZE: (u32, u32) = (640, 330);
const TEXT: (&str, u32) = ("sans-serif", 14);

/// Lines of points; an axis may be logarithmic.
pub struct Chart<'a> {
    pub x: &'a str,
    pub y: &'a str,
    pub log: [bool; 2],
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}

/// What an axis shows, and where it has numbers: both as places on it, which of a logarithmic one are powers of ten.
#[derive(Clone, Debug, PartialEq)]
struct Axis {
    span: Range<f64>,
    ticks: Vec<f64>,
}

/// 12345 as `12 k`, 0.25 as it is.
pub fn short(value: f64) -> String {
    let (value, unit) = match value {
        value if value >= 1e6 => (value / 1e6, " M"),
        value if value >= 1e3 => (value / 1e3, " k"),
        value => (value, ""),
    };
    let digits = if value >= 10.0 || value == 0.0 { 0 } else { 1 };
    let digits = if value > 0.0 && value < 1.0 { 2 } else { digits };
    let text = format!("{value:.digits$}");
    let text = if digits > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// 1, 2 or 5 times a power of ten, at least as much.
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let times = [1.0, 2.0, 5.0].into_iter().find(|times| times * power >= value * 0.999);
    times.unwrap_or(10.0) * power
}

impl Axis {
    fn linear(low: f64, high: f64) -> Axis {
        let step = round_up((high - low).max(1e-9) / 6.0);
        let margin = (high - low) * 0.03;
        // Amounts begin at zero.
        let span = if low == 0.0 { 0.0 } else { low - margin }..high + margin.max(step / 20.0);
        let first = (span.start / step).ceil() as i64;
        let ticks = (first..).map(|number| number as f64 * step).take_while(|tick| *tick <= span.end);
        Axis { ticks: ticks.collect(), span }
    }

    fn logarithmic(low: f64, high: f64) -> Axis {
        let (low, high) = (low.max(1e-3).log10(), high.max(1e-3).log10());
        let margin = ((high - low) * 0.04).max(0.02);
        let span = low - margin..high + margin;
        let times: &[f64] = if high - low < 2.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let powers = low.floor() as i32 - 1..=high.ceil() as i32;
        let all = powers.flat_map(|power| times.iter().map(move |times| times.log10() + f64::from(power)));
        let ticks = all.filter(|tick| span.contains(tick));
        Axis { ticks: ticks.collect(), span }
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, (first, last): (i32, i32)) -> i32 {
        let part = (place - self.span.start) / (self.span.end - self.span.start);
        first + (f64::from(last - first) * part).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.span.clone()
    }
}

impl Chart<'_> {
    fn place(&self, axis: usize, value: f64) -> f64 {
        if self.log[axis] { value.max(1e-3).log10() } else { value }
    }

    fn label(&self, axis: usize, place: f64) -> String {
        short(if self.log[axis] { 10f64.powf(place) } else { place })
    }

    fn axis(&self, axis: usize) -> Axis {
        let values = self.lines.iter().flat_map(|(_, points)| points);
        let values = values.map(|&(x, y)| if axis == 0 { x } else { y });
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), at| (low.min(at), high.max(at)));
        match (low <= high, self.log[axis]) {
            (false, _) => Axis::linear(0.0, 1.0),
            (true, true) => Axis::logarithmic(low, high),
            (true, false) => Axis::linear(if axis == 1 { 0.0 } else { low }, high),
        }
    }

    /// As HTML.
    pub fn figure(&self) -> Result<String, Error> {
        let mut html = "<figure><p class=key>".to_owned();
        for ((name, _), colour) in self.lines.iter().zip(COLOURS) {
            let RGBColor(red, green, blue) = colour;
            let colour = format!("#{red:02x}{green:02x}{blue:02x}");
            write!(html, "<span><i style=\"background:{colour}\"></i>{}</span> ", escaped(name))?;
        }
        html.push_str("</p>");
        html.push_str(&self.svg()?);
        html.push_str("</figure>");
        Ok(html)
    }

    fn svg(&self) -> Result<String, Error> {
        let mut svg = String::new();
        {
            let [x, y] = [0, 1].map(|axis| self.axis(axis));
            let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            root.fill(&WHITE)?;
            let mut chart = ChartBuilder::on(&root)
                .margin(8)
                .margin_right(16)
                .x_label_area_size(46)
                .y_label_area_size(64)
                .build_cartesian_2d(x, y)?;
            chart
                .configure_mesh()
                .x_desc(self.x)
                .y_desc(self.y)
                .light_line_style(TRANSPARENT)
                .bold_line_style(RGBColor(0xe4, 0xe4, 0xe4))
                .label_style(TEXT)
                .axis_desc_style(TEXT)
                .x_label_formatter(&|place| self.label(0, *place))
                .y_label_formatter(&|place| self.label(1, *place))
                .draw()?;
            // Each narrower than the one below it: those that lie on each other are all seen.
            let widths = (2..2 + self.lines.len() as u32).rev();
            for (((_, points), colour), width) in self.lines.iter().zip(COLOURS).zip(widths) {
                let points: Vec<_> =
                    points.iter().map(|&(x, y)| (self.place(0, x), self.place(1, y))).collect();
                chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(width)))?;
                if points.len() <= 20 {
                    chart.draw_series(
                        points.into_iter().map(|at| Circle::new(at, width + 1, colour.filled())),
                    )?;
                }
            }
            root.present()?;
        }
        // It has a size of its own, and none to scale from.
        let size = format!("width=\"{}\" height=\"{}\" ", SIZE.0, SIZE.1);
        Ok(svg.replacen(&size, "", 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let numbers = [0.0, 0.05, 0.5, 1.0, 2.5, 12.4, 1_000.0, 12_345.0, 5_500_000.0];
        let texts = ["0", "0.05", "0.5", "1", "2.5", "12", "1 k", "12 k", "5.5 M"];
        assert_eq!(numbers.map(short), texts);
    }

    #[test]
    fn axes_have_round_numbers_and_room_for_all_points() {
        let linear = Axis::linear(0.0, 12_128.0);
        assert_eq!(linear.ticks, [0.0, 5_000.0, 10_000.0]);
        let logarithmic = Axis::logarithmic(0.5, 10.0);
        let numbers: Vec<String> = logarithmic.ticks.iter().map(|tick| short(10f64.powf(*tick))).collect();
        assert_eq!(numbers, ["0.5", "1", "2", "5", "10"]);
        assert!(logarithmic.span.contains(&1.0) && logarithmic.span.contains(&0.5f64.log10()));
        let wide = Axis::logarithmic(3.0, 30_000.0);
        assert_eq!(wide.ticks, [1.0, 2.0, 3.0, 4.0]);
    }
}
