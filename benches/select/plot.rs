//! The cost of a pick against the number of instances, drawn.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

/// One line of the plot.
pub struct Curve {
    pub name: &'static str,
    /// Numbers of instances, and seconds.
    pub points: Vec<(usize, f64)>,
    pub color: RGBColor,
}

/// Told apart by people who see few colours, too.
pub const COLORS: [RGBColor; 5] =
    [RGBColor(0, 0, 0), RGBColor(0, 114, 178), RGBColor(0, 158, 115), RGBColor(204, 121, 167), RGBColor(213, 94, 0)];

/// Writes the plot as SVG, both axes logarithmic.
pub fn draw(path: &Path, curves: &[Curve]) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(path, (960, 600)).into_drawing_area();
    root.fill(&WHITE)?;
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let least = points().map(|(_, cost)| *cost).fold(f64::INFINITY, f64::min) / 2.0;
    let most = points().map(|(_, cost)| *cost).fold(0.0, f64::max) * 2.0;
    let widest = points().map(|(instances, _)| *instances).max().unwrap_or(10) as f64;
    let mut chart = ChartBuilder::on(&root)
        .caption("Cost of one pick by number of instances", ("sans-serif", 22))
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(80)
        .build_cartesian_2d((8.0..widest * 1.25).log_scale(), (least..most).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("instances")
        .y_desc("CPU of the calling thread")
        .x_label_formatter(&|instances| thousands(instances.round() as usize))
        .y_label_formatter(&|seconds| unit(*seconds))
        .label_style(("sans-serif", 14))
        .bold_line_style(RGBColor(225, 225, 225))
        .light_line_style(WHITE)
        .draw()?;
    for Curve { name, points, color } in curves {
        let points = || points.iter().map(|(instances, cost)| (*instances as f64, *cost));
        chart
            .draw_series(LineSeries::new(points(), color.stroke_width(2)))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2)));
        chart.draw_series(points().map(|point| Circle::new(point, 3, color.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.9))
        .border_style(RGBColor(200, 200, 200))
        .label_font(("sans-serif", 14))
        .draw()?;
    root.present()?;
    Ok(())
}

/// A power of ten of seconds in its unit.
fn unit(seconds: f64) -> String {
    match seconds {
        0.99.. => format!("{:.0} s", seconds),
        0.99e-3.. => format!("{:.0} ms", seconds * 1e3),
        0.99e-6.. => format!("{:.0} us", seconds * 1e6),
        _ => format!("{:.0} ns", seconds * 1e9),
    }
}

fn thousands(number: usize) -> String {
    if number < 1_000 { number.to_string() } else { format!("{},{:03}", number / 1_000, number % 1_000) }
}
