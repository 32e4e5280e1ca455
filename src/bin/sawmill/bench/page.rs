//! The report as one HTML page that needs nothing else.

use std::fmt::Write as _;

use super::chart::{Chart, short};
use super::floods::{Floods, Part};
use super::overload::{Overload, Point, Server};
use super::report::Report;
use super::sweep::Sweep;
use crate::Error;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#222}\
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}figure{margin:1.2rem 0}svg{width:100%;height:auto;display:block}\
.key{margin:0 0 .2rem}.key span{display:inline-block;margin-right:1.2rem}\
.key i{display:inline-block;width:1.2rem;height:.2rem;margin-right:.4rem;vertical-align:middle}.wide{overflow-x:auto}\
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #ddd}th:first-child,td:first-child{text-align:left}\
.bar{background:#e8edf1;height:.7rem;position:relative}.bar i{display:block;background:#1f5f8b;height:100%}\
p.how{color:#555}pre{overflow-x:auto;font-size:.75rem}code{background:#f3f3f3;padding:0 .2em}";

pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The whole page.
pub fn page(report: &Report, sweep: &Sweep, overload: &Overload) -> Result<String, Error> {
    let mut html = String::new();
    write!(
        html,
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>sawmill bench</title><style>{STYLE}</style><h1>sawmill bench</h1><p>{}</p>",
        escaped(&report.about())
    )?;
    ratios(&mut html, report)?;
    in_flight(&mut html, sweep)?;
    under_load(&mut html, sweep)?;
    series(&mut html, sweep)?;
    overloaded(&mut html, overload)?;
    writeln!(
        html,
        "<h2>All figures</h2><pre>{}</pre></html>",
        escaped(&format!("{}\n{overload}", report.table()))
    )?;
    Ok(html)
}

fn ratios(html: &mut String, report: &Report) -> Result<(), Error> {
    html.push_str(
        "<h2>Against what the machine can do without a log</h2><p class=how>Each kind of caller is held against the most \
         that such callers can reach, in the same run. <i>bare writes</i>: device bytes a second, to bare io_uring writes \
         of the same block size. <i>hand-over</i>: records a second, to as many threads that hand records over to one that \
         writes. <i>bare p50&darr;</i>: the median latency, to that of a bare <code>pwritev2</code>; lower is better. \
         Medians.</p><div class=wide><table><tr><th>load<th>records/s<th>ratio<th>to<th style=\"width:40%\">",
    );
    for row in report.ratios() {
        let width = (row.to_ceiling * 100.0).clamp(0.0, 100.0);
        write!(
            html,
            "<tr><td>{}<td>{}<td>{:.2}<td>{}<td><div class=bar><i style=\"width:{width:.0}%\"></i></div>",
            escaped(row.name),
            short(row.per_second),
            row.to_ceiling,
            row.ceiling,
        )?;
    }
    html.push_str("</table></div>");
    Ok(())
}

fn in_flight(html: &mut String, sweep: &Sweep) -> Result<(), Error> {
    let line = |blocking: bool| {
        let points = sweep.in_flight.iter().filter(|point| point.blocking_threads == blocking);
        points.map(|point| (point.in_flight as f64, point.per_second)).collect()
    };
    let chart = Chart {
        x: "records in flight",
        y: "durable records/s",
        log: [true, true],
        lines: vec![
            ("one thread with a window".to_owned(), line(false)),
            ("blocking threads, one record each".to_owned(), line(true)),
        ],
    };
    write!(
        html,
        "<h2>Throughput against records in flight</h2><p class=how>Each record counts once it is durable. Both axes are \
         logarithmic.</p>{}",
        chart.figure()?
    )?;
    Ok(())
}

fn under_load(html: &mut String, sweep: &Sweep) -> Result<(), Error> {
    let line = |name: &str, quantile: f64| {
        let points = sweep.under_load.iter();
        let points = points.map(|point| {
            (f64::from(point.percent), point.latencies.value_at_quantile(quantile) as f64 / 1e3)
        });
        (name.to_owned(), points.collect())
    };
    let bare =
        sweep.under_load.iter().map(|point| (f64::from(point.percent), point.bare_rest.as_secs_f64() * 1e6));
    let chart = Chart {
        x: "offered, percent of the peak",
        y: "us until durable",
        log: [false, true],
        lines: vec![
            line("p50", 0.5),
            line("p99", 0.99),
            line("p99.9", 0.999),
            ("p99 of the wait for a bare write".to_owned(), bare.collect()),
        ],
    };
    write!(
        html,
        "<h2>Latency under load</h2><p class=how>An open loop: records come when they are due, whatever became of those \
         before, and their latency counts from then. The bare writes show what the machine itself stalls.</p>{}<div class=wide><table>\
         <tr><th>load<th>offered/s<th>p50 us<th>p99 us<th>p99.9 us<th>p99 / p50<th>load late p99 us<th>bare wait p99 us",
        chart.figure()?
    )?;
    for point in &sweep.under_load {
        let at = |quantile| point.latencies.value_at_quantile(quantile) as f64 / 1e3;
        write!(
            html,
            "<tr><td>{} %<td>{}<td>{:.0}<td>{:.0}<td>{:.0}<td>{:.1}<td>{:.0}<td>{:.0}",
            point.percent,
            short(point.offered),
            at(0.5),
            at(0.99),
            at(0.999),
            point.spread(),
            point.lateness.value_at_quantile(0.99) as f64 / 1e3,
            point.bare_rest.as_secs_f64() * 1e6,
        )?;
    }
    html.push_str("</table></div>");
    Ok(())
}

fn series(html: &mut String, sweep: &Sweep) -> Result<(), Error> {
    let line = |value: fn(&super::sweep::Slice) -> f64| {
        sweep.series.iter().map(|slice| (slice.at, value(slice))).collect::<Vec<_>>()
    };
    let throughput = Chart {
        x: "seconds",
        y: "durable records/s",
        log: [false, false],
        lines: vec![("1,024 in flight".to_owned(), line(|slice| slice.per_second))],
    };
    let latency = Chart {
        x: "seconds",
        y: "us until durable",
        log: [false, true],
        lines: vec![
            ("p50".to_owned(), line(|slice| slice.p50_us)),
            ("p99".to_owned(), line(|slice| slice.p99_us)),
        ],
    };
    write!(
        html,
        "<h2>Over time</h2><p class=how>Sustained ingest with 1,024 records in flight and retention on, by tenths of a \
         second.</p>{}{}",
        throughput.figure()?,
        latency.figure()?
    )?;
    Ok(())
}

fn overloaded(html: &mut String, overload: &Overload) -> Result<(), Error> {
    let of = |server: Server| overload.points.iter().filter(move |point| point.server == server);
    let servers = [Server::Refusing, Server::Queueing, Server::Blocking];
    let goodput = |server: Server| {
        (server.name().to_owned(), of(server).map(|point| (point.times, point.goodput)).collect())
    };
    let delay = |name: &str, server: Server, of_point: fn(&Point) -> f64| {
        // Where nothing became durable in time there is no delay to show.
        let points =
            of(server).map(|point| (point.times, of_point(point) * 1e3)).filter(|point| point.1 > 0.0);
        (name.to_owned(), points.collect())
    };
    let chart =
        |y, lines| Chart { x: "offered, times what the log can take", y, log: [true, y != "goodput"], lines };
    let priorities = vec![
        delay("high, refusing", Server::Refusing, |point| point.p99[0].as_secs_f64()),
        delay("normal, refusing", Server::Refusing, |point| point.p99[1].as_secs_f64()),
        delay("low, refusing", Server::Refusing, |point| point.p99[2].as_secs_f64()),
        delay("high, an unbounded queue", Server::Queueing, |point| point.p99[0].as_secs_f64()),
    ];
    let over_time = |index: usize| {
        let points = overload.spike.iter().map(|slice| (slice.at, slice.p99[index].as_secs_f64() * 1e3));
        points.collect::<Vec<_>>()
    };
    let spike = Chart {
        x: "seconds; ten times as much from 2 to 3",
        y: "p99, ms until durable",
        log: [false, true],
        lines: vec![("high".to_owned(), over_time(0)), ("all that were accepted".to_owned(), over_time(1))],
    };
    let accepted = Chart {
        x: "seconds; ten times as much from 2 to 3",
        y: "records/s accepted",
        log: [false, false],
        lines: vec![(
            "accepted".to_owned(),
            overload.spike.iter().map(|slice| (slice.at, slice.accepted)).collect(),
        )],
    };
    write!(
        html,
        "<h2>More than the log can take</h2><p class=how>An open loop at a multiple of the closed loop's peak: a tenth of \
         the peak is of high priority, three tenths are of normal, all else is of low. Goodput is what became durable, of \
         the peak. Beside a server that refuses stand one with a queue that has no bound, and one whose callers wait.</p>\
         {}{}<h2>A spike</h2><p class=how>Ten times as much for a second.</p>{}{}",
        chart("goodput", servers.map(goodput).to_vec()).figure()?,
        chart("p99, ms until durable", priorities).figure()?,
        spike.figure()?,
        accepted.figure()?,
    )?;
    flooded(html, &overload.floods)
}

fn flooded(html: &mut String, floods: &Floods) -> Result<(), Error> {
    let line = |name: &str, of: fn(&Part) -> f64| {
        let points = floods.parts.iter().map(|part| (part.at, of(part)));
        (name.to_owned(), points.collect())
    };
    let tenants = Chart {
        x: "seconds; from 2 on the one sends ten times its share",
        y: "accepted, parts of a share",
        log: [false, false],
        lines: vec![
            line("the eight others, mean", |part| part.others),
            line("the least of them", |part| part.least),
            line("the one that floods", |part| part.flooding),
        ],
    };
    write!(
        html,
        "<h2>One tenant floods</h2><p class=how>Nine tenants, each of which may have a ninth of the closed loop's peak. \
         Eight send that, and one sends ten times as much.</p>{}<h2>Callers that do not heed</h2><p class=how>Eight \
         threads offer all that they can. Those that heed sleep for <code>retry_after</code> when they are refused; those \
         that hammer try again at once. Times are the log's own, by <code>stats()</code>: queued is until a record goes to \
         the device.</p><div class=wide><table><tr><th>callers<th>records/s<th>tries/s<th>queued p50 ms<th>p99 ms\
         <th>durable p50 ms<th>p99 ms<th>p99.9 ms",
        tenants.figure()?
    )?;
    for callers in &floods.callers {
        write!(html, "<tr><td>{}<td>{}<td>{}", callers.name(), short(callers.goodput), short(callers.tries))?;
        for (latency, quantiles) in
            [(&callers.queueing, [0.5, 0.99].as_slice()), (&callers.commit, &[0.5, 0.99, 0.999])]
        {
            for &quantile in quantiles {
                write!(html, "<td>{:.1}", latency.quantile(quantile).as_secs_f64() * 1e3)?;
            }
        }
    }
    html.push_str("</table></div>");
    Ok(())
}
