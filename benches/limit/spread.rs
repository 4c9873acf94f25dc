//! Checks that are counted apart: a quota for each combination of two labels, asked for in no order.

use polarismesh::GetQuota;
use polarismesh_benches::harness::Table;
use polarismesh_benches::runtime::runtime;

use crate::bed::{Bed, Calls, Rows, by_handle, keyed, touch};
use crate::effort::Effort;
use crate::rules::{METHOD, Rule, Value, last_of};

const FEW: usize = 10;
const MANY: usize = 1_000;
/// So many GK at most.
const GOAL: f64 = 1.7;

const GK: &str = "GK, 1000 keys, passed";
const GK_FEW: &str = "GK, 10 keys, passed";
const GK_REFUSED: &str = "GK, 1000 keys, refused";
const ANY: &str = "by handle, 1 rule, both labels *, 1000 combinations, passed";
const ANY_FEW: &str = "by handle, 1 rule, both labels *, 10 combinations, passed";
const NAME: &str = "by name, 1 rule, both labels *, 1000 combinations, passed";
const REFUSED: &str = "by handle, 1 rule, both labels *, 1000 combinations, refused";
const NAME_REFUSED: &str = "by name, 1 rule, both labels *, 1000 combinations, refused";
const LIKE: &str = "by handle, 1 rule, both labels REGEX, 1000 combinations, passed";
const LIKE_FEW: &str = "by handle, 1 rule, both labels REGEX, 10 combinations, passed";
const THIRD: &str = "by handle, 3 rules, the third with both labels *, 1000 combinations, passed";

/// A rule that counts each combination apart.
pub fn any() -> Rule {
    Rule::of(Value::Any, Value::Any)
}

fn like() -> Rule {
    Rule::of(Value::Like("^user-[0-9]+$"), Value::Like("^east-[0-9]+$"))
}

pub fn measure(effort: &Effort, table: &mut Table) {
    let runtime = runtime();
    let bed = Bed::new(&runtime);
    let (few, many) = (Calls::new(FEW), Calls::new(MANY));
    let limiter = bed.fed().context().limiter();
    let service = |name: &str, rules: &[Rule], calls: &Calls| {
        let handle = bed.service(name, rules);
        touch(&handle, calls);
        handle
    };
    let any_few = service("any-few", &[any()], &few);
    let any_many = service("any", &[any()], &many);
    let refused = service("any-refused", &[any().at_most(1)], &many);
    let like_few = service("like-few", &[like()], &few);
    let like_many = service("like", &[like()], &many);
    let mut three = last_of(3);
    three[2] = any();
    let third = service("third", &three, &many);
    let (gk, gk_few, gk_refused) = (keyed(true, &many), keyed(true, &few), keyed(false, &many));

    let ask = |service: &'static str| GetQuota::new("default", service).method(METHOD).labels(many.labels());
    let mut rows = Rows::new();
    rows.add(GK, || gk.check_key(many.key()));
    rows.own(ANY, || by_handle(&any_many, many.labels()));
    rows.own(NAME, || limiter.check(&ask("any")));
    rows.own(LIKE, || by_handle(&like_many, many.labels()));
    rows.own(THIRD, || by_handle(&third, many.labels()));
    rows.add(GK_REFUSED, || gk_refused.check_key(many.key()));
    rows.own(REFUSED, || by_handle(&refused, many.labels()));
    rows.own(NAME_REFUSED, || limiter.check(&ask("any-refused")));
    rows.add(GK_FEW, || gk_few.check_key(few.key()));
    rows.own(ANY_FEW, || by_handle(&any_few, few.labels()));
    rows.own(LIKE_FEW, || by_handle(&like_few, few.labels()));
    let measured = rows.measure(effort);

    table.shown(GK, measured.text(GK), String::new());
    for name in [ANY, LIKE, NAME, THIRD] {
        let met = measured.ratio(name, GK) <= GOAL;
        table.goal(name, measured.text(name), measured.beside(name, GK), "no allocation, <= 1.7 GK", met);
    }
    table.shown(GK_REFUSED, measured.text(GK_REFUSED), measured.beside(GK_REFUSED, GK));
    for (name, passed) in [(REFUSED, ANY), (NAME_REFUSED, NAME)] {
        let met = measured.ratio(name, passed) <= 1.0;
        let beside = format!("{}; {}", measured.beside(name, passed), measured.beside(name, GK_REFUSED));
        table.goal(name, measured.text(name), beside, "no allocation, <= passed", met);
    }
    for (what, many, few) in
        [("GK", GK, GK_FEW), ("both labels *", ANY, ANY_FEW), ("both labels REGEX", LIKE, LIKE_FEW)]
    {
        let growth = format!("{:.2} x", measured.ratio(many, few));
        table.shown(&format!("{what}, t(1000) / t(10)"), growth, measured.text(few));
    }
    drop(rows);
    bed.end();
}
