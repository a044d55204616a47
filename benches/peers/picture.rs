//! What was found as pictures, in SVG: bars for each job, how long calls took on a logarithmic axis, and what things cost
//! as there are more of them.

use plotters::{
    coord::Shift,
    prelude::{
        ChartBuilder, Color, DrawingArea, IntoDrawingArea, IntoFont, IntoLogRange, LineSeries, PathElement, RGBColor,
        Rectangle, SVGBackend, SeriesLabelPosition, Text, WHITE,
    },
};

use crate::{
    Result,
    model::{Job, Middle, Run, Sample},
    scale::{Point, Scale},
    table::{duration, short},
};

/// What is drawn on.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// How text is written.
pub const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const WIDTH: u32 = 1_080;
/// Panels beside one another.
pub const COLUMNS: usize = 3;
/// Height of a bar with the space above it, and of what stands above the bars of a panel.
const BAR: u32 = 24;
const HEAD: u32 = 34;

/// One colour each, told apart also by those who see few: the registry's own is the darkest.
fn colour(peer: &str) -> RGBColor {
    match peer {
        "onair" => RGBColor(0x00, 0x4d, 0x7a),
        "tonic" => RGBColor(0x6b, 0xa4, 0xc9),
        "grpc-go" => RGBColor(0x9a, 0x9a, 0x9a),
        "etcd" => RGBColor(0xe6, 0x9f, 0x00),
        "Redis" => RGBColor(0xd5, 0x5e, 0x00),
        "ZooKeeper" => RGBColor(0x00, 0x9e, 0x73),
        "Consul" => RGBColor(0xcc, 0x79, 0xa7),
        _ => RGBColor(0xb0, 0xa0, 0x00),
    }
}

/// Draws on a white sheet of that height.
pub fn sheet(height: u32, draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE)?;
        draw(&area)?;
        area.present()?;
    }
    Ok(text)
}

/// Who did a job, in the order in which they are listed.
fn who(run: &Run, job: Job, pick: impl Fn(&Sample) -> Option<f64>) -> Vec<(&str, Middle)> {
    let middle = |peer: &'_ str| run.middle(peer, job, &pick);
    run.peers.iter().filter_map(|peer| Some((&peer.name[..], middle(&peer.name)?))).collect()
}

/// A row of panels, each as high as its bars.
struct Panel<'a> {
    title: String,
    unit: &'a str,
    bars: Vec<(&'a str, Middle)>,
}

/// The headline of each job.
pub fn headlines(run: &Run) -> Result<String> {
    panels(Job::ALL.into_iter().map(|job| {
        let headline = job.headline();
        let better = if headline.more_is_better { "more is better" } else { "less is better" };
        let title = format!("{} ({better})", job.title());
        Panel { title, unit: headline.unit, bars: who(run, job, headline.pick) }
    }))
}

/// The server's CPU time of each job.
pub fn cpu(run: &Run) -> Result<String> {
    let timed = |job: &Job| ![Job::Memory, Job::Expire, Job::Restart].contains(job);
    panels(Job::ALL.into_iter().filter(timed).map(|job| {
        let title = format!("{}: the server's CPU", job.title());
        Panel { title, unit: "µs", bars: who(run, job, |sample| sample.server_us) }
    }))
}

fn panels<'a>(panels: impl Iterator<Item = Panel<'a>>) -> Result<String> {
    let panels: Vec<_> = panels.filter(|panel| !panel.bars.is_empty()).collect();
    let rows: Vec<_> = panels.chunks(COLUMNS).collect();
    let heights = rows.iter().map(|row| HEAD + BAR * row.iter().map(|p| p.bars.len()).max().unwrap_or(0) as u32 + 16);
    let heights: Vec<_> = heights.collect();
    sheet(heights.iter().sum::<u32>() + 8, |area| {
        let mut top = 8;
        for (row, height) in rows.iter().zip(heights) {
            for (column, panel) in row.iter().enumerate() {
                let left = column as i32 * (WIDTH as i32 / COLUMNS as i32);
                bars(area, (left + 12, top as i32), panel)?;
            }
            top += height;
        }
        Ok(())
    })
}

/// Bars from nothing to the middle of the rounds, with a line from the lowest to the highest.
fn bars(area: &Area<'_>, (left, top): (i32, i32), panel: &Panel<'_>) -> Result<()> {
    const NAMES: i32 = 74;
    const LENGTH: f64 = 150.0;
    let most = panel.bars.iter().map(|(_, middle)| middle.max).fold(f64::MIN_POSITIVE, f64::max);
    area.draw(&Text::new(panel.title.clone(), (left, top), (FONT, 12).into_font().color(&INK)))?;
    for (index, (peer, middle)) in panel.bars.iter().enumerate() {
        let y = top + HEAD as i32 - 10 + index as i32 * BAR as i32;
        let x = |figure: f64| left + NAMES + (figure / most * LENGTH) as i32;
        area.draw(&Text::new((*peer).to_owned(), (left, y + 2), (FONT, 12).into_font().color(&INK)))?;
        let corners = [(x(0.0), y), (x(middle.median).max(x(0.0) + 1), y + 16)];
        area.draw(&Rectangle::new(corners, colour(peer).filled()))?;
        area.draw(&PathElement::new(vec![(x(middle.min), y + 8), (x(middle.max), y + 8)], INK.stroke_width(1)))?;
        let figure = format!("{} {}", short(middle.median), panel.unit);
        let beside = x(middle.max.max(middle.median)) + 6;
        area.draw(&Text::new(figure, (beside, y + 2), (FONT, 12).into_font().color(&INK)))?;
    }
    Ok(())
}

/// How long calls took: which share took no longer, on a logarithmic axis.
pub fn latencies(run: &Run) -> Result<String> {
    const HEIGHT: u32 = 260;
    let curve = |peer: &str, job| -> Vec<(f64, f64)> {
        let at = |share| run.middle(peer, job, |sample| sample.quantile(share)).map(|middle| middle.median);
        SHARES.iter().enumerate().filter_map(|(x, (share, _))| Some((x as f64, at(*share)?.max(1.0)))).collect()
    };
    let jobs = Job::ALL.into_iter().map(|job| {
        let curves = run.peers.iter().map(|peer| (&peer.name[..], curve(&peer.name, job)));
        (job, curves.filter(|(_, curve)| curve.len() > 1).collect::<Vec<_>>())
    });
    let jobs: Vec<_> = jobs.filter(|(_, curves)| !curves.is_empty()).collect();
    sheet(HEIGHT * jobs.len().div_ceil(COLUMNS) as u32, |area| {
        for ((job, curves), area) in jobs.iter().zip(area.split_evenly((jobs.len().div_ceil(COLUMNS), COLUMNS))) {
            let axes = Axes { title: job.title(), below: "share of calls" };
            let label = |x: &f64| SHARES.get(x.round() as usize).map_or(String::new(), |(_, name)| (*name).to_owned());
            let (lowest, highest) = span(curves.iter().flat_map(|(_, curve)| curve.iter().map(|(_, y)| *y)));
            let mut chart = builder(&area, &axes)
                .build_cartesian_2d(0.0..SHARES.len() as f64 - 1.0, (lowest..highest).log_scale())?;
            let mut mesh = chart.configure_mesh();
            mesh.max_light_lines(0)
                .y_labels(4)
                .x_labels(SHARES.len())
                .x_label_formatter(&label)
                .y_label_formatter(&|y| duration(*y));
            mesh.x_desc(axes.below).label_style((FONT, 10)).draw()?;
            for (peer, curve) in curves {
                let colour = colour(peer);
                chart
                    .draw_series(LineSeries::new(curve.iter().copied(), colour.stroke_width(2)))?
                    .label(*peer)
                    .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 14, y)], colour.stroke_width(2)));
            }
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::LowerRight)
                .label_font((FONT, 10))
                .background_style(WHITE.mix(0.8))
                .draw()?;
        }
        Ok(())
    })
}

/// Shares of all calls, and what they are called.
const SHARES: [(f64, &str); 5] = [(0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (1.0, "all")];

struct Axes<'a> {
    title: &'a str,
    below: &'a str,
}

fn builder<'a, 'b>(area: &'a Area<'b>, axes: &Axes<'_>) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder.caption(axes.title, (FONT, 13)).margin(8).x_label_area_size(34).y_label_area_size(56);
    builder
}

/// From the power of ten below the lowest to the one above the highest.
fn span(figures: impl Iterator<Item = f64>) -> (f64, f64) {
    let (lowest, highest) = figures.fold((f64::MAX, f64::MIN), |(low, high), y| (low.min(y), high.max(y)));
    (10f64.powf(lowest.log10().floor()), 10f64.powf(highest.log10().floor() + 1.0))
}

/// A line of a panel: what it is called, and its figure at each number.
type Line = (&'static str, Vec<(f64, f64)>);

/// A panel of `scale`.
struct Grown {
    title: &'static str,
    below: &'static str,
    tell: fn(f64) -> String,
    lines: Vec<Line>,
}

/// What things cost as there are more of them, on logarithmic axes: what does not grow is level.
pub fn scale(scale: &Scale) -> Result<String> {
    const HEIGHT: u32 = 280;
    fn line(points: &[Point], job: Job, name: &'static str, pick: fn(&Sample) -> Option<f64>) -> Line {
        let of_job = points.iter().filter(|point| point.sample.job == job);
        (name, of_job.filter_map(|point| Some((f64::from(point.at), pick(&point.sample)?.max(0.01)))).collect())
    }
    fn each(points: &[Point], jobs: &[Job], pick: fn(&Sample) -> Option<f64>) -> Vec<Line> {
        jobs.iter().map(|job| line(points, *job, job.name(), pick)).collect()
    }
    let (there, watchers) = (&scale.instances[..], &scale.watchers[..]);
    let calls = [Job::Register, Job::Renew, Job::RenewStream, Job::Lookup, Job::FanoutShared];
    let fans = [Job::Fanout, Job::FanoutShared];
    let (instances, watching) = ("instances that are there besides", "watchers");
    let kept = |job| each(there, &[job], |sample| sample.value);
    let panels = [
        Grown {
            title: "Server CPU each",
            below: instances,
            tell: duration,
            lines: each(there, &calls, |s| s.server_us),
        },
        Grown { title: "p99", below: instances, tell: duration, lines: each(there, &calls, |s| s.quantile(0.99)) },
        Grown { title: "Memory of an instance", below: instances, tell: bytes, lines: kept(Job::Memory) },
        Grown {
            title: "Restart to the first right answer",
            below: instances,
            tell: seconds,
            lines: kept(Job::Restart),
        },
        Grown {
            title: "Server CPU of a delivery",
            below: watching,
            tell: duration,
            lines: each(watchers, &fans, |s| s.server_us),
        },
        Grown {
            title: "p99 from a change to its watcher",
            below: watching,
            tell: duration,
            lines: each(watchers, &fans, |s| s.quantile(0.99)),
        },
    ];
    sheet(HEIGHT * panels.len().div_ceil(COLUMNS) as u32, |area| {
        for (panel, area) in panels.iter().zip(area.split_evenly((panels.len().div_ceil(COLUMNS), COLUMNS))) {
            grown(&area, panel)?;
        }
        Ok(())
    })
}

fn bytes(value: f64) -> String {
    format!("{} B", short(value))
}

fn seconds(value: f64) -> String {
    duration(value * 1e6)
}

fn grown(area: &Area<'_>, panel: &Grown) -> Result<()> {
    let points = || panel.lines.iter().flat_map(|(_, line)| line.iter().copied());
    if points().next().is_none() {
        return Ok(());
    }
    let (left, right) =
        (points().map(|(x, _)| x).fold(f64::MAX, f64::min), points().map(|(x, _)| x).fold(0.0, f64::max));
    let (lowest, highest) = span(points().map(|(_, y)| y));
    let axes = Axes { title: panel.title, below: panel.below };
    let mut chart = builder(area, &axes)
        .build_cartesian_2d((left..right.max(left * 10.0)).log_scale(), (lowest..highest).log_scale())?;
    let (count, tell) = (|x: &f64| short(*x), |y: &f64| (panel.tell)(*y));
    let mut mesh = chart.configure_mesh();
    mesh.max_light_lines(0).y_labels(4).x_labels(5).x_label_formatter(&count).y_label_formatter(&tell);
    mesh.x_desc(axes.below).label_style((FONT, 10)).draw()?;
    for ((name, line), peer) in panel.lines.iter().zip(["onair", "etcd", "ZooKeeper", "Consul", "Redis"]) {
        let colour = colour(peer);
        chart
            .draw_series(LineSeries::new(line.iter().copied(), colour.stroke_width(2)).point_size(3))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 14, y)], colour.stroke_width(2)));
    }
    let mut names = chart.configure_series_labels();
    names.position(SeriesLabelPosition::UpperLeft).label_font((FONT, 10)).background_style(WHITE.mix(0.8)).draw()?;
    Ok(())
}
