//! Checks that are counted together: by three rules of method and two labels, by more and by fewer.

use polarismesh::GetQuota;
use polarismesh_benches::harness::Table;
use polarismesh_benches::runtime::runtime;

use crate::bed::{Bed, Rows, by_handle, counts, direct};
use crate::effort::Effort;
use crate::rules::{Call, METHOD, last_of};
use crate::steps::at_once;

/// Rules beside three, of which the last one holds.
const COUNTS: [usize; 3] = [1, 10, 100];
/// So many G at most.
const GOAL: f64 = 3.0;

const G: &str = "G, passed";
const G_REFUSED: &str = "G, refused";
const HANDLE: &str = "by handle, 3 rules, the third holds, passed";
const NAME: &str = "by name, 3 rules, the third holds, passed";
const FUTURE: &str = "get_quota, 3 rules, the third holds, passed";
const HANDLE_REFUSED: &str = "by handle, 3 rules, the third holds, refused";
const NAME_REFUSED: &str = "by name, 3 rules, the third holds, refused";
const HANDLE_ALL: &str = "by handle, 3 rules, all hold, passed";
const NAME_ALL: &str = "by name, 3 rules, all hold, passed";

fn many(count: usize) -> String {
    let rules = if count == 1 { "1 rule".to_owned() } else { format!("{count} rules") };
    format!("by handle, {rules}, the last holds, passed")
}

pub fn measure(effort: &Effort, table: &mut Table) {
    let runtime = runtime();
    let bed = Bed::new(&runtime);
    let labels = Call::one().collected();
    let limiter = bed.fed().context().limiter();

    let three = bed.service("three", &last_of(3));
    counts(&three, &labels, &[0, 0, 1], &[0, 0, 0]);
    let mut refusing = last_of(3);
    refusing[2] = refusing[2].clone().at_most(1);
    let refused = bed.service("refused", &refusing);
    drop(by_handle(&refused, &labels));
    counts(&refused, &labels, &[0, 0, 0], &[0, 0, 1]);
    let all = bed.service("all", &vec![last_of(1)[0].clone(); 3]);
    counts(&all, &labels, &[1, 1, 1], &[0, 0, 0]);
    let more = COUNTS.map(|count| bed.service(&format!("rules-{count}"), &last_of(count)));

    let (passes, refuses) = (direct(true), direct(false));
    drop(refuses.check());
    let ask = |service: &'static str| GetQuota::new("default", service).method(METHOD).labels(&labels);
    let mut rows = Rows::new();
    rows.add(G, || passes.check());
    rows.own(HANDLE, || by_handle(&three, &labels));
    rows.own(NAME, || limiter.check(&ask("three")));
    rows.own(FUTURE, || at_once(limiter.get_quota(ask("three"))));
    rows.own(HANDLE_ALL, || by_handle(&all, &labels));
    rows.own(NAME_ALL, || limiter.check(&ask("all")));
    rows.add(G_REFUSED, || refuses.check());
    rows.own(HANDLE_REFUSED, || by_handle(&refused, &labels));
    rows.own(NAME_REFUSED, || limiter.check(&ask("refused")));
    for (count, handle) in COUNTS.into_iter().zip(&more) {
        rows.own(&many(count), || by_handle(handle, &labels));
    }
    let measured = rows.measure(effort);

    table.shown(G, measured.text(G), String::new());
    for name in [HANDLE, NAME] {
        let met = measured.ratio(name, G) <= GOAL;
        table.goal(name, measured.text(name), measured.beside(name, G), "no allocation, <= 3.0 G", met);
    }
    for name in [FUTURE, HANDLE_ALL, NAME_ALL].map(str::to_owned).into_iter().chain(COUNTS.map(many)) {
        table.goal(&name, measured.text(&name), measured.beside(&name, G), "no allocation", true);
    }
    table.shown(G_REFUSED, measured.text(G_REFUSED), measured.beside(G_REFUSED, G));
    for (name, passed) in [(HANDLE_REFUSED, HANDLE), (NAME_REFUSED, NAME)] {
        let met = measured.ratio(name, passed) <= 1.0;
        let beside = format!("{}; {}", measured.beside(name, passed), measured.beside(name, G_REFUSED));
        table.goal(name, measured.text(name), beside, "no allocation, <= passed", met);
    }
    let growth = measured.ratio(&many(100), HANDLE);
    table.shown("by handle, t(100 rules) / t(3 rules)", format!("{growth:.2} x"), String::new());
    drop(rows);
    bed.end();
}
