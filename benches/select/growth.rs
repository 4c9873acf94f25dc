//! What a pick costs, and how that grows with the number of instances.

use std::collections::HashMap;

use polarismesh_benches::harness::{Table, median, ratio, sampled, text};
use polarismesh_benches::row::Row;
use polarismesh_benches::runtime::runtime;

use crate::bed::{Bed, Way};
use crate::effort::Effort;

pub const LENGTHS: [usize; 5] = [10, 100, 1_000, 10_000, 100_000];

/// Picks that are looked at for allocations.
const LOOKED_AT: u32 = 10_000;

/// The number of backends of P.
const PINGORA_AT: usize = 100;

/// What the library itself is measured by.
const OWN: [Own; 7] = [
    Own { way: Way::Handle, floors: Some(1.5), pingoras: None },
    Own { way: Way::Name, floors: Some(3.0), pingoras: Some(0.5) },
    Own { way: Way::GetOne, floors: None, pingoras: None },
    Own { way: Way::HandleRouted, floors: Some(2.0), pingoras: None },
    Own { way: Way::NameRouted, floors: Some(3.0), pingoras: Some(0.5) },
    Own { way: Way::GetOneRouted, floors: None, pingoras: None },
    Own { way: Way::HandleRoutedWeb, floors: None, pingoras: None },
];

/// What it is compared with.
const OTHERS: [Way; 6] = [Way::Floor, Way::FloorRouted, Way::FloorCompact, Way::Pingora, Way::Chain, Way::ChainRouted];

/// At most so much of the cost at the shortest list.
pub const GROWTH: [(usize, f64); 2] = [(10_000, 1.3), (100_000, 2.0)];

/// A way of the library's, and what it is held to: at most so many F, and at N = 100 so many P.
struct Own {
    way: Way,
    floors: Option<f64>,
    pingoras: Option<f64>,
}

/// Samples of one run, all of them taken in turn.
pub struct Measured(HashMap<(Way, usize), Vec<f64>>);

impl Measured {
    fn of(&self, way: Way, instances: usize) -> &[f64] {
        &self.0[&(way, instances)]
    }

    /// The medians of this way by number of instances.
    pub fn curve(&self, way: Way) -> Vec<(usize, f64)> {
        let of_way = self.0.iter().filter(|((of, _), _)| *of == way);
        let mut points: Vec<_> = of_way.map(|((_, instances), samples)| (*instances, median(samples))).collect();
        points.sort_by_key(|(instances, _)| *instances);
        points
    }
}

pub fn measure(effort: &Effort, table: &mut Table) -> Measured {
    let runtime = runtime();
    let lengths = LENGTHS.iter().filter(|length| **length <= effort.most_instances);
    let beds: Vec<Bed> = lengths.map(|length| Bed::new(&runtime, *length)).collect();
    beds.iter().for_each(Bed::check);
    let ways = || OWN.iter().map(|own| own.way).chain(OTHERS);
    let rows: Vec<((Way, usize), Row<'_>)> =
        beds.iter().flat_map(|bed| ways().map(move |way| ((way, bed.instances(way)), bed.row(way)))).collect();
    let own = rows.iter().filter(|((way, _), _)| OWN.iter().any(|own| own.way == *way));
    let allocated = own.map(|(key, row)| (*key, row.allocations(LOOKED_AT))).collect();
    let mut cases: Vec<_> = rows.iter().map(|(_, row)| || row.sample()).collect();
    let samples = sampled(effort.rounds, &mut cases);
    let measured = Measured(rows.iter().map(|(key, _)| *key).zip(samples).collect());
    for bed in &beds {
        costs(&measured, bed.instances, &allocated, table);
        others(&measured, bed.instances, table);
    }
    growth(&measured, effort, table);
    drop(cases);
    drop(rows);
    beds.into_iter().for_each(|bed| bed.end(&runtime));
    measured
}

fn costs(measured: &Measured, instances: usize, allocated: &HashMap<(Way, usize), u64>, table: &mut Table) {
    for Own { way, floors, pingoras } in OWN {
        let (samples, floor) = (measured.of(way, instances), measured.of(way.floor(), instances));
        let allocated = allocated[&(way, instances)];
        let mut beside = format!("F {}, {:.2} F", text(median(floor)), ratio(samples, floor));
        let (mut goal, mut met) = ("no allocation".to_owned(), allocated == 0);
        if let Some(most) = floors {
            goal += &format!(", <= {most} F");
            met &= ratio(samples, floor) <= most;
        }
        if instances == PINGORA_AT {
            let pingora = measured.of(Way::Pingora, instances);
            let in_pingoras = ratio(samples, pingora);
            beside += &format!("; P {}, {in_pingoras:.2} P", text(median(pingora)));
            if let Some(most) = pingoras {
                goal += &format!(", <= {most} P");
                met &= in_pingoras <= most;
            }
        }
        let measured = format!("{}, {allocated} allocations in {LOOKED_AT}", text(median(samples)));
        table.goal(&format!("{}, N = {instances}", way.text()), measured, beside, &goal, met);
    }
}

fn others(measured: &Measured, instances: usize, table: &mut Table) {
    let mut shown = |way: Way, to: Way| {
        let (samples, to_samples) = (measured.of(way, instances), measured.of(to, instances));
        let times = ratio(samples, to_samples);
        let times = if times < 10.0 { format!("{times:.2}") } else { format!("{times:.0}") };
        let beside = format!("{} {}, {times} x", to.text(), text(median(to_samples)));
        table.shown(&format!("{}, N = {instances}", way.text()), text(median(samples)), beside);
    };
    shown(Way::FloorCompact, Way::Floor);
    shown(Way::Chain, Way::Handle);
    shown(Way::ChainRouted, Way::HandleRouted);
}

fn growth(measured: &Measured, effort: &Effort, table: &mut Table) {
    let first = LENGTHS[0];
    for (instances, most) in GROWTH.into_iter().filter(|(instances, _)| *instances <= effort.most_instances) {
        let of = |way| ratio(measured.of(way, instances), measured.of(way, first));
        for Own { way, .. } in OWN {
            let (own, floor) = (of(way), of(way.floor()));
            let figure = format!("{}, t({instances}) / t({first})", way.text());
            let beside = format!("F {floor:.2} x, {:.2} of F's", own / floor);
            table.goal(&figure, format!("{own:.2} x"), beside, &format!("<= {most}"), own <= most);
        }
    }
    for (instances, cost) in measured.curve(Way::Pingora) {
        table.shown(&format!("{}, N = {instances}", Way::Pingora.text()), text(cost), String::new());
    }
}
