//! How long beats took as time went by, with the burst marked: a panel each, in SVG.

use plotters::prelude::{ChartBuilder, Color, IntoLogRange, LineSeries, RGBColor, Rectangle};

use super::{
    Bursts,
    model::{Burst, Point},
};
use crate::{
    Result,
    picture::{Area, COLUMNS, FONT, sheet},
    table::duration,
};

const HEIGHT: u32 = 240;
/// From a tenth of a millisecond to ten seconds: the same for all, so that they can be compared.
const SPAN: (f64, f64) = (100.0, 1e7);
/// What beats may take.
const BAR: f64 = 50_000.0;
const MOST: RGBColor = RGBColor(0xd5, 0x5e, 0x00);
const HALF: RGBColor = RGBColor(0x00, 0x4d, 0x7a);
const MEANWHILE: RGBColor = RGBColor(0x9a, 0x9a, 0x9a);

/// All of them.
pub fn of(found: &Bursts) -> Result<String> {
    let rows = found.bursts.len().div_ceil(COLUMNS).max(1);
    sheet(HEIGHT * rows as u32, |area| {
        for (burst, area) in found.bursts.iter().zip(area.split_evenly((rows, COLUMNS))) {
            panel(&area, burst)?;
        }
        Ok(())
    })
}

fn panel(area: &Area<'_>, burst: &Burst) -> Result<()> {
    let (Some(first), Some(last)) = (burst.curve.first(), burst.curve.last()) else { return Ok(()) };
    let (left, right) = (first.at, last.at.max(first.at + 1.0));
    let mut builder = ChartBuilder::on(area);
    builder.caption(burst.name.title().0, (FONT, 13)).margin(8).x_label_area_size(34).y_label_area_size(56);
    let mut chart = builder.build_cartesian_2d(left..right, (SPAN.0..SPAN.1).log_scale())?;
    let (seconds, tell) = (|x: &f64| format!("{x:.0} s"), |y: &f64| duration(*y));
    let mut mesh = chart.configure_mesh();
    mesh.max_light_lines(0).x_labels(6).y_labels(6).x_label_formatter(&seconds).y_label_formatter(&tell);
    mesh.x_desc("since the burst began").label_style((FONT, 10)).draw()?;
    let meanwhile = [(0.0, SPAN.0), (burst.seconds.min(right), SPAN.1)];
    chart.draw_series([Rectangle::new(meanwhile, MEANWHILE.mix(0.2).filled())])?;
    chart.draw_series(LineSeries::new([(left, BAR), (right, BAR)], MEANWHILE.stroke_width(1)))?;
    let mut line = |colour: RGBColor, of: fn(&Point) -> f64| -> Result<()> {
        let points = burst.curve.iter().map(|point| (point.at, of(point).clamp(SPAN.0, SPAN.1)));
        chart.draw_series(LineSeries::new(points, colour.stroke_width(1)))?;
        Ok(())
    };
    line(MOST, |point| point.max)?;
    line(HALF, |point| point.p50)
}
